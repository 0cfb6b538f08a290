//! The official suite, and what it does not say.

use super::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fhirpath/");

fn read_json(name: &str) -> Value {
    crate::fhir::json::parse(&fs::read(format!("{DATA}{name}")).unwrap()).unwrap()
}

/// What is wrong with the outcome of one test of the suite; `None` when it is as expected.
fn problem(test: &Value, input: &Value) -> Option<String> {
    let outcome = Expression::parse(test["expression"].as_str().unwrap())
        .map_err(|error| error.to_string())
        .and_then(|expression| expression.check(input["resourceType"].as_str().unwrap()).map(|()| expression))
        .and_then(|expression| expression.evaluate(input, &Env::default()).map_err(|error| error.to_string()));
    let found = match (outcome, test.get("invalid")) {
        (Err(_), Some(_)) => return None,
        (Err(error), None) => return Some(error),
        (Ok(_), Some(kind)) => return Some(format!("should be refused ({kind})")),
        (Ok(found), None) => found,
    };
    if test.get("predicate").is_some() {
        return (operators::truth(&found).unwrap() != Some(true)).then(|| "should be true".to_owned());
    }
    let mut found: Vec<(String, String)> =
        found.iter().map(|node| (node.type_name().to_lowercase(), node.to_text().unwrap_or_default())).collect();
    let mut expected: Vec<(String, String)> = test["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| {
            let text = output["text"].as_str().unwrap();
            (
                output["type"].as_str().unwrap_or_default().to_lowercase(),
                text.strip_prefix('@').unwrap_or(text).trim_start_matches('T').to_owned(),
            )
        })
        .collect();
    if test.get("ordered").is_some() {
        found.sort();
        expected.sort();
    }
    let same = found.len() == expected.len()
        && found.iter().zip(&expected).all(|(found, expected)| {
            let decimal = |text: &str| value::read_decimal(text);
            (expected.0.is_empty() || found.0 == expected.0)
                && (found.1 == expected.1 || (found.0 == "decimal" && decimal(&found.1) == decimal(&expected.1)))
        });
    (!same).then(|| format!("gives {found:?} instead of {expected:?}"))
}

#[test]
fn the_official_suite_passes_but_for_what_is_listed() {
    let listed: BTreeSet<String> = fs::read_to_string(format!("{DATA}known-failures.txt"))
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(name, _)| name.to_owned()))
        .collect();
    let mut inputs: BTreeMap<String, Value> = BTreeMap::new();
    let suite = read_json("tests-fhir-r4.json");
    let suite = suite.as_array().unwrap();
    let mut failures = BTreeMap::new();
    for test in suite {
        let file = test.get("input").and_then(Value::as_str).unwrap_or("patient-example.json");
        let input = inputs.entry(file.to_owned()).or_insert_with(|| read_json(file));
        if let Some(problem) = problem(test, input) {
            failures.insert(test["name"].as_str().unwrap().to_owned(), problem);
        }
    }
    println!("{} of {} pass", suite.len() - failures.len(), suite.len());
    let unlisted: Vec<_> = failures.iter().filter(|(name, _)| !listed.contains(*name)).collect();
    assert!(unlisted.is_empty(), "{} fail unexpectedly: {unlisted:#?}", unlisted.len());
    let passing: Vec<_> = listed.iter().filter(|name| !failures.contains_key(*name)).collect();
    assert!(passing.is_empty(), "listed as failing, but they pass: {passing:?}");
}

fn texts(expression: &str, input: &Value) -> Vec<String> {
    let expression = Expression::parse(expression).unwrap();
    let nodes = expression.evaluate(input, &Env::default()).unwrap();
    nodes.iter().map(|node| node.to_text().unwrap_or_else(|| node.as_json().to_string())).collect()
}

