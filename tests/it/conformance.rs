//! What `docs/conformance.md` claims, held against the CapabilityStatement and against the tests that it names.

use crate::support::{TestServer, both_databases};
use lango::fhirpath::{Env, Expression, Node};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../../docs/conformance.md");

/// A row of one of the page's tables.
struct Row {
    feature: &'static str,
    mark: &'static str,
    /// FHIRPath on the CapabilityStatement.
    stated: Option<String>,
    /// `file::test` and the path of the file, relative to the page.
    shown_by: Vec<(&'static str, &'static str)>,
}

fn rows() -> Vec<Row> {
    let tables = PAGE.split("\n| feature |").skip(1).flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')));
    tables.map(row).collect()
}

fn row(line: &'static str) -> Row {
    let escaped = line.replace("\\|", "\\ ");
    let bounds: Vec<usize> = escaped.match_indices('|').map(|(at, _)| at).collect();
    let cells: Vec<&str> = bounds.windows(2).map(|pair| line[pair[0] + 1..pair[1]].trim()).collect();
    let [feature, mark, stated, shown_by] = cells.as_slice() else { panic!("a row has four cells: {line}") };
    let links = shown_by.split("[").skip(1).map(|link| {
        let (name, rest) = link.split_once("](").expect("a link");
        (name, rest.split_once(')').expect("a link").0)
    });
    let stated = (*stated != "—").then(|| stated.trim_matches('`').replace("\\|", "|"));
    Row { feature, mark, stated, shown_by: links.collect() }
}

#[test]
fn every_claim_names_tests_that_exist() {
    let rows = rows();
    assert!(rows.len() > 60, "{} rows", rows.len());
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for Row { feature, mark, shown_by, .. } in &rows {
        assert!(["Y", "P", "N"].contains(mark), "{feature}: {mark}");
        assert_eq!(shown_by.is_empty(), *mark == "N", "{feature}: what is there is shown by a test, what is not by none");
        for (name, path) in shown_by {
            let (file, test) = name.split_once("::").unwrap_or_else(|| panic!("{feature}: {name}"));
            assert!(path.ends_with(&format!("/{file}.rs")), "{feature}: {name} is not in {path}");
            let source = std::fs::read_to_string(docs.join(path)).unwrap_or_else(|error| panic!("{feature}: {path}: {error}"));
            assert!(source.contains(&format!("fn {test}(")), "{feature}: {path} has no test {test}");
        }
    }
    let features: BTreeSet<&str> = rows.iter().map(|row| row.feature).collect();
    assert_eq!(features.len(), rows.len(), "a feature has one row");
}

/// Every text under this key, anywhere.
fn texts<'v>(value: &'v Value, path: &[&str], found: &mut BTreeSet<&'v str>) {
    match (value, path) {
        (Value::Array(items), _) => items.iter().for_each(|item| texts(item, path, found)),
        (Value::String(text), []) => drop(found.insert(text)),
        (Value::Object(members), [key, rest @ ..]) => members.get(*key).into_iter().for_each(|value| texts(value, rest, found)),
        _ => {}
    }
}

both_databases!(
    async fn the_page_and_the_capability_statement_claim_the_same(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (_, statement) = server.get("/fhir/metadata").await;
        let rows = rows();
        let mut wrong = Vec::new();
        for Row { feature, mark, stated, .. } in &rows {
            let Some(stated) = stated else { continue };
            let expression = Expression::parse(stated).unwrap_or_else(|error| panic!("{feature}: {error}"));
            let answer = expression.is_true(Node::root(&statement), &Env::default());
            let answer = answer.unwrap_or_else(|error| panic!("{feature}: {error}"));
            if answer != Some(*mark != "N") {
                wrong.push(format!("{feature}: the page says {mark}, the statement {answer:?}"));
            }
        }
        assert!(wrong.is_empty(), "docs/conformance.md is not true any more:\n{}", wrong.join("\n"));

        // The other way round: what is listed has a row that claims it.
        let claimed: Vec<&Row> = rows.iter().filter(|row| row.mark != "N").collect();
        let quoted = |text: &str| claimed.iter().any(|row| row.stated.as_ref().is_some_and(|stated| stated.contains(&format!("'{text}'"))));
        let named = |text: &str| claimed.iter().any(|row| row.feature.split([' ', ',', '/', '`', ':']).any(|word| word == text));
        let listed = |path: &[&str]| {
            let mut found = BTreeSet::new();
            texts(&statement, path, &mut found);
            assert!(!found.is_empty(), "{path:?}");
            found
        };
        for path in [&["rest", "interaction", "code"][..], &["rest", "resource", "interaction", "code"], &["patchFormat"]] {
            for code in listed(path) {
                assert!(quoted(code), "docs/conformance.md says nothing of {code}");
            }
        }
        for operation in listed(&["rest", "resource", "operation", "name"]) {
            assert!(named(&format!("${operation}")), "docs/conformance.md says nothing of ${operation}");
        }
        for documentation in listed(&["rest", "resource", "searchParam", "documentation"]) {
            let modifiers = documentation.split([',', ' ', ';']).filter_map(|word| word.strip_prefix(':').filter(|word| !word.is_empty()));
            for modifier in modifiers {
                assert!(named(modifier), "docs/conformance.md says nothing of :{modifier}");
            }
        }
        for parameter in listed(&["rest", "searchParam", "name"]) {
            assert!(named(parameter), "docs/conformance.md says nothing of {parameter}");
        }
        server.stop().await;
    }
);
