//! The operator's pages: who comes in, what they change, and that no other page can send their forms.

use crate::support::login::user;
use crate::support::program::output;
use crate::support::server::answer;
use crate::support::{TestDb, TestServer, both_databases, sealed, smart};
use lango::access::audit::Event;
use lango::access::clients::{self, Client};
use lango::access::hash_secret;
use lango::access::people::{self, Person};
use lango::config::Secret;
use lango::store::Store;
use reqwest::{Response, header};
use serde_json::json;

const PASSWORD: &str = "correct horse battery";

/// A server, an operator and a clinician.
struct World {
    server: TestServer,
    store: Store,
    browser: reqwest::Client,
}

impl World {
    async fn new(db: &TestDb) -> World {
        let server = TestServer::smart(db).await;
        let store = Store::open(&db.url).await.unwrap();
        let hash = hash_secret(&Secret::new(PASSWORD)).unwrap();
        for (name, role) in [("amina", "operator"), ("asha", "clinician")] {
            let person = Person { roles: vec![role.into()], ..Person::new(name, name, "MOH", hash.clone()) };
            people::add(&store, &person).await.unwrap();
        }
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        World { server, store, browser }
    }

    async fn get(&self, path: &str, cookie: &str) -> Response {
        self.browser.get(self.server.url(path)).header(header::COOKIE, cookie).send().await.unwrap()
    }

    async fn page(&self, path: &str, cookie: &str) -> String {
        let response = self.get(path, cookie).await;
        assert_eq!(response.status(), 200);
        response.text().await.unwrap()
    }

    async fn send(&self, path: &str, cookie: &str, origin: &str, fields: &[(&str, &str)]) -> Response {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.browser.post(self.server.url(path)).header(header::COOKIE, cookie).header(header::ORIGIN, origin);
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(body).send().await.unwrap()
    }

    async fn submit(&self, path: &str, cookie: &str, fields: &[(&str, &str)]) -> Response {
        self.send(path, cookie, &self.server.base, fields).await
    }

    async fn log_in(&self, name: &str, password: &str) -> Response {
        let page = self.get("/console/login", "").await;
        let cookie = cookie_of(&page);
        let page = page.text().await.unwrap();
        self.submit("/console/login", &cookie, &[("token", token(&page)), ("username", name), ("password", password), ("code", "")]).await
    }

    /// The cookie of an operator's session, and what its forms carry.
    async fn session(&self) -> (String, String) {
        let response = self.log_in("amina", PASSWORD).await;
        assert_eq!((response.status().as_u16(), location(&response)), (303, "/console/clients".to_owned()));
        let cookie = cookie_of(&response);
        let page = self.page("/console/clients", &cookie).await;
        let token = token(&page).to_owned();
        (cookie, token)
    }

    async fn calls_with(&self, id: &str, secret: &str) -> u16 {
        let form = format!("grant_type=client_credentials&client_id={id}&client_secret={secret}");
        let request = self.server.client.post(self.server.url("/auth/token"));
        answer(request.header("content-type", "application/x-www-form-urlencoded").body(form)).await.0
    }

    /// What was recorded: by whom, the request, the status.
    async fn recorded(&self) -> Vec<(Option<String>, String, u16)> {
        sealed(&self.store).await;
        let rows = self.store.sealed_after(0, 10_000).await.unwrap();
        let events = rows.iter().map(|row| serde_json::from_str::<Event>(&row.event).unwrap());
        events.map(|event| (event.agent.person, event.request, event.status)).collect()
    }
}

fn token(page: &str) -> &str {
    page.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_else(|| panic!("{page}"))
}

