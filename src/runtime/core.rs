//! Starts one executor per core, each on a thread of its own.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use thiserror::Error;

use super::GlommioEnv;
use super::preflight::{self, PreflightError};
use super::tasks;
use super::turn;

/// Locked memory that the runtime registers per core for its own file I/O. We use that for reads of
/// eight bytes only (files go through [`crate::uring`]), so the least it takes is enough; it is
/// registered three times.
pub const IO_MEMORY_BYTES: usize = 64 << 10;

/// What one core is to be.
#[derive(Clone, Debug)]
pub struct CoreSpec {
    /// Name of its thread; the kernel keeps the first 15 bytes.
    pub name: String,
    /// The CPU it is pinned to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Locked memory for the runtime's own file I/O in bytes, rounded up to 64 KiB at least.
    pub io_memory_bytes: usize,
    /// How long an idle core looks for work before it sleeps. Only where it has its CPU for itself:
    /// ignored, with a warning, on a core that is not pinned.
    pub spin: Option<Duration>,
}

impl CoreSpec {
    /// An unpinned core that never spins.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), cpu: None, io_memory_bytes: IO_MEMORY_BYTES, spin: None }
    }

    /// The same core, pinned to `cpu` if there is one.
    #[must_use]
    pub fn pinned_to(mut self, cpu: Option<usize>) -> Self {
        self.cpu = cpu;
        self
    }
}

/// Why a core did not start, or how it ended.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The host cannot run cores.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The system gave no thread.
    #[error("cannot start a thread for core {name}: {source}")]
    Thread {
        /// The core's name.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The runtime refused to start on that thread.
    #[error("cannot start core {name}: {reason}")]
    Start {
        /// The core's name.
        name: String,
        /// The runtime's reason.
        reason: String,
    },
    /// The core's task panicked: a bug of this program.
    #[error("core {name} panicked: {message}")]
    Panicked {
        /// The core's name.
        name: String,
        /// The panic's message.
        message: String,
    },
}

/// A running core.
#[derive(Debug)]
pub struct CoreHandle<T> {
    name: String,
    /// Gives nothing only when the executor did not start, of which `spawn_core` has told.
    thread: JoinHandle<Option<T>>,
}

impl<T> CoreHandle<T> {
    /// Waits until the core's task ends. Blocking.
    ///
    /// # Errors
    /// [`RuntimeError::Panicked`], in builds whose panics unwind.
    pub fn join(self) -> Result<T, RuntimeError> {
        let name = self.name;
        match self.thread.join() {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(RuntimeError::Start { name, reason: "it never ran".into() }),
            Err(panic) => Err(RuntimeError::Panicked { name, message: message_of(&*panic) }),
        }
    }

    /// Whether the core's task has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts a core and runs `task` on it; the core ends with that task. Returns when the core runs.
///
/// # Errors
/// The host or the runtime refuses; nothing is left behind then.
pub fn spawn_core<T, F, Fut>(spec: CoreSpec, task: F) -> Result<CoreHandle<T>, RuntimeError>
where
    F: FnOnce(GlommioEnv) -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    preflight::prepare(1, spec.io_memory_bytes)?;
    let name = spec.name.clone();
    let (started, outcome) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .name(spec.name.clone())
        .spawn(move || {
            let executor = match make_executor(&spec) {
                Ok(executor) => executor,
                Err(error) => {
                    let _ = started.send(Err(error)); // the other side waits for it
                    return None;
                }
            };
            let _ = started.send(Ok(()));
            Some(executor.run(async move {
                turn::start_heartbeat();
                let result = task(GlommioEnv::of_this_core()).await;
                tasks::cancel_all().await;
                result
            }))
        })
        .map_err(|source| RuntimeError::Thread { name: name.clone(), source })?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(CoreHandle { name, thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(RuntimeError::Start { name, reason: "its thread ended at once".into() }),
    }
}

/// Makes the executor of the current thread. The runtime panics where it finds a host unfit; that
/// becomes an error here, in builds whose panics unwind.
fn make_executor(spec: &CoreSpec) -> Result<LocalExecutor, RuntimeError> {
    let placement = spec.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let mut builder = LocalExecutorBuilder::new(placement)
        .name(&spec.name)
        .io_memory(spec.io_memory_bytes)
        .preempt_timer(turn::PREEMPT);
    match spec.spin {
        Some(spin) if spec.cpu.is_some() => builder = builder.spin_before_park(spin),
        Some(_) => tracing::warn!(core = spec.name, "an unpinned core does not spin"),
        None => {}
    }
    let refused = |reason| RuntimeError::Start { name: spec.name.clone(), reason };
    let made = match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(made) => made.map_err(io::Error::from),
        Err(panic) => return Err(refused(message_of(&*panic))),
    };
    made.map_err(|error| match (error.raw_os_error(), spec.cpu) {
        (Some(libc::ENOMEM), _) => preflight::locked_memory_used_up(spec.io_memory_bytes).into(),
        (_, Some(cpu)) => refused(format!("{error} (pinned to CPU {cpu})")),
        (_, None) => refused(error.to_string()),
    })
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
