//! Who waits for whom on PostgreSQL, where a transaction does not see what others are about to write.
//!
//! Two units that rest on searches ([`Precondition`]) and run at once would both find nothing and both write what the other's search was
//! to find, whatever the criteria of each. So a unit that rests on searches first takes, in one order and until it ends,
//!
//! - every type that it searches or writes: together with others, or alone where a search names none of the values of [`TELLING`];
//! - every such value that its searches name, and every one that what it writes has or had.
//!
//! Of two units one of which writes what the other searches, one waits: for the type if that search could find anything of it, else for the
//! value. Who waited sees what the other wrote. A unit that rests on no search takes nothing: to those that did not see it, it came later.
//! What a search finds by way of other types (chains, `_has`) is looked at as it is when the unit ends, and nobody waits for changes there.
//!
//! [`Precondition`]: super::Precondition

use super::query::Test;
use super::write::{Change, Unit};
use super::{Filter, IndexEntry, IndexValue, ParamId, TypeCode};
use crate::definitions;
use crate::fhir::text;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// The first half of the numbers of a type's lock, which no other lock has.
const TYPES: i32 = 0x6c61_6e67;

/// The parameters whose values few resources share: what tells who somebody is, and what golden Patients link.
const TELLING: [&str; 2] = ["identifier", "link"];

/// What a unit takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// Whether alone.
    types: BTreeMap<TypeCode, bool>,
    values: BTreeSet<[u8; 16]>,
}

impl Claims {
    pub(super) fn of(unit: &Unit) -> Claims {
        let mut claims = Claims::default();
        if unit.preconditions.is_empty() {
            return claims;
        }
        for precondition in &unit.preconditions {
            let type_code = precondition.query.type_code;
            let alone = claims.types.entry(type_code).or_default();
            let telling = telling(type_code);
            match precondition.query.filters.iter().find_map(|filter| named(&telling, filter)) {
                Some(values) => claims.values.extend(values.into_iter().map(|(param, value)| key(param, value))),
                None => *alone = true,
            }
        }
        for mutation in &unit.mutations {
            claims.types.entry(mutation.type_code).or_default();
            let (now, before) = match &mutation.change {
                Change::Put { entries, old_entries, .. } | Change::Reindex { entries, old_entries } => (entries.as_slice(), old_entries),
                Change::Delete { old_entries } | Change::Purge { old_entries } => (&[][..], old_entries),
            };
            let telling = telling(mutation.type_code);
            let values = now.iter().chain(before).filter(|entry| telling.contains(&entry.param)).filter_map(value);
            claims.values.extend(values.map(|(param, value)| key(param, value)));
        }
        claims
    }

    /// Waits for whoever holds one of these.
    pub(super) async fn take(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.types.is_empty() {
            return Ok(());
        }
        let (types, alone): (Vec<i32>, Vec<bool>) = self.types.iter().map(|(type_code, alone)| (i32::from(*type_code), *alone)).unzip();
        sqlx::query(
            "SELECT CASE WHEN a THEN pg_advisory_xact_lock($1, t) ELSE pg_advisory_xact_lock_shared($1, t) END \
             FROM (SELECT t, a FROM unnest($2::int[], $3::bool[]) u(t, a) ORDER BY t OFFSET 0) o",
        )
        .bind(TYPES)
        .bind(types)
        .bind(alone)
        .execute(&mut *connection)
        .await?;
        if !self.values.is_empty() {
            // The unique key decides who goes first.
            let take = sqlx::query("INSERT INTO claim (key) SELECT k FROM unnest($1::bytea[]) k ORDER BY k");
            take.bind(self.keys()).execute(connection).await?;
        }
        Ok(())
    }

    /// Leaves nothing behind; what was taken is free when the transaction ends.
    pub(super) async fn leave(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if !self.values.is_empty() {
            sqlx::query("DELETE FROM claim WHERE key = ANY($1)").bind(self.keys()).execute(connection).await?;
        }
        Ok(())
    }

