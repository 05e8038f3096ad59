//! What clients did and saw, and whether one register per key could have behaved so.
//!
//! Every value is written at most once, which makes the question easy: Gibbons and Korach ("Testing
//! shared memories", 1997) decide it in O(n log n). All operations on one value form a *cluster*: its
//! write and the reads that saw it. Let `f` be the earliest end in a cluster and `s` its latest start.
//! If `f < s`, the value must have been in the register from `f` to `s`: a **forward zone** `[f, s]`.
//! Else all its operations overlap and may take effect together at one moment of the **backward
//! zone** `[s, f]`. A history is linearizable if and only if
//!
//! 1. no read ends before the write of its value starts,
//! 2. no two forward zones overlap, and
//! 3. no backward zone lies within a forward zone.
//!
//! A write without an acknowledgement may take effect at any time after its start, or never: it ends
//! at infinity, so without a read its backward zone lies within nothing. A write that was *refused*
//! has no effect: a read of its value is a phantom.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A moment: the position of an event among all events of one [`Recorder`].
pub type Moment = u64;

/// Ends never, as far as is known.
const NEVER: Moment = Moment::MAX;

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A write of this value; no other write has the same.
    Write(String),
    /// A read that saw this value, or nothing.
    Read(Option<String>),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was acknowledged at this moment.
    Acknowledged(Moment),
    /// Nobody knows.
    Unknown,
    /// It surely had no effect.
    Refused,
}

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client that did it, for messages.
    pub client: usize,
    /// When it was sent.
    pub start: Moment,
    /// How it ended.
    pub end: End,
    /// What it did.
    pub action: Action,
}

impl Operation {
    fn end(&self) -> Moment {
        match self.end {
            End::Acknowledged(moment) => moment,
            End::Unknown | End::Refused => NEVER,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, start, end, action } = self;
        write!(f, "client {client}: {action:?} from {start}, {end:?}")
    }
}

/// Collects operations from many threads. Its moments are in one order that agrees with real time:
/// what ended before another began has the smaller moment.
#[derive(Debug, Default)]
pub struct Recorder {
    clock: AtomicU64,
    acknowledged: AtomicU64,
    keys: Mutex<BTreeMap<String, Vec<Operation>>>,
}

impl Recorder {
    /// The next moment.
    pub fn now(&self) -> Moment {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Adds an operation that is over.
    pub fn add(&self, key: &str, operation: Operation) {
        if matches!(operation.end, End::Acknowledged(_)) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.keys.lock().unwrap().entry(key.to_owned()).or_default().push(operation);
    }

    /// All operations so far, by key.
    pub fn histories(&self) -> BTreeMap<String, Vec<Operation>> {
        self.keys.lock().unwrap().clone()
    }

    /// Checks all keys; panics with the story of the first that is not linearizable.
    #[track_caller]
    pub fn assert_linearizable(&self) {
        for (key, history) in self.histories() {
            if let Err(reason) = check(&history) {
                let story: Vec<String> = history.iter().map(ToString::to_string).collect();
                panic!("key {key} is not linearizable: {reason}\n{}", story.join("\n"));
            }
        }
    }

    /// How many operations were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// The operations on one value.
#[derive(Debug)]
struct Cluster {
    value: Option<String>,
    write_start: Moment,
    first_end: Moment,
    last_start: Moment,
}

impl Cluster {
    fn is_forward(&self) -> bool {
        self.first_end < self.last_start
    }

    fn low(&self) -> Moment {
        self.first_end.min(self.last_start)
    }

    fn high(&self) -> Moment {
        self.first_end.max(self.last_start)
    }
}

/// Decides whether a register that starts empty could have given this history.
///
/// # Errors
/// The reason why not.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let mut clusters = clusters(history)?;
    // The values of the zones in the order of their lower ends.
    clusters.sort_by_key(Cluster::low);
    let forward: Vec<&Cluster> = clusters.iter().filter(|cluster| cluster.is_forward()).collect();
    for pair in forward.windows(2) {
        if pair[1].low() < pair[0].high() {
            return Err(format!(
                "{:?} was seen after {:?} had replaced it, or the other way round",
                pair[0].value, pair[1].value
            ));
        }
    }
    for backward in clusters.iter().filter(|cluster| !cluster.is_forward()) {
        let within =
            |zone: &&&Cluster| zone.low() < backward.low() && backward.high() < zone.high();
        if let Some(zone) = forward.iter().find(within) {
            return Err(format!(
                "{:?} came and went while {:?} must have been there",
                backward.value, zone.value
            ));
        }
    }
    Ok(())
}

fn clusters(history: &[Operation]) -> Result<Vec<Cluster>, String> {
    let mut clusters: HashMap<Option<&str>, Cluster> = HashMap::new();
    // Emptiness was "written" before everything else.
    let empty = Cluster { value: None, write_start: 0, first_end: 0, last_start: 0 };
    clusters.insert(None, empty);
    for operation in history {
        if let Action::Write(value) = &operation.action {
            if operation.end == End::Refused {
                continue;
            }
            let cluster = Cluster {
                value: Some(value.clone()),
                write_start: operation.start,
                first_end: operation.end(),
                last_start: operation.start,
            };
            if clusters.insert(Some(value), cluster).is_some() {
                return Err(format!("the test wrote {value:?} twice"));
            }
        }
    }
    for operation in history {
        let Action::Read(value) = &operation.action else { continue };
        let End::Acknowledged(end) = operation.end else { continue };
        let value = value.as_deref();
        let Some(cluster) = clusters.get_mut(&value) else {
            return Err(format!("{operation}: nobody wrote this value, or its write was refused"));
        };
        if value.is_some() && end < cluster.write_start {
            return Err(format!("{operation}: read before it was written"));
        }
        cluster.first_end = cluster.first_end.min(end);
        cluster.last_start = cluster.last_start.max(operation.start);
    }
    Ok(clusters.into_values().collect())
}
