//! Terminology and own definitions over HTTP: supplements, trees, versions, contexts, what is not taken, composites, stored targets.

use crate::search_deep::asked_until;
use crate::support::{TestServer, answer, both_databases};
use serde_json::{Value, json};

const URL: &str = "urn:t:animals";

/// A server with a code system, its supplement and a value set.
async fn zoo(server: &TestServer) {
    for resource in [
        json!({
            "resourceType": "CodeSystem", "id": "animals", "url": URL, "version": "1", "status": "active", "content": "complete",
            "concept": [{ "code": "dog", "display": "Dog", "concept": [{ "code": "puppy", "display": "Puppy" }] }, { "code": "cat", "display": "Cat" }]
        }),
        json!({
            "resourceType": "CodeSystem", "id": "french", "url": "urn:t:french", "status": "active", "content": "supplement", "supplements": URL,
            "concept": [{ "code": "dog", "designation": [{ "language": "fr", "value": "Chien" }] }]
        }),
        json!({
            "resourceType": "ValueSet", "id": "all", "url": "urn:t:all", "status": "active",
            "extension": [{ "url": "http://hl7.org/fhir/StructureDefinition/valueset-supplement", "valueCanonical": "urn:t:french" }],
            "compose": { "include": [{ "system": URL }] }
        }),
    ] {
        let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        let (status, outcome) = server.put(&path, &resource).await;
        assert_eq!(status, 201, "{outcome}");
    }
}

fn parameter<'v>(parameters: &'v Value, name: &str) -> &'v Value {
    let found = parameters["parameter"].as_array().into_iter().flatten().find(|one| one["name"] == name);
    found.and_then(|one| one.as_object()?.iter().find(|(key, _)| key.starts_with("value"))).map_or(&Value::Null, |(_, value)| value)
}

/// The codes of an expansion's first level.
fn codes(value_set: &Value) -> Vec<&str> {
    value_set["expansion"]["contains"].as_array().into_iter().flatten().filter_map(|one| one["code"].as_str()).collect()
}

both_databases!(
    async fn a_supplement_that_is_put_is_used_and_one_that_is_deleted_is_missed(db: &TestDb) {
        let server = TestServer::open(db).await;
        zoo(&server).await;
        let lookup = "/fhir/CodeSystem/$lookup?system=urn:t:animals&code=dog&displayLanguage=fr";
        assert_eq!(parameter(&server.get(lookup).await.1, "display"), "Chien");
        let (_, expanded) = server.get("/fhir/ValueSet/all/$expand?displayLanguage=fr&includeDesignations=true").await;
        let first = &expanded["expansion"]["contains"][0];
        assert_eq!((&first["display"], &first["designation"][0]["language"]), (&json!("Chien"), &json!("fr")), "{expanded}");
        let check = "/fhir/ValueSet/$validate-code?url=urn:t:all&system=urn:t:animals&code=dog&display=chien";
        assert_eq!(parameter(&server.get(check).await.1, "result"), true);
        assert_eq!(server.get(&format!("{lookup}&useSupplement=urn:t:french")).await.0, 200);
        for path in [lookup.to_owned(), check.to_owned(), "/fhir/ValueSet/all/$expand?count=1".to_owned()] {
            let (status, outcome) = server.get(&format!("{path}&useSupplement=urn:t:none")).await;
            assert_eq!((status, &outcome["issue"][0]["code"]), (404, &json!("not-found")), "{path}");
        }
        assert_eq!(answer(server.client.delete(server.url("/fhir/CodeSystem/french"))).await.0, 204);
        assert_eq!(parameter(&server.get(lookup).await.1, "display"), "Dog");
        assert_eq!(server.get("/fhir/ValueSet/all/$expand").await.0, 404, "the value set depends on it");
        server.stop().await;
    }
);

