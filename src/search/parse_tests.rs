use super::*;
use crate::store::query::{DateOp, Filter, Kind, SortBy, SystemTest, Test};
use crate::store::{Facet, SortKey};
use proptest::prelude::*;

fn options(strict: bool) -> ParseOptions {
    ParseOptions { strict, now: 1_800_000_000_000_000, ..ParseOptions::new("http://localhost/fhir", TimeZone::UTC) }
}

fn type_code(name: &str) -> TypeCode {
    definitions::r4().type_code(name).unwrap()
}

fn param(type_name: &str, code: &str) -> ParamId {
    definitions::r4().param(type_code(type_name), code).unwrap().id
}

fn read(url: &str, strict: bool) -> Result<SearchRequest, Vec<Issue>> {
    let (type_name, query) = url.split_once('?').unwrap();
    let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    parse(type_code(type_name), &pairs, Scope::All, &options(strict))
}

fn strict(url: &str) -> SearchRequest {
    read(url, true).unwrap_or_else(|issues| panic!("{url}: {issues:?}"))
}

fn filters(url: &str) -> Vec<Filter> {
    strict(url).query.filters
}

/// Refused in both handlings, about `expression`.
fn refused(url: &str) -> Vec<Issue> {
    let issues = read(url, false).expect_err(url);
    assert_eq!(read(url, true).expect_err(url), issues);
    assert!(issues.iter().all(|issue| issue.severity.is_error() && issue.expression.contains(url.split('?').next().unwrap())));
    issues
}

fn token(code: &str) -> Test {
    Test::Token { system: SystemTest::Any, code: Some(code.into()) }
}

fn gender(code: &str) -> Filter {
    Filter::Param { param: param("Patient", "gender"), tests: vec![token(code)] }
}

#[test]
fn commas_are_or_and_repetition_is_and() {
    let both = Filter::Param { param: param("Patient", "gender"), tests: vec![token("male"), token("other")] };
    assert_eq!(filters("Patient?gender=male,other&gender=male"), [both, gender("male")]);
}

#[test]
fn not_and_missing_look_at_the_whole_resource() {
    let id = param("Patient", "gender");
    assert_eq!(filters("Patient?gender:not=male"), [Filter::NotParam { param: id, tests: vec![token("male")] }]);
    let words = |param| (Facet::Text.of(param), Kind::Uri);
    let places = vec![(id, Kind::Token), words(id)];
    assert_eq!(filters("Patient?gender:missing=true"), [Filter::Missing { places, missing: true }]);
    let id = param("Observation", "subject");
    let places = vec![(id, Kind::Reference), (id, Kind::Uri), words(id), (Facet::Identifier.of(id), Kind::Token)];
    let subject = Filter::Missing { places, missing: false };
    assert_eq!(filters("Observation?subject:missing=false"), [subject]);
    assert_eq!(filters("Patient?_id:missing=true"), [Filter::Nothing]);
    assert_eq!(filters("Patient?_lastUpdated:missing=false"), []);
    refused("Patient?gender:missing=yes");
}

#[test]
fn ids_and_instants_have_filters_of_their_own() {
    assert_eq!(filters("Patient?_id=a,b"), [Filter::Id(vec!["a".into(), "b".into()])]);
    let year = crate::fhir::Interval { low: 1_767_225_600_000_000, high: 1_798_761_600_000_000 };
    assert_eq!(filters("Patient?_lastUpdated=gt2026"), [Filter::LastUpdated { ranges: vec![(DateOp::Gt, year)] }]);
    assert!(matches!(&filters("Patient?_lastUpdated=lt2026,gt2027")[..], [Filter::Any(either)] if either.len() == 2));
    refused("Patient?_id=a/b");
    assert_eq!(filters("Patient?_id:not=a"), [Filter::Not(Box::new(Filter::Id(vec!["a".into()])))]);
}

