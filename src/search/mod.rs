//! Search: from a query string to what the store is asked, and from what it finds to a searchset Bundle.
//!
//! In come the decoded parameters of a request and a scope that the caller decided ([`parse::parse`]); out come a typed
//! [`crate::store::Query`] with everything around it ([`SearchRequest`]) or every problem of the request at once. The same
//! reading serves conditional create, update and references ([`conditional`]). [`respond::run`] executes a request and
//! joins the stored bytes into a Bundle; bodies are parsed only when `_summary` or `_elements` asks for less than the
//! whole. Pages continue by a sealed token ([`cursor`]). [`extract`] goes the other way: from a resource to the
//! index entries that it can be found by. [`capability`] tells what all of this accepts.
//!
//! Nothing is silently unfiltered: a parameter that cannot be honoured is an error or a warning in the answer, and the
//! `self` link names exactly what was used.
//!
//! This room must never know SQL, HTTP or who is asking; a scope is handed in and handed on.

mod bindings;
pub mod capability;
pub mod conditional;
pub mod contained;
mod controls;
pub mod cursor;
mod expression;
pub mod extract;
mod filter;
mod include;
mod lex;
pub mod matches;
mod media_type;
pub mod own;
pub mod parse;
pub mod respond;
mod special;
pub mod subset;
pub mod suggest;
mod text;
mod value;

pub use lex::{check_encoding, escape};

pub use conditional::conditional;
pub use cursor::{CursorError, CursorKey};
pub use filter::{by_identifier, in_compartment, shown};
pub use parse::{Include, Over, ParseOptions, SearchRequest, Summary, Total, parse, parse_over};
pub use respond::{Admits, RunContext, SearchError, run};
