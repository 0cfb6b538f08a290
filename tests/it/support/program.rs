//! The program as a process of its own, for what only a process can show: standard output, signals, sudden death.

use super::TestDb;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `lango ARGUMENTS --database URL`, in a folder without a `lango.toml`.
pub fn command(db: &TestDb, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lango"));
    command.args(arguments).args(["--database", &db.url]).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, standard output and standard error of a command that ends by itself.
pub fn output(db: &TestDb, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(db, arguments).output().expect("the program starts");
    (status.code(), String::from_utf8(stdout).expect("UTF-8"), String::from_utf8(stderr).expect("UTF-8"))
}

/// A serving process; killed when it goes out of scope.
pub struct Running {
    /// `http://127.0.0.1:PORT`
    pub base: String,
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    /// Starts `lango serve ARGUMENTS` on a free port and waits for its line.
    pub fn serve(db: &TestDb, arguments: &[&str]) -> Running {
        Running::serve_logging(db, arguments, Stdio::null())
    }

    /// The same, with its log (standard error) to `log`.
    pub fn serve_logging(db: &TestDb, arguments: &[&str], log: impl Into<Stdio>) -> Running {
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        let mut command = command(db, &arguments);
        command.stderr(log);
        Running::start(command)
    }

    /// The same with a command that was made ready.
    pub fn start(mut command: Command) -> Running {
        let mut child = command.spawn().expect("the program starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("UTF-8");
        let base = line.trim_end().strip_prefix("lango listening on ").unwrap_or_else(|| panic!("it said {line:?}")).to_owned();
        Running { base, child, out }
    }

    /// The most memory that the process has had at once, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") / 1024
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill is everywhere");
        assert!(sent.success());
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("own child");
        self.child.wait().expect("own child");
    }

    /// Exit code and the rest of standard output, when the process has ended.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.child.try_wait().expect("own child").is_none() {
            assert!(Instant::now() < deadline, "the program does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("UTF-8");
        (self.child.wait().expect("own child").code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended, or of no use any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
