//! What a client signs about its request, and what follows from it; roles, at once and everywhere.

use crate::access::{Gate, assertion_header, now, sign, with};
use crate::support::program::output;
use crate::support::{TestDb, add_client, both_databases};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use lango::access::clients::{self, Client};
use lango::config::AuthMode;
use lango::store::Store;
use serde_json::{Value, json};

fn key() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../data/keys/es384.pem")).unwrap()
}

/// A client with a registered key and these roles.
async fn add_signer(db: &TestDb, id: &str, roles: &[&str]) {
    let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::ES384).unwrap();
    jwk.common.key_id = Some("ES384".into());
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    let client = Client { jwks: Some(json!({ "keys": [jwk] }).to_string()), roles, ..Client::new(id, "HF-1", "system/*.rs") };
    let store = Store::open(&db.url).await.unwrap();
    clients::add(&store, &client).await.unwrap();
    store.close().await;
}

fn assertion(id: &str, extensions: &Value) -> String {
    let claims = json!({
        "iss": id, "sub": id, "aud": "https://hie.example.org/auth/token", "exp": now() + 240, "jti": uuid::Uuid::new_v4().to_string(),
    });
    sign(&assertion_header(Algorithm::ES384), &with(&claims, "extensions", extensions.clone()), &key())
}

/// What the gate makes of a token that was got with these extensions.
async fn comes_as(gate: &Gate, id: &str, extensions: Value) -> Value {
    let answer = gate.ask_by_assertion(&assertion(id, &extensions)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    gate.with_token(answer.body["access_token"].as_str().unwrap()).await.body
}

both_databases!(
    async fn signed_claims_travel_with_the_token_and_headers_do_not_count(db: &TestDb) {
        add_signer(db, "emr", &["facility", "clinician"]).await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let full = json!({
            "purpose_of_use": ["TREAT", { "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "ETREAT" }],
            "subject_id": "MCT-77", "subject_role": { "system": "http://nucc.org/provider-taxonomy", "code": "207R00000X" },
            "organization_id": "HF-1", "purpose_of_use_reason": "found unconscious",
        });
        for name in ["hl7-b2b", "ihe_iua"] {
            let came = comes_as(&gate, "emr", json!({ name: full })).await;
            let purposes = json!([[null, "TREAT"], ["http://terminology.hl7.org/CodeSystem/v3-ActReason", "ETREAT"]]);
            assert_eq!(came["purposes"], purposes, "several are kept as they are: whoever decides looks at each alone");
            assert_eq!((&came["practitioner"], &came["reason"]), (&json!("MCT-77"), &json!("found unconscious")));
            assert_eq!(came["roles"], json!(["facility", "clinician"]), "a profession narrows nothing");
            assert!(came["expires"].as_i64().unwrap() > now());
        }
        let answer = gate.ask_by_assertion(&assertion("emr", &Value::Null)).await;
        let bearer = format!("Bearer {}", answer.body["access_token"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str()), ("x-purpose-of-use", "TREAT"), ("purpose-of-use", "TREAT")];
        let came = gate.get("/fhir/Patient?purpose_of_use=TREAT", &headers).await.body;
        assert_eq!((&came["purposes"], &came["practitioner"]), (&json!([]), &Value::Null));
    }
);

both_databases!(
    async fn a_claimed_role_or_organisation_only_narrows(db: &TestDb) {
        add_signer(db, "emr", &["facility", "clinician"]).await;
        add_signer(db, "plain", &[]).await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let with_role = |role: &str| json!({ "hl7-b2b": { "purpose_of_use": "BTG", "subject_role": role } });
        assert_eq!(comes_as(&gate, "emr", with_role("clinician")).await["roles"], json!(["clinician"]));
        assert_eq!(comes_as(&gate, "emr", with_role("facility")).await["roles"], json!(["facility"]));
        assert_eq!(comes_as(&gate, "emr", with_role("operator")).await["roles"], json!([]));
        assert_eq!(comes_as(&gate, "plain", with_role("clinician")).await["roles"], json!([]));
        assert_eq!(comes_as(&gate, "plain", Value::Null).await["roles"], json!(["facility"]), "what a client without a role is");
        let came = comes_as(&gate, "emr", json!({ "hl7-b2b": { "organization_id": "HF-1" } })).await;
        assert_eq!((&came["organization"], &came["facility"]), (&json!("HF-1"), &json!("HF-1")));
        for wrong in [
            json!({ "hl7-b2b": { "organization_id": "HF-2" } }),
            json!({ "hl7-b2b": { "purpose_of_use": 7 } }),
            json!({ "hl7-b2b": { "purpose_of_use": "TREAT" }, "ihe_iua": { "purpose_of_use": "BTG" } }),
            json!(["TREAT"]),
        ] {
            let answer = gate.ask_by_assertion(&assertion("emr", &wrong)).await;
            assert_eq!((answer.status, &answer.body["error"]), (400, &json!("invalid_grant")), "{wrong}");
        }
    }
);

both_databases!(
    async fn a_secret_signs_nothing_so_it_claims_nothing(db: &TestDb) {
        let secret = add_client(db, "emr", "HF-1", "system/*.rs").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "emr"),
            ("client_secret", secret.as_str()),
            ("purpose_of_use", "TREAT"),
            ("extensions", r#"{"hl7-b2b":{"purpose_of_use":"TREAT"}}"#),
        ];
        let token = gate.ask_token(&form, None).await.body["access_token"].as_str().unwrap().to_owned();
        assert_eq!(gate.with_token(&token).await.body["purposes"], json!([]));
    }
);

both_databases!(
    async fn a_client_that_the_command_adds_comes_in_at_once_with_its_roles(db: &TestDb) {
        let gate = Gate::new(db, AuthMode::Smart).await;
        let add = |id: &'static str, roles: &[&'static str]| {
            let roles = roles.iter().flat_map(|role| ["--role", role]);
            let words: Vec<&str> =
                ["client", "add", id, "--facility", "not-known-yet", "--scope", "system/*.rs"].into_iter().chain(roles).collect();
            output(db, &words)
        };
        let (code, secret, words) = add("desk", &["consent-recorder", "registry"]);
        assert_eq!(code, Some(0), "{words}");
        let token = gate.token("desk", secret.trim()).await;
        let came = gate.with_token(&token).await.body;
        assert_eq!((&came["roles"], &came["facility"]), (&json!(["consent-recorder", "registry"]), &json!("not-known-yet")));
        let (code, _, words) = add("other", &["superuser"]);
        assert_eq!(code, Some(2), "{words}");
        assert!(words.contains("consent-recorder"), "it says which roles there are: {words}");
    }
);
