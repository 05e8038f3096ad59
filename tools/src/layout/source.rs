//! The rules that show in one Rust file: names, head, length, `unsafe` and what was left for later.

use super::policy::{self, Ban};
use super::tokens::{self, NamedPath};
use super::{Finding, Rule};

/// Words that mark unfinished work; put together here so that this file passes its own check.
const LEFT_FOR_LATER: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Macros that stand for code which is not there.
const MISSING_CODE: [&str; 2] = ["todo", "unimplemented"];

/// A statement that spans lines may have its reason this many lines above the `unsafe` in it.
const REASON_LINES_ABOVE_MAX: usize = 3;

/// Checks the Rust file `path` (relative to the repository, `/` between its parts).
pub fn check(path: &str, text: &str, findings: &mut Vec<Finding>) {
    let mut report = |line: usize, rule: Rule, message: String| {
        findings.push(Finding { path: path.to_owned(), line, rule, message });
    };
    let lines: Vec<&str> = text.lines().collect();
    if !lines.first().is_some_and(|line| line.starts_with("//!") && line.len() > "//! ".len()) {
        let message = "start the file with `//!` and a sentence that says what lives here";
        report(1, Rule::FileHead, message.to_owned());
    }
    if lines.len() > policy::FILE_LINES_MAX && !listed(policy::LONG_FILES, path) {
        let message =
            format!("{} lines, at most {}; split by concern", lines.len(), policy::FILE_LINES_MAX);
        report(lines.len(), Rule::FileLength, message);
    }
    for (at, line) in lines.iter().enumerate() {
        if let Some(word) = LEFT_FOR_LATER.iter().find(|word| has_word(line, word)) {
            report(at + 1, Rule::Unfinished, format!("`{word}`: do it now, or file an issue"));
        }
    }
    let paths = match tokens::paths(text) {
        Ok(paths) => paths,
        Err((line, reason)) => {
            return report(line, Rule::Syntax, format!("this is not Rust: {reason}"));
        }
    };
    let bans: Vec<&Ban> = policy::BANS.iter().filter(|ban| holds_in(ban, path)).collect();
    for named in &paths {
        if let Some(ban) = bans.iter().find(|ban| names(&named.segments, ban.path)) {
            let message =
                format!("`{}` must not be named here: {}", ban.path.join("::"), ban.instead);
            report(named.line, Rule::BannedName, message);
        }
        if named.is_macro && named.segments.last().is_some_and(|last| is_missing_code(last)) {
            let message = format!("`{}!`: write the code", named.segments.join("::"));
            report(named.line, Rule::Unfinished, message);
        }
        if is_unsafe(named) {
            if !listed(policy::UNSAFE_PLACES, path) {
                let message = "`unsafe` is not allowed in this module (see policy.rs)".to_owned();
                report(named.line, Rule::UnsafePlace, message);
            }
            if !has_reason(&lines, named.line - 1) {
                let message = "say why this is sound in a `SAFETY:` comment beside it".to_owned();
                report(named.line, Rule::UnsafeReason, message);
            }
        }
    }
}

fn is_missing_code(name: &str) -> bool {
    MISSING_CODE.contains(&name)
}

fn is_unsafe(named: &NamedPath) -> bool {
    named.segments == ["unsafe"]
}

fn holds_in(ban: &Ban, path: &str) -> bool {
    ban.dirs.iter().any(|dir| is_below(path, dir))
}

fn listed(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(place, _)| is_below(path, place))
}

fn is_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether `banned` stands somewhere in `segments`, as a run of whole segments.
fn names(segments: &[String], banned: &[&str]) -> bool {
    segments.windows(banned.len()).any(|run| run.iter().zip(banned).all(|(a, b)| a == b))
}

/// Whether `word` stands in `line` on its own, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word)
    })
}

/// Whether the `unsafe` on line `at` (from 0) has its reason on that line or in the comment above.
fn has_reason(lines: &[&str], at: usize) -> bool {
    let gives_reason = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let is_comment = |line: &str| line.starts_with("//") || line.starts_with("#[");
    if gives_reason(lines[at]) || lines.get(at + 1).is_some_and(|next| gives_reason(next)) {
        return true;
    }
    let mut code_lines = 0;
    for line in lines[..at].iter().rev().map(|line| line.trim_start()) {
        if is_comment(line) {
            if gives_reason(line) {
                return true;
            }
        } else {
            code_lines += 1;
            if code_lines >= REASON_LINES_ABOVE_MAX {
                return false;
            }
        }
    }
    false
}
