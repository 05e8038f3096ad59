//! Results as a table on the terminal, as Markdown and as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::table::{self, Mutant};
use super::trial::Outcome;

/// A mutant and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// Its name.
    pub name: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Seconds to build it.
    pub build_seconds: f64,
    /// Seconds until it was found.
    pub run_seconds: f64,
}

impl Tried {
    /// Whether this is what is wanted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        !matches!(self.outcome, Outcome::Survived { .. } | Outcome::Error { .. })
    }

    /// Seeds to kill, and what noticed it.
    #[must_use]
    pub fn cells(&self) -> (String, String) {
        match &self.outcome {
            Outcome::Killed { seeds, invariant, .. } => (seeds.to_string(), invariant.clone()),
            Outcome::KilledByTests { tests } => {
                let more = match tests.len() {
                    0 | 1 => String::new(),
                    count => format!(" and {} more", count - 1),
                };
                let first = tests.first().map_or("(no name)", String::as_str);
                ("tests".to_owned(), format!("{first}{more}"))
            }
            Outcome::Survived { seeds: 0 } => ("-".to_owned(), "SURVIVED".to_owned()),
            Outcome::Survived { seeds } => (format!("> {seeds}"), "SURVIVED".to_owned()),
            Outcome::Compiles => ("-".to_owned(), "compiles".to_owned()),
            Outcome::Error { message } => ("-".to_owned(), format!("ERROR {message}")),
        }
    }
}

/// The middle of the seeds it took, over all that seeds killed.
#[must_use]
pub fn median(tried: &[Tried]) -> Option<u64> {
    let mut seeds: Vec<u64> = tried
        .iter()
        .filter_map(|tried| match tried.outcome {
            Outcome::Killed { seeds, .. } => Some(seeds),
            _ => None,
        })
        .collect();
    seeds.sort_unstable();
    seeds.get(seeds.len().checked_sub(1)? / 2).copied()
}

/// One line on what came of all.
#[must_use]
pub fn summary(tried: &[Tried]) -> String {
    let good = tried.iter().filter(|tried| tried.is_good()).count();
    let median =
        median(tried).map_or_else(String::new, |seeds| format!(", median {seeds} seeds to kill"));
    format!("{good} of {} found{median}", tried.len())
}

/// The table for the terminal.
#[must_use]
pub fn text(tried: &[Tried]) -> String {
    let width = table::MUTANTS.iter().map(|mutant| mutant.name.len()).max().unwrap_or_default();
    let mut out = format!("{:<width$} {:>7} {:>8}  found by\n", "mutant", "seeds", "seconds");
    for tried in tried {
        let (seeds, by) = tried.cells();
        let _ = writeln!(out, "{:<width$} {seeds:>7} {:>8.1}  {by}", tried.name, tried.run_seconds);
    }
    out
}

/// The page `docs/mutants.md`.
#[must_use]
pub fn markdown(tried: &[Tried]) -> String {
    let mut out = String::from(
        "# Mutants\n\n\
         Bugs that consensus and storage projects have had, or are known for, each built into the product by a line or two\n\
         behind `cfg(mutant = \"...\")`. `cargo mutants` builds each of them, runs the simulator against it, and says how many\n\
         seeds it took to notice. `cargo mutants --only NAME` tries one. This page is made by\n\
         `cargo mutants --markdown docs/mutants.md`; who had the bugs, and when they show, is said in\n\
         `tools/src/mutants/table.rs`.\n\n\
         | mutant | in | the bug | seeds to kill | noticed by |\n|---|---|---|---|---|\n",
    );
    for tried in tried {
        let Some(Mutant { name, part, what, .. }) = table::find(tried.name) else { continue };
        let part = part.dir().trim_end_matches("/src");
        let (seeds, by) = match &tried.outcome {
            Outcome::Killed { seeds, invariant, .. } => {
                (seeds.to_string(), format!("`{invariant}`"))
            }
            Outcome::Survived { seeds } => (format!("**survives {seeds}**"), String::new()),
            _ => tried.cells(),
        };
        let by = by.replace('|', "/");
        let _ = writeln!(out, "| `{name}` | {part} | {what} | {seeds} | {by} |");
    }
    let good = tried.iter().filter(|tried| tried.is_good()).count();
    let _ = write!(out, "\n{good} of {} are noticed", tried.len());
    if let Some(median) = median(tried) {
        let _ = write!(out, ", half of them within {median} seeds");
    }
    out.push_str(".\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(seeds: u64) -> Tried {
        let (invariant, message) = ("linearizability".to_owned(), String::new());
        let outcome = Outcome::Killed { seeds, seed: seeds, invariant, message };
        Tried { name: "stale-ack", outcome, build_seconds: 0.0, run_seconds: 0.5 }
    }

    #[test]
    fn survivors_do_not_count_for_the_median_but_are_no_success() {
        let survived = Tried { outcome: Outcome::Survived { seeds: 1000 }, ..killed(0) };
        let tried = [killed(9), survived, killed(1), killed(40)];
        assert_eq!(median(&tried), Some(9));
        assert_eq!(summary(&tried), "3 of 4 found, median 9 seeds to kill");
        assert!(text(&tried).contains("SURVIVED"));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn every_mutant_fits_a_row_of_the_page() {
        for mutant in table::MUTANTS {
            for cell in [mutant.what, mutant.history, mutant.shows] {
                assert!(!cell.contains('|') && !cell.is_empty(), "{}", mutant.name);
            }
        }
        let page =
            markdown(&[killed(3), Tried { outcome: Outcome::Survived { seeds: 9 }, ..killed(0) }]);
        let row = "| `stale-ack` | engine | an acknowledgement of an earlier term counts |";
        assert!(page.contains(&format!("{row} 3 | `linearizability` |\n")), "{page}");
        assert!(page.contains(&format!("{row} **survives 9** |  |\n")), "{page}");
        assert!(page.ends_with("\n1 of 2 are noticed, half of them within 3 seeds.\n"), "{page}");
    }
}
