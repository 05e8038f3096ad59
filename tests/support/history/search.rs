//! The general way to decide about a key: follows all orders that are still possible.
//!
//! After Lowe ("Testing for linearizability", 2017, just-in-time linearization). A *configuration* is
//! what the key may hold now, and which of the operations under way have had their effect in that
//! case. An operation has to have had its effect when it ends, so each end extends every
//! configuration in all ways that lead there, and drops those that contradict what was seen. If none
//! is left, no order explains the history.
//!
//! Operations without an answer are under way for ever. What keeps them from multiplying:
//! * a configuration is dropped if another one holds the same and has used fewer of them: whatever
//!   can follow the one can follow the other;
//! * of several that do the same, the one that started first is used first.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{End, Operation};

/// What the key holds, and the answered operations under way that have had their effect.
type Core = (Option<String>, BTreeSet<usize>);

/// For each core the sets of unanswered operations it takes; none contains another.
#[derive(Debug, Default)]
struct Configurations(HashMap<Core, Vec<BTreeSet<usize>>>);

impl Configurations {
    /// Adds one, unless another makes it needless.
    fn insert(&mut self, core: Core, used: BTreeSet<usize>) -> bool {
        let known = self.0.entry(core).or_default();
        if known.iter().any(|fewer| fewer.is_subset(&used)) {
            return false;
        }
        known.retain(|more| !used.is_subset(more));
        known.push(used);
        true
    }

    fn into_list(self) -> impl Iterator<Item = (Core, BTreeSet<usize>)> {
        let each = |(core, sets): (Core, Vec<BTreeSet<usize>>)| {
            sets.into_iter().map(move |used| (core.clone(), used))
        };
        self.0.into_iter().flat_map(each)
    }
}

/// See [`super::check`].
pub(super) fn check(history: &[Operation]) -> Result<(), String> {
    let mut events = Vec::new();
    for (nth, operation) in history.iter().enumerate() {
        match operation.end {
            End::Acknowledged(end) => events.extend([(operation.start, nth), (end, nth)]),
            End::Unknown => events.push((operation.start, nth)),
            End::Refused => {}
        }
    }
    events.sort_unstable();
    let mut open: Vec<usize> = Vec::new();
    let mut configurations = Configurations::default();
    configurations.insert(Core::default(), BTreeSet::new());
    for (moment, nth) in events {
        if moment == history[nth].start {
            open.push(nth);
            continue;
        }
        let before: BTreeSet<_> = configurations.0.keys().map(|(value, _)| value.clone()).collect();
        configurations = after_the_end_of(nth, history, &open, configurations);
        if configurations.0.is_empty() {
            let before: Vec<_> = before.iter().map(|value| format!("{value:?}")).collect();
            let operation = &history[nth];
            return Err(format!(
                "no order explains \"{operation}\"; what went before allows {}",
                before.join(" or ")
            ));
        }
        open.retain(|other| *other != nth);
    }
    Ok(())
}

fn after_the_end_of(
    ended: usize,
    history: &[Operation],
    open: &[usize],
    configurations: Configurations,
) -> Configurations {
    let mut result = Configurations::default();
    let mut seen = Configurations::default();
    let mut queue = VecDeque::new();
    for ((value, mut done), used) in configurations.into_list() {
        if done.remove(&ended) {
            result.insert((value, done), used);
        } else if seen.insert((value.clone(), done.clone()), used.clone()) {
            queue.push_back((value, done, used));
        }
    }
    while let Some((value, done, used)) = queue.pop_front() {
        for &nth in open {
            if done.contains(&nth) || used.contains(&nth) {
                continue;
            }
            let operation = &history[nth];
            let (after, agrees) = operation.action.apply(value.as_deref());
            let (mut done, mut used) = (done.clone(), used.clone());
            if operation.end == End::Unknown {
                let is_needless =
                    after == value || !is_first_of_its_kind(nth, history, open, &used);
                if is_needless {
                    continue;
                }
                used.insert(nth);
            } else if !agrees {
                continue;
            } else if nth == ended {
                result.insert((after, done), used);
                continue;
            } else {
                done.insert(nth);
            }
            if seen.insert((after.clone(), done.clone()), used.clone()) {
                queue.push_back((after, done, used));
            }
        }
    }
    result
}

/// Whether no unused operation that started earlier does the same. `open` is in order of the starts.
fn is_first_of_its_kind(
    nth: usize,
    history: &[Operation],
    open: &[usize],
    used: &BTreeSet<usize>,
) -> bool {
    let same = |other: &&usize| {
        history[**other].end == End::Unknown
            && !used.contains(other)
            && history[**other].action.does_as(&history[nth].action)
    };
    open.iter().find(same) == Some(&nth)
}