#[test]
fn plain_json_is_walked_by_key() {
    let record = r#"{ "visit": { "weight": 61.50, "codes": ["A09", "B54"], "date": "2026-09-07", "valueSet": 1 } }"#;
    let record = crate::fhir::json::parse(record.as_bytes()).unwrap();
    assert_eq!(texts("visit.codes[1]", &record), ["B54"]);
    assert_eq!(texts("visit.weight", &record), ["61.50"]);
    assert_eq!(texts("visit.codes.where(startsWith('A')).exists()", &record), ["true"]);
    assert_eq!(texts("visit.date <= @2026-10-01", &record), ["true"]);
    assert_eq!(texts("iif(visit.weight > 60, 'heavy', 'light')", &record), ["heavy"]);
    assert!(texts("visit.value", &record).is_empty());
    assert_eq!(texts("list.count()", &json!({ "list": [[1, 2], [[3]], null, []] })), ["3"]);
}

#[test]
fn a_choice_is_found_by_its_stem_and_knows_its_type() {
    let observation =
        br#"{ "resourceType": "Observation", "valueQuantity": { "value": 5.40, "unit": "g" }, "effectiveDateTime": "2026-09" }"#;
    let observation = crate::fhir::json::parse(observation).unwrap();
    assert_eq!(texts("Observation.value.value", &observation), ["5.40"]);
    assert_eq!(texts("(Observation.value as Quantity).unit", &observation), ["g"]);
    assert_eq!(texts("Observation.value.ofType(CodeableConcept).exists()", &observation), ["false"]);
    assert_eq!(texts("Observation.effective is dateTime", &observation), ["true"]);
}

#[test]
fn a_reference_resolves_to_the_type_that_it_names() {
    let encounter = json!({ "resourceType": "Encounter", "subject": { "reference": "Patient/p1" }, "participant": [
        { "individual": { "reference": "http://elsewhere/fhir/Practitioner/7/_history/2" } }] });
    assert_eq!(texts("Encounter.subject.where(resolve() is Patient).reference", &encounter), ["Patient/p1"]);
    assert_eq!(texts("Encounter.participant.individual.resolve() is Practitioner", &encounter), ["true"]);
    assert_eq!(texts("Encounter.subject.where(resolve() is Group).exists()", &encounter), ["false"]);
}

/// <http://hl7.org/fhirpath/N1/#math>: what overflows gives nothing.
#[test]
fn an_integer_has_32_bits() {
    let holds = |text: &str| Expression::parse(text).unwrap().is_true(Node::root(&json!({})), &Env::default()).unwrap() == Some(true);
    for text in [
        "(2147483647 + 1).empty()",
        "(-2147483647 - 5).empty()",
        "(2147483647 * 2).empty()",
        "(-2147483648).abs().empty()",
        "65536.power(2).empty()",
        "(4294967296.0).floor().empty()",
        "'2147483648'.toInteger().empty()",
        "'2147483648'.convertsToInteger().not()",
        "(2147483646 + 1) is Integer",
        "-2147483648 is Integer",
        "2147483648 is Decimal",
        "(2147483647 + 1.0) is Decimal",
        "2147483647 + 1.0 = 2147483648",
    ] {
        assert!(holds(text), "{text}");
    }
}

#[test]
fn hooks_supply_resources_and_membership() {
    let target = json!({ "resourceType": "Patient", "gender": "female" });
    let input = json!({ "resourceType": "Encounter", "subject": { "reference": "Patient/p1" } });
    let ages = json!([3, 4]);
    let resolver = |reference: &str| (reference == "Patient/p1").then_some(&target);
    let member_of = |code: &Value, url: &str| Some(url == "http://vs" && code == "female");
    let env = Env::default().with_resolver(&resolver).with_member_of(&member_of).with_var("ages", &ages);
    for (text, wanted) in
        [("subject.resolve().gender.memberOf('http://vs')", true), ("%ages.count() = 2", true), ("%ages.last() > 4", false)]
    {
        let nodes = Expression::parse(text).unwrap().evaluate(&input, &env).unwrap();
        assert_eq!(nodes.first().and_then(Node::as_bool), Some(wanted), "{text}");
    }
}

