//! The quick way to decide about a key that was only set and read, each value set at most once.
//!
//! Gibbons and Korach ("Testing shared memories", 1997) do it in O(n log n). All operations on one
//! value form a *cluster*: its write and the reads that saw it. Let `f` be the earliest end in a
//! cluster and `s` its latest start. If `f < s`, the value must have been in the register from `f` to
//! `s`: a **forward zone** `[f, s]`. Else all its operations overlap and may take effect together at
//! one moment of the **backward zone** `[s, f]`. A history is linearizable if and only if
//!
//! 1. no read ends before the write of its value starts,
//! 2. no two forward zones overlap, and
//! 3. no backward zone lies within a forward zone.
//!
//! A write without an acknowledgement may take effect at any time after its start, or never: it ends
//! at infinity, so without a read its backward zone lies within nothing.

use std::collections::HashMap;

use super::{Action, End, Moment, Operation};

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
