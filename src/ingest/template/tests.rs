use super::*;
use include_dir::{Dir, include_dir};
use std::collections::HashMap;
use std::sync::LazyLock;

static MAPS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/conceptmaps");
static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| Templates::shipped().unwrap_or_else(|error| panic!("{error}")));
static NOTHING: LazyLock<Known> = LazyLock::new(Known::new);
static ZONE: LazyLock<TimeZone> = LazyLock::new(|| TimeZone::fixed(jiff::tz::offset(3)));

/// The shipped ConceptMaps, read plainly.
struct Shipped(HashMap<String, Vec<Value>>);

static SHIPPED: LazyLock<Shipped> = LazyLock::new(|| {
    let maps = MAPS.files().filter(|file| file.path().extension().is_some_and(|end| end == "json"));
    let maps =
        maps.filter_map(|file| serde_json::from_slice::<Value>(file.contents()).ok()).filter(|map| map["resourceType"] == "ConceptMap");
    Shipped(maps.map(|map| (map["url"].as_str().unwrap().to_owned(), map["group"].as_array().cloned().unwrap_or_default())).collect())
});

impl Translate for Shipped {
    fn translate(&self, map_url: &str, system: Option<&str>, code: &str) -> Option<Vec<Coding>> {
        let string = |value: &Value| value.as_str().map(str::to_owned);
        let mut found = Vec::new();
        for group in self.0.get(map_url)?.iter().filter(|group| system.is_none() || group["source"].as_str() == system) {
            let element = group["element"]
                .as_array()?
                .iter()
                .find(|element| element["code"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(code)));
            for target in element.iter().flat_map(|element| element["target"].as_array()).flatten() {
                found.push(Coding {
                    system: string(&group["target"]),
                    code: string(&target["code"])?,
                    display: string(&target["display"]),
                    equivalence: string(&target["equivalence"]),
                });
            }
            if element.is_none() && group["unmapped"]["mode"] == "provided" {
                found.push(Coding { system: string(&group["target"]), code: code.to_owned(), ..Coding::default() });
            }
        }
        Some(found)
    }
}

pub(super) fn options() -> Options<'static> {
    Options { facility: None, operator: "000000-0", zone: &ZONE, strict_blocks: false, judged: true, stored: &NOTHING }
}

pub(super) fn try_process(payload: &Value) -> Option<Processed> {
    TEMPLATES.process(payload.to_string().as_bytes(), &options(), &*SHIPPED).ok()
}

pub(super) fn process_knowing(payload: &Value, stored: &Known) -> Processed {
    let options = Options { stored, ..options() };
    TEMPLATES.process(payload.to_string().as_bytes(), &options, &*SHIPPED).unwrap_or_else(|error| panic!("{error}"))
}

/// Translates nothing.
pub(super) struct NoMaps;

impl Translate for NoMaps {
    fn translate(&self, _: &str, _: Option<&str>, _: &str) -> Option<Vec<Coding>> {
        None
    }
}

pub(super) fn process(payload: &Value) -> Processed {
    TEMPLATES.process(payload.to_string().as_bytes(), &options(), &*SHIPPED).unwrap_or_else(|error| panic!("{error}"))
}

fn sample() -> Value {
    let (_, sample) = TEMPLATES.get("hdu").unwrap().examples().find(|(name, _)| *name == "antenatal-visit.json").unwrap();
    sample.clone()
}

fn resources(record: &Record) -> &[Produced] {
    match &record.verdict {
        Verdict::Accepted { resources } => resources,
        Verdict::Rejected => panic!("rejected: {:?}", record.errors),
    }
}

/// The sample with its record changed.
fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut payload = sample();
    change(&mut payload["data"]["listGrid"][0]);
    payload
}

pub(super) fn only(payload: &Value) -> Record {
    process(payload).records.into_iter().next().unwrap()
}

/// The errors as `path: words`.
fn errors(record: &Record) -> Vec<String> {
    assert_eq!(record.errors.is_empty(), matches!(record.verdict, Verdict::Accepted { .. }));
    record.errors.iter().map(|issue| format!("{}: {}", issue.expression, issue.diagnostics)).collect()
}

