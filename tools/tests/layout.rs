//! The repository keeps the rules of its layout, and the checker catches a breach of each rule.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use coracle_tools::layout::{self, Rule, policy};
use tempfile::TempDir;

#[test]
fn the_repository_keeps_all_rules() {
    let findings = layout::check(&layout::repository_root()).unwrap();
    let story: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(story.is_empty(), "\n{}", story.join("\n"));
}

#[test]
fn an_exemption_is_not_kept_longer_than_its_file() {
    let root = layout::repository_root();
    for (path, reason) in policy::UNSAFE_PLACES.iter().chain(policy::LONG_FILES) {
        assert!(root.join(path).exists(), "policy.rs lists {path} ({reason}), which is gone");
    }
}

/// A small repository that keeps all rules, to break one rule at a time.
struct Fixture(TempDir);

const HEAD: &str = "//! A file of the fixture.\n";

impl Fixture {
    fn new() -> Self {
        let fixture = Self(TempDir::new().unwrap());
        let dirs: Vec<String> =
            policy::CRATES.iter().map(|krate| format!("\"{}\"", krate.dir)).collect();
        let dirs = dirs.join(", ");
        for krate in policy::CRATES {
            let mut manifest = format!(
                "[package]\nname = \"{}\"\n[lints]\nworkspace = true\n[dependencies]\n",
                krate.package
            );
            for used in krate.may_use {
                manifest += &format!("{used} = {{ workspace = true }}\n");
            }
            if krate.dir == "." {
                manifest += "glommio = \"0.9\"\nio-uring = \"0.7\"\n[workspace]\n";
                manifest += &format!("members = [{dirs}]\ndefault-members = [{dirs}]\n");
            }
            fixture.write(&format!("{}/Cargo.toml", krate.dir), &manifest);
            fixture.write(&format!("{}/src/lib.rs", krate.dir), HEAD);
        }
        fixture
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.path().join(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, &text.replace(from, to));
    }

    fn findings(&self) -> Vec<(Rule, String, usize)> {
        let findings = layout::check(self.0.path()).unwrap();
        findings.into_iter().map(|finding| (finding.rule, finding.path, finding.line)).collect()
    }

    /// Exactly one finding: this one.
    #[track_caller]
    fn caught(&self, rule: Rule, path: &str, line: usize) {
        assert_eq!(self.findings(), [(rule, path.to_owned(), line)]);
    }
}

/// What is found when a file at `path` holds `code` under its head.
#[track_caller]
fn code_is_caught(path: &str, code: &str, rule: Rule, line: usize) {
    let fixture = Fixture::new();
    fixture.write(path, &format!("{HEAD}{code}"));
    fixture.caught(rule, path, line);
}

#[track_caller]
fn code_passes(path: &str, code: &str) {
    let fixture = Fixture::new();
    fixture.write(path, &format!("{HEAD}{code}"));
    assert_eq!(fixture.findings(), []);
}

#[test]
fn the_fixture_itself_passes() {
    assert_eq!(Fixture::new().findings(), []);
}

#[test]
fn a_dependency_against_the_direction() {
    let fixture = Fixture::new();
    fixture.edit("wal/Cargo.toml", "[dependencies]", "[dependencies]\ncoracle-engine.path = \"\"");
    fixture.caught(Rule::DependencyDirection, "wal/Cargo.toml", 6);
}

#[test]
fn a_test_dependency_against_the_direction() {
    let fixture = Fixture::new();
    fixture.edit(
        "engine/Cargo.toml",
        "[dependencies]",
        "[dev-dependencies]\ncoracle.path = \"\"\n[dependencies]",
    );
    fixture.caught(Rule::DependencyDirection, "engine/Cargo.toml", 2);
}

#[test]
fn a_renamed_dependency_is_seen_through() {
    let fixture = Fixture::new();
    let renamed = "[dependencies]\nlower = { package = \"coracle-tools\", path = \"\" }";
    fixture.edit("wal/Cargo.toml", "[dependencies]", renamed);
    fixture.caught(Rule::DependencyDirection, "wal/Cargo.toml", 6);
}

#[test]
fn a_runtime_dependency_outside_the_root_package() {
    for (package, manifest) in [("glommio", "engine/Cargo.toml"), ("io-uring", "bench/Cargo.toml")]
    {
        let fixture = Fixture::new();
        let added = format!("[target.'cfg(unix)'.dependencies]\n{package} = \"1\"\n[dependencies]");
        fixture.edit(manifest, "[dependencies]", &added);
        fixture.caught(Rule::RuntimeOwner, manifest, 6);
    }
}

#[test]
fn a_crate_that_is_no_default_member() {
    let fixture = Fixture::new();
    fixture.edit("Cargo.toml", "default-members = [\"wal\", ", "default-members = [");
    let findings = fixture.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Rule::DefaultMembers);
}

#[test]
fn a_crate_beside_the_fixed_layout() {
    let fixture = Fixture::new();
    fixture.edit("Cargo.toml", "\nmembers = [", "\nmembers = [\"extra\", ");
    let findings = fixture.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Rule::DefaultMembers);
}

#[test]
fn a_crate_with_lints_of_its_own() {
    let fixture = Fixture::new();
    fixture.edit("wal/Cargo.toml", "workspace = true", "workspace = false");
    fixture.caught(Rule::WorkspaceLints, "wal/Cargo.toml", 3);
}