#[test]
fn hostile_expressions_are_refused_and_not_suffered() {
    for text in [
        "(".repeat(100_000),
        "-".repeat(100_000),
        "a[".repeat(50_000),
        "not(".repeat(25_000),
        "1+".repeat(50_000) + "1",
        "a.".repeat(60_000),
    ] {
        assert!(Expression::parse(&text).is_err());
    }
    for text in ["", "a..b", "a.b(", "'open", "@2026-13", "1 +", "foo()", "first(1)", "\u{0}", "%", "$that", "a.as(", "'\\u12'", "`x"] {
        assert!(Expression::parse(text).is_err(), "{text}");
    }
    // Long but flat is fine.
    assert!(Expression::parse(&("a.".repeat(10_000) + "b")).is_ok());
    for text in ["1.repeat($this + 1)", "'a'.repeat($this & 'a')", "(1|2|3).repeatAll($this)", "repeatAll(%context)"] {
        assert_eq!(
            Expression::parse(text).unwrap().evaluate(&json!({ "a": 1 }), &Env::default()).unwrap_err(),
            EvalError::TooCostly,
            "{text}"
        );
    }
}

#[test]
fn the_deepest_expressions_fit_a_small_stack() {
    let input = json!({ "a": { "a": 1 }, "resourceType": "Patient", "name": [{ "given": ["x"] }] });
    let wrap = |open: &str, core: &str, close: &str| {
        let nested = |levels: usize| open.repeat(levels) + core + &close.repeat(levels);
        // The deepest that the parser takes.
        (1..200).rev().map(nested).find_map(|text| Expression::parse(&text).ok()).unwrap()
    };
    let deepest = [
        wrap("(", "1", ")"),
        wrap("name.select(", "given", ")"),
        wrap("iif(true, ", "1", ")"),
        wrap("a.where(", "true", ")"),
        wrap("repeat(", "a", ")"),
        wrap("1 + (", "1", ")"),
        wrap("-", "1", ""),
        wrap("", "1", " + 1"),
        wrap("true and name.exists(", "true", ")"),
        wrap("name[", "0", "]"),
        wrap("'a'.replace(", "'b'", ", 'c')"),
    ];
    let small = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        for expression in &deepest {
            let _ = expression.evaluate(&input, &Env::default());
            drop(expression.clone());
        }
    });
    small.unwrap().join().unwrap();
}

#[test]
fn long_texts_cannot_fill_the_memory() {
    let long = json!({ "text": "x".repeat(900_000), "many": vec![1; 3_000] });
    for text in [
        "text & text",
        "many.select(%context.text & 'a')",
        "text.toChars().select($this & $this)",
        "text.replace('', 'yyyyyyyyyyyy')",
        "text.replaceMatches('x', '$0$0$0$0')",
    ] {
        assert_eq!(Expression::parse(text).unwrap().evaluate(&long, &Env::default()).unwrap_err(), EvalError::TooCostly, "{text}");
    }
}

#[test]
fn patterns_are_compiled_once_and_few_at_a_time() {
    let names: Vec<Value> = (0..1000).map(|n| json!({ "text": format!("x{n}") })).collect();
    let patient = json!({ "resourceType": "Patient", "name": names });
    let evaluate = |text: &str| Expression::parse(text).unwrap().evaluate(&patient, &Env::default()).map(|nodes| nodes.len());
    assert_eq!(evaluate("name.text.select($this.matches('^x[0-9]+$'))"), Ok(1000));
    // A pattern for each text.
    assert_eq!(evaluate("name.text.select('x'.matches($this))"), Err(EvalError::TooCostly));
}

