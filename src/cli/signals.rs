//! SIGTERM and SIGINT ask the process to stop; they are waited for on the main thread.

use std::io;

/// The signals that stop the process, blocked so that [`StopSignals::wait`] gets them.
pub struct StopSignals(libc::sigset_t);

impl StopSignals {
    /// Blocks the signals in this thread and in all that it starts later. Call it first.
    ///
    /// # Errors
    /// What the system said.
    pub fn block() -> io::Result<Self> {
        // SAFETY: `set` is initialised by sigemptyset before it is read; the other arguments are
        // valid signals and pointers.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => Ok(Self(set)),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Waits for one of the signals and gives its name.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait(&self) -> io::Result<&'static str> {
        let mut signal = 0;
        // SAFETY: the set is initialised, `signal` is a valid place for the result.
        match unsafe { libc::sigwait(&self.0, &mut signal) } {
            0 if signal == libc::SIGINT => Ok("SIGINT"),
            0 => Ok("SIGTERM"),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
