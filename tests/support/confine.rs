//! Gives a process less than it wants, between `fork` and `exec`.

use std::io;

/// What is taken from a process before it starts. The default takes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Confinement {
    /// Most bytes of locked memory (soft and hard limit).
    pub locked_memory_bytes: Option<u64>,
    /// Most open files (soft and hard limit).
    pub open_files: Option<u64>,
    /// Runs as this user and group, without any privilege. Takes root to do.
    pub user: Option<u32>,
    /// Whether a seccomp filter denies `io_uring_setup` with EPERM, as container runtimes do.
    pub deny_io_uring: bool,
    /// Joins the network namespace of this descriptor. Takes root to do.
    pub network: Option<libc::c_int>,
}

/// The user without privileges on every Debian.
const NOBODY: u32 = 65_534;

/// `io_uring_setup` on all architectures that Linux numbers alike since 5.1.
const SYS_IO_URING_SETUP: u32 = 425;

/// Position of the system call number in `struct seccomp_data` (seccomp(2)).
const SECCOMP_DATA_NUMBER: u32 = 0;

impl Confinement {
    /// No privileges: as another user if this test runs as root, else as it is.
    pub fn unprivileged() -> Self {
        Self { user: is_root().then_some(NOBODY), ..Self::default() }
    }

    /// Applies it to this process. Async-signal-safe: system calls only.
    pub(super) fn enter(&self) -> io::Result<()> {
        if let Some(network) = self.network {
            // SAFETY: a plain system call.
            check(unsafe { libc::setns(network, libc::CLONE_NEWNET) })?;
        }
        if let Some(bytes) = self.locked_memory_bytes {
            limit(libc::RLIMIT_MEMLOCK, bytes)?;
        }
        if let Some(files) = self.open_files {
            limit(libc::RLIMIT_NOFILE, files)?;
        }
        if let Some(user) = self.user {
            // SAFETY: plain system calls; the empty group list is not read.
            let result = unsafe {
                libc::setgroups(0, std::ptr::null()) | libc::setgid(user) | libc::setuid(user)
            };
            check(result)?;
        }
        // After the change of user, which clears it.
        // SAFETY: a plain system call.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        if self.deny_io_uring { deny_io_uring() } else { Ok(()) }
    }
}

fn limit(resource: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) })
}

/// Installs: if the system call is `io_uring_setup`, fail with EPERM, else allow.
fn deny_io_uring() -> io::Result<()> {
    let code = |code: u32| u16::try_from(code).unwrap_or(u16::MAX);
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut filter = [
        step(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), SECCOMP_DATA_NUMBER, 0, 0),
        step(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), SYS_IO_URING_SETUP, 0, 1),
        step(code(libc::BPF_RET | libc::BPF_K), errno, 0, 0),
        step(code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and `filter` outlive the calls; the kernel copies them.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: as above.
    check(unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this test runs as root.
pub fn is_root() -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::geteuid() == 0 }
}