#[test]
fn a_dependency_from_git() {
    let fixture = Fixture::new();
    let added = "[dependencies]\nbytes = { git = \"https://example.com/bytes\" }";
    fixture.edit("engine/Cargo.toml", "[dependencies]", added);
    fixture.caught(Rule::GitDependency, "engine/Cargo.toml", 6);
}

#[test]
fn a_patched_registry() {
    let fixture = Fixture::new();
    let added = "[patch.crates-io]\nbytes.path = \"bytes\"\n[dependencies]";
    fixture.edit("Cargo.toml", "[dependencies]", added);
    fixture.caught(Rule::GitDependency, "Cargo.toml", 5);
}

#[test]
fn a_manifest_that_is_not_toml() {
    let fixture = Fixture::new();
    fixture.write("bench/Cargo.toml", "[package\n");
    fixture.caught(Rule::Syntax, "bench/Cargo.toml", 1);
}

#[test]
fn every_banned_name() {
    for ban in policy::BANS {
        let code = format!("\nfn f() {{\n    {}::g();\n}}\n", ban.path.join("::"));
        for dir in ban.dirs {
            code_is_caught(
                &format!("{dir}/src/named.rs").replace("src/src", "src"),
                &code,
                Rule::BannedName,
                4,
            );
        }
    }
}

#[test]
fn a_banned_name_in_a_group() {
    let code =
        "use std::{\n    collections::BTreeMap,\n    io::{self, Write},\n    net::IpAddr,\n};\n";
    code_is_caught("engine/src/a/b.rs", code, Rule::BannedName, 5);
}

#[test]
fn a_banned_name_in_a_test_module_or_macro() {
    let code =
        "#[cfg(test)]\nmod tests {\n    fn f() { assert!(std::fs::exists(\"\").is_ok()); }\n}\n";
    code_is_caught("wal/src/a.rs", code, Rule::BannedName, 4);
}

#[test]
fn banned_names_in_comments_and_strings_pass() {
    let code = "/// Like `std::fs`, with no Mutex.\n/* glommio */ pub const A: &str = \"Instant\"; // rand\n";
    code_passes("wal/src/a.rs", code);
}

#[test]
fn names_that_only_look_banned_pass() {
    let code = "use std::time::Duration;\nfn random(operand: u8) {}\nuse std::io;\n";
    code_passes("engine/src/raft/mod.rs", code);
    code_passes("engine/src/core/mod.rs", "use std::collections::HashMap;\n");
    code_passes("src/disk.rs", "use std::{fs, net::TcpStream, os::fd::RawFd};\n");
    code_passes("wal/tests/files.rs", "use std::fs::File;\n");
}

#[test]
fn a_file_without_a_head() {
    let fixture = Fixture::new();
    fixture.write("engine/tests/a.rs", "// A comment is not a head.\n");
    fixture.caught(Rule::FileHead, "engine/tests/a.rs", 1);
    fixture.write("engine/tests/a.rs", "//!\n");
    fixture.caught(Rule::FileHead, "engine/tests/a.rs", 1);
}

#[test]
fn a_file_that_is_too_long() {
    let lines = "\n".repeat(policy::FILE_LINES_MAX);
    code_is_caught("src/a.rs", &lines, Rule::FileLength, policy::FILE_LINES_MAX + 1);
    code_passes("src/a.rs", &lines[1..]);
}

#[test]
fn unsafe_in_a_module_that_is_not_listed() {
    let code = "// SAFETY: a reason.\nunsafe impl Send for A {}\n";
    code_is_caught("engine/src/a.rs", code, Rule::UnsafePlace, 3);
}

#[test]
fn unsafe_without_a_reason() {
    let place = policy::UNSAFE_PLACES[0].0;
    code_is_caught(place, "fn f() {\n    unsafe { g() }\n}\n", Rule::UnsafeReason, 3);
    let far = "// SAFETY: too far away.\nfn f() {\n    a();\n    b();\n    unsafe { g() }\n}\n";
    code_is_caught(place, far, Rule::UnsafeReason, 6);
}

#[test]
fn unsafe_with_a_reason_passes() {
    let place = policy::UNSAFE_PLACES[0].0;
    code_passes(place, "fn f() {\n    // SAFETY: why.\n    let a =\n        unsafe { g() };\n}\n");
    code_passes(
        place,
        "/// Does it.\n///\n/// # Safety\n/// When.\n#[inline]\npub unsafe fn f() {}\n",
    );
    code_passes("src/a.rs", "#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";\n");
}

#[test]
fn work_left_for_later() {
    let word = concat!("TO", "DO");
    code_is_caught("src/a.rs", &format!("fn f() {{}} // {word}: more\n"), Rule::Unfinished, 2);
    code_is_caught("tests/a.rs", "fn f() {\n    todo!()\n}\n", Rule::Unfinished, 3);
    code_is_caught(
        "examples/a.rs",
        "fn f() {\n    std::unimplemented!(\"\")\n}\n",
        Rule::Unfinished,
        3,
    );
    code_passes("src/a.rs", &format!("const {word}S: u8 = 0;\n"));
}

#[test]
fn a_file_that_is_not_rust() {
    code_is_caught("src/a.rs", "\nfn f() }\n", Rule::Syntax, 3);
}

#[test]
fn a_tree_without_a_manifest_is_an_error() {
    let empty = TempDir::new().unwrap();
    let error = layout::check(Path::new(empty.path())).unwrap_err().to_string();
    assert!(error.starts_with("cannot read Cargo.toml"), "{error}");
}
