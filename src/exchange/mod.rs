//! A person's records, from all who hold some, for one who asks.
//!
//! In come a caller and a way to name a person ([`person`]); out come what the store must be asked ([`crate::store::records::Records`]) and the
//! scope to ask it under. The person is found whatever the caller may see, because consent is given by the person and not by the
//! facility whose number was used; nothing of what was found leaves but by a query under the caller's scope, so a person whom nobody
//! knows and one who allows nothing look the same.
//!
//! In an emergency the scope may be a wider one: [`break_glass`] says when, for whom, and that the patient and the privacy
//! officer are told in the transaction that opens it. Who lacks a consent can ask for one ([`consent_request`]). Both are told of by [`notice`]s. [`pace`] bounds how often anybody may ask.
//!
//! Records that stay with their facility are asked for there, and decided on one by one ([`holders`]).
//!
//! It must know nothing of the HTTP that lango answers, and must not decide what a consent allows: that is [`crate::access`].

pub mod break_glass;
pub mod consent_request;
pub mod holders;
pub mod notice;
pub mod pace;
pub mod person;

pub use break_glass::Glass;
pub use holders::{Away, Holders, Wanted};
pub use pace::Pace;
pub use person::{Emergency, Person, Sought};