#[test]
fn values_of_one_parameter_in_two_indexes_are_alternatives() {
    let found = filters("Observation?subject=Patient/1,http://elsewhere.example/p");
    assert!(matches!(&found[..], [Filter::Any(either)] if either.len() == 2), "{found:?}");
}

#[test]
fn a_chain_filters_the_targets() {
    let chain = |targets| Filter::Chain { param: param("Observation", "subject"), targets };
    assert_eq!(filters("Observation?subject:Patient.gender=male"), [chain(vec![(type_code("Patient"), vec![gender("male")])])]);
    assert_eq!(filters("Observation?subject.gender=male"), [chain(vec![(type_code("Patient"), vec![gender("male")])])]);
    let [Filter::Chain { targets, .. }] = &filters("Observation?subject.identifier=1")[..] else { panic!() };
    assert_eq!(targets.len(), 4);
    let [Filter::Chain { targets, .. }] = &filters("Observation?subject:Patient.organization.name:exact=X")[..] else { panic!() };
    assert!(matches!(&targets[0].1[..], [Filter::Chain { .. }]));
    assert_eq!(filters("Observation?subject:Patient._id=7"), [chain(vec![(type_code("Patient"), vec![Filter::Id(vec!["7".into()])])])]);
}

#[test]
fn has_filters_what_refers_here() {
    let observation = type_code("Observation");
    let code = Filter::Param { param: param("Observation", "code"), tests: vec![token("1234-5")] };
    let has = Filter::Has { source: observation, param: param("Observation", "patient"), filters: vec![code] };
    assert_eq!(filters("Patient?_has:Observation:patient:code=1234-5"), std::slice::from_ref(&has));
    let chained = Filter::Chain { param: param("Encounter", "subject"), targets: vec![(type_code("Patient"), vec![has])] };
    assert_eq!(filters("Encounter?subject:Patient._has:Observation:patient:code=1234-5"), [chained]);
    let nested = filters("Patient?_has:Observation:subject:_has:DiagnosticReport:result:status=final");
    assert!(matches!(&nested[..], [Filter::Has { filters, .. }] if matches!(filters[0], Filter::Has { .. })));
    refused("Patient?_has:Observation:based-on:code=1");
    refused("Patient?_has:Observation:patient=1");
}

#[test]
fn chains_have_limits_with_reasons() {
    let deep = format!("Observation?{}status=final", "has-member:Observation.".repeat(9));
    assert_eq!(refused(&deep)[0].code, IssueCode::TooCostly);
    assert_eq!(refused("Observation?focus.focus.focus._id=1")[0].code, IssueCode::TooCostly);
    let many: Vec<String> = (0..101).map(|n| format!("code={n}")).collect();
    assert_eq!(refused(&format!("Observation?{}", many.join("&")))[0].code, IssueCode::TooCostly);
    assert_eq!(refused(&format!("Observation?code={}", "a,".repeat(1_000)))[0].code, IssueCode::TooCostly);
}

#[test]
fn what_is_unknown_is_an_error_or_a_warning_and_never_in_the_self_link() {
    let cases = [
        ("Patient?birthDate=1990", "birthdate"),
        ("Patient?_sort=famly", "family"),
        ("Patient?_include=Patient:organisation", "organization"),
        ("Patient?_revinclude=Observations:subject", "Observation"),
        ("Patient?_elements=nam", "name"),
        ("Patient?family=", ""),
        ("Patient?_include=", ""),
        ("Patient?_sort=", ""),
    ];
    for (url, meant) in cases {
        let errors = read(url, true).expect_err(url);
        assert!(errors[0].diagnostics.contains(meant), "{url}: {errors:?}");
        let request = read(&format!("{url}&_id=a"), false).expect(url);
        assert_eq!(request.query.filters, [Filter::Id(vec!["a".into()])], "{url}");
        assert_eq!(request.warnings.len(), 1, "{url}");
        assert!(request.warnings[0].diagnostics.ends_with("It was ignored."));
        assert!(request.self_params.iter().all(|(key, _)| key == "_id"));
    }
}

