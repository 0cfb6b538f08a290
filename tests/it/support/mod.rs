//! What the integration tests share: fresh databases, and one body for both of them.

pub mod postgres;

pub use postgres::postgres_url;
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

/// Runs one test body on both databases: `both_databases!(async fn name(db: &TestDb) { … })` makes the tests
/// `name::sqlite` and `name::postgres`.
macro_rules! both_databases {
    ($(#[$attribute:meta])* async fn $name:ident($db:ident: &TestDb) $body:block) => {
        $(#[$attribute])*
        mod $name {
            use super::*;

            async fn body($db: &$crate::support::TestDb) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let db = $crate::support::TestDb::sqlite();
                body(&db).await;
                db.discard().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                let db = $crate::support::TestDb::postgres().await;
                body(&db).await;
                db.discard().await;
            }
        }
    };
}
pub(crate) use both_databases;
