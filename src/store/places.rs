//! Where Consents stand among those that replace one another ([`crate::fhir::series`]), kept in the transaction that writes one.
//!
//! Only one writer of Consents is at work at a time, on PostgreSQL too ([`super::closing`]): so what is read here holds until the end of the transaction.

use super::ResourceKey;
use super::batch::Batch;
use super::gate::{Succession, numbers};
use super::inherit::Connection;
use super::sql::Sql;
use crate::fhir::series::{self, Place, Replaced};
use crate::fhir::time::Micros;
use std::collections::{BTreeMap, BTreeSet};

/// Keys and rows of one statement.
const CHUNK: usize = 200;

/// A place, and the key of the Patient that it names.
type At = (ResourceKey, Place);

/// What becomes of a Consent's place.
#[derive(Debug)]
pub struct Move {
    consent: ResourceKey,
    succession: Succession,
    /// The Patients of its places.
    subjects: Vec<ResourceKey>,
}

impl Move {
    /// `updated`: when the Consent is written. `target` gives the key of a resource.
    pub fn new(
        consent: ResourceKey,
        updated: Micros,
        mut succession: Succession,
        target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>,
    ) -> Move {
        if let Succession::Takes(place) = &mut succession
            && place.recorded == 0
        {
            place.recorded = updated;
        }
        let mut subject = |place: &Place| {
            let (type_name, id) = place.subject.split_once('/')?;
            target(type_name, id)
        };
        let subjects = succession.places().iter().map(|place| subject(place).unwrap_or(0)).collect();
        Move { consent, succession, subjects }
    }

    fn apply(&self, former: Vec<At>) -> Vec<At> {
        let with_keys = || self.subjects.iter().copied().zip(self.succession.places().iter().cloned());
        match &self.succession {
            Succession::Keeps => former,
            Succession::Never => Vec::new(),
            Succession::Has(_) => with_keys().collect(),
            Succession::Takes(_) => {
                let subjects: BTreeMap<String, ResourceKey> =
                    former.iter().cloned().chain(with_keys()).map(|(subject, place)| (place.subject, subject)).collect();
                let places: Vec<Place> = former.into_iter().map(|(_, place)| place).collect();
                let places = with_keys().fold(places, |places, (_, place)| series::after(places, place));
                places.into_iter().map(|place| (subjects.get(&place.subject).copied().unwrap_or(0), place)).collect()
            }
        }
    }
}

/// What a batch's Consents change.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// What others have taken the place of, for each Consent of which that may change.
    pub replaced: BTreeMap<ResourceKey, Replaced>,
    /// All patients whose rules these are, and were.
    pub patients: Vec<ResourceKey>,
}

/// Writes the places of the batch's Consents. Before their rules are written.
pub(super) async fn settle(connection: &mut Connection<'_>, batch: &Batch) -> Result<Settled, sqlx::Error> {
    let mut settled = Settled::default();
    let own = &batch.consents;
    let mut subjects: BTreeSet<ResourceKey> = batch.moves.iter().flat_map(|one| one.subjects.iter().copied()).collect();
    let former = connection.rows_of::<(i64,)>("SELECT DISTINCT patient FROM consent_place WHERE consent IN", own, "").await?;
    subjects.extend(former.into_iter().map(|(patient,)| patient));
    if !subjects.is_empty() {
        let each: Vec<ResourceKey> = subjects.iter().copied().collect();
        let siblings = connection.rows_of::<(i64,)>("SELECT DISTINCT consent FROM consent_place WHERE patient IN", &each, "").await?;
        let siblings: BTreeSet<ResourceKey> = siblings.into_iter().map(|(consent,)| consent).collect();
        let siblings: Vec<ResourceKey> = siblings.into_iter().collect();
        let mut places = stored(connection, &siblings).await?;
        for one in &batch.moves {
            let former = places.remove(&one.consent).unwrap_or_default();
            places.insert(one.consent, one.apply(former));
        }
        write(connection, own, &places).await?;
        settled.replaced = replaced(places, &subjects);
    }
    let concerned: BTreeSet<ResourceKey> = own.iter().chain(settled.replaced.keys()).copied().collect();
    let concerned: Vec<ResourceKey> = concerned.into_iter().collect();
    let ruled = connection.rows_of::<(i64,)>("SELECT DISTINCT patient FROM rule WHERE consent IN", &concerned, "").await?;
    settled.patients = ruled.into_iter().map(|(patient,)| patient).chain(batch.rules.patients()).collect();
    settled.patients.sort_unstable();
    settled.patients.dedup();
    Ok(settled)
}