#[test]
fn a_chain_that_leads_nowhere_is_always_an_error() {
    let cases = [
        ("Observation?subject:Patient.nam=x", "name"),
        ("Observation?subject.colour=x", "colour"),
        ("Observation?subjekt.name=x", "subject"),
        ("Patient?_has:Observation:patient:cod=x", "code"),
        ("Patient?_has:Observation:nonsense:code=1", "nonsense"),
        ("Patient?_has:Observations:patient:code=1", "Observation"),
        ("Patient?_has:Observation:patient=1", "_has:Type"),
        ("Patient?_has=1", "_has:Type"),
    ];
    for (url, meant) in cases {
        for strict in [true, false] {
            let errors = read(url, strict).expect_err(url);
            assert!(errors[0].diagnostics.contains(meant), "{url}: {errors:?}");
        }
    }
}

/// R4 search, section Modifiers: a request with a modifier that the server does not know is refused.
#[test]
fn a_mistyped_modifier_is_always_an_error() {
    for (url, meant) in [("Patient?name:exakt=x", "exact"), ("Observation?subject:Patint.name=x", "Patint")] {
        for strict in [true, false] {
            let errors = read(url, strict).expect_err(url);
            assert!(errors[0].diagnostics.contains(meant), "{url}: {errors:?}");
        }
    }
}

#[test]
fn what_is_known_but_not_supported_is_always_an_error() {
    for url in ["Patient?_text=x", "Patient?_content=x", "Patient?_list=$current-problems", "Patient?_query=x"] {
        assert_eq!(refused(url)[0].code, IssueCode::NotSupported, "{url}");
    }
    for url in [
        "Observation?code:in=http://v",
        "Observation?code:below=1",
        "Observation?code:above=http://nowhere|1",
        "Patient?identifier:of-type=a|c",
        "Observation?subject:below=Patient/1",
        "Location?near=91|2",
        "Location?near=1",
        "Location?near=1|2|3|furlong",
        "Patient?_list=a/b/c",
    ] {
        assert_eq!(refused(url)[0].code, IssueCode::Value, "{url}");
    }
    for url in [
        "Patient?name:text=x",
        "Patient?_list:missing=true",
        "Patient?name:below=x",
        "Patient?birthdate:exact=1990",
        "Observation?subject:Practitioner=1",
        "Patient?name.family=x",
        "Patient?_count:exact=1",
    ] {
        assert_eq!(refused(url)[0].code, IssueCode::Invalid, "{url}");
    }
}

#[test]
fn a_modifier_looks_into_an_index_of_its_own() {
    let one = |url: &str| match filters(url).as_slice() {
        [Filter::Param { param, tests }] if tests.len() == 1 => (*param, tests[0].clone()),
        other => panic!("{url}: {other:?}"),
    };
    let code = param("Observation", "code");
    assert_eq!(one("Observation?code:text=Héart"), (Facet::Text.of(code), Test::TextStarts("heart".into())));
    // `combo-code` reads two elements, whose words are kept under the parameters that read one of them each.
    let [Filter::Any(either)] = &filters("Observation?combo-code:text=heart")[..] else { panic!() };
    let places: Vec<ParamId> = either.iter().map(|filter| if let Filter::Param { param, .. } = filter { *param } else { 0 }).collect();
    assert_eq!(places, [code, param("Observation", "component-code")].map(|param| Facet::Text.of(param)));
    let identifier = |value: &str, system| Test::Token { system, code: Some(value.into()) };
    let (subject, id) = (param("Observation", "subject"), param("Patient", "identifier"));
    let system = SystemTest::Is("urn:x".into());
    assert_eq!(one("Observation?subject:identifier=urn:x|7"), (Facet::Identifier.of(subject), identifier("7", system)));
    let typed = SystemTest::Is("http://v2|MR".into());
    assert_eq!(one("Patient?identifier:of-type=http://v2|MR|7"), (Facet::OfType.of(id), identifier("7", typed)));
    let (value, amount) = one("Observation?value-quantity=5.4|http://unitsofmeasure.org|mg");
    let all = crate::search::extract::facet_places(type_code("Observation"), param("Observation", "value-quantity"));
    assert!(all.iter().any(|place| Facet::Amount.of(*place) == value));
    assert!(matches!(amount, Test::Amount { low, high, dimension, .. } if (low, high) == (0.00535, 0.00545) && dimension == "g"));
}

