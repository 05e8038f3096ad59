//! Tells before anything starts whether this host can run cores, and in words why not.
//!
//! [`probe`] looks at the host, [`check`] is a pure function of what it saw, so that every refusal is
//! tested without a host that refuses. What denies io_uring, told apart by what the kernel answers:
//!
//! | answer | further sign | culprit |
//! |---|---|---|
//! | `EPERM` | sysctl is 2, or 1 | the sysctl `kernel.io_uring_disabled` |
//! | `EPERM` or `EACCES` | sysctl is 0 | a seccomp filter or another security module |
//! | `ENOSYS` | kernel has it, process is filtered | a seccomp filter |
//! | `ENOSYS` | otherwise | a kernel that is too old, or built without it |
//! | `ENOMEM` | | the limit on locked memory |
//! | set-up works | operations are missing | a kernel that is too old |

use std::fmt;
use std::fs;
use std::io;
use std::mem;

use io_uring::{IoUring, Probe, opcode};
use thiserror::Error;

/// The oldest kernel that has every operation used here (`renameat` and `unlinkat` came last).
pub const KERNEL_MIN: KernelVersion = KernelVersion { major: 5, minor: 11 };

/// Locked memory without which the runtime refuses to start, whatever it is asked to register.
pub const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// Rings of the runtime, with each of which a core's memory is registered.
const RINGS_PER_CORE: u64 = 3;
/// Bytes of a core's four rings themselves, which recent kernels (seen: 6.18) count as locked, too.
const RING_BYTES_PER_CORE: u64 = 128 << 10;

/// A kernel's version, as far as features depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the start of `uname -r`.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(Self { major, minor })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What was seen of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The running kernel, when its name can be read.
    pub kernel: Option<KernelVersion>,
    /// The sysctl `kernel.io_uring_disabled`; absent before Linux 6.6.
    pub sysctl_disabled: Option<u32>,
    /// Whether a seccomp filter is on this process.
    pub seccomp_filtered: bool,
    /// The error number with which a ring was refused, if it was.
    pub setup_errno: Option<i32>,
    /// Operations that the kernel does not know.
    pub missing: Vec<&'static str>,
    /// Locked memory allowed now, in bytes.
    pub memlock_soft: u64,
    /// Locked memory to which the process may raise itself, in bytes.
    pub memlock_hard: u64,
}

/// Why this host cannot run cores, and the way out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PreflightError {
    /// Switched off by the administrator.
    #[error(
        "io_uring is denied by the sysctl kernel.io_uring_disabled = {value}{}. \
         Way out: `sysctl -w kernel.io_uring_disabled=0` as root (lasting: a file in /etc/sysctl.d)",
        if *.value == 1 { " (1 leaves it to privileged processes and one group)" } else { "" }
    )]
    Sysctl {
        /// The sysctl's value.
        value: u32,
    },
    /// Filtered, as container runtimes do by default.
    #[error(
        "io_uring is denied by a seccomp filter or security module (error {errno}; the sysctl \
         kernel.io_uring_disabled allows it). Container runtimes filter it by default. Way out: run \
         the container with a seccomp profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register, for example `docker run --security-opt seccomp=PROFILE.json`; under \
         systemd look at SystemCallFilter="
    )]
    Seccomp {
        /// What the kernel answered.
        errno: i32,
    },
    /// The kernel has no io_uring at all.
    #[error(
        "this kernel{} has no io_uring (too old, or built without CONFIG_IO_URING). Way out: Linux \
         {KERNEL_MIN} or newer",
        version(.found)
    )]
    NoUring {
        /// The running kernel.
        found: Option<KernelVersion>,
    },
    /// The kernel's io_uring lacks operations.
    #[error(
        "this kernel{} is too old: its io_uring lacks {}. Way out: Linux {KERNEL_MIN} or newer",
        version(.found), .missing.join(", ")
    )]
    KernelTooOld {
        /// The running kernel.
        found: Option<KernelVersion>,
        /// What it lacks.
        missing: Vec<&'static str>,
    },
    /// The limit on locked memory is below what the runtime demands, or used up.
    #[error(
        "locked memory is limited to {} KiB, for all processes of this user together, and {} KiB \
         are needed for {cores} core(s). Way out: `ulimit -l {}` before the start; lasting: \
         `LimitMEMLOCK=` in a systemd unit, `--ulimit memlock=` of docker, or \
         /etc/security/limits.conf",
        .limit / 1024, .wanted / 1024, .wanted / 1024
    )]
    LockedMemory {
        /// The highest limit that this process may give itself, in bytes.
        limit: u64,
        /// What is enough for the cores asked for, in bytes.
        wanted: u64,
        /// Cores asked for.
        cores: usize,
    },
    /// A ring was refused for another reason.
    #[error("the kernel refused an io_uring: {}", io::Error::from_raw_os_error(*.errno))]
    Refused {
        /// What the kernel answered.
        errno: i32,
    },
}

