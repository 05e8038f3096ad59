//! What the block device behind a directory does on a flush, and which sync method follows from it.
//!
//! A device without a volatile cache, or with FUA, makes one data-sync write durable by itself. A
//! device with a volatile cache and no FUA needs a write and then a flush; the kernel finishes an
//! asynchronous data-sync write there on a work queue of the CPU that took the disk's interrupt, and
//! when that CPU computes, the write waits for the next timer tick (4 ms instead of 50 us). A write
//! linked to a flush in one submission does not depend on that CPU.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a durable write reaches the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncMethod {
    /// Decided from the device's write cache and FUA, see [`choose_sync_method`].
    #[default]
    Auto,
    /// A write linked to an `fdatasync` in one submission. Right on every device.
    Linked,
    /// One write with `RWF_DSYNC`. The quickest on devices with FUA or without a volatile cache.
    Dsync,
    /// Buffered writes that are **not durable** against a power cut. For tests only.
    BufferedNone,
}

impl SyncMethod {
    /// Every method, in the order of the documentation.
    pub const ALL: [SyncMethod; 4] = [Self::Auto, Self::Linked, Self::Dsync, Self::BufferedNone];

    /// The name used in flags and configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Linked => "linked",
            Self::Dsync => "dsync",
            Self::BufferedNone => "buffered-none",
        }
    }
}

impl fmt::Display for SyncMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no sync method.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown sync method {0:?}: use auto, linked, dsync, or (for tests only) buffered-none")]
pub struct UnknownSyncMethod(String);

impl FromStr for SyncMethod {
    type Err = UnknownSyncMethod;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| UnknownSyncMethod(name.to_owned()))
    }
}

/// Whether a device keeps acknowledged writes in memory that a power cut erases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteCache {
    /// A volatile cache: durable only after a flush.
    WriteBack,
    /// No volatile cache: durable when complete.
    WriteThrough,
}

/// What the kernel says about the device behind a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceFacts {
    /// The kernel's name of the disk (`vda`, `nvme0n1`), when the directory is on one.
    pub disk: Option<String>,
    /// Its cache, when known.
    pub write_cache: Option<WriteCache>,
    /// Whether one write can be forced past the cache, when known.
    pub fua: Option<bool>,
}

impl DeviceFacts {
    /// Reads the facts for the device that holds `dir`. Blocking: for start-up only.
    ///
    /// # Errors
    /// Fails when `dir` cannot be looked up. A device that the kernel says nothing about (tmpfs,
    /// network and multi-device file systems) is not an error: its fields are `None`.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let device = fs::metadata(dir)?.dev();
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        Ok(Self::from_sysfs(&Path::new("/sys/dev/block").join(number)))
    }

    /// Reads the facts from a device's directory in sysfs; a partition's are its disk's.
    fn from_sysfs(entry: &Path) -> Self {
        let unknown = Self { disk: None, write_cache: None, fua: None };
        let Ok(device) = fs::canonicalize(entry) else { return unknown };
        let Some(disk) = disk_of(&device) else { return unknown };
        let read = |name: &str| fs::read_to_string(disk.join("queue").join(name)).ok();
        let write_cache = match read("write_cache").as_deref().map(str::trim) {
            Some("write back") => Some(WriteCache::WriteBack),
            Some("write through") => Some(WriteCache::WriteThrough),
            _ => None,
        };
        let fua = match read("fua").as_deref().map(str::trim) {
            Some("0") => Some(false),
            Some("1") => Some(true),
            _ => None,
        };
        let disk = disk.file_name().map(|name| name.to_string_lossy().into_owned());
        Self { disk, write_cache, fua }
    }
}

impl fmt::Display for DeviceFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.as_deref().unwrap_or("no block device of its own");
        let cache = match self.write_cache {
            Some(WriteCache::WriteBack) => "volatile write cache",
            Some(WriteCache::WriteThrough) => "no volatile write cache",
            None => "write cache unknown",
        };
        let fua = match self.fua {
            Some(true) => "FUA",
            Some(false) => "no FUA",
            None => "FUA unknown",
        };
        write!(f, "{disk}: {cache}, {fua}")
    }
}