fn warnings(record: &Record) -> String {
    record.warnings.iter().map(|issue| format!("{}: {}\n", issue.expression, issue.diagnostics)).collect()
}

fn of_type<'r>(record: &'r Record, type_name: &str) -> Vec<&'r Value> {
    resources(record).iter().map(|produced| &produced.resource).filter(|resource| resource["resourceType"] == type_name).collect()
}

fn ids(record: &Record) -> Vec<(String, Value)> {
    resources(record).iter().map(|one| (format!("{}/{}", one.resource["resourceType"], one.resource["id"]), one.resource.clone())).collect()
}

pub(super) fn all_resources(processed: &Processed) -> Vec<&Value> {
    let records = processed.records.iter().flat_map(resources);
    processed.shared.iter().chain(records).map(|produced| &produced.resource).collect()
}

#[test]
fn every_shipped_example_gives_valid_resources_without_a_warning() {
    for definition in TEMPLATES.definitions() {
        for (name, example) in definition.examples() {
            let processed = process(example);
            assert_eq!(processed.template, definition.name(), "{name} is read by the template whose example it is");
            assert_eq!(processed.envelope_warnings, [], "{name}");
            for record in &processed.records {
                assert_eq!((&*record.warnings, &*record.unmapped), (&[][..], &[][..]), "{name}");
            }
            for resource in all_resources(&processed) {
                assert_eq!(crate::validate::structure(resource), [], "{name}: {resource:#}");
            }
        }
    }
}

#[test]
fn a_spoiled_record_is_rejected_with_the_fault_named() {
    type Case = (&'static str, fn(&mut Value), &'static str);
    let cases: [Case; 10] = [
        ("no first name", |r| r["demographicDetails"]["firstName"] = json!(""), "demographicDetails.firstName: must not be blank"),
        ("no identifier", |r| r["demographicDetails"]["identifiers"] = json!([]), "demographicDetails.identifiers: must not be empty"),
        (
            "another visit type",
            |r| r["visitDetails"]["visitType"] = json!("General"),
            "visitDetails.visitType: must be one of OPD, IPD, EMD",
        ),
        (
            "death without a date",
            |r| r["outcomeDetails"] = json!({"isAlive": false}),
            "outcomeDetails.deathDate: is mandatory when isAlive is false",
        ),
        ("alive with a death date", |r| r["outcomeDetails"]["deathDate"] = json!("2026-09-07"), "outcomeDetails.deathDate: must be empty"),
        ("a malformed date", |r| r["visitDetails"]["visitDate"] = json!("24-08-07"), "visitDetails.visitDate: is not a date"),
        (
            "a misspelt block",
            |r| {
                let visit = r.as_object_mut().unwrap().shift_remove("visitDetails").unwrap();
                r["visitDetail"] = visit;
            },
            "visitDetails: is mandatory and is missing; the unknown key visitDetail looks like it",
        ),
        ("no outcome", |r| r["outcomeDetails"] = Value::Null, "outcomeDetails: is mandatory and is missing"),
        (
            "nobody",
            |r| r.as_object_mut().unwrap().retain(|key, _| !["mrn", "demographicDetails"].contains(&key.as_str())),
            "demographicDetails: is mandatory",
        ),
        ("no visit date", |r| r["visitDetails"]["visitDate"] = Value::Null, "visitDetails.visitDate: is mandatory and is missing"),
    ];
    for (name, spoil, words) in cases {
        let mut payload = changed(spoil);
        payload["data"]["listGrid"].as_array_mut().unwrap().push(sample()["data"]["listGrid"][0].clone());
        let processed = process(&payload);
        let found = errors(&processed.records[0]);
        assert!(found.iter().any(|error| error.contains(&format!("listGrid[0].{words}"))), "{name}: {found:?}");
        assert_eq!(errors(&processed.records[1]), [""; 0], "{name}: the neighbour is as good as before");
    }
}

