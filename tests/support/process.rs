//! Real `coracle` processes: started, signalled, and ended with the test, whatever happens to it.

use std::env;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::confine::Confinement;
use super::wait;

/// Lines of a log that a failing test prints.
const LOG_LINES_SHOWN: usize = 60;

/// A running `coracle`. Dropping it kills it; if the test has failed, its log is printed then.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    log_start: usize,
}

/// How a process ended and all that it printed.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Both of its output streams.
    pub output: String,
}

impl Process {
    /// Starts `coracle` with `args`; its output is appended to `log`, its temporary files go to
    /// [`temporary_directory`].
    pub fn start(name: &str, args: &[String], log: &Path, confinement: Confinement) -> Self {
        let log_start = fs::read(log).map_or(0, |text| text.len());
        let output = File::options().create(true).append(true).open(log).unwrap();
        let temporary = temporary_directory(log);
        fs::create_dir_all(&temporary).unwrap();
        let mut command = Command::new(program(log, confinement));
        command
            .args(args)
            .env("TMPDIR", temporary)
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        // SAFETY: `enter` makes system calls only; it takes no lock and allocates nothing.
        unsafe { command.pre_exec(move || confinement.enter()) };
        let child = spawn(command).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), log_start }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has printed since it was started.
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let id = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: a plain system call; the child is not reaped before `self` is gone, so the id is its.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "kill {}: {}", self.name, io::Error::last_os_error());
    }

    /// Stops it where it stands.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Ends it at once, as a power cut of the process.
    pub fn kill(mut self) {
        self.end_now();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait_end(mut self, bound: Duration) -> Ended {
        let what = format!("the end of {}", self.name);
        let status = wait::until(&what, bound, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it still runs; its output:\n{}", self.output())),
            Err(error) => Err(error.to_string()),
        });
        Ended { status, output: self.output() }
    }

    /// Processor time it has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name in parentheses may hold anything; the fields after it are fixed (proc(5)).
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        // SAFETY: a plain system call.
        let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        ticks / ticks_per_second as f64
    }

    /// The most resident memory it has had, in bytes.
    pub fn peak_rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
    }

    fn end_now(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_now();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- last output of {}:\n{}\n---", self.name, shown.join("\n"));
        }
    }
}

/// The program to run: the one that was built with this test, or what `CORACLE_TEST_PROGRAM` names,
/// such as a release build. Tests of other packages find it beside their own programs. Another user gets a copy that it may reach, and may write beside the log.
fn program(log: &Path, confinement: Confinement) -> PathBuf {
    let built = env::var_os("CORACLE_TEST_PROGRAM").map_or_else(built_program, PathBuf::from);
    if confinement.user.is_none() {
        return built;
    }
    let directory = log.parent().unwrap();
    for open in [directory, &temporary_directory(log)] {
        fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
    }
    let copy = directory.join("coracle");
    if !copy.exists() {
        fs::copy(built, &copy).unwrap();
    }
    copy
}

fn built_program() -> PathBuf {
    if let Some(program) = option_env!("CARGO_BIN_EXE_coracle") {
        return program.into();
    }
    // target/PROFILE/deps/TEST-HASH
    let test = env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("coracle");
    assert!(program.exists(), "{program:?} is missing: cargo build -p coracle --bin coracle");
    program
}

/// Where a process with this log keeps its temporary files.
pub fn temporary_directory(log: &Path) -> PathBuf {
    log.with_extension("tmp")
}

/// Starts a child from a thread that lives as long as this program: the parent-death signal of Linux
/// comes when the *thread* that started the child ends, and test threads end early.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Whoever ordered it waits for the answer.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = channel();
    spawner.lock().unwrap().send((command, answer)).unwrap();
    answered.recv().unwrap()
}
