//! Chains and `_has` over canonicals (<https://hl7.org/fhir/R4/references.html#canonical>), which name a resource by its `url`, perhaps with
//! `|version`, and know no key. They are resolved when they are asked for, by the indexes of `url` and `version` that every such type has:
//! nothing is stored for them, and it does not matter which end was there first. Resources with a `url` are definitions, so they are few, and
//! all of a type that have one may be read; what names them may be many, and is entered by the texts.
//!
//! Whoever is named must satisfy the nested search, and whoever names it too, each under the scope.

use super::{Compiler, holds};
use crate::definitions::{self, ParamKind};
use crate::store::query::Filter;
use crate::store::{ParamId, TypeCode};

impl Compiler<'_> {
    /// The text of `alias` names one of the targets.
    pub(super) fn names_one_of(&mut self, targets: &[(TypeCode, Vec<Filter>)], alias: &str) {
        self.sql.push(&format!("{alias}.uri IN ("));
        let mut first = true;
        for (type_code, filters) in targets {
            let Some(params) = identified_by(*type_code) else { continue };
            self.sql.push(if first { "SELECT " } else { " UNION ALL SELECT " });
            first = false;
            let url = self.names(params, "");
            self.sql.push(&format!(" AND {url}.key IN ("));
            self.nested(*type_code, filters);
            self.sql.push(")");
        }
        self.sql.push(if first { "SELECT '' WHERE 1 = 0)" } else { ")" });
    }

    /// `outer` is named by a resource that satisfies the filters.
    pub(super) fn is_named_by(&mut self, source: TypeCode, param: ParamId, filters: &[Filter], outer: &str) {
        let Some(params) = identified_by(self.query.type_code) else {
            self.sql.push("1 = 0");
            return;
        };
        let (n, x) = (self.alias("n"), self.alias("x"));
        self.sql.push(&format!("{outer}.key IN (SELECT {n}.key FROM (SELECT "));
        self.names(params, "key, ");
        self.sql.push(&format!(") {n} JOIN uri {x} ON {x}.uri = {n}.name AND {x}.param = ")).literal(i64::from(param)).push(" AND ");
        holds(self.sql, &x, self.seen);
        self.sql.push(&format!(" WHERE {x}.key IN ("));
        self.nested(source, filters);
        self.sql.push("))");
    }

    /// After `SELECT `: every text that names a resource of a type as `name`, a row of `url` in the alias that is given back. Ends
    /// within the conditions on it.
    fn names(&mut self, (url, version): (ParamId, ParamId), key: &str) -> String {
        let (u, v) = (self.alias("u"), self.alias("v"));
        let key = if key.is_empty() { String::new() } else { format!("{u}.{key}") };
        self.sql.push(&format!("{key}{u}.uri || coalesce('|' || {v}.code, '') AS name FROM uri {u} JOIN ("));
        for (table, code, param) in [("uri", "NULL", url), ("token", "code", version)] {
            self.sql.push(if table == "uri" { "" } else { " UNION ALL " });
            self.sql.push(&format!("SELECT key, CAST({code} AS TEXT) AS code FROM {table} w WHERE w.param = ")).literal(i64::from(param));
            self.sql.push(" AND ");
            holds(self.sql, "w", self.seen);
        }
        self.sql.push(&format!(") {v} ON {v}.key = {u}.key WHERE {u}.param = ")).literal(i64::from(url)).push(" AND ");
        holds(self.sql, &u, self.seen);
        u
    }
}

/// The parameters `url` and `version` of a type that is named by them.
pub(in crate::store) fn identified_by(type_code: TypeCode) -> Option<(ParamId, ParamId)> {
    let definitions = definitions::r4();
    let param = |code: &str, kind: ParamKind| definitions.param(type_code, code).filter(|param| param.kind == kind).map(|param| param.id);
    param("url", ParamKind::Uri).zip(param("version", ParamKind::Token))
}
