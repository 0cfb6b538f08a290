//! HTTP: routes, extractors and content negotiation, and nothing that another room should decide.
//!
//! In come requests that the gate ([`auth`]) has given a [`Caller`](crate::access::Caller); out go answers. [`fhir`] is the
//! FHIR REST API, [`hdu`] the HDU API, [`console`] the operator's pages, [`ops`] what the operator's tools ask. Bodies are read with bounded memory ([`body`]),
//! forms are negotiated ([`negotiate`]), and a failure becomes an OperationOutcome in one place ([`error`]): whatever comes in,
//! it is the sender's error, never a 500.
//!
//! This room must never know SQL, nor how a search or a transaction is carried out.

pub mod audit;
pub mod auth;
pub mod body;
pub mod connections;
pub mod console;
pub mod error;
pub mod fhir;
pub mod front;
pub mod hdu;
pub mod in_words;
pub mod limits;
pub mod login;
pub mod negotiate;
pub mod oauth;
pub mod ops;
pub mod pages;
pub mod picker;
mod repeat;
pub mod state;
pub mod tls;

pub use state::FhirState;
