//! The forty ways in which FHIR servers were seen to leak, each tried. HF-B asks for Patient/a's records under her Consent, which leaves out
//! what is labelled HIV; Patient/b consented to nothing. What is hidden must look as if it never was.

use crate::consent::{World, consent, observation, purpose, set, to};
use crate::non_interference::settled;
use crate::support::server::answer;
use crate::support::smart::{add_signing_client, ask_signed, signed_token};
use crate::support::{TestDb, both_databases};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Status, headers and body of an answer, with `name` wherever the id that was asked for stands.
type Answered = (u16, BTreeMap<String, String>, String);

struct Leaks {
    world: World,
    tried: std::cell::RefCell<BTreeSet<u8>>,
    /// How often what is hidden was answered otherwise than what is absent; standard error says where.
    told: std::cell::Cell<usize>,
}

/// The text with NAME wherever the id stands as a word of its own.
fn unnamed(text: &str, id: &str) -> String {
    let inside = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let mut out = String::new();
    let text = text.replace("%2F", "/");
    let mut rest = text.as_str();
    while let Some(at) = rest.find(id).filter(|_| !id.is_empty()) {
        let (before, after) = (&rest[..at], &rest[at + id.len()..]);
        out.push_str(before);
        out.push_str(if inside(before.chars().last().or(out.chars().last())) || inside(after.chars().next()) { id } else { "NAME" });
        rest = after;
    }
    out + rest
}

