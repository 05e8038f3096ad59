//! Snapshots and segments of single nodes, seen from outside: `INFO`, files, and what one does to files
//! that must not go unnoticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::{Cluster, REPLY_TIMEOUT, SHARDS};
use super::probe::{catches_up, writes_go_on};
use super::resp::{Connection, Reply};
use super::wait;

/// Longest wait for snapshots of small shards, in a debug build on a busy machine.
const SAVE_BOUND: Duration = Duration::from_secs(60);

/// Bytes of a block as `stat` counts them.
const STAT_BLOCK_BYTES: u64 = 512;

/// `INFO` of node `id`, as names and values.
pub fn info(cluster: &Cluster, id: u64) -> Result<BTreeMap<String, String>, String> {
    let run = || Connection::open(cluster.address(id), REPLY_TIMEOUT)?.command("INFO");
    let reply = run().map_err(|error| error.to_string())?;
    let text = reply.text().ok_or_else(|| reply.to_string())?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// A number of `INFO`.
pub fn info_number(cluster: &Cluster, id: u64, name: &str) -> Result<u64, String> {
    let info = info(cluster, id)?;
    let value = info.get(name).ok_or_else(|| format!("INFO of node {id} has no {name}"))?;
    value.parse().map_err(|_| format!("{name} is {value}"))
}

/// Asks node `id` for snapshots of all its shards and waits until it has them. `mark` is a value that no probe
/// has had before: with it, every shard has something new to keep.
#[track_caller]
pub fn save(cluster: &Cluster, id: u64, mark: &str) {
    // The node takes snapshots by itself, too: perhaps of the mark, before it is asked.
    let before = manifests(cluster, id);
    writes_go_on(cluster, mark);
    catches_up(cluster, id, mark);
    let mut connection = cluster.connect(id);
    let reply = connection.command("BGSAVE").unwrap();
    assert!(matches!(reply, Reply::Simple(_)), "BGSAVE at node {id}: {reply}");
    wait::until(&format!("snapshots of node {id}"), SAVE_BOUND, || {
        let under_way = info_number(cluster, id, "rdb_bgsave_in_progress")?;
        let after = manifests(cluster, id);
        let is_new = |(shard, files): &(&u16, &Files)| before.get(shard) != Some(*files);
        let new = after.iter().filter(is_new).count();
        if under_way == 0 && new == usize::from(SHARDS) {
            return Ok(());
        }
        Err(format!("{new} shards have a new one, under way: {under_way}"))
    });
}

/// The newest whole snapshot of each shard of a node: its two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The manifest.
    pub manifest: PathBuf,
    /// The chunks.
    pub chunks: PathBuf,
}

/// The newest snapshot of each shard that has one, by its files.
pub fn manifests(cluster: &Cluster, id: u64) -> BTreeMap<u16, Files> {
    let mut newest = BTreeMap::new();
    let mut names: Vec<PathBuf> = files(&cluster.data_dir(id));
    names.retain(|path| path.extension().is_some_and(|kind| kind == "manifest"));
    // Names have numbers of fixed length: the last of a shard is the newest.
    names.sort();
    for manifest in names {
        let name = manifest.file_stem().unwrap().to_string_lossy().into_owned();
        let shard = name.split('-').nth(1).and_then(|text| u16::from_str_radix(text, 16).ok());
        let chunks = manifest.with_extension("chunks");
        newest.insert(shard.unwrap(), Files { manifest, chunks });
    }
    newest
}

/// The segments of a node's log, oldest first.
pub fn segments(cluster: &Cluster, id: u64) -> Vec<PathBuf> {
    let mut segments = files(&cluster.data_dir(id));
    segments.retain(|path| name_of(path).starts_with("seg-"));
    segments.sort();
    segments
}

/// The last part of a path.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Allocated bytes of a node's data directory.
pub fn disk_bytes(cluster: &Cluster, id: u64) -> u64 {
    // What is removed meanwhile is not counted.
    let meta = files(&cluster.data_dir(id)).into_iter().filter_map(|path| fs::metadata(path).ok());
    meta.map(|meta| meta.blocks() * STAT_BLOCK_BYTES).sum()
}

/// Names of a node's files and their allocated KiB, to be shown.
pub fn listing(cluster: &Cluster, id: u64) -> Vec<String> {
    let files = files(&cluster.data_dir(id)).into_iter();
    let line = |path: PathBuf| {
        let kib = fs::metadata(&path).map_or(0, |meta| (meta.blocks() * STAT_BLOCK_BYTES) >> 10);
        format!("{} {kib} KiB", name_of(&path))
    };
    files.map(line).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all = Vec::new();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// Turns over some bits of a file at `position`.
#[track_caller]
pub fn damage(path: &Path, position: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, position).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    file.write_all_at(&bytes, position).unwrap();
    file.sync_all().unwrap();
}

/// Turns over some bits in each of the blocks of a file from `first` on.
#[track_caller]
pub fn damage_all(path: &Path, first: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let end = file.metadata().unwrap().len();
    for position in (first..end).step_by(4096) {
        let mut bytes = [0; 16];
        file.read_exact_at(&mut bytes, position).unwrap();
        bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
        file.write_all_at(&bytes, position).unwrap();
    }
    file.sync_all().unwrap();
}

/// Gives each of two files the name of the other.
#[track_caller]
pub fn swap(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(aside, b).unwrap();
}
