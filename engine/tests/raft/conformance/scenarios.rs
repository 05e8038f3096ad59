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
        // Silent, etcd's output tells nothing.
        if !silent {
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

/// Three nodes elect node 1 and commit its first entry; told as etcd tells it, but ours.
const STORY: &str = "\
add-nodes 3 voters=(1,2,3) index=10
----
INFO newRaft 1 [peers: [1,2,3], term: 0, commit: 10, applied: 10, lastindex: 10, lastterm: 1]
INFO 1 switched to configuration voters=(1 2 3)
INFO 2 switched to configuration voters=(1 2 3)
INFO 3 switched to configuration voters=(1 2 3)
INFO 1 became follower at term 0
INFO 2 became follower at term 0
INFO 3 became follower at term 0

campaign 1
----
INFO 1 became candidate at term 1

process-ready 1
----
Ready MustSync=true:
Lead:0 State:StateCandidate
HardState Term:1 Vote:1 Commit:10
Messages:
1->2 MsgVote Term:1 Log:1/10
1->3 MsgVote Term:1 Log:1/10

deliver-msgs 2 drop=3
----
1->2 MsgVote Term:1 Log:1/10
INFO 2 became follower at term 1
INFO 2 [logterm: 1, index: 10, vote: 0] cast MsgVote for 1 [logterm: 1, index: 10] at term 1
dropped: 1->3 MsgVote Term:1 Log:1/10

log-level none
----
ok

stabilize
----
ok

log-level info
----
ok

raft-log 3
----
1/11 EntryNormal \"\"

status 1
----
1: StateReplicate match=11 next=12
2: StateReplicate match=11 next=12
3: StateReplicate match=11 next=12

raft-state
----
1: StateLeader (Voter) Term:1 Lead:1
2: StateFollower (Voter) Term:1 Lead:1
3: StateFollower (Voter) Term:1 Lead:1
";

fn differences(text: &str, waivers: &[Waiver]) -> Tally {
    play(&File { name: "story".to_owned(), text: text.to_owned() }, waivers)
}

#[test]
fn a_true_story_has_no_differences() {
    let tally = differences(STORY, &[]);
    assert_eq!((tally.commands, tally.equal, tally.open), (10, 43, Vec::<String>::new()));
}

/// Each line of the story that tells a fact is changed in turn; the change must be noticed.
#[test]
fn every_wrong_fact_of_a_story_is_noticed() {
    let lies = [
        ("lastindex: 10, lastterm: 1", "lastindex: 11, lastterm: 1"),
        ("1 switched to configuration voters=(1 2 3)", "1 switched to configuration voters=(1 2)"),
        ("became candidate at term 1", "became candidate at term 2"),
        ("Vote:1 Commit:10", "Vote:2 Commit:10"),
        ("Vote:1 Commit:10", "Vote:1 Commit:11"),
        ("Lead:0 State:StateCandidate", "Lead:1 State:StateCandidate"),
        ("Lead:0 State:StateCandidate", "Lead:0 State:StateFollower"),
        ("Messages:\n1->2 MsgVote Term:1 Log:1/10", "Messages:\n1->2 MsgVote Term:1 Log:1/9"),
        ("Messages:\n1->2 MsgVote Term:1 Log:1/10\n", "Messages:\n"),
        ("2 [logterm: 1, index: 10, vote: 0] cast", "2 [logterm: 1, index: 10, vote: 0] rejected"),
        ("dropped: 1->3 MsgVote Term:1 Log:1/10\n", ""),
        ("1/11 EntryNormal \"\"", "1/11 EntryNormal \"x\""),
        ("1/11 EntryNormal \"\"", "1/11 EntryNormal \"\"\n1/12 EntryNormal \"\""),
        ("3: StateReplicate match=11", "3: StateReplicate match=10"),
        ("3: StateReplicate match=11", "3: StateProbe match=11"),
        ("2: StateFollower (Voter)", "2: StateFollower (Non-Voter)"),
        ("1: StateLeader", "1: StateFollower"),
        ("raft-state\n", "forget-everything\n"),
        ("1: StateLeader (Voter)", "something new\n1: StateLeader (Voter)"),
    ];
    for (truth, lie) in lies {
        assert!(STORY.contains(truth), "{truth:?}");
        let tally = differences(&STORY.replacen(truth, lie, 1), &[]);
        assert!(!tally.open.is_empty(), "nobody noticed {lie:?}");
    }
}

#[test]
fn a_waiver_covers_what_it_names_and_nothing_else() {
    let lie = STORY.replace("match=11 next=12\n2", "match=10 next=11\n2");
    let waiver =
        |what| Waiver { scenario: "story", lines: 1..=99, what, differences: 1, because: "" };
    let tally = differences(&lie, &[waiver("1 sees 1 match")]);
    assert_eq!((tally.waived, tally.used, tally.open.len()), (1, vec![1], 1));
    let tally = differences(&lie, &[waiver("1 sees 1 ")]);
    assert_eq!((tally.waived, tally.used, tally.open.len()), (2, vec![2], 0));
    let elsewhere = Waiver { lines: 1..=2, ..waiver("") };
    assert_eq!(differences(&lie, &[elsewhere]).used, vec![0]);
}
