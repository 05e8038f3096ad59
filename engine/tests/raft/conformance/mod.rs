//! Test data of another implementation, etcd's Raft library, run against ours.
//!
//! The data are not part of this repository. `CORACLE_CONFORMANCE_DIR` names the directory that has them,
//! in `etcd-raft/` or directly; without it, `../shared/conformance` beside the workspace is tried. Each
//! kind has a folder, of which every `*.txt` is run. What is not there is not run, and the test says so
//! on standard error, past the test harness, which would swallow it.

mod confchange;
mod datadriven;
mod expected;
mod facts;
mod node;
mod quorum;
mod replay;
mod scenarios;
mod text;
mod waivers;

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A file of cases.
struct File {
    /// Without `.txt`.
    name: String,
    text: String,
}

/// All files of a kind, in the order of their names; none, and a loud notice, if there is no such folder.
fn files(kind: &str) -> Vec<File> {
    let root = std::env::var_os("CORACLE_CONFORMANCE_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance"),
        PathBuf::from,
    );
    let places = [root.join("etcd-raft").join(kind), root.join(kind)];
    let Some(folder) = places.iter().find(|place| place.is_dir()) else {
        let root = root.display();
        say(&format!("*** NOT RUN: no {kind} in {root} (set CORACLE_CONFORMANCE_DIR)"));
        return Vec::new();
    };
    let files = read(folder);
    if files.is_empty() {
        say(&format!("*** NOT RUN: no *.txt in {}", folder.display()));
    }
    files
}

fn read(folder: &Path) -> Vec<File> {
    let mut files: Vec<File> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| File {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            text: std::fs::read_to_string(&path).unwrap(),
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// Says something that is seen even if the test passes: the harness only catches `print!` and the like.
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "\nconformance: {what}");
}
