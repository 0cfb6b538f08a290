//! `$validate`, profiles that are written while the server runs, packages, and what is refused on arrival.

use crate::search_deep::asked_until;
use crate::support::{TestServer, both_databases, until};
use flate2::{Compression, write::GzEncoder};
use lango::config::AuthMode;
use lango::validate::Level;
use serde_json::{Value, json};

const PROFILE: &str = "urn:test:named-patient";

fn profile(least: u32) -> Value {
    json!({
        "resourceType": "StructureDefinition", "id": "named-patient", "url": PROFILE, "name": "NamedPatient", "status": "active",
        "kind": "resource", "abstract": false, "type": "Patient", "derivation": "constraint",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Patient",
        "differential": {"element": [{"id": "Patient.name", "path": "Patient.name", "min": least}]},
    })
}

fn patient(change: impl FnOnce(&mut Value)) -> Value {
    let mut patient =
        json!({"resourceType": "Patient", "text": {"status": "generated", "div": "<div xmlns=\"http://www.w3.org/1999/xhtml\">x</div>"}});
    change(&mut patient);
    patient
}

fn severities(outcome: &Value) -> Vec<&str> {
    outcome["issue"].as_array().map_or(Vec::new(), |issues| issues.iter().filter_map(|issue| issue["severity"].as_str()).collect())
}

both_databases!(
    async fn validate_answers_for_a_type_and_for_an_instance_in_every_mode(db: &TestDb) {
        let server = TestServer::open(db).await;
        let (status, outcome) = server.post("/fhir/Patient/$validate", &patient(|_| ())).await;
        assert_eq!((status, severities(&outcome)), (200, vec!["information"]), "{outcome:#}");
        let (_, outcome) = server.post("/fhir/Patient/$validate", &patient(|p| p["birthDate"] = json!("x"))).await;
        assert_eq!(severities(&outcome), ["error"], "{outcome:#}");
        assert_eq!(outcome["issue"][0]["expression"], json!(["Patient.birthDate"]));
        let (status, _) = server.put("/fhir/Patient/a", &patient(|p| p["id"] = json!("a"))).await;
        assert_eq!(status, 201);
        let asked = |mode: &str, resource: Option<Value>| {
            let mut parts = vec![json!({"name": "mode", "valueCode": mode})];
            parts.extend(resource.map(|resource| json!({"name": "resource", "resource": resource})));
            json!({"resourceType": "Parameters", "parameter": parts})
        };
        let cases = [
            ("Patient", "create", Some(patient(|_| ())), 200, "information"),
            ("Patient/a", "update", Some(patient(|p| p["id"] = json!("a"))), 200, "information"),
            ("Patient/a", "update", Some(patient(|p| p["id"] = json!("b"))), 200, "error"),
            ("Patient/a", "delete", None, 200, "information"),
            ("Patient/none", "delete", None, 404, "error"),
            ("Patient", "delete", None, 400, "error"),
            ("Patient", "create", None, 400, "error"),
            ("Patient", "profile", Some(patient(|_| ())), 400, "error"),
            ("Patient", "wish", Some(patient(|_| ())), 400, "error"),
        ];
        for (target, mode, resource, expected, severity) in cases {
            let (status, outcome) = server.post(&format!("/fhir/{target}/$validate"), &asked(mode, resource)).await;
            assert_eq!((status, severities(&outcome)[0]), (expected, severity), "{target} {mode}: {outcome:#}");
        }
        let (status, outcome) = server.get("/fhir/Patient/a/$validate").await;
        assert_eq!((status, severities(&outcome)), (200, vec!["information"]), "{outcome:#}");
        // What it does not take is told, or refused.
        let parameters = json!({"resourceType": "Parameters", "parameter": [{"name": "wish", "valueString": "x"}, {"name": "resource", "resource": patient(|_| ())}]});
        for (path, body) in [("/fhir/Patient/$validate?wish=1", patient(|_| ())), ("/fhir/Patient/$validate", parameters)] {
            let request = || server.client.post(server.url(path)).json(&body);
            let lenient = request().send().await.unwrap();
            let warned = lenient.headers().get("warning").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            assert!(lenient.status() == 200 && warned.contains("wish"), "{path}: {warned}");
            assert_eq!(request().header("Prefer", "handling=strict").send().await.unwrap().status(), 400, "{path}");
        }
        let (status, _) = server.post("/fhir/Patient/$validate?_format=json", &patient(|_| ())).await;
        assert_eq!(status, 200);
    }
);

