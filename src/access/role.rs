//! What a client is for.

use std::fmt;
use std::str::FromStr;

/// A role that the operator registered for a client or a person. Rights to types are the scopes' business; a role is what some
/// rules ask for besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Sends and asks for records. What a client without any role is.
    Facility,
    /// Writes Consents.
    ConsentRecorder,
    /// Treats patients: may break the glass.
    Clinician,
    /// Links, merges and looks up identities.
    Registry,
    /// Reads counts.
    Reporting,
    /// Works for whoever runs lango.
    Operator,
}

impl Role {
    pub const ALL: [Role; 6] = [Role::Facility, Role::ConsentRecorder, Role::Clinician, Role::Registry, Role::Reporting, Role::Operator];

    /// As it is registered and claimed: `consent-recorder`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Facility => "facility",
            Role::ConsentRecorder => "consent-recorder",
            Role::Clinician => "clinician",
            Role::Registry => "registry",
            Role::Reporting => "reporting",
            Role::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is one of facility, consent-recorder, clinician, registry, reporting, operator")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Role, UnknownRole> {
        Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}
