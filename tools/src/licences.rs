//! Checks the licence and source of every dependency against `deny.toml`.
//!
//! A stand-in for `cargo deny check licenses sources` on machines that do not have `cargo-deny`
//! (building it takes longer than all our tests). It reads the same `deny.toml` and the output of
//! `cargo metadata`; known vulnerabilities are only checked by `cargo deny` itself.

use std::collections::BTreeMap;

use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};
use thiserror::Error;

/// The part of `deny.toml` that this check reads; `cargo deny` reads all of it.
#[derive(Debug, Deserialize)]
pub struct Policy {
    licenses: LicencePolicy,
}

#[derive(Debug, Deserialize)]
struct LicencePolicy {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

/// The part of `cargo metadata --format-version 1` that this check reads.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// An input of the check could not be understood.
#[derive(Debug, Error)]
pub enum LicenceError {
    /// `deny.toml` is not as expected.
    #[error("deny.toml: {0}")]
    Policy(#[from] toml::de::Error),
    /// The output of `cargo metadata` is not as expected.
    #[error("cargo metadata: {0}")]
    Metadata(#[from] serde_json::Error),
}

/// Where packages may come from besides this repository.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks all packages; one message for each that the policy does not allow.
///
/// # Errors
/// [`LicenceError`] when one of the two inputs cannot be read.
pub fn check(deny_toml: &str, metadata: &str) -> Result<Vec<String>, LicenceError> {
    let policy: Policy = toml::from_str(deny_toml)?;
    let metadata: Metadata = serde_json::from_str(metadata)?;
    let allowed_for: BTreeMap<&str, &[String]> = policy
        .licenses
        .exceptions
        .iter()
        .map(|exception| (exception.name.as_str(), exception.allow.as_slice()))
        .collect();
    let mut problems = Vec::new();
    for package in &metadata.packages {
        let extra = allowed_for.get(package.name.as_str()).copied().unwrap_or_default();
        if let Some(problem) = licence_problem(package, &policy.licenses.allow, extra) {
            problems.push(format!("{} {}: {problem}", package.name, package.version));
        }
        if let Some(source) = package.source.as_deref().filter(|source| *source != REGISTRY) {
            problems.push(format!("{} {}: comes from {source}", package.name, package.version));
        }
    }
    Ok(problems)
}

fn licence_problem(package: &Package, allow: &[String], extra: &[String]) -> Option<String> {
    let Some(text) = package.license.as_deref() else {
        return Some("names no licence".to_owned());
    };
    let expression = match Expression::parse_mode(text, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("licence `{text}` is not SPDX: {error}")),
    };
    let allowed = |wanted: &LicenseReq| {
        let name = wanted.to_string();
        let id = wanted.license.id().map_or("", |id| id.name);
        allow.iter().chain(extra).any(|one| *one == name || *one == id)
    };
    let is_allowed = expression.evaluate(allowed);
    (!is_allowed).then(|| format!("licence `{text}` is not in the list of deny.toml"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POLICY: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0"]
        exceptions = [{ crate = "special", allow = ["MPL-2.0"] }]
    "#;

    fn problems(name: &str, licence: &str, source: &str) -> Vec<String> {
        let metadata = serde_json::json!({ "packages": [{
            "name": name, "version": "1.0.0", "license": licence, "source": source,
        }]});
        check(POLICY, &metadata.to_string()).unwrap()
    }

    #[test]
    fn an_allowed_licence_passes() {
        for licence in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "MIT AND Apache-2.0"] {
            assert_eq!(problems("any", licence, REGISTRY), Vec::<String>::new(), "{licence}");
        }
    }

    #[test]
    fn any_other_licence_is_reported() {
        for licence in ["GPL-3.0", "MIT AND GPL-3.0", "MPL-2.0", "no licence at all"] {
            assert_eq!(problems("any", licence, REGISTRY).len(), 1, "{licence}");
        }
    }

    #[test]
    fn an_exception_holds_for_its_crate_alone() {
        assert!(problems("special", "MPL-2.0+", REGISTRY).is_empty());
        assert_eq!(problems("other", "MPL-2.0+", REGISTRY).len(), 1);
    }

    #[test]
    fn a_package_from_git_is_reported() {
        let found = problems("any", "MIT", "git+https://example.com/any");
        assert_eq!(found, ["any 1.0.0: comes from git+https://example.com/any"]);
    }
}
