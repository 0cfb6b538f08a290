//! Destinations: systems that lango pushes to.
//!
//! A destination is named in `lango.toml` under `[[destinations]]` ([`crate::config::Destination`]). In come what other rooms
//! made (a MeasureReport for [`dhis2`]), out go requests to a foreign system and its verdict, in words that an operator can act
//! on. A delivery is a job in [`crate::outbox`]; a destination says for every try whether it is done, may go better later, or
//! needs a person.
//!
//! A destination must never know how a number was counted or a resource was stored, and it must never put a secret or patient
//! data into an error, a log or a job's result.

pub mod dhis2;
