//! The committed inputs: where they lie, and how they are read and written.
//!
//! `fuzz/corpus/TARGET/NAME.seed`. A name that starts with `regression-` is an input that once was a finding;
//! all others are generated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Seed, Target};

/// Name of an input that was not generated.
pub const REGRESSION: &str = "regression-";

const EXTENSION: &str = "seed";

/// The directory of a target's inputs.
#[must_use]
pub fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name)
}

/// The committed inputs of a target, in the order of their names.
///
/// # Errors
/// If they can't be read.
pub fn read(target: &Target) -> io::Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for entry in fs::read_dir(directory(target))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            seeds.push(Seed { name: name.unwrap_or_default(), bytes: fs::read(&path)? });
        }
    }
    seeds.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(seeds)
}

/// Replaces the generated inputs of a target by new ones; regressions stay.
///
/// # Errors
/// If they can't be written.
pub fn write(target: &Target) -> io::Result<usize> {
    let directory = directory(target);
    fs::create_dir_all(&directory)?;
    for old in read(target)?.iter().filter(|seed| !seed.name.starts_with(REGRESSION)) {
        fs::remove_file(directory.join(&old.name).with_extension(EXTENSION))?;
    }
    let seeds = (target.seeds)();
    for seed in &seeds {
        fs::write(directory.join(&seed.name).with_extension(EXTENSION), &seed.bytes)?;
    }
    Ok(seeds.len())
}