    fn keys(&self) -> Vec<&[u8]> {
        self.values.iter().map(<[u8; 16]>::as_slice).collect()
    }
}

fn telling(type_code: TypeCode) -> Vec<ParamId> {
    TELLING.iter().filter_map(|code| definitions::r4().param(type_code, code)).map(|param| param.id).collect()
}

/// Values of such parameters of which everything that passes has one; `None`: it may have others, or none.
fn named<'a>(telling: &[ParamId], filter: &'a Filter) -> Option<Vec<(ParamId, &'a str)>> {
    match filter {
        Filter::Param { param, tests } if telling.contains(param) => {
            let value = |test: &'a Test| match test {
                Test::Token { code: Some(code), .. } => Some((*param, code.as_str())),
                Test::Reference { id, .. } => Some((*param, id.as_str())),
                _ => None,
            };
            tests.iter().map(value).collect()
        }
        Filter::Any(filters) => {
            filters.iter().map(|filter| named(telling, filter)).collect::<Option<Vec<_>>>().map(|values| values.concat())
        }
        _ => None,
    }
}

fn value(entry: &IndexEntry) -> Option<(ParamId, &str)> {
    match &entry.value {
        IndexValue::Token { code, .. } => Some((entry.param, code)),
        IndexValue::Reference { id, .. } => Some((entry.param, id)),
        _ => None,
    }
}

/// Without the system of an identifier, since `system|value` and `value` may mean the same resource; of so much as is indexed.
fn key(param: ParamId, value: &str) -> [u8; 16] {
    let hash = blake3::hash(format!("{param}|{}", text::clip(value)).as_bytes());
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::query::SystemTest;
    use super::super::{Precondition, Query, Scope};
    use super::*;

    fn patient() -> TypeCode {
        definitions::r4().type_code("Patient").unwrap()
    }

    fn by(code: &str, system: SystemTest, values: &[&str]) -> Filter {
        let param = definitions::r4().param(patient(), code).unwrap().id;
        let test = |value: &&str| Test::Token { system: system.clone(), code: Some((*value).to_owned()) };
        Filter::Param { param, tests: values.iter().map(test).collect() }
    }

    fn claims(filters: Vec<Filter>) -> Claims {
        let query = Query { type_code: patient(), filters, scope: Scope::All, sort: Vec::new() };
        Claims::of(&Unit { preconditions: vec![Precondition { query, expected: Vec::new() }], ..Unit::default() })
    }

    #[test]
    fn who_names_what_tells_takes_the_type_with_others() {
        let one = claims(vec![by("active", SystemTest::Any, &["true"]), by("identifier", SystemTest::Is("urn:mrn".into()), &["77"])]);
        assert_eq!((one.types.get(&patient()), one.values.len()), (Some(&false), 1));
        let without = claims(vec![by("identifier", SystemTest::Any, &["77"])]);
        assert_eq!(one, without, "with its system and without it is one identifier");
        let either =
            claims(vec![Filter::Any(vec![by("identifier", SystemTest::Any, &["77"]), by("identifier", SystemTest::Any, &["12", "5"])])]);
        assert_eq!((either.types.get(&patient()), either.values.len()), (Some(&false), 3));
    }

    #[test]
    fn who_names_none_takes_the_type_alone() {
        let any_of_a_system = {
            let param = definitions::r4().param(patient(), "identifier").unwrap().id;
            Filter::Param { param, tests: vec![Test::Token { system: SystemTest::Is("urn:mrn".into()), code: None }] }
        };
        let either = Filter::Any(vec![by("identifier", SystemTest::Any, &["77"]), any_of_a_system.clone()]);
        for filter in [by("active", SystemTest::Any, &["true"]), any_of_a_system, either, Filter::Id(vec!["a".into()])] {
            let one = claims(vec![filter.clone()]);
            assert_eq!((one.types.get(&patient()), one.values.len()), (Some(&true), 0), "{filter:?}");
        }
        assert_eq!(Claims::of(&Unit::default()), Claims::default());
    }
}
