//! Attacks on signed tokens that `access.rs` does not hold: keys from elsewhere, other issuers, key sets that change or lie.

use crate::access::{Gate, assemble, assertion_header, now, sign, with};
use crate::support::program::output;
use crate::support::{TestDb, add_client, both_databases};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lango::access::clients::{self, Client};
use lango::access::{generate_secret, hash_secret};
use lango::config::{AuthMode, Issuer};
use lango::http::auth::PeerCertificate;
use lango::store::Store;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const HERE: &str = "http://127.0.0.1:9";
/// SHA-256 of a certificate, of 32 bytes `ab`.
const THUMBPRINT: &str = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s";
const ISSUER: &str = "https://keycloak.example.org/realms/hie";

fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../data/keys/es384.pem")).unwrap()
}

fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("../data/keys/rs384.pem")).unwrap()
}

fn stranger() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../data/keys/stranger.pem")).unwrap()
}

fn public(key: &EncodingKey, algorithm: Algorithm, id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).unwrap();
    jwk.common.key_id = Some(id.to_owned());
    serde_json::to_value(jwk).unwrap()
}

/// An address that serves a key set, or fails, as a test tells it to.
struct KeyServer {
    url: String,
    answer: Arc<Mutex<(u16, String, String)>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(keys: Vec<Value>) -> KeyServer {
        let answer = Arc::new(Mutex::new((200, json!({ "keys": keys }).to_string(), "max-age=0".to_owned())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (shared, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let app = Router::new().route(
            "/jwks",
            get(move || async move {
                count.fetch_add(1, Ordering::SeqCst);
                let (status, body, cache) = shared.lock().unwrap().clone();
                (StatusCode::from_u16(status).unwrap(), [("cache-control", cache), ("location", "/jwks".to_owned())], body)
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        KeyServer { url, answer, asked }
    }

    fn says(&self, status: u16, keys: &[Value], cache: &str) {
        *self.answer.lock().unwrap() = (status, json!({ "keys": keys }).to_string(), cache.to_owned());
    }
}

async fn register(db: &TestDb, client: Client) {
    let store = Store::open(&db.url).await.unwrap();
    clients::add(&store, &client).await.unwrap();
    store.close().await;
}

fn assertion_claims(base: &str) -> Value {
    json!({ "iss": "emr", "sub": "emr", "aud": format!("{base}/auth/token"), "exp": now() + 240, "jti": uuid::Uuid::new_v4().to_string() })
}

both_databases!(
    async fn an_assertion_brings_no_key_no_address_and_no_extension(db: &TestDb) {
        let jwks = json!({ "keys": [public(&ec(), Algorithm::ES384, "ES384"), public(&rsa(), Algorithm::RS384, "RS384")] }).to_string();
        register(db, Client { jwks: Some(jwks), ..Client::new("emr", "HF-1", "system/*.rs") }).await;
        let gate = Gate::at(db, AuthMode::Smart, HERE, Vec::new()).await;
        let fresh = || assertion_claims(HERE);
        let attack = |change: &dyn Fn(&mut Header)| {
            let mut header = assertion_header(Algorithm::ES384);
            change(&mut header);
            header
        };
        let own: Jwk = serde_json::from_value(public(&stranger(), Algorithm::ES384, "ES384")).unwrap();
        let mut attacks: Vec<(&str, String)> = vec![
            ("jwk", sign(&attack(&|header| header.jwk = Some(own.clone())), &fresh(), &stranger())),
            ("jku", sign(&attack(&|header| header.jku = Some("https://evil.example/jwks".into())), &fresh(), &ec())),
            ("x5u", sign(&attack(&|header| header.x5u = Some("https://evil.example/x".into())), &fresh(), &ec())),
            ("x5c", sign(&attack(&|header| header.x5c = Some(vec!["MII".into()])), &fresh(), &ec())),
            ("crit", sign(&attack(&|header| header.crit = Some(vec!["exp".into()])), &fresh(), &ec())),
        ];
        for kid in ["", "../../../dev/null", "' UNION SELECT 'x' --", "https://evil.example/jwks", "ES384\0", "es384"] {
            attacks.push(("kid", sign(&attack(&|header| header.kid = Some(kid.into())), &fresh(), &ec())));
        }
        for alg in ["none", "None", "NONE", "nOnE", "noNe "] {
            let header = json!({ "alg": alg, "kid": "ES384", "typ": "JWT" }).to_string();
            attacks.push(("alg none", assemble(&header, &fresh().to_string(), b"")));
        }
        // The RSA public key as a shared secret, in the forms in which a careless verifier would hold it.
        let rsa_public = public(&rsa(), Algorithm::RS384, "RS384");
        let modulus = URL_SAFE_NO_PAD.decode(rsa_public["n"].as_str().unwrap()).unwrap();
        for secret in [rsa_public.to_string().into_bytes(), modulus, rsa_public["n"].as_str().unwrap().as_bytes().to_vec()] {
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let mut header = Header::new(algorithm);
                header.kid = Some("RS384".into());
                attacks.push(("HS with the RSA public key", sign(&header, &fresh(), &EncodingKey::from_secret(&secret))));
            }
        }
        let good_header = json!({ "alg": "ES384", "kid": "ES384" }).to_string();
        for (what, signature) in
            [("no signature", vec![]), ("r = s = 0", vec![0; 96]), ("too short", vec![1; 48]), ("all ones", vec![255; 96])]
        {
            attacks.push((what, assemble(&good_header, &fresh().to_string(), &signature)));
        }
        let doubled = r#"{"alg":"none","alg":"ES384","kid":"ES384"}"#;
        let signed = sign(&assertion_header(Algorithm::ES384), &fresh(), &ec());
        let parts: Vec<&str> = signed.split('.').collect();
        attacks.push(("alg twice", format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(doubled), parts[1], parts[2])));
        attacks.push(("a nested token", sign(&assertion_header(Algorithm::ES384), &json!(signed), &ec())));
        attacks.push(("padding", format!("{signed}=")));
        attacks.push(("1 MB", sign(&assertion_header(Algorithm::ES384), &with(&fresh(), "x", json!("x".repeat(1 << 20))), &ec())));
        for (what, attack) in attacks {
            let answer = gate.ask_by_assertion(&attack).await;
            assert!(matches!(answer.status, 401 | 413), "{what}: {} {}", answer.status, answer.body);
        }
        assert_eq!(gate.ask_by_assertion(&signed).await.status, 200, "what was spoiled above is good");
    }
);

both_databases!(
    async fn exp_must_be_a_whole_number_of_the_next_five_minutes(db: &TestDb) {
        let jwks = json!({ "keys": [public(&ec(), Algorithm::ES384, "ES384")] }).to_string();
        register(db, Client { jwks: Some(jwks), ..Client::new("emr", "HF-1", "system/*.rs") }).await;
        let gate = Gate::at(db, AuthMode::Smart, HERE, Vec::new()).await;
        let soon = now() + 100;
        for wrong in [
            "null".to_owned(),
            format!("\"{soon}\""),
            format!("{soon}.0"),
            format!("{soon}.5"),
            "1e10".to_owned(),
            "99999999999999999999999999".to_owned(),
            "9223372036854775807".to_owned(),
            "-1".to_owned(),
            "0".to_owned(),
            format!("[{soon}]"),
            (now() + 400).to_string(),
            (now() - 60).to_string(),
        ] {
            let text = assertion_claims(HERE).to_string().replacen(&format!("\"exp\":{}", now() + 240), "\"exp\":0", 1);
            let mut claims: Value = serde_json::from_str(&text).unwrap();
            claims["exp"] = serde_json::from_str(&wrong).unwrap();
            let answer = gate.ask_by_assertion(&sign(&assertion_header(Algorithm::ES384), &claims, &ec())).await;
            assert_eq!(answer.status, 401, "exp = {wrong}");
        }
    }
);

both_databases!(
    async fn a_clients_key_set_is_fetched_rotated_and_survives_its_address(db: &TestDb) {
        let (first, second) = (public(&ec(), Algorithm::ES384, "one"), public(&rsa(), Algorithm::RS384, "two"));
        let server = KeyServer::start(vec![first.clone()]).await;
        register(db, Client { jwks_url: Some(server.url.clone()), ..Client::new("emr", "HF-1", "system/*.rs") }).await;
        let gate = Gate::at(db, AuthMode::Smart, HERE, Vec::new()).await;
        let ask = |algorithm: Algorithm, id: &'static str, key_url: Option<String>| {
            let mut header = Header::new(algorithm);
            (header.kid, header.jku) = (Some(id.into()), key_url);
            let key = if algorithm == Algorithm::ES384 { ec() } else { rsa() };
            let assertion = sign(&header, &assertion_claims(HERE), &key);
            let gate = &gate;
            async move { gate.ask_by_assertion(&assertion).await.status }
        };
        assert_eq!(ask(Algorithm::ES384, "one", None).await, 200);
        assert_eq!(ask(Algorithm::ES384, "one", Some(server.url.clone())).await, 200, "the registered address may be named");
        assert_eq!(ask(Algorithm::ES384, "one", Some(format!("{}?x", server.url))).await, 401);
        assert_eq!(ask(Algorithm::RS384, "two", None).await, 401);
        server.says(200, &[first.clone(), second.clone()], "max-age=600");
        assert_eq!(ask(Algorithm::RS384, "two", None).await, 200, "a new key is looked for");
        let asked = server.asked.load(Ordering::SeqCst);
        assert_eq!(ask(Algorithm::ES384, "one", None).await, 200);
        assert_eq!(server.asked.load(Ordering::SeqCst), asked, "what is fresh is not fetched");
        for (status, keys) in [(500, vec![]), (302, vec![]), (200, vec![first.clone(); 10_000])] {
            server.says(status, &keys, "max-age=0");
            assert_eq!(ask(Algorithm::ES384, "unknown", None).await, 401);
            assert_eq!(ask(Algorithm::RS384, "two", None).await, 200, "the old set serves while its address fails with {status}");
        }
        server.says(200, &[first.clone(), public(&stranger(), Algorithm::ES384, "one")], "max-age=0");
        assert_eq!(ask(Algorithm::ES384, "unknown", None).await, 401);
        assert_eq!(ask(Algorithm::ES384, "one", None).await, 401, "two keys of one name are none");
        server.says(200, &[first], "max-age=0");
        assert_eq!(ask(Algorithm::RS384, "two", None).await, 401, "a key that was taken away does not verify");
        // Elsewhere than on loopback such an address would be in the own network.
        let abroad = Gate::new(db, AuthMode::Smart).await;
        let mut header = Header::new(Algorithm::ES384);
        header.kid = Some("one".into());
        let assertion = sign(&header, &assertion_claims("https://hie.example.org"), &ec());
        assert_eq!(abroad.ask_by_assertion(&assertion).await.status, 401);
    }
);

/// The same token with the other signature that ECDSA on P-384 has for it: `n - s` in place of `s`.
fn other_signature(token: &str) -> String {
    const N: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for place in (0..48).rev() {
        let digit = i32::from(u8::from_str_radix(&N[2 * place..2 * place + 2], 16).unwrap()) - i32::from(signature[48 + place]) - borrow;
        borrow = i32::from(digit < 0);
        signature[48 + place] = digit.rem_euclid(256) as u8;
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn outside(url: &str) -> Issuer {
    Issuer {
        issuer: ISSUER.into(),
        jwks_url: url.into(),
        audience: "https://hie.example.org/fhir".into(),
        algorithms: vec!["RS256".into(), "ES384".into()],
        client_claim: "azp".into(),
        patient_claim: "patient".into(),
    }
}

both_databases!(
    async fn an_outside_issuer_vouches_for_its_own_clients_and_within_their_registration(db: &TestDb) {
        let server = KeyServer::start(vec![public(&rsa(), Algorithm::RS256, "k1"), public(&ec(), Algorithm::ES384, "k2")]).await;
        register(
            db,
            Client {
                issuer: Some(ISSUER.into()),
                roles: vec!["clinician".into()],
                ..Client::new("kc-emr", "HF-7", "system/Patient.rs user/Patient.rs patient/Patient.rs")
            },
        )
        .await;
        let secret = add_client(db, "own-emr", "HF-1", "system/*.cruds").await;
        let gate = Gate::at(db, AuthMode::Smart, "https://hie.example.org", vec![outside(&server.url)]).await;
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("k1".into());
        let claims = json!({
            "iss": ISSUER, "aud": ["account", "https://hie.example.org/fhir"], "azp": "kc-emr", "sub": "u-1", "typ": "Bearer",
            "iat": now(), "exp": now() + 300, "scope": "system/*.cruds system/Patient.rs profile",
            "extensions": { "ihe_iua": { "purpose_of_use": [{ "code": "TREAT" }], "subject_id": "MCT-1" } },
        });
        let came = gate.with_token(&sign(&header, &claims, &rsa())).await;
        assert_eq!(came.status, 200, "{}", came.body);
        assert_eq!((&came.body["client"], &came.body["facility"], &came.body["may"]), (&json!("kc-emr"), &json!("HF-7"), &json!("rs")));
        assert_eq!((&came.body["purposes"], &came.body["practitioner"]), (&json!([[null, "TREAT"]]), &json!("MCT-1")));
        assert_eq!(came.body["roles"], json!(["clinician"]));
        let person = with(&claims, "scope", json!("user/Patient.rs"));
        let came = gate.with_token(&sign(&header, &person, &rsa())).await.body;
        assert_eq!((&came["person"], &came["may"]), (&json!(format!("{ISSUER}#u-1")), &json!("rs")));
        let of_patient = with(&claims, "scope", json!("patient/Patient.rs"));
        assert_eq!(gate.with_token(&sign(&header, &of_patient, &rsa())).await.status, 401, "a missing context is no freedom");
        let named = with(&of_patient, "patient", json!("p1"));
        assert_eq!(gate.with_token(&sign(&header, &named, &rsa())).await.body["patient"], json!("p1"));

        let mut forged: Vec<(String, String)> = Vec::new();
        for (name, values) in [
            (
                "iss",
                vec![
                    json!(format!("{ISSUER}/")),
                    json!("https://keycloak.example.org/realms/hie2"),
                    json!("https://hie.example.org"),
                    Value::Null,
                ],
            ),
            ("aud", vec![Value::Null, json!("account"), json!("https://hie.example.org/fhir/"), json!(["https://hie.example.org"])]),
            ("azp", vec![Value::Null, json!("own-emr"), json!("nobody"), json!(["kc-emr"])]),
            ("typ", vec![json!("ID"), json!("Refresh"), json!(1)]),
            (
                "cnf",
                vec![json!("x"), json!({}), json!({ "jkt": THUMBPRINT }), json!({ "x5t#S256": "x" }), json!({ "x5t#S256": THUMBPRINT })],
            ),
            ("cnf", vec![json!({ "x5t#S256": THUMBPRINT, "jkt": THUMBPRINT })]),
            ("iat", vec![json!(now() - 25 * 3600)]),
            ("at_hash", vec![json!("x")]),
            ("exp", vec![Value::Null, json!(now() - 60), json!("9999999999"), json!(9999999999.5)]),
            ("nbf", vec![json!(now() + 120)]),
            ("scope", vec![Value::Null, json!(["system/*.*"])]),
            ("extensions", vec![json!("TREAT"), json!({ "hl7-b2b": { "organization_id": "HF-1" } })]),
        ] {
            forged
                .extend(values.into_iter().map(|value| (format!("{name} = {value}"), sign(&header, &with(&claims, name, value), &rsa()))));
        }
        let identity = with(&with(&claims, "typ", Value::Null), "nonce", json!("x"));
        forged.push(("an identity token".into(), sign(&header, &identity, &rsa())));
        forged.push(("no patient".into(), sign(&header, &with(&of_patient, "patient", json!("Practitioner/p1")), &rsa())));
        let mut other = header.clone();
        (other.alg, other.kid) = (Algorithm::ES384, Some("k1".into()));
        forged.push(("a stranger under the same kid".into(), sign(&other, &claims, &stranger())));
        other.kid = Some("k2".into());
        forged.push(("a stranger under another kid".into(), sign(&other, &claims, &stranger())));
        let mut wrong_algorithm = header.clone();
        wrong_algorithm.alg = Algorithm::RS512;
        forged.push(("an algorithm that is not allowed".into(), sign(&wrong_algorithm, &claims, &rsa())));
        let mut hmac = header.clone();
        hmac.alg = Algorithm::HS256;
        let shared = public(&rsa(), Algorithm::RS256, "k1").to_string();
        forged.push(("HS256 with the public key".into(), sign(&hmac, &claims, &EncodingKey::from_secret(shared.as_bytes()))));
        let mut typed = header.clone();
        typed.typ = Some("logout+jwt".into());
        forged.push(("another type".into(), sign(&typed, &claims, &rsa())));
        let mut brought = header.clone();
        brought.jku = Some(server.url.clone());
        forged.push(("an address of keys".into(), sign(&brought, &claims, &rsa())));
        for (what, token) in forged {
            assert_eq!(gate.with_token(&token).await.status, 401, "{what}");
        }
        // Keycloak puts the login's nonce into access tokens too, and says that they are some.
        assert_eq!(gate.with_token(&sign(&header, &with(&claims, "nonce", json!("x")), &rsa())).await.status, 200);
        let referred = with(&of_patient, "patient", json!("Patient/p1"));
        assert_eq!(gate.with_token(&sign(&header, &referred, &rsa())).await.body["patient"], json!("p1"));
        // RFC 8705: what is bound to a certificate is good on its connections.
        let bound = sign(&header, &with(&claims, "cnf", json!({ "x5t#S256": THUMBPRINT })), &rsa());
        for (certificate, status) in [("ab".repeat(32), 200), ("cd".repeat(32), 401)] {
            let request = Request::get("/fhir/Patient").header("authorization", format!("Bearer {bound}"));
            let request = request.extension(PeerCertificate(certificate.into()));
            assert_eq!(gate.send(request.body(Body::empty()).unwrap()).await.status, status);
        }
        // It counts for a day at most, whatever it says.
        let long = gate.with_token(&sign(&header, &with(&claims, "exp", json!(now() + 1_000_000_000)), &rsa())).await;
        assert!(long.body["expires"].as_i64().unwrap() <= now() + 24 * 3600, "{}", long.body);
        let undated = |exp: i64| {
            let mut undated = with(&claims, "exp", json!(exp));
            undated.as_object_mut().unwrap().remove("iat");
            sign(&header, &undated, &rsa())
        };
        assert_eq!(gate.with_token(&undated(now() + 300)).await.status, 200);
        assert_eq!(gate.with_token(&undated(now() + 1_000_000_000)).await.status, 401, "its day would never end");
        // The operator takes back what its issuer cannot, and a key that the issuer took out of its set verifies nothing, seen before or not.
        let officer = generate_secret().unwrap();
        let hash = Some(hash_secret(&officer).unwrap());
        register(db, Client { roles: vec!["operator".into()], secret_hash: hash, ..Client::new("officer", "MOH", "system/AuditEvent.rs") })
            .await;
        let (lost, kept) =
            (sign(&header, &with(&claims, "jti", json!("1")), &rsa()), sign(&header, &with(&claims, "jti", json!("2")), &rsa()));
        assert_eq!((gate.with_token(&lost).await.status, gate.with_token(&kept).await.status), (200, 200));
        let take_back = |token: &str| {
            let form = [("client_id", "officer"), ("client_secret", officer.expose()), ("token", token)];
            let form: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
            let request = Request::post("/auth/revoke").header("content-type", "application/x-www-form-urlencoded");
            gate.send(request.body(Body::from(form)).unwrap())
        };
        assert_eq!(take_back(&lost).await.status, 200);
        assert_eq!((gate.with_token(&lost).await.status, gate.with_token(&kept).await.status), (401, 200));
        let mut elliptic = Header::new(Algorithm::ES384);
        elliptic.kid = Some("k2".into());
        let lost = sign(&elliptic, &claims, &ec());
        let twin = other_signature(&lost);
        assert_eq!((gate.with_token(&lost).await.status, gate.with_token(&twin).await.status), (200, 200));
        assert_eq!(take_back(&lost).await.status, 200);
        assert_eq!((gate.with_token(&lost).await.status, gate.with_token(&twin).await.status), (401, 401), "a thief has both");
        server.says(200, &[public(&ec(), Algorithm::ES384, "k2")], "max-age=0");
        assert_eq!(gate.with_token(&kept).await.status, 401);
        // lango's own tokens stay its own, and an outside client gets none of them.
        assert_eq!(gate.with_token(&gate.token("own-emr", &secret).await).await.body["client"], json!("own-emr"));
        let form = [("grant_type", "client_credentials"), ("client_id", "kc-emr"), ("client_secret", "")];
        assert_eq!(gate.ask_token(&form, None).await.status, 401);
        let without = Gate::new(db, AuthMode::Smart).await;
        assert_eq!(without.with_token(&sign(&header, &claims, &rsa())).await.status, 401, "an issuer that is not configured");
    }
);

both_databases!(
    async fn scopes_are_separated_by_one_space_and_unknown_ones_give_nothing(db: &TestDb) {
        let secret = add_client(db, "emr", "HF-1", "system/Patient.rs").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        for (asked, granted) in [
            ("system/Patient.rs", Some("system/Patient.rs")),
            ("system/Patient.r  system/Patient.s", Some("system/Patient.r system/Patient.s")),
            ("system/Patient.r\tsystem/Patient.s", None),
            ("system/Patient.rs?x", None),
            ("patient/*.rs?x", None),
            ("patient/Patient.rs", None),
            ("user/Patient.rs", None),
            ("system/Patient.sr", None),
            ("system/Patient.rs\u{a0}system/Patient.c", None),
        ] {
            let form = [("grant_type", "client_credentials"), ("client_id", "emr"), ("client_secret", secret.as_str()), ("scope", asked)];
            let answer = gate.ask_token(&form, None).await;
            assert_eq!(answer.body["scope"].as_str(), granted, "{asked:?}");
            assert_eq!(answer.status, if granted.is_some() { 200 } else { 400 }, "{asked:?}");
        }
        // What is registered for all types is for those that there are.
        let secret = add_client(db, "wide", "HF-1", "system/*.cruds").await;
        for (asked, granted) in
            [("system/Nothing.rs", None), ("system/Resource.rs", None), ("system/Nothing.rs system/Patient.rs", Some("system/Patient.rs"))]
        {
            let form = [("grant_type", "client_credentials"), ("client_id", "wide"), ("client_secret", secret.as_str()), ("scope", asked)];
            let answer = gate.ask_token(&form, None).await;
            assert_eq!(answer.body["scope"].as_str(), granted, "{asked:?}");
            assert_eq!(answer.body["error"].as_str(), if granted.is_none() { Some("invalid_scope") } else { None }, "{asked:?}");
        }
        let store = Store::open(&db.url).await.unwrap();
        let unknown = Client::new("nothing", "HF-1", "system/Nothing.rs");
        assert!(matches!(clients::add(&store, &unknown).await, Err(clients::ClientError::Scope(_))));
        store.close().await;
    }
);

both_databases!(
    async fn a_key_set_that_must_not_be_fetched_is_refused_when_the_client_is_added(db: &TestDb) {
        let add = |id: &str, url: &str| {
            let arguments = ["client", "add", id, "--facility", "HF-1", "--scope", "system/*.rs", "--jwks-url", url];
            output(db, &arguments)
        };
        for url in [
            "file:///etc/passwd",
            "file://localhost/etc/passwd",
            "ftp://keys.example.org/jwks",
            "http://keys.example.org/jwks",
            "https://10.0.0.1/jwks",
            "https://169.254.169.254/latest",
            "https://[fd00::1]/jwks",
            "https://user:word@keys.example.org/jwks",
            "not a URL",
        ] {
            let (code, _, said) = add("emr", url);
            assert!(code != Some(0) && said.contains("key set"), "{url}: {code:?} {said}");
            assert!(!said.contains("passwd") && !said.contains("word@"), "{said}");
        }
        assert_eq!(add("emr", "https://keys.example.org/jwks").0, Some(0));
    }
);
