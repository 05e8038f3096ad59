//! The table of mutants, the sources and the lints speak of the same mutants.

use std::collections::{BTreeMap, BTreeSet};

use coracle_tools::layout::repository_root;
use coracle_tools::mutants::sources;
use coracle_tools::mutants::table::{MUTANTS, Part};

const PARTS: [Part; 3] = [Part::Wal, Part::Engine, Part::Server];

#[test]
fn names_are_unique_and_speakable() {
    let names: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(names.len(), MUTANTS.len());
    for name in names {
        assert!(name.chars().all(|c| c == '-' || c.is_ascii_lowercase()), "{name}");
    }
    assert!(MUTANTS.len() >= 30, "{} mutants", MUTANTS.len());
}

#[test]
fn each_mutant_occurs_in_its_part_and_nowhere_else() {
    for part in PARTS {
        let found = sources::in_part(&repository_root(), part).expect("sources can be read");
        let occurring: BTreeSet<&str> = found.keys().map(String::as_str).collect();
        let declared = MUTANTS.iter().filter(|mutant| mutant.part == part);
        let declared: BTreeSet<&str> = declared.map(|mutant| mutant.name).collect();
        assert_eq!(occurring, declared, "{part:?}: left in the sources, right in the table");
    }
}

/// One that is spread over several files is no fault of one line.
#[test]
fn a_mutant_stays_in_few_places() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in PARTS {
        places.extend(sources::in_part(&repository_root(), part).expect("sources can be read"));
    }
    for (name, files) in places {
        assert!(files.len() <= 4, "{name}: {files:?}");
    }
}

#[test]
fn the_lints_know_exactly_the_mutants_of_the_table() {
    let known: Vec<String> = sources::in_lints(&repository_root()).expect("it can be read");
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let declared: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    assert_eq!(known, declared, "left in Cargo.toml, right in the table");
}
