//! Criteria that name another entry of the transaction by its fullUrl, such as `ifNoneExist` with `subject=urn:uuid:…`: what that entry is stored
//! as is put in its place, so that the same Bundle sent again finds what it made.
//!
//! An entry's own criteria may have to be looked up for that, and may name a third: so it goes in rounds.

use super::super::refusal::{Refusal, RefusalKind};
use super::targets::{Key, Settling, new_id};
use super::{Entry, Operation};
use crate::definitions::{self, ParamKind};
use crate::fhir::{Issue, IssueCode};
use crate::search::ParseOptions;
use crate::store::TypeCode;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Entries that name one another by their criteria, one after the other.
const MAX_ROUNDS: usize = 8;

impl Settling<'_> {
    /// Rewrites the criteria that name other entries. What is deleted is known.
    pub async fn name_entries(&mut self, entries: &mut [Entry]) -> Result<(), Refusal> {
        if !entries.iter().any(|entry| entry.criteria().is_some_and(|(text, _)| text.contains("urn"))) {
            return Ok(());
        }
        let is_put = |entry: &Entry| !matches!(entry.operation, Operation::Delete { .. } | Operation::DeleteWhere { .. });
        let places = entries.iter().enumerate().filter(|(_, entry)| is_put(entry));
        let urns: HashMap<String, usize> =
            places.filter_map(|(place, entry)| Some((entry.full_url.clone().filter(|url| url.starts_with("urn:"))?, place))).collect();
        let options = self.writer.criteria_options();
        let mut waiting: HashMap<usize, BTreeSet<usize>> = HashMap::new();
        for (place, entry) in entries.iter().enumerate() {
            let Some((text, _)) = entry.criteria() else { continue };
            let mut named = BTreeSet::new();
            replaced(entry.type_code, text, &options, |urn| {
                named.extend(urns.get(urn));
                None
            });
            if !named.is_empty() {
                waiting.insert(place, named);
            }
        }
        // What each is stored as; `None` where its own request has a problem.
        let mut known: HashMap<usize, Option<String>> = HashMap::new();
        for _ in 0..MAX_ROUNDS {
            let wanted: HashSet<usize> = waiting.values().flatten().copied().filter(|place| !known.contains_key(place)).collect();
            let mut ready: Vec<usize> = wanted.into_iter().filter(|place| !waiting.contains_key(place)).collect();
            ready.sort_unstable();
            let of = |place: &usize| entries.get(*place);
            let searches = ready.iter().filter_map(of).filter_map(|entry| self.search_of(entry)).collect();
            self.search(searches).await?;
            for place in ready {
                let id = entries.get(place).and_then(|entry| Some((entry.type_code, self.id_of(place, entry)?)));
                known.insert(place, id.map(|(type_code, id)| format!("{}/{id}", definitions::r4().type_name(type_code))));
            }
            let settled: Vec<usize> =
                waiting.iter().filter(|(_, named)| named.iter().all(|place| known.contains_key(place))).map(|(place, _)| *place).collect();
            for place in &settled {
                waiting.remove(place);
                let Some(entry) = entries.get_mut(*place) else { continue };
                let type_code = entry.type_code;
                if let Operation::Create { criteria: Some(criteria) }
                | Operation::UpdateWhere { criteria, .. }
                | Operation::PatchWhere { criteria, .. } = &mut entry.operation
                {
                    *criteria = replaced(type_code, criteria, &options, |urn| known.get(urns.get(urn)?)?.clone());
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if settled.is_empty() {
                break;
            }
        }
        let mut left: Vec<usize> = waiting.into_keys().collect();
        left.sort_unstable();
        for entry in left.into_iter().filter_map(|place| entries.get(place)) {
            let Some((_, element)) = entry.criteria() else { continue };
            let words = format!(
                "These criteria name an entry by its fullUrl whose own criteria lead back here, or on for more than {MAX_ROUNDS} entries: name \
                 it by an identifier."
            );
            let refusal = Refusal::new(RefusalKind::Malformed, Issue::error(IssueCode::NotSupported, words));
            self.problems.add(&entry.request_path(element), refusal);
        }
        Ok(())
    }

    /// The id that the entry's resource has or will have.
    fn id_of(&mut self, place: usize, entry: &Entry) -> Option<String> {
        let criteria = match &entry.operation {
            Operation::Update { id, .. } | Operation::Patch { id, .. } => return Some(id.clone()),
            Operation::Create { criteria: None } => return Some(self.given.entry(place).or_insert_with(new_id).clone()),
            Operation::Create { criteria: Some(criteria) }
            | Operation::UpdateWhere { criteria, .. }
            | Operation::PatchWhere { criteria, .. } => criteria,
            Operation::Delete { .. } | Operation::DeleteWhere { .. } => return None,
        };
        let key: Key = (entry.type_code, criteria.clone());
        let found = self.found.get(&key)?;
        match (self.alive(entry.type_code, found).as_slice(), &entry.operation) {
            ([one], _) => Some(one.id.to_string()),
            ([], Operation::Create { .. }) => {
                let meaning = (entry.type_code, found.criteria.meaning());
                Some(self.given_by_meaning.entry(meaning).or_insert_with(new_id).clone())
            }
            ([], Operation::UpdateWhere { .. }) => match entry.own_id() {
                Some(id) => Some(id.to_owned()),
                None => Some(self.given.entry(place).or_insert_with(new_id).clone()),
            },
            _ => None,
        }
    }
}

/// The criteria with what `of` gives in the place of urns that are the values of references.
fn replaced(type_code: TypeCode, criteria: &str, options: &ParseOptions, mut of: impl FnMut(&str) -> Option<String>) -> String {
    let type_name = definitions::r4().type_name(type_code);
    let query =
        criteria.split_once('?').filter(|(before, _)| *before == type_name || before.is_empty()).map_or(criteria, |(_, query)| query);
    let is_reference = |key: &str| {
        let (code, modifier) = key.split_once(':').unwrap_or((key, "Any"));
        modifier.starts_with(|c: char| c.is_ascii_uppercase())
            && options.param(type_code, code).is_some_and(|param| param.kind == ParamKind::Reference)
    };
    let mut written = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if !(value.contains("urn:") && is_reference(&key)) {
            written.append_pair(&key, &value);
            continue;
        }
        let values = value.split(',').map(|one| if one.starts_with("urn:") { of(one) } else { None }.unwrap_or_else(|| one.to_owned()));
        written.append_pair(&key, &values.collect::<Vec<_>>().join(","));
    }
    written.finish()
}
