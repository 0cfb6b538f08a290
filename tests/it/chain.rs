//! The audit's chain, whoever adds to it: processes at once, one that died, one of an earlier version.

use crate::support::program::{Running, command, output};
use crate::support::server::answer;
use crate::support::{TestDb, TestServer, both_databases, eventually, sql, until};
use lango::access::audit::checkpoint::Notary;
use lango::access::audit::verify::{Broken, Whole, verify};
use lango::access::audit::{Event, told};
use lango::config::{AuditMode, AuthMode, Settings};
use lango::store::audit::NOBODY;
use lango::store::{AuditRow, Scope, Sealed, Store, Subject, Unit};
use serde_json::{Value, json};

/// The chain once everything is sealed and published.
async fn settled(store: &Store) -> Vec<Sealed> {
    until("events are published in the end", async || store.unpublished().await.unwrap() == 0).await;
    store.sealed_after(0, 100_000).await.unwrap()
}

async fn whole(store: &Store) -> Whole {
    verify(store, &Notary::open(store).await.unwrap(), "", 0).await.unwrap().unwrap()
}

/// Each event has become one AuditEvent of one version.
async fn all_published_once(store: &Store, rows: &[Sealed]) {
    let type_code = lango::definitions::r4().type_code("AuditEvent").unwrap();
    for told in rows.iter().flat_map(|row| told(row).unwrap()) {
        let versions = store.history(type_code, &told.id, None, 10, &Scope::All).await.unwrap();
        assert_eq!(versions.len(), 1, "{told:?}");
    }
}

async fn recorded(db: &TestDb) -> TestServer {
    let settings = |settings: &mut Settings| (settings.auth, settings.audit.record) = (AuthMode::Open, AuditMode::Always);
    TestServer::start(db, settings).await
}

fn recording(db: &TestDb) -> Running {
    let mut serve = command(db, &["serve", "--listen", "127.0.0.1:0"]);
    serve.env("LANGO_AUTH", "open").env("LANGO_AUDIT_RECORD", "always").stderr(std::process::Stdio::null());
    Running::start(serve)
}

both_databases!(
    async fn servers_and_commands_that_write_at_once_make_one_chain(db: &TestDb) {
        const READS: usize = 40;
        const COMMANDS: usize = 4;
        let (one, other) = (recorded(db).await, recorded(db).await);
        let store = Store::open(&db.url).await.unwrap();
        let patient = json!({ "resourceType": "Patient", "id": "a" });
        assert_eq!(one.put("/fhir/Patient/a", &patient).await.0, 201);
        let reads = async |server: &TestServer| {
            let reads = (0..READS).map(|_| answer(server.client.get(server.url("/fhir/Patient/a"))));
            for (status, told) in futures_util::future::join_all(reads).await {
                assert_eq!(status, 200, "{told}");
            }
        };
        let writes = async {
            for n in 0..READS {
                let id = format!("p-{n}");
                assert_eq!(one.put(&format!("/fhir/Patient/{id}"), &json!({ "resourceType": "Patient", "id": id })).await.0, 201);
            }
        };
        let commands = async {
            let commands = (0..COMMANDS).map(|n| {
                let mut add = command(db, &["client", "add", &format!("c-{n}"), "--facility", "HF-A", "--scope", "system/*.rs"]);
                tokio::task::spawn_blocking(move || add.env("LANGO_AUDIT_RECORD", "always").output().unwrap())
            });
            for done in futures_util::future::join_all(commands).await {
                let done = done.unwrap();
                assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            }
        };
        tokio::join!(reads(&one), reads(&other), writes, commands);
        let rows = settled(&store).await;
        assert_eq!(whole(&store).await.rows, rows.len() as u64);
        let count = |interaction: &str| {
            let events = rows.iter().map(|row| serde_json::from_str::<Event>(&row.event).unwrap());
            events.filter(|event| event.interaction == interaction).count()
        };
        // A new resource by PUT is a create.
        assert_eq!((count("read"), count("create"), count("operation")), (2 * READS, READS + 1, COMMANDS));
        all_published_once(&store, &rows).await;
        one.stop().await;
        other.stop().await;
        store.close().await;
    }
);

both_databases!(
    async fn what_an_earlier_version_left_unsealed_is_sealed_at_the_start_before_what_is_new(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        sql(
            &store,
            r#"INSERT INTO audit_new (at, owner, patient, event) VALUES
               (1, -2, 0, '{"action":"R","interaction":"read","status":200,"request":"first"}'),
               (2, -2, 0, '{"action":"R","interaction":"read","status":200,"request":"second"}')"#,
        )
        .await;
        store.close().await;
        let server = recorded(db).await;
        let store = Store::open(&db.url).await.unwrap();
        store.seal().await.unwrap();
        assert_eq!(server.get("/fhir/Patient/nobody").await.0, 404);
        let rows = settled(&store).await;
        let requests: Vec<String> = rows.iter().map(|row| serde_json::from_str::<Event>(&row.event).unwrap().request).collect();
        assert_eq!(requests, ["first", "second", "GET /fhir/Patient/nobody"]);
        assert_eq!(whole(&store).await.rows, 3);
        all_published_once(&store, &rows).await;
        server.stop().await;
        store.close().await;
    }
);

