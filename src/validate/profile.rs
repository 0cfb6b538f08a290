//! A value against a compiled profile (<https://hl7.org/fhir/R4/profiling.html>).

use super::binding;
use super::compile::{CORE, Profile, ProfileError, Rule, Strength, TypeRule};
use super::report::{Path, Report};
use super::scope::{Constraint, Scope, Verdict};
use super::values::{matches, same};
use crate::definitions::{ElementKind, ElementType, Structure, r4};
use crate::fhir::{IssueCode, Severity};
use crate::fhirpath::{Node, reference_type};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// The members of what has none.
static NOTHING: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// Holds a value of the profile's type against it. What R4 itself asks is looked at elsewhere.
pub(super) fn check<'a>(scope: Scope<'a>, profile: &'a Profile, value: &'a Value, path: &Path, report: &mut Report) {
    let mut check = Check { scope, profile, report };
    let item = Item { value: Some(value), sibling: None, kind: None, at: None };
    let done = scope.world.nested(|| {
        let Value::Object(map) = value else { return };
        match profile.structure.kind {
            crate::definitions::StructureKind::Resource
                if value.get("resourceType").and_then(Value::as_str) != Some(profile.structure.name) =>
            {
                check.say(IssueCode::Structure, path, || format!("must be a {}", profile.structure.name));
            }
            _ => {
                check.constraints(profile.root(), &item, Some(profile.structure), path);
                check.fixed(profile.root(), &item, path);
                check.members(profile.root(), Some(profile.structure), map, path);
            }
        }
    });
    if done.is_none() {
        check.unsure(path, "profiles".into(), "they refer to one another too deeply");
    }
}

/// Whether a value meets the profile, without a word. `None`: no such profile can be used.
pub(super) fn conforms<'a>(scope: Scope<'a>, canonical: &str, value: &'a Value) -> Option<bool> {
    let profile = scope.world.profiles.profile(canonical)?.ok()?;
    let inside = match value.get("resourceType") {
        // A resource of its own: what is contained in another keeps that as its root.
        Some(_) => Scope { resource: value, root: if std::ptr::eq(value, scope.resource) { scope.root } else { value }, ..scope },
        None => scope,
    };
    Some(scope.world.meets(value, profile, || {
        let mut report = Report::quiet();
        check(inside, profile, value, &Path::root(profile.type_name()), &mut report);
        !report.has_errors()
    }))
}

/// [`conforms`] for a node of an expression.
pub(super) fn node_conforms<'a>(scope: Scope<'a>, node: &Node<'a>, canonical: &str) -> Option<bool> {
    match node.as_json() {
        std::borrow::Cow::Borrowed(value) => conforms(scope, canonical, value),
        std::borrow::Cow::Owned(_) => Some(false),
    }
}

/// One value of an element.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub value: Option<&'a Value>,
    /// Under the same name with `_` before it.
    pub sibling: Option<&'a Value>,
    pub kind: Option<&'static ElementType>,
    /// Its place in the element's array.
    pub at: Option<usize>,
}

impl<'a> Item<'a> {
    pub(super) fn node(&self) -> Node<'a> {
        static NULL: Value = Value::Null;
        let value = self.value.unwrap_or(&NULL);
        match self.kind {
            Some(kind) if kind.kind != ElementKind::Resource => Node::typed(value, self.sibling, kind.name),
            _ => Node::root(value),
        }
    }

    /// What its members are looked up in.
    fn structure(&self) -> Option<&'static Structure> {
        match self.kind?.kind {
            ElementKind::Structure(place) => r4().structure_at(place),
            ElementKind::Resource => r4().structure(self.value?.get("resourceType")?.as_str()?),
            ElementKind::Primitive(_) => None,
        }
    }

    /// The name of its type; a resource says it itself.
    pub(super) fn type_name(&self) -> Option<&'a str> {
        match self.kind?.kind {
            ElementKind::Resource => self.value?.get("resourceType")?.as_str(),
            _ => self.kind.map(|kind| kind.name),
        }
    }
}

pub(super) struct Check<'a, 'r> {
    pub scope: Scope<'a>,
    pub profile: &'a Profile,
    pub report: &'r mut Report,
}