/// All places of these Consents, in their order.
async fn stored(connection: &mut Connection<'_>, consents: &[ResourceKey]) -> Result<BTreeMap<ResourceKey, Vec<At>>, sqlx::Error> {
    let rows = connection.rows_of::<(i64, i64, String)>(
        "SELECT consent, patient, place FROM consent_place WHERE consent IN",
        consents,
        " ORDER BY consent, nth",
    );
    let mut places: BTreeMap<ResourceKey, Vec<At>> = BTreeMap::new();
    for (consent, patient, place) in rows.await? {
        let place = serde_json::from_str(&place).map_err(|error| sqlx::Error::Decode(error.into()))?;
        places.entry(consent).or_default().push((patient, place));
    }
    Ok(places)
}

async fn write(
    connection: &mut Connection<'_>,
    consents: &[ResourceKey],
    places: &BTreeMap<ResourceKey, Vec<At>>,
) -> Result<(), sqlx::Error> {
    for chunk in consents.chunks(CHUNK) {
        let mut sql = Sql::new(connection.dialect());
        sql.push("DELETE FROM consent_place WHERE consent IN (");
        numbers(&mut sql, chunk);
        sql.push(")");
        connection.execute(sql).await?;
    }
    let own = places.iter().filter(|(consent, _)| consents.contains(consent));
    let rows: Vec<(ResourceKey, usize, &At)> =
        own.flat_map(|(consent, places)| places.iter().enumerate().map(move |(nth, at)| (*consent, nth, at))).collect();
    for chunk in rows.chunks(CHUNK) {
        let texts = chunk.iter().map(|(.., (_, place))| serde_json::to_string(place)).collect::<Result<Vec<String>, _>>();
        let texts = texts.map_err(|error| sqlx::Error::Encode(error.into()))?;
        let mut sql = Sql::new(connection.dialect());
        sql.push("INSERT INTO consent_place (consent, nth, patient, place) VALUES ");
        sql.join(chunk.iter().zip(&texts), ", ", |sql, ((consent, nth, (patient, _)), text)| {
            sql.push("(").int(*consent).push(", ").int(*nth as i64).push(", ").int(*patient).push(", ").str(text).push(")");
        });
        connection.execute(sql).await?;
    }
    Ok(())
}

/// Of those Consents that stand now in a place of one of these Patients.
fn replaced(places: BTreeMap<ResourceKey, Vec<At>>, subjects: &BTreeSet<ResourceKey>) -> BTreeMap<ResourceKey, Replaced> {
    let mut found = BTreeMap::new();
    for subject in subjects {
        let here = places.iter().filter(|(_, places)| places.iter().any(|(patient, _)| patient == subject));
        let here: Vec<(ResourceKey, Vec<Place>)> =
            here.map(|(consent, places)| (*consent, places.iter().map(|(_, place)| place.clone()).collect())).collect();
        let extents = series::replaced(&here.iter().map(|(_, places)| places.as_slice()).collect::<Vec<_>>());
        for ((consent, _), extent) in here.iter().zip(extents) {
            if places.get(consent).and_then(|places| places.last()).is_some_and(|(patient, _)| patient == subject) {
                found.insert(*consent, extent);
            }
        }
    }
    // One that stands nowhere replaces nothing and is not replaced.
    found.extend(places.iter().filter(|(_, places)| places.is_empty()).map(|(consent, _)| (*consent, Replaced::Nothing)));
    found
}
