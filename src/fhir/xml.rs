//! FHIR XML to JSON and back (<https://hl7.org/fhir/R4/xml.html>), for content negotiation only: inside there is JSON.
//!
//! Both ways go by R4's own tables: which elements repeat, which are attributes, what a primitive's text is in JSON, in which
//! order elements stand. What is well formed but no FHIR (a name that R4 does not have, a word where a number should be) is
//! handed on as JSON, so that the validator says of it what it says of the same in JSON.
//!
//! fhirbolt did this before. It drops extensions of a resource's id, takes the id of a boolean for its value, refuses objects in which `resourceType` is not
//! the first member, panics on some documents, and tells nothing of where one is wrong. It is what the tests hold this against, where it can.

mod read;
#[cfg(test)]
mod tests;
mod write;

use super::markup::Fault;
pub use read::to_json;
pub use write::from_json;

/// FHIR's namespace.
const FHIR: &str = "http://hl7.org/fhir";

/// Elements within elements beyond this are refused, narratives apart; of what is less deep the JSON may still be deeper than what is read.
const MAX_DEPTH: usize = 200;

/// Why a document could not be turned into the other form; never quotes the document.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    #[error("the XML is no UTF-8")]
    NotUtf8,
    #[error("the XML is not well formed: {0}")]
    NotWellFormed(#[from] Fault),
    #[error("the XML is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("the XML is no FHIR resource: its root element must be of the namespace {FHIR}")]
    NotFhir,
    /// Something that JSON has no place for.
    #[error("{words}")]
    Misplaced { words: &'static str, expression: String },
    #[error("the resource has no XML form")]
    NoXmlForm,
}
