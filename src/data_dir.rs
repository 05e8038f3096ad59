//! A node's data directory: whose it is, who uses it, and where each core's log lives in it.
//!
//! ```text
//! DIR/coracle.toml    whose data this is; written once, atomically
//! DIR/members.toml    where the members of the cluster are reached, as last known
//! DIR/LOCK            locked by the process that uses the directory
//! DIR/core-000/       log of core 0
//! DIR/core-001/       ...
//! ```
//! Opened before any core runs, so blocking file operations are fine here.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Config, CoreId};

/// Version of the directory's layout; a larger one is refused.
pub const FORMAT: u32 = 1;

const IDENTITY_FILE: &str = "coracle.toml";
const LOCK_FILE: &str = "LOCK";
const CORE_PREFIX: &str = "core-";

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The system refused an operation.
    #[error("data directory {}: cannot {what}: {source}", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("data directory {} is in use by another process: stop that one first", .0.display())]
    InUse(PathBuf),
    /// It belongs to something else.
    #[error(
        "data directory {} belongs to {what} {theirs}, not {ours}: use another directory, or start \
         with the settings it was made with", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the directory says.
        theirs: String,
        /// What the configuration says.
        ours: String,
    },
    /// It was written by a newer version.
    #[error(
        "data directory {} has format {found}, this version knows up to {FORMAT}: use the newer \
         version of Coracle that wrote it", path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its identity file cannot be read.
    #[error("{} is damaged ({reason}): restore it from a backup of this node", path.display())]
    Damaged {
        /// The identity file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file with the members of the cluster cannot be used.
    #[error(
        "{} is damaged ({reason}): restore it from a backup of this node; without one, remove it and start the node \
         with all present members in --member, and in --voter those who voted when the cluster was new (--join, if \
         this node joined it)", path.display()
    )]
    Members {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The log of a core is gone. Starting without it would forget entries that were acknowledged
    /// and votes that were given.
    #[error(
        "{} is missing, although this node has run before: mount or restore it; without it, the node \
         would forget what it has promised", .0.display()
    )]
    CoreMissing(PathBuf),
    /// There is data, but no identity file.
    #[error(
        "data directory {} is not empty and has no {IDENTITY_FILE}: name an empty directory, or \
         restore the file", .0.display()
    )]
    NotOurs(PathBuf),
}

/// What the identity file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    cluster_id: String,
    node: u64,
    cores: u16,
    shards: u32,
    /// Random number of this directory, in hexadecimal: keeps copies of logs apart.
    incarnation: String,
}

/// An opened and locked data directory. The lock goes with this value.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    incarnation: u128,
    _lock: File,
}

impl DataDir {
    /// Creates or checks the directory of `config`, and locks it.
    ///
    /// # Errors
    /// [`DataDirError`]; nothing is changed then, except that missing directories and the lock file may
    /// be there.
    pub fn open(config: &Config) -> Result<Self, DataDirError> {
        let path = config.data_dir.clone();
        let fail = |what| {
            let path = path.clone();
            move |source| DataDirError::Io { path, what, source }
        };
        fs::create_dir_all(&path).map_err(fail("create it"))?;
        let lock = lock(&path)?;
        let cores = (0..config.cores).map(|core| core_dir(&path, CoreId(core)));
        let identity = match read_identity(&path)? {
            Some(identity) => identity,
            None => {
                let identity = new_identity(config).map_err(fail("draw random numbers"))?;
                for dir in cores.clone() {
                    fs::create_dir_all(&dir).map_err(fail("create the directory of a core"))?;
                }
                // Last: from then on, the cores' directories are known to have been there.
                write_identity(&path, &identity).map_err(fail("write its identity file"))?;
                identity
            }
        };
        let incarnation = check(&path, &identity, config)?;
        if let Some(missing) = cores.into_iter().find(|dir| !dir.is_dir()) {
            return Err(DataDirError::CoreMissing(missing));
        }
        Ok(Self { path, incarnation, _lock: lock })
    }

    /// The directory of a core's log.
    pub fn core_dir(&self, core: CoreId) -> PathBuf {
        core_dir(&self.path, core)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A random number that no other data directory has.
    pub fn incarnation(&self) -> u128 {
        self.incarnation
    }

    /// The identity of a core's log: no other log has it.
    pub fn log_id(&self, core: CoreId) -> [u8; 16] {
        (self.incarnation ^ u128::from(core.0)).to_be_bytes()
    }
}

fn core_dir(path: &Path, core: CoreId) -> PathBuf {
    path.join(format!("{CORE_PREFIX}{:03}", core.0))
}

/// Whether this is a directory with nothing in it, such as a first start leaves that was cut short.
fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let fail = |source| DataDirError::Io { path: path.to_owned(), what: "create its lock", source };
    let file = File::create(path.join(LOCK_FILE)).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// The identity file, or `None` in an empty directory.
fn read_identity(path: &Path) -> Result<Option<Identity>, DataDirError> {
    let file = path.join(IDENTITY_FILE);
    let fail = |source| DataDirError::Io { path: file.clone(), what: "read it", source };
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(path).map_err(fail)?.filter_map(Result::ok);
            let ours = |entry: &fs::DirEntry| {
                let name = entry.file_name();
                name == LOCK_FILE
                    || name == "lost+found" // the root of a file system of its own
                    || name.to_string_lossy().starts_with(".tmp")
                    || name.to_string_lossy().starts_with(CORE_PREFIX) && is_empty(&entry.path())
            };
            let stray = entries.any(|entry| !ours(&entry));
            return if stray { Err(DataDirError::NotOurs(path.to_owned())) } else { Ok(None) };
        }
        Err(error) => return Err(fail(error)),
    };
    // The format comes first: a newer one may have keys that this version does not know.
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: toml::de::Error| DataDirError::Damaged {
        path: file.clone(),
        reason: error.message().to_owned(),
    };
    let Format { format } = toml::from_str(&text).map_err(damaged)?;
    if format > FORMAT {
        return Err(DataDirError::Newer { path: path.to_owned(), found: format });
    }
    toml::from_str(&text).map(Some).map_err(damaged)
}