fn version(found: &Option<KernelVersion>) -> String {
    found.map_or_else(String::new, |found| format!(" (Linux {found})"))
}

/// Looks at the host. Blocking: for start-up only.
pub fn probe() -> HostFacts {
    let (setup_errno, missing) = probe_ring();
    let (memlock_soft, memlock_hard) = memlock();
    let read = |path: &str| fs::read_to_string(path).ok();
    let status = read("/proc/self/status").unwrap_or_default();
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    HostFacts {
        kernel: read("/proc/sys/kernel/osrelease").and_then(|name| KernelVersion::parse(&name)),
        sysctl_disabled: read("/proc/sys/kernel/io_uring_disabled")
            .and_then(|value| value.trim().parse().ok()),
        seccomp_filtered: seccomp.is_some_and(|mode| mode.trim() == "2"),
        setup_errno,
        missing,
        memlock_soft,
        memlock_hard,
    }
}

/// What a host with these facts lacks for `cores` cores that register `io_memory_bytes` each.
///
/// # Errors
/// The first thing that must be mended.
pub fn check(
    facts: &HostFacts,
    cores: usize,
    io_memory_bytes: usize,
) -> Result<(), PreflightError> {
    if let Some(errno) = facts.setup_errno {
        return Err(denied(facts, errno, cores, io_memory_bytes));
    }
    if !facts.missing.is_empty() {
        let missing = facts.missing.clone();
        return Err(PreflightError::KernelTooOld { found: facts.kernel, missing });
    }
    let limit = facts.memlock_soft.max(facts.memlock_hard);
    if limit < MEMLOCK_MIN_BYTES {
        return Err(locked_memory(limit, cores, io_memory_bytes));
    }
    Ok(())
}

