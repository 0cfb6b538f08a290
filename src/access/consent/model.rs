//! A patient's consent as rules that lango understands.

use super::vocabulary::{self, Coding};
use crate::fhir::series::{self, Place, Replaced};
use crate::fhir::time::{Interval, Micros};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Whether something holds. What cannot be told never opens and always closes: see [`Truth::suffices`]. `min` is "and", `max` is "or".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    No,
    Unknown,
    Yes,
}

impl Truth {
    pub fn of(holds: bool) -> Truth {
        if holds { Truth::Yes } else { Truth::No }
    }

    /// Whether a rule with this effect applies: a permit only when its criteria surely hold, a deny also when they might.
    pub fn suffices(self, effect: Effect) -> bool {
        match effect {
            Effect::Permit => self == Truth::Yes,
            Effect::Deny => self != Truth::No,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Deny,
    Permit,
}

/// What decides when several rules are effective: the lowest. `as u8` is what a database may take the minimum of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Precedence {
    /// A rule of a patient.
    Deny = 0,
    Permit = 1,
    /// `Consent.policyRule` opt-out: for what no rule of the patient speaks of.
    DefaultDeny = 2,
    /// `Consent.policyRule` opt-in.
    DefaultPermit = 3,
}

impl Precedence {
    pub fn of_rule(effect: Effect) -> Precedence {
        match effect {
            Effect::Deny => Precedence::Deny,
            Effect::Permit => Precedence::Permit,
        }
    }

    pub fn of_default(effect: Effect) -> Precedence {
        match effect {
            Effect::Deny => Precedence::DefaultDeny,
            Effect::Permit => Precedence::DefaultPermit,
        }
    }

    pub fn effect(self) -> Effect {
        match self {
            Precedence::Deny | Precedence::DefaultDeny => Effect::Deny,
            Precedence::Permit | Precedence::DefaultPermit => Effect::Permit,
        }
    }
}

/// How a thing is called: `Type/id`, an absolute URL, or `system|value` of an identifier.
pub type Name = String;

/// One criterion: any of these values will do. `unknown` when it also has a value that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyOf<T: Ord> {
    pub values: BTreeSet<T>,
    pub unknown: bool,
}

impl<T: Ord> AnyOf<T> {
    /// Whether it holds, when `test` tells it of one value.
    pub fn holds(&self, test: impl Fn(&T) -> Truth) -> Truth {
        let unknown = if self.unknown { Truth::Unknown } else { Truth::No };
        self.values.iter().map(test).fold(unknown, Truth::max)
    }
}

/// Whom a rule is about. Both conditions must hold; an empty one is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The person, organisation, device or group, by any of these names.
    pub names: BTreeSet<Name>,
    /// What it is called besides, as far as anybody says so: only a rule that denies means these too.
    pub aliases: BTreeSet<Name>,
    /// Who holds any of these roles.
    pub roles: BTreeSet<Coding>,
}

impl Actor {
    /// Whether it names a role that lango cannot tell of anybody.
    pub fn has_unknown_role(&self) -> bool {
        self.roles.iter().any(|role| !vocabulary::is_known_role(role))
    }
}

/// What is done with the data (<http://terminology.hl7.org/CodeSystem/consentaction>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Keep it.
    Collect,
    /// Read it: what every request to lango does that asks for data.
    Access,
    Use,
    /// Hand it on to a third party.
    Disclose,
    Correct,
}

/// A resource that another refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reached {
    pub name: Name,
    /// A permit follows the reference: who contributed the one contributed the other too. Otherwise one could open what is another's by referring to it.
    pub follows: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Type(String),
    Profile(String),
    /// Type or category of a document.
    Document(Coding),
}

/// `Consent.provision.data` (<https://hl7.org/fhir/R4/valueset-consent-data-meaning.html>).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    Instance(Name),
    /// The instance, what it refers to (known when the consent was read), and, as IHE PCF uses the word with encounters, what refers to it.
    Related(Name, BTreeSet<Reached>),
    /// The instance and what refers to it.
    Dependents(Name),
    AuthoredBy(Name),
    /// What its author may be called besides: only a rule that denies means it.
    PerhapsAuthoredBy(Name),
}

/// A rule, and the exceptions to it. Every criterion that is there must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provision {
    pub precedence: Precedence,
    /// Something about it is not understood: it cannot be told whether it holds.
    pub unknown: bool,
    pub period: Interval,
    pub actors: Option<AnyOf<Actor>>,
    pub actions: Option<AnyOf<Action>>,
    pub purposes: Option<AnyOf<Coding>>,
    pub classes: Option<AnyOf<Class>>,
    pub codes: Option<AnyOf<Coding>>,
    pub labels: Option<AnyOf<Coding>>,
    pub data: Option<AnyOf<Data>>,
    pub data_period: Option<Interval>,
    pub exceptions: Vec<Provision>,
}

/// All time.
pub const ALWAYS: Interval = Interval { low: Interval::MIN, high: Interval::MAX };

impl Provision {
    /// A rule without criteria.
    pub fn new(precedence: Precedence) -> Provision {
        Provision {
            precedence,
            unknown: false,
            period: ALWAYS,
            actors: None,
            actions: None,
            purposes: None,
            classes: None,
            codes: None,
            labels: None,
            data: None,
            data_period: None,
            exceptions: Vec::new(),
        }
    }
}

/// Whether a consent counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    InForce,
    /// It does not count; why. If it ever was in force, what it replaced stays replaced; if not, it never replaced anything.
    Void(&'static str),
    /// It was entered in error: it never counted.
    Mistaken,
}

/// The `Consent` that a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsentVersion {
    pub id: String,
    /// `meta.versionId`; empty before it is stored.
    pub version: String,
}

/// A `Consent`, read (<https://hl7.org/fhir/R4/consent.html>). See [`Consent::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consent {
    pub version: ConsentVersion,
    pub standing: Standing,
    /// Whose consent it is.
    pub patient: Option<Name>,
    /// The place that it takes with this version, as it says.
    pub takes: Option<Place>,
    /// Where it stands among those that replace one another, the present place last; none: it never stood anywhere.
    pub places: Vec<Place>,
    /// A guardian gave it for a minor: it permits nothing from the day the patient is of age, and nothing at all when that is not known.
    pub permits_until: Micros,
    /// The patient's rule and the default by `policyRule`, each if there.
    pub provisions: Vec<Provision>,
}

/// The consents that count: in force, and what of them no other has taken the place of ([`series`]). Give all of one person that cover the data asked for,
/// those too that were ended.
pub fn in_force(consents: &[Consent]) -> Vec<Cow<'_, Consent>> {
    let mut ordered: Vec<&Consent> = consents.iter().collect();
    ordered.sort_by(|a, b| a.version.id.cmp(&b.version.id));
    let extents = series::replaced(&ordered.iter().map(|consent| consent.places.as_slice()).collect::<Vec<_>>());
    let counting = ordered.into_iter().zip(extents).filter(|(consent, _)| consent.standing == Standing::InForce);
    let counts = counting.filter_map(|(consent, extent)| match extent {
        Replaced::Everything => None,
        Replaced::Nothing => Some(Cow::Borrowed(consent)),
        Replaced::Permits => Some(Cow::Owned(Consent { permits_until: Interval::MIN, ..consent.clone() })),
    });
    counts.collect()
}
