//! People: authorization code with PKCE, login, lockout, one-time codes, refresh, introspection, revocation, key rotation.

use crate::support::program::output;
use crate::support::server::answer;
use crate::support::{TestDb, TestServer, add_client, both_databases};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lango::access::clients::{self, Client};
use lango::access::people::{self, Person};
use lango::access::{generate_secret, hash_secret, keys};
use lango::config::Secret;
use lango::store::Store;
use reqwest::{Response, Url, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BACK: &str = "https://app.example.org/back";
const VERIFIER: &str = "a-verifier-that-is-long-enough-to-be-one-0123456789";
const PASSWORD: &str = "correct horse battery";

/// An app for people, a clinician, a patient, and a server.
struct World {
    server: TestServer,
    browser: reqwest::Client,
    store: Store,
}

impl World {
    async fn new(db: &TestDb) -> World {
        let server = TestServer::smart(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let app = Client {
            redirect_uris: vec![BACK.into()],
            roles: vec!["facility".into(), "clinician".into()],
            ..Client::new("app", "HF-0", "user/*.cruds patient/*.rs launch/patient offline_access")
        };
        clients::add(&store, &app).await.unwrap();
        let hash = hash_secret(&Secret::new(PASSWORD)).unwrap();
        let clinician = Person {
            practitioner: Some("MCT-1".into()),
            roles: vec!["clinician".into()],
            ..Person::new("asha", "Dr Asha <b>", "HF-1", hash.clone())
        };
        people::add(&store, &clinician).await.unwrap();
        let patient = Person { patient: Some("p1".into()), ..Person::new("baraka", "Baraka", "HF-1", hash) };
        people::add(&store, &patient).await.unwrap();
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        World { server, browser, store }
    }

    fn authorize_url(&self, change: &[(&str, &str)]) -> Url {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let aud = self.server.url("/fhir");
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", "app"),
            ("redirect_uri", BACK),
            ("scope", "user/*.cruds patient/*.rs launch/patient offline_access"),
            ("state", "s t&te"),
            ("aud", &aud),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in change {
            pairs.retain(|(known, _)| known != name);
            if !value.is_empty() {
                pairs.push((name, value));
            }
        }
        Url::parse_with_params(&self.server.url("/auth/authorize"), pairs).unwrap()
    }

    /// The page and the cookie of a new login.
    async fn begin(&self) -> (String, String) {
        let response = self.browser.get(self.authorize_url(&[])).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        let cookie = cookie.split(';').next().unwrap().to_owned();
        (response.text().await.unwrap(), cookie)
    }

    async fn submit(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Response {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.browser.post(self.server.url(path)).header(header::COOKIE, cookie).header(header::ORIGIN, &self.server.base);
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body).send().await.unwrap()
    }

    async fn log_in(&self, name: &str, password: &str, code: &str) -> (Response, String) {
        let (page, cookie) = self.begin().await;
        let fields = [("step", step(&page)), ("username", name), ("password", password), ("code", code)];
        (self.submit("/auth/login", &cookie, &fields).await, cookie)
    }

    /// The code that an agreed login gives.
    async fn code(&self, name: &str) -> String {
        let (page, cookie) = self.log_in(name, PASSWORD, "").await;
        let page = page.text().await.unwrap();
        let back = self.submit("/auth/consent", &cookie, &[("step", step(&page)), ("decision", "allow")]).await;
        let answers = sent_back(&back);
        assert_eq!((answers["state"].as_str(), answers["iss"].as_str()), (Some("s t&te"), Some(self.server.base.as_str())));
        answers["code"].as_str().unwrap().to_owned()
    }

    async fn ask(&self, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self.server.client.post(self.server.url(path));
        answer(request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)).await
    }

    async fn exchange(&self, code: &str) -> (u16, Value) {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "app"),
            ("code", code),
            ("redirect_uri", BACK),
            ("code_verifier", VERIFIER),
        ];
        self.ask("/auth/token", &form).await
    }

    async fn refresh(&self, token: &str) -> (u16, Value) {
        self.ask("/auth/token", &[("grant_type", "refresh_token"), ("client_id", "app"), ("refresh_token", token)]).await
    }

    async fn get(&self, token: &str, path: &str) -> (u16, Value) {
        answer(self.server.client.get(self.server.url(path)).bearer_auth(token)).await
    }
}