both_databases!(
    async fn a_process_that_dies_leaves_a_whole_chain_with_all_that_it_answered_and_the_next_publishes_it_once(db: &TestDb) {
        let (mut answered, mut first) = (0, true);
        for _ in 0..3 {
            let server = recording(db);
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            if std::mem::take(&mut first) {
                let body = json!({ "resourceType": "Patient", "id": "a" }).to_string();
                let put = client.put(format!("{}/fhir/Patient/a", server.base)).header("content-type", "application/fhir+json");
                assert_eq!(answer(put.body(body)).await.0, 201);
            }
            let reads = (0..8).map(|_| {
                let (client, url) = (client.clone(), format!("{}/fhir/Patient/a", server.base));
                tokio::spawn(async move {
                    let mut answered = 0;
                    // Until it dies.
                    while let Ok(response) = client.get(&url).send().await {
                        let Ok(body) = response.bytes().await else { break };
                        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["id"], "a");
                        answered += 1;
                    }
                    answered
                })
            });
            let reads: Vec<_> = reads.collect();
            let store = Store::open(&db.url).await.unwrap();
            // It dies when it has published some.
            let published = store.published().await.unwrap();
            until("publishing goes on while requests come", async || store.published().await.unwrap() != published).await;
            server.kill();
            for reader in reads {
                answered += reader.await.unwrap();
            }
            store.seal().await.unwrap();
            let rows = store.sealed_after(0, 100_000).await.unwrap();
            assert_eq!(whole(&store).await.rows, rows.len() as u64);
            let read = rows.iter().filter(|row| row.event.contains(r#""interaction":"read""#)).count();
            assert!(read >= answered, "{read} {answered}");
            store.close().await;
        }
        let server = recording(db);
        let store = Store::open(&db.url).await.unwrap();
        let rows = settled(&store).await;
        all_published_once(&store, &rows).await;
        assert_eq!(whole(&store).await.rows, rows.len() as u64);
        let (_, said, _) = output(db, &["audit", "verify"]);
        assert!(said.contains("whole"), "{said}");
        server.kill();
        store.close().await;
    }
);

both_databases!(
    async fn an_answer_about_several_patients_is_one_row_from_which_each_is_told_the_same_before_and_after_it_is_indexed(db: &TestDb) {
        let server = recorded(db).await;
        let store = Store::open(&db.url).await.unwrap();
        for id in ["a", "b", "c"] {
            assert_eq!(server.put(&format!("/fhir/Patient/{id}"), &json!({ "resourceType": "Patient", "id": id })).await.0, 201);
        }
        store.seal().await.unwrap();
        let before = store.sealed_head().await.unwrap().unwrap().position;
        let disclosures = async |id: &str, rest: &str| -> (Vec<String>, Value) {
            let (status, bundle) = server.get(&format!("/fhir/Patient/{id}/$disclosures{rest}")).await;
            assert_eq!(status, 200, "{bundle}");
            let entries = bundle["entry"].as_array().cloned().unwrap_or_default();
            (entries.iter().map(|entry| entry["fullUrl"].as_str().unwrap().to_owned()).collect(), bundle)
        };
        assert_eq!(server.get("/fhir/Patient?_id=a,b").await.0, 200);
        store.seal().await.unwrap();
        let rows = store.sealed_after(before, 10).await.unwrap();
        let events = told(&rows[0]).unwrap();
        assert_eq!((rows.len(), events.len()), (1, 3), "{rows:?}");
        let (at_once, bundle) = disclosures("a", "").await;
        assert!(!bundle.to_string().contains("Patient/b"), "{bundle}");
        assert_eq!(server.get("/fhir/Patient/a").await.0, 200);
        let newer = disclosures("a", "").await.0;
        assert_eq!((newer.len(), &newer[1..]), (2, &at_once[..]), "newest first");
        settled(&store).await;
        let last = store.sealed_head().await.unwrap().unwrap().position;
        assert!(store.indexed().await.unwrap() >= last);
        assert_eq!(disclosures("a", "").await.0, newer);
        // Pages.
        let (first, page) = disclosures("a", "?_count=1").await;
        let next = page["link"].as_array().unwrap().iter().find(|link| link["relation"] == "next").unwrap()["url"].as_str().unwrap();
        let (second, _) = disclosures("a", &next[next.find('?').unwrap()..]).await;
        assert_eq!([first, second].concat(), newer);
        // The AuditEvents are those that the accounting names, each about one patient.
        for (id, count) in [("a", 2), ("b", 1), ("c", 0)] {
            let (urls, _) = disclosures(id, "").await;
            assert_eq!(urls.len(), count, "{id}");
            for url in urls {
                let (status, event) = server.get(url.strip_prefix(&server.base).unwrap()).await;
                let text = event.to_string();
                assert!(status == 200 && text.contains(&format!("Patient/{id}")), "{text}");
                assert_eq!(["a", "b", "c"].iter().filter(|id| text.contains(&format!("Patient/{id}\""))).count(), 1, "{text}");
            }
        }
        // The notes can be lost: they are made of the rows again.
        settled(&store).await;
        let last = store.sealed_head().await.unwrap().unwrap().position;
        sql(&store, "DELETE FROM audit_about").await;
        let notary = Notary::open(&store).await.unwrap();
        assert!(matches!(verify(&store, &notary, "", 0).await.unwrap(), Err(Broken::Notes(_))));
        sql(&store, "UPDATE audit_published SET indexed = 0").await;
        until("they are made again", async || store.indexed().await.unwrap() >= last).await;
        whole(&store).await;
        assert_eq!(disclosures("a", "").await.0, newer);
        server.stop().await;
        store.close().await;
    }
);

both_databases!(
    async fn a_chain_that_servers_made_and_that_no_checkpoint_is_left_of_is_not_called_whole(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let notary = Notary::open(&store).await.unwrap();
        let now = jiff::Timestamp::now().as_microsecond();
        let record = async |minutes: i64, lango: bool| {
            let event = json!({ "action": "R", "interaction": "read", "status": 200, "lango": lango }).to_string();
            let row = AuditRow { at: now - minutes * 60_000_000, owner: NOBODY, subject: Subject::Nobody, event };
            store.commit(Unit::of_audit(vec![row], Vec::new())).await.unwrap();
            store.seal().await.unwrap();
        };
        record(100, true).await;
        record(50, true).await;
        record(1, false).await;
        record(0, false).await;
        assert!(verify(&store, &notary, "", 0).await.unwrap().is_ok(), "commands sign nothing, and a server begins with a minute");
        let (code, said, _) = output(db, &["audit", "verify"]);
        assert!(code == Some(0) && said.contains("cannot be vouched for"), "{said}");
        record(-2, false).await;
        assert_eq!(verify(&store, &notary, "", 0).await.unwrap(), Err(Broken::Unattested(5)));
        let head = store.sealed_head().await.unwrap().unwrap();
        notary.attest(&store, &head).await.unwrap();
        assert!(verify(&store, &notary, "", 0).await.unwrap().is_ok());
        store.close().await;
    }
);

both_databases!(
    async fn checkpoints_that_their_file_could_not_take_are_in_it_once_it_can(db: &TestDb) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later").join("checkpoints");
        let path = file.clone();
        let server = TestServer::start(db, |settings| {
            (settings.auth, settings.audit.record) = (AuthMode::Open, AuditMode::Always);
            settings.audit.checkpoint_file = Some(path);
        })
        .await;
        let store = Store::open(&db.url).await.unwrap();
        assert_eq!(server.get("/fhir/Patient").await.0, 200);
        until("one is signed soon", async || !store.checkpoints().await.unwrap().is_empty()).await;
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        server.stop().await;
        let signed: Vec<String> = store.checkpoints().await.unwrap().into_iter().map(|(.., signed)| signed).collect();
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().collect::<Vec<_>>(), signed);
        store.close().await;
    }
);

both_databases!(
    async fn a_server_removes_what_is_older_than_it_was_told_to_keep(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let day = 24 * 3600 * 1_000_000;
        let now = jiff::Timestamp::now().as_microsecond();
        let event = r#"{"action":"R","interaction":"read","status":200}"#;
        for age in [40, 31, 29, 0] {
            let row = AuditRow { at: now - age * day, owner: NOBODY, subject: Subject::Nobody, event: event.to_owned() };
            store.commit(Unit::of_audit(vec![row], Vec::new())).await.unwrap();
        }
        let server = TestServer::start(db, |settings| settings.audit.keep_days = 30).await;
        eventually("the two that are older go", async || {
            let first = store.sealed_after(0, 1).await.unwrap().first().map(|row| row.position);
            if first == Some(3) { Ok(()) } else { Err(first) }
        })
        .await;
        server.stop().await;
        let notary = Notary::open(&store).await.unwrap();
        let whole = verify(&store, &notary, "", 0).await.unwrap().unwrap();
        assert_eq!((whole.first, whole.rows), (3, 2), "what is younger stays, and the chain with it");
        store.close().await;
    }
);