impl<'a> Check<'a, '_> {
    fn members(&mut self, rule: &'a Rule, structure: Option<&'static Structure>, map: &'a Map<String, Value>, path: &Path) {
        for id in &rule.children {
            let child = self.profile.rule(*id);
            let items = find(child, structure, map);
            self.group(child, &items, &path.member(&child.name));
        }
    }

    /// All items that a rule is about: how many there are, each by itself, and what slices ask.
    pub(super) fn group(&mut self, rule: &'a Rule, items: &[Item<'a>], path: &Path) {
        let slice = rule.slice.as_deref().map(|name| format!(" (slice {name})")).unwrap_or_default();
        if items.len() < rule.min {
            let words = if items.is_empty() { "is required and missing" } else { "has too few items" };
            self.say(IssueCode::Required, path, || format!("{words}{slice}: give {} or more", rule.min));
        }
        if let Some(max) = rule.max.filter(|max| items.len() > *max) {
            match max {
                0 => self.say(IssueCode::Structure, path, || format!("must not be given{slice}")),
                max => self.say(IssueCode::Structure, path, || format!("has too many items{slice}: give {max} or fewer")),
            }
        }
        for item in items {
            match item.at {
                Some(at) => self.item(rule, item, &path.item(at)),
                None => self.item(rule, item, path),
            }
        }
        if !rule.slices.is_empty() || rule.slicing.is_some() {
            self.slices(rule, items, path);
        }
    }

    fn item(&mut self, rule: &'a Rule, item: &Item<'a>, path: &Path) {
        // Rules that refer to one another end with the value: the way down is as long as the value is deep.
        if path.too_deep() {
            return;
        }
        self.types(rule, item, path);
        self.fixed(rule, item, path);
        self.bound(rule, item, path);
        let content = rule.content.map(|id| self.profile.rule(id));
        let structure = item.structure();
        for rule in [Some(rule), content].into_iter().flatten() {
            self.constraints(rule, item, structure, path);
            match (item.value, item.sibling) {
                (Some(Value::Object(map)), _) => self.members(rule, structure, map, path),
                (_, Some(Value::Object(map))) => self.members(rule, r4().structure("Element"), map, path),
                // Nothing stands beside the primitive: what must is missing.
                (Some(value), _) if !value.is_null() && structure.is_none() => {
                    self.members(rule, r4().structure("Element"), &NOTHING, path)
                }
                _ => {}
            }
        }
    }

    fn fixed(&mut self, rule: &Rule, item: &Item<'a>, path: &Path) {
        let Some(value) = item.value.filter(|value| !value.is_null()) else { return };
        if rule.fixed.as_ref().is_some_and(|fixed| !same(fixed, value)) {
            self.say(IssueCode::Value, path, || "must be exactly the value that is fixed".into());
        }
        if rule.pattern.as_ref().is_some_and(|pattern| !matches(pattern, value)) {
            self.say(IssueCode::Value, path, || "must have what the pattern asks for".into());
        }
        if let (Some(most), Some(text)) = (rule.max_length, value.as_str())
            && text.chars().nth(most).is_some()
        {
            self.say(IssueCode::TooLong, path, || format!("must not be longer than {most} characters"));
        }
    }

    fn types(&mut self, rule: &'a Rule, item: &Item<'a>, path: &Path) {
        if rule.types.is_empty() {
            return;
        }
        let Some(actual) = item.type_name() else { return };
        let is_resource = item.kind.is_some_and(|kind| kind.kind == ElementKind::Resource);
        let fits = |kind: &&TypeRule| &*kind.code == actual || (is_resource && matches!(&*kind.code, "Resource" | "DomainResource"));
        let fitting: Vec<&'a TypeRule> = rule.types.iter().filter(fits).collect();
        // What R4 gives one type only is named otherwise there: BackboneElement, System.String.
        if fitting.is_empty() {
            if is_resource || find_choice(item.kind, rule) {
                let names: Vec<&str> = rule.types.iter().map(|kind| &*kind.code).collect();
                self.say(IssueCode::Structure, path, || format!("must be of type {}", names.join(" or ")));
            }
            return;
        }
        let Some(value) = item.value else { return };
        let profiles: Vec<&'a str> = fitting.iter().flat_map(|kind| &kind.profiles).map(|url| &**url).collect();
        // Known extensions are held against their definition wherever they stand; a slice may ask for a profile on that.
        let own = value.get("url").and_then(Value::as_str);
        let is_own = |url: &str| rule.slice.is_none() || url.split('|').next() == own;
        let is_known = |url: &&str| is_own(url) && self.scope.world.profiles.profile(url).is_some();
        let elsewhere = actual == "Extension" && profiles.iter().any(is_known);
        if !profiles.is_empty() && !elsewhere && fitting.iter().all(|kind| !kind.profiles.is_empty()) {
            self.one_of(&profiles, value, path);
        }
        let targets: Vec<&'a str> = fitting.iter().flat_map(|kind| &kind.targets).map(|url| &**url).collect();
        if actual == "Reference" && !targets.is_empty() {
            self.target(&targets, value, path);
        }
    }

    /// A value must meet one of several profiles.
    fn one_of(&mut self, profiles: &[&'a str], value: &'a Value, path: &Path) {
        let (mut unknown, mut usable) = (false, None);
        for url in profiles {
            match self.scope.world.profiles.profile(url) {
                Some(Ok(profile)) => {
                    if conforms(self.scope, url, value) == Some(true) {
                        return;
                    }
                    usable = Some(profile);
                }
                _ if is_core_type(url) => return,
                _ => unknown = true,
            }
        }
        match (unknown, usable, profiles) {
            (true, ..) => self.unsure(path, format!("a profile of its type ({})", profiles.join(" or ")), "load it"),
            (false, Some(profile), [_]) => check(self.scope, profile, value, path, self.report),
            _ => self.say(IssueCode::Structure, path, || format!("must meet {}", profiles.join(" or "))),
        }
    }

    /// A reference must lead to one of the types, and what it leads to meet one of the profiles, if it is there.
    fn target(&mut self, targets: &[&'a str], value: &'a Value, path: &Path) {
        let Some(text) = value.get("reference").and_then(Value::as_str) else { return };
        let resolved = self.scope.resolve(text);
        let said = value.get("type").and_then(Value::as_str);
        let actual = resolved.and_then(|r| r.get("resourceType")).and_then(Value::as_str).or_else(|| reference_type(text)).or(said);
        let Some(actual) = actual else {
            // A contained resource that is not there breaks ref-1.
            let any = |url: &&str| url.strip_prefix(CORE).is_some_and(|name| matches!(name, "Resource" | "DomainResource"));
            if !text.starts_with('#') && !targets.iter().any(any) {
                let what = format!("what it leads to ({})", targets.join(" or "));
                self.unsure(&path.member("reference"), what, "the target is not here to be looked at");
            }
            return;
        };
        let (mut unknown, mut of_type, mut unseen, mut wanted) = (None, false, None, Vec::new());
        for url in targets {
            let bare = url.split('|').next().unwrap_or(url);
            if let Some(name) =
                bare.strip_prefix(CORE).filter(|name| r4().type_code(name).is_some() || matches!(*name, "Resource" | "DomainResource"))
            {
                if name == actual || matches!(name, "Resource" | "DomainResource") {
                    return;
                }
                wanted.push(name);
                continue;
            }
            match self.scope.world.profiles.profile(url) {
                Some(Ok(profile)) if profile.type_name() != actual => wanted.push(profile.type_name()),
                Some(Ok(_)) => {
                    of_type = true;
                    match self.scope.ask(text).map(|target| conforms(self.scope, url, target)) {
                        Some(Some(true)) => return,
                        None => unseen = Some(*url),
                        _ => {}
                    }
                }
                _ => unknown = Some(*url),
            }
        }
        let path = path.member("reference");
        if let Some(url) = unseen {
            return self.unsure(&path, format!("the profile of its target ({url})"), "the target is not here to be looked at");
        }
        match (unknown, of_type) {
            (Some(url), _) => self.unsure(&path, format!("the profile of its target ({url})"), "load it"),
            (None, true) => self.say(IssueCode::Value, &path, || format!("must refer to a resource that meets {}", targets.join(" or "))),
            (None, false) => self.say(IssueCode::Value, &path, || format!("must refer to {}", wanted.join(" or "))),
        }
    }

    fn bound(&mut self, rule: &Rule, item: &Item<'a>, path: &Path) {
        let (Some(binding), Some(value)) = (&rule.binding, item.value.filter(|value| !value.is_null())) else { return };
        if binding.strength != Strength::Required && !binding::is_coded(value) {
            return;
        }
        self.of_set(binding.strength, &binding.value_set, value, path);
        if let Some(most) = binding.most.as_deref().filter(|_| binding::is_coded(value)) {
            self.of_set(Strength::Required, most, value, path);
        }
    }

    fn of_set(&mut self, strength: Strength, url: &str, value: &Value, path: &Path) {
        let answer = if strength == Strength::Loose { Some(true) } else { binding::has(self.scope.world.codes, url, value) };
        match (answer, strength) {
            (Some(true), _) => {}
            (Some(false), Strength::Required) => self.say(IssueCode::CodeInvalid, path, || format!("must be a code of {url}")),
            (Some(false), _) => {
                let words = || format!("should be a code of {url}, unless none of them fits (profile {})", self.profile.url());
                self.report.add(Severity::Warning, IssueCode::CodeInvalid, path, words);
            }
            (None, _) => self.unsure(path, format!("the code (value set {url})"), "load the value set and what it rests on"),
        }
    }

    fn constraints(&mut self, rule: &'a Rule, item: &Item<'a>, structure: Option<&'static Structure>, path: &Path) {
        for constraint in &rule.constraints {
            let node = match (item.kind, structure, item.value) {
                (None, Some(structure), Some(value)) => Node::structured(value, structure),
                _ => item.node(),
            };
            let verdict = self.scope.holds(constraint, node);
            report_verdict(self.report, self.scope, constraint, verdict, path, Some(self.profile));
        }
    }

    pub(super) fn say(&mut self, code: IssueCode, path: &Path, words: impl FnOnce() -> String) {
        let url = self.profile.url();
        self.report.error(code, path, || format!("{} (profile {url})", words()));
    }

    /// Says once that something could not be checked, and what would help.
    pub(super) fn unsure(&mut self, path: &Path, what: String, why: &str) {
        let words = format!("{what} could not be checked: {why} (profile {})", self.profile.url());
        if self.scope.world.told.first(&words) {
            self.report.add(Severity::Information, IssueCode::NotSupported, path, || words);
        }
    }
}

/// Writes down what became of a constraint.
pub(super) fn report_verdict(
    report: &mut Report,
    scope: Scope,
    constraint: &Constraint,
    verdict: Verdict,
    path: &Path,
    profile: Option<&Profile>,
) {
    let of = profile.map(|profile| format!(" (profile {})", profile.url())).unwrap_or_default();
    match verdict {
        Verdict::Holds => {}
        Verdict::Fails => {
            report.add(constraint.severity, IssueCode::Invariant, path, || format!("{}: {}{of}", constraint.key, constraint.human));
        }
        Verdict::Unknown(why) => {
            let words = format!("{} could not be checked: {why}. It asks: {}{of}", constraint.key, constraint.human);
            if scope.world.told.first(&words) {
                report.add(Severity::Information, IssueCode::NotSupported, path, || words);
            }
        }
    }
}

/// Whether the types of this element are a choice of R4, where a profile may leave some out.
fn find_choice(kind: Option<&'static ElementType>, rule: &Rule) -> bool {
    // Types of one kind only are written in other words: BackboneElement, http://hl7.org/fhirpath/System.String.
    let other_words =
        |code: &str| matches!(code, "BackboneElement" | "Element" | "SimpleQuantity" | "MoneyQuantity") || code.contains("fhirpath/");
    kind.is_some_and(|kind| !kind.name.contains('.')) && !rule.types.iter().any(|kind| other_words(&kind.code))
}

/// Whether a profile is only the name of a type of R4, or one of its two ways of writing Quantity.
fn is_core_type(url: &str) -> bool {
    url.strip_prefix(CORE).is_some_and(|name| r4().structure(name).is_some() || matches!(name, "SimpleQuantity" | "MoneyQuantity"))
}

/// The items of an object that hold a rule's element.
fn find<'a>(rule: &Rule, structure: Option<&'static Structure>, map: &'a Map<String, Value>) -> Vec<Item<'a>> {
    let element = structure.and_then(|structure| structure.element(&rule.name));
    let mut found = Vec::new();
    match (structure, element) {
        (Some(structure), Some(element)) if element.choice => {
            let mut seen: Vec<&str> = Vec::new();
            for key in map.keys() {
                let key = key.strip_prefix('_').unwrap_or(key);
                if let Some((_, other, kind)) = structure.key(key)
                    && std::ptr::eq(other, element)
                    && !seen.contains(&key)
                {
                    seen.push(key);
                    items_at(map, key, Some(kind), &mut found);
                }
            }
        }
        (_, element) => items_at(map, &rule.name, element.and_then(|element| element.types.first()), &mut found),
    }
    found
}

fn items_at<'a>(map: &'a Map<String, Value>, key: &str, kind: Option<&'static ElementType>, found: &mut Vec<Item<'a>>) {
    let value = map.get(key);
    let sibling = match value {
        // Only primitives have one, and a look-up per object would be felt.
        Some(Value::Object(_)) => None,
        Some(Value::Array(items)) if items.iter().all(Value::is_object) => None,
        _ => map.get(&format!("_{key}")),
    };
    match (value, sibling) {
        (Some(Value::Array(values)), sibling) => {
            for (at, value) in values.iter().enumerate() {
                let sibling = sibling.and_then(|list| list.get(at)).filter(|item| !item.is_null());
                found.push(Item { value: Some(value), sibling, kind, at: Some(at) });
            }
        }
        (None, Some(Value::Array(siblings))) => {
            found.extend(siblings.iter().enumerate().map(|(at, one)| Item { value: None, sibling: Some(one), kind, at: Some(at) }));
        }
        (None, None) => {}
        (value, sibling) => found.push(Item { value, sibling, kind, at: None }),
    }
}

/// Why a profile cannot be used, in words for an issue.
pub(super) fn unusable(url: &str, error: &ProfileError) -> String {
    format!("the profile {url} is loaded but cannot be used: {error}")
}