fn cookie_of(response: &Response) -> String {
    let cookie = response.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Path=/console"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

fn location(response: &Response) -> String {
    response.headers()[header::LOCATION].to_str().unwrap().to_owned()
}

/// The secret that a page shows.
fn secret(page: &str) -> String {
    page.split("<code id=\"secret\">").nth(1).and_then(|rest| rest.split('<').next()).unwrap_or_else(|| panic!("{page}")).to_owned()
}

both_databases!(
    async fn an_operator_adds_renews_and_shuts_out_clients_and_it_counts_at_once(db: &TestDb) {
        let world = World::new(db).await;
        let (cookie, token) = world.session().await;
        let fields = [
            ("token", token.as_str()),
            ("id", "emr-1"),
            ("facility", "HF-1"),
            ("scope", "system/*.rs"),
            ("role", "facility"),
            ("role", "clinician"),
            ("proof", "secret"),
        ];
        let added = world.submit("/console/clients", &cookie, &fields).await;
        assert_eq!((added.status().as_u16(), &added.headers()["cache-control"]), (200, &"no-store".parse().unwrap()));
        let first = secret(&added.text().await.unwrap());
        let client = clients::find(&world.store, "emr-1").await.unwrap().unwrap();
        assert_eq!((client.facility.as_str(), client.roles.as_slice()), ("HF-1", &["facility".to_owned(), "clinician".to_owned()][..]));
        assert!(!client.secret_hash.unwrap().contains(&first));
        assert_eq!(world.calls_with("emr-1", &first).await, 200);
        let page = world.page("/console/clients?q=EMR", &cookie).await;
        assert!(page.contains("emr-1") && page.contains("HF-1") && !page.contains(&first), "shown once");
        assert!(!page.contains("/secret\"") && !page.contains("/disable\""), "what ends a program's work is no button of a list: {page}");
        let page = world.page("/console/clients/emr-1", &cookie).await;
        assert!(page.contains("/console/clients/emr-1/secret\"") && page.contains("/console/clients/emr-1/disable\""), "{page}");
        for act in ["secret", "disable"] {
            let again = world.get(&format!("/console/clients/emr-1/{act}"), &cookie).await;
            assert_eq!(
                (again.status().as_u16(), location(&again)),
                (303, "/console/clients/emr-1".to_owned()),
                "a button's address does nothing"
            );
        }
        let bearer = world.server.token("emr-1", &first).await;
        let reads = || async { answer(world.server.client.get(world.server.url("/fhir/Patient")).bearer_auth(&bearer)).await.0 };
        assert_eq!(reads().await, 200);

        let form = [("token", token.as_str())];
        let renewed = world.submit("/console/clients/emr-1/secret", &cookie, &form).await;
        let second = secret(&renewed.text().await.unwrap());
        assert_eq!((world.calls_with("emr-1", &first).await, world.calls_with("emr-1", &second).await), (401, 200));
        // What it was given before it was shut out stays worthless.
        for (change, status) in [("disable", 401), ("enable", 200)] {
            let response = world.submit(&format!("/console/clients/emr-1/{change}"), &cookie, &form).await;
            assert_eq!((response.status().as_u16(), location(&response)), (303, "/console/clients/emr-1".to_owned()));
            assert_eq!((reads().await, world.calls_with("emr-1", &second).await), (401, status), "{change}");
        }
        assert_eq!(world.submit("/console/clients/nobody/disable", &cookie, &form).await.status(), 404);
        assert_eq!(world.submit("/console/clients/emr-1/delete", &cookie, &form).await.status(), 404);

        // The rules of the command, in its words; what was typed is shown again as text, the secret is not.
        for (change, status, words) in [
            (("id", "emr-1"), 409, "exists already"),
            (("id", "em r"), 400, "a client id has"),
            (("id", ".."), 400, "not only dots"),
            (("scope", "system/Nothing.rs"), 400, "is no scope"),
            (("scope", "user/*.rs"), 400, "are for apps that people log in with"),
            (("proof", "public"), 400, "needs a redirect URI"),
            (("proof", "keys"), 400, "the key set is not JSON"),
            (("role", "king"), 400, "a role is one of"),
            (("certificate", "-"), 400, "no certificate in PEM"),
            (("secret", "short"), 400, "a secret has 12 to 1024"),
        ] {
            let mut fields: Vec<(&str, &str)> = fields.iter().copied().filter(|(name, _)| *name != change.0).collect();
            if change.0 != "id" {
                fields.retain(|(name, _)| *name != "id");
                fields.push(("id", "emr-2"));
            }
            fields.push(change);
            let response = world.submit("/console/clients", &cookie, &fields).await;
            assert_eq!(response.status(), status, "{change:?}");
            let page = response.text().await.unwrap();
            assert!(page.contains(words) && !page.contains("value=\"short\""), "{change:?}: {page}");
            assert!(!page.contains("<table>"), "what is wrong stands above everything else: {page}");
        }
        let hostile = [("token", token.as_str()), ("id", "\"><script>"), ("facility", "x"), ("scope", "x")];
        let page = world.submit("/console/clients", &cookie, &hostile).await.text().await.unwrap();
        assert!(!page.contains("<script>"), "{page}");

        let recorded = world.recorded().await;
        let by_amina = |words: &str, status: u16| {
            let fits = |(person, request, found): &&(Option<String>, String, u16)| {
                person.as_deref() == Some("amina") && request.contains(words) && *found == status
            };
            recorded.iter().filter(fits).count()
        };
        assert_eq!(by_amina("id=emr-1&facility=HF-1", 200), 1, "{recorded:?}");
        assert_eq!((by_amina("/emr-1/disable", 200), by_amina("/emr-1/enable", 200), by_amina("/emr-1/secret", 200)), (1, 1, 1));
        assert_eq!(by_amina("id=emr-1&facility=HF-1", 409), 1, "what was refused too");
        let all = format!("{recorded:?}");
        assert!(![first.as_str(), second.as_str(), "short", PASSWORD].iter().any(|secret| all.contains(secret)), "{all}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn an_operator_changes_a_client_and_what_was_not_touched_stays(db: &TestDb) {
        let world = World::new(db).await;
        let (cookie, token) = world.session().await;
        let (code, secret, said) =
            output(db, &["client", "add", "emr-1", "--facility", "HF-1", "--scope", "system/*.rs", "--role", "clinician"]);
        assert_eq!(code, Some(0), "{said}");
        let page = world.page("/console/clients", &cookie).await;
        assert!(page.contains("href=\"/console/clients/emr-1\""), "{page}");
        let page = world.page("/console/clients/emr-1", &cookie).await;
        assert!(page.contains("value=\"system/*.rs\"") && page.contains("value=\"clinician\" checked"), "{page}");
        let before = clients::find(&world.store, "emr-1").await.unwrap().unwrap();
        let fields = [("token", token.as_str()), ("scope", "system/Patient.rs"), ("role", "registry"), ("proof", "")];
        let changed = world.submit("/console/clients/emr-1", &cookie, &fields).await;
        assert_eq!((changed.status().as_u16(), location(&changed)), (303, "/console/clients/emr-1".to_owned()));
        let after = clients::find(&world.store, "emr-1").await.unwrap().unwrap();
        let expected = clients::Client { scopes: "system/Patient.rs".into(), roles: vec!["registry".into()], ..before };
        assert_eq!(after, expected);
        assert_eq!(world.calls_with("emr-1", secret.trim()).await, 200);
        for (change, words) in [
            (("scope", "user/*.rs"), "are for apps that people log in with"),
            (("proof", "keys"), "the key set is not JSON"),
            (("certificate", "-"), "no certificate in PEM"),
            (("role", "king"), "a role is one of"),
        ] {
            let mut fields: Vec<(&str, &str)> = fields.iter().copied().filter(|(name, _)| *name != change.0).collect();
            fields.push(change);
            let response = world.submit("/console/clients/emr-1", &cookie, &fields).await;
            assert_eq!(response.status(), 400, "{change:?}");
            let page = response.text().await.unwrap();
            assert!(page.contains(words), "{change:?}: {page}");
        }
        let keys = smart::public_keys();
        let fields = [fields.as_slice(), &[("keys", keys.as_str())]].concat();
        let fields: Vec<(&str, &str)> =
            fields.into_iter().map(|field| if field.0 == "proof" { ("proof", "keys") } else { field }).collect();
        assert_eq!(world.submit("/console/clients/emr-1", &cookie, &fields).await.status(), 303);
        assert_eq!(world.calls_with("emr-1", secret.trim()).await, 401, "keys take the place of the secret");
        assert_eq!(smart::ask_signed(&world.server, "emr-1", &json!({})).await.0, 200);
        assert_eq!(clients::find(&world.store, "emr-1").await.unwrap().unwrap().facility, "HF-1");
        for path in ["/console/clients/nobody", "/console/clients/%22%3E%3Cscript%3E"] {
            assert_eq!(world.get(path, &cookie).await.status(), 404);
            assert_eq!(world.submit(path, &cookie, &fields).await.status(), 404);
        }
        assert_eq!(world.get("/console/clients/emr-1", "").await.status(), 303, "nobody without a session");
        let told: Vec<String> = world.recorded().await.into_iter().map(|(_, request, _)| request).collect();
        assert!(told.iter().any(|request| request.contains("scope=system%2FPatient.rs")), "{told:?}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn only_operators_come_in_and_a_session_ends_with_what_it_rests_on(db: &TestDb) {
        let world = World::new(db).await;
        for path in ["/console", "/console/clients"] {
            let response = world.get(path, "").await;
            assert_eq!((response.status().as_u16(), location(&response)), (303, "/console/login".to_owned()), "{path}");
        }
        assert_eq!(world.submit("/console/clients", "", &[]).await.status(), 401);
        assert_eq!(world.log_in("amina", "wrong").await.status(), 401);
        let clinician = world.log_in("asha", PASSWORD).await;
        let cookie = cookie_of(&clinician);
        assert_eq!(world.get("/console/clients", &cookie).await.status(), 403);
        assert_eq!(world.submit("/console/clients", &cookie, &[]).await.status(), 403);
        let page = world.get("/console/clients", &cookie).await.text().await.unwrap();
        assert_eq!(world.submit("/console/logout", &cookie, &[("token", token(&page))]).await.status(), 303, "they can leave");
        assert_eq!(world.get("/console/clients", &cookie).await.status(), 303);

        let (cookie, token) = world.session().await;
        // A session is no token, and a token no session.
        assert_eq!(world.get("/fhir/Patient", &cookie).await.status(), 401);
        let spoiled = format!("{cookie}x");
        for wrong in ["lango-console=", "lango-console=a.b", spoiled.as_str()] {
            assert_eq!(world.get("/console/clients", wrong).await.status(), 303, "{wrong}");
        }
        let (other, _) = world.session().await;
        assert_eq!(world.submit("/console/logout", &cookie, &[("token", &token)]).await.status(), 303);
        assert_eq!(world.get("/console/clients", &cookie).await.status(), 303, "ended, though the cookie is kept");
        assert_eq!(world.get("/console/clients", &other).await.status(), 200);
        people::set_password(&world.store, "amina", &hash_secret(&Secret::new(PASSWORD)).unwrap()).await.unwrap();
        assert_eq!(world.get("/console/clients", &other).await.status(), 303, "a new password ends it");
        let (third, _) = world.session().await;
        people::set_disabled(&world.store, "amina", true).await.unwrap();
        assert_eq!(world.get("/console/clients", &third).await.status(), 303);
        people::set_disabled(&world.store, "amina", false).await.unwrap();
        assert_eq!(world.get("/console/clients", &third).await.status(), 303, "what ended does not come back");
        let tried: Vec<String> =
            world.recorded().await.into_iter().filter(|(.., status)| *status == 401).map(|(_, request, _)| request).collect();
        assert!(tried.contains(&"POST /console/login\n\nusername=amina".to_owned()), "whose login was tried: {tried:?}");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_form_that_another_page_sends_changes_nothing(db: &TestDb) {
        let world = World::new(db).await;
        let (cookie, token) = world.session().await;
        let (other, other_token) = world.session().await;
        let fields = |token: &'static str| [("token", token), ("id", "emr-1"), ("facility", "HF-1"), ("scope", "system/*.rs")];
        let mut own = fields("");
        own[0].1 = &token;
        for (cookie, origin, fields) in [
            (&cookie, "https://evil.example", own),
            (&cookie, "null", own),
            (&cookie, world.server.base.as_str(), fields("")),
            (&cookie, world.server.base.as_str(), fields("0000000000000000000000000000000000000000000000000000000000000000")),
            (&other, world.server.base.as_str(), own),
        ] {
            assert_eq!(world.send("/console/clients", cookie, origin, &fields).await.status(), 400, "{origin}");
        }
        assert_eq!(world.submit("/console/clients/x/disable", &cookie, &[("token", &other_token)]).await.status(), 400);
        assert!(clients::list(&world.store).await.unwrap().is_empty());
        let response = world.get("/console/clients", &cookie).await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        // Nor does another page log anybody in.
        let fields = [("token", token.as_str()), ("username", "amina"), ("password", PASSWORD), ("code", "")];
        for cookie in ["", "lango-console-login=", &cookie] {
            assert_eq!(world.submit("/console/login", cookie, &fields).await.status(), 400, "{cookie}");
        }
        world.server.stop().await;
    }
);

both_databases!(
    async fn what_commands_change_about_clients_and_people_is_recorded_too(db: &TestDb) {
        let world = World::new(db).await;
        for command in
            ["client add emr-1 --facility HF-1 --scope system/*.rs", "client change emr-1 --role registry", "client disable emr-1"]
        {
            let words: Vec<&str> = command.split(' ').collect();
            let (code, _, said) = output(db, &words);
            assert_eq!(code, Some(0), "{said}");
        }
        user(db, &["add", "baraka", "--facility", "HF-1", "--patient", "p1"]);
        for words in [["link", "baraka"], ["password", "baraka"], ["disable", "baraka"], ["enable", "baraka"]] {
            user(db, &words);
        }
        user(db, &["change", "baraka", "--role", "clinician"]);
        let told: Vec<String> = world.recorded().await.into_iter().map(|(_, request, _)| request).collect();
        let of_clients = ["add", "change", "disable"].map(|change| format!("lango client {change} emr-1"));
        let of_people = ["add", "link", "password", "disable", "enable", "change"].map(|change| format!("lango user {change} baraka"));
        assert_eq!(told, [&of_clients[..], &of_people].concat());
        world.server.stop().await;
    }
);

both_databases!(
    async fn who_looks_at_a_page_is_told_on_a_page_and_programs_are_told_as_ever(db: &TestDb) {
        let world = World::new(db).await;
        let (cookie, token) = world.session().await;
        let fields = [("token", token.as_str()), ("id", "emr-1"), ("keys", &"k".repeat(70_000))];
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        for (method, path, status, words) in [
            ("GET", "/console/nothing", 404, "There is no such page."),
            ("PUT", "/console/clients", 405, "only reached from the one before it"),
            ("POST", "/console/clients", 413, "a form takes 64 KiB"),
            ("GET", "/auth/login", 405, "only reached from the one before it"),
            ("GET", "/auth/consent", 405, "Go back to the app"),
            ("GET", "/", 200, "/console"),
        ] {
            let send = async |accept: &str| {
                let request = world.browser.request(method.parse().unwrap(), world.server.url(path)).header(header::COOKIE, &cookie);
                let request = request.header(header::ACCEPT, accept).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                request.body(if method == "POST" { body.clone() } else { String::new() }).send().await.unwrap()
            };
            let page = send("text/html,application/xml;q=0.9,*/*;q=0.8").await;
            assert_eq!(page.status(), status, "{path}");
            assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
            assert!(page.headers().contains_key("content-security-policy"), "{path}");
            let page = page.text().await.unwrap();
            assert!(page.contains(words), "{path}: {page}");
            let program = send("application/fhir+json").await;
            assert_eq!(program.status(), if path == "/" { 404 } else { status }, "{path}");
            assert!(!program.headers()["content-type"].to_str().unwrap().contains("html"), "{path}");
        }
        assert_eq!(world.get("/favicon.ico", "").await.status(), 204);
        let told: Vec<String> = world.recorded().await.into_iter().map(|(_, request, _)| request).collect();
        assert!(!told.iter().any(|request| request.contains("favicon")), "what every browser asks for is nobody's knock: {told:?}");
        let style = world.get("/auth/style.css", "").await;
        assert_eq!(style.headers()["cache-control"], "public, max-age=3600");
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_login_keeps_the_name_and_those_of_two_tabs_are_both_good(db: &TestDb) {
        let world = World::new(db).await;
        let first = world.get("/console/login", "").await;
        let cookie = cookie_of(&first);
        let first = first.text().await.unwrap();
        let second = world.get("/console/login", &cookie).await;
        assert_eq!(cookie_of(&second), cookie);
        let fields = |password| [("token", token(&first)), ("username", "amina "), ("password", password), ("code", "")];
        let wrong = world.submit("/console/login", &cookie, &fields("wrong")).await;
        assert_eq!(wrong.status(), 401);
        let page = wrong.text().await.unwrap();
        assert!(page.contains("value=\"amina\""), "{page}");
        let logged_in = world.submit("/console/login", &cookie, &fields(PASSWORD)).await;
        assert_eq!(logged_in.status(), 303);
        let again = world.get("/console/login", &cookie_of(&logged_in)).await;
        assert_eq!((again.status().as_u16(), location(&again)), (303, "/console/clients".to_owned()), "who is in need not log in");
        // Nothing but what lango made goes from a cookie into a header.
        let spoiled = world.get("/console/login", "lango-console-login=x; Path=/").await;
        assert!(!cookie_of(&spoiled).ends_with("=x"));
        world.server.stop().await;
    }
);

both_databases!(
    async fn a_change_of_a_client_leaves_what_somebody_else_changed_meanwhile(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let hash = |secret: &str| hash_secret(&Secret::new(secret)).unwrap();
        let first = Client { secret_hash: Some(hash("the first secret")), ..Client::new("emr-1", "HF-1", "system/*.cruds") };
        clients::add(&store, &first).await.unwrap();
        // Two look at it, and each changes another thing.
        let before = clients::find(&store, "emr-1").await.unwrap().unwrap();
        let renewed = hash("another secret");
        clients::set_secret(&store, "emr-1", &renewed).await.unwrap();
        clients::replace(&store, &before, &Client { scopes: "system/*.rs".into(), ..before.clone() }).await.unwrap();
        clients::replace(&store, &before, &Client { roles: vec!["registry".into()], ..before.clone() }).await.unwrap();
        let now = clients::find(&store, "emr-1").await.unwrap().unwrap();
        assert_eq!(
            (now.secret_hash.as_ref(), now.scopes.as_str(), &now.roles[..]),
            (Some(&renewed), "system/*.rs", &["registry".to_owned()][..])
        );
        // Another proof ends the one that was meanwhile too.
        let url = Some("https://keys.example.org/set".to_owned());
        clients::replace(&store, &before, &Client { secret_hash: None, jwks_url: url.clone(), ..before.clone() }).await.unwrap();
        let now = clients::find(&store, "emr-1").await.unwrap().unwrap();
        assert_eq!((now.secret_hash, now.jwks_url), (None, url));
        store.close().await;
    }
);