#[test]
fn r4_invariants_hold_and_fail_where_they_should() {
    let patient = |contained: &str| {
        json!({ "resourceType": "Patient", "contained": [{ "resourceType": "Organization", "id": "o" }],
            "managingOrganization": { "reference": contained }, "contact": [{ "gender": "male" }],
            "extension": [{ "url": "http://x", "valueString": "y" }] })
    };
    let contained_is_used = "contained.where((('#'+id in (%resource.descendants().reference | %resource.descendants().as(canonical) | \
        %resource.descendants().as(uri) | %resource.descendants().as(url))) or descendants().where(reference = '#').exists() or \
        descendants().where(as(canonical) = '#').exists()).not()).trace('unmatched', id).empty()";
    for (text, input, holds) in [
        (contained_is_used, patient("#o"), true),
        (contained_is_used, patient("#other"), false),
        ("contained.contained.empty()", patient("#o"), true),
        ("contact.all(name.exists() or telecom.exists() or address.exists() or organization.exists())", patient("#o"), false),
        ("extension.all(extension.exists() != value.exists())", patient("#o"), true),
        ("descendants().where($this is Element).all(hasValue() or (children().count() > id.count()))", patient("#o"), true),
        ("id.exists() implies id.matches('^[A-Za-z0-9\\\\-\\\\.]{1,64}$')", patient("#o"), true),
    ] {
        let nodes = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).evaluate(&input, &Env::default()).unwrap();
        assert_eq!(operators::truth(&nodes), Ok(Some(holds)), "{text}");
    }
}

/// A date or dateTime with `precision` fields, and the zone `offset` hours east when it has a time.
fn moment(precision: usize, fields: (u16, u8, u8, u8, u8, u8, u16), offset: i8) -> String {
    let (year, month, day, hour, minute, second, milli) = fields;
    let zone = if offset == 0 { "Z".to_owned() } else { format!("{}{:02}:00", if offset < 0 { '-' } else { '+' }, offset.abs()) };
    match precision {
        0 => format!("{year:04}"),
        1 => format!("{year:04}-{month:02}"),
        2 => format!("{year:04}-{month:02}-{day:02}"),
        3 => format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}{zone}"),
        4 => format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}"),
        _ => format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}{zone}"),
    }
}

proptest::proptest! {
    /// An order is told exactly when the intervals that two partial dates name lie apart.
    #[test]
    fn partial_dates_are_ordered_like_their_intervals(
        a in (2023u16..2025, 1u8..3, 1u8..4, 0u8..3, 0u8..2, 0u8..2, 0u16..3),
        b in (2023u16..2025, 1u8..3, 1u8..4, 0u8..3, 0u8..2, 0u8..2, 0u16..3),
        precisions in (0usize..6, 0usize..6),
        offsets in (-2i8..3, -2i8..3),
    ) {
        // A date has no zone; beside one, a time is read in UTC like the intervals are.
        let offsets = if precisions.0 < 3 || precisions.1 < 3 { (0, 0) } else { offsets };
        let (a, b) = (moment(precisions.0, a, offsets.0), moment(precisions.1, b, offsets.1));
        let interval = |text: &str| crate::fhir::time::parse_interval(text, &TimeZone::UTC).unwrap();
        let (x, y) = (interval(&a), interval(&b));
        let read = |text: &str| Temporal::parse_date_time(text).unwrap();
        let order = read(&a).compare(read(&b));
        // Seconds and fractions are one precision.
        let exact = precisions.0.min(precisions.1) >= 4 || precisions.0 == precisions.1;
        let expected = match () {
            () if exact => Some(x.low.cmp(&y.low)),
            () if x.high <= y.low => Some(std::cmp::Ordering::Less),
            () if y.high <= x.low => Some(std::cmp::Ordering::Greater),
            () => None,
        };
        proptest::prop_assert_eq!(order, expected, "{} {}", a, b);
        proptest::prop_assert_eq!(read(&a).to_string(), a);
    }

    #[test]
    fn days_added_can_be_taken_away(days in -40_000i64..40_000, year in 1900u16..2100, month in 1u8..13, day in 1u8..29) {
        let start = Temporal::parse_date(&moment(2, (year, month, day, 0, 0, 0, 0), 0)).unwrap();
        let moved = start.plus(days, CalendarUnit::Day).unwrap();
        proptest::prop_assert_eq!(moved.plus(-days, CalendarUnit::Day), Some(start));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-c1'(){}|.+@%$ \\[\\]<=~`\\\\T:-]{0,40}") {
        if let Ok(expression) = Expression::parse(&text) {
            let _ = expression.evaluate(&json!({ "a": [{ "b": 1.5 }, "x"], "c": { "a": true } }), &Env::default());
        }
    }
}
