//! What a scenario plays on: a directory, a cluster in it, a monitor, load; and steps that several
//! scenarios take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cluster::{Cluster, Spec, free_bytes, server_beside_us};
use super::guard::StopSignal;
use super::monitor::{Monitor, Watching};
use super::raw::{RawRates, Relay};
use super::settings::Common;
use super::{Needs, TiersError};
use crate::load::Outcome;
use crate::load::background::{Background, Settings, Span};
use crate::load::workload::key_bytes;
use crate::report::{Progress, Table, grouped, micros};

/// Pause between two looks at a load that runs.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Length of the load's intervals.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long a reply may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a load that has a number of writes to do may go on without one that succeeds.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);
/// Bytes under way at the same time while a store is filled: enough for any disk.
const FILL_WINDOW_BYTES: usize = 8 << 20;
/// How long replicas may take to become equal when nothing is written any more.
const AGREE_BOUND: Duration = Duration::from_secs(20);
/// Most clients and commands per client that fill a store.
const FILL_CLIENTS_MAX: usize = 64;
const FILL_PIPELINE_MAX: usize = 64;

/// Directory, cluster and monitor.
#[derive(Debug)]
pub struct Stage {
    /// The nodes. Before the directory, so that they are gone when it goes.
    pub cluster: Cluster,
    /// What they look like from outside.
    pub seen: std::sync::Arc<Monitor>,
    _watching: Watching,
    directory: TempDir,
    progress: Progress,
    begun: Instant,
}

impl Stage {
    /// Checks that there is room, makes the directory; starts nothing.
    ///
    /// # Errors
    /// [`TiersError`].
    pub fn set_up(common: &Common, needs: &Needs) -> Result<Self, TiersError> {
        let stop = StopSignal::watch().map_err(TiersError::Signals)?;
        let server = common.server.clone().map_or_else(server_beside_us, Ok)?;
        let fail = |source| TiersError::Dir { dir: common.dir.display().to_string(), source };
        let dir = common.dir.canonicalize().map_err(fail)?;
        let server = server
            .canonicalize()
            .map_err(|_| TiersError::NoServer(server.display().to_string()))?;
        let free_mib = free_bytes(&dir).map_err(fail)? >> 20;
        if free_mib < needs.disk_mib {
            let (dir, needed_mib) = (dir.display().to_string(), needs.disk_mib);
            return Err(TiersError::Space { dir, free_mib, needed_mib });
        }
        let mut directory =
            tempfile::Builder::new().prefix("coracle-tiers-").tempdir_in(&dir).map_err(fail)?;
        directory.disable_cleanup(common.keep);
        let (seen, watching) = Monitor::start(directory.path());
        let spec = Spec {
            server,
            dir: directory.path().to_owned(),
            nodes: needs.nodes,
            cores: common.cores,
            shards: common.shards,
            settings: common.node_settings(&needs.defaults),
        };
        let cluster = Cluster::prepare(spec, seen.clone(), stop)?;
        let progress = Progress::new("tiers", 1);
        if common.keep {
            progress.note(&format!("data and logs stay in {}", directory.path().display()));
        }
        let begun = Instant::now();
        Ok(Self { cluster, seen, _watching: watching, directory, progress, begun })
    }

    /// Says what happens now.
    pub fn say(&self, line: &str) {
        self.progress.note(&format!("{:>6.1} s  {line}", self.begun.elapsed().as_secs_f64()));
    }

    /// The machine's own rates, measured in the run's directory, and the files for it, to measure again with.
    ///
    /// # Errors
    /// [`TiersError::Raw`].
    pub fn raw_rates(&self, mib: u64) -> Result<(RawRates, Relay), TiersError> {
        self.say(&format!("raw figures, with files of {mib} MiB"));
        let files = Relay::prepare(self.directory.path(), mib << 20).map_err(TiersError::Raw)?;
        Ok((RawRates::with(&files).map_err(TiersError::Raw)?, files))
    }

    /// Load on this cluster with nothing special about it.
    pub fn load_settings(&self, value_bytes: usize, keys: u32) -> Settings {
        Settings {
            addresses: self.cluster.addresses(),
            clients: 16,
            pipeline: 1,
            value_bytes,
            keys,
            in_turn: false,
            rate: None,
            requests: None,
            interval: INTERVAL,
            timeout: REPLY_TIMEOUT,
            seed: 1,
        }
    }

    /// Writes each of `keys` keys once.
    ///
    /// # Errors
    /// A write failed, or none succeeds any more.
    pub fn fill(&mut self, value_bytes: usize, keys: u32) -> Result<(), TiersError> {
        let window = (FILL_WINDOW_BYTES / value_bytes.max(1)).clamp(1, 4096);
        let clients = window.min(FILL_CLIENTS_MAX);
        let settings = Settings {
            clients: clients as u32,
            pipeline: (window / clients).clamp(1, FILL_PIPELINE_MAX),
            in_turn: true,
            requests: Some(keys.into()),
            ..self.load_settings(value_bytes, keys)
        };
        self.say(&format!("filling {keys} keys with {value_bytes} bytes each"));
        let load = Background::start(&settings)?;
        self.run_to_end(&load, keys.into())?;
        complete("filling the store", &load.finish()?, keys.into())
    }

