//! Building the workspace with a mutant in it, in a target directory of their own.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::wrapper;

/// Cargo's profile for all of this.
const PROFILE: &str = "mutants";

/// Directories of a profile's output in which the crates of this workspace leave files.
const OUTPUTS: [&str; 4] = ["deps", ".fingerprint", "build", "incremental"];

/// How their names begin.
const OURS: [&str; 4] = ["coracle", "libcoracle", "sim-", "mutants-"];

/// A mutant could not be built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Cargo, or a file it needs, could not be used.
    #[error("cannot build {name}: {source}")]
    Start {
        /// Which mutant.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It does not compile.
    #[error("{name} does not compile:\n{messages}")]
    Compile {
        /// Which mutant.
        name: String,
        /// What the compiler said.
        messages: String,
    },
}

/// Builds mutants in one target directory.
#[derive(Debug)]
pub struct Builder {
    root: PathBuf,
    target: PathBuf,
}

impl Builder {
    /// Builds the repository at `root`, in `target/mutants`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), target: root.join("target/mutants") }
    }

    /// Compiles the simulator with `name` in it. Returns its path and how long that took.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn simulator(&self, name: &str) -> Result<(PathBuf, Duration), BuildError> {
        let start = Instant::now();
        self.compile(name, &["build", "-p", "coracle-tools", "--bin", "sim"])?;
        Ok((self.target.join(PROFILE).join("sim"), start.elapsed()))
    }

    /// Compiles the tests of a package with `name` in it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn tests(&self, name: &str, selection: &[&str]) -> Result<Duration, BuildError> {
        let start = Instant::now();
        let args: Vec<&str> =
            ["test"].iter().chain(selection).chain(&["--no-run"]).copied().collect();
        self.compile(name, &args)?;
        Ok(start.elapsed())
    }

    /// Checks that the product compiles with `name` in it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn check(&self, name: &str) -> Result<Duration, BuildError> {
        let start = Instant::now();
        let packages = ["-p", "coracle-wal", "-p", "coracle-engine", "-p", "coracle"];
        let args: Vec<&str> = ["check"].iter().chain(&packages).copied().collect();
        self.compile(name, &args)?;
        Ok(start.elapsed())
    }

    fn compile(&self, name: &str, args: &[&str]) -> Result<(), BuildError> {
        let failed = |source| BuildError::Start { name: name.to_owned(), source };
        let mut command = self.cargo(name, args).map_err(failed)?;
        let Output { status, stderr, .. } = command.output().map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        let messages = String::from_utf8_lossy(&stderr).into_owned();
        Err(BuildError::Compile { name: name.to_owned(), messages })
    }

    /// Cargo with the wrapper of `name`.
    ///
    /// # Errors
    /// When the wrapper cannot be made.
    pub fn cargo(&self, name: &str, args: &[&str]) -> io::Result<Command> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command
            .args(args)
            .args(["--quiet", "--profile", PROFILE, "--target-dir"])
            .arg(&self.target)
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper::link(&self.target, name)?)
            // Nothing is built twice, and what is built is removed soon.
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_PROFILE_SIM_DEBUG", "false");
        Ok(command)
    }

    /// Removes what the crates of this workspace left, so that mutants do not fill the disk.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clean(&self) -> io::Result<()> {
        for dir in OUTPUTS.map(|output| self.target.join(PROFILE).join(output)) {
            let Ok(entries) = std::fs::read_dir(&dir) else { continue };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if !OURS.iter().any(|start| name.starts_with(start)) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }
}
