//! Which items belong to which slice (<https://hl7.org/fhir/R4/profiling.html#slicing>).

use super::binding;
use super::compile::{Binding, CORE, Discriminator, DiscriminatorKind, Openness, Profile, Rule, Slicing, Step, Strength};
use super::profile::{Check, Item};
use super::profiles::Loaded;
use super::report::Path;
use super::scope::Verdict;
use super::values::{matches, same};
use crate::fhir::IssueCode;
use crate::fhirpath::Node;
use serde_json::Value;

/// Rules through which a discriminator's path may lead.
const MAX_HOPS: usize = 64;

/// What a slice has at the end of a discriminator's path.
enum Wanted<'p> {
    Exactly(&'p Value),
    Pattern(&'p Value),
    Codes(&'p Binding),
    Text(&'p str),
}

/// A rule, and the profile in whose arena its ids mean something.
#[derive(Clone, Copy)]
struct Spot<'p> {
    profile: &'p Profile,
    rule: &'p Rule,
}

impl<'a> Check<'a, '_> {
    /// Gives each item to the first slice that takes it, and holds each slice against what it got.
    pub(super) fn slices(&mut self, rule: &'a Rule, items: &[Item<'a>], path: &Path) {
        let Some(slicing) = &rule.slicing else {
            return self.unsure(path, "slices".into(), "no discriminator says how to tell them apart");
        };
        let slices: Vec<&'a Rule> = rule.slices.iter().map(|id| self.profile.rule(*id)).collect();
        let mut members: Vec<Vec<Item<'a>>> = slices.iter().map(|_| Vec::new()).collect();
        let (mut last, mut unmatched, mut unsure) = (0, false, None);
        for item in items {
            let mut taken = None;
            for (at, slice) in slices.iter().enumerate() {
                match self.belongs(slicing, slice, item) {
                    Verdict::Holds => {
                        taken = Some(at);
                        break;
                    }
                    Verdict::Fails => {}
                    Verdict::Unknown(why) => unsure = Some(why),
                }
            }
            let item_path = item.at.map(|at| path.item(at));
            let here = item_path.as_ref().unwrap_or(path);
            match taken {
                Some(at) => {
                    if slicing.ordered && at < last {
                        self.say(IssueCode::Structure, here, || "must stand before the items of later slices".into());
                    }
                    if slicing.rules == Openness::OpenAtEnd && unmatched {
                        self.say(IssueCode::Structure, here, || "must stand before the items that belong to no slice".into());
                    }
                    last = last.max(at);
                    if let Some(members) = members.get_mut(at) {
                        members.push(*item);
                    }
                }
                None => {
                    unmatched = true;
                    if slicing.rules == Openness::Closed && unsure.is_none() {
                        let names: Vec<&str> = slices.iter().filter_map(|slice| slice.slice.as_deref()).collect();
                        self.say(IssueCode::Structure, here, || format!("must belong to one of the slices {}", names.join(", ")));
                    }
                }
            }
        }
        if let Some(why) = unsure {
            // Counting would blame slices for items that nobody could assign.
            self.unsure(path, "which item belongs to which slice".into(), &why);
            for (slice, members) in slices.iter().zip(&members).filter(|(_, members)| !members.is_empty()) {
                self.group(slice, members, path);
            }
            return;
        }
        for (slice, members) in slices.iter().zip(&members) {
            self.group(slice, members, path);
        }
    }

    fn belongs(&self, slicing: &Slicing, slice: &'a Rule, item: &Item<'a>) -> Verdict {
        let spot = Spot { profile: self.profile, rule: slice };
        let (mut told, mut unknown) = (false, None);
        for discriminator in &slicing.discriminators {
            match self.discriminate(discriminator, spot, item) {
                Some(Verdict::Holds) => told = true,
                Some(Verdict::Fails) => return Verdict::Fails,
                Some(Verdict::Unknown(why)) => unknown = Some(why),
                None => {}
            }
        }
        match (unknown, told) {
            (Some(why), _) => Verdict::Unknown(why),
            (None, true) => Verdict::Holds,
            (None, false) => {
                Verdict::Unknown(format!("slice {} has nothing at its discriminator's path", slice.slice.as_deref().unwrap_or_default()))
            }
        }
    }

    /// `None` when the slice says nothing at this discriminator's path.
    fn discriminate(&self, discriminator: &Discriminator, slice: Spot<'a>, item: &Item<'a>) -> Option<Verdict> {
        let path = match &discriminator.path {
            Ok(path) => path,
            Err(why) => return Some(Verdict::Unknown(why.clone())),
        };
        let found = |judge: &dyn Fn(&[Node<'_>]) -> Option<bool>| {
            let mut undecided = false;
            let verdict = self.scope.evaluate(item.node(), |node, env| {
                let answer = judge(&path.evaluate_on(node, env)?);
                undecided = answer.is_none();
                Ok(answer == Some(true))
            });
            if undecided && verdict == Verdict::Fails {
                Verdict::Unknown("a value set or profile that tells slices apart is not loaded".into())
            } else {
                verdict
            }
        };
        let profiles = self.scope.world.profiles;
        match discriminator.kind {
            DiscriminatorKind::Value => {
                let mut wanted = Vec::new();
                collect(profiles, slice, &discriminator.steps, &mut wanted, MAX_HOPS);
                if wanted.is_empty() {
                    return None;
                }
                Some(found(&|nodes| {
                    let mut all = Some(true);
                    for wanted in &wanted {
                        match self.meets(wanted, nodes) {
                            Some(true) => {}
                            Some(false) => return Some(false),
                            None => all = None,
                        }
                    }
                    all
                }))
            }
            DiscriminatorKind::Exists => {
                let spots = walk(profiles, slice, &discriminator.steps, MAX_HOPS);
                let rule = spots.first()?.rule;
                match (rule.min, rule.max) {
                    (1.., _) => Some(found(&|nodes| Some(!nodes.is_empty()))),
                    (0, Some(0)) => Some(found(&|nodes| Some(nodes.is_empty()))),
                    _ => None,
                }
            }
            DiscriminatorKind::Type => {
                let through_reference = discriminator.steps.last() == Some(&Step::Resolve);
                let steps = discriminator.steps.get(..discriminator.steps.len() - usize::from(through_reference)).unwrap_or_default();
                let spots = walk(profiles, slice, steps, MAX_HOPS);
                let types: Vec<&str> = spots
                    .iter()
                    .flat_map(|spot| &spot.rule.types)
                    .flat_map(|kind| match through_reference {
                        true => kind.targets.iter().filter_map(|url| type_of(profiles, url)).collect::<Vec<_>>(),
                        false => vec![&*kind.code],
                    })
                    .collect();
                if types.is_empty() {
                    return None;
                }
                if discriminator.steps.is_empty() {
                    let fits = item.type_name().is_some_and(|name| types.contains(&name));
                    return Some(if fits { Verdict::Holds } else { Verdict::Fails });
                }
                // What a reference names is enough; it need not be there.
                let found = found(&|nodes| Some(nodes.iter().any(|node| types.contains(&node.type_name()))));
                Some(if through_reference && matches!(found, Verdict::Unknown(_)) { Verdict::Fails } else { found })
            }
            DiscriminatorKind::Profile => {
                let through_reference = discriminator.steps.last() == Some(&Step::Resolve);
                let steps = discriminator.steps.get(..discriminator.steps.len() - usize::from(through_reference)).unwrap_or_default();
                let spots = walk(profiles, slice, steps, MAX_HOPS);
                let urls: Vec<&str> = spots
                    .iter()
                    .flat_map(|spot| &spot.rule.types)
                    .flat_map(|kind| if through_reference { &kind.targets } else { &kind.profiles })
                    .map(|url| &**url)
                    .collect();
                if urls.is_empty() {
                    return None;
                }
                Some(self.scope.evaluate(item.node(), |node, env| {
                    let nodes = path.evaluate_on(node, env)?;
                    let fits = |url: &&str| nodes.iter().any(|node| self.fits(url, node));
                    Ok(urls.iter().any(fits))
                }))
            }
            DiscriminatorKind::Unknown => Some(Verdict::Unknown("its type is none that R4 has".into())),
        }
    }

    fn fits(&self, url: &str, node: &Node<'_>) -> bool {
        match url.strip_prefix(CORE) {
            Some(name) if node.type_name() == name => true,
            _ => super::profile::node_conforms(self.scope, node, url) == Some(true),
        }
    }

    fn meets(&self, wanted: &Wanted, nodes: &[Node<'_>]) -> Option<bool> {
        match wanted {
            Wanted::Exactly(value) => Some(nodes.iter().any(|node| same(value, &node.as_json()))),
            Wanted::Pattern(value) => Some(nodes.iter().any(|node| matches(value, &node.as_json()))),
            Wanted::Text(text) => Some(nodes.iter().any(|node| node.as_json().as_str() == Some(text))),
            Wanted::Codes(binding) => {
                let mut answer = Some(false);
                for node in nodes {
                    match binding::has(self.scope.world.codes, &binding.value_set, &node.as_json()) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => answer = None,
                    }
                }
                answer
            }
        }
    }
}

/// The type that a canonical URL is about: a type of R4, or a profile's.
fn type_of<'p>(profiles: &'p Loaded, url: &'p str) -> Option<&'p str> {
    match profiles.profile(url) {
        Some(Ok(profile)) => Some(profile.type_name()),
        _ => url.strip_prefix(CORE),
    }
}

/// The rules at the end of a path, those of the profiles on the way included.
fn walk<'p>(profiles: &'p Loaded, from: Spot<'p>, steps: &[Step], hops: usize) -> Vec<Spot<'p>> {
    let Some((step, rest)) = steps.split_first() else { return vec![from] };
    let Some(hops) = hops.checked_sub(1) else { return Vec::new() };
    next(profiles, from, step).into_iter().flat_map(|spot| walk(profiles, spot, rest, hops)).collect()
}

fn next<'p>(profiles: &'p Loaded, from: Spot<'p>, step: &Step) -> Vec<Spot<'p>> {
    let Spot { profile, rule } = from;
    let of_profiles = |urls: &mut dyn Iterator<Item = &'p str>| -> Vec<Spot<'p>> {
        urls.filter_map(|url| profiles.profile(url)?.ok()).map(|profile| Spot { profile, rule: profile.root() }).collect()
    };
    let inside = |name: &str| -> Vec<Spot<'p>> {
        let own = profile.child(rule, name).or_else(|| rule.content.and_then(|id| profile.child(profile.rule(id), name)));
        let typed = of_profiles(&mut rule.types.iter().flat_map(|kind| &kind.profiles).map(|url| &**url));
        let typed = typed.into_iter().filter_map(|spot| Some(Spot { rule: spot.profile.child(spot.rule, name)?, ..spot }));
        own.map(|rule| Spot { profile, rule }).into_iter().chain(typed).collect()
    };
    match step {
        Step::Member(name) => inside(name),
        Step::Extension(url) => {
            let slices = inside("extension")
                .into_iter()
                .flat_map(|spot| spot.rule.slices.iter().map(move |id| Spot { rule: spot.profile.rule(*id), ..spot }));
            slices
                .filter(|spot| {
                    let named = spot.rule.types.iter().flat_map(|kind| &kind.profiles).any(|profile| **profile == **url);
                    let fixed = spot.profile.child(spot.rule, "url").and_then(|rule| rule.fixed.as_ref()).and_then(Value::as_str);
                    named || fixed == Some(url)
                })
                .collect()
        }
        Step::OfType(name) => {
            let typed = rule.slices.iter().map(|id| profile.rule(*id)).find(|slice| slice.types.iter().any(|kind| *kind.code == **name));
            vec![Spot { profile, rule: typed.unwrap_or(rule) }]
        }
        Step::Resolve => of_profiles(&mut rule.types.iter().flat_map(|kind| &kind.targets).map(|url| &**url)),
    }
}

