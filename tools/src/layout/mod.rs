//! Enforces the architecture invariants of `docs/architecture.md` over the source tree.
//!
//! The checker reads manifests as TOML and Rust files as token trees, so a name in a comment, a doc
//! comment or a string is never mistaken for code, and a name inside a macro call or a grouped `use`
//! is never missed. It needs no compiler and takes milliseconds, which is why it runs first.
//!
//! * [`policy`] is the rules as data: which crate may use which, what is banned where, and the few
//!   exemptions with their reasons. A new module with `unsafe` is a line there, and a reason.
//! * [`manifest`] checks what can be seen in the manifests.
//! * [`source`] checks one Rust file.
//!
//! What it cannot see: a name that arrives through a macro of another crate or through a re-export.

pub mod manifest;
pub mod policy;
pub mod source;
mod tokens;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A rule of the layout; its name appears in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Dependencies between the crates of this workspace run one way.
    DependencyDirection,
    /// Only the root package names the runtime and the ring.
    RuntimeOwner,
    /// Every crate is a default member of the workspace.
    DefaultMembers,
    /// Every crate takes the lints of the workspace.
    WorkspaceLints,
    /// Dependencies come from the registry.
    GitDependency,
    /// A name that this part of the code must not know.
    BannedName,
    /// A file starts with `//!` and a sentence that says what lives there.
    FileHead,
    /// A file is short enough to know.
    FileLength,
    /// `unsafe` stands only in the modules listed for it.
    UnsafePlace,
    /// `unsafe` has its reason beside it.
    UnsafeReason,
    /// Nothing is left for later in the code.
    Unfinished,
    /// The file can be read as Rust or TOML.
    Syntax,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DependencyDirection => "dependency-direction",
            Self::RuntimeOwner => "runtime-owner",
            Self::DefaultMembers => "default-members",
            Self::WorkspaceLints => "workspace-lints",
            Self::GitDependency => "git-dependency",
            Self::BannedName => "banned-name",
            Self::FileHead => "file-head",
            Self::FileLength => "file-length",
            Self::UnsafePlace => "unsafe-place",
            Self::UnsafeReason => "unsafe-reason",
            Self::Unfinished => "unfinished",
            Self::Syntax => "syntax",
        })
    }
}

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// File, relative to the root of the repository, with `/` between its parts.
    pub path: String,
    /// Line, counted from 1.
    pub line: usize,
    /// The rule.
    pub rule: Rule,
    /// What was found, and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.message)
    }
}

/// The tree could not be read.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A file or directory could not be read.
    #[error("cannot read {path}: {source}; run the check in the root of the repository")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Checks the repository at `root`; findings are ordered by file and line.
///
/// # Errors
/// [`LayoutError`] when a manifest or source file cannot be read at all.
pub fn check(root: &Path) -> Result<Vec<Finding>, LayoutError> {
    let mut findings = Vec::new();
    let workspace = read(root, "Cargo.toml")?;
    manifest::check_workspace(&workspace, &mut findings);
    for krate in policy::CRATES {
        let path = join(krate.dir, "Cargo.toml");
        manifest::check_crate(krate, &path, &read(root, &path)?, &mut findings);
        for path in rust_files(root, krate.dir)? {
            source::check(&path, &read(root, &path)?, &mut findings);
        }
    }
    findings.sort();
    Ok(findings)
}

/// The Rust files of the crate in `dir`, relative to `root`, in a fixed order.
fn rust_files(root: &Path, dir: &str) -> Result<Vec<String>, LayoutError> {
    let mut files = Vec::new();
    for part in ["src", "tests", "benches", "examples"] {
        let part = join(dir, part);
        if root.join(&part).is_dir() {
            collect(root, &part, &mut files)?;
        }
    }
    let build = join(dir, "build.rs");
    if root.join(&build).is_file() {
        files.push(build);
    }
    files.sort();
    Ok(files)
}

fn collect(root: &Path, dir: &str, files: &mut Vec<String>) -> Result<(), LayoutError> {
    let unreadable = |source| LayoutError::Read { path: dir.to_owned(), source };
    for entry in fs::read_dir(root.join(dir)).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = join(dir, &entry.file_name().to_string_lossy());
        if entry.path().join("Cargo.toml").is_file() {
            // Another crate, checked as itself: `tests/fuzz` lies within the tests of the root package.
            continue;
        }
        if entry.path().is_dir() {
            collect(root, &path, files)?;
        } else if path.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> Result<String, LayoutError> {
    fs::read_to_string(root.join(path))
        .map_err(|source| LayoutError::Read { path: path.to_owned(), source })
}

fn join(dir: &str, name: &str) -> String {
    if dir == "." { name.to_owned() } else { format!("{dir}/{name}") }
}

/// The root of the repository that this crate was built in.
#[must_use]
pub fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
