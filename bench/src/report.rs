//! How results are shown: progress while a run lasts, tables for people, JSON for programs.
//!
//! Progress goes to standard error, the table to standard output, JSON to a file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write as _};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use thiserror::Error;

/// A progress display: a bar on a terminal, one line per message elsewhere.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A display of `total` steps (seconds, cases), called `what`.
    pub fn new(what: &str, total: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_prefix(what.to_owned());
        Self { bar: Some(bar) }
    }

    /// Step `done` is over; `message` is its one-line result.
    pub fn step(&self, done: u64, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            None => eprintln!("{done:>5}  {message}"),
        }
    }

    /// A line that stays, above the bar.
    pub fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A table with a title; columns are as wide as their widest cell, the first is left-aligned.
#[derive(Clone, Debug, Default)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table called `title` with these column heads; no heads make a table without a head.
    pub fn new(title: impl Into<String>, heads: &[&str]) -> Self {
        let mut table = Self { title: title.into(), rows: Vec::new() };
        if !heads.is_empty() {
            table.row(heads.iter().copied());
        }
        table
    }

    /// Appends a row.
    pub fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The table as text, with a line feed at the end of each line.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        if !self.title.is_empty() {
            text.push_str(&self.title);
            text.push('\n');
        }
        for row in &self.rows {
            let mut line = String::from(" ");
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let written = if column == 0 {
                    write!(line, " {cell:<width$}")
                } else {
                    write!(line, "  {cell:>width$}")
                };
                written.expect("writing to a string does not fail");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints the table to standard output.
    pub fn print(&self) {
        print!("{}", self.render());
    }
}

/// A number with thousands separated: `1234567` gives `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds, with the unit that reads best: `87.4 us`, `4.12 ms`, `1.50 s`.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1} us"),
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// A duration as [`micros`].
pub fn duration(duration: Duration) -> String {
    micros(duration.as_secs_f64() * 1e6)
}

/// The results could not be written to the file that `--json` names.
#[derive(Debug, Error)]
pub enum JsonError {
    /// The file cannot be created or written.
    #[error("cannot write the results to {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Writes `value` as JSON, with a line feed at the end.
///
/// # Errors
/// [`JsonError::Write`].
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), JsonError> {
    let write = || -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        serde_json::to_writer_pretty(&mut file, value).map_err(io::Error::from)?;
        file.write_all(b"\n")?;
        file.flush()
    };
    write().map_err(|source| JsonError::Write { path: path.display().to_string(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("latency", &["", "p50", "p99"]);
        table.row(["service", "87.4 us", "1.00 ms"]);
        table.row(["intended", "9.0 us", "12.00 ms"]);
        let expected = "latency\n                p50       p99\n  service   87.4 us   1.00 ms\n  \
                        intended   9.0 us  12.00 ms\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn numbers_read_well() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(micros(87.44), "87.4 us");
        assert_eq!(micros(874.4), "874 us");
        assert_eq!(micros(4_120.0), "4.12 ms");
        assert_eq!(micros(1_500_000.0), "1.50 s");
    }

    #[test]
    fn json_that_cannot_be_written_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.json");
        write_json(&path, &vec![1, 2]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[\n  1,\n  2\n]\n");
        let missing = dir.path().join("no/such/dir.json");
        let error = write_json(&missing, &1).unwrap_err().to_string();
        assert!(error.contains("no/such/dir.json"), "{error}");
    }
}