/// The directory that has `queue/`: the device's own, or for a partition its parent.
fn disk_of(device: &Path) -> Option<PathBuf> {
    [Some(device), device.parent()]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("queue").is_dir())
        .map(Path::to_path_buf)
}

/// A settled method, and why it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncChoice {
    /// Never [`SyncMethod::Auto`].
    pub method: SyncMethod,
    /// For logs and reports.
    pub reason: String,
}

/// Settles `Auto` for a device; any other method is kept.
///
/// | write cache | FUA | method | because |
/// |---|---|---|---|
/// | write through | any | dsync | a completed write is durable; no flush is sent |
/// | write back | yes | dsync | the write itself is forced to the medium |
/// | write back | no | linked | a data-sync write would wait for the interrupted CPU |
/// | unknown | any | linked | right everywhere |
pub fn choose_sync_method(asked: SyncMethod, facts: &DeviceFacts) -> SyncChoice {
    let (method, why) = match (asked, facts.write_cache, facts.fua) {
        (SyncMethod::Auto, Some(WriteCache::WriteThrough), _) => {
            (SyncMethod::Dsync, "a completed write is durable")
        }
        (SyncMethod::Auto, Some(WriteCache::WriteBack), Some(true)) => {
            (SyncMethod::Dsync, "one write is forced to the medium")
        }
        (SyncMethod::Auto, Some(WriteCache::WriteBack), _) => {
            (SyncMethod::Linked, "each write needs a flush after it")
        }
        (SyncMethod::Auto, None, _) => (SyncMethod::Linked, "right on every device"),
        (SyncMethod::BufferedNone, ..) => {
            (SyncMethod::BufferedNone, "asked for; NOT durable, for tests only")
        }
        (method, ..) => (method, "asked for"),
    };
    SyncChoice { method, reason: format!("{method} ({facts}; {why})") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn facts(write_cache: Option<WriteCache>, fua: Option<bool>) -> DeviceFacts {
        DeviceFacts { disk: Some("vda".into()), write_cache, fua }
    }

    #[test]
    fn auto_follows_the_table() {
        use WriteCache::*;
        for (cache, fua, want) in [
            (Some(WriteThrough), None, SyncMethod::Dsync),
            (Some(WriteThrough), Some(false), SyncMethod::Dsync),
            (Some(WriteBack), Some(true), SyncMethod::Dsync),
            (Some(WriteBack), Some(false), SyncMethod::Linked),
            (Some(WriteBack), None, SyncMethod::Linked),
            (None, None, SyncMethod::Linked),
            (None, Some(true), SyncMethod::Linked),
        ] {
            let choice = choose_sync_method(SyncMethod::Auto, &facts(cache, fua));
            assert_eq!(choice.method, want, "{cache:?} {fua:?}: {}", choice.reason);
        }
        for asked in [SyncMethod::Linked, SyncMethod::Dsync, SyncMethod::BufferedNone] {
            assert_eq!(choose_sync_method(asked, &facts(None, None)).method, asked);
        }
    }

    #[test]
    fn names_round_trip_and_nonsense_is_explained() {
        for method in SyncMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
        let error = "fsync".parse::<SyncMethod>().unwrap_err().to_string();
        assert!(error.contains("fsync") && error.contains("linked"), "{error}");
    }

    #[test]
    fn a_partition_has_the_facts_of_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("sdx/sdx1");
        fs::create_dir_all(&part).unwrap();
        fs::create_dir_all(dir.path().join("sdx/queue")).unwrap();
        fs::write(dir.path().join("sdx/queue/write_cache"), "write back\n").unwrap();
        fs::write(dir.path().join("sdx/queue/fua"), "1\n").unwrap();
        let facts = DeviceFacts::from_sysfs(&part);
        assert_eq!(facts.disk.as_deref(), Some("sdx"));
        assert_eq!(facts.write_cache, Some(WriteCache::WriteBack));
        assert_eq!(facts.fua, Some(true));
        let none = DeviceFacts::from_sysfs(&dir.path().join("absent"));
        assert_eq!(none, DeviceFacts { disk: None, write_cache: None, fua: None });
    }
}
