//! The engine's seam to the outside, simulated: one core of one process.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use coracle_engine::env::Env;
use fastrand::Rng;

use super::clock::HostClock;
use super::disk::SimDisk;
use super::net::{HostId, Net, SimListener, SimReader, SimWriter};
use super::world::{ProcessId, World};

/// The longest that giving way takes: as long as a turn of other tasks.
const YIELD_NS_MAX: u64 = 20_000;

/// What a core of a simulated process sees of the world.
#[derive(Clone)]
pub struct SimEnv(Rc<Inner>);

struct Inner {
    world: World,
    net: Net,
    host: HostId,
    process: ProcessId,
    clock: Rc<HostClock>,
    random: RefCell<Rng>,
}

impl SimEnv {
    /// The environment of one core. `random` is all the randomness that it gets.
    #[must_use]
    pub fn new(
        world: World,
        net: Net,
        (host, process): (HostId, ProcessId),
        clock: Rc<HostClock>,
        random: Rng,
    ) -> Self {
        let random = RefCell::new(random);
        Self(Rc::new(Inner { world, net, host, process, clock, random }))
    }
}

impl Env for SimEnv {
    type Disk = SimDisk;
    type Listener = SimListener;
    type Reader = SimReader;
    type Writer = SimWriter;

    fn now(&self) -> Duration {
        self.0.clock.monotonic(self.0.world.now())
    }

    fn unix_ms(&self) -> u64 {
        self.0.clock.unix_ms(self.0.world.now())
    }

    fn random(&self) -> u64 {
        self.0.random.borrow_mut().u64(..)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.world.spawn(self.0.process, task);
    }

    async fn sleep(&self, duration: Duration) {
        self.0.world.sleep(self.0.clock.truly(duration)).await;
    }

    async fn yield_now(&self) {
        let nanos = self.0.random.borrow_mut().u64(1..YIELD_NS_MAX);
        self.0.world.sleep(Duration::from_nanos(nanos)).await;
    }

    async fn connect(
        &self,
        address: &str,
        timeout: Duration,
    ) -> io::Result<(SimReader, SimWriter)> {
        let timeout = self.0.clock.truly(timeout);
        self.0.net.connect(self.0.process, self.0.host, address, timeout).await
    }

    async fn listen(&self, address: &str) -> io::Result<SimListener> {
        self.0.net.listen(self.0.process, self.0.host, address)
    }
}
