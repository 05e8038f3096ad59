//! [`GlommioEnv`]: the engine's seam to the outside, for one core.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use coracle_engine::env::Env;
use glommio::TaskQueueHandle;

use super::Turns;
use super::net::{self, TcpListener, TcpReader, TcpWriter};
use super::tasks;
use crate::uring::UringDisk;

/// How long a port in use is waited for. The kernel takes down the rings of a killed process in the
/// background, and its listening sockets with them, after the process itself is gone: a node that is
/// started again at once would find its own ports taken.
const PORT_RELEASE_MAX: Duration = Duration::from_secs(2);
/// Pause before a port in use is tried again.
const PORT_RETRY: Duration = Duration::from_millis(10);

/// The clock, tasks, randomness and network of one core. Clones belong to the same core.
#[derive(Clone)]
pub struct GlommioEnv(Rc<Inner>);

struct Inner {
    start: Instant,
    random: RefCell<fastrand::Rng>,
    queue: TaskQueueHandle,
    turns: Turns,
}

impl GlommioEnv {
    /// The environment of the core whose task calls this. Its tasks run in the caller's task queue.
    pub(super) fn of_this_core() -> Self {
        let queue = glommio::executor().current_task_queue();
        let random = RefCell::new(fastrand::Rng::new());
        Self(Rc::new(Inner { start: Instant::now(), random, queue, turns: Turns::new() }))
    }
}

impl Env for GlommioEnv {
    type Disk = UringDisk;
    type Listener = TcpListener;
    type Reader = TcpReader;
    type Writer = TcpWriter;

    fn now(&self) -> Duration {
        self.0.start.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }

    fn random(&self) -> u64 {
        self.0.random.borrow_mut().u64(..)
    }

    /// The task starts at the next turn, never inside this call: the caller may hold borrows.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if let Err(error) = tasks::spawn(task, self.0.queue) {
            unreachable!("the queue of a core's tasks is never removed: {error}");
        }
    }

    async fn sleep(&self, duration: Duration) {
        glommio::timer::sleep(duration).await;
    }

    async fn yield_now(&self) {
        self.0.turns.give_way().await;
    }

    async fn connect(
        &self,
        address: &str,
        timeout: Duration,
    ) -> io::Result<(TcpReader, TcpWriter)> {
        net::connect(address, timeout).await
    }

    async fn listen(&self, address: &str) -> io::Result<TcpListener> {
        let start = Instant::now();
        loop {
            match TcpListener::bind(address) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && start.elapsed() < PORT_RELEASE_MAX =>
                {
                    glommio::timer::sleep(PORT_RETRY).await;
                }
                result => return result,
            }
        }
    }
}
