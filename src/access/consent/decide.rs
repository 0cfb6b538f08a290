//! The decision, read straight off the trees of the consents.

use super::facts::ResourceFacts;
use super::model::{ALWAYS, Class, Consent, ConsentVersion, Data, Effect, Precedence, Provision, Truth, in_force};
use super::policy::{Deployment, Verdict, conclude, strictest};
use super::requester::Requester;
use super::vocabulary::{self, Coding, Confidentiality};
use crate::fhir::time::Interval;
use std::collections::{BTreeMap, BTreeSet};

/// The effective rules of the consents of one person, by precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    pub consents: BTreeMap<Precedence, BTreeSet<ConsentVersion>>,
    /// A deny among them names emergencies: the patient's answer to break-glass.
    pub refuses_break_glass: bool,
}

impl Effective {
    pub(super) fn add(&mut self, precedence: Precedence, consent: &ConsentVersion, names_emergency: bool) {
        self.consents.entry(precedence).or_default().insert(consent.clone());
        self.refuses_break_glass |= names_emergency && precedence.effect() == Effect::Deny;
    }
}

/// What the consents of a person say to this request for this resource. Give all consents that cover the person whose the resource is; those that
/// do not count are left out here. The same input has the same answer, whatever its order.
pub fn decide(consents: &[Consent], requester: &Requester, resource: &ResourceFacts, deployment: &Deployment) -> Verdict {
    verdict(consents, requester, resource, deployment, false)
}

/// Whether a resource of which nothing is known but its type and labels that it has at least might be released: some permit may be about it, and no
/// deny surely is. What [`decide`] releases this allows; it decides nothing but whether to ask for what is not here.
pub fn might_release(
    consents: &[Consent],
    requester: &Requester,
    type_name: &str,
    labels: &BTreeSet<Coding>,
    deployment: &Deployment,
) -> bool {
    let resource = ResourceFacts { type_name: type_name.to_owned(), labels: labels.clone(), ..ResourceFacts::default() };
    verdict(consents, requester, &resource, deployment, true).released
}

fn verdict(consents: &[Consent], requester: &Requester, resource: &ResourceFacts, deployment: &Deployment, open: bool) -> Verdict {
    strictest(requester, |requester| {
        let mut effective = Effective::default();
        for consent in in_force(consents) {
            let asked = Asked { consent: &consent, requester, resource, open };
            for provision in &consent.provisions {
                asked.visit(
                    provision,
                    &Path { truth: Truth::Yes, period: ALWAYS, data_period: None, names_emergency: false },
                    &mut effective,
                );
            }
        }
        conclude(&effective, requester, resource, deployment)
    })
}

struct Asked<'a> {
    consent: &'a Consent,
    requester: &'a Requester,
    resource: &'a ResourceFacts,
    /// The resource is not known yet: what cannot be told of it opens and does not close. What cannot be told of the rule or of who asks closes as ever.
    open: bool,
}

/// What the rules above a rule ask for: an exception only narrows.
struct Path {
    truth: Truth,
    period: Interval,
    data_period: Option<Interval>,
    names_emergency: bool,
}

/// What became of a rule.
struct Visited {
    matches: bool,
    /// It permits, or a rule below it does.
    permits: bool,
}

