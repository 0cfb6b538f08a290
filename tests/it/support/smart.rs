//! Clients that sign assertions, with purposes of use and acting people.

use super::TestDb;
use super::server::{TestServer, answer};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use lango::access::clients::{self, Client};
use lango::store::Store;
use serde_json::{Value, json};

fn key() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../../data/keys/es384.pem")).expect("a test key")
}

/// The key set of who signs with the test key.
pub fn public_keys() -> String {
    let mut public = Jwk::from_encoding_key(&key(), Algorithm::ES384).expect("a public key");
    public.common.key_id = Some("test".into());
    json!({ "keys": [public] }).to_string()
}

/// Adds a client that signs with the test key; its roles are separated by a space.
pub async fn add_signing_client(db: &TestDb, id: &str, facility: &str, roles: &str) {
    add_scoped_client(db, id, facility, roles, "system/*.cruds").await;
}

/// The same with these scopes.
pub async fn add_scoped_client(db: &TestDb, id: &str, facility: &str, roles: &str, scopes: &str) {
    let store = Store::open(&db.url).await.expect("the database opens");
    let roles = roles.split_whitespace().map(str::to_owned).collect();
    let client = Client { jwks: Some(public_keys()), roles, ..Client::new(id, facility, scopes) };
    clients::add(&store, &client).await.expect("a new client");
    store.close().await;
}

/// An access token for a signed assertion with this `hl7-b2b` extension.
pub async fn signed_token(server: &TestServer, id: &str, extension: &Value) -> String {
    let (status, body) = ask_signed(server, id, extension).await;
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().expect("a token").to_owned()
}

/// An assertion for the token endpoint, good once.
pub fn assertion(server: &TestServer, id: &str, extension: &Value) -> String {
    let now = jiff::Timestamp::now().as_second();
    let jti = uuid::Uuid::new_v4().to_string();
    let claims = json!({
        "iss": id, "sub": id, "aud": server.url("/auth/token"), "exp": now + 240, "iat": now, "jti": jti,
        "extensions": { "hl7-b2b": extension },
    });
    let mut header = Header::new(Algorithm::ES384);
    header.kid = Some("test".into());
    jsonwebtoken::encode(&header, &claims, &key()).expect("a signature")
}

/// The token endpoint's answer to such an assertion.
pub async fn ask_signed(server: &TestServer, id: &str, extension: &Value) -> (u16, Value) {
    let assertion = assertion(server, id, extension);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
        ("client_assertion", &assertion),
    ];
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let request = server.client.post(server.url("/auth/token")).header("content-type", "application/x-www-form-urlencoded");
    answer(request.body(form)).await
}
