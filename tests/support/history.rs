//! What clients did and saw of each key, and whether one copy of it could have behaved so.
//!
//! Keys are independent, so each has a history of its own, and a cluster is linearizable if each of
//! them is (Herlihy and Wing 1990, theorem 1). Two ways to decide, with the same answer where both can:
//!
//! * [`zones`] is quick, for keys that are only set and read, with values that differ;
//! * [`search`] is for everything else.
//!
//! An operation without an answer may take effect at any time after its start, or never. One that was
//! *refused* has no effect: a read of its value is a phantom.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

mod search;
mod zones;

/// A moment: the position of an event among all events of one [`Recorder`].
pub type Moment = u64;

/// The number of clients that send reads to one node without waiting for answers.
pub const PROBE: usize = 1000;

/// The number of the client that reads everything in the end.
pub const LAST: usize = 2000;

/// Ends never, as far as is known.
const NEVER: Moment = Moment::MAX;

/// What an operation did, and what it saw if it was acknowledged; else that part means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A write of this value; no other write has the same.
    Write(String),
    /// A read that saw this value, or nothing.
    Read(Option<String>),
    /// A write of the first that saw the second in its place (`SET` with `GET`).
    Swap(String, Option<String>),
    /// A write that happens only where nothing is, and whether it did (`SET` with `NX`).
    WriteIfAbsent(String, bool),
    /// A removal, and whether something was there.
    Delete(bool),
    /// Adds one to a number; what came out.
    Increment(i64),
    /// Adds text at the end; the length that came out.
    Append(String, usize),
}

impl Action {
    /// What is there after this, where `before` was; and whether that agrees with what it saw.
    fn apply(&self, before: Option<&str>) -> (Option<String>, bool) {
        let same = || before.map(str::to_owned);
        match self {
            Self::Write(value) => (Some(value.clone()), true),
            Self::Read(seen) => (same(), seen.as_deref() == before),
            Self::Swap(value, seen) => (Some(value.clone()), seen.as_deref() == before),
            Self::WriteIfAbsent(value, done) => {
                let after = same().unwrap_or_else(|| value.clone());
                (Some(after), *done == before.is_none())
            }
            Self::Delete(found) => (None, *found == before.is_some()),
            Self::Increment(seen) => match before.unwrap_or("0").parse::<i64>() {
                Ok(number) => (Some((number + 1).to_string()), *seen == number + 1),
                Err(_) => (same(), false),
            },
            Self::Append(text, seen) => {
                let after = before.unwrap_or_default().to_owned() + text;
                let agrees = *seen == after.len();
                (Some(after), agrees)
            }
        }
    }

    /// Whether two operations do the same, whatever they saw.
    fn does_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Write(a), Self::Write(b))
            | (Self::Swap(a, _), Self::Swap(b, _))
            | (Self::WriteIfAbsent(a, _), Self::WriteIfAbsent(b, _))
            | (Self::Append(a, _), Self::Append(b, _)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
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
        match *client {
            LAST => write!(f, "last read")?,
            PROBE => write!(f, "probe")?,
            _ => write!(f, "client {client}")?,
        }
        write!(f, ": {action:?} from {start}, {end:?}")
    }
}

/// Decides whether a key that starts empty could have given this history.
///
/// # Errors
/// The reason why not.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let is_plain =
        |operation: &Operation| matches!(operation.action, Action::Write(_) | Action::Read(_));
    if history.iter().all(is_plain) { zones::check(history) } else { search::check(history) }
}

/// As [`check`], always by the search.
///
/// # Errors
/// The reason why not.
pub fn check_by_search(history: &[Operation]) -> Result<(), String> {
    search::check(history)
}

/// A key whose history no single copy could have given.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which key.
    pub key: String,
    /// Why.
    pub reason: String,
    /// All that was done to it, in order of the starts.
    pub story: Vec<String>,
}

/// Operations shown before and after each that a violation is about.
const CONTEXT: usize = 3;

impl Violation {
    /// The reason, and that part of the story which has to do with the values that it names.
    pub fn excerpt(&self) -> String {
        let named: Vec<&str> = self.reason.split('"').skip(1).step_by(2).collect();
        let is_meant = |line: &String| named.iter().any(|value| line.contains(value));
        let meant: Vec<bool> = self.story.iter().map(is_meant).collect();
        let is_near = |nth: usize| {
            let end = (nth + CONTEXT + 1).min(meant.len());
            meant[nth.saturating_sub(CONTEXT)..end].contains(&true)
        };
        let near = (0..meant.len()).filter(|nth| is_near(*nth));
        let lines: Vec<&str> = near.map(|nth| self.story[nth].as_str()).collect();
        let Self { key, reason, story } = self;
        let (shown, all) = (lines.len(), story.len());
        let lines = lines.join("\n");
        format!("key {key} is not linearizable: {reason}\n{lines}\n({shown} of {all} operations)")
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, reason, story } = self;
        write!(f, "key {key} is not linearizable: {reason}\n{}", story.join("\n"))
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

    /// The keys that are not linearizable.
    pub fn violations(&self) -> Vec<Violation> {
        let check_one = |(key, mut history): (String, Vec<Operation>)| {
            let reason = check(&history).err()?;
            history.sort_by_key(|operation| operation.start);
            let story = history.iter().map(ToString::to_string).collect();
            Some(Violation { key, reason, story })
        };
        self.histories().into_iter().filter_map(check_one).collect()
    }

    /// Checks all keys; panics with the story of the first that is not linearizable.
    #[track_caller]
    pub fn assert_linearizable(&self) {
        if let Some(violation) = self.violations().first() {
            panic!("{violation}");
        }
    }

    /// How many operations were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}
