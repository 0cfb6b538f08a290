//! What the store does beside the requests: index rows that ended are removed when no page can ask for them, and SQLite's log is cut.

use crate::support::{TestDb, both_databases};
use lango::definitions;
use lango::fhir::Interval;
use lango::fhir::time::now;
use lango::store::gate::{About, Traits};
use lango::store::query::{SystemTest, Test};
use lango::store::upkeep::KEEP;
use lango::store::write::Change;
use lango::store::*;

const HOUR: i64 = 3_600_000_000;
const TABLES: [&str; 8] = ["token", "string", "reference", "uri", "date", "number", "quantity", "composite"];

fn type_code(name: &str) -> TypeCode {
    definitions::r4().type_code(name).unwrap()
}

fn entry(code: &str, value: IndexValue) -> IndexEntry {
    IndexEntry { param: definitions::r4().param(type_code("Patient"), code).unwrap().id, value }
}

fn token(value: &str) -> IndexValue {
    IndexValue::Token { system: None, code: value.into() }
}

/// Of a person who `is` so: one row in every index table, and one that stays whatever they are.
fn entries(is: &str) -> Vec<IndexEntry> {
    let number = is.len() as f64;
    vec![
        entry("gender", token(is)),
        entry("active", token("true")),
        entry("family", IndexValue::String { text: is.into() }),
        entry("organization", IndexValue::Reference { type_name: "Organization".into(), id: is.into() }),
        entry("_profile", IndexValue::Uri(is.into())),
        entry("birthdate", IndexValue::Date(Interval { low: is.len() as i64, high: 100 })),
        entry("phone", IndexValue::Number(number)),
        entry("email", IndexValue::Quantity { value: number, system: None, code: None, unit: None, amount: None }),
        entry("address", IndexValue::Composite(vec![token(is), token("x")])),
    ]
}

fn change(id: &str, base_version: i64, was: Option<&str>, is: Option<&str>) -> Mutation {
    let old_entries = was.map(entries).unwrap_or_default();
    let change = match is {
        Some(is) => Change::Put { body: b"{}".to_vec(), stamp_at: usize::MAX, entries: entries(is), old_entries },
        None => Change::Delete { old_entries },
    };
    let (type_code, id) = (type_code("Patient"), id.into());
    Mutation { type_code, id, base_version, change, owner: 0, listed: true, about: About::Nobody, traits: Traits::default(), rules: None }
}

async fn commit(store: &Store, mutations: Vec<Mutation>) {
    store.commit(Unit { mutations, ..Unit::default() }).await.unwrap();
}

async fn put(store: &Store, id: &str, base_version: i64, was: Option<&str>, is: Option<&str>) {
    commit(store, vec![change(id, base_version, was, is)]).await;
}

fn who_is(value: &str) -> Query {
    let test = Test::Token { system: SystemTest::Any, code: Some(value.into()) };
    let filter = Filter::Param { param: entries("x")[0].param, tests: vec![test] };
    Query { type_code: type_code("Patient"), filters: vec![filter], scope: Scope::All, sort: Vec::new() }
}

async fn ids(store: &Store, value: &str) -> Vec<String> {
    store.search(&who_is(value), 100, None).await.unwrap().rows.into_iter().map(|row| row.id.into()).collect()
}

/// Rows that ended and rows that hold.
async fn rows(store: &Store) -> (i64, i64) {
    let count = |hold: &str| {
        let counts: Vec<String> = TABLES.iter().map(|table| format!("(SELECT count(*) FROM {table} WHERE until {hold} 0)")).collect();
        sqlx::AssertSqlSafe(format!("SELECT {}", counts.join(" + ")))
    };
    match store {
        Store::Sqlite(db) => (
            sqlx::query_scalar(count(">")).fetch_one(&db.read).await.unwrap(),
            sqlx::query_scalar(count("=")).fetch_one(&db.read).await.unwrap(),
        ),
        Store::Postgres(db) => (
            sqlx::query_scalar(count(">")).fetch_one(&db.pool).await.unwrap(),
            sqlx::query_scalar(count("=")).fetch_one(&db.pool).await.unwrap(),
        ),
    }
}

