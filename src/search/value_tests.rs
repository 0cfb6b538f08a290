use super::*;
use crate::definitions;
use jiff::tz::TimeZone;
use proptest::prelude::*;

fn read(type_name: &str, code: &str, reading: Reading, raw: &str) -> Result<Vec<Test>, String> {
    let definitions = definitions::r4();
    let type_code = definitions.type_code(type_name).unwrap();
    let options = ParseOptions { now: 1_800_000_000_000_000, ..ParseOptions::new("http://localhost/fhir", TimeZone::UTC) };
    Values { definitions, options: &options, type_code, partial: &RefCell::default(), decided: &RefCell::default() }.tests(
        definitions.param(type_code, code).unwrap(),
        reading,
        raw,
    )
}

fn plain(type_name: &str, code: &str, raw: &str) -> Vec<Test> {
    read(type_name, code, Reading::Plain, raw).unwrap_or_else(|words| panic!("{type_name}.{code}={raw}: {words}"))
}

fn refused(type_name: &str, code: &str, raw: &str) -> String {
    read(type_name, code, Reading::Plain, raw).expect_err(raw)
}

fn type_code(name: &str) -> TypeCode {
    definitions::r4().type_code(name).unwrap()
}

#[test]
fn strings_are_folded_but_for_exact() {
    assert_eq!(plain("Patient", "family", "Kipchóge "), [Test::StringStarts("kipchoge".into())]);
    assert_eq!(read("Patient", "family", Reading::Exact, r"Kip\,chóge").unwrap(), [Test::StringExact("Kip,chóge".into())]);
    assert_eq!(read("Patient", "family", Reading::Contains, "CHÓ").unwrap(), [Test::StringContains("cho".into())]);
    for spelt in ["Ng'wana", "NG’WANA", "ngʼwana", "Ng`wana", " ngwana."] {
        assert_eq!(plain("Patient", "family", spelt), [Test::StringStarts("ngwana".into())], "{spelt}");
    }
    for spelt in ["Al-Amin", "al amin", "Al\u{2011}Amin", "(al)/AMIN,"] {
        assert_eq!(plain("Patient", "family", &spelt.replace(',', "\\,")), [Test::StringStarts("al amin".into())], "{spelt}");
    }
    assert_eq!(plain("Patient", "family", "-?"), [Test::StringStarts("-?".into())], "nothing else is there to compare");
    assert_eq!(plain("Patient", "family", "a+"), [Test::StringStarts("a+".into())], "a sign is no punctuation");
    assert!(refused("Patient", "family", " ").contains("nothing to compare"));
}

#[test]
fn tokens_take_all_their_forms() {
    let token = |system: SystemTest, code: Option<&str>| vec![Test::Token { system, code: code.map(str::to_owned) }];
    assert_eq!(plain("Patient", "identifier", "12"), token(SystemTest::Any, Some("12")));
    assert_eq!(plain("Patient", "identifier", "urn:x|12"), token(SystemTest::Is("urn:x".into()), Some("12")));
    assert_eq!(plain("Patient", "identifier", "|12"), token(SystemTest::Absent, Some("12")));
    assert_eq!(plain("Patient", "identifier", "urn:x|"), token(SystemTest::Is("urn:x".into()), None));
    assert_eq!(plain("Patient", "identifier", r"urn:x|1\|2"), token(SystemTest::Is("urn:x".into()), Some("1|2")));
    assert_eq!(plain("Patient", "active", "http://hl7.org/fhir/special-values|true"), token(SystemTest::Any, Some("true")));
    refused("Patient", "identifier", "|");
    refused("Patient", "identifier", "a|b|c");
    refused("Patient", "identifier", "");
}

#[test]
fn a_code_element_is_found_with_the_system_that_its_value_set_implies() {
    let female = |system| Test::Token { system, code: Some("female".into()) };
    let gender = "http://hl7.org/fhir/administrative-gender";
    let both = [female(SystemTest::Is(gender.into())), female(SystemTest::Absent)];
    assert_eq!(plain("Patient", "gender", &format!("{gender}|female")), both);
    assert_eq!(plain("Patient", "gender", "urn:other|female"), [female(SystemTest::Is("urn:other".into()))]);
    assert_eq!(plain("Observation", "status", "http://hl7.org/fhir/observation-status|final").len(), 2);
    assert_eq!(plain("Patient", "address-use", "http://hl7.org/fhir/address-use|home").len(), 2);
    assert_eq!(plain("Observation", "code", "http://loinc.org|8867-4").len(), 1);
    // The system alone means each of its codes.
    let codes = ["female", "male", "other", "unknown"].map(str::to_owned);
    let all = [
        Test::Token { system: SystemTest::Is(gender.into()), code: None },
        Test::TokenIn { system: SystemTest::Absent, codes: codes.to_vec().into() },
    ];
    assert_eq!(plain("Patient", "gender", &format!("{gender}|")), all);
    assert_eq!(plain("Patient", "gender", "urn:other|").len(), 1);
    let media = [SystemTest::Is("urn:ietf:bcp:13".into()), SystemTest::Absent].map(|system| Test::Token { system, code: None });
    assert_eq!(plain("DocumentReference", "contenttype", "urn:ietf:bcp:13|"), media);
}

