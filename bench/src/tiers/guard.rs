//! Nothing that this program starts outlives it, and Ctrl-C lets it clean up.
//!
//! SIGINT, SIGTERM and SIGHUP are blocked in all threads and awaited on one of their own, which sets a
//! flag that every wait looks at: so all that runs is ended by its owners, and the directory is
//! removed. The second signal ends the program at once. Children are in process groups of their own,
//! lest a Ctrl-C of the terminal reach them as well; the kernel kills them when the thread that
//! started them ends, whatever the reason, so they are started from the main thread only.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::TiersError;

/// Signals this close together are one.
const SAME_WISH: Duration = Duration::from_secs(1);
/// Longest sleep between two looks at the signal.
const STEP: Duration = Duration::from_millis(20);

/// Whether the program has been asked to stop. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Takes the signals away from this thread and all that it starts later.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn watch() -> io::Result<Self> {
        let signals = block()?;
        let stop = Self::default();
        let flag = stop.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut first = None;
            while wait_for(&signals).is_ok() {
                // Some senders signal the process and its group: that is one wish, not two.
                if first.get_or_insert_with(Instant::now).elapsed() > SAME_WISH {
                    eprintln!("coracle-bench: ending at once; its directory is left behind");
                    std::process::exit(130);
                }
                if !flag.0.swap(true, Ordering::SeqCst) {
                    eprintln!("coracle-bench: stopping; once more to end at once");
                }
            }
        })?;
        Ok(stop)
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`TiersError::Interrupted`].
    pub fn check(&self) -> Result<(), TiersError> {
        if self.0.load(Ordering::SeqCst) { Err(TiersError::Interrupted) } else { Ok(()) }
    }

    /// Sleeps for `time`, or until the program is asked to stop.
    ///
    /// # Errors
    /// [`TiersError::Interrupted`].
    pub fn sleep(&self, time: Duration) -> Result<(), TiersError> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP));
        }
    }
}

/// Lets the child that `command` starts die with the thread that starts it.
pub fn bind_to_us(command: &mut Command) {
    command.process_group(0);
    // SAFETY: the closure makes system calls only; it takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            let unblocked =
                libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            if unblocked != 0 {
                return Err(io::Error::from_raw_os_error(unblocked));
            }
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Blocks the signals, so that [`wait_for`] gets them.
fn block() -> io::Result<libc::sigset_t> {
    // SAFETY: `set` is initialised by sigemptyset before it is read; the other arguments are valid
    // signals and pointers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn wait_for(set: &libc::sigset_t) -> io::Result<libc::c_int> {
    let mut signal = 0;
    // SAFETY: the set is initialised, `signal` is a valid place for the result.
    match unsafe { libc::sigwait(set, &raw mut signal) } {
        0 => Ok(signal),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