fn new_identity(config: &Config) -> io::Result<Identity> {
    Ok(Identity {
        format: FORMAT,
        cluster_id: config.cluster_id.clone(),
        node: config.id.0,
        cores: config.cores,
        shards: config.shards,
        incarnation: format!("{:032x}", random_u128()?),
    })
}

/// A number that no other process draws.
pub(crate) fn random_u128() -> io::Result<u128> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

fn write_identity(path: &Path, identity: &Identity) -> io::Result<()> {
    let text = toml::to_string(identity).map_err(io::Error::other)?;
    let comment = "# Whose data this is. Written once; do not edit.";
    replace_file(path, IDENTITY_FILE, &format!("{comment}\n{text}"))
}

/// Puts `text` in place of a file in the directory `path`, durably and as a whole. Blocking.
pub(crate) fn replace_file(path: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".tmp").tempfile_in(path)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path.join(name))?;
    File::open(path)?.sync_all()
}

fn check(path: &Path, identity: &Identity, config: &Config) -> Result<u128, DataDirError> {
    let foreign = |what, theirs: &dyn ToString, ours: &dyn ToString| DataDirError::Foreign {
        path: path.to_owned(),
        what,
        theirs: theirs.to_string(),
        ours: ours.to_string(),
    };
    if identity.cluster_id != config.cluster_id {
        return Err(foreign("cluster", &identity.cluster_id, &config.cluster_id));
    }
    if identity.node != config.id.0 {
        return Err(foreign("node", &identity.node, &config.id));
    }
    if identity.cores != config.cores {
        return Err(foreign("a node whose core count is", &identity.cores, &config.cores));
    }
    if identity.shards != config.shards {
        return Err(foreign("a cluster whose shard count is", &identity.shards, &config.shards));
    }
    u128::from_str_radix(&identity.incarnation, 16).map_err(|error| DataDirError::Damaged {
        path: path.join(IDENTITY_FILE),
        reason: format!("incarnation: {error}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::NodeId;

    fn config(dir: &Path) -> Config {
        Config::new(NodeId(1), dir, vec!["1=a:1,a:100".parse().unwrap()])
    }

    fn refused(config: &Config) -> DataDirError {
        DataDir::open(config).unwrap_err()
    }

    #[test]
    fn a_directory_is_made_once_and_recognised() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("deep/er");
        let first = DataDir::open(&config(&dir)).unwrap().log_id(CoreId(0));
        let second = DataDir::open(&config(&dir)).unwrap();
        assert_eq!(first, second.log_id(CoreId(0)));
        assert!(second.core_dir(CoreId(0)).is_dir());
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let ours = config(temp.path());
        let held = DataDir::open(&ours).unwrap();
        assert!(matches!(refused(&ours), DataDirError::InUse(_)));
        drop(held);

        let other = |change: fn(&mut Config)| {
            let mut other = ours.clone();
            change(&mut other);
            let error = refused(&other);
            assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        };
        other(|c| c.id = NodeId(2));
        other(|c| c.cluster_id = "other".into());
        other(|c| c.cores = 2);
        other(|c| c.shards = 4);

        let identity = temp.path().join(IDENTITY_FILE);
        let text = fs::read_to_string(&identity).unwrap();
        fs::write(&identity, text.replace("format = 1", "format = 2\nnew = 1")).unwrap();
        assert!(matches!(refused(&ours), DataDirError::Newer { found: 2, .. }));
        fs::write(&identity, "format = ").unwrap();
        assert!(matches!(refused(&ours), DataDirError::Damaged { .. }));
        fs::remove_file(&identity).unwrap();
        fs::write(temp.path().join("letter.txt"), "mine").unwrap();
        assert!(matches!(refused(&ours), DataDirError::NotOurs(_)));
    }

    #[test]
    fn a_core_directory_that_is_gone_is_not_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let core = DataDir::open(&config(temp.path())).unwrap().core_dir(CoreId(0));
        fs::remove_dir(&core).unwrap();
        assert!(
            matches!(refused(&config(temp.path())), DataDirError::CoreMissing(dir) if dir == core)
        );
        assert!(!core.exists());
    }

    #[test]
    fn a_first_start_that_was_cut_short_is_begun_again() {
        let temp = tempfile::tempdir().unwrap();
        let core = DataDir::open(&config(temp.path())).unwrap().core_dir(CoreId(0));
        fs::remove_file(temp.path().join(IDENTITY_FILE)).unwrap();
        DataDir::open(&config(temp.path())).unwrap();
        fs::remove_file(temp.path().join(IDENTITY_FILE)).unwrap();
        fs::write(core.join("segment"), "data").unwrap();
        assert!(matches!(refused(&config(temp.path())), DataDirError::NotOurs(_)));
    }

    #[test]
    fn a_file_in_the_way_is_said() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(refused(&config(temp.path())), DataDirError::Io { .. }));
    }
}
