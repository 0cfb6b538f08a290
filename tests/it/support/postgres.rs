//! A throwaway PostgreSQL server for one test process.
//!
//! The first caller makes a cluster in a temporary folder (as an unprivileged user when we are root, which PostgreSQL
//! insists on) that listens on a socket in that folder only. A watchdog shell is the server's parent and reads from a
//! pipe that this process holds open and never writes to: however this process ends, a panic and `kill -9` included,
//! the pipe closes, and the watchdog stops the server and removes the folder.
//!
//! This file stands alone, so that a bench or a unit test can include it with `#[path]`.
#![allow(dead_code)]

use sqlx::{ConnectOptions, Connection, Executor, postgres::PgConnectOptions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const HOW_TO_INSTALL: &str = "PostgreSQL's server binaries (initdb, postgres) are neither in PATH nor in /usr/lib/postgresql/*/bin. \
     Install them: apt-get install postgresql (Debian, Ubuntu), dnf install postgresql-server (Fedora), brew install postgresql (macOS).";

/// The superuser of the cluster; trusted without a password, since only we can reach the socket.
const USER: &str = "lango";

/// What the server does at a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing reaches the disk: right for tests.
    Fast,
    /// As in production: right for benches.
    Durable,
}

/// A running server; the watchdog ends it after this process.
pub struct Cluster {
    folder: PathBuf,
    /// Holds the pipe open.
    _watchdog: Child,
    databases: AtomicU32,
}

/// The URL of a new, empty database on this process's server.
pub async fn postgres_url() -> String {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(Durability::Fast)).new_database().await
}

/// Removes a database that [`postgres_url`] made, closing what is still connected to it.
pub async fn drop_database(url: &str) {
    let options: PgConnectOptions = url.parse().expect("a URL that postgres_url made");
    let name = options.get_database().expect("postgres_url names the database").to_owned();
    let mut connection = options.database("postgres").connect().await.expect("the server runs as long as this process");
    connection.execute(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.expect("the database exists");
    connection.close().await.ok();
}

impl Cluster {
    pub fn start(durability: Durability) -> Cluster {
        let binaries = binaries().unwrap_or_else(|| panic!("{HOW_TO_INSTALL}"));
        let user = unprivileged_user();
        let folder = std::env::temp_dir().join(format!("lango-pg-{}-{}", std::process::id(), nanoseconds()));
        std::fs::create_dir(&folder).expect("the temporary folder can be written");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("own folder");
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).expect("root may give a folder away");
        }
        let run_as = |program: &Path| {
            let mut command = Command::new(program);
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            // The locale and PG… variables of whoever runs the tests must not matter.
            let inherited = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PG"));
            for name in inherited {
                command.env_remove(name);
            }
            command.current_dir("/").env("LC_ALL", "C");
            command
        };
        let made = run_as(&binaries.join("initdb"))
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"])
            .arg(format!("--username={USER}"))
            .arg(format!("--pgdata={}", folder.join("data").display()))
            .stdin(Stdio::null())
            .output()
            .expect("initdb was found a moment ago");
        if !made.status.success() {
            std::fs::remove_dir_all(&folder).ok();
            panic!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        let mut server = vec![
            binaries.join("postgres").display().to_string(),
            format!("-D{}", folder.join("data").display()),
            format!("-k{}", folder.display()),
        ];
        let mut settings = vec!["listen_addresses=", "max_connections=400", "shared_buffers=128MB", "unix_socket_permissions=0700"];
        if durability == Durability::Fast {
            settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off"]);
        }
        server.extend(settings.into_iter().map(|setting| format!("-c{setting}")));
        // $0 is the folder, "$@" the server's command line. SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one.
        let watchdog = run_as(Path::new("/bin/sh"))
            .arg("-c")
            .arg(r#""$@" >"$0/log" 2>&1 </dev/null & read -r _; kill -QUIT $!; wait $!; rm -rf "$0""#)
            .arg(&folder)
            .args(server)
            .process_group(0) // Ctrl-C in the terminal reaches us, and the closing pipe tells the watchdog
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("/bin/sh is everywhere");
        Cluster { folder, _watchdog: watchdog, databases: AtomicU32::new(0) }
    }

    /// The URL of a new, empty database.
    pub async fn new_database(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut connection = loop {
            let options: PgConnectOptions = self.url("postgres").parse().expect("own URL");
            match options.connect().await {
                Ok(connection) => break connection,
                Err(error) if Instant::now() > deadline => {
                    let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                    panic!("PostgreSQL did not start: {error}\n{log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let name = format!("t_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        connection
            .execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0")))
            .await
            .expect("a new name in a new cluster");
        connection.close().await.ok();
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost/{database}?host={}", self.folder.display())
    }
}

/// The folder that holds both binaries: PATH first, then Debian's folders, newest version first.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut packaged: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    packaged.sort_unstable_by(|a, b| b.cmp(a));
    std::env::split_paths(&path)
        .chain(packaged.into_iter().map(|(_, folder)| folder))
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// When we are root: whom to run the server as. `None`: we are not root.
fn unprivileged_user() -> Option<(u32, u32)> {
    let own = Command::new("id").arg("-u").output().expect("id is everywhere");
    if String::from_utf8_lossy(&own.stdout).trim() != "0" {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").expect("root can read /etc/passwd");
    ["postgres", "nobody"]
        .iter()
        .find_map(|wanted| {
            accounts.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
                (name == *wanted).then_some((uid, gid))
            })
        })
        .or_else(|| panic!("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as"))
}

fn nanoseconds() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}