/// Everything that a slice fixes at the end of a path, also by a value fixed on the way there.
fn collect<'p>(profiles: &'p Loaded, at: Spot<'p>, steps: &[Step], wanted: &mut Vec<Wanted<'p>>, hops: usize) {
    let rule = at.rule;
    if let Some(fixed) = &rule.fixed {
        project(fixed, steps, &mut |value| wanted.push(Wanted::Exactly(value)));
    }
    if let Some(pattern) = &rule.pattern {
        project(pattern, steps, &mut |value| wanted.push(Wanted::Pattern(value)));
    }
    let Some((step, rest)) = steps.split_first() else {
        if let (Some(binding), true) = (rule.binding.as_ref().filter(|binding| binding.strength == Strength::Required), wanted.is_empty()) {
            wanted.push(Wanted::Codes(binding));
        }
        return;
    };
    let before = wanted.len();
    let Some(hops) = hops.checked_sub(1) else { return };
    for spot in next(profiles, at, step) {
        collect(profiles, spot, rest, wanted, hops);
    }
    // An extension's url is that of its definition, even where that is not loaded.
    let is_url = matches!(step, Step::Member(name) if &**name == "url") && matches!(&*rule.name, "extension" | "modifierExtension");
    if is_url && wanted.len() == before {
        wanted.extend(rule.types.iter().flat_map(|kind| &kind.profiles).map(|url| Wanted::Text(url)));
    }
}

/// The parts of a fixed value at the end of a path.
fn project<'p>(value: &'p Value, steps: &[Step], found: &mut dyn FnMut(&'p Value)) {
    if let Value::Array(items) = value {
        return items.iter().for_each(|item| project(item, steps, found));
    }
    match steps.split_first() {
        None => found(value),
        Some((Step::Member(name), rest)) => {
            if let Some(inside) = value.get(&**name) {
                project(inside, rest, found);
            }
        }
        Some((Step::OfType(_), rest)) => project(value, rest, found),
        Some(_) => {}
    }
}
