//! Who is meant: from a Patient or an identifier to all Patients of one person.

use crate::access::audit;
use crate::definitions;
use crate::registry::{Asked, Registry, RegistryError, looks_golden};
use crate::store::{FacilityKey, ResourceKey, Scope, Store};
use std::collections::BTreeSet;

/// How the asker names the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// A source or golden Patient, by id.
    Patient(String),
    Identifier {
        system: String,
        value: String,
    },
}

impl Sought {
    /// The same words for the same question.
    pub fn words(&self) -> String {
        match self {
            Sought::Patient(id) => format!("Patient/{id}"),
            Sought::Identifier { system, value } => format!("{system}|{value}"),
        }
    }
}

/// All Patients of one person; none when nobody is known by that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// Ids of source Patients and of the golden one.
    pub ids: BTreeSet<String>,
    /// The same, as the store numbers them.
    pub keys: Vec<ResourceKey>,
    /// By an id or a facility's own number of a Patient that is hidden from who asks. To them that is nobody's, whatever they see of the person: only an
    /// emergency leads on from it.
    pub by_hidden_name: bool,
}

/// Whom somebody asks for in an emergency.
#[derive(Clone, Debug, Default)]
pub struct Emergency {
    pub person: Person,
    /// Their source Patients, in the same order whoever of them is asked for, and who contributed them.
    pub owners: Vec<(String, FacilityKey)>,
}

impl Person {
    /// Finds the person whatever the caller may see. `scope` is the caller's: where a name is not one person's alone, what it shows goes
    /// before what it hides.
    pub async fn find(registry: &Registry, store: &Store, sought: &Sought, scope: &Scope) -> Result<Person, RegistryError> {
        let (ids, is_shown) = match sought {
            Sought::Patient(id) => (registry.person(id).await?, looks_golden(id) || is_shown(store, id, scope).await?),
            Sought::Identifier { system, value } => match registry.identified(system, value, scope).await {
                // So many Patients are nobody.
                Err(RegistryError::TooMany) => (BTreeSet::new(), true),
                ids => (ids?, registry.leads(system, value, scope).await?),
            },
        };
        Ok(Person { by_hidden_name: !is_shown, ..Person::of(store, ids).await? })
    }

    /// Whom the asker may be answered of, but in an emergency.
    pub fn as_named(&self) -> Person {
        if self.by_hidden_name { Person::default() } else { self.clone() }
    }

    /// Those of them whom an emergency of this question means ([`Registry::meant`]).
    pub async fn in_emergency(
        &self,
        registry: &Registry,
        store: &Store,
        sought: &Sought,
        scope: &Scope,
    ) -> Result<Emergency, RegistryError> {
        let asked = match sought {
            Sought::Patient(id) => Asked::Patient(id),
            Sought::Identifier { system, value } => Asked::Identifier(system, value),
        };
        let meant = registry.meant(&self.ids, &asked, scope.owners()).await?;
        let ids = meant.owners.iter().map(|(id, _)| id).chain(&meant.golden).cloned().collect();
        Ok(Emergency { person: Person::of(store, ids).await?, owners: meant.owners })
    }

    /// Has it recorded that they were asked for, so that whoever of them is hidden is told to be denied.
    pub fn is_asked_for(&self) {
        let (Some(trail), Some(patient)) = (audit::current(), definitions::r4().type_code("Patient")) else { return };
        // The golden one is lango's own, and nobody's to be denied.
        let sources = self.ids.iter().filter(|id| !looks_golden(id));
        trail.names(sources.map(|id| (patient, id.as_str().into())));
    }

    /// The person who is known by these ids.
    pub async fn of(store: &Store, ids: BTreeSet<String>) -> Result<Person, sqlx::Error> {
        let Some(patient) = definitions::r4().type_code("Patient") else { return Ok(Person::default()) };
        let keys = store.keys_of(patient, &ids.iter().cloned().collect::<Vec<_>>()).await?;
        Ok(Person { ids, keys, by_hidden_name: false })
    }
}

async fn is_shown(store: &Store, id: &str, scope: &Scope) -> Result<bool, sqlx::Error> {
    let Some(patient) = definitions::r4().type_code("Patient") else { return Ok(false) };
    Ok(store.read(patient, id, scope).await?.is_some_and(|stored| stored.body.is_some()))
}