both_databases!(
    async fn an_expansion_is_made_as_it_is_asked_for(db: &TestDb) {
        let server = TestServer::open(db).await;
        zoo(&server).await;
        let all = "/fhir/ValueSet/all/$expand";
        let (_, tree) = server.get(&format!("{all}?excludeNested=false&includeDefinition=true")).await;
        assert_eq!((codes(&tree), &tree["expansion"]["total"]), (vec!["dog", "cat"], &json!(3)), "{tree}");
        assert_eq!(tree["expansion"]["contains"][0]["contains"][0]["code"], "puppy");
        assert_eq!(tree["compose"], json!({ "include": [{ "system": URL }] }));
        for (asked, status) in [
            ("force-system-version=urn:t:animals%7C1", 200),
            ("check-system-version=urn:t:animals%7C1", 200),
            ("system-version=urn:t:animals%7C1", 200),
            ("force-system-version=urn:t:animals%7C9", 404),
            ("check-system-version=urn:t:animals%7C9", 404),
            ("system-version=urn:t:animals%7C9", 404),
            ("system-version=urn:t:animals", 400),
        ] {
            assert_eq!(server.get(&format!("{all}?{asked}")).await.0, status, "{asked}");
        }
        let validated = server.get("/fhir/ValueSet/all/$validate-code?code=dog&system=urn:t:animals&systemVersion=9").await;
        assert_eq!((validated.0, parameter(&validated.1, "result")), (200, &json!(false)), "{}", validated.1);

        let (_, implicit) = server.get("/fhir/ValueSet/$expand?url=urn:t:animals?fhir_vs=isa/dog").await;
        assert_eq!(codes(&implicit), ["dog", "puppy"]);
        let observation = json!({ "resourceType": "Observation", "id": "o", "status": "final", "code": { "coding": [{ "system": URL, "code": "puppy" }] } });
        assert_eq!(server.put("/fhir/Observation/o", &observation).await.0, 201);
        for (set, found) in [("isa/dog", 1), ("isa/cat", 0)] {
            let (status, bundle) = server.get(&format!("/fhir/Observation?code:in=urn:t:animals?fhir_vs={set}&_total=accurate")).await;
            assert_eq!((status, &bundle["total"]), (200, &json!(found)), "{set}: {bundle}");
        }

        let unknown = server.url(&format!("{all}?nosuch=1"));
        let warnings = async |path: &str| -> Vec<String> {
            let response = server.client.get(server.url(path)).send().await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            response.headers().get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let told = warnings(&format!("{all}?nosuch=1&n%22or%C3%A9=2&_format=json")).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("299 - \"") && told[0].contains(" nosuch;") && told[1].contains(" n?or?;"), "{told:?}");
        assert_eq!(warnings(all).await, [""; 0]);
        let batch = json!({ "resourceType": "Bundle", "type": "batch", "entry": [{ "request": { "method": "GET", "url": "ValueSet/all/$expand?nosuch=1" } }] });
        let (_, response) = server.post("/fhir", &batch).await;
        let outcome = &response["entry"][0]["response"]["outcome"]["issue"][0];
        assert_eq!((&outcome["severity"], &outcome["code"]), (&json!("warning"), &json!("not-supported")), "{response}");
        // A supplement for a version that is not the one that answers.
        let late = json!({
            "resourceType": "CodeSystem", "id": "late", "url": "urn:t:late", "status": "active", "content": "supplement", "supplements": "urn:t:animals|99",
            "concept": [{ "code": "dog", "designation": [{ "language": "de", "value": "Hund" }] }]
        });
        assert_eq!(server.put("/fhir/CodeSystem/late", &late).await.0, 201);
        let lookup = "/fhir/CodeSystem/$lookup?system=urn:t:animals&code=dog&useSupplement=urn:t:";
        assert_eq!(warnings(&format!("{lookup}french")).await, [""; 0]);
        assert!(warnings(&format!("{lookup}late")).await[0].contains("another version"));
        assert_eq!(warnings(&format!("{all}?useSupplement=urn:t:late")).await.len(), 1);
        let newer = json!({ "resourceType": "CodeSystem", "id": "newer", "url": URL, "version": "99", "status": "active", "content": "complete", "concept": [{ "code": "dog" }] });
        assert_eq!(server.put("/fhir/CodeSystem/newer", &newer).await.0, 201);
        assert_eq!(warnings(&format!("{lookup}late")).await, [""; 0]);
        assert_eq!(warnings(&format!("{lookup}late&version=1")).await.len(), 1);
        assert_eq!(warnings(&format!("{all}?useSupplement=urn:t:late")).await, [""; 0]);
        let (status, outcome) = answer(server.client.get(&unknown).header("prefer", "handling=strict")).await;
        assert_eq!(status, 400);
        assert!(outcome["issue"][0]["diagnostics"].as_str().unwrap().contains("nosuch"), "{outcome}");
        server.stop().await;
    }
);

