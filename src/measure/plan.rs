//! A Measure, compiled: one fact query and the tables that the fold counts by.

mod columns;
mod compile;

use super::fold::{CodeGroups, Tables};
use super::period::ReportPeriod;
use crate::definitions::TypeCode;
use crate::fhir::{Interval, Issue};
use crate::store::query::{DateOp, Filter, Query, Test};
use crate::store::{FactColumn, FactQuery, ParamId, Scope};
use jiff::tz::TimeZone;
use serde_json::Value;
use std::collections::HashMap;

/// What a Measure asks of terminology.
pub trait Terms: Sync {
    /// The members of a value set as codings, in its order. `None` when it is not known or cannot be listed.
    fn members(&self, value_set: &str) -> Option<Vec<Value>>;
    /// Where a code leads in a ConceptMap: (system, code). `None` when nowhere.
    fn translate(&self, map: &str, system: &str, code: &str) -> Option<(String, String)>;
}

/// What the report says about a stratifier: its code and its components.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StratifierNames {
    pub code: Option<Value>,
    pub components: Vec<ComponentNames>,
}

/// A component's code and its possible values, as codings.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ComponentNames {
    pub code: Value,
    pub values: Vec<Value>,
}

/// What the report says about a group.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GroupNames {
    pub code: Value,
    pub population: Value,
}

/// A compiled Measure.
#[derive(Clone, Debug)]
pub struct MeasurePlan {
    /// `url|version`.
    pub canonical: String,
    /// `url`, which the reports' ids are made from.
    pub url: String,
    pub(super) improvement: Option<Value>,
    pub(super) groups: Vec<GroupNames>,
    pub(super) stratifiers: Vec<StratifierNames>,
    pub(super) tables: Tables,
    base: TypeCode,
    /// What the queries of all groups have in common.
    filters: Vec<Filter>,
    columns: Vec<FactColumn>,
    /// Groups by the codes that they name: `None` for a code of any system.
    named: HashMap<(Option<i64>, String), Vec<u16>>,
    /// Groups by the code that a ConceptMap must give.
    mapped: HashMap<(String, String), u16>,
    /// The ConceptMaps that the Measure depends on.
    maps: Vec<String>,
    /// The code systems that it depends on, by key: only their codes can be translated.
    systems: HashMap<i64, String>,
}

impl MeasurePlan {
    /// Compiles a Measure resource.
    ///
    /// # Errors
    /// Everything that cannot be evaluated, each with its path.
    pub fn compile(measure: &Value, terms: &dyn Terms) -> Result<MeasurePlan, Vec<Issue>> {
        compile::compile(measure, terms)
    }

    /// What to ask the store for a period. The period is narrowed by the index here and decided exactly by the fold.
    pub fn fact_query(&self, period: ReportPeriod, zone: &TimeZone, scope: Scope) -> Option<FactQuery> {
        let interval = period.interval(zone)?;
        let date = self.columns.get(self.tables.period_column)?;
        let test =
            |op, at| Filter::Param { param: date.leaf, tests: vec![Test::Date { op, interval: Interval { low: at, high: at + 1 } }] };
        let within = vec![test(DateOp::Ge, interval.low), test(DateOp::Lt, interval.high)];
        let mut filters = self.filters.clone();
        match date.hops.as_slice() {
            [] => filters.extend(within),
            hops => filters.push(chained(hops, date.leaf, within)?),
        }
        let base = Query { type_code: self.base, filters: join_chains(filters), scope, sort: Vec::new() };
        Some(FactQuery { base, columns: self.columns.clone(), followed: None })
    }

    /// The groups that a code puts its resource in. `system` is [`system_key`] of the code's system.
    pub fn classify(&self, terms: &dyn Terms, system: i64, code: &str) -> CodeGroups {
        let key = |system| self.named.get(&(system, code.to_owned())).into_iter().flatten().copied();
        let named = key(Some(system)).chain(key(None)).collect();
        let mapped = self.systems.get(&system).and_then(|uri| {
            let itself = self.mapped.get(&(uri.clone(), code.to_owned())).copied();
            itself.or_else(|| self.maps.iter().filter_map(|map| self.mapped.get(&terms.translate(map, uri, code)?).copied()).min())
        });
        CodeGroups { named, mapped }
    }

    /// The counting tables, for [`super::fold::Fold`].
    pub fn tables(&self) -> &Tables {
        &self.tables
    }
}

/// Follows `hops` to `leaf`'s type, where all of `filters` must hold.
fn chained(hops: &[ParamId], leaf: ParamId, filters: Vec<Filter>) -> Option<Filter> {
    let mut at = type_of(leaf);
    let mut inner = filters;
    for hop in hops.iter().rev() {
        inner = vec![Filter::Chain { param: *hop, targets: vec![(at, inner)] }];
        at = type_of(*hop);
    }
    inner.pop()
}

fn type_of(param: ParamId) -> TypeCode {
    TypeCode::try_from(param >> 12).unwrap_or(TypeCode::MAX)
}

/// Conditions on what the same reference leads to are asked of the same target at once.
fn join_chains(filters: Vec<Filter>) -> Vec<Filter> {
    let mut joined: Vec<Filter> = Vec::new();
    for filter in filters {
        if let Filter::Chain { param, targets } = &filter
            && let [(target, conditions)] = targets.as_slice()
            && let Some(same) = joined.iter_mut().find_map(|other| match other {
                Filter::Chain { param: p, targets: t } if p == param => match t.as_mut_slice() {
                    [(other_target, other_conditions)] if other_target == target => Some(other_conditions),
                    _ => None,
                },
                _ => None,
            })
        {
            same.extend(conditions.iter().cloned());
            continue;
        }
        joined.push(filter);
    }
    joined
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