#[test]
fn slips_are_forgiven_and_told() {
    let record = only(&changed(|record| {
        record["visitDetails"]["id"] = json!(400388);
        record["visitDetails"]["visitType"] = json!("opd");
        let note = record["clinicalInformation"]["visitNotes"][0].as_object_mut().unwrap();
        let complaints = note.shift_remove("chiefComplains").unwrap();
        note.insert("chiefComplaints".into(), complaints);
        record["referralDetails"]["referralDate"] = json!("24-08-07");
        record["demographicDetails"]["midleName"] = json!("J");
        record["clinicalInformation"]["vitalSigns"][0]["weight"] = json!("64.5");
    }));
    assert_eq!(errors(&record), [""; 0]);
    assert_eq!(record.visit_id.as_deref(), Some("400388"));
    let told = warnings(&record);
    assert!(told.contains("listGrid[0].referralDetails.referralDate: is not a date"), "{told}");
    assert!(
        told.contains(
            "listGrid[0].demographicDetails.midleName: is not a field of this template and is not translated; did you mean middleName?"
        ),
        "{told}"
    );
    assert_eq!(record.warnings.len(), 2, "{told}");
    let texts: Vec<&Value> =
        of_type(&record, "Observation").into_iter().map(|observation| &observation["valueString"]).filter(|text| !text.is_null()).collect();
    assert_eq!(texts, ["fever for 2 days"]);
    assert!(of_type(&record, "Observation").iter().any(|observation| observation["valueQuantity"]["value"] == json!(64.5)));
}

#[test]
fn mandatory_marks_in_blocks_warn_or_reject_as_configured() {
    let payload = changed(|record| drop(record["diagnosisDetails"][0].as_object_mut().unwrap().shift_remove("diagnosisCode")));
    let lenient = only(&payload);
    assert_eq!(errors(&lenient), [""; 0]);
    assert!(warnings(&lenient).contains("listGrid[0].diagnosisDetails[0].diagnosisCode: is mandatory and is missing"));
    let strict = Options { strict_blocks: true, ..options() };
    let processed = TEMPLATES.process(payload.to_string().as_bytes(), &strict, &*SHIPPED).unwrap();
    assert_eq!(errors(&processed.records[0]), ["listGrid[0].diagnosisDetails[0].diagnosisCode: is mandatory and is missing"]);
}

#[test]
fn the_same_payload_gives_the_same_resources_and_a_block_alone_keeps_its_ids() {
    let whole = only(&sample());
    assert_eq!(ids(&whole), ids(&only(&sample())));
    for block in ["diagnosisDetails", "labRequestDetails", "medicationDetails", "antenatalCareDetails", "billingsDetails"] {
        let alone = only(&changed(|record| {
            let keep = ["mrn", "demographicDetails", "visitDetails", "outcomeDetails", block];
            record.as_object_mut().unwrap().retain(|key, _| keep.contains(&key.as_str()));
        }));
        let known: Vec<String> = ids(&whole).into_iter().map(|(id, _)| id).collect();
        for (id, resource) in ids(&alone) {
            assert!(known.contains(&id), "{block}: {resource:#}");
        }
    }
}

#[test]
fn no_id_gives_a_patient_away() {
    for (id, _) in ids(&only(&sample())) {
        assert!(!id.contains("77120") && !id.contains("V-2026"), "{id}");
    }
}

#[test]
fn a_later_part_of_a_visit_needs_no_demographics() {
    let record = only(&changed(|record| {
        *record = json!({"mrn": record["mrn"], "visitDetails": {"id": "V-20260907-0031"}, "outcomeDetails": {"isAlive": true},
            "admissionDetails": {"admissionDate": "2026-09-07", "admissionDiagnosis": "B54", "dischargedOn": "2026-09-09", "dischargeStatus": "IMPROVED"}});
    }));
    assert_eq!((errors(&record), warnings(&record)), (vec![], String::new()));
    let whole = only(&sample());
    for (type_name, update) in [("Patient", Update::Known), ("Encounter", Update::Existing)] {
        let later = resources(&record).iter().find(|one| one.resource["resourceType"] == type_name).unwrap();
        assert_eq!(later.update, update);
        assert_eq!(later.resource["id"], of_type(&whole, type_name)[0]["id"]);
    }
    let encounter = merge(of_type(&whole, "Encounter")[0], of_type(&record, "Encounter")[0]);
    assert_eq!(encounter["class"]["code"], "AMB");
    assert_eq!(encounter["hospitalization"]["dischargeDisposition"]["coding"][0]["code"], "home");
}