impl Leaks {
    async fn new(db: &TestDb) -> Leaks {
        add_signing_client(db, "other", "HF-C", "facility clinician").await;
        add_signing_client(db, "district-office", "D-1", "facility clinician").await;
        let world = World::new(db).await;
        let no_hiv =
            json!([{ "type": "deny", "securityLabel": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV" }] }]);
        let provision = json!({ "type": "permit", "actor": to("Organization/hf-b"), "purpose": purpose("TREAT"), "provision": no_hiv });
        world.put(&world.desk, &consent("c", "a", provision)).await;
        Leaks { world, tried: Default::default(), told: Default::default() }
    }

    /// A row of reference to the list of leaks.
    fn leak(&self, number: u8) {
        self.tried.borrow_mut().insert(number);
    }

    async fn asked(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str, name: &str) -> Answered {
        let server = &self.world.server;
        let mut request = server.client.request(method.parse().unwrap(), server.url(path)).bearer_auth(&self.world.asker);
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        let response = request.body(body.to_owned()).send().await.expect("an answer");
        let volatile = ["date", "x-request-id", "content-length"];
        let headers = response.headers().iter().filter(|(name, _)| !volatile.contains(&name.as_str()));
        let headers = headers.map(|(header, value)| (header.to_string(), unnamed(value.to_str().unwrap_or_default(), name))).collect();
        let status = response.status().as_u16();
        let mut text = response.text().await.unwrap();
        if let Ok(body) = serde_json::from_str::<Value>(&text) {
            text = settled(body, &server.base).to_string();
        }
        (status, headers, unnamed(&text, name))
    }

    /// `@` stands for the id: what is hidden is answered like what never was.
    async fn same_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str, hidden: &str) -> Answered {
        let ghost = "nobody-was-here";
        let of = async |name: &str| self.asked(method, &path.replace('@', name), headers, &body.replace('@', name), name).await;
        let told = of(hidden).await;
        let absent = of(ghost).await;
        if told != absent {
            eprintln!("LEAK {method} {path} of {hidden}:\n {told:?}\n {absent:?}");
            self.told.set(self.told.get() + 1);
        }
        assert!(!told.2.contains("75622-1") && !told.2.contains("Mushi"), "{method} {path}");
        told
    }

    async fn same(&self, path: &str, hidden: &str) -> Answered {
        self.same_with("GET", &format!("/fhir/{path}"), &[], "", hidden).await
    }

    async fn ids(&self, path: &str) -> BTreeSet<String> {
        self.world.ids(&self.world.asker, &format!("/fhir/{path}")).await
    }

    async fn status(&self, method: &str, path: &str, body: &Value) -> u16 {
        self.world.send(&self.world.asker, method, path, body).await.0
    }

    /// 1-3, 5-10, 12, 21, 35, 36: reads and searches.
    async fn reads_and_searches(&self) {
        self.leak(1);
        for path in ["Observation/@", "Observation/@/_history/1", "Observation/@/_history", "Observation/@?_summary=true"] {
            for hidden in ["b-hr", "b-hiv", "a-hiv"] {
                let (status, headers, _) = self.same(path, hidden).await;
                assert_eq!(status, 404, "{path}");
                assert!(!headers.contains_key("etag") && !headers.contains_key("last-modified"), "{path}");
                self.same_with("HEAD", &format!("/fhir/{path}"), &[], "", hidden).await;
                self.same_with("GET", &format!("/fhir/{path}"), &[("if-none-match", "W/\"1\"")], "", hidden).await;
                self.same_with("GET", &format!("/fhir/{path}"), &[("if-modified-since", "Sat, 21 Nov 2099 04:36:13 GMT")], "", hidden)
                    .await;
            }
        }
        self.leak(2);
        assert_eq!(self.ids("Observation?status=final").await, set(&["a-hr"]));
        assert_eq!(self.ids("Observation?code=75622-1,8867-4&_total=accurate").await, set(&["a-hr"]));
        self.leak(3);
        for (path, total) in [
            ("Observation?_summary=count", 1),
            ("Observation?_count=0&_total=accurate", 1),
            ("Patient?_total=accurate", 1),
            ("Observation?code=75622-1&_summary=count", 0),
        ] {
            assert_eq!(self.world.get(&self.world.asker, &format!("/fhir/{path}")).await.1["total"], total, "{path}");
        }
        self.leak(5);
        for path in [
            "Observation?subject:Patient.family=mushi",
            "Observation?encounter.subject:Patient.family=mushi",
            "Observation?subject:Patient._id=a,b",
        ] {
            assert_eq!(self.ids(path).await, set(&["a-hr"]), "{path}");
        }
        self.leak(6);
        assert_eq!(
            self.ids("Patient?_has:Observation:patient:code=75622-1").await,
            set(&[]),
            "not even of her own who consented to the rest"
        );
        assert_eq!(self.ids("Patient?_has:Observation:patient:code=8867-4").await, set(&["a"]));
        assert_eq!(self.ids("Patient?_has:Encounter:patient:_has:Observation:encounter:code=75622-1").await, set(&[]));
        self.leak(7);
        for path in [
            "Observation?_filter=code eq 75622-1 or status eq final",
            "Observation?value-string:contains=x",
            "Observation?_tag:missing=true",
            "Observation?code:not=nothing",
            "Observation?code-value-string=8867-4$x,75622-1$x",
        ] {
            let (status, bundle) = self.world.get(&self.world.asker, &format!("/fhir/{path}")).await;
            assert!(matches!(status, 200 | 400), "{path}");
            let entries = bundle.get("entry").unwrap_or(&Value::Null).to_string();
            assert!(!entries.contains("-hiv") && !entries.contains("b-hr"), "{path}: {entries}");
        }
        self.leak(8);
        for path in ["Observation?_sort=date&_count=1", "Observation?_sort=-date&_count=1", "Observation?_sort=-code&_count=1"] {
            let (_, page) = self.world.get(&self.world.asker, &format!("/fhir/{path}")).await;
            assert!(
                page["link"].as_array().unwrap().iter().all(|link| link["relation"] != "next"),
                "{path}: a page that holds all is the last"
            );
        }
        self.leak(9);
        for path in ["Observation/@?_elements=code", "Observation?_id=@&_elements=code", "Observation?_id=@&_summary=text"] {
            self.same(path, "a-hiv").await;
        }
        self.leak(10);
        for path in ["Patient/@/Observation", "Patient/@/Encounter?_summary=count", "Patient/@/Condition?_total=accurate"] {
            self.same(path, "b").await;
        }
        self.leak(12);
        for path in
            ["_history", "Observation/_history", "Encounter/_history", "Patient/_history", "_history?_since=2020", "_history?_at=2099"]
        {
            let (status, bundle) = self.world.get(&self.world.asker, &format!("/fhir/{path}")).await;
            assert_eq!(status, 200, "{path}");
            for entry in bundle["entry"].as_array().into_iter().flatten() {
                let name = entry["request"]["url"].as_str().unwrap();
                let hidden = ["Patient/b", "Observation/b-hr", "Observation/b-hiv", "Encounter/b-visit", "Observation/a-hiv"];
                assert!(!hidden.contains(&name), "{path}: {name}");
            }
            assert!(bundle.get("total").is_none(), "{path}");
        }
        self.leak(21);
        for path in [
            "Patient/@",
            "Patient?_id=@",
            "Patient?identifier=@",
            "Observation?patient=@",
            "Observation?subject=Patient/@&_summary=count",
            "Encounter?_id=@-visit",
        ] {
            self.same(path, "b").await;
        }
        self.leak(35);
        for path in [
            "Observation?_id=a-hr,b-hr",
            "Observation?patient=a,b",
            "Observation?patient=a&patient=a",
            "Observation?patient=Patient/b,Patient/a",
        ] {
            assert_eq!(self.ids(path).await, set(&["a-hr"]), "{path}");
        }
        for path in [
            "/fhir/patient/@",
            "/fhir/Patient/@/",
            "/fhir//Patient/@",
            "/fhir/Patient%2F@",
            "/fhir/Patient/@;x=1",
            "/fhir/Patient/a,@",
            "/fhir/Patient/@?_format=html",
            "/fhir/Patient/@?_method=GET",
        ] {
            let (status, _, text) = self.same_with("GET", path, &[], "", "b").await;
            assert!(status >= 400 && !text.contains("family"), "{path}: {status}");
        }
        for header in ["x-http-method-override", "x-openhim-clientid", "x-forwarded-user", "x-lango-facility", "x-purpose-of-use"] {
            for value in ["HF-A", "DELETE", "TREAT"] {
                assert_eq!(self.same_with("GET", "/fhir/Patient/@", &[(header, value)], "", "b").await.0, 404);
            }
        }
        self.leak(36);
        let absolute = format!("Observation?subject={}/Patient/@", self.world.server.url("/fhir"));
        for path in [
            absolute.as_str(),
            "Observation?_security:not=R&patient=@",
            "Observation?_list=@",
            "Observation?_profile=@",
            "Observation?subject=Patient/@/_history/1",
        ] {
            self.same(path, "b").await;
        }
        assert_eq!(self.ids("Observation?_security:not=R").await, set(&["a-hr"]));
        assert!(self.status("GET", "/fhir?_type=Patient,Observation", &Value::Null).await >= 400, "there is no search of everything");
        self.same("Observation?_query=all&_id=@", "b-hr").await;
    }

    /// 4, 11, 14, 16-18, 25, 31: what hangs together with what is hidden.
    async fn around_what_is_hidden(&self) {
        let World { holder, asker, .. } = &self.world;
        self.leak(4);
        let mixed = json!({ "resourceType": "Observation", "id": "mixed", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/a" },
            "encounter": { "reference": "Encounter/b-visit" }, "hasMember": [{ "reference": "Observation/b-hr" }, { "reference": "Observation/a-hiv" }] });
        self.world.put(holder, &mixed).await;
        for path in [
            "Observation?_id=mixed&_include=*",
            "Observation?_id=mixed&_include=Observation:encounter&_include:iterate=Encounter:subject&_include=Observation:has-member",
            "Observation?_id=mixed&_revinclude=Observation:has-member",
        ] {
            let seen = self.ids(path).await;
            assert!(seen.is_subset(&set(&["mixed", "a"])), "{path}: {seen:?}");
        }
        assert_eq!(self.ids("Observation?_id=mixed&has-member.code=75622-1").await, set(&[]));
        self.leak(11);
        for path in [
            "Patient/@/$everything",
            "Encounter/@/$everything",
            "Patient/@/$everything?_type=Observation&_count=1",
            "Patient/$everything",
            "Patient/@/$meta",
            "Observation/@-hr/$meta",
            "Observation/$lastn",
            "Composition/@/$document",
            "Patient/@/$summary",
            "Patient/@/$graph",
            "$graphql",
        ] {
            let (status, ..) = self.same(path, "b").await;
            assert!((400..500).contains(&status), "{path} is new: it needs its own test");
        }
        self.leak(14);
        for path in ["$export", "Patient/$export", "Group/@/$export", "$export-poll-status?job=@"] {
            let (status, ..) = self.same_with("GET", &format!("/fhir/{path}"), &[("prefer", "respond-async")], "", "b").await;
            assert!((400..500).contains(&status), "{path} is new: it needs its own test");
        }
        self.leak(16);
        for (body, id) in [
            (json!({ "resourceType": "Binary", "id": "scan", "contentType": "text/plain", "data": "TXVzaGk=" }), "scan"),
            (
                json!({ "resourceType": "Binary", "id": "scan-of-a", "contentType": "text/plain", "data": "TXVzaGk=", "securityContext": { "reference": "Patient/a" } }),
                "scan-of-a",
            ),
        ] {
            self.world.put(holder, &body).await;
            assert_eq!(self.same("Binary/@", id).await.0, 404);
        }
        self.leak(17);
        let contained = json!({ "resourceType": "Observation", "id": "container", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/a" },
            "contained": [{ "resourceType": "Observation", "id": "in", "status": "final", "code": { "text": "y" }, "subject": { "reference": "Patient/b" } }],
            "hasMember": [{ "reference": "#in" }] });
        self.world.put(holder, &contained).await;
        assert_eq!(self.same("Observation/@", "container").await.0, 404);
        let open = json!({ "resourceType": "Organization", "id": "ward", "name": "Ward", "contained": [{ "resourceType": "Patient", "id": "in", "name": [{ "family": "Mushi" }] }],
            "extension": [{ "url": "http://example.org/x", "valueReference": { "reference": "#in" } }] });
        self.world.put(holder, &open).await;
        assert_eq!(self.same("Organization/@", "ward").await.0, 404);
        let bundle = json!({ "resourceType": "Bundle", "id": "doc", "type": "collection", "entry": [{ "resource": observation("in", "b", "8867-4", "2026-03-05", None) }] });
        self.world.put(holder, &bundle).await;
        assert_eq!(self.same("Bundle/@", "doc").await.0, 404);
        self.leak(18);
        for body in [
            json!({ "resourceType": "Location", "id": "bed", "extension": [{ "url": "http://example.org/x", "valueReference": { "reference": "Patient/b", "display": "Mushi" } }] }),
            json!({ "resourceType": "RelatedPerson", "id": "mother", "patient": { "reference": "Patient/a" },
                "extension": [{ "url": "http://example.org/x", "valueReference": { "reference": "Patient/b", "display": "Mushi" } }] }),
            json!({ "resourceType": "Group", "id": "ward-round", "type": "person", "actual": true, "member": [{ "entity": { "reference": "Patient/a", "display": "Mushi" } }] }),
        ] {
            self.world.put(holder, &body).await;
            let path = format!("{}/@", body["resourceType"].as_str().unwrap());
            assert_eq!(self.same(&path, body["id"].as_str().unwrap()).await.0, 404);
        }
        self.leak(25);
        let medicine = json!({ "resourceType": "MedicationRequest", "id": "arv", "status": "active", "intent": "order", "subject": { "reference": "Patient/a" },
            "medicationCodeableConcept": { "coding": [{ "system": "http://www.whocc.no/atc", "code": "J05AR10" }] } });
        self.world.put(holder, &medicine).await;
        assert_eq!(self.same("MedicationRequest/@", "arv").await.0, 404);
        assert_eq!(self.ids("MedicationRequest?_include=*").await, set(&[]));
        self.leak(31);
        let widened = observation("a-hiv", "a", "75622-1", "2026-05-01", None);
        for body in [
            &widened,
            &json!({ "resourceType": "Patient", "id": "b", "link": [{ "other": { "reference": "Patient/a" }, "type": "seealso" }] }),
        ] {
            let path = format!("/fhir/{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap());
            assert_eq!(self.status("PUT", &path, body).await, 409, "{path}");
            let patch = [("content-type", "application/json-patch+json")];
            self.same_with(
                "PATCH",
                &path.replace(body["id"].as_str().unwrap(), "@"),
                &patch,
                r#"[{"op":"remove","path":"/meta/security"}]"#,
                body["id"].as_str().unwrap(),
            )
            .await;
        }
        assert_eq!(self.status("PUT", "/fhir/Consent/own", &consent("own", "b", json!({ "type": "permit" }))).await, 403);
        assert_eq!(
            self.status("PUT", "/fhir/Patient/a", &json!({ "resourceType": "Patient", "id": "a" })).await,
            403,
            "what is seen is told to be another's"
        );
        assert_eq!(self.world.get(holder, "/fhir/Observation/a-hiv").await.0, 200);
        // The owner's own removal of a label that the content calls for puts it back.
        let plain = json!({ "resourceType": "Condition", "id": "hiv", "subject": { "reference": "Patient/a" },
            "code": { "coding": [{ "system": "http://hl7.org/fhir/sid/icd-10", "code": "B20.1" }] } });
        self.world.put(holder, &plain).await;
        assert_eq!(self.world.get(asker, "/fhir/Condition/hiv").await.0, 404);
    }

    /// 13, 19, 20, 22-24, 34, 37, 40: the rest of what can be asked.
    async fn other_ways(&self) {
        let World { server, desk, .. } = &self.world;
        let json_body = [("content-type", "application/fhir+json")];
        self.leak(13);
        for url in ["Observation/@", "Observation?_id=@", "Observation/@/_history", "Patient/@/Observation"] {
            for (kind, hidden) in [("batch", "b-hr"), ("transaction", "a-hiv")] {
                let bundle = json!({ "resourceType": "Bundle", "type": kind, "entry": [{ "request": { "method": "GET", "url": url } }] })
                    .to_string();
                self.same_with("POST", "/fhir", &json_body, &bundle, hidden).await;
            }
        }
        let patch = [("content-type", "application/json-patch+json"), ("prefer", "return=representation")];
        let language = r#"[{"op":"add","path":"/language","value":"sw"}]"#;
        let body = r#"{"resourceType":"Observation","id":"@","status":"final","code":{"text":"x"}}"#;
        for hidden in ["b-hr", "a-hiv"] {
            self.same_with("PATCH", "/fhir/Observation/@", &patch, language, hidden).await;
            self.same_with("PATCH", "/fhir/Observation?_id=@", &patch, language, hidden).await;
            self.same_with("DELETE", "/fhir/Observation?_id=@", &[], "", hidden).await;
            self.same_with("DELETE", "/fhir/Observation/@", &[], "", hidden).await;
            self.same_with("DELETE", "/fhir/Observation/@", &[("if-match", "W/\"1\"")], "", hidden).await;
            self.same_with("PUT", "/fhir/Observation/@", &[json_body[0], ("if-match", "W/\"1\"")], body, hidden).await;
        }
        assert_eq!(self.world.get(&self.world.holder, "/fhir/Observation/b-hr").await.0, 200, "nothing was deleted");
        // If-None-Exist finds what is seen only.
        let create = async |criteria: &str| {
            let headers = [json_body[0], ("if-none-exist", criteria)];
            self.asked("POST", "/fhir/Basic", &headers, r#"{"resourceType":"Basic","code":{"text":"x"}}"#, "-").await.0
        };
        self.world.put(&self.world.holder, &json!({ "resourceType": "Basic", "id": "note", "code": { "text": "x" }, "subject": { "reference": "Patient/b" }, "identifier": [{ "system": "urn:n", "value": "1" }] })).await;
        assert_eq!(create("identifier=urn:n|1").await, 201);
        self.leak(19);
        assert_eq!(self.ids("Consent?patient=Patient/a").await, set(&["c"]), "it names the caller");
        self.world.put(desk, &consent("of-b", "b", json!({ "type": "deny", "securityLabel": [{ "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV" }] }))).await;
        for path in ["Consent/@", "Consent/@/_history", "Consent?_id=@"] {
            self.same(path, "of-b").await;
        }
        assert_eq!(self.ids("Patient?_has:Consent:patient:status=active").await, set(&["a"]));
        for body in [
            json!({ "resourceType": "Provenance", "id": "trace", "recorded": "2026-01-01T00:00:00Z", "target": [{ "reference": "Observation/a-hr" }], "agent": [{ "who": { "reference": "Organization/hf-b" } }] }),
            json!({ "resourceType": "AuditEvent", "id": "look", "recorded": "2026-01-01T00:00:00Z", "type": { "code": "rest" }, "agent": [{ "requestor": true }], "source": { "observer": { "reference": "Organization/hf-b" } } }),
            json!({ "resourceType": "Task", "id": "todo", "status": "requested", "intent": "order", "for": { "reference": "Patient/b" } }),
            json!({ "resourceType": "Communication", "id": "word", "status": "completed", "subject": { "reference": "Patient/b" } }),
            json!({ "resourceType": "Subscription", "id": "feed", "status": "requested", "reason": "x", "criteria": "Observation?patient=b", "channel": { "type": "rest-hook" } }),
        ] {
            let path = format!("/fhir/{}/{}", body["resourceType"].as_str().unwrap(), body["id"].as_str().unwrap());
            let (status, told) = self.world.send(&self.world.holder, "PUT", &path, &body).await;
            assert!(matches!(status, 201 | 400..=499), "{path}: {told}");
            self.same(&format!("{}/@", body["resourceType"].as_str().unwrap()), body["id"].as_str().unwrap()).await;
        }
        self.leak(20);
        for path in [
            "Patient/$match",
            "Patient/$ihe-pix?sourceIdentifier=@",
            "Patient?link=Patient/@",
            "Patient?identifier=@",
            "Organization?_has:Patient:organization:_id=@",
        ] {
            self.same(path, "b").await;
        }
        self.leak(22);
        // Sizes too: headers are compared but for the length, so the body is the whole of it.
        let plain = self.asked("GET", "/fhir/Observation?patient=Patient/b", &[("accept-encoding", "identity")], "", "Patient/b").await;
        let ghost = self.asked("GET", "/fhir/Observation?patient=Patient/x", &[("accept-encoding", "identity")], "", "Patient/x").await;
        assert_eq!(plain.2.len(), ghost.2.len());
        self.leak(23);
        for path in ["/fhir/Observation/a-hr", "/fhir/Observation", "/fhir/Observation/b-hr", "/fhir/_history"] {
            let (_, headers, _) = self.asked("GET", path, &[], "", "-").await;
            assert_eq!(headers["cache-control"], "no-store", "{path}");
            assert!(headers["vary"].to_ascii_lowercase().contains("authorization"), "{path}");
        }
        self.leak(24);
        for (path, hidden) in [
            ("Observation/@?_elements=", "b-hr"),
            ("Observation?_id=@&code=|||", "b-hr"),
            ("Observation?date=never&_id=@", "b-hr"),
            ("Observation?_sort=nothing&_id=@", "b-hr"),
            ("Observation?_cursor=@", "b-hr"),
        ] {
            let (_, _, text) = self.same(path, hidden).await;
            assert!(!text.contains("SELECT") && !text.contains("panicked"), "{path}: {text}");
        }
        self.leak(34);
        let (status, _) = answer(server.client.get(server.url("/fhir/Observation"))).await;
        assert_eq!(status, 401, "nobody is nobody");
        self.leak(37);
        let (_, statement) = self.world.get(&self.world.asker, "/fhir/metadata").await;
        assert_eq!(statement, answer(server.client.get(server.url("/fhir/metadata"))).await.1, "it says the same to everybody");
        let strict = self.asked("GET", "/fhir/Observation?nonsense=1", &[("prefer", "handling=strict")], "", "-").await;
        assert_eq!(strict.0, 400);
        assert_eq!(self.ids("Observation?nonsense=1&code=8867-4").await, set(&["a-hr"]), "what is not known widens nothing");
        self.leak(40);
        let many: Vec<String> = (0..5_000).map(|n| format!("x{n}")).chain(["b-hr".to_owned()]).collect();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let (status, _, text) = self.asked("POST", "/fhir/Observation/_search", &form, &format!("_id={}", many.join(",")), "-").await;
        assert!(matches!(status, 200 | 400 | 413), "{status}");
        assert!(!text.contains("\"fullUrl\""));
        let deep = format!("Observation?{}code=x", "_has:Observation:has-member:".repeat(40));
        assert!(self.asked("GET", &format!("/fhir/{deep}"), &[], "", "-").await.0 < 500);
    }

    /// 15, 26-30, 32, 33, 38, 39: who asks, why and when. These change the Consents: they come last.
    async fn who_why_and_when(&self) {
        let World { server, desk, holder, .. } = &self.world;
        self.leak(28);
        for extension in [
            json!({}),
            json!({ "purpose_of_use": "HPAYMT" }),
            json!({ "purpose_of_use": ["TREAT", "HRESCH"] }),
            json!({ "purpose_of_use": "treat" }),
        ] {
            let token = signed_token(server, "asker", &extension).await;
            assert_eq!(self.world.ids(&token, "/fhir/Observation").await, set(&[]), "{extension}");
        }
        self.leak(29);
        for client in ["other", "district-office"] {
            let token = signed_token(server, client, &json!({ "purpose_of_use": "TREAT" })).await;
            assert_eq!(self.world.ids(&token, "/fhir/Observation").await, set(&[]), "{client}: neither a sibling nor the parent is meant");
        }
        for claim in [
            json!({ "purpose_of_use": "TREAT", "organization_id": "HF-B" }),
            json!({ "purpose_of_use": "TREAT", "organization_id": "HF-A" }),
        ] {
            assert_eq!(ask_signed(server, "other", &claim).await.0, 400, "nobody acts for another");
        }
        self.leak(32);
        for code in ["BTG", "ETREAT"] {
            for client in ["asker", "holder"] {
                let token = signed_token(server, client, &json!({ "purpose_of_use": code, "purpose_of_use_reason": "unconscious" })).await;
                let seen = self.world.ids(&token, "/fhir/Observation?patient=Patient/b").await;
                assert_eq!(seen.is_empty(), client == "asker", "an emergency opens no search: {client} {code}");
            }
        }
        self.leak(33);
        assert_eq!(
            self.world.ids(&signed_token(server, "asker", &json!({ "subject_id": "MCT-1" })).await, "/fhir/Observation").await,
            set(&[])
        );
        self.leak(15);
        self.world.put(holder, &observation("a-second", "a", "8867-4", "2026-03-06", None)).await;
        let (_, page) = self.world.get(&self.world.asker, "/fhir/Observation?code=8867-4&_count=1").await;
        let links = page["link"].as_array().unwrap();
        let next = links.iter().find(|link| link["relation"] == "next").expect("a second page")["url"].as_str().unwrap();
        let next = next.strip_prefix(&server.base).unwrap();
        assert_eq!(self.world.ids_of_page(&self.world.asker, next).await.len(), 1);
        let other = signed_token(server, "other", &json!({ "purpose_of_use": "TREAT" })).await;
        let payer = signed_token(server, "asker", &json!({ "purpose_of_use": "HPAYMT" })).await;
        for token in [&other, &payer, holder] {
            assert_eq!(self.world.get(token, next).await.0, 400, "a page is one caller's, for one purpose");
        }
        self.leak(30);
        // B's identifiers in a feed of the asker's link the two, and open nothing.
        let strong = json!([{ "system": "https://lango.health/id/nida", "value": "19900101-1" }]);
        self.world
            .put(holder, &json!({ "resourceType": "Patient", "id": "b", "name": [{ "family": "Mushi" }], "identifier": strong }))
            .await;
        self.world.put(&self.world.asker, &json!({ "resourceType": "Patient", "id": "bait", "identifier": strong })).await;
        self.same("Observation?patient=@", "b").await;
        assert_eq!(self.ids("Patient?link=Patient/b,Patient/bait").await, set(&[]), "that they are linked is not told");
        // A false link to her who consented opens nothing of his.
        self.world
            .put(holder, &json!({ "resourceType": "Patient", "id": "a", "name": [{ "family": "Mushi" }], "identifier": strong }))
            .await;
        assert_eq!(self.ids("Observation?patient=Patient/b").await, set(&[]), "linked later is not covered");
        self.leak(27);
        self.world.consent("c", json!({ "type": "permit", "period": { "end": "2026-01-31" } })).await;
        assert_eq!(self.ids("Observation").await, set(&[]), "it ended");
        assert_eq!(self.world.ids_of_page(&self.world.asker, next).await, set(&[]), "in mid-paging too");
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(1_500);
        self.world.consent("c", json!({ "type": "permit", "period": { "end": until.to_string() } })).await;
        while !self.ids("Observation?patient=Patient/a").await.is_empty() {
            assert!(jiff::Timestamp::now() < until + jiff::SignedDuration::from_secs(30), "it ends by the clock");
        }
        self.leak(26);
        self.world.consent("c", json!({ "type": "permit" })).await;
        assert!(!self.ids("Observation?patient=Patient/a").await.is_empty());
        assert_eq!(self.world.send(desk, "DELETE", "/fhir/Consent/c", &Value::Null).await.0, 204);
        assert_eq!(self.ids("Observation").await, set(&[]));
        assert_eq!(self.world.ids_of_page(&self.world.asker, next).await, set(&[]));
        self.same("Observation/@", "a-hr").await;
        self.leak(38);
        for event in self.ids("AuditEvent?_count=1000").await {
            let (_, event) = self.world.get(&self.world.asker, &format!("/fhir/AuditEvent/{event}")).await;
            assert!(!event.to_string().contains("HF-A") && !event.to_string().contains("Mushi"), "what others did is not told: {event}");
        }
        self.leak(39);
        for path in ["Patient/$record-lookup", "Patient/@/$record-lookup"] {
            let (status, ..) = self.same(path, "b").await;
            assert!((400..500).contains(&status), "{path} is new: it needs its own test");
        }
    }
}

both_databases!(
    async fn none_of_the_forty(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        leaks.reads_and_searches().await;
        leaks.around_what_is_hidden().await;
        leaks.other_ways().await;
        leaks.who_why_and_when().await;
        assert_eq!(leaks.told.get(), 0);
        assert_eq!(leaks.tried.into_inner(), (1..=40).collect());
    }
);

both_databases!(
    async fn the_past_tells_no_more_than_today(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        let World { holder, desk, asker, .. } = &leaks.world;
        // A label that came later.
        leaks.world.put(holder, &observation("late", "a", "8867-4", "2026-03-05", None)).await;
        assert_eq!(leaks.world.get(asker, "/fhir/Observation/late/_history").await.1["entry"].as_array().unwrap().len(), 1);
        leaks.world.put(holder, &observation("late", "a", "8867-4", "2026-03-05", Some("HIV"))).await;
        leaks.same("Observation/@/_history/1", "late").await;
        assert_eq!(leaks.told.get(), 0);
        // One that went: the version that had it stays hidden, and no total tells of it.
        leaks.world.put(holder, &observation("a-hiv", "a", "8867-4", "2026-05-01", None)).await;
        let (_, history) = leaks.world.get(asker, "/fhir/Observation/a-hiv/_history").await;
        assert_eq!(history["entry"].as_array().unwrap().len(), 1);
        assert!(history.get("total").is_none());
        assert_eq!(leaks.world.get(asker, "/fhir/Observation/a-hiv/_history/1").await.0, 404);
        // Deleted and made again: the delete is its contributor's to know.
        assert_eq!(leaks.world.send(holder, "DELETE", "/fhir/Observation/a-hr", &Value::Null).await.0, 204);
        leaks.world.put(holder, &observation("a-hr", "a", "8867-4", "2026-03-05", None)).await;
        assert_eq!(leaks.world.get(asker, "/fhir/Observation/a-hr/_history/2").await.0, 404);
        assert_eq!(leaks.world.get(holder, "/fhir/Observation/a-hr/_history/2").await.0, 410);
        let (_, all) = leaks.world.get(asker, "/fhir/_history").await;
        assert!(!all.to_string().contains("DELETE"));
        // Whom a Consent named before is not told to whom it names now.
        let permit = |organization: &str| consent("moved", "b", json!({ "type": "permit", "actor": to(organization) }));
        leaks.world.put(desk, &permit("Organization/elsewhere")).await;
        leaks.world.put(desk, &permit("Organization/hf-b")).await;
        assert_eq!(leaks.world.get(asker, "/fhir/Consent/moved").await.0, 200);
        assert_eq!(leaks.world.get(asker, "/fhir/Consent/moved/_history/1").await.0, 404);
        assert_eq!(leaks.world.get(asker, "/fhir/Consent/moved/_history").await.1["entry"].as_array().unwrap().len(), 1);
    }
);

both_databases!(
    async fn a_newer_consent_that_says_nothing_still_replaces_the_older(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        let of_series = |id: &str, date: Option<&str>, provision: Value| {
            let mut consent = consent(id, "b", provision);
            consent["organization"] = json!([{ "reference": "Organization/hf-b" }]);
            match date {
                Some(date) => consent["dateTime"] = json!(date),
                None => _ = consent.as_object_mut().unwrap().remove("dateTime"),
            }
            consent
        };
        let b = set(&["b-hr", "b-hiv"]);
        leaks.world.put(&leaks.world.desk, &of_series("one", Some("2026-01-01"), json!({ "type": "permit" }))).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, b);
        // Nothing in it can be understood, so that it permits nothing.
        let vague = json!({ "type": "permit", "action": [{ "coding": [{ "system": "http://example.org", "code": "dance" }] }] });
        leaks.world.put(&leaks.world.desk, &of_series("two", Some("2026-02-01"), vague)).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, set(&[]));
        leaks.world.put(&leaks.world.desk, &of_series("three", Some("2026-03-01"), json!({ "type": "permit" }))).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, b);
        // Without a date it was given when it came.
        leaks.world.put(&leaks.world.desk, &of_series("four", None, json!({ "type": "deny" }))).await;
        assert_eq!(leaks.ids("Observation?patient=Patient/b").await, set(&[]));
    }
);

both_databases!(
    async fn a_reference_that_no_parameter_knows_counts(db: &TestDb) {
        let leaks = Leaks::new(db).await;
        let World { holder, desk, .. } = &leaks.world;
        let condition = json!({ "resourceType": "Condition", "id": "matter", "subject": { "reference": "Patient/b" }, "code": { "coding": [{ "system": "http://x", "code": "a" }] } });
        leaks.world.put(holder, &condition).await;
        let request = json!({ "resourceType": "MedicationRequest", "id": "for-it", "status": "active", "intent": "order", "subject": { "reference": "Patient/b" },
            "medicationCodeableConcept": { "coding": [{ "system": "http://x", "code": "m" }] }, "reasonReference": [{ "reference": "Condition/matter" }] });
        leaks.world.put(holder, &request).await;
        let data = json!([{ "meaning": "dependents", "reference": { "reference": "Condition/matter" } }]);
        leaks.world.put(desk, &consent("cb", "b", json!({ "type": "permit", "provision": [{ "type": "deny", "data": data }] }))).await;
        assert_eq!(leaks.ids("MedicationRequest").await, set(&[]));
        leaks.world.put(desk, &consent("cb", "b", json!({ "type": "permit", "data": data }))).await;
        assert_eq!(leaks.ids("MedicationRequest").await, set(&["for-it"]));
    }
);
