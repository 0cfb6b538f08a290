//! What a holder keeps and lango has too, told once.
//!
//! A facility that keeps its records may send some of them here as well. Two are the same when they are of one type and one facility, and have an
//! identifier in common, or what is here says in `meta.source` that it is the holder's. Ids alone prove nothing, since a facility has
//! several systems; better one twice than one too few.
//!
//! Only what the caller is shown from here takes a holder's copy away: so nothing gets lost by it, and what is hidden here changes no answer. The
//! Patient stays: what was sent here of them may be their number alone.

use super::release::{Held, Record};
use crate::access::{Caller, Interaction};
use crate::app::App;
use crate::definitions;
use crate::ingest::Refusal;
use crate::store::query::{Filter, Query, SystemTest, Test};
use crate::store::records::Records;
use crate::store::{FacilityKey, ParamId, TypeCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Values that one query looks for.
const AT_ONCE: usize = 100;
/// Rows that it may find; what is beyond comes twice.
const MOST_ROWS: u32 = 1_000;

/// By what two are known to be the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Identifier(String, String),
    /// Where it is at the holder.
    Address(String),
}

impl Held<'_> {
    /// Leaves out what `here` shows to the caller anyway.
    pub async fn without(&mut self, app: &App, caller: &Caller, here: &Records) -> Result<(), Refusal> {
        let mut marks: BTreeMap<TypeCode, BTreeSet<Mark>> = BTreeMap::new();
        for record in &self.records {
            marks.entry(record.type_code).or_default().extend(marks_of(record));
        }
        let mut shown: BTreeSet<(FacilityKey, TypeCode, Mark)> = BTreeSet::new();
        for (type_code, marks) in marks {
            for (param, tests) in questions(type_code, marks) {
                for tests in tests.chunks(AT_ONCE) {
                    let filters = vec![Filter::Param { param, tests: tests.to_vec() }];
                    let query = Query { type_code, filters, scope: here.scope.clone(), sort: Vec::new() };
                    for row in app.store.search(&query, MOST_ROWS, None).await?.rows {
                        let is_hers = here.of.contains(&row.patient) && here.since.is_none_or(|since| row.updated >= since);
                        if !is_hers || !caller.admits(&row, &[Interaction::Read], app.writer.options()) {
                            continue;
                        }
                        let body: Value = row.body.as_ref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
                        let source = body.pointer("/meta/source").and_then(Value::as_str).map(address);
                        shown.extend(identifiers(&body).chain(source).map(|mark| (row.owner, type_code, mark)));
                    }
                }
            }
        }
        self.records.retain(|record| !marks_of(record).any(|mark| shown.contains(&(record.owner, record.type_code, mark))));
        Ok(())
    }
}

/// What to ask here for resources of a type with these marks.
fn questions(type_code: TypeCode, marks: BTreeSet<Mark>) -> impl Iterator<Item = (ParamId, Vec<Test>)> {
    let param = |code: &str| definitions::r4().param(type_code, code).map(|param| param.id);
    let (mut identifiers, mut addresses) = (Vec::new(), Vec::new());
    for mark in marks {
        match mark {
            Mark::Identifier(system, value) => identifiers.push(Test::Token { system: SystemTest::Is(system), code: Some(value) }),
            Mark::Address(url) => addresses.push(Test::UriBelow(url)),
        }
    }
    [(param("identifier"), identifiers), (param("_source"), addresses)].into_iter().filter_map(|(param, tests)| Some((param?, tests)))
}

fn marks_of(record: &Record) -> impl Iterator<Item = Mark> {
    let told = definitions::r4().type_name(record.type_code) != "Patient";
    identifiers(&record.body).chain([Mark::Address(record.url.clone())]).filter(move |_| told)
}

/// Identifiers with a system and a value.
fn identifiers(resource: &Value) -> impl Iterator<Item = Mark> {
    let list = match resource.get("identifier") {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
        None => &[],
    };
    list.iter().filter_map(|one| {
        let text = |key: &str| one.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Mark::Identifier(text("system")?, text("value")?))
    })
}

/// A source without the version and the message that it came by.
fn address(source: &str) -> Mark {
    let plain = source.split('#').next().unwrap_or_default();
    Mark::Address(plain.split("/_history/").next().unwrap_or_default().to_owned())
}