#[test]
fn a_filter_expression_is_read_with_its_precedence() {
    let name = |test| Filter::Param { param: param("Patient", "family"), tests: vec![test] };
    let filter = |text: &str| match filters(&format!("Patient?_filter={}", text.replace('"', "%22"))).as_slice() {
        [filter] => filter.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(filter(r#"family eq "Ma, ssawe""#), name(Test::StringIs("ma ssawe".into())));
    assert_eq!(filter("(family sw a)"), name(Test::StringStarts("a".into())));
    let (a, b, c) = (gender("male"), name(Test::StringContains("b".into())), name(Test::StringEnds("c".into())));
    assert_eq!(
        filter("gender eq male or family co b and not (family ew c)"),
        Filter::Any(vec![
            a.clone(),
            Filter::All(vec![b.clone(), Filter::NotParam { param: param("Patient", "family"), tests: vec![Test::StringEnds("c".into())] }])
        ])
    );
    assert_eq!(filter("(gender eq male or family co b) and family ew c"), Filter::All(vec![Filter::Any(vec![a, b]), c]));
    assert!(matches!(filter("organization.name eq x"), Filter::Chain { .. }));
    assert!(matches!(filter("gender ne male"), Filter::Param { tests, .. } if matches!(tests[0], Test::NoneOf(_))));
    assert!(matches!(filter("gender pr false"), Filter::Missing { missing: true, .. }));
    assert!(matches!(filter("birthdate ge 2014-10-10"), Filter::Param { .. }));
    for text in [
        "family",
        "family eq",
        "family xx a",
        "family eq a or",
        "(family eq a",
        "family eq a)",
        r#"family eq "a"#,
        "famly eq a",
        "gender gt 1",
        "name[family eq a].given eq b",
    ] {
        refused(&format!("Patient?_filter={}", text.replace('"', "%22")));
    }
    let deep = format!("Patient?_filter={}family eq a{}", "(".repeat(40), ")".repeat(40));
    assert_eq!(refused(&deep)[0].code, IssueCode::TooCostly);
    let long = format!("Patient?_filter={}", ["family eq a"; 101].join(" or "));
    assert_eq!(refused(&long)[0].code, IssueCode::TooCostly);
}

#[test]
fn all_problems_come_at_once_with_their_places_and_without_the_values() {
    let issues = refused("Observation?date=secret&value-quantity=hidden&subject:Patient.birthdate=quiet&status=final");
    let places: Vec<&str> = issues.iter().map(|issue| issue.expression.as_str()).collect();
    assert_eq!(places, ["Observation?date", "Observation?value-quantity", "Observation?subject:Patient.birthdate"]);
    assert!(issues.iter().all(|issue| !["secret", "hidden", "quiet"].iter().any(|value| issue.diagnostics.contains(value))));
    assert!(refused("Observation?date=2026,2026-99,2027")[0].diagnostics.starts_with("value 2 of 3: not a date"));
}

#[test]
fn controls_shape_the_answer() {
    let request =
        strict("Patient?_count=5000&_total=accurate&_summary=true&_sort=-_lastUpdated,family,_id&_format=json&_pretty=true&_type=Patient");
    assert_eq!((request.count, request.total, request.summary), (1_000, Total::Accurate, Summary::True));
    let family = SortBy::Param { param: param("Patient", "family"), kind: Kind::String };
    let sort = [(SortBy::LastUpdated, true), (family, false), (SortBy::Id, false)];
    assert_eq!(request.query.sort, sort.map(|(by, descending)| SortKey { by, descending }));
    let used: Vec<String> = request.self_params.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(used, ["_count=1000", "_total=accurate", "_summary=true", "_sort=-_lastUpdated,family,_id"]);
    assert_eq!(
        strict("Patient?_elements=Patient.name,birthDate").elements,
        ["name", "birthDate"].map(|name| (type_code("Patient"), name.to_owned()))
    );
    assert_eq!(strict("Patient?_cursor=abc").cursor.as_deref(), Some("abc"));
    for url in [
        "Patient?_count=-1",
        "Patient?_count=x",
        "Patient?_total=maybe",
        "Patient?_summary=yes",
        "Patient?_count=1&_count=2",
        "Observation?_sort=code-value-quantity",
    ] {
        refused(url);
    }
}

#[test]
fn includes_name_type_parameter_and_target() {
    let request = strict(
        "Observation?_include=Observation:subject:Patient&_include:iterate=Patient:organization&_include=*&_revinclude=Provenance:target&_revinclude=*&_include=Observation:*",
    );
    let include = |source: Option<&str>, param: Option<ParamId>, target: Option<&str>, iterate| Include {
        source: source.map(type_code),
        param,
        target: target.map(type_code),
        iterate,
    };
    let subject = include(Some("Observation"), Some(param("Observation", "subject")), Some("Patient"), false);
    let organization = include(Some("Patient"), Some(param("Patient", "organization")), None, true);
    assert_eq!(
        request.includes,
        [subject, organization, include(None, None, None, false), include(Some("Observation"), None, None, false)]
    );
    let provenance = include(Some("Provenance"), Some(param("Provenance", "target")), None, false);
    assert_eq!(request.revincludes, [provenance, include(None, None, None, false)]);
    for url in ["Observation?_include=Observation", "Observation?_include=a:b:c:d", "Observation?_include:exact=Observation:subject"] {
        refused(url);
    }
    for url in [
        "Observation?_include=Patient:organization",
        "Observation?_include=Observation:code",
        "Observation?_revinclude=Patient:organization",
        "Observation?_include=Observation:subject:Practitioner",
    ] {
        assert_eq!(read(url, false).unwrap().warnings.len(), 1, "{url}");
        read(url, true).expect_err(url);
    }
}

#[test]
fn a_page_token_is_bound_to_what_is_found_and_not_to_how_much_is_shown() {
    let binding = |url: &str| strict(url).binding;
    let base = binding("Patient?name=a&gender=male&_sort=family");
    assert_eq!(binding("Patient?gender=male&_sort=family&name=a&_count=5&_summary=true&_total=accurate"), base);
    for other in ["Patient?name=b&gender=male&_sort=family", "Patient?name=a&gender=male", "Practitioner?name=a&gender=male&_sort=family"] {
        assert_ne!(binding(other), base);
    }
    let scoped = parse(type_code("Patient"), &[], Scope::Owners(vec![3]), &options(true)).unwrap();
    assert_ne!(scoped.binding, parse(type_code("Patient"), &[], Scope::All, &options(true)).unwrap().binding);
}

proptest! {
    #[test]
    fn nothing_panics(key in "[_a-zA-Z:.*é-]{0,40}|(subject|code|date|_has:Observation:subject|value-quantity|_include|_sort|_filter|near|_list)([:.][a-zA-Z:.]{0,20})?", value in ".{0,40}", strict: bool) {
        for type_name in ["Observation", "Patient", "Bundle"] {
            let pairs = [(key.clone(), value.clone())];
            if let Err(issues) = parse(type_code(type_name), &pairs, Scope::All, &options(strict)) {
                prop_assert!(!issues.is_empty());
            }
        }
    }

    #[test]
    fn a_lenient_request_filters_or_says_that_it_does_not(key in "[a-z]{1,8}(:[a-z]{1,6})?", value in "[a-z0-9|$-]{1,8}") {
        let pairs = [(key, value)];
        if let Ok(request) = parse(type_code("Patient"), &pairs, Scope::All, &options(false)) {
            prop_assert_eq!(request.query.filters.len() + request.warnings.len(), 1);
        }
    }
}
