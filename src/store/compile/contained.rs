//! Conditions on contained resources, whose rows have their container's key and numbers of their own
//! ([`crate::store::index::in_contained`]).
//!
//! All rows of one contained resource are equally far from the numbers of its type's parameters. So one of its filters is read at every such
//! distance, and the others are probed at the distance of the row that it gave: they then speak of the same contained resource. The
//! scope decides on the container, as these are its rows.

use super::drive::rank;
use super::{Compiler, Inside, holds};
use crate::definitions;
use crate::store::index::{MOST_CONTAINED, NEAR, far_number, near_number, number_at, shift_of_target, target_is_of};
use crate::store::query::*;
use crate::store::{ParamId, TypeCode};

impl Compiler<'_> {
    /// The number of a parameter, here within a contained resource's or not.
    pub(super) fn number(&mut self, param: ParamId) {
        match self.inside.clone() {
            Some(Inside { shift, .. }) => self.sql.push(&number_at(&shift, param)),
            None => self.sql.literal(i64::from(param)),
        };
    }

    /// The number of a parameter by which the matches `m` are sorted.
    pub(super) fn match_number(&mut self, param: ParamId) {
        match self.placed {
            true => self.sql.push(&number_at("m.shift", param)),
            false => self.sql.literal(i64::from(param)),
        };
    }

    /// `SELECT key, owner, patient, shift`: a row for each contained resource of the type that satisfies all filters, perhaps repeated.
    pub(super) fn contained(&mut self, type_code: TypeCode, filters: &[Filter]) {
        let ranked = filters.iter().enumerate().filter(|(_, filter)| leads(filter));
        let driver = ranked.filter_map(|(place, filter)| Some((rank(filter)?, place))).min().map(|(_, place)| place);
        let alias = self.alias("c");
        self.sql.push(&format!("SELECT {alias}.key, {alias}.owner, {alias}.patient, {alias}.shift FROM ("));
        let all = Filter::Param { param: id_param(type_code), tests: vec![Test::Token { system: SystemTest::Any, code: None }] };
        self.rows_within(driver.and_then(|place| filters.get(place)).unwrap_or(&all));
        self.sql.push(&format!(") {alias} WHERE 1 = 1"));
        let outside = self.inside.replace(Inside { shift: format!("{alias}.shift"), type_code });
        for (_, filter) in filters.iter().enumerate().filter(|(place, _)| Some(*place) != driver) {
            self.sql.push(" AND ");
            self.probe(filter, &alias);
        }
        self.inside = outside;
    }

    /// The rows of one filter in all contained resources, with how far they are.
    fn rows_within(&mut self, filter: &Filter) {
        let filters = match filter {
            Filter::Any(filters) => filters.as_slice(),
            filter => std::slice::from_ref(filter),
        };
        for (place, filter) in filters.iter().enumerate() {
            let Filter::Param { param, tests } = filter else { continue };
            self.sql.push(if place > 0 { " UNION ALL " } else { "" });
            let near = (1..=NEAR).map(|place| near_number(*param, place).to_string()).collect::<Vec<_>>().join(", ");
            self.rows_at(tests, &format!("IN ({near})"), &format!("{{}}.param - {param}"));
            self.sql.push(" UNION ALL ");
            let (none, last) = (far_number(*param, 0), far_number(*param, MOST_CONTAINED - 1));
            self.rows_at(tests, &format!("BETWEEN {none} AND {last}"), &format!("{none} - {{}}.param"));
        }
    }

    /// Those at some distances, `{}` in which stands for the row.
    fn rows_at(&mut self, tests: &[Test], numbers: &str, shift: &str) {
        let alias = self.alias("d");
        let table = tests.first().map_or("token", super::condition::test_table);
        let shift = shift.replace("{}", &alias);
        self.sql.push(&format!(
            "SELECT {alias}.key, {alias}.owner, {alias}.patient, {shift} AS shift FROM {table} {alias} WHERE {alias}.param {numbers} AND "
        ));
        self.any_of(tests, &alias);
        self.sql.push(" AND ");
        holds(self.sql, &alias, self.seen);
    }

    /// `SELECT key, owner, patient` of what refers by `param` to what the chain asks for, outside or in what it contains itself
    /// (<https://hl7.org/fhir/R4/search.html#contained>).
    pub(super) fn chain_rows(&mut self, param: ParamId, targets: &[(TypeCode, Vec<Filter>)]) {
        let ways: &[bool] = if self.entered { &[false] } else { &[false, true] };
        for within in ways.iter().copied() {
            let alias = self.alias("d");
            self.sql.push(if within { " UNION ALL " } else { "" });
            self.sql.push(&format!("SELECT {alias}.key, {alias}.owner, {alias}.patient FROM reference {alias} WHERE {alias}.param = "));
            self.sql.literal(i64::from(param));
            self.sql.push(" AND ");
            if within {
                self.leads_within(targets, &alias);
            } else {
                self.sql.push(&format!("{alias}.target IN ("));
                self.targets(targets);
                self.sql.push(")");
            }
            self.sql.push(" AND ");
            holds(self.sql, &alias, self.seen);
        }
    }

    /// The row leads to a resource that its own contains and that satisfies the filters for its type. A chain goes into a container once.
    pub(super) fn leads_within(&mut self, targets: &[(TypeCode, Vec<Filter>)], alias: &str) {
        let target = format!("{alias}.target");
        let outside = self.inside.take();
        self.sql.push(&format!("({target} < 0 AND (1 = 0"));
        for (type_code, filters) in targets {
            self.sql.push(" OR (").push(&target_is_of(&target, *type_code));
            self.inside = Some(Inside { shift: shift_of_target(&target), type_code: *type_code });
            for filter in filters {
                self.sql.push(" AND ");
                self.probe(filter, alias);
            }
            self.sql.push(")");
        }
        self.sql.push("))");
        self.inside = outside;
    }

    /// `_id` of a contained resource, which is in no column.
    pub(super) fn id_within(&mut self, type_code: TypeCode, ids: &[String], outer: &str) {
        let token = |id: &String| Test::Token { system: SystemTest::Any, code: Some(id.clone()) };
        self.param_probe(id_param(type_code), &ids.iter().map(token).collect::<Vec<_>>(), outer);
    }
}

fn id_param(type_code: TypeCode) -> ParamId {
    definitions::r4().param(type_code, "_id").map_or(0, |param| param.id)
}

/// Whether its rows can be read at all distances.
fn leads(filter: &Filter) -> bool {
    match filter {
        Filter::Param { .. } => true,
        Filter::Any(filters) => !filters.is_empty() && filters.iter().all(|filter| matches!(filter, Filter::Param { .. })),
        _ => false,
    }
}
