//! SMART App Launch for people: whose record an app sees, who logged in, and what is promised.

use crate::lookup::{World, ids, observation, patient};
use crate::support::both_databases;
use crate::support::eventually;
use crate::support::guarded::{Guarded, set};
use crate::support::login::{Browser, add_portal, sent_back, step, user};
use crate::support::server::answer;
use crate::support::smart::{add_signing_client, signed_token};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use lango::access::clients::{self, Client};
use lango::access::people::{self, Person};
use lango::access::{generate_secret, hash_secret};
use lango::store::Store;
use serde_json::{Value, json};

const SCOPES: &str = "openid fhirUser launch/patient patient/*.rs user/*.rs offline_access";

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}"))
}

/// The claims of an id_token, verified with the keys that the server serves.
async fn claims(world: &World, id_token: &str) -> Value {
    let (_, discovered) = world.server.get("/.well-known/openid-configuration").await;
    assert_eq!(text(&discovered, "issuer"), world.server.base);
    let (_, keys) = answer(world.server.client.get(text(&discovered, "jwks_uri"))).await;
    let keys: JwkSet = serde_json::from_value(keys).unwrap();
    let header = jsonwebtoken::decode_header(id_token).unwrap();
    assert!(discovered["id_token_signing_alg_values_supported"].as_array().unwrap().contains(&json!("RS256")));
    let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::RS256);
    // Numbers keep their digits in this build, which the library's own checks do not understand.
    (validation.validate_exp, validation.validate_aud) = (false, false);
    validation.required_spec_claims.clear();
    jsonwebtoken::decode::<Value>(id_token, &key, &validation).unwrap().claims
}

