//! `scenarios/`: whole stories of small clusters. After each command, what etcd's output tells about the
//! state is compared with our cores'. A difference fails the test unless it is waived by name, and so does
//! a waiver that covers more or fewer differences than it says.

use super::File;
use super::datadriven::{Case, parse};
use super::expected;
use super::facts::compare;
use super::replay::Replay;
use super::waivers::{WAIVERS, Waiver};

#[derive(Default)]
struct Tally {
    commands: usize,
    equal: usize,
    waived: usize,
    /// Differences that nobody has waived.
    open: Vec<String>,
    /// How many differences each waiver has covered.
    used: Vec<usize>,
}

/// Plays one scenario.
fn play(file: &File, waivers: &[Waiver]) -> Tally {
    let mut tally = Tally { used: vec![0; waivers.len()], ..Tally::default() };
    let mut replay = Replay::default();
    let mut silent = false;
    for case in parse(&file.text) {
        let (found, unsupported) = replay.run(&case);
        tally.commands += 1;
        if case.name == "log-level" {
            silent = case.plain().next() == Some("none");
        }
        let mut differences: Vec<String> =
            unsupported.iter().map(|what| format!("cannot {what}")).collect();
        // Without log level there is no output to compare with, except for commands that ask.
        let asks = matches!(case.name.as_str(), "raft-log" | "raft-state" | "status");
        if !silent || asks {
            let expected = expected::read(&case, &|ack| replay.is_repeated(ack));
            differences.extend(expected.unread.iter().map(|line| format!("unread: {line}")));
            let (equal, different) = compare(&expected.facts, &found);
            tally.equal += equal;
            differences.extend(different);
        }
        settle(file, &case, differences, waivers, &mut tally);
    }
    tally
}

fn settle(file: &File, case: &Case, found: Vec<String>, waivers: &[Waiver], tally: &mut Tally) {
    for difference in found {
        let waiver = waivers.iter().position(|waiver| {
            waiver.scenario == file.name
                && waiver.lines.contains(&case.line)
                && difference.contains(waiver.what)
        });
        match waiver {
            Some(place) => {
                tally.used[place] += 1;
                tally.waived += 1;
            }
            None => {
                let place = format!("{}:{}: {}", file.name, case.line, case.text);
                tally.open.push(format!("{place}: {difference}"));
            }
        }
    }
}

#[test]
fn scenarios_agree_with_etcd_or_the_test_says_that_it_ran_nothing() {
    let files = super::files("scenarios");
    let mut open = Vec::new();
    let (mut equal, mut waived) = (0, 0);
    let mut used = vec![0; WAIVERS.len()];
    let mut lines = Vec::new();
    for file in &files {
        let tally = play(file, WAIVERS);
        lines.push(format!(
            "  {:44} {:3} commands, {:4} facts equal, {:3} waived, {:3} different",
            file.name,
            tally.commands,
            tally.equal,
            tally.waived,
            tally.open.len()
        ));
        equal += tally.equal;
        waived += tally.waived;
        open.extend(tally.open);
        used.iter_mut().zip(tally.used).for_each(|(used, now)| *used += now);
    }
    if files.is_empty() {
        return;
    }
    let total = equal + waived + open.len();
    super::say(&format!(
        "scenarios: {total} facts in {} files: {equal} equal, {waived} waived, {} different\n{}",
        files.len(),
        open.len(),
        lines.join("\n")
    ));
    // A folder of other scenarios need not have those that are waived here.
    let present = |waiver: &Waiver| files.iter().any(|file| file.name == waiver.scenario);
    for (waiver, used) in WAIVERS.iter().zip(used) {
        if used != waiver.differences && present(waiver) {
            let Waiver { scenario, lines, what, differences, because } = waiver;
            open.push(format!(
                "{scenario}:{lines:?}: {what:?} is waived for {differences} differences, but there \
                 are {used} ({because})"
            ));
        }
    }
    assert!(open.is_empty(), "\n{}", open.join("\n"));
}