/// Waits until no transaction, of whichever database of the server, is older than the last that ended a row here.
async fn settle(store: &Store) {
    let Store::Postgres(db) = store else { return };
    let ended = TABLES.map(|table| format!("SELECT max(until) AS u FROM {table}")).join(" UNION ALL ");
    let last: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT coalesce(max(u), 0) FROM ({ended}) t"))).fetch_one(&db.pool).await.unwrap();
    while db.snapshot().await.unwrap().except.iter().any(|running| *running <= last) {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

both_databases!(
    async fn rows_that_ended_go_when_no_page_can_ask_for_them_and_no_others(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        for n in 0..9 {
            put(&store, &format!("p{n}"), 0, None, Some("well")).await;
        }
        let first = store.search(&who_is("well"), 4, None).await.unwrap();
        let cursor = first.next.unwrap();
        for n in 0..5 {
            put(&store, &format!("p{n}"), 1, Some("well"), Some("poorly")).await;
        }
        put(&store, "p6", 1, Some("well"), None).await;
        let begun = now();
        let ended = rows(&store).await.0;
        assert_eq!(ended, 5 * 8 + 9, "what stays as it was does not end");
        settle(&store).await;
        assert_eq!(store.sweep(begun).await.unwrap(), 0);
        // Ends after the moment was noted.
        put(&store, "p7", 1, Some("well"), Some("poorly")).await;
        settle(&store).await;
        assert_eq!(store.sweep(begun + KEEP - 1).await.unwrap(), 0);
        let mut seen: Vec<String> = first.rows.iter().map(|row| row.id.to_string()).collect();
        let rest = store.search(&who_is("well"), 100, Some(&cursor)).await.unwrap();
        seen.extend(rest.rows.iter().map(|row| row.id.to_string()));
        assert_eq!(seen, ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"], "a page within its life");

        let held = rows(&store).await.1;
        assert_eq!(store.sweep(begun + KEEP).await.unwrap(), ended.unsigned_abs());
        assert_eq!(rows(&store).await, (8, held), "those of p7 ended too lately");
        assert_eq!(ids(&store, "well").await, ["p5", "p8"]);
        assert_eq!(ids(&store, "poorly").await, ["p0", "p1", "p2", "p3", "p4", "p7"]);
        let versions = store.history(type_code("Patient"), "p6", None, 10, &Scope::All).await.unwrap();
        assert_eq!(versions.len(), 2, "versions stay");
        // The sweep a moment ago noted its own.
        assert_eq!(store.sweep(begun + 2 * KEEP).await.unwrap(), 8);
        assert_eq!(rows(&store).await, (0, held));
    }
);

both_databases!(
    async fn several_processes_sweep_at_once_and_in_small_steps(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let another = Store::open(&db.url).await.unwrap();
        let states = ["well", "poorly", "well", "poorly", "well"];
        for (version, is) in states.into_iter().enumerate() {
            let was = version.checked_sub(1).map(|before| states[before]);
            commit(&store, (0..300).map(|n| change(&format!("p{n}"), version as i64, was, Some(is))).collect()).await;
        }
        let (ended, held) = rows(&store).await;
        assert_eq!(ended, 300 * 4 * 8);
        let begun = now();
        settle(&store).await;
        store.sweep(begun).await.unwrap();
        let (one, two) = tokio::join!(store.sweep(begun + KEEP + HOUR), another.sweep(begun + KEEP + HOUR));
        assert_eq!(one.unwrap() + two.unwrap(), ended.unsigned_abs());
        assert_eq!(rows(&store).await, (0, held));
    }
);

both_databases!(
    async fn reads_that_wait_together_are_each_decided_by_their_own_scope(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let (a, b) = (store.facility_key("a").await.unwrap(), store.facility_key("b").await.unwrap());
        for n in 0..20 {
            let id = format!("p{n}");
            let body = n.to_string().into_bytes();
            let put = Change::Put { body, stamp_at: usize::MAX, entries: vec![], old_entries: vec![] };
            let owner = if n % 2 == 0 { a } else { b };
            let about = About::Patient(id.as_str().into());
            commit(&store, vec![Mutation { change: put, owner, about, ..change(&id, 0, None, None) }]).await;
        }
        let scopes = [Scope::All, Scope::Owners(vec![a]), Scope::Owners(vec![b]), Scope::Owners(vec![a, b]), Scope::Owners(vec![])];
        let reads = (0..400).map(|n| {
            let (store, scope) = (store.clone(), scopes[n % scopes.len()].clone());
            tokio::spawn(async move {
                let number = n * 7 % 23;
                let found = store.read(type_code("Patient"), &format!("p{number}"), &scope).await.unwrap();
                let owner = if number % 2 == 0 { a } else { b };
                let shown = number < 20 && (scope == Scope::All || matches!(&scope, Scope::Owners(owners) if owners.contains(&owner)));
                let expected = shown.then(|| number.to_string().into_bytes());
                assert_eq!(found.map(|stored| stored.body.unwrap().to_vec()), expected, "p{number} under {scope:?}");
            })
        });
        for read in futures_util::future::join_all(reads).await {
            read.unwrap();
        }
        store.close().await;
    }
);

#[tokio::test]
async fn a_log_that_has_grown_is_cut_and_loses_nothing() {
    let db = TestDb::sqlite();
    let store = Store::open(&db.url).await.unwrap();
    for n in 0..20 {
        put(&store, &format!("p{n}"), 0, None, Some("well")).await;
    }
    let Store::Sqlite(sqlite) = &store else { panic!("SQLite was asked for") };
    let log = format!("{}-wal", db.url.strip_prefix("sqlite:").unwrap());
    let length = || std::fs::metadata(&log).unwrap().len();
    let grown = length();
    sqlite.cut_log(grown).await.unwrap();
    assert_eq!(length(), grown, "not longer than it may be");
    sqlite.cut_log(grown - 1).await.unwrap();
    assert_eq!(length(), 0);
    put(&store, "p20", 0, None, Some("well")).await;
    assert_eq!(ids(&store, "well").await.len(), 21);
    store.close().await;
}