/// The same as a sentence, for messages about a ring that was refused later.
pub fn explain(facts: &HostFacts) -> String {
    match check(facts, 1, 0) {
        Ok(()) => {
            "the host allows io_uring; is a limit on open files or memory reached?".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

fn denied(facts: &HostFacts, errno: i32, cores: usize, io_memory_bytes: usize) -> PreflightError {
    match (errno, facts.sysctl_disabled) {
        (libc::EPERM, Some(value)) if value > 0 => PreflightError::Sysctl { value },
        (libc::EPERM | libc::EACCES, _) => PreflightError::Seccomp { errno },
        (libc::ENOSYS, _) => {
            let has_uring = facts.kernel.is_some_and(|found| found >= KERNEL_MIN);
            if has_uring && facts.seccomp_filtered {
                PreflightError::Seccomp { errno }
            } else {
                PreflightError::NoUring { found: facts.kernel }
            }
        }
        (libc::ENOMEM, _) => locked_memory(facts.memlock_soft, cores, io_memory_bytes),
        _ => PreflightError::Refused { errno },
    }
}

/// The error of a core whose rings were refused for want of locked memory.
pub(super) fn locked_memory_used_up(io_memory_bytes: usize) -> PreflightError {
    let limit = memlock().0;
    PreflightError::LockedMemory { limit, wanted: limit + wanted(1, io_memory_bytes), cores: 1 }
}

fn locked_memory(limit: u64, cores: usize, io_memory_bytes: usize) -> PreflightError {
    PreflightError::LockedMemory { limit, wanted: wanted(cores, io_memory_bytes), cores }
}

/// Locked memory with which every core can register all of its memory, in bytes.
fn wanted(cores: usize, io_memory_bytes: usize) -> u64 {
    let per_core = RING_BYTES_PER_CORE + RINGS_PER_CORE * io_memory_bytes as u64;
    (cores as u64 * per_core).max(MEMLOCK_MIN_BYTES)
}

/// Checks the host for `cores` cores and raises the limit on locked memory as far as is allowed.
/// Where the kernel does not count rings as locked, cores run with less than this asks for: the
/// runtime then uses unregistered memory. Blocking: for start-up only.
///
/// # Errors
/// The first thing that must be mended.
pub fn prepare(cores: usize, io_memory_bytes: usize) -> Result<(), PreflightError> {
    give_large_buffers_back();
    raise_memlock(wanted(cores, io_memory_bytes));
    check(&probe(), cores, io_memory_bytes)
}

/// Allocations from this size on are given back at once when they are freed.
#[cfg(target_env = "gnu")]
const LARGE_BUFFER_BYTES: i32 = 128 << 10;

/// Has the allocator give buffers of entries and chunks back to the system when they are freed. By default it
/// learns to keep them, and they leave holes between what lives longer: a node then needs about a quarter
/// more than its budget.
fn give_large_buffers_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a parameter of the allocator; it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES);
    }
}

fn memlock() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0 {
        return (0, 0);
    }
    (limit.rlim_cur, limit.rlim_max)
}

/// Raises the soft limit to the hard one; a privileged process raises both to `wanted` at least.
fn raise_memlock(wanted: u64) {
    let (soft, hard) = memlock();
    for hard in [hard.max(wanted), hard] {
        if soft == hard {
            return;
        }
        let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
        // SAFETY: reads the structure it is given.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) } == 0 {
            return;
        }
    }
}

/// Tries to make a ring and asks which operations it has.
fn probe_ring() -> (Option<i32>, Vec<&'static str>) {
    let errno = |error: io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => return (Some(errno(error)), Vec::new()),
    };
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return match errno(error) {
            libc::EINVAL => (None, vec!["the list of its operations (5.6)"]),
            errno => (Some(errno), Vec::new()),
        };
    }
    let missing = NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code));
    (None, missing.map(|(_, name)| *name).collect())
}

/// Operations used here or by the runtime.
const NEEDED: [(u8, &str); 20] = [
    (opcode::OpenAt::CODE, "openat"),
    (opcode::Close::CODE, "close"),
    (opcode::Read::CODE, "read"),
    (opcode::Write::CODE, "write"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::RenameAt::CODE, "renameat (5.11)"),
    (opcode::UnlinkAt::CODE, "unlinkat (5.11)"),
    (opcode::Statx::CODE, "statx"),
    (opcode::PollAdd::CODE, "poll_add"),
    (opcode::PollRemove::CODE, "poll_remove"),
    (opcode::Accept::CODE, "accept"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Send::CODE, "send"),
    (opcode::Recv::CODE, "recv"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::RecvMsg::CODE, "recvmsg"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::TimeoutRemove::CODE, "timeout_remove"),
    (opcode::LinkTimeout::CODE, "link_timeout"),
];

