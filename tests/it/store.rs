//! The store itself, on both databases: versions, searches, races, pages, jobs.

use crate::support::{TestDb, both_databases};
use lango::definitions;
use lango::fhir::Interval;
use lango::fhir::series::Place;
use lango::store::gate::{
    About, AudiencePart, Default as GateDefault, Gate, Precedence, Requester, Rule, Rules, Succession, Test as Asks, Traits,
};
use lango::store::query::{DateOp, Kind, SortBy, SystemTest, Test};
use lango::store::write::{Change, NewJob};
use lango::store::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn type_code(name: &str) -> TypeCode {
    definitions::r4().type_code(name).unwrap()
}

fn param(type_name: &str, code: &str) -> ParamId {
    definitions::r4().param(type_code(type_name), code).unwrap().id
}

fn token(type_name: &str, code: &str, system: &str, value: &str) -> IndexEntry {
    IndexEntry { param: param(type_name, code), value: IndexValue::Token { system: Some(system.into()), code: value.into() } }
}

fn reference(type_name: &str, code: &str, target: &str, id: &str) -> IndexEntry {
    IndexEntry { param: param(type_name, code), value: IndexValue::Reference { type_name: target.into(), id: id.into() } }
}

fn string(type_name: &str, code: &str, text: &str) -> IndexEntry {
    IndexEntry { param: param(type_name, code), value: IndexValue::String { text: text.into() } }
}

const STAMP: &str = "000000000000000000000000000";

