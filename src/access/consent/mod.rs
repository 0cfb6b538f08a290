//! What the patient allows: the consent decision, a pure function.
//!
//! [`Consent::read`] takes a FHIR R4 `Consent` and makes it a tree of rules ([`Provision`]); [`facts`] takes a resource and says what of it a consent can
//! speak of ([`ResourceFacts`]); a [`Requester`] says who asks, what for and when. [`decide`] walks the trees and gives a [`Verdict`]. [`compile`] makes the
//! same consent a flat list of [`Rule`]s that a database evaluates inside a query, and [`evaluate_rules`] reads them in Rust; tests hold the two, and a
//! third reading from the words of the specification, against each other. [`labels_on_arrival`] says which security labels a resource gets on arrival.
//!
//! The rules of precedence are told in `docs/consent.md`. Above all of them stands one: what is not understood, not said or not known never opens and
//! always closes ([`Truth`]). An exception narrows the rule that it stands in; the deepest matching rule wins; of several a deny wins.
//!
//! How a query uses it:
//! - when a Consent is written: [`Consent::read`], for each covered patient [`in_force`] over all its consents, then [`compile`]. A row per [`Rule`]: its
//!   [`Audience`] interned by [`Audience::key`], `precedence as u8`, `from`, `until`, `data_period`, its clauses of interned [`Fact`]s (`as_str`);
//! - when a resource is written: [`facts`] (plus inherited labels and the contributor as author), [`ResourceFacts::flatten`], `time`;
//! - per request: [`Audience::matches`] for the audiences that are there; then in the query, per resource, the minimum precedence of the rules that match and whose
//!   children do not: 1 or 3 is a permit, 0 or 2 a deny, none is [`ImplicitPolicy::admits`] and [`ImplicitPolicy::clause`]. Break-glass
//!   ([`Requester::breaks_glass`]) opens unless an effective deny has `names_emergency` or the resource has one of [`Deployment::exempt_facts`].
//!
//! It must never know a store, HTTP, a clock, or which consents cover which patient.

mod compile;
mod decide;
mod facts;
mod guardian;
mod labels;
mod model;
mod policy;
mod read;
mod requester;
pub mod vocabulary;

#[cfg(test)]
mod tests;

pub use compile::{Compiled, Rule, compile, evaluate_rules};
pub use decide::{decide, might_release};
pub use facts::{Fact, ResourceFacts, facts, period};
pub use guardian::is_guardians;
pub use labels::{SENSITIVE_SETS, Sensitive, WORDS, any_sensitive, handed_on, labels_of_bundle, labels_on_arrival, security};
pub use model::{
    Action, Actor, AnyOf, Class, Consent, ConsentVersion, Data, Effect, Name, Precedence, Provision, Reached, Standing, Truth, in_force,
};
pub use policy::{Deployment, ImplicitPolicy, Obligation, Outcome, Verdict};
pub use read::{ConsentError, MAX_DEPTH, MAX_PROVISIONS, MAX_VALUES, Reading, is_in_force, names_of, organisations_of};
pub use requester::{Audience, Requester, SOMEBODY, operators};