/// The sealed step in a page.
fn step(page: &str) -> &str {
    page.split("name=\"step\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("{page}"))
}

/// What the app is told when a person is sent back to it.
fn sent_back(response: &Response) -> Value {
    assert_eq!(response.status(), 303);
    let location = Url::parse(response.headers()[header::LOCATION].to_str().unwrap()).unwrap();
    assert!(location.as_str().starts_with(BACK), "{location}");
    location.query_pairs().map(|(name, value)| (name.into_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}"))
}

both_databases!(
    async fn a_clinician_logs_in_and_the_app_acts_for_them_at_their_facility(db: &TestDb) {
        let world = World::new(db).await;
        let own = add_client(db, "emr", "HF-1", "system/*.cruds").await;
        let own = world.server.token("emr", &own).await;
        let patient = json!({ "resourceType": "Patient", "id": "p1" });
        let request = world.server.client.put(world.server.url("/fhir/Patient/p1")).bearer_auth(&own);
        assert_eq!(answer(request.header("content-type", "application/fhir+json").body(patient.to_string())).await.0, 201);

        let (page, cookie) = world.log_in("asha", PASSWORD, "").await;
        let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        // Chromium holds all that the app's address leads on to against it.
        assert!(policy.contains("form-action 'self' https:;"), "{policy}");
        assert_eq!(page.headers()["cache-control"], "no-store");
        let page = page.text().await.unwrap();
        assert!(page.contains("Dr Asha &#60;b&#62;") && !page.contains("<b>"), "names are text: {page}");
        assert!(!page.contains("in the record of the patient"), "without a Patient of her own there is no patient's context: {page}");
        let back = world.submit("/auth/consent", &cookie, &[("step", step(&page)), ("decision", "allow")]).await;
        let code = text(&sent_back(&back), "code").to_owned();
        let (status, granted) = world.exchange(&code).await;
        assert_eq!(status, 200, "{granted}");
        assert_eq!(granted["scope"], json!("user/*.cruds offline_access"));
        assert_eq!(granted.get("patient"), None);
        assert_eq!(world.get(text(&granted, "access_token"), "/fhir/Patient/p1").await.0, 200, "her facility's records");
        // A code is good once; used again it ends what it gave.
        let (status, refused) = world.exchange(&code).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
        assert_eq!(world.get(text(&granted, "access_token"), "/fhir/Patient/p1").await.0, 401);
        assert_eq!(world.refresh(text(&granted, "refresh_token")).await.0, 400);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_patient_sees_their_own_record_and_nothing_else(db: &TestDb) {
        let world = World::new(db).await;
        let own = add_client(db, "emr", "HF-1", "system/*.cruds").await;
        let own = world.server.token("emr", &own).await;
        for body in [
            json!({ "resourceType": "Patient", "id": "p1" }),
            json!({ "resourceType": "Patient", "id": "p2" }),
            json!({ "resourceType": "Observation", "id": "o1", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/p1" } }),
            json!({ "resourceType": "Observation", "id": "o2", "status": "final", "code": { "text": "x" }, "subject": { "reference": "Patient/p2" } }),
            json!({ "resourceType": "Observation", "id": "o3", "status": "final", "code": { "text": "x" } }),
            json!({ "resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "eA==" }),
            json!({ "resourceType": "Organization", "id": "org", "name": "x" }),
        ] {
            let path = format!("/fhir/{}/{}", text(&body, "resourceType"), text(&body, "id"));
            let request = world.server.client.put(world.server.url(&path)).bearer_auth(&own);
            assert_eq!(answer(request.header("content-type", "application/fhir+json").body(body.to_string())).await.0, 201, "{path}");
        }
        let put = world.server.client.put(world.server.url("/fhir/Binary/b2")).bearer_auth(&own);
        let put = put.header("content-type", "text/plain").header("x-security-context", "Patient/p2");
        assert_eq!(answer(put.body("x")).await.0, 201);
        let (_, granted) = world.exchange(&world.code("baraka").await).await;
        assert_eq!(granted["patient"], json!("p1"), "{granted}");
        let token = text(&granted, "access_token");
        for (path, status) in [
            ("Patient/p1", 200),
            ("Patient/p2", 404),
            ("Observation/o1", 200),
            ("Observation/o2", 404),
            ("Observation/o3", 404),
            ("Observation/o2/_history/1", 404),
            ("Binary/b1", 404),
            ("Binary/b2", 404),
            ("Organization/org", 200),
        ] {
            assert_eq!(world.get(token, &format!("/fhir/{path}")).await.0, status, "{path}");
        }
        for (path, total) in [
            ("Patient", 1),
            ("Observation", 1),
            ("Observation?subject=Patient/p2", 0),
            ("Observation?subject:missing=true", 0),
            ("Patient?_has:Observation:subject:_id=o2", 0),
            ("Binary", 0),
        ] {
            assert_eq!(world.get(token, &format!("/fhir/{path}")).await.1["total"], json!(total), "{path}");
        }
        assert_eq!(world.get(token, "/api/v1/hduApi/unmapped").await.0, 403);
        world.server.stop().await;
    }
);

both_databases!(
    async fn an_apps_request_that_is_wrong_goes_nowhere_it_should_not(db: &TestDb) {
        let world = World::new(db).await;
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        for change in [
            vec![("client_id", "nobody")],
            vec![("client_id", "")],
            vec![("redirect_uri", "https://evil.example/back")],
            vec![("redirect_uri", "https://app.example.org/back/")],
            vec![("redirect_uri", "https://app.example.org/back?x=1")],
            vec![("redirect_uri", "")],
        ] {
            let response = world.browser.get(world.authorize_url(&change)).send().await.unwrap();
            assert_eq!((response.status().as_u16(), response.headers().get(header::LOCATION)), (400, None), "{change:?}");
        }
        let twice = format!("{}&client_id=app", world.authorize_url(&[]));
        assert_eq!(world.browser.get(twice).send().await.unwrap().status(), 400);
        for (change, error) in [
            (("response_type", "token"), "unsupported_response_type"),
            (("code_challenge_method", "plain"), "invalid_request"),
            (("code_challenge_method", ""), "invalid_request"),
            (("code_challenge", ""), "invalid_request"),
            (("code_challenge", &challenge[1..]), "invalid_request"),
            (("aud", "https://evil.example/fhir"), "invalid_request"),
            (("scope", "system/*.rs"), "invalid_scope"),
            (("scope", "openid"), "invalid_scope"),
            (("scope", ""), "invalid_scope"),
            (("prompt", "none"), "login_required"),
            (("request", "e30.e30."), "request_not_supported"),
            (("request_uri", "https://app.example.org/request"), "request_uri_not_supported"),
        ] {
            let response = world.browser.get(world.authorize_url(&[change])).send().await.unwrap();
            let answers = sent_back(&response);
            assert_eq!(text(&answers, "iss"), world.server.base, "RFC 9207: errors say whose they are too");
            assert_eq!((text(&answers, "error"), text(&answers, "state")), (error, "s t&te"), "{change:?}");
        }
        // The code is bound to app, address and verifier.
        for (name, value) in [
            ("code_verifier", "another-verifier-that-is-long-enough-0123456789"),
            ("redirect_uri", "https://app.example.org/"),
            ("client_id", "emr"),
        ] {
            let code = world.code("asha").await;
            let mut form = vec![
                ("grant_type", "authorization_code"),
                ("client_id", "app"),
                ("code", code.as_str()),
                ("redirect_uri", BACK),
                ("code_verifier", VERIFIER),
            ];
            form.retain(|(known, _)| *known != name);
            form.push((name, value));
            assert!(matches!(world.ask("/auth/token", &form).await.0, 400 | 401), "{name}");
        }
        let code = world.code("asha").await;
        let form = [("grant_type", "authorization_code"), ("client_id", "app"), ("code", code.as_str()), ("redirect_uri", BACK)];
        assert_eq!(world.ask("/auth/token", &form).await.1["error"], json!("invalid_request"), "PKCE is required");
        let refused = world.ask("/auth/token", &[("grant_type", "client_credentials"), ("client_id", "app")]).await;
        assert_eq!(refused.1["error"], json!("invalid_client"), "an app is nobody without a person");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_form_from_elsewhere_does_nothing(db: &TestDb) {
        let world = World::new(db).await;
        let (page, cookie) = world.begin().await;
        let (_, other_cookie) = world.begin().await;
        let fields = [("step", step(&page)), ("username", "asha"), ("password", PASSWORD), ("code", "")];
        for cookie in ["", "lango-login=", &other_cookie] {
            assert_eq!(world.submit("/auth/login", cookie, &fields).await.status(), 400, "{cookie:?}");
        }
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = world.browser.post(world.server.url("/auth/login")).header(header::COOKIE, &cookie);
        assert_eq!(request.header(header::ORIGIN, "https://evil.example").body(body).send().await.unwrap().status(), 400);
        let spoiled = format!("{}x", step(&page));
        for wrong in ["", "x.y", &spoiled] {
            let fields = [("step", wrong), ("username", "asha"), ("password", PASSWORD), ("code", "")];
            assert_eq!(world.submit("/auth/login", &cookie, &fields).await.status(), 400, "{wrong}");
        }
        // Agreeing needs a step in which somebody logged in.
        let back = world.submit("/auth/consent", &cookie, &[("step", step(&page)), ("decision", "allow")]).await;
        assert_eq!(sent_back(&back)["error"], json!("access_denied"));
        let (page, cookie) = world.log_in("asha", PASSWORD, "").await;
        let page = page.text().await.unwrap();
        let back = world.submit("/auth/consent", &cookie, &[("step", step(&page)), ("decision", "deny")]).await;
        let answers = sent_back(&back);
        assert_eq!((text(&answers, "error"), answers.get("code")), ("access_denied", None));
        world.server.stop().await;
    }
);

both_databases!(
    async fn an_account_rests_after_wrong_passwords_and_a_one_time_code_counts_once(db: &TestDb) {
        let world = World::new(db).await;
        assert_eq!(world.log_in("nobody", PASSWORD, "").await.0.status(), 401);
        for _ in 0..5 {
            let (page, _) = world.log_in("asha", "wrong", "").await;
            assert_eq!(page.status(), 401);
        }
        assert_eq!(world.log_in("asha", PASSWORD, "").await.0.status(), 401, "the right password does not help a resting account");
        assert_eq!(world.log_in("baraka", PASSWORD, "").await.0.status(), 200, "others are not touched");
        people::set_password(&world.store, "asha", &hash_secret(&Secret::new("another long password")).unwrap()).await.unwrap();
        assert_eq!(world.log_in("asha", "another long password", "").await.0.status(), 200);
        people::set_disabled(&world.store, "asha", true).await.unwrap();
        assert_eq!(world.log_in("asha", "another long password", "").await.0.status(), 401);

        let (secret, _) = people::new_totp().unwrap();
        let hash = hash_secret(&Secret::new(PASSWORD)).unwrap();
        let careful = Person { totp: Some(secret.clone()), ..Person::new("chausiku", "Chausiku", "HF-1", hash) };
        people::add(&world.store, &careful).await.unwrap();
        let code = one_time_code(&secret);
        let wrong = if code == "000000" { "000001" } else { "000000" };
        for code in ["", wrong] {
            assert_eq!(world.log_in("chausiku", PASSWORD, code).await.0.status(), 401);
        }
        let (begin, end) = code.split_at(3);
        let as_apps_show_it = format!("{begin} {end}");
        assert_eq!(world.log_in("chausiku", PASSWORD, &as_apps_show_it).await.0.status(), 200);
        assert_eq!(world.log_in("chausiku", PASSWORD, &code).await.0.status(), 401, "the same code again");
        world.server.stop().await;
    }
);

/// RFC 6238 as an authenticator app computes it.
fn one_time_code(secret: &[u8]) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret).unwrap();
    mac.update(&(jiff::Timestamp::now().as_second() / 30).to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest[19] & 15);
    let word = u32::from_be_bytes(digest[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", word % 1_000_000)
}

both_databases!(
    async fn refresh_tokens_are_replaced_at_each_use_and_a_stolen_one_ends_the_grant(db: &TestDb) {
        let world = World::new(db).await;
        let (_, first) = world.exchange(&world.code("asha").await).await;
        let (status, second) = world.refresh(text(&first, "refresh_token")).await;
        assert_eq!(status, 200, "{second}");
        assert_ne!(first["refresh_token"], second["refresh_token"]);
        let token = text(&second, "access_token");
        assert_eq!(world.get(token, "/fhir/Patient").await.0, 200);
        let other = world
            .ask("/auth/token", &[("grant_type", "refresh_token"), ("client_id", "emr"), ("refresh_token", text(&second, "refresh_token"))])
            .await;
        assert_eq!(other.0, 401, "another client's refresh token is nothing");
        let (status, refused) = world.refresh(text(&first, "refresh_token")).await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")));
        assert_eq!(world.refresh(text(&second, "refresh_token")).await.0, 400, "the thief and the robbed are both out");
        assert_eq!(world.get(token, "/fhir/Patient").await.0, 401);
        // Of many uses at once, one counts at most.
        let (_, third) = world.exchange(&world.code("asha").await).await;
        let uses = futures_util::future::join_all((0..6).map(|_| world.refresh(text(&third, "refresh_token")))).await;
        assert!(uses.iter().filter(|(status, _)| *status == 200).count() <= 1);
        // A person who is shut out is out at once, with everything given for them.
        let (_, fourth) = world.exchange(&world.code("asha").await).await;
        people::set_disabled(&world.store, "asha", true).await.unwrap();
        assert_eq!(world.get(text(&fourth, "access_token"), "/fhir/Patient").await.0, 401);
        assert_eq!(world.refresh(text(&fourth, "refresh_token")).await.0, 400);
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_new_password_and_being_shut_out_end_for_good_what_was_given_before(db: &TestDb) {
        let world = World::new(db).await;
        let hash = hash_secret(&Secret::new(PASSWORD)).unwrap();
        for way in ["password", "disabled"] {
            let (_, granted) = world.exchange(&world.code("asha").await).await;
            let (access, refresh) = (text(&granted, "access_token"), text(&granted, "refresh_token"));
            let code = world.code("asha").await;
            let (page, cookie) = world.log_in("asha", PASSWORD, "").await;
            let page = page.text().await.unwrap();
            assert_eq!(world.get(access, "/fhir/Patient").await.0, 200);
            if way == "password" {
                people::set_password(&world.store, "asha", &hash).await.unwrap();
            } else {
                people::set_disabled(&world.store, "asha", true).await.unwrap();
                people::set_disabled(&world.store, "asha", false).await.unwrap();
            }
            assert_eq!(world.get(access, "/fhir/Patient").await.0, 401, "{way}");
            assert_eq!(world.refresh(refresh).await.0, 400, "{way}");
            assert_eq!(world.exchange(&code).await.0, 400, "{way}");
            let back = world.submit("/auth/consent", &cookie, &[("step", step(&page)), ("decision", "allow")]).await;
            assert_eq!(sent_back(&back)["error"], json!("access_denied"), "a login that was under way: {way}");
            let (_, anew) = world.exchange(&world.code("asha").await).await;
            assert_eq!(world.get(text(&anew, "access_token"), "/fhir/Patient").await.0, 200, "{way}");
            assert_eq!(world.refresh(text(&anew, "refresh_token")).await.0, 200, "{way}");
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn an_operator_changes_people_who_log_in_anew(db: &TestDb) {
        let world = World::new(db).await;
        let change = |options: &[&str]| output(db, &[&["user", "change", "asha"], options].concat());
        let (_, granted) = world.exchange(&world.code("asha").await).await;
        let token = text(&granted, "access_token");
        assert_eq!(world.get(token, "/fhir/Patient").await.0, 200);
        // A lost telephone: a new secret, and later none.
        let (code, secret, said) = change(&["--totp"]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(world.get(token, "/fhir/Patient").await.0, 401, "what was given before is worthless");
        assert_eq!(world.log_in("asha", PASSWORD, "").await.0.status(), 401);
        let kept = people::find(&world.store, "asha").await.unwrap().unwrap();
        assert_eq!(secret.trim().len(), 32, "base32 of 20 bytes");
        assert_eq!(world.log_in("asha", PASSWORD, &one_time_code(&kept.totp.unwrap())).await.0.status(), 200);
        assert_eq!(change(&["--no-totp"]).0, Some(0));
        assert_eq!(world.log_in("asha", PASSWORD, "").await.0.status(), 200);
        assert_eq!(change(&["--facility", "HF-2", "--role", "clinician", "--role", "registry", "--practitioner", "MCT-2"]).0, Some(0));
        let kept = people::find(&world.store, "asha").await.unwrap().unwrap();
        assert_eq!((kept.facility.as_str(), kept.practitioner.as_deref()), ("HF-2", Some("MCT-2")));
        assert_eq!(kept.roles, ["clinician", "registry"]);
        // Nobody is a patient's guardian and a practitioner in one login.
        for options in [&["--acts-for", "p1"][..], &[], &["--facility", "HF-2"], &["--name", ""]] {
            assert_eq!(change(options).0, Some(2), "{options:?}");
        }
        assert_eq!(people::find(&world.store, "asha").await.unwrap().unwrap(), kept);

        let hash = hash_secret(&Secret::new(PASSWORD)).unwrap();
        let mama = Person { acts_for: vec![vec!["p1".into()], vec!["p2".into()]], ..Person::new("mama", "Mama", "HF-1", hash) };
        people::add(&world.store, &mama).await.unwrap();
        for (options, left) in [(&["--acts-for", "p2"][..], vec![vec!["p2".to_owned()]]), (&["--acts-for-nobody"], vec![])] {
            let (code, _, said) = output(db, &[&["user", "change", "mama"], options].concat());
            assert_eq!(code, Some(0), "{said}");
            assert_eq!(people::find(&world.store, "mama").await.unwrap().unwrap().acts_for, left);
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_wrong_scope_costs_no_refresh_token_and_an_app_that_was_shut_out_begins_anew(db: &TestDb) {
        let world = World::new(db).await;
        let (_, first) = world.exchange(&world.code("asha").await).await;
        let refresh = text(&first, "refresh_token");
        for scope in ["system/*.rs", "patient/Nonsense.rs", ""] {
            let form = [("grant_type", "refresh_token"), ("client_id", "app"), ("refresh_token", refresh), ("scope", scope)];
            let (status, refused) = world.ask("/auth/token", &form).await;
            assert_eq!((status, &refused["error"]), (400, &json!("invalid_scope")), "{scope}: {refused}");
        }
        let (status, second) = world.refresh(refresh).await;
        assert_eq!(status, 200, "it was not used up: {second}");
        assert_eq!(world.refresh(refresh).await.0, 400, "now it is");
        // Shut out and let in again: nothing of before counts, neither tokens nor what gives new ones.
        let (_, third) = world.exchange(&world.code("asha").await).await;
        let code = world.code("asha").await;
        for disabled in [true, false] {
            clients::set_disabled(&world.store, "app", disabled).await.unwrap();
        }
        assert_eq!(world.get(text(&third, "access_token"), "/fhir/Patient").await.0, 401);
        assert_eq!(world.refresh(text(&third, "refresh_token")).await.0, 400);
        assert_eq!(world.exchange(&code).await.0, 400);
        let (_, fourth) = world.exchange(&world.code("asha").await).await;
        assert_eq!(world.get(text(&fourth, "access_token"), "/fhir/Patient").await.0, 200);
        assert_eq!(world.refresh(text(&fourth, "refresh_token")).await.0, 200);
        // A form that is too large is answered in OAuth's words.
        let (status, refused) = world.ask("/auth/token", &[("grant_type", "client_credentials"), ("scope", &"x".repeat(70_000))]).await;
        assert_eq!((status, &refused["error"]), (413, &json!("invalid_request")), "{refused}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn tokens_are_introspected_by_their_own_clients_and_revoked_everywhere(db: &TestDb) {
        let world = World::new(db).await;
        let elsewhere = TestServer::start(db, |settings| settings.base_url = Some(world.server.base.clone())).await;
        let (first, second) = (add_client(db, "emr-1", "HF-1", "system/*.rs").await, add_client(db, "emr-2", "HF-2", "system/*.rs").await);
        let token = world.server.token("emr-1", &first).await;
        let introspect = |id: &'static str, secret: String, token: String| {
            let world = &world;
            async move { world.ask("/auth/introspect", &[("client_id", id), ("client_secret", &secret), ("token", &token)]).await }
        };
        let (status, told) = introspect("emr-1", first.clone(), token.clone()).await;
        assert_eq!(
            (status, &told["active"], &told["client_id"], &told["scope"]),
            (200, &json!(true), &json!("emr-1"), &json!("system/*.rs"))
        );
        assert_eq!(introspect("emr-2", second.clone(), token.clone()).await, (200, json!({ "active": false })));
        // Whoever runs lango learns about all.
        let officer = generate_secret().unwrap();
        let operator = Client {
            roles: vec!["operator".into()],
            secret_hash: Some(hash_secret(&officer).unwrap()),
            ..Client::new("officer", "MOH", "system/AuditEvent.rs")
        };
        clients::add(&world.store, &operator).await.unwrap();
        let (_, told) = introspect("officer", officer.expose().to_owned(), token.clone()).await;
        assert_eq!((&told["active"], &told["client_id"]), (&json!(true), &json!("emr-1")));
        clients::set_disabled(&world.store, "emr-1", true).await.unwrap();
        let (_, told) = introspect("officer", officer.expose().to_owned(), token.clone()).await;
        assert_eq!(told, json!({ "active": false }), "its client is shut out");
        clients::set_disabled(&world.store, "emr-1", false).await.unwrap();
        let (_, told) = introspect("officer", officer.expose().to_owned(), token).await;
        assert_eq!(told, json!({ "active": false }), "what it had before is not given back");
        let token = world.server.token("emr-1", &first).await;
        assert_eq!(introspect("emr-1", first.clone(), "rubbish".into()).await, (200, json!({ "active": false })));
        assert_eq!(introspect("emr-1", "wrong".into(), token.clone()).await.0, 401);
        let there = || async { answer(elsewhere.client.get(elsewhere.url("/fhir/Patient")).bearer_auth(&token)).await.0 };
        assert_eq!(there().await, 200);
        let revoke = |id: &'static str, secret: String| {
            let (world, token) = (&world, token.clone());
            async move { world.ask("/auth/revoke", &[("client_id", id), ("client_secret", &secret), ("token", &token)]).await.0 }
        };
        assert_eq!(revoke("emr-2", second).await, 200, "which tells nothing");
        assert_eq!(there().await, 200, "and does nothing");
        assert_eq!(revoke("emr-1", first.clone()).await, 200);
        assert_eq!(there().await, 401, "another process knows at once");
        assert_eq!(introspect("emr-1", first, token.clone()).await.1, json!({ "active": false }));
        // A refresh token takes its whole grant along.
        let (_, granted) = world.exchange(&world.code("asha").await).await;
        let (status, _) = world.ask("/auth/revoke", &[("client_id", "app"), ("token", text(&granted, "refresh_token"))]).await;
        assert_eq!(status, 200);
        assert_eq!(world.get(text(&granted, "access_token"), "/fhir/Patient").await.0, 401);
        assert_eq!(world.refresh(text(&granted, "refresh_token")).await.0, 400);
        elsewhere.stop().await;
        world.server.stop().await;
    }
);

both_databases!(
    async fn keys_rotate_without_anybody_noticing(db: &TestDb) {
        let secret = add_client(db, "emr", "HF-1", "system/*.rs").await;
        let server = TestServer::smart(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let before = server.token("emr", &secret).await;
        keys::rotate(&store).await.unwrap();
        // A process that started since signs with the new key; the one that runs believes it without being told.
        let newer = TestServer::start(db, |settings| settings.base_url = Some(server.base.clone())).await;
        let after = newer.token("emr", &secret).await;
        let kid = |token: &str| jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
        assert_ne!(kid(&before), kid(&after));
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await; // the pause between two looks for strange keys
        // Who meets a key that they do not know asks any process for the set, which may have seen no token of it.
        let (_, keys) = server.get("/auth/jwks.json").await;
        assert!(keys["keys"].as_array().unwrap().iter().any(|key| text(key, "kid") == kid(&after)), "{keys}");
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
        for server in [&server, &newer] {
            for token in [&before, &after] {
                assert_eq!(answer(server.client.get(server.url("/fhir/Patient")).bearer_auth(token)).await.0, 200);
            }
            let (_, keys) = server.get("/auth/jwks.json").await;
            let published: Vec<&str> = keys["keys"].as_array().unwrap().iter().map(|key| text(key, "kid")).collect();
            assert!(published.contains(&kid(&before).as_str()) && published.contains(&kid(&after).as_str()));
        }
        newer.stop().await;
        server.stop().await;
    }
);
