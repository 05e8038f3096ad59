//! The rules of the layout as data. A change here is a change of the architecture: say so in
//! `docs/architecture.md` as well.

/// A crate of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// Its directory, relative to the root of the repository.
    pub dir: &'static str,
    /// Its package name.
    pub package: &'static str,
    /// The crates of this workspace it may depend on, for any purpose, tests included.
    pub may_use: &'static [&'static str],
}

/// All crates, lowest first. `wal <- engine <- root`; tools, bench and fuzz targets
/// stand on top.
pub const CRATES: &[Crate] = &[
    Crate { dir: "wal", package: "coracle-wal", may_use: &[] },
    Crate { dir: "engine", package: "coracle-engine", may_use: &["coracle-wal"] },
    Crate { dir: ".", package: "coracle", may_use: &["coracle-wal", "coracle-engine"] },
    // The simulator's clients speak to the server's own state machine.
    Crate {
        dir: "tools",
        package: "coracle-tools",
        may_use: &["coracle-wal", "coracle-engine", "coracle"],
    },
    Crate {
        dir: "bench",
        package: "coracle-bench",
        may_use: &["coracle-wal", "coracle-engine", "coracle"],
    },
    // A crate of its own, so that the other implementation and what it needs are built for this
    // comparison only.
    Crate { dir: "tests/oracle", package: "coracle-oracle", may_use: &["coracle-engine"] },
    Crate {
        dir: "tests/fuzz",
        package: "coracle-fuzz",
        may_use: &["coracle-wal", "coracle-engine", "coracle"],
    },
];

/// Packages that only the root package may depend on: the runtime and the ring are details of one
/// implementation of the seam.
pub const RUNTIME_PACKAGES: &[&str] = &["glommio", "io-uring"];

/// The package that owns the runtime.
pub const RUNTIME_OWNER: &str = "coracle";

/// Names that part of the code must not know.
#[derive(Debug)]
pub struct Ban {
    /// Directories it holds for.
    pub dirs: &'static [&'static str],
    /// A path, segment by segment; one segment alone is banned wherever it stands.
    pub path: &'static [&'static str],
    /// What to do instead.
    pub instead: &'static str,
}

const PURE: &[&str] = &["wal/src", "engine/src"];
const NOT_ROOT: &[&str] = &["wal", "engine", "tools", "bench", "tests/fuzz"];
const THROUGH_DISK: &str = "files come in through `Disk`";
const THROUGH_ENV: &str = "connections come in through `Env`";
const NO_FD: &str = "descriptors stay in the root package";
const NO_LOCK: &str = "nothing on a core's thread blocks: state belongs to one thread";
const NO_CHANCE: &str = "randomness comes in through `Env::random`";

/// Every ban. `Duration` is allowed everywhere: it is a number, not a clock.
pub const BANS: &[Ban] = &[
    Ban { dirs: NOT_ROOT, path: &["glommio"], instead: "only the root package names the runtime" },
    Ban { dirs: NOT_ROOT, path: &["io_uring"], instead: "only the root package names the ring" },
    Ban { dirs: PURE, path: &["tokio"], instead: "tasks come in through `Env::spawn`" },
    Ban { dirs: PURE, path: &["std", "net"], instead: THROUGH_ENV },
    Ban { dirs: PURE, path: &["TcpStream"], instead: THROUGH_ENV },
    Ban { dirs: PURE, path: &["TcpListener"], instead: THROUGH_ENV },
    Ban { dirs: PURE, path: &["UdpSocket"], instead: THROUGH_ENV },
    Ban { dirs: PURE, path: &["UnixStream"], instead: THROUGH_ENV },
    Ban { dirs: PURE, path: &["std", "fs"], instead: THROUGH_DISK },
    Ban { dirs: PURE, path: &["File", "open"], instead: THROUGH_DISK },
    Ban { dirs: PURE, path: &["File", "create"], instead: THROUGH_DISK },
    Ban { dirs: PURE, path: &["std", "os"], instead: NO_FD },
    Ban { dirs: PURE, path: &["RawFd"], instead: NO_FD },
    Ban { dirs: PURE, path: &["OwnedFd"], instead: NO_FD },
    Ban { dirs: PURE, path: &["BorrowedFd"], instead: NO_FD },
    Ban { dirs: PURE, path: &["AsRawFd"], instead: NO_FD },
    Ban { dirs: PURE, path: &["libc"], instead: "system calls stay in the root package" },
    Ban { dirs: PURE, path: &["std", "thread"], instead: "threads belong to the root package" },
    Ban { dirs: PURE, path: &["std", "process"], instead: "processes belong to the root package" },
    Ban { dirs: PURE, path: &["Instant"], instead: "time comes in through `Env::now`" },
    Ban { dirs: PURE, path: &["SystemTime"], instead: "time comes in through `Env::unix_ms`" },
    Ban { dirs: PURE, path: &["rand"], instead: NO_CHANCE },
    Ban { dirs: PURE, path: &["getrandom"], instead: NO_CHANCE },
    Ban { dirs: PURE, path: &["fastrand"], instead: NO_CHANCE },
    Ban { dirs: PURE, path: &["Mutex"], instead: NO_LOCK },
    Ban { dirs: PURE, path: &["RwLock"], instead: NO_LOCK },
    Ban { dirs: PURE, path: &["Condvar"], instead: NO_LOCK },
    Ban { dirs: PURE, path: &["println"], instead: "libraries report through `tracing` or return" },
    Ban {
        dirs: PURE,
        path: &["eprintln"],
        instead: "libraries report through `tracing` or return",
    },
    Ban {
        dirs: &["engine/src/raft"],
        path: &["HashMap"],
        instead: "its order differs from run to run: use `BTreeMap` or a `Vec`",
    },
    Ban {
        dirs: &["engine/src/raft"],
        path: &["HashSet"],
        instead: "its order differs from run to run: use `BTreeSet` or a `Vec`",
    },
];

/// Where `unsafe` may stand: a file, or a directory with all below it, and why.
pub const UNSAFE_PLACES: &[(&str, &str)] = &[
    ("wal/src/buf.rs", "memory aligned to a block for O_DIRECT"),
    ("bench/src/transfer/raw.rs", "the raw device: a bare ring, to compare ours with"),
    ("bench/src/tiers/guard.rs", "the signal mask, and children that die with their parent"),
    ("bench/src/wal/raw.rs", "the raw device: a bare ring, to compare ours with"),
    ("src/cli/signals.rs", "the signal mask"),
    ("src/runtime/net.rs", "gather writes and receives that the runtime does not offer"),
    ("src/runtime/preflight.rs", "resource limits, CPU sets and the allocator"),
    ("src/runtime/tests.rs", "a socket with a full backlog, and the CPU of a thread"),
    ("src/uring", "the ring: the kernel reads and writes memory that slots keep alive"),
    ("tests/support", "resource limits, signals and a seccomp filter for child processes"),
];

/// Most lines of one file.
pub const FILE_LINES_MAX: usize = 800;

/// Files that may be longer, and why.
pub const LONG_FILES: &[(&str, &str)] = &[];