/// The CPUs that the process may run on: those of its first thread, which is never a pinned core.
pub(crate) fn process_cpus() -> Option<libc::cpu_set_t> {
    // SAFETY: a CPU set is plain bits, for which all zeros is a value.
    let mut cpus: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: fills the set it is given, whose size it is told.
    let result = unsafe {
        libc::sched_getaffinity(libc::getpid(), mem::size_of::<libc::cpu_set_t>(), &mut cpus)
    };
    (result == 0).then_some(cpus)
}

/// Numbers of the CPUs that the process may run on; never empty.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    let Some(cpus) = process_cpus() else { return vec![0] };
    // SAFETY: reads bits of an initialised set, within its size.
    let is_allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &cpus) };
    let allowed: Vec<usize> = (0..libc::CPU_SETSIZE as usize).filter(is_allowed).collect();
    if allowed.is_empty() { vec![0] } else { allowed }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fit() -> HostFacts {
        HostFacts {
            kernel: Some(KernelVersion { major: 6, minor: 8 }),
            sysctl_disabled: Some(0),
            seccomp_filtered: false,
            setup_errno: None,
            missing: Vec::new(),
            memlock_soft: 8 << 20,
            memlock_hard: 8 << 20,
        }
    }

    fn refusal(change: impl FnOnce(&mut HostFacts)) -> String {
        let mut facts = fit();
        change(&mut facts);
        check(&facts, 2, 1 << 20).unwrap_err().to_string()
    }

    #[track_caller]
    fn says(message: &str, words: &[&str]) {
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
    }

    #[test]
    fn a_fit_host_passes() {
        assert_eq!(check(&fit(), 64, 1 << 20), Ok(()));
    }

    #[test]
    fn the_sysctl_is_named_with_its_value() {
        for value in [1, 2] {
            let message = refusal(|facts| {
                facts.setup_errno = Some(libc::EPERM);
                facts.sysctl_disabled = Some(value);
            });
            says(&message, &["kernel.io_uring_disabled", &format!("= {value}"), "sysctl -w"]);
        }
    }

    #[test]
    fn seccomp_is_named_when_the_sysctl_is_not_to_blame() {
        for sysctl in [Some(0), None] {
            let message = refusal(|facts| {
                facts.setup_errno = Some(libc::EPERM);
                facts.sysctl_disabled = sysctl;
            });
            says(&message, &["seccomp", "container", "docker"]);
        }
        let message = refusal(|facts| {
            facts.setup_errno = Some(libc::ENOSYS);
            facts.seccomp_filtered = true;
        });
        says(&message, &["seccomp"]);
    }

    #[test]
    fn an_old_or_stripped_kernel_is_named() {
        let message = refusal(|facts| {
            facts.setup_errno = Some(libc::ENOSYS);
            facts.kernel = KernelVersion::parse("4.19.0-21-amd64");
            facts.seccomp_filtered = true;
        });
        says(&message, &["4.19", "5.11"]);
        let message = refusal(|facts| {
            facts.missing = vec!["renameat (5.11)", "unlinkat (5.11)"];
            facts.kernel = KernelVersion::parse("5.10.0\n");
        });
        says(&message, &["5.10", "renameat", "unlinkat", "5.11"]);
    }

    #[test]
    fn locked_memory_tells_what_is_needed_for_how_many_cores() {
        let message = refusal(|facts| {
            facts.memlock_soft = 64 << 10;
            facts.memlock_hard = 64 << 10;
        });
        says(&message, &["64 KiB", "6400 KiB", "2 core(s)", "ulimit -l 6400", "this user"]);
        let message = refusal(|facts| facts.setup_errno = Some(libc::ENOMEM));
        says(&message, &["locked memory"]);
    }

    #[test]
    fn another_refusal_is_passed_on() {
        says(&refusal(|facts| facts.setup_errno = Some(libc::EMFILE)), &["open files"]);
    }

    #[test]
    fn this_host_is_seen() {
        let facts = probe();
        assert!(facts.kernel.is_some());
        assert!(process_cpus().is_some());
    }
}
