//! Who gets in and as whom, and the attacks on it.

use crate::support::server::answer;
use crate::support::{TestDb, TestServer, add_client, both_databases};
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::routing::any;
use axum::{Router, middleware};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lango::access::clients::{self, Client};
use lango::access::consent::Deployment;
use lango::access::{Access, AccessSettings, Caller, Interaction};
use lango::config::{AuthMode, Issuer};
use lango::http::{auth, oauth};
use lango::store::{Scope, Store};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

const BASE: &str = "https://hie.example.org";

/// The gate with a probe behind it that tells who came through.
pub struct Gate {
    pub store: Store,
    app: Router,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Gate {
    pub async fn new(db: &TestDb, mode: AuthMode) -> Gate {
        Gate::at(db, mode, BASE, Vec::new()).await
    }

    /// Reached at `base`, with these outside issuers.
    pub async fn at(db: &TestDb, mode: AuthMode, base: &str, issuers: Vec<Issuer>) -> Gate {
        let store = Store::open(&db.url).await.unwrap();
        let settings = AccessSettings {
            mode,
            public_url: base.into(),
            operator_code: "MOH".into(),
            issuers,
            between_fetches: std::time::Duration::ZERO,
            facility_system: "urn:lango:facility".into(),
            practitioner_system: "urn:lango:practitioner".into(),
            zone: jiff::tz::TimeZone::UTC,
            deployment: Deployment::default(),
        };
        let access = Arc::new(Access::open(store.clone(), settings).await.unwrap());
        let probe = |caller: Caller| async move {
            let all = [Interaction::Create, Interaction::Read, Interaction::Update, Interaction::Delete, Interaction::Search];
            let may: String =
                all.iter().filter(|interaction| caller.allows("Patient", **interaction)).map(|interaction| interaction.letter()).collect();
            let sees = if caller.scope == Scope::All { json!("all") } else { json!(caller.scope.owners()) };
            let (client, facility, owner) = (&caller.client, &caller.facility_code, caller.owner);
            let roles: Vec<&str> = caller.roles.iter().map(|role| role.as_str()).collect();
            let said = &caller.claimed;
            let purposes: Vec<Value> = said.purposes.iter().map(|purpose| json!([purpose.system, purpose.code])).collect();
            json!({
                "client": client, "facility": facility, "owner": owner, "sees": sees, "may": may, "roles": roles, "purposes": purposes,
                "practitioner": said.practitioner, "reason": said.reason, "organization": said.organization,
                "expires": caller.expires, "person": caller.person, "patient": caller.patient.as_deref(),
            })
            .to_string()
        };
        let app = Router::new()
            .route("/fhir/{type}", any(probe))
            .route("/api/v1/hduApi/dataTemplates", any(probe))
            .merge(oauth::routes(Arc::clone(&access)))
            .layer(middleware::from_fn_with_state(access, auth::authenticate));
        Gate { store, app }
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub async fn with_token(&self, token: &str) -> Answer {
        self.get("/fhir/Patient", &[("authorization", &format!("Bearer {token}"))]).await
    }

    pub async fn ask_token(&self, form: &[(&str, &str)], authorization: Option<String>) -> Answer {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = Request::post("/auth/token").header("content-type", "application/x-www-form-urlencoded");
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    pub async fn ask_by_assertion(&self, assertion: &str) -> Answer {
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", "system/*.rs"),
            ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
            ("client_assertion", assertion),
        ];
        self.ask_token(&form, None).await
    }

    pub async fn token(&self, id: &str, secret: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        self.ask_token(&form, None).await.body["access_token"].as_str().unwrap().to_owned()
    }

    /// lango's own signing key: tokens made with it are wrong in their claims alone.
    async fn own_key(&self) -> EncodingKey {
        const SQL: &str = "SELECT pkcs8 FROM signing_key";
        let (pkcs8,): (Vec<u8>,) = match &self.store {
            Store::Sqlite(db) => sqlx::query_as(SQL).fetch_one(&db.read).await.unwrap(),
            Store::Postgres(db) => sqlx::query_as(SQL).fetch_one(&db.pool).await.unwrap(),
        };
        EncodingKey::from_ec_der(&pkcs8)
    }
}

pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub fn sign(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

/// A token out of JSON texts and a signature, well-formed or not.
pub fn assemble(header: &str, claims: &str, signature: &[u8]) -> String {
    format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode(signature))
}

pub fn claims_of(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// `base` with one claim changed; `null` takes it away.
pub fn with(base: &Value, name: &str, value: Value) -> Value {
    let mut claims = base.clone();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name)
    } else {
        claims.as_object_mut().unwrap().insert(name.into(), value)
    };
    claims
}

both_databases!(
    async fn a_client_is_its_facility_whatever_the_request_says(db: &TestDb) {
        let secret = add_client(db, "emr-1", "HF-1", "system/Patient.rs system/*.c").await;
        let other = add_client(db, "emr-2", "HF-2", "system/*.*").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let form = [("grant_type", "client_credentials")];
        let granted = gate.ask_token(&form, Some(basic("emr-1", &secret))).await;
        assert_eq!((granted.status, &granted.body["token_type"], &granted.body["expires_in"]), (200, &json!("Bearer"), &json!(300)));
        assert_eq!(granted.headers["cache-control"], "no-store");
        let token = granted.body["access_token"].as_str().unwrap();

        let bearer = format!("Bearer {token}");
        let came = gate.get("/fhir/Patient", &[("authorization", &bearer), ("x-lango-facility", "HF-2")]).await.body;
        assert_eq!((&came["client"], &came["facility"], &came["may"]), (&json!("emr-1"), &json!("HF-1"), &json!("crs")));
        assert!(came["sees"].as_array().unwrap().contains(&came["owner"]));
        let theirs = gate.with_token(&gate.token("emr-2", &other).await).await.body;
        assert_ne!(theirs["owner"], came["owner"]);
        let basic_header = basic("emr-1", &secret);
        let hdu = gate.get("/api/v1/hduApi/dataTemplates", &[("authorization", &basic_header), ("x-lango-facility", "HF-2")]).await.body;
        assert_eq!((&hdu["owner"], &hdu["may"]), (&came["owner"], &json!("crs")));
    }
);

both_databases!(
    async fn the_operators_own_client_has_facility_number_0(db: &TestDb) {
        let secret = add_client(db, "ministry", "MOH", "system/*.*").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        assert_eq!(gate.with_token(&gate.token("ministry", &secret).await).await.body["owner"], json!(0));
    }
);

both_databases!(
    async fn open_access_takes_the_owner_from_the_header(db: &TestDb) {
        let gate = Gate::new(db, AuthMode::Open).await;
        let nobody = gate.get("/fhir/Patient", &[]).await.body;
        assert_eq!((&nobody["owner"], &nobody["sees"], &nobody["may"]), (&json!(0), &json!("all"), &json!("cruds")));
        let first = gate.get("/fhir/Patient", &[("x-lango-facility", "HF-1")]).await.body;
        let again = gate.get("/fhir/Patient", &[("x-lango-facility", "HF-1")]).await.body;
        assert_eq!((&first["facility"], &first["owner"]), (&json!("HF-1"), &again["owner"]));
        assert_ne!(first["owner"], json!(0));
        assert_eq!(gate.get("/fhir/Patient", &[("x-lango-facility", "")]).await.status, 400);
        assert_eq!(gate.get("/fhir/Patient", &[("x-lango-facility", "A"), ("x-lango-facility", "B")]).await.status, 400);
        assert_eq!(gate.get("/fhir/Patient", &[("x-lango-facility", &"x".repeat(129))]).await.status, 400);
    }
);

both_databases!(
    async fn without_good_credentials_nobody_gets_in(db: &TestDb) {
        let secret = add_client(db, "emr-1", "HF-1", "system/*.*").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let nothing = gate.get("/fhir/Patient", &[]).await;
        assert_eq!(nothing.status, 401);
        assert_eq!(nothing.headers["www-authenticate"], "Bearer realm=\"lango\"");
        assert_eq!((&nothing.body["resourceType"], &nothing.body["issue"][0]["code"]), (&json!("OperationOutcome"), &json!("login")));
        let hdu = gate.get("/api/v1/hduApi/dataTemplates", &[]).await;
        assert_eq!((hdu.status, &hdu.body["authMethods"]), (401, &json!(["Basic", "Bearer"])));
        let bearer = format!("Bearer {}", gate.token("emr-1", &secret).await);
        let basic_header = basic("emr-1", &secret);
        for headers in [
            vec![("authorization", basic_header.as_str())], // a secret does not go to the FHIR addresses
            vec![("authorization", &bearer), ("authorization", &bearer)],
            vec![("authorization", "Bearer")],
            vec![("authorization", "Bearer ")],
            vec![("authorization", "Negotiate x")],
        ] {
            assert_eq!(gate.get("/fhir/Patient", &headers).await.status, 401, "{headers:?}");
        }
        assert_eq!(gate.get(&format!("/fhir/Patient?access_token={}", &bearer[7..]), &[]).await.status, 401);
        for header in
            [basic("emr-1", "wrong"), basic("emr-1", ""), basic("nobody", &secret), basic("", ""), "Basic %%%".into(), "Basic".into()]
        {
            assert_eq!(gate.get("/api/v1/hduApi/dataTemplates", &[("authorization", &header)]).await.status, 401, "{header}");
        }
        for path in ["/fhir/nowhere/else", "/fhir//metadata", "/fhir/metadata/", "/FHIR/metadata", "/consoles"] {
            assert_eq!(gate.get(path, &[]).await.status, 401, "{path}");
        }
    }
);

both_databases!(
    async fn a_disabled_client_is_out_at_once(db: &TestDb) {
        let secret = add_client(db, "emr-1", "HF-1", "system/*.*").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let token = gate.token("emr-1", &secret).await;
        let header = basic("emr-1", &secret);
        let hdu = || async { gate.get("/api/v1/hduApi/dataTemplates", &[("authorization", &header)]).await };
        assert_eq!((gate.with_token(&token).await.status, hdu().await.status), (200, 200));
        clients::set_disabled(&gate.store, "emr-1", true).await.unwrap();
        assert_eq!((gate.with_token(&token).await.status, hdu().await.status), (401, 401));
        let refused = gate.ask_token(&[("grant_type", "client_credentials")], Some(basic("emr-1", &secret))).await;
        assert_eq!((refused.status, &refused.body["error"]), (401, &json!("invalid_client")));
        clients::set_disabled(&gate.store, "emr-1", false).await.unwrap();
        assert_eq!((gate.with_token(&token).await.status, hdu().await.status), (401, 200), "its old tokens stay worthless");
        let token = gate.token("emr-1", &secret).await;
        assert_eq!(gate.with_token(&token).await.status, 200);
    }
);

both_databases!(
    async fn a_token_is_believed_only_as_lango_signed_it(db: &TestDb) {
        let secret = add_client(db, "emr-1", "HF-1", "system/Patient.r").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let good = gate.token("emr-1", &secret).await;
        let claims = claims_of(&good);
        let jwks = gate.get("/auth/jwks.json", &[]).await.body;
        assert!(jwks["keys"][0].get("d").is_none(), "the private half stays at home");
        let kid = jwks["keys"][0]["kid"].as_str().unwrap().to_owned();
        let own = gate.own_key().await;
        let header = |change: &dyn Fn(&mut Header)| {
            let mut header = Header::new(Algorithm::ES256);
            (header.typ, header.kid) = (Some("at+jwt".into()), Some(kid.clone()));
            change(&mut header);
            header
        };
        let own_header = header(&|_| ());
        assert_eq!(gate.with_token(&sign(&own_header, &claims, &own)).await.status, 200, "the tools of this test make good tokens");

        let mut forged: Vec<(String, String)> = Vec::new();
        let mut forge = |what: &str, token: String| forged.push((what.to_owned(), token));
        let claims_text = claims.to_string();
        for alg in ["none", "None", "NONE", "nOnE"] {
            let header = format!(r#"{{"alg":"{alg}","typ":"at+jwt","kid":"{kid}"}}"#);
            forge("alg none", assemble(&header, &claims_text, b""));
        }
        let good_header = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"{kid}"}}"#);
        forge("no signature", assemble(&good_header, &claims_text, b""));
        forge("zero signature", assemble(&good_header, &claims_text, &[0; 64]));
        forge("half a signature", assemble(&good_header, &claims_text, &[1; 32]));
        // The public key as an HMAC secret, in the forms that a careless verifier would hold it in.
        let public = Jwk::from_encoding_key(&own, Algorithm::ES256).unwrap();
        let public_json = serde_json::to_vec(&public).unwrap();
        let point = [
            URL_SAFE_NO_PAD.decode(jwks["keys"][0]["x"].as_str().unwrap()).unwrap(),
            URL_SAFE_NO_PAD.decode(jwks["keys"][0]["y"].as_str().unwrap()).unwrap(),
        ]
        .concat();
        for secret in [public_json, point.clone(), [&[4u8][..], &point].concat()] {
            forge(
                "HS256 with the public key",
                sign(&header(&|header| header.alg = Algorithm::HS256), &claims, &EncodingKey::from_secret(&secret)),
            );
        }
        let stranger = EncodingKey::from_ec_pem(include_bytes!("../data/keys/stranger.pem")).unwrap();
        forge("another key and algorithm", sign(&header(&|header| header.alg = Algorithm::ES384), &claims, &stranger));
        for kid in ["", "../../etc/passwd", "' OR 1=1 --", "http://evil.example"] {
            forge("unknown kid", sign(&header(&|header| header.kid = Some(kid.into())), &claims, &own));
        }
        forge("no kid", sign(&header(&|header| header.kid = None), &claims, &own));
        forge("brought its key", sign(&header(&|header| header.jwk = Some(public.clone())), &claims, &own));
        forge("brought an address", sign(&header(&|header| header.jku = Some("http://evil.example".into())), &claims, &own));
        forge("brought a certificate", sign(&header(&|header| header.x5c = Some(vec!["x".into()])), &claims, &own));
        forge("unknown extension", sign(&header(&|header| header.crit = Some(vec!["x".into()])), &claims, &own));
        for kind in [None, Some("JWT"), Some("at+jwt ")] {
            forge("another type", sign(&header(&|header| header.typ = kind.map(str::to_owned)), &claims, &own));
        }
        for (name, values) in [
            ("iss", vec![Value::Null, json!("https://hie.example.org/"), json!("https://evil.example"), json!([BASE]), json!("")]),
            (
                "aud",
                vec![
                    Value::Null,
                    json!(BASE),
                    json!("https://hie.example.org/fhir/"),
                    json!("https://hie.example.org/fhirx"),
                    json!(["https://hie.example.org/fhir", "https://evil.example"]),
                    json!([]),
                ],
            ),
            (
                "exp",
                vec![Value::Null, json!(now() - 60), json!("9999999999"), json!(9999999999.5), json!(-1), json!(0), json!([9999999999u64])],
            ),
            ("nbf", vec![json!(now() + 120), json!("x")]),
            ("iat", vec![json!(now() + 120)]),
            ("sub", vec![Value::Null, json!("emr-2"), json!(1), json!("")]),
            ("scope", vec![Value::Null, json!(["system/*.*"])]),
        ] {
            for value in values {
                forge(&format!("{name} = {value}"), sign(&own_header, &with(&claims, name, value), &own));
            }
        }
        let parts: Vec<&str> = good.split('.').collect();
        let widened = with(&claims, "scope", json!("system/*.*"));
        forge("scope widened", format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(widened.to_string()), parts[2]));
        forge("cut", good[..good.len() - 5].to_owned());
        forge("more parts", format!("{good}.x"));
        forge("nested", sign(&own_header, &json!(good), &own));
        forge("huge", sign(&own_header, &with(&claims, "x", json!("x".repeat(1 << 20))), &own));
        for (what, token) in forged {
            let answer = gate.with_token(&token).await;
            assert_eq!(answer.status, 401, "{what}");
            assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("invalid_"), "{what}");
        }
        // Rights are those of token and client together.
        let wide = sign(&own_header, &widened, &own);
        assert_eq!(gate.with_token(&wide).await.body["may"], json!("r"));
        assert_eq!(gate.with_token(&good).await.status, 200);
    }
);

both_databases!(
    async fn a_verified_token_that_is_remembered_still_expires(db: &TestDb) {
        let secret = add_client(db, "emr-1", "HF-1", "system/*.*").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let good = gate.token("emr-1", &secret).await;
        let mut header = Header::new(Algorithm::ES256);
        (header.typ, header.kid) = (Some("at+jwt".into()), jsonwebtoken::decode_header(&good).unwrap().kid);
        // Within the allowed skew for one or two seconds more.
        let short = sign(&header, &with(&claims_of(&good), "exp", json!(now() - 28)), &gate.own_key().await);
        assert_eq!(gate.with_token(&short).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
        assert_eq!(gate.with_token(&short).await.status, 401);
    }
);

both_databases!(
    async fn the_token_endpoint_says_what_is_wrong_in_oauths_words(db: &TestDb) {
        let secret = add_client(db, "emr-1", "HF-1", "system/Patient.rs system/Observation.c").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let grant = ("grant_type", "client_credentials");
        let (id, password) = (("client_id", "emr-1"), ("client_secret", secret.as_str()));
        for (form, status, error) in [
            (vec![id, password], 400, "invalid_request"),
            (vec![("grant_type", "password"), id, password], 400, "unsupported_grant_type"),
            (vec![grant, grant, id, password], 400, "invalid_request"),
            (vec![grant, password], 400, "invalid_request"),
            (vec![grant, id], 401, "invalid_client"),
            (vec![grant], 401, "invalid_client"),
            (vec![grant, id, ("client_secret", "wrong")], 401, "invalid_client"),
            (vec![grant, id, password, ("client_assertion", "x")], 400, "invalid_request"),
            (vec![grant, id, password, ("scope", "system/*.*")], 400, "invalid_scope"),
            (vec![grant, id, password, ("scope", "")], 400, "invalid_scope"),
            (vec![grant, id, password, ("scope", "system/Patient.rs\tsystem/Observation.c")], 400, "invalid_scope"),
        ] {
            let answer = gate.ask_token(&form, None).await;
            assert_eq!((answer.status, &answer.body["error"]), (status, &json!(error)), "{form:?}");
            assert_eq!(answer.headers["cache-control"], "no-store");
        }
        let narrowed = [grant, id, password, ("scope", "system/Patient.r system/Observation.cruds openid")];
        assert_eq!(gate.ask_token(&narrowed, None).await.body["scope"], json!("system/Patient.r"));
        let wrong = gate.ask_token(&[grant], Some(basic("emr-1", "wrong"))).await;
        assert_eq!((wrong.status, wrong.headers["www-authenticate"].to_str().unwrap()), (401, "Basic realm=\"lango\""));
        assert_eq!(gate.ask_token(&[grant, id, password], Some(basic("emr-1", &secret))).await.status, 400);
        let json = Request::post("/auth/token").header("content-type", "application/json").body(Body::from("{}")).unwrap();
        assert_eq!(gate.send(json).await.body["error"], json!("invalid_request"));
        let configuration = gate.get("/fhir/.well-known/smart-configuration", &[]).await.body;
        assert_eq!(configuration["token_endpoint"], json!("https://hie.example.org/auth/token"));
    }
);

/// A client with both test keys; the keys, and claims of an assertion that holds.
async fn client_with_keys(db: &TestDb) -> ([(Algorithm, EncodingKey); 2], Value) {
    let keys = [
        (Algorithm::ES384, EncodingKey::from_ec_pem(include_bytes!("../data/keys/es384.pem")).unwrap()),
        (Algorithm::RS384, EncodingKey::from_rsa_pem(include_bytes!("../data/keys/rs384.pem")).unwrap()),
    ];
    let public: Vec<Jwk> = keys
        .iter()
        .map(|(algorithm, key)| {
            let mut jwk = Jwk::from_encoding_key(key, *algorithm).unwrap();
            jwk.common.key_id = Some(format!("{algorithm:?}"));
            jwk
        })
        .collect();
    let store = Store::open(&db.url).await.unwrap();
    let client = Client { jwks: Some(json!({ "keys": public }).to_string()), ..Client::new("emr-1", "HF-1", "system/*.rs") };
    clients::add(&store, &client).await.unwrap();
    store.close().await;
    let claims = json!({ "iss": "emr-1", "sub": "emr-1", "aud": "https://hie.example.org/auth/token", "exp": now() + 240, "jti": "first" });
    (keys, claims)
}

pub fn assertion_header(algorithm: Algorithm) -> Header {
    let mut header = Header::new(algorithm);
    header.kid = Some(format!("{algorithm:?}"));
    header
}

both_databases!(
    async fn an_assertion_signed_with_a_registered_key_gets_a_token_once(db: &TestDb) {
        let (keys, claims) = client_with_keys(db).await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        for (algorithm, key) in &keys {
            let jti = format!("{algorithm:?}");
            let assertion = sign(&assertion_header(*algorithm), &with(&claims, "jti", json!(jti)), key);
            let answer = gate.ask_by_assertion(&assertion).await;
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(gate.with_token(answer.body["access_token"].as_str().unwrap()).await.status, 200);
            assert_eq!(gate.ask_by_assertion(&assertion).await.body["error"], json!("invalid_client"), "a replay");
            // Another process on the same database, or this one after a restart.
            assert_eq!(Gate::new(db, AuthMode::Smart).await.ask_by_assertion(&assertion).await.status, 401, "a replay elsewhere");
            assert_eq!(gate.with_token(&assertion).await.status, 401, "an assertion is no access token");
        }
        // Of many uses at once, one counts.
        let assertion = sign(&assertion_header(keys[0].0), &with(&claims, "jti", json!("race")), &keys[0].1);
        let answers = futures_util::future::join_all((0..8).map(|_| gate.ask_by_assertion(&assertion))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    }
);

both_databases!(
    async fn an_assertion_that_is_wrong_in_anything_gets_nothing(db: &TestDb) {
        let (keys, claims) = client_with_keys(db).await;
        let secret = add_client(db, "emr-2", "HF-2", "system/*.*").await;
        let gate = Gate::new(db, AuthMode::Smart).await;
        let (algorithm, key) = &keys[0];
        let header = assertion_header(*algorithm);
        let mut wrong: Vec<(String, String)> = Vec::new();
        for (name, values) in [
            (
                "aud",
                vec![
                    Value::Null,
                    json!(BASE),
                    json!("https://hie.example.org/auth/token/"),
                    json!(["https://hie.example.org/auth/token", "x"]),
                ],
            ),
            ("iss", vec![Value::Null, json!("emr-2"), json!("nobody")]),
            ("sub", vec![Value::Null, json!("emr-2")]),
            ("exp", vec![Value::Null, json!(now() - 60), json!(now() + 400), json!("9999999999"), json!(1e300)]),
            ("nbf", vec![json!(now() + 120)]),
            ("jti", vec![Value::Null, json!(""), json!("x".repeat(600)), json!(1)]),
        ] {
            for value in values {
                let claims = with(&with(&claims, "jti", json!(format!("{name}{value}"))), name, value.clone());
                wrong.push((format!("{name} = {value}"), sign(&header, &claims, key)));
            }
        }
        let stranger = EncodingKey::from_ec_pem(include_bytes!("../data/keys/stranger.pem")).unwrap();
        wrong.push(("a stranger's key".into(), sign(&header, &claims, &stranger)));
        let mut misnamed = header.clone();
        misnamed.kid = Some("RS384".into());
        wrong.push(("another key's name".into(), sign(&misnamed, &claims, key)));
        let mut hmac = header.clone();
        hmac.alg = Algorithm::HS384;
        let public = serde_json::to_vec(&Jwk::from_encoding_key(key, *algorithm).unwrap()).unwrap();
        wrong.push(("HS384 with the public key".into(), sign(&hmac, &claims, &EncodingKey::from_secret(&public))));
        let mut rs256 = header.clone();
        (rs256.alg, rs256.kid) = (Algorithm::RS256, Some("RS384".into()));
        wrong.push(("RS256".into(), sign(&rs256, &claims, &keys[1].1)));
        wrong.push(("alg none".into(), assemble(r#"{"alg":"none","kid":"ES384"}"#, &claims.to_string(), b"")));
        let twice = claims.to_string().replacen('{', r#"{"iss":"emr-2","#, 1);
        wrong.push(("iss twice, unsigned".into(), assemble(r#"{"alg":"ES384","kid":"ES384"}"#, &twice, &[1; 96])));
        wrong.push(("an access token".into(), gate.token("emr-2", &secret).await));
        for (what, assertion) in &wrong {
            let answer = gate.ask_by_assertion(assertion).await;
            assert_eq!((answer.status, &answer.body["error"]), (401, &json!("invalid_client")), "{what}");
        }
        assert_eq!(gate.ask_by_assertion(&sign(&header, &claims, key)).await.status, 200, "the claims that were spoiled above hold");
    }
);

both_databases!(
    async fn only_public_keys_of_the_right_kind_are_registered(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let key = EncodingKey::from_ec_pem(include_bytes!("../data/keys/es384.pem")).unwrap();
        let good = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES384).unwrap()).unwrap();
        let named = with(&good, "kid", json!("a"));
        for (what, jwks) in [
            ("not JSON", json!("x").to_string() + "x"),
            ("no set", named.to_string()),
            ("empty", json!({ "keys": [] }).to_string()),
            ("no kid", json!({ "keys": [good] }).to_string()),
            ("a kid twice", json!({ "keys": [named, named] }).to_string()),
            ("private", json!({ "keys": [with(&named, "d", json!("x"))] }).to_string()),
            ("shared", json!({ "keys": [{ "kty": "oct", "kid": "a", "k": "c2VjcmV0" }] }).to_string()),
            ("another curve", json!({ "keys": [with(&named, "crv", json!("P-256"))] }).to_string()),
            ("short RSA", json!({ "keys": [{ "kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB" }] }).to_string()),
        ] {
            let client = Client { jwks: Some(jwks), ..Client::new("emr", "HF", "system/*.rs") };
            assert!(clients::add(&store, &client).await.is_err(), "{what}");
        }
        assert!(clients::find(&store, "emr").await.unwrap().is_none());
    }
);

both_databases!(
    async fn facilities_do_not_see_each_other_through_the_real_server(db: &TestDb) {
        let first = add_client(db, "emr-1", "HF-1", "system/*.*").await;
        let second = add_client(db, "emr-2", "HF-2", "system/*.*").await;
        let reader = add_client(db, "viewer-1", "HF-1", "system/Patient.rs").await;
        let server = TestServer::smart(db).await;
        let tokens = [server.token("emr-1", &first).await, server.token("emr-2", &second).await, server.token("viewer-1", &reader).await];
        let [first, second, reader] = &tokens;
        let send = |method: &str, path: &str, token: &str, body: Value| {
            let request = server.client.request(method.parse().unwrap(), server.url(path)).bearer_auth(token);
            let request =
                if body.is_null() { request } else { request.header("content-type", "application/fhir+json").body(body.to_string()) };
            answer(request.header("x-lango-facility", "HF-2"))
        };
        let patient = json!({
            "resourceType": "Patient",
            "identifier": [{ "system": "urn:test", "value": "1" }],
            "managingOrganization": { "reference": "Organization/HF-2" },
        });
        let (status, created) = send("POST", "/fhir/Patient", first, patient.clone()).await;
        assert_eq!(status, 201, "{created}");
        let path = format!("/fhir/Patient/{}", created["id"].as_str().unwrap());
        for (token, status, total) in [(first, 200, 1), (reader, 200, 1), (second, 404, 0)] {
            assert_eq!(send("GET", &path, token, Value::Null).await.0, status);
            assert_eq!(send("GET", "/fhir/Patient?identifier=urn:test|1", token, Value::Null).await.1["total"], json!(total));
        }
        let (status, refused) = send("POST", "/fhir/Patient", reader, patient.clone()).await;
        assert_eq!((status, &refused["issue"][0]["code"]), (403, &json!("forbidden")), "{refused}");
        assert!(refused["issue"][0]["diagnostics"].as_str().unwrap().contains("system/Patient.c"), "{refused}");
        let bundle = json!({
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{ "resource": patient, "request": { "method": "POST", "url": "Patient" } }],
        });
        assert_eq!(send("POST", "/fhir", reader, bundle).await.0, 403, "entries of a Bundle are checked too");
        assert_eq!(send("GET", "/fhir/Observation", reader, Value::Null).await.0, 403);
        assert_eq!(answer(server.client.get(server.url(&path))).await.0, 401);
        assert_eq!(answer(server.client.get(server.url("/fhir/metadata"))).await.0, 200);
        server.stop().await;
    }
);

both_databases!(
    async fn what_a_client_sends_by_the_hdu_door_is_its_own_whatever_facility_the_payload_names(db: &TestDb) {
        let operator = add_client(db, "ministry", "operator", "system/*.*").await;
        let facility = add_client(db, "emr-1", "HF-1", "system/*.*").await;
        let server = TestServer::smart(db).await;
        let path = server.url("/api/v1/hduApi/dataTemplates");
        let (_, examples) = answer(server.client.get(format!("{path}/examples")).basic_auth("emr-1", Some(&facility))).await;
        let visits = examples["results"].as_array().unwrap().iter().find(|example| example["name"] == "antenatal-visit.json");
        let mut visit = visits.unwrap()["payload"].clone();
        for (id, secret, named) in [("ministry", &operator, "HF-1"), ("emr-1", &facility, "HF-2")] {
            visit["data"]["facilityDetails"]["code"] = json!(named);
            let request = server.client.post(&path).basic_auth(id, Some(secret)).header("content-type", "application/json");
            let (status, reply) = answer(request.body(visit.to_string())).await;
            assert_eq!((status, &reply["newClients"]), (200, &json!(1)), "{reply}");
            let token = server.token(id, secret).await;
            let (_, found) = answer(server.client.get(server.url("/fhir/Patient?_summary=count")).bearer_auth(token)).await;
            assert_eq!(found["total"], json!(1), "{id} sees what it sent and nothing else");
        }
        let (_, metrics) = answer(server.client.get(server.url("/metrics"))).await;
        let metrics = metrics.as_str().unwrap();
        assert!(metrics.contains("route=\"/fhir/{type}\",method=\"GET\",status=\"200\"} 2"), "{metrics}");
        assert!(!metrics.contains("Patient") && !metrics.contains("HF-1"), "{metrics}");
        server.stop().await;
    }
);
