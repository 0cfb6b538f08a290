//! What the integration tests share: fresh databases, one body for both of them, and the real server.
#![allow(dead_code)]

pub mod guarded;
pub mod holder;
pub mod login;
pub mod payloads;
pub mod postgres;
pub mod program;
pub mod server;
pub mod shared;
pub mod smart;
pub mod worlds;

pub use postgres::postgres_url;
pub use server::{TestServer, answer};

use lango::access::clients::{self, Client};
use lango::access::{generate_secret, hash_secret};
use lango::store::Store;
use std::fmt::Debug;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The URL of a new SQLite database, and the folder that it lives in and dies with.
pub fn sqlite_url() -> (TempDir, String) {
    let folder = TempDir::with_prefix("lango-").expect("the temporary folder can be written");
    let url = format!("sqlite:{}", folder.path().join("lango.db").display());
    (folder, url)
}

/// A fresh database of one test.
pub struct TestDb {
    /// For `Store::open` or `--database`.
    pub url: String,
    folder: Option<TempDir>,
}

impl TestDb {
    pub fn sqlite() -> TestDb {
        let (folder, url) = sqlite_url();
        TestDb { url, folder: Some(folder) }
    }

    pub async fn postgres() -> TestDb {
        TestDb { url: postgres_url().await, folder: None }
    }

    pub fn is_sqlite(&self) -> bool {
        self.folder.is_some()
    }

    /// Gives the space back early; without it the database goes with the test process.
    pub async fn discard(self) {
        if !self.is_sqlite() {
            postgres::drop_database(&self.url).await;
        }
    }
}

/// Adds a client as `lango client add` does, and gives its secret.
pub async fn add_client(db: &TestDb, id: &str, facility: &str, scopes: &str) -> String {
    let store = Store::open(&db.url).await.expect("the database opens");
    let secret = generate_secret().expect("random numbers");
    let client = Client { secret_hash: Some(hash_secret(&secret).expect("a hash")), ..Client::new(id, facility, scopes) };
    clients::add(&store, &client).await.expect("a new client");
    store.close().await;
    secret.expose().to_owned()
}

/// As if every wait of the outbox had ended, and the leases of processes that died.
pub async fn time_passes(store: &Store) {
    const SQL: &str = "UPDATE job SET run_at = 0, lease_until = 0 WHERE state IN ('waiting', 'running')";
    sql(store, SQL).await;
}

/// Carries out a statement behind the server's back.
pub async fn sql(store: &Store, text: &'static str) {
    match store {
        Store::Sqlite(db) => sqlx::query(text).execute(&db.write).await.map(|_| ()).unwrap(),
        Store::Postgres(db) => sqlx::query(text).execute(&db.pool).await.map(|_| ()).unwrap(),
    }
}

/// How long a test waits for what happens beside the requests. A busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks. Much of what a server does beside the requests gives way to them, so whoever asks without a pause waits for what they hold up.
const LOOK: Duration = Duration::from_millis(50);

/// Looks until there is what was waited for; else the test fails with what was seen last.
pub async fn eventually<T, Seen: Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<T, Seen>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: {seen:?}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `holds`.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually(what, async || if holds().await { Ok(()) } else { Err("not yet") }).await;
}

/// Waits until all that was recorded is sealed.
pub async fn sealed(store: &Store) {
    until("events are sealed", async || !store.has_unsealed().await.unwrap()).await;
}

/// What never ends says nothing; this says which test it was. The longest takes two minutes on two busy cores.
pub async fn ends(body: impl Future<Output = ()>) {
    // A thousand worlds, which somebody asked for, take what they take.
    let minutes = if std::env::var_os("LANGO_WORLDS").is_some() { 240 } else { 15 };
    let patience = Duration::from_secs(minutes * 60);
    tokio::time::timeout(patience, body).await.unwrap_or_else(|_| panic!("a test ends within {minutes} minutes"));
}

/// Runs one test body on both databases: `both_databases!(async fn name(db: &TestDb) { … })` makes the tests
/// `name::sqlite` and `name::postgres`.
macro_rules! both_databases {
    ($(#[$attribute:meta])* async fn $name:ident($db:ident: &TestDb $(,)?) $body:block) => {
        $(#[$attribute])*
        mod $name {
            use super::*;

            async fn body($db: &$crate::support::TestDb) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let db = $crate::support::TestDb::sqlite();
                $crate::support::ends(body(&db)).await;
                db.discard().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let db = $crate::support::TestDb::postgres().await;
                $crate::support::ends(body(&db)).await;
                db.discard().await;
            }
        }
    };
}
pub(crate) use both_databases;