#[test]
fn references_take_all_their_forms() {
    let local =
        |types: &[&str], id: &str| Test::Reference { type_codes: types.iter().map(|name| type_code(name)).collect(), id: id.into() };
    let types = ["Device", "Group", "Location", "Patient"];
    assert_eq!(plain("Observation", "subject", "1"), [local(&types, "1")]);
    assert_eq!(plain("Observation", "subject", "Patient/1"), [local(&["Patient"], "1")]);
    let of_type = Reading::OfType(type_code("Patient"));
    assert_eq!(read("Observation", "subject", of_type, "1").unwrap(), [local(&["Patient"], "1")]);
    assert!(read("Observation", "subject", of_type, "Group/1").is_err());
    let here = "http://localhost/fhir/Patient/1";
    assert_eq!(plain("Observation", "subject", here), [local(&["Patient"], "1"), Test::Canonical(here.into())]);
    let elsewhere = "http://elsewhere.example/fhir/Patient/1";
    assert_eq!(plain("Observation", "subject", elsewhere), [Test::Canonical(elsewhere.into())]);
    let canonical = "http://elsewhere.example/Questionnaire/q|2.0";
    assert_eq!(plain("QuestionnaireResponse", "questionnaire", canonical), [Test::Uri(canonical.into())]);
    assert_eq!(
        read("QuestionnaireResponse", "questionnaire", Reading::Below, "http://e.x/q").unwrap(),
        [Test::UriBelow("http://e.x/q".into())]
    );
    assert_eq!(plain("Observation", "subject", "urn:uuid:7"), [Test::Canonical("urn:uuid:7".into())]);
    for bad in ["Patient/1/_history/2", "#1", "Nonsense/1", "a b", "Patient/"] {
        refused("Observation", "subject", bad);
    }
}

#[test]
fn uris_are_equal_above_or_below() {
    let url = "http://hl7.org/fhir/StructureDefinition/bp";
    assert_eq!(plain("Observation", "_profile", url), [Test::Canonical(url.into())]);
    assert_eq!(read("ValueSet", "url", Reading::Below, url).unwrap(), [Test::UriBelow(url.into())]);
    assert_eq!(read("ValueSet", "url", Reading::Above, url).unwrap(), [Test::UriAbove(url.into())]);
}

#[test]
fn dates_take_every_prefix_and_are_intervals() {
    let day = Interval { low: 1_767_225_600_000_000, high: 1_767_312_000_000_000 };
    let ops = [("", DateOp::Eq), ("eq", DateOp::Eq), ("ne", DateOp::Ne), ("gt", DateOp::Gt), ("lt", DateOp::Lt), ("ge", DateOp::Ge)];
    for (prefix, op) in ops.into_iter().chain([("le", DateOp::Le), ("sa", DateOp::Sa), ("eb", DateOp::Eb)]) {
        assert_eq!(plain("Observation", "date", &format!("{prefix}2026-01-01")), [Test::Date { op, interval: day }]);
    }
    let slack = (1_800_000_000_000_000 - day.low) / 10;
    let wide = Interval { low: day.low - slack, high: day.high + slack };
    assert_eq!(plain("Observation", "date", "ap2026-01-01"), [Test::Date { op: DateOp::Ap, interval: wide }]);
    let plus = plain("Observation", "date", "2026-01-01T03:00:00+03:00");
    assert_eq!(plain("Observation", "date", "2026-01-01T03:00:00 03:00"), plus);
    for bad in ["abc", "2026-13", "xx2026", "GE2026", "ge", "2026-01-01T", "Z"] {
        refused("Observation", "date", bad);
    }
}