#[test]
fn a_death_is_told_of_the_patient_and_line_by_line() {
    let record = only(&changed(|record| {
        record["outcomeDetails"] = json!({"isAlive": false, "deathDate": "2026-09-07", "deathLocation": "HEALTH_FACILITY"});
        record["causesOfDeathDetails"] = json!({"dateOfDeath": "2026-09-07", "lineA": "B54", "lineB": "J18.9", "mannerOfDeath": "DISEASE"});
    }));
    assert_eq!(of_type(&record, "Patient")[0]["deceasedDateTime"], "2026-09-07");
    let causes =
        of_type(&record, "Observation").into_iter().find(|one| one["category"][0]["coding"][0]["code"] == "cause-of-death").unwrap();
    let codes: Vec<&Value> =
        causes["component"].as_array().unwrap().iter().map(|part| &part["valueCodeableConcept"]["coding"][0]["code"]).collect();
    assert_eq!(codes, ["B54", "J18.9", "DISEASE"]);
}

#[test]
fn an_unmapped_code_is_kept_with_its_own_coding_and_listed() {
    let record = only(&changed(|record| record["demographicDetails"]["maritalStatus"] = json!("It is complicated")));
    assert_eq!(
        record.unmapped,
        [Unmapped {
            map: "https://lango.health/fhir/ConceptMap/hdu-marital-status".into(),
            system: Some("https://lango.health/fhir/CodeSystem/hdu-marital-status".into()),
            code: "It is complicated".into(),
            display: None,
            path: "listGrid[0].demographicDetails.maritalStatus".into(),
        }]
    );
    let coding = &of_type(&record, "Patient")[0]["maritalStatus"]["coding"][0];
    assert_eq!(coding["code"], "It is complicated");
}

#[test]
fn long_lists_of_the_same_key_are_told_apart_and_longer_ones_rejected() {
    let with = |count: usize| {
        let one = |place: usize| json!({ "diagnosisDate": "2026-09-05", "diagnosisCode": "B54", "diagnosis": format!("{}", place.min(count - 2)) });
        changed(|record| {
            record.as_object_mut().unwrap().retain(|_, value| !value.is_array());
            record["diagnosisDetails"] = (0..count).map(one).collect();
        })
    };
    let record = only(&with(1_900));
    let made: std::collections::BTreeSet<&str> = of_type(&record, "Condition").into_iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!((made.len(), errors(&record)), (1_899, vec![]), "the same said twice is said once");
    let record = only(&with(2_100));
    assert_eq!(errors(&record).len(), 1, "{:?}", errors(&record));
    assert!(errors(&record)[0].starts_with("listGrid[0]: has 21"), "{:?}", errors(&record));
}

#[test]
fn a_blood_pressure_is_read_with_its_unit_and_told_when_it_is_none() {
    let with = |pressure: &str| changed(|record| record["clinicalInformation"]["vitalSigns"] = json!([{ "bloodPressure": pressure }]));
    let quantities = |record: &Record| {
        let all = of_type(record, "Observation").into_iter().flat_map(|one| one["component"].as_array().cloned().unwrap_or_default());
        all.filter_map(|component| component["valueQuantity"]["value"].as_i64()).filter(|value| [118, 76].contains(value)).count()
    };
    let (read, unread) = (only(&with("118/76 mmHg")), only(&with("118-76")));
    assert_eq!((quantities(&read), quantities(&unread)), (2, 0));
    assert!(!warnings(&read).contains("bloodPressure"), "{}", warnings(&read));
    assert!(warnings(&unread).contains("clinicalInformation.vitalSigns: holds a bloodPressure"), "{}", warnings(&unread));
}

