//! Who makes a request, and what follows from it.

use super::clients::Client;
use super::{Interaction, Scopes};
use crate::store::{FacilityKey, Scope};
use std::sync::Arc;

/// Who makes a request. Every query is decided under [`Caller::scope`]; every write belongs to [`Caller::owner`].
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's id; `None` under `--auth open` and for lango's own work.
    pub client: Option<String>,
    /// The facility as it was named; `None`: the operator's own organisation.
    pub facility_code: Option<String>,
    /// The facility that owns what this caller sends.
    pub owner: FacilityKey,
    /// What this caller may see.
    pub scope: Scope,
    pub roles: Vec<String>,
    rights: Rights,
}

#[derive(Clone, Debug)]
enum Rights {
    Unrestricted,
    /// Both must allow: a scope that was taken from a client also counts for tokens it got before.
    Scopes {
        registered: Arc<Scopes>,
        granted: Arc<Scopes>,
    },
}

/// The caller's scopes do not reach so far.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this client may not {interaction} {type_name}: its operator can allow it with the scope system/{type_name}.{}", interaction.letter())]
pub struct Forbidden {
    pub type_name: String,
    pub interaction: Interaction,
}

impl Caller {
    /// Every right: `--auth open`, and lango's own work such as `lango import`.
    pub fn unrestricted(owner: FacilityKey, facility_code: Option<String>) -> Caller {
        Caller { client: None, facility_code, owner, scope: Scope::All, roles: Vec::new(), rights: Rights::Unrestricted }
    }

    pub(super) fn of_client(client: Client, owner: FacilityKey, scope: Scope, registered: Arc<Scopes>, granted: Arc<Scopes>) -> Caller {
        Caller {
            client: Some(client.id),
            facility_code: Some(client.facility),
            owner,
            scope,
            roles: client.roles,
            rights: Rights::Scopes { registered, granted },
        }
    }

    /// Whether nothing is hidden from this caller and nothing forbidden.
    pub fn is_unrestricted(&self) -> bool {
        matches!(self.rights, Rights::Unrestricted)
    }

    /// Whether the caller may do this with resources of this type at all. Which resources is [`Caller::scope`]'s to say.
    pub fn allows(&self, type_name: &str, interaction: Interaction) -> bool {
        match &self.rights {
            Rights::Unrestricted => true,
            Rights::Scopes { registered, granted } => registered.allows(type_name, interaction) && granted.allows(type_name, interaction),
        }
    }

    /// [`Caller::allows`] as a result, with words for the client.
    pub fn require(&self, type_name: &str, interaction: Interaction) -> Result<(), Forbidden> {
        if self.allows(type_name, interaction) { Ok(()) } else { Err(Forbidden { type_name: type_name.to_owned(), interaction }) }
    }
}
