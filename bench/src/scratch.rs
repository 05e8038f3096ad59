//! A new directory for what a benchmark writes, on the disk that is to be measured. It goes at the end.

use std::io;
use std::path::Path;

use tempfile::TempDir;
use thiserror::Error;

/// The directory cannot be made.
#[derive(Debug, Error)]
#[error("cannot make a directory in {dir}: {source}; choose another place with --dir")]
pub struct ScratchError {
    dir: String,
    source: io::Error,
}

/// A new directory in `dir`.
///
/// # Errors
/// [`ScratchError`].
pub fn scratch(dir: &Path) -> Result<TempDir, ScratchError> {
    let failed = |source| ScratchError { dir: dir.display().to_string(), source };
    tempfile::Builder::new().prefix("coracle-bench-").tempdir_in(dir).map_err(failed)
}
