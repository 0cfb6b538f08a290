//! What Consents permit no longer by what a write says of Patients: a guardian's permit ends when the patient is of age, and what one permits of another ends
//! when what is said of the two does not agree any more. It is never made wider but by writing the Consent again.

use super::super::write::Writer;
use crate::access::consent;
use crate::definitions;
use crate::fhir::time::Micros;
use crate::registry::Told;
use crate::store::covered::Narrowing;
use crate::store::write::Change;
use crate::store::{Mutation, TypeCode};
use serde_json::Value;
use std::collections::BTreeSet;

/// What goes into the unit that says it.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Narrowed {
    pub narrowing: Option<Narrowing>,
    /// What this rests on besides.
    pub unchanged: Vec<(TypeCode, Box<str>, i64)>,
}

impl Writer {
    /// What Consents permit no longer once these are made.
    pub(in crate::ingest) async fn narrowed(&self, mutations: &[Mutation]) -> Result<Narrowed, sqlx::Error> {
        let r4 = definitions::r4();
        // Of somebody new nothing was said that a permit could rest on.
        let patients = mutations.iter().filter(|mutation| mutation.base_version > 0 && r4.type_name(mutation.type_code) == "Patient");
        let told: Told = patients
            .filter_map(|mutation| match &mutation.change {
                Change::Put { body, .. } => Some((mutation.id.clone(), serde_json::from_slice(body).ok())),
                Change::Delete { .. } | Change::Purge { .. } => Some((mutation.id.clone(), None)),
                Change::Reindex { .. } => None,
            })
            .collect();
        if told.is_empty() {
            return Ok(Narrowed::default());
        }
        let mut narrowing = self.registry().narrowing(told.keys().map(|id| &**id)).await?;
        if narrowing.permits().is_empty() {
            return Ok(Narrowed { narrowing: Some(narrowing), unchanged: Vec::new() });
        }
        let mut consents = self.store().permitting(narrowing.permits()).await?;
        // What is written with it is read by what it says.
        let written = |key: &(TypeCode, Box<str>)| mutations.iter().any(|mutation| (mutation.type_code, &mutation.id) == (key.0, &key.1));
        let (own, others): (Vec<_>, Vec<_>) = consents.drain(..).partition(|consent| written(&(consent.type_code, consent.id.clone())));
        narrowing.pass_over(own.iter().map(|consent| consent.key).collect::<BTreeSet<_>>());
        let mut unchanged = self.registry().tell_apart(&mut narrowing, &told).await?;
        for consent in &others {
            unchanged.push((consent.type_code, consent.id.clone(), consent.version));
            let Some(resource) = consent.body.as_ref().and_then(|body| serde_json::from_slice::<Value>(body).ok()) else { continue };
            let patient = self.patient_of(&resource).and_then(|id| told.get(id.as_str()));
            if let Some(patient) = patient.filter(|_| consent::is_guardians(&resource, &self.options().base)) {
                narrowing.end(consent.key, self.of_age(patient.as_ref()).unwrap_or(Micros::MIN));
            }
        }
        Ok(Narrowed { narrowing: Some(narrowing), unchanged })
    }
}
