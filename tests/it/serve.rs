//! The program as it is run: its one line, its signals, its commands beside a running server.

use crate::support::program::{self, Running};
use crate::support::{TestDb, TestServer, both_databases};
use lango::store::write::NewJob;
use lango::store::{JobEnd, Store, Unit};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

both_databases!(
    async fn serve_says_one_line_answers_and_ends_well_on_either_signal(db: &TestDb) {
        for name in ["TERM", "INT"] {
            let running = Running::serve(db, &[]);
            assert!(!running.base.ends_with(":0"), "{}", running.base);
            for path in ["/livez", "/readyz", "/metrics", "/auth/jwks.json", "/fhir/.well-known/smart-configuration"] {
                assert_eq!(reqwest::get(format!("{}{path}", running.base)).await.unwrap().status(), 200, "{path}");
            }
            running.signal(name);
            assert_eq!(running.wait(), (Some(0), String::new()), "standard output holds one line");
        }
    }
);

both_databases!(
    async fn clients_are_managed_while_the_server_runs(db: &TestDb) {
        let server = TestServer::smart(db).await;
        let (code, secret, words) =
            program::output(db, &["client", "add", "emr-1", "--facility", "HF-1", "--scope", "system/*.cruds", "--role", "clinician"]);
        assert_eq!(code, Some(0), "{words}");
        let secret = secret.trim_end();
        assert!(!words.contains(secret), "the secret is on standard output alone");
        server.token("emr-1", secret).await;
        let (code, _, words) = program::output(db, &["client", "add", "emr-1", "--facility", "HF-2", "--scope", "system/*.cruds"]);
        assert_eq!(code, Some(2));
        assert!(words.contains("exists already"), "{words}");
        let (_, list, _) = program::output(db, &["client", "list"]);
        assert!(list.lines().nth(1).unwrap().contains("emr-1") && list.contains("HF-1") && list.contains("roles: clinician"), "{list}");
        assert!(!list.contains("argon2"), "{list}");

        let mut child = program::command(db, &["client", "secret", "emr-1", "--secret-stdin"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"a secret of my own\n").unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
        server.token("emr-1", "a+secret+of+my+own").await;

        assert_eq!(program::output(db, &["client", "disable", "emr-1"]).0, Some(0));
        let form = "grant_type=client_credentials&client_id=emr-1&client_secret=a+secret+of+my+own";
        let request = server.client.post(server.url("/auth/token")).header("content-type", "application/x-www-form-urlencoded").body(form);
        assert_eq!(request.send().await.unwrap().status(), 401);
        server.stop().await;
    }
);

#[test]
fn open_access_is_refused_beyond_loopback() {
    let db = TestDb::sqlite();
    let (code, out, words) = program::output(&db, &["serve", "--auth", "open", "--listen", "0.0.0.0:0"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(words.contains("--auth smart") && words.contains("127.0.0.1"), "{words}");
}

#[test]
fn wrong_words_end_with_code_2_and_what_to_do() {
    let db = TestDb::sqlite();
    assert_eq!(program::output(&db, &["client", "add", "first", "--facility", "F", "--scope", "system/*.rs"]).0, Some(0));
    for (arguments, expected) in [
        (&["serve", "--listen", "nowhere"][..], "--listen"),
        (&["serve", "--auth", "none"], "--auth"),
        (&["serve", "--config", "/nonexistent/lango.toml"], "/nonexistent/lango.toml"),
        (&["client", "add", "a b", "--facility", "F", "--scope", "system/*.rs"], "client id"),
        (&["client", "add", "a", "--facility", "F", "--scope", "Patient.read"], "TYPE.LETTERS"),
        (&["client", "disable", "nobody"], "no such client"),
    ] {
        let (code, _, words) = program::output(&db, arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {words}");
        assert!(words.contains(expected), "{arguments:?}: {words}");
    }
}

#[tokio::test]
async fn a_backup_is_made_while_the_server_runs() {
    let db = TestDb::sqlite();
    let server = TestServer::smart(&db).await;
    let secret = crate::support::add_client(&db, "emr-1", "HF-1", "system/*.rs").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.db");
    let (code, _, words) = program::output(&db, &["backup", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{words}");
    let (code, _, words) = program::output(&db, &["backup", file.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    assert!(words.contains("exists: name another file"), "{words}");
    server.stop().await;
    let restored = TestServer::start(&db, |settings| settings.database = format!("sqlite:{}", file.display()).parse().unwrap()).await;
    restored.token("emr-1", &secret).await;
    restored.stop().await;
}

#[test]
fn a_backup_of_nothing_is_refused() {
    let db = TestDb::sqlite();
    let (code, _, words) = program::output(&db, &["backup", "/tmp/lango-no-backup"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("there is no database"), "{words}");
}

both_databases!(
    async fn doctor_finds_what_is_missing_and_says_what_to_do(db: &TestDb) {
        lango::store::Store::open(&db.url).await.unwrap().close().await;
        let (code, out, words) = program::output(db, &["doctor"]);
        assert_eq!(code, Some(0), "{out}{words}");
        assert!(out.contains("note  clients: nobody can log in yet: lango client add"), "{out}");
        crate::support::add_client(db, "emr-1", "HF-1", "system/*.rs").await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lango.toml");
        let destination =
            "[[destinations]]\nid = \"moh\"\nkind = \"dhis2\"\nurl = \"http://127.0.0.1:1\"\ntoken_env = \"NOT_SET_ANYWHERE\"\n";
        std::fs::write(&file, destination).unwrap();
        let (code, out, _) = program::output(db, &["doctor", "--config", file.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{out}");
        assert!(out.contains("ok    clients: 1 can log in"), "{out}");
        assert!(out.contains("BAD   destination moh: ") && out.contains("NOT_SET_ANYWHERE"), "{out}");
    }
);

both_databases!(
    async fn readiness_is_the_database_its_tables_and_the_outbox(db: &TestDb) {
        let server = TestServer::open(db).await;
        let whole = serde_json::json!({ "status": "ready", "database": "ok", "migrations": "ok", "outbox": "ok" });
        assert_eq!(server.get("/readyz").await, (200, whole));
        let store = Store::open(&db.url).await.unwrap();
        const SQL: &str = "UPDATE _sqlx_migrations SET version = version + 1000 WHERE version = 2";
        match &store {
            Store::Sqlite(db) => drop(sqlx::query(SQL).execute(&db.write).await.unwrap()),
            Store::Postgres(db) => drop(sqlx::query(SQL).execute(&db.pool).await.unwrap()),
        }
        let (status, body) = server.get("/readyz").await;
        assert_eq!(
            (status, &body["status"], &body["database"]),
            (503, &serde_json::json!("not ready"), &serde_json::json!("ok")),
            "{body}"
        );
        assert!(body["migrations"].as_str().unwrap().contains("another version"), "{body}");
        store.close().await;
        server.stop().await;
    }
);

both_databases!(
    async fn a_renewed_lease_holds_and_a_lost_one_cannot_be_renewed(db: &TestDb) {
        let store = Store::open(&db.url).await.unwrap();
        let job = NewJob { kind: "slow".into(), payload: serde_json::json!({}), dedup_key: None, run_at: 0 };
        store.commit(Unit { jobs: vec![job], ..Unit::default() }).await.unwrap();
        let none = Duration::ZERO;
        let (claimed, long) = (store.claim_jobs(&["slow"], 1, none).await.unwrap().remove(0), Duration::from_secs(60));
        assert!(store.renew_job(claimed.id, claimed.token, long).await.unwrap());
        assert!(store.claim_jobs(&["slow"], 1, long).await.unwrap().is_empty(), "it is held, though the claim's own lease has ended");
        assert!(store.renew_job(claimed.id, claimed.token, none).await.unwrap());
        let other = store.claim_jobs(&["slow"], 1, long).await.unwrap().remove(0);
        assert!(!store.renew_job(claimed.id, claimed.token, long).await.unwrap(), "another process has it");
        assert!(store.end_job(other.id, other.token, JobEnd::Done { result: serde_json::json!(1) }).await.unwrap());
        assert!(!store.renew_job(other.id, other.token, long).await.unwrap(), "it is done");
        store.close().await;
    }
);
