//! Who makes a request, and what follows from it.

use super::claimed::Claimed;
use super::clients::Client;
use super::consent::Requester;
use super::people::Person;
use super::scopes::{Context, Params};
use super::{Interaction, Role, Scopes};
use crate::fhir::time::now;
use crate::store::gate::Gate;
use crate::store::{FacilityKey, Scope, Store};
use std::sync::Arc;

/// Who makes a request. Every query is decided under [`Caller::scope`] and narrowed by [`Caller::narrow`]; every write belongs
/// to [`Caller::owner`].
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's id; `None` under `--auth open` and for lango's own work.
    pub client: Option<String>,
    /// The person who logged in, if one did.
    pub person: Option<String>,
    /// The facility as it was named; `None`: the operator's own organisation.
    pub facility_code: Option<String>,
    /// The facility that owns what this caller sends.
    pub owner: FacilityKey,
    /// What this caller may see.
    pub scope: Scope,
    /// Registered, and narrowed by what was claimed; see [`Caller::has_role`].
    pub roles: Vec<Role>,
    /// Purposes of use, acting practitioner and reason, as they were signed. A claimed organisation is `facility_code` itself.
    pub claimed: Arc<Claimed>,
    /// The Patient whose compartment `patient/` scopes reach: the launch context, or the person's own.
    pub patient: Option<Arc<str>>,
    /// All Patients of the same person, that one included.
    pub patients: Arc<[String]>,
    /// Whether who logged in picked that patient: `patient/` scopes reach no further, `user/` scopes do.
    pub picked: bool,
    /// When the access token ends, in seconds since 1970; `None`: no token was used.
    pub expires: Option<i64>,
    /// The token's `jti`, for the audit.
    pub token: Option<Arc<str>>,
    /// What it is to a Consent: the words from which [`Caller::scope`] was made.
    pub requester: Arc<Requester>,
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
#[error("this client may not {interaction} {type_name}: its operator can allow it with the scope {context}/{type_name}.{}", interaction.letter())]
pub struct Forbidden {
    pub type_name: String,
    pub interaction: Interaction,
    context: &'static str,
}

/// What of a type's resources the caller's scopes reach for an interaction, before facility and consent are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    Nothing,
    /// What satisfies any of these.
    Within(Vec<Bound>),
    Everything,
}

/// One way in which a granular scope, or one of a patient's context, reaches a resource: all of it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// In the compartment of one of these Patients, who are one person.
    pub patients: Option<Arc<[String]>>,
    /// The search parameters of the scope.
    pub params: Params,
}

/// What a token adds to its client.
#[derive(Clone, Debug, Default)]
pub(super) struct Presented {
    pub scopes: Arc<Scopes>,
    pub claimed: Arc<Claimed>,
    pub person: Option<String>,
    pub patient: Option<Arc<str>>,
    pub patients: Arc<[String]>,
    pub picked: bool,
    pub expires: Option<i64>,
    pub token: Option<Arc<str>>,
    /// The newest closing before the client was looked up.
    pub closings: Option<i64>,
}

impl Caller {
    /// Every right: `--auth open`, and lango's own work such as `lango import`.
    pub fn unrestricted(owner: FacilityKey, facility_code: Option<String>) -> Caller {
        Caller {
            client: None,
            person: None,
            facility_code,
            owner,
            scope: Scope::All,
            roles: Role::ALL.to_vec(),
            claimed: Arc::default(),
            patient: None,
            patients: Arc::default(),
            picked: false,
            expires: None,
            token: None,
            requester: Arc::new(Requester::unknown(0)),
            rights: Rights::Unrestricted,
        }
    }

    pub(super) fn of_client(
        client: Client,
        owner: FacilityKey,
        scope: Scope,
        roles: Vec<Role>,
        requester: Requester,
        presented: Presented,
    ) -> Caller {
        Caller {
            rights: Rights::Scopes { registered: Arc::new(Scopes::of_registered(&client.scopes)), granted: presented.scopes },
            client: Some(client.id),
            person: presented.person,
            facility_code: Some(client.facility),
            owner,
            scope,
            roles,
            claimed: presented.claimed,
            patient: presented.patient,
            patients: presented.patients,
            picked: presented.picked,
            expires: presented.expires,
            token: presented.token,
            requester: Arc::new(requester),
        }
    }