both_databases!(
    async fn a_patient_sees_their_record_of_all_facilities_that_an_operator_saw_linked(db: &TestDb) {
        let world = World::new(db).await;
        add_portal(db, SCOPES).await;
        user(db, &["add", "asha", "--facility", "HF-A", "--patient", "a"]);
        let browser = Browser::at(&world.server);
        let granted = browser.granted("asha", SCOPES, "").await;
        assert_eq!(text(&granted, "patient"), world.golden, "who stands for all");
        assert_eq!(text(&granted, "scope"), "patient/*.rs user/*.rs openid fhirUser launch/patient offline_access");
        let token = text(&granted, "access_token");
        let all = ["a-hr", "a-psy", "c-hr", "c-psy"];
        for search in
            [format!("Observation?patient={}", world.golden), "Observation".into(), "Observation?subject=Patient/a,Patient/c".into()]
        {
            let (status, found) = world.get(token, &format!("/fhir/{search}")).await;
            assert_eq!((status, ids(&found)), (200, set(&all)), "{search}");
        }
        for (path, status) in [
            (format!("Patient/{}", world.golden), 200),
            ("Patient/a".into(), 200),
            ("Patient/c".into(), 200),
            ("Observation/c-psy".into(), 200),
            (format!("Patient/{}/$disclosures", world.golden), 200),
            ("Patient/z".into(), 404),
            ("Observation/z-hr".into(), 404),
            ("Patient/z/$disclosures".into(), 403),
        ] {
            assert_eq!(world.get(token, &format!("/fhir/{path}")).await.0, status, "{path}");
        }
        // What they allowed is theirs to see, whoever recorded it; what others allowed is not.
        world.consent("k-a", "a", json!({ "type": "permit" })).await;
        world.consent("k-z", "z", json!({ "type": "permit" })).await;
        assert_eq!(ids(&world.get(token, "/fhir/Consent").await.1), set(&["k-a"]));
        assert_eq!((world.get(token, "/fhir/Consent/k-a").await.0, world.get(token, "/fhir/Consent/k-z").await.0), (200, 404));

        // What a facility links afterwards opens nothing before an operator has looked.
        add_signing_client(db, "d", "HF-D", "").await;
        let feeder = signed_token(&world.server, "d", &json!({})).await;
        world.put(&feeder, &patient("d", "19900101-1")).await;
        world.put(&feeder, &observation("d-hr", "d", None)).await;
        assert_eq!(world.get(token, "/fhir/Observation/d-hr").await.0, 404);
        user(db, &["link", "asha"]);
        assert_eq!(world.get(token, "/fhir/Observation/d-hr").await.0, 200, "at once, with the same token");
        assert_eq!(world.get(&world.asker, "/fhir/Observation/d-hr").await.0, 404, "which opens it to nobody else");
        // And what is not linked any more is closed when somebody has looked.
        world.put(&feeder, &patient("d", "20000101-3")).await;
        user(db, &["link", "asha"]);
        assert_eq!(world.get(token, "/fhir/Observation/d-hr").await.0, 404);
        assert_eq!(world.get(token, "/fhir/Observation/c-hr").await.0, 200);
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_acts_for_several_chooses_one_and_sees_nothing_that_was_said_in_confidence(db: &TestDb) {
        let world = World::new(db).await;
        add_portal(db, SCOPES).await;
        user(db, &["add", "mama", "--facility", "HF-A", "--acts-for", "a", "--acts-for", "z"]);
        let mut named = patient("z", "19700101-9");
        named["name"] = json!([{ "given": ["Zuri"], "family": "<b>" }]);
        world.put(world.token("a"), &named).await;
        let browser = Browser::at(&world.server);
        let (page, cookie) = browser.logs_in("mama", SCOPES, &[]).await;
        assert!(
            page.contains("Whose record?") && page.contains("<bdi>Zuri &#60;b&#62;, born 1990-01-01</bdi>") && !page.contains("<b>"),
            "{page}"
        );
        assert!(!page.contains("checked"), "nobody is chosen for her: {page}");
        assert_eq!(browser.agrees(&page, &cookie, "c").await["error"], json!("access_denied"), "none of hers");
        let granted = browser.granted("mama", SCOPES, "z").await;
        let token = text(&granted, "access_token");
        assert_eq!(text(&granted, "patient"), "z");
        assert!(!text(&granted, "scope").contains("fhirUser"), "no resource says who she is: {granted}");
        assert_eq!(claims(&world, text(&granted, "id_token")).await.get("fhirUser"), None);
        assert_eq!(ids(&world.get(token, "/fhir/Observation").await.1), set(&["z-hr"]), "though her facility sent what is restricted");
        // Nor who saw it, or what they asked for: that would name what is restricted.
        for (path, status) in
            [("Patient/z", 200), ("Patient/z/$disclosures", 403), ("Observation/z-psy", 404), ("Patient/a", 404), ("Observation/c-hr", 404)]
        {
            assert_eq!(world.get(token, &format!("/fhir/{path}")).await.0, status, "{path}");
        }
        // Of the other one, both Patients.
        let other = browser.granted("mama", SCOPES, &world.golden).await;
        assert_eq!(ids(&world.get(text(&other, "access_token"), "/fhir/Observation").await.1), set(&["a-hr", "c-hr"]));
        // When she acts for nobody any more, tokens and grants are worthless.
        let store = Store::open(&db.url).await.unwrap();
        let person = people::find(&store, "mama").await.unwrap().unwrap();
        people::set_patients(&store, &Person { acts_for: Vec::new(), ..person }).await.unwrap();
        store.close().await;
        assert_eq!(world.get(token, "/fhir/Patient/z").await.0, 401);
        world.server.stop().await;
    }
);

both_databases!(
    async fn an_app_learns_who_logged_in_and_only_what_is_offered_is_promised(db: &TestDb) {
        let world = World::new(db).await;
        add_portal(db, SCOPES).await;
        user(db, &["add", "baraka", "--facility", "HF-A", "--patient", "z"]);
        user(db, &["add", "asha", "--facility", "HF-A", "--role", "clinician", "--practitioner", "MCT-7"]);
        let browser = Browser::at(&world.server);
        let before = jiff::Timestamp::now().as_second();
        let granted = browser.granted("baraka", SCOPES, "").await;
        let told = claims(&world, text(&granted, "id_token")).await;
        let user_url = world.server.url("/fhir/Patient/z");
        assert_eq!([&told["iss"], &told["sub"], &told["aud"]], [&json!(world.server.base), &json!("baraka"), &json!("portal")]);
        assert_eq!((text(&told, "nonce"), text(&told, "fhirUser")), ("n-1", user_url.as_str()));
        let times = ["iat", "auth_time", "exp"].map(|name| told[name].as_i64().unwrap());
        assert!(times[0] >= before && times[1] >= before && times[2] <= times[0] + 300, "{told}");
        assert_eq!(world.get(text(&granted, "id_token"), "/fhir/Patient/z").await.0, 401, "it says who, and opens nothing");
        assert_eq!(world.get(text(&granted, "access_token"), "/fhir/Patient/z").await.0, 200);
        // Whoever introspects the token is told what the app was (SMART's token introspection).
        let secret = generate_secret().unwrap();
        let officer = Client {
            roles: vec!["operator".into()],
            secret_hash: Some(hash_secret(&secret).unwrap()),
            ..Client::new("introspector", "MOH", "system/AuditEvent.rs")
        };
        let store = Store::open(&db.url).await.unwrap();
        clients::add(&store, &officer).await.unwrap();
        store.close().await;
        let form = format!("client_id=introspector&client_secret={}&token={}", secret.expose(), text(&granted, "access_token"));
        let request = world.server.client.post(world.server.url("/auth/introspect"));
        let (_, told) = answer(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await;
        assert_eq!((&told["patient"], &told["need_patient_banner"]), (&granted["patient"], &granted["need_patient_banner"]), "{told}");
        assert_eq!((text(&told, "sub"), text(&told, "fhirUser")), ("baraka", user_url.as_str()));
        // Who refreshes is told the same, and the patient in context stays.
        let form = format!("grant_type=refresh_token&client_id=portal&refresh_token={}", text(&granted, "refresh_token"));
        let request = world.server.client.post(world.server.url("/auth/token"));
        let (_, again) = answer(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await;
        assert_eq!((text(&again, "patient"), text(&claims(&world, text(&again, "id_token")).await, "sub")), ("z", "baraka"));
        // A clinician is the Practitioner of that number, once there is one.
        let nobody = browser.granted("asha", SCOPES, "").await;
        assert_eq!((text(&nobody, "scope"), nobody.get("patient")), ("user/*.rs openid offline_access", None));
        let identifier = json!([{ "system": "urn:lango:practitioner", "value": "MCT-7" }]);
        let practitioner = json!({ "resourceType": "Practitioner", "id": "dr-asha", "identifier": identifier });
        world.put(world.token("registry"), &practitioner).await;
        let told = eventually("the directory is asked again", async || {
            let granted = browser.granted("asha", SCOPES, "").await;
            let told = claims(&world, text(&granted, "id_token")).await;
            told["fhirUser"].as_str().map(str::to_owned).ok_or(granted)
        })
        .await;
        assert_eq!(told, world.server.url("/fhir/Practitioner/dr-asha"));
        assert_eq!(browser.granted("asha", "user/*.rs", "").await.get("id_token"), None, "who does not ask is not told");
        // An app that only wants to know who somebody is gets no right with that.
        let only = browser.granted("baraka", "openid fhirUser", "").await;
        let told = claims(&world, text(&only, "id_token")).await;
        assert_eq!((text(&only, "scope"), text(&told, "sub"), text(&told, "fhirUser")), ("openid fhirUser", "baraka", user_url.as_str()));
        assert_eq!(world.get(text(&only, "access_token"), "/fhir/Patient/z").await.0, 403);

        // No EHR launches apps here, and nobody says so.
        let refused = sent_back(&browser.begins(SCOPES, &[("launch", "xyz")]).await);
        assert_eq!(text(&refused, "error"), "invalid_request");
        let (_, promised) = world.server.get("/fhir/.well-known/smart-configuration").await;
        let capabilities: Vec<&str> = promised["capabilities"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        for (capability, there) in [
            ("launch-standalone", true),
            ("context-standalone-patient", true),
            ("sso-openid-connect", true),
            ("launch-ehr", false),
            ("context-ehr-patient", false),
            ("context-style", false),
            ("client-confidential-asymmetric", true),
        ] {
            assert_eq!(capabilities.contains(&capability), there, "{capability}");
        }
        assert!(!promised["scopes_supported"].as_array().unwrap().contains(&json!("launch")));
        assert_eq!(promised["authorization_response_iss_parameter_supported"], json!(true));
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_clinician_picks_whose_record_the_app_shows(db: &TestDb) {
        const ASKED: &str = "launch/patient patient/*.rs offline_access";
        let world = World::new(db).await;
        add_portal(db, &format!("{SCOPES} user/Patient.rs")).await;
        user(db, &["add", "asha", "--facility", "HF-A", "--role", "clinician"]);
        // Consents are for purposes, and the app has signed none yet.
        world.consent("k-a", "a", json!({ "type": "permit" })).await;
        let browser = Browser::at(&world.server);
        let (page, cookie) = browser.logs_in("asha", ASKED, &[]).await;
        assert!(page.contains("Which patient?") && !page.contains("Mushi"), "{page}");
        let search = async |sought: &str| browser.at_patients(&page, &cookie, &[("decision", "search"), ("sought", sought)]).await;
        let shown = |page: &str| -> Vec<String> {
            let ids = page.split("name=\"patient\" value=\"").skip(1).filter_map(|rest| rest.split('"').next());
            ids.map(str::to_owned).collect()
        };
        assert_eq!(shown(&search("mushi").await), ["a", "z"], "whom their facility sent, and nobody else");
        assert_eq!(shown(&search("19900101-1").await), ["a"]);
        for nobody in ["asha", "19900101", "mushi,z", "m", "<b>", "*"] {
            let page = search(nobody).await;
            assert!(shown(&page).is_empty() && !page.contains("<b>"), "{page}");
        }
        // What is not on the page cannot be picked.
        for foreign in ["c", "nobody", "../Observation/a-hr", "a?_elements=id", ""] {
            let page = browser.at_patients(&page, &cookie, &[("decision", "pick"), ("patient", foreign)]).await;
            assert!(page.contains("There is no such patient") && !page.contains("Whose record"), "{foreign}: {page}");
        }
        let chosen = browser.at_patients(&search("mushi").await, &cookie, &[("decision", "pick"), ("patient", "a")]).await;
        assert!(chosen.contains("Whose record: <bdi><strong>Mushi, born 1990-01-01, 19900101-1</strong></bdi>"), "{chosen}");
        let told = browser.agrees(&chosen, &cookie, "z").await;
        let (status, granted) = browser.redeems(text(&told, "code")).await;
        assert_eq!((status, text(&granted, "patient"), text(&granted, "scope")), (200, "a", "patient/*.rs launch/patient offline_access"));
        let token = text(&granted, "access_token");
        assert_eq!(ids(&world.get(token, "/fhir/Observation").await.1), set(&["a-hr", "a-psy"]));
        for (path, status) in [("Patient/a", 200), ("Patient/z", 404), ("Observation/z-hr", 404), ("Observation/c-hr", 404)] {
            assert_eq!(world.get(token, &format!("/fhir/{path}")).await.0, status, "{path}");
        }
        assert_eq!(world.get(token, "/fhir/Patient/a/$disclosures").await.0, 403, "they are not the patient");
        // Another's page, and the page of another login, are worth nothing.
        let other =
            browser.submits("/auth/patient", "lango-login=x", &[("step", step(&page)), ("decision", "search"), ("sought", "mushi")]).await;
        assert_eq!(other.status(), 400);
        // Without a patient, or not at all.
        assert!(!page.contains("Go on without a patient"), "nothing would be left: {page}");
        let without = browser.at_patients(&page, &cookie, &[("decision", "none")]).await;
        assert!(without.contains("asks for nothing that you can give") && !without.contains("value=\"allow\""), "{without}");
        assert_eq!(browser.agrees(&without, &cookie, "a").await["error"], json!("access_denied"), "nothing that was asked for is left");
        let refused = browser.submits("/auth/patient", &cookie, &[("step", step(&page)), ("decision", "deny")]).await;
        assert_eq!(sent_back(&refused)["error"], json!("access_denied"));
        // `user/` scopes reach as far as without a patient.
        let wide = "launch/patient user/Patient.rs";
        let (page, cookie) = browser.logs_in("asha", wide, &[]).await;
        assert!(page.contains("Go on without a patient"), "{page}");
        let chosen = browser.at_patients(&page, &cookie, &[("decision", "pick"), ("patient", "a")]).await;
        let (_, wide) = browser.redeems(text(&browser.agrees(&chosen, &cookie, "").await, "code")).await;
        assert_eq!(ids(&world.get(text(&wide, "access_token"), "/fhir/Patient").await.1), set(&["a", "z"]));
        // Who was shown is on record: both by the search, in the name of who searched.
        for patient in ["a", "z"] {
            eventually("it is recorded", async || {
                let (_, seen) = world.get(world.token("operator"), &format!("/fhir/Patient/{patient}/$disclosures")).await;
                if seen.to_string().contains("portal") && seen.to_string().contains("asha") { Ok(()) } else { Err(seen) }
            })
            .await;
        }
        // A pick is not kept by who logs in for patients from now on.
        let store = Store::open(&db.url).await.unwrap();
        let person = people::find(&store, "asha").await.unwrap().unwrap();
        people::set_patients(&store, &Person { patient: Some("z".into()), ..person }).await.unwrap();
        store.close().await;
        assert_eq!(world.get(token, "/fhir/Patient/a").await.0, 401);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_code_is_worth_nothing_where_the_app_is_not_sent_back_to_any_more(db: &TestDb) {
        let world = World::new(db).await;
        add_portal(db, SCOPES).await;
        user(db, &["add", "baraka", "--facility", "HF-A", "--patient", "z"]);
        let browser = Browser::at(&world.server);
        let (page, cookie) = browser.logs_in("baraka", "patient/*.rs launch/patient", &[]).await;
        let told = browser.agrees(&page, &cookie, "").await;
        let store = Store::open(&db.url).await.unwrap();
        let before = clients::find(&store, "portal").await.unwrap().unwrap();
        let moved = Client { redirect_uris: vec!["https://elsewhere.example.org/back".into()], ..before.clone() };
        clients::replace(&store, &before, &moved).await.unwrap();
        let (status, refused) = browser.redeems(text(&told, "code")).await;
        assert_eq!((status, text(&refused, "error")), (400, "invalid_grant"));
        store.close().await;
        world.server.stop().await;
    }
);