impl Asked<'_> {
    /// If the rule matches and none of its exceptions does, it is effective. Depth is bounded when a consent is read.
    fn visit(&self, provision: &Provision, above: &Path, effective: &mut Effective) -> Visited {
        let path = Path {
            truth: above.truth.min(self.criteria(provision)),
            period: intersect(above.period, provision.period),
            data_period: match (above.data_period, provision.data_period) {
                (Some(a), Some(b)) => Some(intersect(a, b)),
                (a, b) => a.or(b),
            },
            names_emergency: above.names_emergency || names_emergency(provision),
        };
        let effect = provision.precedence.effect();
        let now = self.requester.now;
        let said = if self.requester.purposes.is_empty() { Truth::Unknown } else { Truth::Yes };
        let time = path.data_period.map_or(Truth::Yes, |period| within(self.resource.time, period));
        let truth = path.truth.min(self.sure(said)).min(time);
        let enough = match (self.open, effect) {
            (false, _) => truth.suffices(effect),
            (true, Effect::Permit) => truth != Truth::No,
            (true, Effect::Deny) => truth == Truth::Yes,
        };
        let matches =
            enough && path.period.low <= now && now < path.period.high && (effect == Effect::Deny || now < self.consent.permits_until);
        let (mut excepted, mut permits) = (false, matches && effect == Effect::Permit);
        for exception in &provision.exceptions {
            let visited = self.visit(exception, &path, effective);
            permits |= visited.permits;
            // What may be an exception from what denies, and permit by one of its own, is not surely denied.
            excepted |= visited.matches || self.open && effect == Effect::Deny && visited.permits;
        }
        if matches && !excepted {
            effective.add(provision.precedence, &self.consent.version, path.names_emergency);
        }
        Visited { matches, permits }
    }

    /// All criteria of a rule but the times.
    fn criteria(&self, provision: &Provision) -> Truth {
        let (requester, resource) = (self.requester, self.resource);
        let actors = provision.actors.as_ref().map(|any| any.holds(|actor| requester.is_actor(actor)));
        let actions = provision.actions.as_ref().map(|any| any.holds(|action| requester.does(*action)));
        let purposes = provision.purposes.as_ref().map(|any| {
            let named = requester.asks_for(|asked| any.values.iter().any(|named| vocabulary::purpose_covers(named, asked)));
            // Which emergency it is nobody can tell apart.
            let emergency = any.values.iter().any(vocabulary::is_emergency) && requester.purposes.iter().any(vocabulary::is_emergency);
            let named = if emergency { named.max(Truth::Unknown) } else { named };
            if any.unknown { named.max(Truth::Unknown) } else { named }
        });
        let classes = provision.classes.as_ref().map(|any| {
            any.holds(|class| match class {
                Class::Type(_) => Truth::of(is_of_class(resource, class)),
                Class::Profile(_) | Class::Document(_) => self.told(is_of_class(resource, class)),
            })
        });
        let codes = provision.codes.as_ref().map(|any| {
            let found = any.holds(|code| Truth::of(resource.codes.contains(code)));
            if resource.uncoded || self.open { found.max(Truth::Unknown) } else { found }
        });
        let effect = provision.precedence.effect();
        let labels = provision.labels.as_ref().map(|any| {
            any.holds(|label| match Confidentiality::of(label) {
                // It may be labelled lower than what says nothing.
                Some(_) if self.open && resource.confidentiality() <= Confidentiality::NORMAL => Truth::Unknown,
                Some(_) => Truth::of(is_labelled(resource, label, effect)),
                None => self.told(is_labelled(resource, label, effect)),
            })
        });
        let data = provision.data.as_ref().map(|any| {
            let named = any.holds(|data| is_data(resource, data));
            if resource.elsewhere || self.open { named.max(Truth::Unknown) } else { named }
        });
        let known = if provision.unknown { Truth::Unknown } else { Truth::Yes };
        let asker = [actors, actions, purposes].into_iter().flatten().fold(known, Truth::min);
        [classes, codes, labels, data].into_iter().flatten().fold(self.sure(asker), Truth::min)
    }

    /// What of the rule or of who asks cannot be told.
    fn sure(&self, truth: Truth) -> Truth {
        if self.open && truth == Truth::Unknown { Truth::No } else { truth }
    }

    /// What is not said of the resource may still hold.
    fn told(&self, holds: bool) -> Truth {
        if self.open { Truth::of(holds).max(Truth::Unknown) } else { Truth::of(holds) }
    }
}

pub(super) fn intersect(a: Interval, b: Interval) -> Interval {
    Interval { low: a.low.max(b.low), high: a.high.min(b.high) }
}

/// Whether a rule names emergencies among its purposes.
pub(super) fn names_emergency(provision: &Provision) -> bool {
    provision.purposes.as_ref().is_some_and(|any| any.values.iter().any(vocabulary::is_emergency))
}

/// Whether what happened then lies in the period: surely when wholly, perhaps when partly or when it does not say.
fn within(time: Option<Interval>, period: Interval) -> Truth {
    match time {
        _ if period.low >= period.high => Truth::No,
        None => Truth::Unknown,
        Some(time) if period.low <= time.low && time.high <= period.high => Truth::Yes,
        Some(time) => Truth::of(time.low < period.high && period.low < time.high).min(Truth::Unknown),
    }
}

fn is_of_class(resource: &ResourceFacts, class: &Class) -> bool {
    match class {
        Class::Type(name) => resource.type_name == *name,
        Class::Profile(url) => resource.profiles.contains(url),
        Class::Document(coding) => resource.document_types.contains(coding),
    }
}

/// A confidentiality in a permit reaches up to it, in a deny from it on; a sensitivity reaches those below it.
fn is_labelled(resource: &ResourceFacts, label: &Coding, effect: Effect) -> bool {
    match (Confidentiality::of(label), effect) {
        (Some(level), Effect::Permit) => resource.confidentiality() <= level,
        (Some(level), Effect::Deny) => resource.confidentiality() >= level,
        (None, _) => !vocabulary::label_and_below(label).is_disjoint(&resource.labels),
    }
}

fn is_data(resource: &ResourceFacts, data: &Data) -> Truth {
    let is = |name: &str| resource.name.as_deref() == Some(name);
    match data {
        Data::Instance(name) => Truth::of(is(name)),
        Data::Related(name, refers_to) => {
            let reached = refers_to.iter().filter(|one| is(&one.name)).map(|one| Truth::of(one.follows).max(Truth::Unknown)).max();
            Truth::of(is(name) || resource.references.contains(name)).max(reached.unwrap_or(Truth::No))
        }
        Data::Dependents(name) => Truth::of(is(name) || resource.references.contains(name)),
        Data::AuthoredBy(name) => Truth::of(resource.authors.contains(name)),
        Data::PerhapsAuthoredBy(name) => Truth::of(resource.authors.contains(name)).min(Truth::Unknown),
    }
}
