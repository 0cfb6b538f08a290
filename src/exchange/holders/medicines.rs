//! What the medicines tell that a holder's records name, so that these are labelled as if they had arrived here: by the medicines that the holder
//! answered too, whatever these are made of, and by those that are stored here under the same identifier. The holder's ids mean nothing here.
//!
//! A holder often leaves out what its records name. A medicine that is told of nowhere may be any: its record is decided on as one that has every label
//! of the value sets, and it is not said of it that it has them.

use crate::access::consent::vocabulary::Coding;
use crate::access::consent::{any_sensitive, security};
use crate::access::gate::label_of;
use crate::ingest::draft::Making;
use crate::search::extract::{self, MEDICINES, NamedMedicine, Options};
use crate::store::{CalledMedicine, MEDICINES_DEEP, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What those tell that are stored here; `None`: something that has no words.
pub type Here = BTreeMap<CalledMedicine, Option<BTreeSet<Coding>>>;

/// The identifiers that the medicines may have which these resources name.
pub fn called(resources: &[Value], options: &Options) -> BTreeSet<CalledMedicine> {
    resources.iter().flat_map(|resource| extract::named_medicines(resource, options)).filter_map(|named| owned(named.called?)).collect()
}

/// What is stored under these.
pub async fn here(store: &Store, called: &BTreeSet<CalledMedicine>) -> Result<Here, sqlx::Error> {
    let told = store.medicines_called(called).await?;
    Ok(told.into_iter().map(|(called, labels)| (called, labels.into_iter().map(label_of).collect())).collect())
}

fn owned((system, value): (&str, &str)) -> Option<CalledMedicine> {
    (!value.is_empty()).then(|| (system.to_owned(), value.to_owned()))
}

/// A medicine as another resource of the holder names it.
#[derive(Clone, Debug)]
struct Name {
    id: Option<String>,
    called: Option<CalledMedicine>,
    is_one: bool,
}

#[derive(Debug)]
struct Medicine {
    labels: BTreeSet<Coding>,
    names: Vec<Name>,
}

/// The medicines that are told of.
pub struct Medicines {
    /// References as the holder means them.
    options: Options,
    answered: Vec<Medicine>,
    by_id: HashMap<String, Vec<usize>>,
    /// By an identifier's value: its system.
    by_value: HashMap<String, Vec<(String, usize)>>,
    here: Here,
}

/// What the medicines tell that one resource names.
#[derive(Default)]
pub struct Told {
    pub labels: BTreeSet<Coding>,
    /// Labels that it may have, because nobody tells what it names.
    pub perhaps: BTreeSet<Coding>,
}

impl Medicines {
    /// Those of an answer, and `here`.
    pub fn new(resources: &[Value], options: Options, making: &Making, here: Here) -> Medicines {
        let mut found = Medicines { options, answered: Vec::new(), by_id: HashMap::new(), by_value: HashMap::new(), here };
        for resource in resources {
            let text = |key: &str| resource.get(key).and_then(Value::as_str);
            let Some(type_name) = text("resourceType").filter(|name| MEDICINES.contains(name)) else { continue };
            let place = found.answered.len();
            if let Some(id) = text("id") {
                found.by_id.entry(format!("{type_name}/{id}")).or_default().push(place);
            }
            for identifier in resource.get("identifier").and_then(Value::as_array).into_iter().flatten() {
                let part = |key: &str| identifier.get(key).and_then(Value::as_str).unwrap_or_default();
                if let Some((system, value)) = owned((part("system"), part("value"))) {
                    found.by_value.entry(value).or_default().push((system, place));
                }
            }
            let mut labels = making.sensitive.labels_of(resource);
            labels.extend(security(resource));
            let names = found.names(resource);
            found.answered.push(Medicine { labels, names });
        }
        found
    }

    fn names(&self, resource: &Value) -> Vec<Name> {
        let name = |NamedMedicine { id, called, is_one }| Name {
            id: id.map(|(type_name, id)| format!("{type_name}/{id}")),
            called: called.and_then(owned),
            is_one,
        };
        extract::named_medicines(resource, &self.options).into_iter().map(name).collect()
    }

    /// Places of those that the holder answered.
    fn answered(&self, name: &Name) -> BTreeSet<usize> {
        let by_id = name.id.as_ref().and_then(|id| self.by_id.get(id)).into_iter().flatten().copied();
        let by_value = name.called.iter().flat_map(|(system, value)| {
            let of = self.by_value.get(value).into_iter().flatten();
            of.filter(move |(of, _)| system.is_empty() || of == system).map(|(_, place)| *place)
        });
        by_id.chain(by_value).collect()
    }

    /// What the medicines tell that a resource names, and what these are made of.
    pub fn told(&self, resource: &Value) -> Told {
        let mut told = Told::default();
        let (mut names, mut seen) = (self.names(resource), BTreeSet::new());
        let mut is_unknown = false;
        for _ in 0..MEDICINES_DEEP {
            let mut next = Vec::new();
            for name in names {
                let answered = self.answered(&name);
                match name.called.as_ref().and_then(|called| self.here.get(called)) {
                    Some(Some(labels)) => told.labels.extend(labels.iter().cloned()),
                    Some(None) => is_unknown = true,
                    None => is_unknown |= name.is_one && answered.is_empty(),
                }
                for medicine in answered.into_iter().filter(|place| seen.insert(*place)).filter_map(|place| self.answered.get(place)) {
                    told.labels.extend(medicine.labels.iter().cloned());
                    next.extend(medicine.names.iter().cloned());
                }
            }
            names = next;
        }
        // What lies deeper was not looked at.
        is_unknown |= names.iter().any(|name| {
            let answered = self.answered(name);
            name.is_one && answered.is_empty() || answered.iter().any(|place| !seen.contains(place))
        });
        if is_unknown {
            told.perhaps = any_sensitive();
        }
        told
    }
}