#[test]
fn an_empty_list_is_a_zero_report() {
    let mut payload = sample();
    payload["data"]["listGrid"] = json!([]);
    let processed = process(&payload);
    assert_eq!((processed.records.len(), processed.reported.as_deref()), (0, Some("2026-09-07T18:00:00Z")));
}

#[test]
fn what_is_no_payload_is_refused_as_a_whole() {
    let cases: [(Value, &str); 4] = [
        (json!([1]), "must be a JSON object"),
        (json!({"templateDetails": {}}), "is mandatory and is missing"),
        (json!({"templateDetails": {}, "data": {}}), "send an empty list when there is nothing to report"),
        (json!({"templateDetails": {}, "data": {"listGrid": {}}}), "must be a list of records"),
    ];
    for (payload, words) in cases {
        let error = TEMPLATES.process(payload.to_string().as_bytes(), &options(), &*SHIPPED).unwrap_err();
        assert!(error.issues[0].diagnostics.contains(words), "{error}");
    }
    assert!(TEMPLATES.process(b"{\"data\":", &options(), &*SHIPPED).is_err());
}

#[test]
fn the_callers_facility_wins_over_the_payload() {
    let caller = Options { facility: Some("555555-5"), ..options() };
    let processed = TEMPLATES.process(sample().to_string().as_bytes(), &caller, &*SHIPPED).unwrap();
    assert_eq!(processed.facility.code, "555555-5");
    assert_eq!(processed.envelope_warnings.len(), 1);
    assert_eq!(of_type(&processed.records[0], "Encounter")[0]["meta"]["source"], "urn:lango:facility:555555-5");
    let mut payload = sample();
    payload["data"].as_object_mut().unwrap().shift_remove("facilityDetails");
    assert_eq!(process(&payload).facility.code, "000000-0");
}

#[test]
fn a_record_that_is_no_object_or_holds_anything_is_judged_and_never_quoted() {
    let mut payload = sample();
    payload["data"]["listGrid"] = json!([7, null, [[]], {"Neema Massawe, of Sinza": 1, "visitDetails": [], "demographicDetails": "SECRET", "outcomeDetails": {"isAlive": "SECRET"}}]);
    for record in process(&payload).records {
        let told = format!("{:?} {}", errors(&record), warnings(&record));
        assert!(!record.errors.is_empty());
        assert!(!told.contains("SECRET") && !told.contains("Massawe"), "{told}");
    }
}

#[test]
fn a_folder_adds_templates_and_changes_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("hdu/rules.json", r#"{"rules": []}"#);
    write("tiny/template.json", r#"{"codes": ["tiny"], "select": ["form"], "records": "list"}"#);
    write(
        "tiny/schema.json",
        r#"{"type": "object", "properties": {"form": {"type": "string"}, "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}}}}"#,
    );
    write("tiny/mapping.json", r#"{"record": [{"id": ["=a"], "resource": {"resourceType": "Basic", "code": {"text": "=a.toString()"}}}]}"#);
    let templates = Templates::load(folder.path()).unwrap();
    let tiny = templates.process(br#"{"form": "tiny", "list": [{"a": 5}]}"#, &options(), &*SHIPPED).unwrap();
    assert_eq!(of_type(&tiny.records[0], "Basic")[0]["code"]["text"], "5");
    let dead = changed(|record| record["outcomeDetails"] = json!({"isAlive": false}));
    assert!(templates.process(dead.to_string().as_bytes(), &options(), &*SHIPPED).unwrap().records[0].errors.is_empty());

    write("tiny/mapping.json", r#"{"record": [{"id": ["=a"], "resource": {"resourceType": "Basic", "code": {"text": "=a.("}}}]}"#);
    let error = Templates::load(folder.path()).unwrap_err();
    assert_eq!((error.file.as_str(), error.pointer.as_str()), ("tiny/mapping.json", "/record/0/resource/code/text"));
}
