//! What the deployment adds to the patient's rules, and the verdict.

use super::decide::Effective;
use super::facts::{Fact, ResourceFacts};
use super::model::{ConsentVersion, Effect};
use super::requester::Requester;
use super::vocabulary::{self, Coding, Confidentiality};
use std::collections::BTreeSet;

/// What holds when no consent speaks: one of the four policies of IHE PCF (<https://profiles.ihe.net/ITI/PCF>, volume 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImplicitPolicy {
    /// `Policy-basic-normal`: data that is not restricted, to clinicians, for treatment.
    BasicNormal,
    /// `Policy-all-normal`: data that is not restricted, to everybody who says what for.
    AllNormal,
    /// `Policy-break-glass-only`: nothing without breaking the glass.
    BreakGlassOnly,
    /// `Policy-deny`.
    #[default]
    Deny,
}

impl ImplicitPolicy {
    pub fn uri(self) -> &'static str {
        match self {
            ImplicitPolicy::BasicNormal => "https://profiles.ihe.net/ITI/PCF/Policy-basic-normal",
            ImplicitPolicy::AllNormal => "https://profiles.ihe.net/ITI/PCF/Policy-all-normal",
            ImplicitPolicy::BreakGlassOnly => "https://profiles.ihe.net/ITI/PCF/Policy-break-glass-only",
            ImplicitPolicy::Deny => "https://profiles.ihe.net/ITI/PCF/Policy-deny",
        }
    }

    /// Whether this requester gets anything by the policy; what it gets then is what has any of [`ImplicitPolicy::clause`].
    pub fn admits(self, requester: &Requester) -> bool {
        let said = !requester.purposes.is_empty();
        let treats = requester.purposes.iter().all(|asked| vocabulary::purpose_covers(&Coding::purpose("TREAT"), asked));
        match self {
            ImplicitPolicy::BasicNormal => said && treats && requester.roles.contains(&Coding::role("clinician")),
            ImplicitPolicy::AllNormal => said,
            ImplicitPolicy::BreakGlassOnly | ImplicitPolicy::Deny => false,
        }
    }

    /// The data that a policy can give: what is not restricted.
    pub fn clause() -> BTreeSet<Fact> {
        Confidentiality::NORMAL.and_below().map(Fact::confidentiality).collect()
    }
}

/// What the deployment decided.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Deployment {
    pub implicit: ImplicitPolicy,
    /// Labels that break-glass does not open (`PSYTHPN`, say); those below them are meant too.
    pub break_glass_exempt: BTreeSet<Coding>,
}

impl Deployment {
    /// The facts that keep a resource closed to break-glass.
    pub fn exempt_facts(&self) -> BTreeSet<Fact> {
        self.break_glass_exempt
            .iter()
            .flat_map(|label| match Confidentiality::of(label) {
                Some(level) => level.and_above().map(Fact::confidentiality).collect(),
                None => vocabulary::label_and_below(label).iter().map(Fact::label).collect::<Vec<_>>(),
            })
            .collect()
    }
}

/// From the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Deny,
    /// The patient did not say; [`Verdict::released`] tells what the deployment's policy makes of it.
    NoConsent,
    Permit,
}

/// What comes with released data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obligation {
    /// Tell the patient (break-glass).
    NotifyPatient,
    /// Put it before the privacy officer (break-glass).
    Review,
    /// A caveat on the resource's label that goes with the data, such as `NORDSCLCD`: no redisclosure without a consent.
    Handling(Coding),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    /// Whether the data may leave.
    pub released: bool,
    /// The glass was broken: the patient's rules alone did not decide.
    pub break_glass: bool,
    pub obligations: BTreeSet<Obligation>,
    /// The consents that decided it.
    pub consents: BTreeSet<ConsentVersion>,
}

/// Refrain policies and handling caveats of v3 ActCode.
const HANDLING: &[&str] = &[
    "DELAU",
    "NOAUTH",
    "NOCOLLECT",
    "NODSCLCD",
    "NODSCLCDS",
    "NOINTEGRATE",
    "NOLIST",
    "NOMOU",
    "NOORGPOL",
    "NOPAT",
    "NOPERSISTP",
    "NORDSCLCD",
    "NORDSCLCDS",
    "NORDSCLW",
    "NORELINK",
    "NOREUSE",
    "NOVIP",
    "ORCON",
];

/// Decides for each purpose alone and takes the strictest: naming several gives no more than each of them would.
pub(super) fn strictest(requester: &Requester, decide: impl Fn(&Requester) -> Verdict) -> Verdict {
    let alone = |purpose: &Coding| decide(&Requester { purposes: BTreeSet::from([purpose.clone()]), ..requester.clone() });
    let stricter = |mut a: Verdict, mut b: Verdict| {
        if (b.released, b.outcome) < (a.released, a.outcome) {
            std::mem::swap(&mut a, &mut b);
        }
        // Every consent and duty counts on which the release rests, or the refusal.
        if (a.released, a.outcome) == (b.released, b.outcome) {
            a.consents.append(&mut b.consents);
        }
        a.break_glass = a.released && (a.break_glass || b.break_glass);
        if a.released {
            a.obligations.append(&mut b.obligations);
        }
        a
    };
    requester.purposes.iter().map(alone).reduce(stricter).unwrap_or_else(|| decide(requester))
}

/// The verdict on effective rules: break-glass first, unless its labels are exempt or the patient refused it; then the rule that takes
/// precedence; then the deployment's policy.
pub(super) fn conclude(effective: &Effective, requester: &Requester, resource: &ResourceFacts, deployment: &Deployment) -> Verdict {
    let facts = resource.flatten();
    let winner = effective.consents.first_key_value();
    let open = requester.breaks_glass() && !effective.refuses_break_glass && deployment.exempt_facts().is_disjoint(&facts);
    let (outcome, consents) = match winner {
        _ if open => (Outcome::Permit, BTreeSet::new()),
        Some((precedence, consents)) => match precedence.effect() {
            Effect::Permit => (Outcome::Permit, consents.clone()),
            Effect::Deny => (Outcome::Deny, consents.clone()),
        },
        None => (Outcome::NoConsent, BTreeSet::new()),
    };
    let released = match outcome {
        Outcome::Permit => true,
        Outcome::Deny => false,
        Outcome::NoConsent => deployment.implicit.admits(requester) && !ImplicitPolicy::clause().is_disjoint(&facts),
    };
    let mut obligations = BTreeSet::new();
    if released {
        let caveats =
            resource.labels.iter().filter(|label| label.system == vocabulary::ACT_CODE && HANDLING.contains(&label.code.as_str()));
        obligations.extend(caveats.cloned().map(Obligation::Handling));
        if open {
            obligations.extend([Obligation::NotifyPatient, Obligation::Review]);
        }
    }
    Verdict { outcome, released, break_glass: open, obligations, consents }
}
