//! Where mutants occur: in the sources of the product, and in the lints of the workspace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::table::Part;

/// How a mutant is named in a source; the name in quotes follows.
const CFG: &str = "mutant = \"";

/// The mutants that occur in a part of the product, with the files.
///
/// # Errors
/// When the sources cannot be read.
pub fn in_part(root: &Path, part: Part) -> io::Result<BTreeMap<String, Vec<String>>> {
    let mut found = BTreeMap::new();
    visit(&root.join(part.dir()), &mut found)?;
    Ok(found)
}

fn visit(dir: &Path, found: &mut BTreeMap<String, Vec<String>>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            visit(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            for name in names(&fs::read_to_string(&path)?, CFG) {
                found.entry(name).or_default().push(path.display().to_string());
            }
        }
    }
    Ok(())
}

/// The mutants that the lints of the workspace allow to be named.
///
/// # Errors
/// When the manifest cannot be read.
pub fn in_lints(root: &Path) -> io::Result<Vec<String>> {
    Ok(names(&fs::read_to_string(root.join("Cargo.toml"))?, "cfg(mutant, values(\""))
}

fn names(text: &str, before: &str) -> Vec<String> {
    let starts = text.match_indices(before).map(|(at, _)| &text[at + before.len()..]);
    starts.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}
