//! Whose a resource is: who may change it, and who may say that it came from whom.

use super::draft::{Draft, source_facility};
use super::refusal::{Refusal, RefusalKind};
use super::write::{Action, Author};
use crate::access::{Caller, Role};
use crate::fhir::{Issue, IssueCode};
use crate::store::{FacilityKey, Scope, Stored};
use bytes::Bytes;
use serde_json::Value;

/// The operator's own organisation.
pub(super) const OPERATOR: FacilityKey = 0;

/// Nobody says of what is new that another facility sent it; what is stored may go on saying it.
pub(super) fn check_source(action: &Action, live: Option<&Stored>, caller: &Caller) -> Result<(), Refusal> {
    let Action::Put(Draft { source: Some(source), .. }) = action else { return Ok(()) };
    let is_of = |body: &Bytes| serde_json::from_slice::<Value>(body).is_ok_and(|before| source_facility(&before) == Some(&**source));
    if caller.facility_code.as_deref() == Some(&**source) || live.and_then(|live| live.body.as_ref()).is_some_and(is_of) {
        return Ok(());
    }
    let words = "names another facility than the one that is sending: leave it out, or name your own";
    Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words).at("meta.source")))
}

/// Whether a resource of this owner is the author's to change.
pub(super) fn may_change(author: &Author, type_name: &str, owner: FacilityKey) -> bool {
    author.scope == Scope::All
        || author.scope.owners().contains(&owner)
        || owner == OPERATOR && keeps_directory(author) && DIRECTORY.contains(&type_name)
}

/// Types by which facilities and people are known. What those who keep the directory write of them is the operator's word, which
/// consents and requesters are matched by.
pub(super) const DIRECTORY: [&str; 8] =
    ["CareTeam", "Group", "HealthcareService", "Location", "Organization", "OrganizationAffiliation", "Practitioner", "PractitionerRole"];

pub(super) fn keeps_directory(author: &Author) -> bool {
    author.caller.as_ref().is_some_and(|caller| caller.has_role(Role::Registry) || caller.has_role(Role::Operator))
}

/// Whether the author is somebody who logs in for patients, and so changes nothing of the facility that they come from. What they say in a Consent is kept at
/// the desk, where they can take it back.
pub(super) fn is_for_patients(author: &Author) -> bool {
    matches!(&author.scope, Scope::Gate(gate) if gate.own.is_some())
}