#[test]
fn a_number_means_the_interval_that_its_digits_imply() {
    let number = |op, low, value, high| vec![Test::Number { op, low, value, high }];
    assert_eq!(plain("RiskAssessment", "probability", "100"), number(NumberOp::Eq, 99.5, 100.0, 100.5));
    assert_eq!(plain("RiskAssessment", "probability", "ne100.00"), number(NumberOp::Ne, 99.995, 100.0, 100.005));
    let many: f64 = "123456789.123456789".parse().unwrap();
    assert_eq!(plain("RiskAssessment", "probability", "123456789.123456789"), number(NumberOp::Eq, many, many, many.next_up()));
    assert_eq!(plain("RiskAssessment", "probability", "1e2"), number(NumberOp::Eq, 50.0, 100.0, 150.0));
    assert_eq!(plain("RiskAssessment", "probability", "ap-100"), number(NumberOp::Ap, -110.0, -100.0, (-90.0f64).next_up()));
    assert_eq!(plain("RiskAssessment", "probability", "ap2"), number(NumberOp::Ap, 1.5, 2.0, 2.5f64.next_up()));
    for bad in ["x", "1_000", "+1", ".5", "1.", "1e", "0x1", "1e9999", "NaN", "--1", "gt", "12345678901234567890123456789012"] {
        refused("RiskAssessment", "probability", bad);
    }
}

#[test]
fn quantities_may_name_a_unit() {
    let quantity = |unit| vec![Test::Quantity { op: NumberOp::Gt, low: 5.35, value: 5.4, high: 5.45, unit }];
    let mg = |system: Option<&str>| Some(UnitTest { system: system.map(str::to_owned), code: "mg".into() });
    assert_eq!(plain("Observation", "value-quantity", "gt5.4"), quantity(None));
    assert_eq!(plain("Observation", "value-quantity", "gt5.4||mg"), quantity(mg(None)));
    assert_eq!(plain("Observation", "value-quantity", "gt5.4|urn:mine|mg"), quantity(mg(Some("urn:mine"))));
    // A unit that UCUM knows is compared in base units.
    let grams = Test::Amount { op: NumberOp::Gt, low: 0.00535, value: 0.0054, high: 0.00545, dimension: "g".into() };
    assert_eq!(plain("Observation", "value-quantity", "gt5.4|http://unitsofmeasure.org|mg"), [grams]);
    for bad in ["5.4|mg", "5.4|http://unitsofmeasure.org|", "|a|b", "5.4|a|b|c", "mg"] {
        refused("Observation", "value-quantity", bad);
    }
}

#[test]
fn a_composite_has_a_value_for_each_part() {
    let code = Test::Token { system: SystemTest::Is("http://loinc.org".into()), code: Some("8867-4".into()) };
    let over = Test::Quantity { op: NumberOp::Gt, low: 79.5, value: 80.0, high: 80.5, unit: None };
    assert_eq!(plain("Observation", "code-value-quantity", "http://loinc.org|8867-4$gt80"), [Test::Composite(vec![code, over])]);
    let replaces = plain("DocumentReference", "relationship", "replaces$http://localhost/fhir/DocumentReference/1");
    assert_eq!(replaces.len(), 2);
    assert!(refused("Observation", "code-value-quantity", "8867-4$x").starts_with("value-quantity: "));
    for bad in ["8867-4", "8867-4$80$1", "$80", "8867-4$"] {
        refused("Observation", "code-value-quantity", bad);
    }
}

/// The bounds in whole units of 10^-(places+1), by integers alone.
fn oracle(whole: i64, fraction: &str) -> (i128, i128, u32) {
    let digits: i128 = format!("{whole}{fraction}").parse().unwrap();
    (digits * 10 - 5, digits * 10 + 5, fraction.len() as u32 + 1)
}

proptest! {
    #[test]
    fn implicit_precision_agrees_with_integer_arithmetic(whole in 0i64..1_000_000, fraction in "[0-9]{0,6}", negative: bool) {
        let dot = if fraction.is_empty() { "" } else { "." };
        let sign = if negative { "-" } else { "" };
        let tests = plain("RiskAssessment", "probability", &format!("{sign}{whole}{dot}{fraction}"));
        let (low, high, places) = oracle(whole, &fraction);
        let (low, high) = if negative { (-high, -low) } else { (low, high) };
        let nearest = |units: i128| format!("{units}e-{places}").parse::<f64>().unwrap();
        let Test::Number { op: NumberOp::Eq, low: found_low, high: found_high, .. } = tests[0] else { panic!("{tests:?}") };
        prop_assert_eq!((found_low, found_high), (nearest(low), nearest(high)));
    }
}

#[test]
fn degrees_are_compared_in_kelvin() {
    let asked = |raw: &str| match plain("Observation", "value-quantity", raw).as_slice() {
        [Test::Amount { value, dimension, .. }] => (*value, dimension.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked("gt37|http://unitsofmeasure.org|Cel"), (310.15, "K".to_owned()));
    assert_eq!(asked("gt98.6|http://unitsofmeasure.org|[degF]"), asked("gt310.15|http://unitsofmeasure.org|K"));
}