both_databases!(
    async fn what_could_never_be_used_is_told(db: &TestDb) {
        let server = TestServer::open(db).await;
        server.put("/fhir/Patient/a", &patient(|p| p["id"] = json!("a"))).await;
        let errors = |outcome: &Value| -> Vec<String> {
            let issues = outcome["issue"].as_array().unwrap().iter().filter(|issue| issue["severity"] == "error");
            issues.map(|issue| issue["expression"][0].as_str().unwrap_or_default().to_owned()).collect()
        };
        for (target, id, told) in
            [("a", Some("a"), &[][..]), ("a", Some("b"), &["Patient.id"]), ("nobody", Some("b"), &["Patient.id"]), ("nobody", None, &[])]
        {
            let sent = patient(|p| _ = id.map(|id| p["id"] = json!(id)));
            let (_, outcome) = server.post(&format!("/fhir/Patient/{target}/$validate"), &sent).await;
            assert_eq!(errors(&outcome), told, "{target} {id:?}: {outcome:#}");
        }

        for (kind, expression, status, told) in [
            ("token", "Patient.gendre", 422, &["SearchParameter.expression"][..]),
            ("date", "Patient.name", 422, &["SearchParameter.expression"]),
            ("token", "Patient.gender", 201, &[]),
        ] {
            let mut definition = json!({
                "resourceType": "SearchParameter", "url": "urn:test:own", "name": "Own", "status": "active", "description": "own",
                "code": "own", "base": ["Patient"], "type": kind, "expression": expression
            });
            let (_, outcome) = server.post("/fhir/SearchParameter/$validate", &definition).await;
            assert_eq!(errors(&outcome), told, "{expression}: {outcome:#}");
            definition["id"] = json!("own");
            let (written, outcome) = server.put("/fhir/SearchParameter/own", &definition).await;
            assert_eq!(written, status, "{expression}: {outcome:#}");
        }

        for (path, told) in [("Patient.nope", &["StructureDefinition.differential.element[0]"][..]), ("Patient.name", &[])] {
            let mut definition = profile(1);
            definition["differential"]["element"] = json!([{ "id": path, "path": path, "min": 1 }]);
            let (_, outcome) = server.post("/fhir/StructureDefinition/$validate", &definition).await;
            assert_eq!(errors(&outcome), told, "{path}: {outcome:#}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_profile_that_is_written_counts_at_once_and_soon_elsewhere(db: &TestDb) {
        let (server, other) = (TestServer::open(db).await, TestServer::open(db).await);
        let against = format!("/fhir/Patient/$validate?profile={PROFILE}");
        assert_eq!(server.post(&against, &patient(|_| ())).await.0, 404);
        assert_eq!(server.put("/fhir/StructureDefinition/named-patient", &profile(1)).await.0, 201);
        let (status, outcome) = server.post(&against, &patient(|_| ())).await;
        assert_eq!((status, &outcome["issue"][0]["expression"]), (200, &json!(["Patient.name"])), "{outcome:#}");
        let (_, outcome) = server.post(&against, &patient(|p| p["name"] = json!([{"text": "x"}]))).await;
        assert_eq!(severities(&outcome), ["information"], "{outcome:#}");
        until("the other process notices", async || other.post(&against, &patient(|_| ())).await.0 != 404).await;
        // Its search parameters are used; one that defines R4's own again is left out.
        server.put("/fhir/Patient/n", &json!({"resourceType": "Patient", "id": "n", "name": [{"text": "Kibo"}]})).await;
        let found = asked_until(&server, "/fhir/Patient?nickname=kibo&_total=accurate", |status, _| status == 200).await;
        assert_eq!(found["total"], 1, "{found}");
        assert_eq!(server.get("/fhir/SearchParameter/again").await.0, 404);
        assert_eq!(server.put("/fhir/StructureDefinition/named-patient", &profile(0)).await.0, 200);
        assert_eq!(severities(&server.post(&against, &patient(|_| ())).await.1), ["information"]);
    }
);

both_databases!(
    async fn what_is_refused_on_arrival_is_a_setting(db: &TestDb) {
        // Bad by an invariant, and by a profile that it claims; its structure is good.
        let contact = patient(|p| p["contact"] = json!([{"gender": "male"}]));
        let claimed = patient(|p| p["meta"] = json!({"profile": [PROFILE]}));
        let broken = patient(|p| p["birthDate"] = json!("x"));
        let cases = [(Level::Off, [201, 201, 201]), (Level::Structure, [201, 201, 422]), (Level::Profile, [422, 422, 422])];
        for (level, expected) in cases {
            let server = TestServer::start(db, |settings| (settings.auth, settings.validation) = (AuthMode::Open, level)).await;
            server.put("/fhir/StructureDefinition/named-patient", &profile(1)).await;
            for (resource, expected) in [&contact, &claimed, &broken].into_iter().zip(expected) {
                let (status, outcome) = server.post("/fhir/Patient", resource).await;
                assert_eq!(status, expected, "{level:?}: {outcome:#}");
                let bundle = json!({"resourceType": "Bundle", "type": "transaction", "entry": [
                    {"resource": resource, "request": {"method": "POST", "url": "Patient"}}]});
                let (status, outcome) = server.post("/fhir", &bundle).await;
                assert_eq!(status, if expected == 201 { 200 } else { 422 }, "{level:?}: {outcome:#}");
            }
            server.stop().await;
        }
    }
);

both_databases!(
    async fn all_profiles_that_are_named_count(db: &TestDb) {
        let server = TestServer::open(db).await;
        let mut other = profile(0);
        (other["id"], other["url"]) = (json!("other"), json!("urn:test:other"));
        server.put("/fhir/StructureDefinition/named-patient", &profile(1)).await;
        server.put("/fhir/StructureDefinition/other", &other).await;
        for query in ["urn:test:other&profile=urn:test:named-patient", "urn:test:named-patient&profile=urn:test:other"] {
            let (status, outcome) = server.post(&format!("/fhir/Patient/$validate?profile={query}"), &patient(|_| ())).await;
            assert_eq!((status, severities(&outcome)), (200, vec!["error"]), "{query}: {outcome:#}");
        }
        let named = |url: &str| json!({"name": "profile", "valueUri": url});
        let resource = json!({"name": "resource", "resource": patient(|_| ())});
        let sent = |parts: Value| json!({"resourceType": "Parameters", "parameter": parts});
        let (_, outcome) = server.post("/fhir/Patient/$validate", &sent(json!([named("urn:test:other"), named(PROFILE), resource]))).await;
        assert_eq!(severities(&outcome), ["error"], "{outcome:#}");
        let in_both = sent(json!([named("urn:test:other"), resource]));
        let (_, outcome) = server.post(&format!("/fhir/Patient/$validate?profile={PROFILE}"), &in_both).await;
        assert_eq!(severities(&outcome), ["error"], "{outcome:#}");
        assert_eq!(server.post("/fhir/Patient/$validate", &sent(json!([resource, resource]))).await.0, 400);
        server.stop().await;
    }
);

both_databases!(
    async fn a_code_is_not_refused_for_what_is_not_loaded(db: &TestDb) {
        let server = TestServer::start(db, |settings| (settings.auth, settings.validation) = (AuthMode::Open, Level::Profile)).await;
        // Lango ships a few codes of LOINC and no more.
        let set = json!({"resourceType": "ValueSet", "id": "loinc", "url": "urn:test:loinc", "status": "active",
            "compose": {"include": [{"system": "http://loinc.org"}]}});
        let mut bound = profile(0);
        (bound["id"], bound["url"], bound["type"]) = (json!("bound"), json!("urn:test:bound"), json!("Observation"));
        bound["baseDefinition"] = json!("http://hl7.org/fhir/StructureDefinition/Observation");
        bound["differential"]["element"] = json!([{"id": "Observation.code", "path": "Observation.code",
            "binding": {"strength": "required", "valueSet": "urn:test:loinc"},
            "constraint": [{"key": "t-1", "severity": "error", "human": "x", "expression": "memberOf('urn:test:loinc')"}]}]);
        assert_eq!(server.put("/fhir/ValueSet/loinc", &set).await.0, 201);
        assert_eq!(server.put("/fhir/StructureDefinition/bound", &bound).await.0, 201);
        let observation = |system: &str, subject: &str| {
            json!({"resourceType": "Observation", "meta": {"profile": ["urn:test:bound"]}, "status": "final",
                "code": {"coding": [{"system": system, "code": "11502-2"}]}, "subject": {"reference": subject}})
        };
        let (status, outcome) = server.post("/fhir/Observation", &observation("http://loinc.org", "Patient/1")).await;
        assert_eq!(status, 201, "{outcome:#}");
        let (_, outcome) = server.post("/fhir/Observation/$validate", &observation("http://loinc.org", "Patient/1")).await;
        assert!(outcome.to_string().contains("could not be checked"), "{outcome:#}");
        assert_eq!(server.post("/fhir/Observation", &observation("urn:test:other", "Patient/1")).await.0, 422);
        // Neither is a reference judged by another form than the one that it means.
        for (subject, expected) in [("Patient/1", 201), ("Practitioner/1", 422)] {
            let absolute = server.url(&format!("/fhir/{subject}"));
            let (status, outcome) = server.post("/fhir/Observation", &observation("http://loinc.org", &absolute)).await;
            assert_eq!(status, expected, "{subject}: {outcome:#}");
        }
        server.stop().await;
    }
);

/// A FHIR package with these files.
fn package(files: &[(&str, &Value)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let text = content.to_string();
        let mut header = tar::Header::new_ustar();
        // Written by hand: the builder itself refuses the paths that a reader must refuse.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(text.len() as u64);
        header.set_cksum();
        archive.append(&header, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

both_databases!(
    async fn a_package_is_loaded_at_start_and_what_was_edited_stays(db: &TestDb) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("guide.tgz");
        let set = json!({"resourceType": "ValueSet", "id": "ward", "url": "urn:test:ward", "status": "active",
            "compose": {"include": [{"system": "urn:test:wards", "concept": [{"code": "a"}]}]}});
        let stray = json!({"resourceType": "ValueSet", "id": "stray", "url": "urn:test:stray", "status": "active"});
        let parameter = |id: &str, code: &str| {
            json!({"resourceType": "SearchParameter", "id": id, "url": format!("urn:test:{id}"), "name": "P", "status": "active", "description": "d",
                "code": code, "base": ["Patient"], "type": "string", "expression": "Patient.name.text"})
        };
        std::fs::write(
            &file,
            package(&[
                ("package/SearchParameter-nick.json", &parameter("nick", "nickname")),
                ("package/SearchParameter-again.json", &parameter("again", "family")),
                ("package/package.json", &json!({"name": "test.guide", "version": "1.0.0"})),
                ("package/.index.json", &json!({"files": []})),
                ("package/StructureDefinition-named.json", &profile(1)),
                ("package/ValueSet-ward.json", &set),
                ("package/example/ValueSet-stray.json", &stray),
                ("package/../../ValueSet-stray.json", &stray),
            ]),
        )
        .unwrap();
        let start =
            async || TestServer::start(db, |settings| (settings.auth, settings.packages) = (AuthMode::Open, vec![file.clone()])).await;
        let server = start().await;
        let against = format!("/fhir/Patient/$validate?profile={PROFILE}");
        assert_eq!(severities(&server.post(&against, &patient(|_| ())).await.1), ["error"]);
        assert_eq!(server.get("/fhir/ValueSet/ward").await.0, 200);
        assert_eq!(server.get("/fhir/ValueSet/stray").await.0, 404);
        let (_, answer) = server.get("/fhir/ValueSet/$validate-code?url=urn:test:ward&system=urn:test:wards&code=a").await;
        assert_eq!(answer["parameter"][0]["valueBoolean"], true, "{answer:#}");
        assert_eq!(server.put("/fhir/StructureDefinition/named-patient", &profile(0)).await.0, 200);
        server.stop().await;
        let server = start().await;
        assert_eq!(severities(&server.post(&against, &patient(|_| ())).await.1), ["information"]);
    }
);
