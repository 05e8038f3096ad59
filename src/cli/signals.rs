//! SIGTERM and SIGINT ask the process to stop.
//!
//! | when | what happens |
//! |---|---|
//! | while the node starts | the process ends at once: reading a long log is not to be waited for |
//! | while it runs | it drains and stops |
//! | again while it stops | the process ends at once: a disk that does not answer is not, either |
//!
//! Ending at once is like a crash: nothing that was acknowledged is lost.

use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

/// Receives the signals that stop the process.
pub struct StopSignals {
    first: mpsc::Receiver<libc::c_int>,
    /// Set when somebody waits for the first signal.
    awaited: Arc<AtomicBool>,
}

impl StopSignals {
    /// Takes the signals away from this thread and all that it starts later, and watches for them on
    /// a thread of its own. Call it first.
    ///
    /// # Errors
    /// What the system said.
    pub fn watch() -> io::Result<Self> {
        let set = block()?;
        let awaited = Arc::new(AtomicBool::new(false));
        let (sender, first) = mpsc::channel();
        let is_awaited = awaited.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut asked = false;
            while let Ok(signal) = wait_for(&set) {
                if asked || !is_awaited.load(Ordering::SeqCst) {
                    tracing::warn!("{}: ending at once", name_of(signal));
                    process::exit(128 + signal); // as a shell reports it
                }
                asked = sender.send(signal).is_ok();
            }
        })?;
        Ok(Self { first, awaited })
    }

    /// Waits for one of the signals and gives its name.
    ///
    /// # Errors
    /// Signals cannot be watched for.
    pub fn wait(&self) -> io::Result<&'static str> {
        self.awaited.store(true, Ordering::SeqCst);
        self.first.recv().map(name_of).map_err(io::Error::other)
    }
}

fn name_of(signal: libc::c_int) -> &'static str {
    if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" }
}

/// Blocks the signals, so that [`wait_for`] gets them.
fn block() -> io::Result<libc::sigset_t> {
    // SAFETY: `set` is initialised by sigemptyset before it is read; the other arguments are valid
    // signals and pointers.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::sigaddset(&mut set, libc::SIGINT);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn wait_for(set: &libc::sigset_t) -> io::Result<libc::c_int> {
    let mut signal = 0;
    // SAFETY: the set is initialised, `signal` is a valid place for the result.
    match unsafe { libc::sigwait(set, &mut signal) } {
        0 => Ok(signal),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