both_databases!(
    async fn what_rests_on_a_part_of_a_code_system_is_told(db: &TestDb) {
        let server = TestServer::open(db).await;
        let resources = [
            json!({
                "resourceType": "CodeSystem", "id": "part", "url": "urn:t:part", "status": "active", "content": "fragment",
                "concept": [{ "code": "dog", "concept": [{ "code": "puppy" }] }]
            }),
            json!({
                "resourceType": "ValueSet", "id": "dogs", "url": "urn:t:dogs", "status": "active",
                "compose": { "include": [{ "system": "urn:t:part", "filter": [{ "property": "concept", "op": "is-a", "value": "dog" }] }] }
            }),
            json!({
                "resourceType": "ValueSet", "id": "lost", "url": "urn:t:lost", "status": "active",
                "compose": { "include": [{ "system": "urn:t:part", "filter": [{ "property": "concept", "op": "is-a", "value": "animal" }] }] }
            }),
            json!({
                "resourceType": "ValueSet", "id": "listed", "url": "urn:t:listed", "status": "active",
                "compose": { "include": [{ "system": "urn:t:part", "concept": [{ "code": "poodle" }] }] }
            }),
            json!({ "resourceType": "Observation", "id": "a", "status": "final", "code": { "coding": [{ "system": "urn:t:part", "code": "puppy" }] } }),
            json!({ "resourceType": "Observation", "id": "b", "status": "final", "code": { "coding": [{ "system": "urn:t:part", "code": "poodle" }] } }),
        ];
        for resource in &resources {
            let path = format!("/fhir/{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            assert_eq!(server.put(&path, resource).await.0, 201);
        }
        for (set, count) in [("urn:t:part?fhir_vs", 2), ("urn:t:dogs", 2), ("urn:t:part?fhir_vs=isa/dog", 2)] {
            let response = server.client.get(server.url(&format!("/fhir/ValueSet/$expand?url={set}"))).send().await.unwrap();
            let warning = response.headers().get("warning").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
            let expanded: Value = response.json().await.unwrap();
            let extension = &expanded["expansion"]["extension"][0];
            assert_eq!(extension["url"], "http://hl7.org/fhir/StructureDefinition/valueset-unclosed", "{set}: {expanded}");
            assert_eq!((&extension["valueBoolean"], &expanded["expansion"]["total"]), (&json!(true), &json!(count)), "{set}");
            assert!(warning.contains("only a part of CodeSystem urn:t:part"), "{set}: {warning}");
            for (modifier, found) in [("in", "a"), ("not-in", "b")] {
                let search = format!("/fhir/Observation?code:{modifier}={set}");
                let (status, bundle) = server.get(&search).await;
                let entries = bundle["entry"].as_array().unwrap();
                assert_eq!((status, &entries[0]["resource"]["id"]), (200, &json!(found)), "{search}: {bundle}");
                let told = &entries[1]["resource"]["issue"][0];
                assert_eq!((&told["severity"], &told["code"]), (&json!("warning"), &json!("incomplete")), "{search}: {bundle}");
                assert!(told["diagnostics"].as_str().unwrap().contains("only a part of urn:t:part is loaded"), "{told}");
                let strict = server.client.get(server.url(&search)).header("prefer", "handling=strict");
                assert_eq!(answer(strict).await.0, 400, "{search}");
            }
            let conditional = server.client.delete(server.url(&format!("/fhir/Observation?code:not-in={set}")));
            assert_eq!(answer(conditional).await.0, 400, "what is to be written must be certain: {set}");
        }
        let below = "/fhir/Observation?code:below=urn:t:part|dog";
        let (_, bundle) = server.get(below).await;
        let entries = bundle["entry"].as_array().unwrap();
        assert_eq!((entries.len(), &entries[0]["resource"]["id"]), (2, &json!("a")), "{bundle}");
        assert_eq!(entries[1]["resource"]["issue"][0]["code"], "incomplete", "{bundle}");
        let strict = server.client.get(server.url(below)).header("prefer", "handling=strict");
        assert_eq!(answer(strict).await.0, 400);
        for set in ["urn:t:lost", "urn:t:part?fhir_vs=isa/animal"] {
            let (status, outcome) = server.get(&format!("/fhir/ValueSet/$expand?url={set}")).await;
            assert_eq!(status, 422, "{set}: {outcome}");
            let (status, outcome) = server.get(&format!("/fhir/Observation?code:in={set}")).await;
            assert_eq!(status, 400, "{set}: {outcome}");
            assert!(outcome["issue"][0]["diagnostics"].as_str().unwrap().contains("does not have the code; load more of it"), "{outcome}");
        }
        // What is listed needs no more than the list.
        let (_, expanded) = server.get("/fhir/ValueSet/listed/$expand").await;
        assert_eq!((codes(&expanded), &expanded["expansion"]["extension"]), (vec!["poodle"], &Value::Null));
        let strict = server.client.get(server.url("/fhir/Observation?code:in=urn:t:listed")).header("prefer", "handling=strict");
        let (status, bundle) = answer(strict).await;
        assert_eq!((status, bundle["entry"].as_array().unwrap().len()), (200, 1), "{bundle}");
        // What lango ships of ICD-10 is a part, too.
        let (_, bundle) = server.get("/fhir/Condition?code:in=https://lango.health/fhir/ValueSet/icd-10-diagnosis").await;
        assert_eq!(bundle["entry"][0]["resource"]["issue"][0]["code"], "incomplete", "{bundle}");
        server.stop().await;
    }
);

both_databases!(
    async fn a_listed_code_that_does_not_exist_is_in_no_value_set(db: &TestDb) {
        let server = TestServer::open(db).await;
        zoo(&server).await;
        let set = json!({
            "resourceType": "ValueSet", "id": "some", "url": "urn:t:some", "status": "active",
            "compose": { "include": [{ "system": URL, "concept": [{ "code": "dog" }, { "code": "unicorn" }] }] }
        });
        assert_eq!(server.put("/fhir/ValueSet/some", &set).await.0, 201);
        for code in ["dog", "unicorn"] {
            let observation = json!({ "resourceType": "Observation", "id": code, "status": "final", "code": { "coding": [{ "system": URL, "code": code }] } });
            assert_eq!(server.put(&format!("/fhir/Observation/{code}"), &observation).await.0, 201);
        }
        let (_, expanded) = server.get("/fhir/ValueSet/some/$expand").await;
        assert_eq!((codes(&expanded), &expanded["expansion"]["total"]), (vec!["dog"], &json!(1)));
        let (_, bundle) = server.get("/fhir/Observation?code:in=urn:t:some&_total=accurate").await;
        assert_eq!((&bundle["total"], &bundle["entry"][0]["resource"]["id"]), (&json!(1), &json!("dog")), "{bundle}");
        for asked in ["ValueSet/some/$validate-code?", "CodeSystem/$validate-code?url=urn:t:animals&"] {
            let system = if asked.starts_with("ValueSet") { "&system=urn:t:animals" } else { "" };
            let (_, answer) = server.get(&format!("/fhir/{asked}code=unicorn{system}")).await;
            assert_eq!(parameter(&answer, "result"), false, "{asked}");
            assert!(parameter(&answer, "message").as_str().unwrap().contains("does not have the code"), "{asked}: {answer}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn operations_say_what_is_wrong_with_the_question(db: &TestDb) {
        let server = TestServer::open(db).await;
        zoo(&server).await;
        let (status, outcome) = server.get("/fhir/CodeSystem/animals/$lookup?code=dog").await;
        let words = outcome["issue"][0]["diagnostics"].as_str().unwrap();
        assert!(status == 404 && words.contains("asked of the type") && !words.contains("does not exist"), "{outcome}");
        let (status, outcome) = server.get("/fhir/CodeSystem/$lookup?system=http://snomed.info/sct&code=nosuch").await;
        assert_eq!(status, 404);
        assert!(
            outcome["issue"][0]["diagnostics"].as_str().unwrap().contains("the part of CodeSystem http://snomed.info/sct"),
            "{outcome}"
        );
        let twice = "/fhir/CodeSystem/$lookup?system=urn:t:animals&code=dog&code=cat";
        let response = server.client.get(server.url(twice)).send().await.unwrap();
        let warning = response.headers().get("warning").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        assert!(response.status() == 200 && warning.contains("the parameter code is given more than once"), "{warning}");
        assert_eq!(answer(server.client.get(server.url(twice)).header("prefer", "handling=strict")).await.0, 400);
        server.stop().await;
    }
);

both_databases!(
    async fn an_element_stands_for_the_value_set_that_it_is_bound_to(db: &TestDb) {
        let server = TestServer::open(db).await;
        zoo(&server).await;
        let profile = json!({
            "resourceType": "StructureDefinition", "id": "pet", "url": "urn:t:pet", "name": "Pet", "status": "active", "kind": "resource",
            "abstract": false, "type": "Observation", "derivation": "constraint",
            "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Observation",
            "differential": { "element": [{ "id": "Observation.code", "path": "Observation.code", "binding": { "strength": "required", "valueSet": "urn:t:all" } }] }
        });
        let (status, outcome) = server.put("/fhir/StructureDefinition/pet", &profile).await;
        assert_eq!(status, 201, "{outcome}");
        let core = "http://hl7.org/fhir/StructureDefinition";
        for (context, code) in [
            (format!("{core}/Patient%23Patient.gender"), "female"),
            (format!("{core}/Patient%23Patient.contact.gender"), "female"),
            ("urn:t:pet%23Observation.code".to_owned(), "puppy"),
            ("urn:t:pet%23Observation.status".to_owned(), "final"),
        ] {
            let (status, expanded) = server.get(&format!("/fhir/ValueSet/$expand?context={context}&contextDirection=incoming")).await;
            assert_eq!(status, 200, "{context}: {expanded}");
            assert!(codes(&expanded).contains(&code), "{context}: {expanded}");
            let (_, validated) = server.get(&format!("/fhir/ValueSet/$validate-code?context={context}&code={code}")).await;
            assert_eq!(parameter(&validated, "result"), true, "{context}: {validated}");
        }
        for context in ["urn:t:none%23Observation.code", "urn:t:pet", "urn:t:pet%23Observation.subject", "urn:t:pet%23Observation.nosuch"] {
            let (status, outcome) = server.get(&format!("/fhir/ValueSet/$expand?context={context}")).await;
            assert_eq!((status, &outcome["issue"][0]["code"]), (422, &json!("not-supported")), "{context}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn a_stored_target_is_held_against_its_profile(db: &TestDb) {
        let server = TestServer::open(db).await;
        let profile = |id: &str, of: &str, element: Value| {
            json!({
                "resourceType": "StructureDefinition", "id": id, "url": format!("urn:t:{id}"), "name": "P", "status": "active", "kind": "resource",
                "abstract": false, "type": of, "derivation": "constraint", "baseDefinition": format!("http://hl7.org/fhir/StructureDefinition/{of}"),
                "differential": { "element": [element] }
            })
        };
        let born = profile("born", "Patient", json!({ "id": "Patient.birthDate", "path": "Patient.birthDate", "min": 1 }));
        let subject = json!({ "id": "Observation.subject", "path": "Observation.subject", "type": [{ "code": "Reference", "targetProfile": ["urn:t:born"] }] });
        for (id, definition) in [("born", born), ("seen", profile("seen", "Observation", subject))] {
            assert_eq!(server.put(&format!("/fhir/StructureDefinition/{id}"), &definition).await.0, 201);
        }
        server.put("/fhir/Patient/unborn", &json!({ "resourceType": "Patient", "id": "unborn" })).await;
        server.put("/fhir/Patient/born", &json!({ "resourceType": "Patient", "id": "born", "birthDate": "2000" })).await;
        let said = async |reference: &str| {
            let observation =
                json!({ "resourceType": "Observation", "status": "final", "code": { "text": "x" }, "subject": { "reference": reference } });
            let (status, outcome) = server.post("/fhir/Observation/$validate?profile=urn:t:seen", &observation).await;
            assert_eq!(status, 200, "{outcome}");
            let about = outcome["issue"]
                .as_array()
                .unwrap()
                .iter()
                .find(|issue| issue["expression"][0] == "Observation.subject.reference")
                .cloned();
            about.map(|issue| {
                (issue["severity"].as_str().unwrap().to_owned(), issue["diagnostics"].as_str().unwrap().contains("could not be checked"))
            })
        };
        assert_eq!(said("Patient/unborn").await, Some(("error".to_owned(), false)));
        assert_eq!(said("Patient/born").await, None);
        assert_eq!(said(&server.url("/fhir/Patient/born")).await, None);
        for away in ["Patient/nobody", "http://elsewhere.example/fhir/Patient/born"] {
            assert_eq!(said(away).await, Some(("information".to_owned(), true)), "{away}");
        }
        server.stop().await;
    }
);

both_databases!(
    async fn an_own_composite_finds_what_belongs_together(db: &TestDb) {
        let server = TestServer::open(db).await;
        let name = |given: &str, family: &str| json!({ "given": [given], "family": family });
        server
            .put(
                "/fhir/Patient/a",
                &json!({ "resourceType": "Patient", "id": "a", "name": [name("Asha", "Juma"), name("Neema", "Mushi")] }),
            )
            .await;
        server.put("/fhir/Patient/b", &json!({ "resourceType": "Patient", "id": "b", "name": [name("Asha", "Mushi")] })).await;
        let part = |code: &str| json!({ "definition": format!("http://hl7.org/fhir/SearchParameter/{code}"), "expression": code.rsplit('-').next() });
        let definition = json!({
            "resourceType": "SearchParameter", "id": "full", "url": "urn:t:full", "name": "Full", "status": "active", "description": "Given and family",
            "code": "full", "base": ["Patient"], "type": "composite", "expression": "Patient.name",
            "component": [part("individual-given"), part("individual-family")]
        });
        let (status, outcome) = server.put("/fhir/SearchParameter/full", &definition).await;
        assert_eq!(status, 201, "{outcome}");
        let found = async |value: &str| {
            let bundle = asked_until(&server, &format!("/fhir/Patient?full={value}"), |status, body| {
                assert!(status == 200 || body["issue"][0]["code"] == "transient", "{status} {body:.300}");
                status == 200
            })
            .await;
            let entries = bundle["entry"].as_array().into_iter().flatten();
            entries.filter_map(|entry| entry["resource"]["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(found("asha$mushi").await, ["b"]);
        assert_eq!(found("neema$mushi").await, ["a"]);
        assert_eq!(found("neema$juma").await, [""; 0]);
        server.put("/fhir/Patient/c", &json!({ "resourceType": "Patient", "id": "c", "name": [name("Neema", "Juma")] })).await;
        assert_eq!(found("neema$juma").await, ["c"]);
        server.stop().await;
    }
);

both_databases!(
    async fn an_own_parameter_compares_as_r4s_do(db: &TestDb) {
        let server = TestServer::open(db).await;
        let patient = |id: &str, media: &str, mail: &str| json!({ "resourceType": "Patient", "id": id, "gender": "female", "photo": [{ "contentType": media }], "telecom": [{ "system": "email", "value": mail }] });
        server.put("/fhir/Patient/a", &patient("a", "Image/JPEG; q=1", "Mix@Ex.org")).await;
        server
            .put(
                "/fhir/ValueSet/v",
                &json!({ "resourceType": "ValueSet", "id": "v", "url": "urn:v", "status": "draft", "version": "1-Beta" }),
            )
            .await;
        for (code, base, expression) in [
            ("photo-type", "Patient", "Patient.photo.contentType"),
            ("mail", "Patient", "Patient.telecom.where(system='email')"),
            ("sex", "Patient", "Patient.gender"),
            ("edition", "ValueSet", "ValueSet.version"),
        ] {
            let definition = json!({
                "resourceType": "SearchParameter", "id": code, "url": format!("urn:t:{code}"), "name": "Own", "status": "active", "description": "own",
                "code": code, "base": [base], "type": "token", "expression": expression
            });
            let (status, outcome) = server.put(&format!("/fhir/SearchParameter/{code}"), &definition).await;
            assert_eq!(status, 201, "{outcome}");
        }
        let found = async |search: &str| {
            let bundle = asked_until(&server, &format!("/fhir/{search}"), |status, body| {
                assert!(status == 200 || body["issue"][0]["code"] == "transient", "{search} {status} {body:.300}");
                status == 200
            })
            .await;
            let entries = bundle["entry"].as_array().into_iter().flatten();
            entries.filter_map(|entry| entry["resource"]["id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        server.put("/fhir/Patient/b", &patient("b", "IMAGE/jpeg;q=1", "mix@ex.org")).await;
        server.put("/fhir/Patient/c", &patient("c", "image/png", "x@ex.org")).await;
        for (search, expected) in [
            ("Patient?photo-type=image/jpeg;q%3D1", &["a", "b"][..]),
            ("Patient?photo-type=Image/JPEG; q%3D1", &["a", "b"]),
            ("Patient?photo-type=urn:ietf:bcp:13|image/PNG", &["c"]),
            ("Patient?photo-type:below=image", &["a", "b", "c"]),
            ("Patient?photo-type:below=image/jpeg", &["a", "b"]),
            ("Patient?photo-type:not=image/JPEG;q%3D1", &["c"]),
            ("Patient?_filter=photo-type ne \"image/jpeg;q%3D1\"", &["c"]),
            ("Patient?mail=MIX@EX.ORG", &["a", "b"]),
            ("Patient?_filter=mail ne \"mix@ex.org\"", &["c"]),
            ("Patient?sex=http://hl7.org/fhir/administrative-gender|female", &["a", "b", "c"]),
            ("Patient?sex=http://hl7.org/fhir/administrative-gender|", &["a", "b", "c"]),
            ("Patient?gender=http://hl7.org/fhir/administrative-gender|", &["a", "b", "c"]),
            ("Patient?sex=FEMALE", &[]),
            ("ValueSet?_id=v&edition=1-BETA", &["v"]),
        ] {
            let mut ids = found(search).await;
            ids.sort();
            assert_eq!(ids, expected, "{search}");
        }
        server.stop().await;
    }
);
