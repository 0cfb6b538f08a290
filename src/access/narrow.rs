//! Scopes inside the query: what granular scopes and a patient's context leave of a search, and whether they reach one resource.
//!
//! [`Caller::narrow`] adds conditions to a query, to the chains and `_has` within it too, so that a total, a page or a chain never
//! tells of what the scopes do not reach. [`Caller::admits`] judges one resource at hand (a read, an old version, an include), and
//! [`Caller::admits_entries`] one that is about to be written. What cannot be judged is not reached.

use super::Interaction;
use super::caller::{Bound, Caller, Forbidden, Reach};
use crate::definitions;
use crate::search::ParseOptions;
use crate::search::extract;
use crate::search::matches::{conditions, satisfies};
use crate::store::query::Test;
use crate::store::{Filter, IndexEntry, Query, Stored, TypeCode};
use serde_json::Value;

impl Caller {
    /// Adds to `query` what the scopes demand of every type that it looks at: of its own type for `interaction`, of those that chains lead
    /// through for a search. Refused when a type is not within the scopes at all; of several possible targets of a chain those that
    /// are not are left out.
    pub fn narrow(&self, query: &mut Query, interaction: Interaction, options: &extract::Options) -> Result<(), Forbidden> {
        if self.is_unrestricted() {
            return Ok(());
        }
        let options = ParseOptions::new(options.base.as_str(), options.zone.clone());
        self.narrow_nested(&mut query.filters, &options)?;
        query.filters.extend(self.demands(query.type_code, interaction, &options)?);
        Ok(())
    }

    fn narrow_nested(&self, filters: &mut [Filter], options: &ParseOptions) -> Result<(), Forbidden> {
        for filter in filters {
            match filter {
                Filter::Chain { targets, .. } | Filter::Canonical { targets, .. } => {
                    let mut kept = Vec::with_capacity(targets.len());
                    let mut refused = None;
                    for (type_code, mut filters) in std::mem::take(targets) {
                        let added =
                            self.narrow_nested(&mut filters, options).and_then(|()| self.demands(type_code, Interaction::Search, options));
                        match added {
                            Ok(added) => {
                                filters.extend(added);
                                kept.push((type_code, filters));
                            }
                            // The type that is meant most likely stands first.
                            Err(forbidden) => refused = refused.or(Some(forbidden)),
                        }
                    }
                    if let (true, Some(forbidden)) = (kept.is_empty(), refused) {
                        return Err(forbidden);
                    }
                    *targets = kept;
                }
                Filter::Has { source, filters, .. } | Filter::HasCanonical { source, filters, .. } => {
                    self.narrow_nested(filters, options)?;
                    filters.extend(self.demands(*source, Interaction::Search, options)?);
                }
                Filter::Any(filters) | Filter::All(filters) | Filter::Contained { filters, .. } => self.narrow_nested(filters, options)?,
                // What the scopes hide within counts as not there, here as everywhere.
                Filter::Not(filter) => self.narrow_nested(std::slice::from_mut(filter), options)?,
                Filter::Param { .. }
                | Filter::NotParam { .. }
                | Filter::Missing { .. }
                | Filter::Id(_)
                | Filter::LastUpdated { .. }
                | Filter::OfType(_)
                | Filter::Nothing => {}
            }
        }
        Ok(())
    }

    /// What a resource of whatever type must satisfy for a search to give it back because of what it contains.
    pub fn containers(&self, options: &extract::Options) -> Vec<Filter> {
        if self.is_unrestricted() {
            return Vec::new();
        }
        let options = ParseOptions::new(options.base.as_str(), options.zone.clone());
        let (mut whole, mut ways) = (Vec::new(), Vec::new());
        for type_code in (0..).take(definitions::r4().resource_types().len()) {
            match self.demands(type_code, Interaction::Search, &options) {
                Ok(demands) if demands.is_empty() => whole.push(type_code),
                Ok(demands) => ways.push(Filter::All([vec![Filter::OfType(vec![type_code])], demands].concat())),
                Err(_) => {}
            }
        }
        ways.push(Filter::OfType(whole));
        vec![Filter::Any(ways)]
    }

    /// The conditions that the scopes put on this interaction with resources of this type.
    fn demands(&self, type_code: TypeCode, interaction: Interaction, options: &ParseOptions) -> Result<Vec<Filter>, Forbidden> {
        let type_name = definitions::r4().type_name(type_code);
        match self.reach(type_name, interaction) {
            Reach::Everything => Ok(Vec::new()),
            Reach::Nothing => Err(self.forbidden(type_name, interaction)),
            Reach::Within(bounds) => {
                let mut all: Vec<Vec<Filter>> = bounds.iter().map(|bound| bound.filters(type_code, options)).collect();
                Ok(match all.len() {
                    // Flat, so that the index of one of its conditions can lead the search.
                    1 => all.pop().unwrap_or_default(),
                    _ => vec![Filter::Any(all.into_iter().map(Filter::All).collect())],
                })
            }
        }
    }