    /// The same caller, deciding as of now.
    pub async fn again(&self, store: &Store) -> Result<Caller, sqlx::Error> {
        let Scope::Gate(gate) = &self.scope else { return Ok(self.clone()) };
        let since = store.closings().await?;
        let gate = Gate { since, now: now(), ..Gate::clone(gate) };
        let requester = Requester { now: gate.now, ..Requester::clone(&self.requester) };
        Ok(Caller { scope: Scope::Gate(Arc::new(gate)), requester: Arc::new(requester), ..self.clone() })
    }

    /// A person at lango's own pages: roles, and no right to any resource.
    pub(super) fn of_session(person: Person, owner: FacilityKey, roles: Vec<Role>, session: Arc<str>) -> Caller {
        Caller {
            client: None,
            person: Some(person.id),
            facility_code: Some(person.facility),
            owner,
            scope: Scope::Owners(Vec::new()),
            roles,
            claimed: Arc::new(Claimed { practitioner: person.practitioner, ..Claimed::default() }),
            patient: None,
            patients: Arc::default(),
            picked: false,
            expires: None,
            token: Some(session),
            requester: Arc::new(Requester::unknown(0)),
            rights: Rights::Scopes { registered: Arc::default(), granted: Arc::default() },
        }
    }

    /// Whether nothing is hidden from this caller and nothing forbidden.
    pub fn is_unrestricted(&self) -> bool {
        matches!(self.rights, Rights::Unrestricted)
    }

    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether the caller may do this with some resources of this type. Which ones is [`Caller::scope`]'s and [`Caller::reach`]'s to say.
    pub fn allows(&self, type_name: &str, interaction: Interaction) -> bool {
        self.reach(type_name, interaction) != Reach::Nothing
    }

    /// [`Caller::allows`] as a result, with words for the client.
    pub fn require(&self, type_name: &str, interaction: Interaction) -> Result<(), Forbidden> {
        if self.allows(type_name, interaction) { Ok(()) } else { Err(self.forbidden(type_name, interaction)) }
    }

    /// [`Caller::require`] for what works on all resources of a type at once, such as a measure or a payload that is split into
    /// resources: scopes that reach only some of them are not enough.
    pub fn require_all(&self, type_name: &str, interaction: Interaction) -> Result<(), Forbidden> {
        if self.reach(type_name, interaction) == Reach::Everything { Ok(()) } else { Err(self.forbidden(type_name, interaction)) }
    }

    pub(super) fn forbidden(&self, type_name: &str, interaction: Interaction) -> Forbidden {
        Forbidden { type_name: type_name.to_owned(), interaction, context: if self.person.is_some() { "user" } else { "system" } }
    }

    /// What of this type the scopes reach, registered and granted ones together. `system/` scopes are a program's, `user/` and
    /// `patient/` ones a person's; without a patient's context, `patient/` scopes reach nothing.
    pub fn reach(&self, type_name: &str, interaction: Interaction) -> Reach {
        let Rights::Scopes { registered, granted } = &self.rights else { return Reach::Everything };
        let mut bounds: Vec<Bound> = Vec::new();
        for (context, asked) in granted.covering(type_name, interaction) {
            for (_, allowed) in registered.covering(type_name, interaction).filter(|(registered, _)| *registered == context) {
                let patients = match (context, &self.person, &self.patient) {
                    (Context::System, None, None) => None,
                    (Context::User, Some(_), None) => None,
                    (Context::User, Some(_), Some(_)) if self.picked => None,
                    (Context::User, Some(_), Some(_)) | (Context::Patient, _, Some(_)) => Some(Arc::clone(&self.patients)),
                    _ => continue,
                };
                let mut params: Params = asked.iter().chain(allowed).cloned().collect();
                params.sort();
                params.dedup();
                if patients.is_none() && params.is_empty() {
                    return Reach::Everything;
                }
                let bound = Bound { patients, params };
                if !bounds.contains(&bound) {
                    bounds.push(bound);
                }
            }
        }
        if bounds.is_empty() { Reach::Nothing } else { Reach::Within(bounds) }
    }
}
