//! What a scenario has to reach, beside what it reached; and the report of one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::Table;

/// On which side of its limit a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The limit is the most.
    AtMost,
    /// The limit is the least.
    AtLeast,
}

/// A figure, its limit, and whether it was met.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// What was measured.
    pub what: String,
    /// What came out; not a number if it could not be measured, which counts as missed.
    pub figure: f64,
    /// Of figure and limit.
    pub unit: &'static str,
    /// Which side is good.
    pub rule: Rule,
    /// Where the sides meet.
    pub limit: f64,
    /// Whether the figure is on the good side.
    pub met: bool,
}

impl Target {
    /// `figure` should be `limit` or less.
    pub fn at_most(what: impl Into<String>, figure: f64, limit: f64, unit: &'static str) -> Self {
        let (what, met) = (what.into(), figure <= limit);
        Self { what, figure, unit, rule: Rule::AtMost, limit, met }
    }

    /// `figure` should be `limit` or more.
    pub fn at_least(what: impl Into<String>, figure: f64, limit: f64, unit: &'static str) -> Self {
        let (what, met) = (what.into(), figure >= limit);
        Self { what, figure, unit, rule: Rule::AtLeast, limit, met }
    }

    /// `holds` should be true; shown as 1 of 1.
    pub fn holds(what: impl Into<String>, holds: bool) -> Self {
        Self::at_least(what, f64::from(u8::from(holds)), 1.0, "")
    }
}

/// The result of a scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub scenario: &'static str,
    /// The arguments that all nodes were given.
    pub settings: Vec<String>,
    /// What was to be reached.
    pub targets: Vec<Target>,
    /// Everything else, by name.
    pub figures: BTreeMap<String, serde_json::Value>,
    /// The tables for people; their figures are above.
    #[serde(skip)]
    pub tables: Vec<Table>,
}

impl Report {
    /// An empty one.
    pub fn new(scenario: &'static str, settings: Vec<String>) -> Self {
        let (targets, figures, tables) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { scenario, settings, targets, figures, tables }
    }

    /// Keeps a figure for the JSON.
    pub fn figure(&mut self, name: impl Into<String>, value: impl Serialize) {
        // Only maps with odd keys fail, and there are none.
        let value = serde_json::to_value(value).unwrap_or(serde_json::Value::Null);
        self.figures.insert(name.into(), value);
    }

    /// Whether all targets were met.
    pub fn all_met(&self) -> bool {
        self.targets.iter().all(|target| target.met)
    }

    /// Prints the result for people.
    pub fn print(&self) {
        self.tables.iter().for_each(Table::print);
        let mut table = Table::new("targets", &["", "measured", "", "limit", ""]);
        for target in &self.targets {
            let number = |value: f64| format!("{} {}", short(value), target.unit);
            let sign = if target.rule == Rule::AtMost { "<=" } else { ">=" };
            let met = if target.met { "met" } else { "MISSED" };
            table.row([
                target.what.clone(),
                number(target.figure),
                sign.to_owned(),
                number(target.limit),
                met.to_owned(),
            ]);
        }
        table.print();
    }
}

/// A number as people read it: two decimals if it is small.
pub fn short(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_met_on_their_own_side_and_never_by_what_is_no_number() {
        assert!(Target::at_most("a", 1.0, 1.0, "s").met);
        assert!(!Target::at_most("a", 1.1, 1.0, "s").met);
        assert!(Target::at_least("a", 1.0, 1.0, "s").met);
        assert!(!Target::at_least("a", 0.9, 1.0, "s").met);
        assert!(!Target::at_least("a", f64::NAN, 1.0, "s").met);
        assert!(!Target::at_most("a", f64::NAN, 1.0, "s").met);
        assert!(Target::holds("a", true).met && !Target::holds("a", false).met);
    }
}
