//! One world for many tests: the first that needs it makes it, and it lives as long as the process.

use super::TestDb;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

/// A world of a type `T`, with the runtime on which its server runs and all tests of it: a test's own would end with the test.
pub struct Shared<T>(OnceLock<Made<T>>);

struct Made<T> {
    runtime: Runtime,
    world: T,
    _watchdog: Option<Child>,
}

impl<T> Shared<T> {
    pub const fn not_yet() -> Shared<T> {
        Shared(OnceLock::new())
    }

    /// Runs a test on the world. `make` puts it into a database that `database` gives.
    pub fn run(&self, database: impl AsyncFnOnce() -> TestDb, make: impl AsyncFnOnce(&TestDb) -> T, test: impl AsyncFnOnce(&T)) {
        let made = self.0.get_or_init(|| {
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            let (db, world) = runtime.block_on(async {
                let db = database().await;
                let world = make(&db).await;
                (db, world)
            });
            Made { runtime, world, _watchdog: goes_with_the_process(db) }
        });
        made.runtime.block_on(test(&made.world));
    }
}

/// Has a shell remove the folder of an SQLite database when this process ends, in whatever way: nothing drops what is static. The
/// shell reads from a pipe that only this process holds open, and that nobody writes to.
fn goes_with_the_process(db: TestDb) -> Option<Child> {
    let folder = db.folder?.keep();
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(r#"read -r _; rm -rf "$0""#).arg(folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(shell.spawn().expect("/bin/sh is everywhere"))
}
