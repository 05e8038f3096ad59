//! Keeps the map of slot owners fresh, on a thread of its own, so that no load thread ever waits for
//! `CLUSTER SLOTS`.
//!
//! Load threads ask for a refresh when they meet a `MOVED` or lose a server; requests that come
//! together become one refresh. Each load thread compares a version number once per turn and takes the
//! new ranges when it has changed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

use super::client::{ConnectionError, ControlConnection};
use super::resp::Reply;
use super::slots::{SLOTS, SlotRange, SlotsError, parse_cluster_slots};

/// How long one server may take to answer a control command. Short: in a failover the first server
/// asked may be the stopped one, and the next one knows better.
pub const CONTROL_TIMEOUT: Duration = Duration::from_millis(300);
/// Least time between two refreshes, so that a failover does not become a storm of them.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Refresh requests that may wait; more would ask for the same thing.
const REFRESH_QUEUE_MAX: usize = 16;

/// Why a server cannot be measured.
#[derive(Debug, Error)]
pub enum ReachError {
    /// No connection, or it failed.
    #[error("{address}: {source}")]
    Connection {
        /// Who was asked.
        address: SocketAddr,
        /// What happened.
        source: ConnectionError,
    },
    /// The server has no cluster mode.
    #[error(
        "{address} is not in cluster mode ({text}); add --single to measure a single RESP server"
    )]
    NotACluster {
        /// Who was asked.
        address: SocketAddr,
        /// Its answer.
        text: String,
    },
    /// The server's slots make no sense.
    #[error("{address}: {source}")]
    Slots {
        /// Who was asked.
        address: SocketAddr,
        /// What is wrong.
        source: SlotsError,
    },
    /// The server refuses commands.
    #[error("{address} answers PING with an error: {text}")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// Its answer.
        text: String,
    },
}

fn connect(address: SocketAddr) -> Result<ControlConnection, ReachError> {
    ControlConnection::connect(address, CONTROL_TIMEOUT)
        .map_err(|error| ReachError::Connection { address, source: error.into() })
}

/// The slot ranges as the server at `address` knows them.
///
/// # Errors
/// [`ReachError`].
pub fn ask_cluster(address: SocketAddr) -> Result<Vec<SlotRange>, ReachError> {
    let parsed = connect(address)?
        .call(&[b"CLUSTER", b"SLOTS"], |reply| parse_cluster_slots(reply, address))
        .map_err(|source| ReachError::Connection { address, source })?;
    parsed.map_err(|source| match source {
        SlotsError::Refused(text) => ReachError::NotACluster { address, text },
        source => ReachError::Slots { address, source },
    })
}

/// One range that gives all slots to the single server at `address`, once it answers PING.
///
/// # Errors
/// [`ReachError`].
pub fn ask_single(address: SocketAddr) -> Result<Vec<SlotRange>, ReachError> {
    let refusal = connect(address)?
        .call(&[b"PING"], |reply| match reply {
            Reply::Error(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        })
        .map_err(|source| ReachError::Connection { address, source })?;
    match refusal {
        Some(text) => Err(ReachError::Refused { address, text }),
        None => Ok(vec![SlotRange { first: 0, last: SLOTS as u16 - 1, owner: address }]),
    }
}

/// The newest slot ranges, shared between the refreshing thread and the load threads.
#[derive(Debug)]
pub struct Topology {
    version: AtomicU64,
    ranges: Mutex<Arc<Vec<SlotRange>>>,
    requests: Option<SyncSender<Option<SocketAddr>>>,
}

impl Topology {
    /// A topology that never changes.
    pub fn fixed(ranges: Vec<SlotRange>) -> Arc<Self> {
        Arc::new(Self {
            version: AtomicU64::new(1),
            ranges: Mutex::new(Arc::new(ranges)),
            requests: None,
        })
    }

    /// A topology that starts as `ranges` and is refreshed from its servers, or from `seeds`, when
    /// asked. Its thread ends with the last handle.
    pub fn refreshed(ranges: Vec<SlotRange>, seeds: Vec<SocketAddr>) -> Arc<Self> {
        let (sender, requests) = sync_channel(REFRESH_QUEUE_MAX);
        let topology = Arc::new(Self {
            version: AtomicU64::new(1),
            ranges: Mutex::new(Arc::new(ranges)),
            requests: Some(sender),
        });
        let shared = Arc::downgrade(&topology);
        std::thread::spawn(move || refresh_loop(&requests, &shared, &seeds));
        topology
    }

    /// Grows whenever the ranges have changed. Starts at 1.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The newest ranges.
    pub fn ranges(&self) -> Arc<Vec<SlotRange>> {
        Arc::clone(&self.ranges.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for a refresh, first from `hint`. Returns at once.
    pub fn request_refresh(&self, hint: Option<SocketAddr>) {
        let Some(requests) = &self.requests else { return };
        match requests.try_send(hint) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    fn publish(&self, ranges: Vec<SlotRange>) {
        *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(ranges);
        self.version.fetch_add(1, Ordering::Release);
    }
}

fn refresh_loop(
    requests: &Receiver<Option<SocketAddr>>,
    shared: &std::sync::Weak<Topology>,
    seeds: &[SocketAddr],
) {
    while let Ok(first) = requests.recv() {
        std::thread::sleep(REFRESH_INTERVAL_MIN);
        let hint = requests.try_iter().fold(first, |newest, hint| hint.or(newest));
        let Some(topology) = shared.upgrade() else { return };
        let mut candidates: Vec<SocketAddr> = hint.into_iter().collect();
        candidates.extend(topology.ranges().iter().map(|range| range.owner));
        candidates.extend(seeds);
        let mut asked = Vec::new();
        for address in candidates {
            if asked.contains(&address) {
                continue;
            }
            asked.push(address);
            if let Ok(ranges) = ask_cluster(address) {
                // Published even when equal: a load thread may have noted a MOVED in between.
                topology.publish(ranges);
                break;
            }
        }
    }
}