    /// Whether the scopes reach this version of a resource for any of these interactions.
    pub fn admits(&self, row: &Stored, interactions: &[Interaction], options: &extract::Options) -> bool {
        match &row.body {
            Some(body) => self.admits_body(row.type_code, &row.id, body, interactions, options),
            // A delete has no content left to judge, so only whoever reaches everything learns of it.
            None => self.reaches_all(row.type_code, interactions),
        }
    }

    /// Whether the scopes reach a resource with this id and this content for any of these interactions.
    pub fn admits_body(
        &self,
        type_code: TypeCode,
        id: &str,
        body: &[u8],
        interactions: &[Interaction],
        options: &extract::Options,
    ) -> bool {
        if self.reaches_all(type_code, interactions) {
            return true;
        }
        let Ok(resource) = serde_json::from_slice::<Value>(body) else { return false };
        self.admits_entries(type_code, id, &extract::extract(type_code, &resource, options), interactions, options)
    }

    /// Whether the scopes reach a resource with this id and these index entries for any of these interactions.
    pub fn admits_entries(
        &self,
        type_code: TypeCode,
        id: &str,
        entries: &[IndexEntry],
        interactions: &[Interaction],
        options: &extract::Options,
    ) -> bool {
        let type_name = definitions::r4().type_name(type_code);
        let options = ParseOptions::new(options.base.as_str(), options.zone.clone());
        interactions.iter().any(|interaction| match self.reach(type_name, *interaction) {
            Reach::Everything => true,
            Reach::Nothing => false,
            Reach::Within(bounds) => bounds.iter().any(|bound| {
                let filters = bound.filters(type_code, &options);
                filters.iter().all(|filter| satisfies(filter, id, entries) == Some(true))
            }),
        })
    }

    /// Whether one of these interactions is allowed on every resource of the type, so that none need be judged.
    pub fn reaches_all(&self, type_code: TypeCode, interactions: &[Interaction]) -> bool {
        let type_name = definitions::r4().type_name(type_code);
        self.is_unrestricted() || interactions.iter().any(|interaction| self.reach(type_name, *interaction) == Reach::Everything)
    }
}

impl Bound {
    /// What a resource of this type must satisfy, all of it.
    fn filters(&self, type_code: TypeCode, options: &ParseOptions) -> Vec<Filter> {
        let mut filters = conditions(type_code, &self.params, options).unwrap_or_else(|| vec![Filter::Nothing]);
        if let Some(patients) = &self.patients {
            filters.extend(in_compartment(type_code, patients));
        }
        filters
    }
}

/// The condition that a resource is in the compartment of one of these Patients; `None`: it is of a type that is about nobody.
fn in_compartment(type_code: TypeCode, patients: &[String]) -> Option<Filter> {
    let definitions = definitions::r4();
    let type_name = definitions.type_name(type_code);
    if extract::is_about_nobody(type_name) {
        return None;
    }
    if type_name == "Patient" {
        return Some(Filter::Id(patients.to_vec()));
    }
    let Some(patient_code) = definitions.type_code("Patient") else { return Some(Filter::Nothing) };
    let params = definitions.patient_compartment(type_code).iter().filter_map(|code| definitions.param(type_code, code));
    let tests = params.map(|param| Filter::Param {
        param: param.id,
        tests: patients.iter().map(|id| Test::Reference { type_codes: vec![patient_code], id: id.clone() }).collect(),
    });
    let tests: Vec<Filter> = tests.collect();
    Some(if tests.is_empty() { Filter::Nothing } else { Filter::Any(tests) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patients_compartment_covers_every_type_one_way_or_another() {
        let definitions = definitions::r4();
        for (type_code, name) in definitions.resource_types().iter().enumerate() {
            let type_code = TypeCode::try_from(type_code).unwrap();
            let condition = in_compartment(type_code, &["p".to_owned()]);
            assert_eq!(condition.is_none(), extract::is_about_nobody(name), "{name}");
            let shut = ["Binary", "Bundle", "Parameters", "MessageHeader", "Subscription"].contains(name);
            assert!(!shut || condition == Some(Filter::Nothing), "{name} could hold anybody's data");
        }
    }
}
