//! The compiler's wrapper: `.../wrappers/NAME rustc ARGS` runs `rustc ARGS --cfg mutant="NAME"`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The directory whose links are wrappers.
const DIR: &str = "wrappers";

/// The wrapper that changes nothing.
pub const UNMUTATED: &str = "unmutated";

/// The name of the mutant, if this program was called as a wrapper.
#[must_use]
pub fn called_for(program: &OsStr) -> Option<String> {
    let path = Path::new(program);
    let dir = path.parent()?.file_name()?;
    (dir == DIR).then(|| path.file_name()?.to_str().map(str::to_owned))?
}

/// Runs the compiler that `args` begin with.
#[must_use]
pub fn run(name: &str, args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let Some(compiler) = args.next() else {
        eprintln!("a wrapper is called with the compiler and its arguments");
        return ExitCode::FAILURE;
    };
    let args: Vec<OsString> = args.collect();
    let mut command = Command::new(compiler);
    command.args(&args);
    if name != UNMUTATED && compiles_a_crate(&args) {
        command.arg("--cfg").arg(format!("mutant={name:?}"));
        // A mutant leaves values unused that it replaces.
        command.arg("-Aunused");
    }
    match command.status() {
        Ok(status) => status.code().map_or(ExitCode::FAILURE, |code| {
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }),
        Err(error) => {
            eprintln!("cannot start the compiler: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Cargo also asks the compiler about itself, with a crate of this name or none; the answers are
/// shared between all builds.
fn compiles_a_crate(args: &[OsString]) -> bool {
    let named = args.windows(2).find(|pair| pair[0] == "--crate-name").map(|pair| &pair[1]);
    named.is_some_and(|name| name != "___")
}

/// Makes the wrapper of a mutant, a link to this program, in the target directory `target`.
///
/// # Errors
/// When the link cannot be made.
pub fn link(target: &Path, name: &str) -> io::Result<PathBuf> {
    let dir = target.join(DIR);
    std::fs::create_dir_all(&dir)?;
    let link = dir.join(name);
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(std::env::current_exe()?, &link)?;
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_link_in_the_directory_of_wrappers_is_one() {
        let name = |path: &str| called_for(OsStr::new(path));
        assert_eq!(name("/a/target/mutants/wrappers/stale-ack").as_deref(), Some("stale-ack"));
        assert_eq!(name("/a/target/sim/mutants"), None);
        assert_eq!(name("mutants"), None);
    }

    #[test]
    fn questions_to_the_compiler_are_told_from_crates() {
        let args = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(compiles_a_crate(&args("--crate-name coracle_wal wal/src/lib.rs")));
        assert!(!compiles_a_crate(&args("- --crate-name ___ --print=file-names")));
        assert!(!compiles_a_crate(&args("-vV")));
    }
}
