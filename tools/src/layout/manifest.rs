//! The rules that show in manifests: who depends on whom, where from, and what is checked by default.

use toml::{Table, Value};

use super::policy::{self, Crate};
use super::{Finding, Rule};

const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks the workspace tables of the manifest in the root.
pub fn check_workspace(text: &str, findings: &mut Vec<Finding>) {
    let mut report = Report { path: "Cargo.toml", text, findings };
    // A manifest that cannot be parsed is reported once, by `check_crate`.
    let Ok(manifest) = text.parse::<Table>() else { return };
    let Some(workspace) = manifest.get("workspace").and_then(Value::as_table) else {
        report.add(Rule::Syntax, "[workspace]", "the root manifest has no [workspace]".to_owned());
        return;
    };
    for list in ["members", "default-members"] {
        let members = strings(workspace.get(list));
        for krate in policy::CRATES {
            if !members.contains(&krate.dir) {
                let message = format!("`{list}` lacks \"{}\"; list every crate", krate.dir);
                report.add(Rule::DefaultMembers, list, message);
            }
        }
        for member in members {
            if !policy::CRATES.iter().any(|krate| krate.dir == member) {
                let message =
                    format!("\"{member}\" is not a crate of the fixed layout (see policy.rs)");
                report.add(Rule::DefaultMembers, member, message);
            }
        }
    }
    if let Some(dependencies) = workspace.get("dependencies").and_then(Value::as_table) {
        report.check_sources(dependencies);
    }
}

/// Checks the manifest of one crate.
pub fn check_crate(krate: &Crate, path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut report = Report { path, text, findings };
    let manifest = match text.parse::<Table>() {
        Ok(manifest) => manifest,
        Err(error) => {
            report.add(Rule::Syntax, "", format!("this is not TOML: {}", error.message()));
            return;
        }
    };
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints != Some(&Value::Boolean(true)) {
        let message = "take the lints of the workspace: [lints] workspace = true".to_owned();
        report.add(Rule::WorkspaceLints, "[lints]", message);
    }
    for dependencies in dependency_tables(&manifest) {
        report.check_sources(dependencies);
        for (name, value) in dependencies {
            report.check_dependency(krate, package_name(name, value));
        }
    }
    for table in ["patch", "replace"] {
        if manifest.contains_key(table) {
            let message = format!("[{table}] replaces a registry crate; depend on a release");
            report.add(Rule::GitDependency, &format!("[{table}"), message);
        }
    }
}

/// All dependency tables, those under `[target.…]` included.
fn dependency_tables(manifest: &Table) -> Vec<&Table> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(|targets| targets.values());
    std::iter::once(manifest)
        .chain(targets.filter_map(Value::as_table))
        .flat_map(|table| DEPENDENCY_TABLES.iter().filter_map(|name| table.get(*name)))
        .filter_map(Value::as_table)
        .collect()
}

/// The package a dependency stands for: a rename does not hide it.
fn package_name<'a>(name: &'a str, value: &'a Value) -> &'a str {
    value.get("package").and_then(Value::as_str).unwrap_or(name)
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    let array = value.and_then(Value::as_array);
    array.into_iter().flatten().filter_map(Value::as_str).collect()
}

struct Report<'a> {
    path: &'a str,
    text: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    /// Reports at the first line that contains `near`, else at line 1.
    fn add(&mut self, rule: Rule, near: &str, message: String) {
        let line = self.text.lines().position(|line| line.contains(near)).map_or(1, |at| at + 1);
        self.findings.push(Finding { path: self.path.to_owned(), line, rule, message });
    }

    fn check_sources(&mut self, dependencies: &Table) {
        for (name, value) in dependencies {
            if value.get("git").is_some() {
                let message = format!("`{name}` comes from git; depend on a release");
                self.add(Rule::GitDependency, name, message);
            }
        }
    }

    fn check_dependency(&mut self, krate: &Crate, package: &str) {
        let ours = policy::CRATES.iter().any(|other| other.package == package);
        if ours && !krate.may_use.contains(&package) {
            let message = format!(
                "{} must not depend on {package}: dependencies run wal <- engine <- coracle, \
                 with tools and bench on top",
                krate.package
            );
            self.add(Rule::DependencyDirection, package, message);
        }
        if policy::RUNTIME_PACKAGES.contains(&package) && krate.package != policy::RUNTIME_OWNER {
            let message = format!(
                "only {} depends on {package}; reach it through the root package",
                policy::RUNTIME_OWNER
            );
            self.add(Rule::RuntimeOwner, package, message);
        }
    }
}