    /// Waits until a load with a number of writes has done them.
    ///
    /// # Errors
    /// A node ends, the program is asked to stop, or nothing is acknowledged any more.
    pub fn run_to_end(&mut self, load: &Background, writes: u64) -> Result<(), TiersError> {
        let (mut last, mut since) = (0, Instant::now());
        let mut said = Instant::now();
        while !load.is_over() {
            self.cluster.stop().sleep(LOOK_PAUSE)?;
            self.cluster.check_nodes()?;
            let done = load.acknowledged();
            if done > last {
                (last, since) = (done, Instant::now());
            }
            if since.elapsed() > STANDSTILL_MAX {
                return Err(TiersError::Timeout {
                    what: "more acknowledged writes".to_owned(),
                    bound: STANDSTILL_MAX,
                    last: format!("{done} of {writes}"),
                });
            }
            if said.elapsed() > Duration::from_secs(5) {
                said = Instant::now();
                self.say(&format!("{} of {} writes", grouped(done), grouped(writes)));
            }
        }
        Ok(())
    }

    /// Lets time pass while everything runs; gives the span.
    ///
    /// # Errors
    /// A node ends, or the program is asked to stop.
    pub fn pass(&mut self, time: Duration) -> Result<(Instant, Instant), TiersError> {
        let from = Instant::now();
        while from.elapsed() < time {
            let left = time.saturating_sub(from.elapsed());
            self.cluster.stop().sleep(left.min(Duration::from_millis(200)))?;
            self.cluster.check_nodes()?;
        }
        Ok((from, Instant::now()))
    }

    /// Waits until node `id` itself has applied `mark`, which is written first, in every shard.
    ///
    /// # Errors
    /// It takes longer than `bound`.
    pub fn catches_up(&mut self, id: u64, mark: &str, bound: Duration) -> Result<(), TiersError> {
        let mut control = self.cluster.control();
        let address = self.cluster.address(id);
        self.cluster.until("a mark in every shard", bound, |_| control.put_probes(mark))?;
        let what = format!("node {id} to catch up");
        self.cluster.until(&what, bound, |_| control.has_probes(address, mark))
    }
}

impl Stage {
    /// Whether all replicas have the same values for the first `keys` keys of the load. Waits a little
    /// for replicas that are still applying.
    ///
    /// # Errors
    /// A node does not answer.
    pub fn replicas_agree(&mut self, keys: u32) -> Result<bool, TiersError> {
        let mut control = self.cluster.control();
        let addresses = self.cluster.addresses();
        let mut compare = |key: u32| {
            let key = key_bytes(key);
            let values: Result<Vec<String>, String> =
                addresses.iter().map(|address| control.replica_get(*address, &key)).collect();
            let values = values?;
            match values.iter().all(|value| *value == values[0] && !value.is_empty()) {
                true => Ok(()),
                false => Err(format!("{} differs", String::from_utf8_lossy(&key))),
            }
        };
        for key in 0..keys {
            match self.cluster.until("equal replicas", AGREE_BOUND, |_| compare(key)) {
                Err(TiersError::Timeout { last, .. }) => {
                    self.say(&last);
                    return Ok(false);
                }
                other => other?,
            }
        }
        Ok(true)
    }
}

/// Checks that all writes of a load succeeded.
///
/// # Errors
/// [`TiersError::Incomplete`].
pub fn complete(what: &'static str, outcome: &Outcome, wanted: u64) -> Result<(), TiersError> {
    if outcome.ok == wanted {
        return Ok(());
    }
    let errors = outcome.errors.iter().map(|(kind, count)| format!("{kind} ({count})"));
    let errors: Vec<String> = errors.collect();
    Err(TiersError::Incomplete { what, ok: outcome.ok, wanted, errors: errors.join(", ") })
}

/// A table of what clients saw in some spans.
pub fn spans_table(title: &str, spans: &[(&str, &Span)]) -> Table {
    let mut table =
        Table::new(title, &["", "seconds", "writes/s", "failed", "p50", "p99", "p99.9", "max"]);
    for (name, span) in spans {
        table.row([
            (*name).to_owned(),
            format!("{:.1}", span.seconds),
            grouped(span.per_second() as u64),
            grouped(span.errors),
            micros(span.us(0.5)),
            micros(span.us(0.99)),
            micros(span.us(0.999)),
            micros(span.latency.max() as f64 / 1e3),
        ]);
    }
    table
}

/// The same for the JSON.
pub fn span_figures(span: &Span) -> BTreeMap<&'static str, f64> {
    BTreeMap::from([
        ("seconds", span.seconds),
        ("writes_per_second", span.per_second()),
        ("failed", span.errors as f64),
        ("p50_us", span.us(0.5)),
        ("p99_us", span.us(0.99)),
        ("p999_us", span.us(0.999)),
        ("max_us", span.latency.max() as f64 / 1e3),
    ])
}

/// The median of some figures; not a number for none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