fn put(type_name: &str, id: &str, base_version: i64, old_entries: Vec<IndexEntry>, entries: Vec<IndexEntry>) -> Mutation {
    let body = format!(r#"{{"meta":{{"lastUpdated":"{STAMP}","versionId":"{}"}},"id":"{id}"}}"#, base_version + 1).into_bytes();
    let change = Change::Put { body, stamp_at: 24, entries, old_entries };
    Mutation {
        type_code: type_code(type_name),
        id: id.into(),
        base_version,
        change,
        owner: 0,
        listed: true,
        about: About::Nobody,
        traits: Traits::default(),
        rules: None,
    }
}

fn unit(mutations: Vec<Mutation>) -> Unit {
    Unit { mutations, ..Unit::default() }
}

fn query(type_name: &str, filters: Vec<Filter>) -> Query {
    Query { type_code: type_code(type_name), filters, scope: Scope::All, sort: Vec::new() }
}

fn is(type_name: &str, code: &str, value: &str) -> Filter {
    Filter::Param { param: param(type_name, code), tests: vec![Test::Token { system: SystemTest::Any, code: Some(value.into()) }] }
}

fn refers(type_name: &str, code: &str, target: &str, id: &str) -> Filter {
    let test = Test::Reference { type_codes: vec![type_code(target)], id: id.into() };
    Filter::Param { param: param(type_name, code), tests: vec![test] }
}

async fn ids(store: &Store, query: &Query) -> BTreeSet<String> {
    let page = store.search(query, 1_000, None).await.unwrap();
    assert_eq!(store.count(query, None).await.unwrap(), page.rows.len() as u64);
    page.rows.into_iter().map(|row| row.id.into()).collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

both_databases!(
    async fn versions_are_kept_and_counted_from_one(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let patient = type_code("Patient");
        let female = vec![token("Patient", "gender", "g", "female")];
        let male = vec![token("Patient", "gender", "g", "male")];
        let first = store.commit(unit(vec![put("Patient", "a", 0, vec![], female.clone())])).await.unwrap();
        let second = store.commit(unit(vec![put("Patient", "a", 1, female.clone(), male.clone())])).await.unwrap();
        assert_eq!((first[0].version, second[0].version), (1, 2));
        assert!(second[0].updated > first[0].updated);
        let read = store.read(patient, "a", &Scope::All).await.unwrap().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&read.body.unwrap()).unwrap();
        assert_eq!(body["meta"]["lastUpdated"], lango::fhir::time::format_instant(second[0].updated));
        assert_eq!(ids(&store, &query("Patient", vec![is("Patient", "gender", "female")])).await, set(&[]));
        assert_eq!(ids(&store, &query("Patient", vec![is("Patient", "gender", "male")])).await, set(&["a"]));
        let mut delete = put("Patient", "a", 2, vec![], vec![]);
        delete.change = Change::Delete { old_entries: male.clone() };
        store.commit(unit(vec![delete])).await.unwrap();
        assert!(store.read(patient, "a", &Scope::All).await.unwrap().unwrap().body.is_none());
        assert_eq!(ids(&store, &query("Patient", vec![])).await, set(&[]));
        store.commit(unit(vec![put("Patient", "a", 3, vec![], female)])).await.unwrap();
        let history = store.history(patient, "a", None, 10, &Scope::All).await.unwrap();
        let seen: Vec<(i64, bool)> = history.iter().map(|v| (v.version, v.body.is_some())).collect();
        assert_eq!(seen, [(4, true), (3, false), (2, true), (1, true)]);
        assert_eq!(store.read_version(patient, "a", 2, &Scope::All).await.unwrap().unwrap().version, 2);
        assert!(store.read_version(patient, "a", 9, &Scope::All).await.unwrap().is_none());
        assert_eq!(ids(&store, &query("Patient", vec![is("Patient", "gender", "female")])).await, set(&["a"]));
    }
);

both_databases!(
    async fn a_write_against_an_old_version_is_refused_whole(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        store.commit(unit(vec![put("Patient", "a", 0, vec![], vec![])])).await.unwrap();
        let stale = store.commit(unit(vec![put("Patient", "b", 0, vec![], vec![]), put("Patient", "a", 0, vec![], vec![])])).await;
        assert!(matches!(stale, Err(WriteError::Stale)));
        assert_eq!(ids(&store, &query("Patient", vec![])).await, set(&["a"]));
    }
);

both_databases!(
    async fn every_kind_of_value_is_found(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let quantity = |value: f64, code: &str, unit: &str| IndexEntry {
            param: param("Observation", "value-quantity"),
            value: IndexValue::Quantity {
                value,
                system: Some("http://unitsofmeasure.org".into()),
                code: Some(code.into()),
                unit: Some(unit.into()),
                amount: None,
            },
        };
        let date =
            |low: i64, high: i64| IndexEntry { param: param("Observation", "date"), value: IndexValue::Date(Interval { low, high }) };
        let day = 86_400_000_000;
        let uri = |text: &str| IndexEntry { param: param("Observation", "_profile"), value: IndexValue::Uri(text.into()) };
        let composite = |code: &str, value: f64| IndexEntry {
            param: param("Observation", "code-value-quantity"),
            value: IndexValue::Composite(vec![
                IndexValue::Token { system: Some("http://loinc.org".into()), code: code.into() },
                IndexValue::Quantity { value, system: None, code: Some("/min".into()), unit: None, amount: None },
            ]),
        };
        let observations = [
            put(
                "Observation",
                "o1",
                0,
                vec![],
                vec![
                    token("Observation", "code", "http://loinc.org", "8867-4"),
                    quantity(82.0, "/min", "beats/min"),
                    date(0, day),
                    reference("Observation", "subject", "Patient", "p1"),
                    uri("http://a/b"),
                    composite("8867-4", 82.0),
                ],
            ),
            put(
                "Observation",
                "o2",
                0,
                vec![],
                vec![
                    token("Observation", "code", "urn:other", "8867-4"),
                    quantity(120.0, "/min", "beats/min"),
                    date(day, 400 * day),
                    reference("Observation", "subject", "Patient", "p2"),
                    uri("http://a/b/c"),
                    composite("9279-1", 120.0),
                ],
            ),
        ];
        store.commit(unit(observations.into())).await.unwrap();
        // The Patient comes later than what refers to it.
        assert_eq!(store.dangling(10).await.unwrap().len(), 2);
        store.commit(unit(vec![put("Patient", "p1", 0, vec![], vec![string("Patient", "family", "Kipchóge")])])).await.unwrap();
        assert_eq!(store.dangling(10).await.unwrap().len(), 1);
        let find = async |name: &str, test: Test| {
            ids(&store, &query("Observation", vec![Filter::Param { param: param("Observation", name), tests: vec![test] }])).await
        };
        let loinc = SystemTest::Is("http://loinc.org".into());
        assert_eq!(find("code", Test::Token { system: SystemTest::Any, code: Some("8867-4".into()) }).await, set(&["o1", "o2"]));
        assert_eq!(find("code", Test::Token { system: loinc.clone(), code: Some("8867-4".into()) }).await, set(&["o1"]));
        assert_eq!(find("code", Test::Token { system: loinc.clone(), code: None }).await, set(&["o1"]));
        assert_eq!(find("code", Test::Token { system: SystemTest::Absent, code: Some("8867-4".into()) }).await, set(&[]));
        let over = |unit| Test::Quantity { op: query::NumberOp::Gt, low: 99.5, value: 100.0, high: 100.5, unit };
        assert_eq!(find("value-quantity", over(None)).await, set(&["o2"]));
        assert_eq!(find("value-quantity", over(Some(query::UnitTest { system: None, code: "beats/min".into() }))).await, set(&["o2"]));
        assert_eq!(find("value-quantity", over(Some(query::UnitTest { system: Some("x".into()), code: "/min".into() }))).await, set(&[]));
        let on = |op, low, high| Test::Date { op, interval: Interval { low, high } };
        assert_eq!(find("date", on(DateOp::Eq, 0, day)).await, set(&["o1"]));
        assert_eq!(find("date", on(DateOp::Gt, 300 * day, 301 * day)).await, set(&["o2"]));
        assert_eq!(find("date", on(DateOp::Ge, 0, day)).await, set(&["o1", "o2"]));
        assert_eq!(find("date", on(DateOp::Sa, 0, day)).await, set(&["o2"]));
        assert_eq!(find("_profile", Test::UriBelow("http://a/b".into())).await, set(&["o1", "o2"]));
        assert_eq!(find("_profile", Test::UriAbove("http://a/b".into())).await, set(&["o1"]));
        let subject = |id: &str| Test::Reference { type_codes: vec![type_code("Patient")], id: id.into() };
        assert_eq!(find("subject", subject("p2")).await, set(&["o2"]));
        let pair = |code: &str, low: f64| {
            let code = Test::Token { system: SystemTest::Any, code: Some(code.into()) };
            Test::Composite(vec![code, Test::Number { op: query::NumberOp::Ge, low, value: low, high: low }])
        };
        assert_eq!(find("code-value-quantity", pair("8867-4", 82.0)).await, set(&["o1"]));
        assert_eq!(find("code-value-quantity", pair("8867-4", 100.0)).await, set(&[]));
        let family = |test| vec![Filter::Param { param: param("Patient", "family"), tests: vec![test] }];
        let chain = |test| Filter::Chain { param: param("Observation", "subject"), targets: vec![(type_code("Patient"), family(test))] };
        assert_eq!(ids(&store, &query("Observation", vec![chain(Test::StringStarts("kipch".into()))])).await, set(&["o1"]));
        assert_eq!(
            ids(&store, &query("Observation", vec![is("Observation", "code", "8867-4"), chain(Test::StringExact("Kipchóge".into()))]))
                .await,
            set(&["o1"])
        );
        assert_eq!(ids(&store, &query("Patient", family(Test::StringExact("Kipchoge".into())))).await, set(&[]));
        assert_eq!(ids(&store, &query("Patient", family(Test::StringContains("hog".into())))).await, set(&["p1"]));
        let has = Filter::Has {
            source: type_code("Observation"),
            param: param("Observation", "subject"),
            filters: vec![is("Observation", "code", "8867-4")],
        };
        assert_eq!(ids(&store, &query("Patient", vec![has])).await, set(&["p1"]));
        let missing = |missing| Filter::Missing { places: vec![(param("Patient", "family"), Kind::String)], missing };
        assert_eq!(ids(&store, &query("Patient", vec![missing(false)])).await, set(&["p1"]));
        assert_eq!(ids(&store, &query("Patient", vec![missing(true)])).await, set(&[]));
        let not = Filter::NotParam {
            param: param("Observation", "code"),
            tests: vec![Test::Token { system: loinc, code: Some("8867-4".into()) }],
        };
        assert_eq!(ids(&store, &query("Observation", vec![not])).await, set(&["o2"]));
        assert_eq!(ids(&store, &query("Observation", vec![Filter::Id(vec!["o2".into(), "zz".into()])])).await, set(&["o2"]));
        assert_eq!(ids(&store, &query("Observation", vec![Filter::Nothing])).await, set(&[]));
    }
);

both_databases!(
    async fn a_scope_hides_other_facilities_in_every_part_of_a_query(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let (ours, theirs) = (store.facility_key("A").await.unwrap(), store.facility_key("B").await.unwrap());
        assert_ne!(ours, theirs);
        assert_eq!(store.facility_key("A").await.unwrap(), ours);
        assert_eq!(store.facility_code(theirs).await.unwrap().as_deref(), Some("B"));
        let mut mutations = Vec::new();
        for (id, owner) in [("a", ours), ("b", theirs)] {
            let mut patient = put("Patient", id, 0, vec![], vec![string("Patient", "family", "Mushi")]);
            patient.owner = owner;
            patient.about = About::Patient(id.into());
            mutations.push(patient);
        }
        // Ours, but about their patient: the chain must not look through to what the caller may not see.
        let mut observation = put("Observation", "o", 0, vec![], vec![reference("Observation", "subject", "Patient", "b")]);
        observation.owner = ours;
        observation.about = About::Patient("b".into());
        mutations.push(observation);
        store.commit(unit(mutations)).await.unwrap();
        let family = vec![Filter::Param { param: param("Patient", "family"), tests: vec![Test::StringStarts("mushi".into())] }];
        let mut asked = query("Patient", family.clone());
        asked.scope = Scope::Owners(vec![ours]);
        assert_eq!(ids(&store, &asked).await, set(&["a"]));
        let mut listed = query("Patient", vec![]);
        listed.scope = Scope::Owners(vec![ours]);
        assert_eq!(ids(&store, &listed).await, set(&["a"]));
        let mut chained = query(
            "Observation",
            vec![Filter::Chain { param: param("Observation", "subject"), targets: vec![(type_code("Patient"), family)] }],
        );
        assert_eq!(ids(&store, &chained).await, set(&["o"]));
        chained.scope = Scope::Owners(vec![ours]);
        assert_eq!(ids(&store, &chained).await, set(&[]));
        assert!(store.read(type_code("Patient"), "b", &Scope::Owners(vec![ours])).await.unwrap().is_none());
    }
);

const FOREVER: Interval = Interval { low: 0, high: Interval::MAX };

/// A rule for everybody, about everything, always.
fn rule(node: i64, parent: Option<i64>, permit: bool) -> Rule {
    let precedence = if permit { Precedence::Permit } else { Precedence::Deny };
    Rule {
        node,
        parent,
        precedence,
        audience: vec![],
        period: FOREVER,
        parts: vec![],
        has_exceptions: false,
        names_actor: false,
        names_emergency: false,
    }
}

fn audience(actors: &[&str], purposes: &[&str]) -> AudiencePart {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    AudiencePart { actors: words(actors), purposes: words(purposes) }
}

fn facts(words: &[&str]) -> Asks {
    Asks::Facts(words.iter().map(|word| (*word).to_owned()).collect())
}

fn consent(id: &str, base_version: i64, rules: Vec<Rule>) -> Mutation {
    let mut consent = put("Consent", id, base_version, vec![], vec![]);
    consent.about = About::Unknown;
    consent.rules = Some(Rules { patients: vec!["p".into()], permitted: ["p".into()].into(), rules, ..Rules::default() });
    consent
}

both_databases!(
    async fn the_gate_decides_by_the_rules_of_each_patient(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let theirs = store.facility_key("B").await.unwrap();
        let mut mutations = Vec::new();
        for (id, when, words) in [
            ("plain", Some(Interval { low: 100, high: 200 }), vec!["type|Observation", "confidentiality|N"]),
            ("hiv", Some(Interval { low: 100, high: 200 }), vec!["type|Observation", "label|HIV"]),
            ("late", Some(Interval { low: 900, high: 950 }), vec!["type|Observation", "confidentiality|N"]),
            ("undated", None, vec!["type|Observation", "confidentiality|N"]),
        ] {
            let entries = vec![reference("Observation", "subject", "Patient", "p"), reference("Observation", "encounter", "Encounter", id)];
            let mut observation = put("Observation", id, 0, vec![], entries);
            (observation.owner, observation.about) = (theirs, About::Patient("p".into()));
            observation.traits = Traits::new(words, when);
            mutations.push(observation);
        }
        let mut private = put("Observation", "private", 0, vec![], vec![]);
        (private.owner, private.about) = (theirs, About::Unknown);
        mutations.push(private);
        store.commit(unit(mutations)).await.unwrap();

        let gate = |purposes: &[&str], default: GateDefault, now: i64| {
            let requester = |purpose: &&str| Requester::new(vec!["org|A"], vec![*purpose, "TREAT"], default.clone());
            Scope::Gate(
                Gate {
                    owners: vec![77],
                    requesters: purposes.iter().map(requester).collect(),
                    break_glass: None,
                    own: None,
                    now,
                    since: 0,
                }
                .into(),
            )
        };
        let mut version = 0;
        // What the rules of one Consent show, by every way in.
        let mut shown = async |rules: Vec<Rule>, scope: Scope| {
            store.commit(unit(vec![consent("c", version, rules)])).await.unwrap();
            version += 1;
            let mut listed = query("Observation", vec![]);
            listed.scope = scope.clone();
            let mut by_index = query("Observation", vec![refers("Observation", "subject", "Patient", "p")]);
            by_index.scope = scope.clone();
            let found = ids(&store, &listed).await;
            assert_eq!(ids(&store, &by_index).await, found);
            assert_eq!(store.count(&by_index, None).await.unwrap(), found.len() as u64);
            for id in ["plain", "hiv", "late", "undated", "private"] {
                let read = store.read(type_code("Observation"), id, &scope).await.unwrap();
                assert_eq!(read.is_some(), found.contains(id), "{id}");
                let history = store.history(type_code("Observation"), id, None, 5, &scope).await.unwrap();
                assert_eq!(!history.is_empty(), found.contains(id), "{id}");
            }
            found
        };
        let treat = || gate(&["TREAT"], GateDefault::Hidden, 500);
        let all = ["plain", "hiv", "late", "undated"];
        assert_eq!(shown(vec![], treat()).await, set(&[]));
        assert_eq!(shown(vec![rule(0, None, true)], treat()).await, set(&all));
        assert_eq!(shown(vec![rule(0, None, true)], gate(&[], GateDefault::Hidden, 500)).await, set(&[]), "no purpose, no permit");
        assert_eq!(shown(vec![rule(0, None, true), rule(1, None, false)], treat()).await, set(&[]), "deny wins");

        let to = |actors: &[&str], purposes: &[&str]| Rule { audience: vec![audience(actors, purposes)], ..rule(0, None, true) };
        assert_eq!(shown(vec![to(&["org|A"], &["TREAT"])], treat()).await, set(&all));
        assert_eq!(shown(vec![to(&["org|Z"], &["TREAT"])], treat()).await, set(&[]));
        assert_eq!(shown(vec![to(&["org|Z", "org|A"], &[])], treat()).await, set(&all));
        assert_eq!(shown(vec![to(&[], &["HPAYMT"])], treat()).await, set(&[]));
        let both = gate(&["HPAYMT", "TREAT"], GateDefault::Hidden, 500);
        assert_eq!(shown(vec![to(&[], &["HPAYMT"])], both.clone()).await, set(&[]), "several purposes give no more than one would");
        let twice = Rule { audience: vec![audience(&["org|A"], &[]), audience(&["org|Z"], &[])], ..rule(0, None, true) };
        assert_eq!(shown(vec![twice], treat()).await, set(&[]), "both of a path's audiences must be met");
        let twice = Rule { audience: vec![audience(&["org|A"], &[]), audience(&[], &["TREAT"])], ..rule(0, None, true) };
        assert_eq!(shown(vec![twice], treat()).await, set(&all));

        let period = |low, high| Rule { period: Interval { low, high }, ..rule(0, None, true) };
        assert_eq!(shown(vec![period(0, 500)], treat()).await, set(&[]), "the upper bound is outside");
        assert_eq!(shown(vec![period(500, 501)], treat()).await, set(&all));
        assert_eq!(shown(vec![period(501, 600)], treat()).await, set(&[]));

        let asks = |tests: Vec<Asks>| Rule { parts: vec![tests], ..rule(0, None, true) };
        assert_eq!(shown(vec![asks(vec![facts(&["label|HIV", "label|PSY"])])], treat()).await, set(&["hiv"]));
        assert_eq!(shown(vec![asks(vec![Asks::Within(Interval { low: 100, high: 200 })])], treat()).await, set(&["plain", "hiv"]));
        assert_eq!(shown(vec![asks(vec![Asks::Within(Interval { low: 101, high: 200 })])], treat()).await, set(&[]));
        assert_eq!(
            shown(vec![asks(vec![Asks::Touches(Interval { low: 199, high: 900 })])], treat()).await,
            set(&["plain", "hiv", "undated"])
        );
        assert_eq!(shown(vec![asks(vec![Asks::Instance("Observation".into(), "late".into())])], treat()).await, set(&["late"]));
        assert_eq!(shown(vec![asks(vec![Asks::Refers("Encounter".into(), "hiv".into())])], treat()).await, set(&["hiv"]));
        let two = Rule { parts: vec![vec![facts(&["type|Observation"])], vec![facts(&["label|HIV"])]], ..rule(0, None, true) };
        assert_eq!(shown(vec![two], treat()).await, set(&["hiv"]), "every part must be met");

        let root = |permit| Rule { has_exceptions: true, ..rule(0, None, permit) };
        let except = |permit| Rule { parts: vec![vec![facts(&["label|HIV"])]], ..rule(1, Some(0), permit) };
        assert_eq!(shown(vec![root(true), except(false)], treat()).await, set(&["plain", "late", "undated"]));
        assert_eq!(shown(vec![root(false), except(true)], treat()).await, set(&["hiv"]));
        let deeper = Rule {
            parts: vec![vec![facts(&["label|HIV"])], vec![Asks::Instance("Observation".into(), "hiv".into())]],
            ..rule(2, Some(1), true)
        };
        let middle = Rule { has_exceptions: true, ..except(false) };
        assert_eq!(shown(vec![root(true), middle, deeper], treat()).await, set(&all));

        let normal = |now| gate(&["TREAT"], GateDefault::ShownIf(vec![system_key("confidentiality|N")]), now);
        assert_eq!(shown(vec![], normal(500)).await, set(&["plain", "late", "undated"]));
        assert_eq!(shown(vec![asks(vec![Asks::Instance("Observation".into(), "hiv".into())])], normal(500)).await, set(&all));
        let never = Rule { parts: vec![vec![Asks::Instance("Observation".into(), "plain".into())]], ..rule(0, None, false) };
        assert_eq!(shown(vec![never], normal(500)).await, set(&["late", "undated"]));
    }
);

both_databases!(
    async fn the_newest_of_a_series_of_consents_counts_and_a_deleted_one_not_at_all(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let mut patient = put("Patient", "p", 0, vec![], vec![]);
        (patient.owner, patient.about) = (5, About::Patient("p".into()));
        store.commit(unit(vec![patient])).await.unwrap();
        let scope = Scope::Gate(
            Gate {
                owners: vec![],
                requesters: vec![Requester::new(vec!["a"], vec!["t"], GateDefault::Hidden)],
                break_glass: None,
                own: None,
                now: 9,
                since: 0,
            }
            .into(),
        );
        let of_series = |id: &str, base_version: i64, given: i64, permit: bool| {
            let mut consent = consent(id, base_version, vec![rule(0, None, permit)]);
            let place = Place {
                subject: "Patient/p".into(),
                organisations: vec![["o".to_owned()].into()],
                policies: ["x".to_owned()].into(),
                given: Interval { low: given, high: given + 1 },
                recorded: 0,
            };
            consent.rules = consent.rules.map(|rules| Rules { succession: Succession::Takes(place), ..rules });
            consent
        };
        let sees = async || store.read(type_code("Patient"), "p", &scope).await.unwrap().is_some();
        store.commit(unit(vec![of_series("old", 0, 1, false)])).await.unwrap();
        assert!(!sees().await);
        store.commit(unit(vec![of_series("new", 0, 2, true)])).await.unwrap();
        assert!(sees().await, "the newer permit stands in the place of the older denial");
        store.commit(unit(vec![of_series("old", 1, 3, false)])).await.unwrap();
        assert!(!sees().await, "the old one was renewed");
        let mut gone = Mutation { change: Change::Delete { old_entries: vec![] }, ..of_series("old", 2, 0, true) };
        gone.rules = Some(Rules::default());
        store.commit(unit(vec![gone])).await.unwrap();
        assert!(!sees().await, "it denies nothing any more, and what it replaced stays replaced");
        let mut mistaken = of_series("old", 3, 0, true);
        mistaken.rules = Some(Rules { succession: Succession::Never, ..Rules::default() });
        store.commit(unit(vec![mistaken])).await.unwrap();
        assert!(sees().await, "a mistake replaced nothing");
        let mut deleted = Mutation { change: Change::Delete { old_entries: vec![] }, ..put("Patient", "p", 1, vec![], vec![]) };
        (deleted.owner, deleted.about) = (5, About::Patient("p".into()));
        store.commit(unit(vec![deleted])).await.unwrap();
        assert!(!sees().await, "to others a deleted id never existed");
        assert!(store.history(type_code("Patient"), "p", None, 5, &scope).await.unwrap().is_empty());
        assert!(store.read(type_code("Patient"), "p", &Scope::Owners(vec![5])).await.unwrap().is_some_and(|gone| gone.body.is_none()));
    }
);

both_databases!(
    async fn a_permit_and_what_it_rests_on_are_not_both_changed_unseen(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let names = param("Consent", "patient");
        let naming = |id: &str, base_version: i64, rests_on: i64| {
            let entries = vec![reference("Consent", "patient", "Patient", "p")];
            let mut consent =
                Mutation { rules: consent(id, 0, vec![rule(0, None, true)]).rules, ..put("Consent", id, base_version, vec![], entries) };
            consent.rules = consent.rules.map(|rules| Rules { rests_on: vec![(type_code("Patient"), "p".into(), rests_on)], ..rules });
            unit(vec![consent])
        };
        let edit = |base_version: i64, narrowing| Unit {
            narrowing: Some(narrowing),
            ..unit(vec![put("Patient", "p", base_version, vec![], vec![])])
        };
        let narrowing = || store.narrowing(type_code("Patient"), names, vec!["p".into()]);
        store.commit(unit(vec![put("Patient", "p", 0, vec![], vec![])])).await.unwrap();
        let unseen = narrowing().await.unwrap();
        store.commit(naming("c", 0, 1)).await.unwrap();
        assert!(matches!(store.commit(edit(1, unseen)).await, Err(WriteError::Stale)), "the permit came between");
        let mut seen = narrowing().await.unwrap();
        let permit = seen.permits().first().unwrap().clone();
        assert_eq!((permit.id.as_str(), permit.given_by.as_deref()), ("p", Some("p")));
        seen.remove(&permit);
        store.commit(edit(1, seen)).await.unwrap();
        assert!(narrowing().await.unwrap().permits().is_empty());
        assert!(matches!(store.commit(naming("d", 0, 1)).await, Err(WriteError::Stale)), "the edit came between");
        store.commit(naming("d", 0, 2)).await.unwrap();
        assert_eq!(narrowing().await.unwrap().permits().len(), 1);
    }
);

both_databases!(
    async fn one_of_many_racing_conditional_creates_wins_whatever_each_looks_for(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        for round in 0..100 {
            let value = format!("n{round}");
            let racers = (0..32).map(|racer| {
                let (store, value) = (store.clone(), value.clone());
                tokio::spawn(async move {
                    let other = format!("{value}-other");
                    let entries = [("identifier", &value), ("identifier", &other), ("phone", &value)];
                    let entries = entries.map(|(param, value)| token("Patient", param, "s", value)).to_vec();
                    let create = put("Patient", &format!("{value}-{racer}"), 0, vec![], entries);
                    let looked_for = match (round % 4, racer % 3) {
                        (0, _) | (1..3, 0) => is("Patient", "identifier", &value),
                        (1, _) | (_, 1) => is("Patient", "identifier", &other),
                        _ => is("Patient", "phone", &value),
                    };
                    let precondition = Precondition { query: query("Patient", vec![looked_for]), expected: vec![] };
                    store.commit(Unit { mutations: vec![create], preconditions: vec![precondition], ..Unit::default() }).await
                })
            });
            let mut won = 0;
            for racer in racers.collect::<Vec<_>>() {
                match racer.await.unwrap() {
                    Ok(_) => won += 1,
                    Err(WriteError::Stale) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(won, 1, "round {round}");
            assert_eq!(ids(&store, &query("Patient", vec![is("Patient", "identifier", &value)])).await.len(), 1);
        }
    }
);

both_databases!(
    async fn pages_keep_to_their_snapshot_while_everything_changes(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let entries = |name: &str| vec![string("Patient", "family", name), token("Patient", "active", "", "true")];
        let mut state: BTreeMap<String, (i64, String)> = BTreeMap::new();
        for n in 0..60 {
            let (id, name) = (format!("p{n}"), format!("name{:02}", (n * 37) % 60));
            store.commit(unit(vec![put("Patient", &id, 0, vec![], entries(&name))])).await.unwrap();
            state.insert(id, (1, name));
        }
        let key = |by, descending| SortKey { by, descending };
        let family = SortBy::Param { param: param("Patient", "family"), kind: Kind::String };
        let active = vec![is("Patient", "active", "true")];
        let sorts = [
            vec![],
            vec![key(family.clone(), false)],
            vec![key(family, true)],
            vec![key(SortBy::LastUpdated, true)],
            vec![key(SortBy::Id, false)],
        ];
        for (filters, sort) in [vec![], active].into_iter().flat_map(|f| sorts.clone().map(|s| (f.clone(), s))) {
            let mut asked = query("Patient", filters);
            asked.sort = sort;
            let first = store.search(&asked, 1_000, None).await.unwrap();
            let expected: Vec<(String, i64)> = first.rows.iter().map(|row| (row.id.to_string(), row.version)).collect();
            let mut seen = Vec::new();
            let mut cursor: Option<Cursor> = None;
            let mut turn = 0;
            loop {
                let page = store.search(&asked, 7, cursor.as_ref()).await.unwrap();
                seen.extend(page.rows.iter().map(|row| (row.id.to_string(), row.version)));
                let Some(next) = page.next else { break };
                cursor = Some(next);
                // Rename some, delete some, add some.
                for _ in 0..5 {
                    turn += 1;
                    let id = state.keys().nth((turn * 13) % state.len()).unwrap().clone();
                    let (version, name) = state[&id].clone();
                    if turn % 4 == 0 {
                        let mut delete = put("Patient", &id, version, vec![], vec![]);
                        delete.change = Change::Delete { old_entries: entries(&name) };
                        store.commit(unit(vec![delete])).await.unwrap();
                        state.remove(&id);
                        let id = format!("q{turn}-{}", seen.len() + rand::random_range(0..1_000_000));
                        store.commit(unit(vec![put("Patient", &id, 0, vec![], entries("name00"))])).await.unwrap();
                        state.insert(id, (1, "name00".into()));
                    } else {
                        let renamed = format!("name{:02}", (turn * 7) % 60);
                        store.commit(unit(vec![put("Patient", &id, version, entries(&name), entries(&renamed))])).await.unwrap();
                        state.insert(id, (version + 1, renamed));
                    }
                }
            }
            assert_eq!(seen, expected, "{asked:?}");
        }
    }
);

both_databases!(
    async fn a_job_is_worked_on_by_one_and_ended_only_with_its_token(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let job = |n: i64| NewJob { kind: "k".into(), payload: serde_json::json!({ "n": n }), dedup_key: Some("one".into()), run_at: 0 };
        store.commit(Unit { jobs: vec![job(1)], ..unit(vec![put("Patient", "a", 0, vec![], vec![])]) }).await.unwrap();
        store.commit(Unit { jobs: vec![job(2)], ..Unit::default() }).await.unwrap();
        let claimed = store.claim_jobs(&["k"], 10, Duration::from_millis(50)).await.unwrap();
        assert_eq!(claimed.len(), 1, "the second enqueue replaced the first");
        assert_eq!(claimed[0].payload["n"], 2);
        assert!(store.claim_jobs(&["k"], 10, Duration::from_secs(5)).await.unwrap().is_empty());
        tokio::time::sleep(Duration::from_millis(80)).await;
        let again = store.claim_jobs(&["k"], 10, Duration::from_secs(5)).await.unwrap();
        assert_eq!((again.len(), again[0].attempt), (1, 2));
        let done = || JobEnd::Done { result: serde_json::json!({}) };
        assert!(!store.end_job(claimed[0].id, claimed[0].token, done()).await.unwrap(), "the first worker lost its lease");
        assert!(
            store.end_job(again[0].id, again[0].token, JobEnd::Dead { error: "no".into(), result: serde_json::json!({}) }).await.unwrap()
        );
        assert!(store.requeue_job(again[0].id).await.unwrap());
        let third = store.claim_jobs(&["k"], 10, Duration::from_secs(5)).await.unwrap();
        assert!(store.end_job(third[0].id, third[0].token, done()).await.unwrap());
        assert_eq!(store.jobs(Some("k"), Some("done"), 10).await.unwrap().len(), 1);
    }
);

both_databases!(
    async fn a_store_that_answered_just_now_closes(db: &TestDb) {
        for round in 0..40 {
            let store = Store::open(&db.url).await.unwrap();
            if round == 0 {
                store.commit(unit(vec![put("Patient", "a", 0, vec![], vec![])])).await.unwrap();
            }
            let reads = (0..=round % 4).map(|_| store.read(type_code("Patient"), "a", &Scope::All));
            for read in futures_util::future::join_all(reads).await {
                assert!(read.unwrap().is_some());
            }
            tokio::time::timeout(Duration::from_secs(60), store.close()).await.expect("it closes");
        }
    }
);

both_databases!(
    async fn everything_is_there_after_a_restart(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let written = store.commit(unit(vec![put("Patient", "a", 0, vec![], vec![])])).await.unwrap();
        store.close().await;
        let store = Store::open(&db.url).await.unwrap();
        let again = store.commit(unit(vec![put("Patient", "b", 0, vec![], vec![])])).await.unwrap();
        assert_ne!(written[0].key, again[0].key);
        assert_eq!(ids(&store, &query("Patient", vec![])).await, set(&["a", "b"]));
    }
);

#[tokio::test]
async fn when_a_full_disk_has_room_again_writes_go_on() {
    let db = TestDb::sqlite();
    let store = Store::open(&db.url).await.unwrap();
    let Store::Sqlite(sqlite) = &store else { panic!("it is SQLite") };
    let room = |pages: i64| sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"))).execute(&sqlite.write);
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&sqlite.write).await.unwrap();
    room(pages).await.unwrap();
    let mut stored = 0;
    let full = loop {
        match store.commit(unit(vec![put("Patient", &format!("p{stored}"), 0, vec![], vec![])])).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 10_000, "the disk is full some day");
    };
    assert!(matches!(&full, WriteError::Database(error) if is_unavailable(error)), "{full:?}");
    room(1_000_000).await.unwrap();
    store.commit(unit(vec![put("Patient", &format!("p{stored}"), 0, vec![], vec![])])).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_store_that_takes_no_writes_says_so_until_it_does() {
    let db = TestDb::sqlite();
    let store = Store::open(&db.url).await.unwrap();
    let Store::Sqlite(sqlite) = &store else { panic!("it is SQLite") };
    let write = || store.commit(unit(vec![put("Patient", "p", 0, vec![], vec![])]));
    sqlx::query("PRAGMA query_only = 1").execute(&sqlite.write).await.unwrap();
    assert!(matches!(write().await, Err(WriteError::Database(error)) if is_unavailable(&error)));
    assert!(store.ping().await.is_err());
    sqlx::query("PRAGMA query_only = 0").execute(&sqlite.write).await.unwrap();
    write().await.unwrap();
    store.ping().await.unwrap();
    store.close().await;
}

/// SQLite does not take back what a statement did before it failed: the transaction goes as a whole.
#[tokio::test]
async fn what_fails_halfway_leaves_nothing() {
    let db = TestDb::sqlite();
    let store = Store::open(&db.url).await.unwrap();
    let Store::Sqlite(sqlite) = &store else { panic!("it is SQLite") };
    sqlx::query("CREATE UNIQUE INDEX token_odd ON token (code) WHERE code = 'odd'").execute(&sqlite.write).await.unwrap();
    let of = |id: &str, code: &str| put("Patient", id, 0, vec![], vec![token("Patient", "gender", "g", code)]);
    let failed = store.commit(unit(vec![of("a", "even"), of("b", "odd"), of("c", "odd")])).await;
    assert!(matches!(failed, Err(WriteError::Database(_))), "{failed:?}");
    assert_eq!(ids(&store, &query("Patient", vec![])).await, set(&[]));
    assert_eq!(ids(&store, &query("Patient", vec![is("Patient", "gender", "even")])).await, set(&[]));
    store.commit(unit(vec![of("a", "even"), of("b", "odd")])).await.unwrap();
    assert_eq!(ids(&store, &query("Patient", vec![is("Patient", "gender", "even")])).await, set(&["a"]));
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM token").fetch_one(&sqlite.read).await.unwrap();
    assert_eq!(rows, 2);
    store.close().await;
}
