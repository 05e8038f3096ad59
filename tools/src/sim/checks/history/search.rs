//! The search for an order that explains a history.
//!
//! Starts and ends are walked through in order. A *configuration* is a state in which the key can be now
//! and what was done to get there: which of the operations under way have taken effect. When an operation
//! ends, it must have taken effect: each configuration in which it has not is followed further ("just in
//! time", Lowe 2017). What keeps their number small, without losing an order that explains the history:
//!
//! * An operation that changes nothing and whose reply is right now takes effect at once: it will never
//!   be easier.
//! * A `SET` may be *hidden*: put right before another write that overwrites whatever there was, where
//!   nobody sees it. So no subset of writes is ever tried out for hiding: when a `SET` ends, it is looked
//!   up whether such a write took effect since it began. For the same reason, such a write never follows one
//!   that nobody has seen.
//! * An operation of unknown outcome need not take effect at all; so it does only if something sees it
//!   before it is overwritten, and of several that are alike, the oldest goes first.
//! * A configuration is dropped if another one has the same state, and of the operations of unknown
//!   outcome only such as the first has used, too.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::model::{Next, State, number};
use super::{Call, End, HistoryError, Operation, Reply};

/// Steps after which the search is given up: well below a second.
const STEPS_MAX: u64 = 400_000;

/// What values that nobody sees are made of; not a digit.
const UNSEEN: u8 = b'?';

/// Operations of a story.
const STORY_MAX: usize = 40;

/// A set of operations, one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn set(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn clear(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word &= !(1 << (at % 64));
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn is_within(&self, other: &Self) -> bool {
        self.0
            .iter()
            .enumerate()
            .all(|(at, word)| word & !other.0.get(at).copied().unwrap_or(0) == 0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Config {
    state: State,
    /// Operations under way that have taken effect and will end with a reply.
    done: Bits,
    /// Operations of unknown outcome that have taken effect.
    used: Bits,
    /// When a write took effect last that overwrites whatever there was; 0 for never.
    blind_at: u64,
}

/// An operation as the search needs it.
struct Op<'h> {
    operation: &'h Operation,
    /// `None` if unknown.
    reply: Option<&'h Reply>,
    /// Unknown ones with the same number can stand for each other.
    alike: Option<usize>,
}

impl<'h> Op<'h> {
    /// The value that it read.
    fn value_read(&self) -> Option<&'h [u8]> {
        match self.reply {
            Some(Reply::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether it changes nothing, as its reply says.
    fn is_read(&self) -> bool {
        matches!(
            (&self.operation.call, self.reply),
            (Call::Get | Call::ExpireTime, _)
                | (Call::SetNx(_), Some(Reply::Nil))
                | (Call::Del | Call::Expire(_) | Call::Persist, Some(Reply::Int(0)))
                | (Call::Incr(_), Some(Reply::Error))
        )
    }

    /// Whether it takes effect in the same way whatever there was.
    fn is_blind(&self) -> bool {
        match self.operation.call {
            Call::Set(..) => true,
            Call::Del => self.reply.is_none(),
            _ => false,
        }
    }

    /// Whether a `SET` may be put right before it.
    fn hides(&self) -> bool {
        match self.operation.call {
            Call::Set(..) => true,
            Call::Del => self.reply.is_none_or(|reply| *reply == Reply::Int(1)),
            _ => false,
        }
    }
}

pub(super) struct Search<'h> {
    ops: Vec<Op<'h>>,
    /// All values that were read, in order.
    read: Vec<&'h [u8]>,
    /// Moment, whether an end, and operation.
    events: Vec<(u64, bool, usize)>,
    open: Vec<usize>,
    configs: Vec<Config>,
    steps: u64,
}

impl<'h> Search<'h> {
    pub(super) fn new(history: &'h [Operation]) -> Self {
        let mut ops: Vec<Op<'h>> = Vec::new();
        for operation in history {
            let reply = match &operation.end {
                End::Replied(_, reply) => Some(reply),
                // A read that nobody saw the answer of says nothing.
                End::Unknown if matches!(operation.call, Call::Get | Call::ExpireTime) => continue,
                End::Unknown => None,
                End::Refused => continue,
            };
            ops.push(Op { operation, reply, alike: None });
        }
        ops.sort_by_key(|op| op.operation.start);
        let mut read: Vec<&[u8]> = ops.iter().filter_map(Op::value_read).collect();
        read.sort_unstable();
        read.dedup();
        find_alike(&mut ops, &read);
        let starts = ops.iter().enumerate().map(|(at, op)| (op.operation.start, false, at));
        let ends = ops.iter().enumerate().filter_map(|(at, op)| match op.operation.end {
            End::Replied(end, _) => Some((end, true, at)),
            End::Unknown | End::Refused => None,
        });
        let mut events: Vec<_> = starts.chain(ends).collect();
        // At one moment, starts come first: what touches overlaps.
        events.sort_unstable();
        let start = Config {
            state: State::NONE,
            done: Bits::default(),
            used: Bits::default(),
            blind_at: 0,
        };
        Self { ops, read, events, open: Vec::new(), configs: vec![start], steps: 0 }
    }

    /// Decides. Returns how many steps it took.
    pub(super) fn run(mut self) -> Result<u64, HistoryError> {
        for (now, is_end, at) in std::mem::take(&mut self.events) {
            if !is_end {
                self.open.push(at);
                let mut configs = std::mem::take(&mut self.configs);
                configs.iter_mut().for_each(|config| {
                    self.read_eagerly(config);
                });
                self.configs = configs;
                continue;
            }
            let before = std::mem::take(&mut self.configs);
            let mut after = Vec::new();
            for config in &before {
                self.end(config, at, now, &mut after);
                self.steps += 1;
                if self.steps > STEPS_MAX {
                    return Err(HistoryError::Undecided { steps: self.steps });
                }
            }
            self.open.retain(|open| *open != at);
            self.configs = undominated(after);
            if self.configs.is_empty() {
                return Err(self.explain(at, &before));
            }
        }
        Ok(self.steps)
    }

    /// Operation `at` ends: adds the configurations in which it has taken effect.
    fn end(&mut self, config: &Config, at: usize, now: u64, after: &mut Vec<Config>) {
        let finish = |mut config: Config, after: &mut Vec<Config>| {
            config.done.clear(at);
            after.push(config);
        };
        if config.done.has(at) {
            return finish(config.clone(), after);
        }
        let operation = self.ops[at].operation;
        if matches!(operation.call, Call::Set(..)) && operation.start < config.blind_at {
            finish(config.clone(), after); // hidden
        }
        // Configurations on the way, each with whether its last step was of use only if it is seen.
        let mut ways = vec![(config.clone(), false)];
        let mut known: HashSet<(Config, bool)> = HashSet::new(); // only asked, never walked
        while let Some((config, unseen)) = ways.pop() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return;
            }
            if config.done.has(at) {
                finish(config, after);
                continue;
            }
            let steps = self.steps_from(&config, unseen, at, now);
            self.steps += steps.len() as u64;
            for (next, unseen) in steps {
                if next.done.has(at) {
                    finish(next, after);
                } else if known.insert((next.clone(), unseen)) {
                    ways.push((next, unseen));
                }
            }
        }
    }

    /// The configurations one step away that may help operation `wanted` to take effect.
    fn steps_from(
        &self,
        config: &Config,
        unseen: bool,
        wanted: usize,
        now: u64,
    ) -> Vec<(Config, bool)> {
        let mut next = Vec::new();
        let mut alike: BTreeSet<usize> = BTreeSet::new();
        for &at in &self.open {
            let op = &self.ops[at];
            if op.is_read() || config.done.has(at) || config.used.has(at) {
                continue;
            }
            if op.alike.is_some_and(|class| !alike.insert(class)) {
                continue; // an older one of its kind goes first
            }
            if (op.is_blind() && unseen) || !self.may_lead_to(op, wanted) {
                continue;
            }
            let Operation { call, times, .. } = op.operation;
            let state = match config.state.after(call, times, op.reply) {
                Some(Next::Changed(state)) => self.without_what_nobody_sees(state),
                // A `DEL` that finds nothing has removed what a hidden `SET` had put there.
                Some(Next::Same) if op.hides() && self.could_be_hidden(config) => {
                    config.state.clone()
                }
                _ => continue,
            };
            let mut step = Config { state, ..config.clone() };
            if op.hides() {
                step.blind_at = now;
            }
            if op.reply.is_some() {
                step.done.set(at);
            } else {
                step.used.set(at);
            }
            let seen = self.read_eagerly(&mut step);
            let unseen = (op.is_blind() || op.reply.is_none()) && !seen;
            next.push((step, unseen));
        }
        if config.state.may_expire(self.ops[wanted].operation.times.high) {
            let mut step = Config { state: State::NONE, ..config.clone() };
            let seen = self.read_eagerly(&mut step);
            next.push((step, !seen));
        }
        next
    }

    /// Whether a `SET` is under way that could be hidden now, and could not before.
    fn could_be_hidden(&self, config: &Config) -> bool {
        let could = |at: &usize| {
            let Operation { call, start, .. } = self.ops[*at].operation;
            let replied = self.ops[*at].reply.is_some() && !config.done.has(*at);
            replied && matches!(call, Call::Set(..)) && *start >= config.blind_at
        };
        self.open.iter().any(could)
    }

    /// Of a value that nobody ever reads, nor one that begins with it, only the length matters.
    fn without_what_nobody_sees(&self, mut state: State) -> State {
        if let Some(value) = &mut state.value {
            let may_be_number = value.first().is_none_or(|b| *b == b'-' || b.is_ascii_digit());
            // The first value that is not below this one is one that begins with it, if any does.
            let at = self.read.partition_point(|read| *read < &value[..]);
            let is_read = self.read.get(at).is_some_and(|read| read.starts_with(value));
            if !may_be_number && !is_read {
                *value = vec![UNSEEN; value.len()].into();
            }
        }
        state
    }

    /// Whether a write can be of use for what ends now. A `SET` of unknown outcome is not if a read waits
    /// for another value and nothing else is under way that could need this one, or could need that it expires.
    fn may_lead_to(&self, op: &Op<'_>, wanted: usize) -> bool {
        let Op { reply: Some(Reply::Value(value)), .. } = &self.ops[wanted] else { return true };
        let Call::Set(part, deadline) = &op.operation.call else { return true };
        let needs = |at: &usize| {
            let other = &self.ops[*at];
            let sets = matches!(other.operation.call, Call::Set(..));
            *at != wanted && (other.reply.is_some() || deadline.is_some()) && !sets
        };
        op.reply.is_some()
            || value.starts_with(part)
            || number(part).is_some()
            || self.open.iter().any(needs)
    }

    /// Lets all operations take effect that change nothing and whose replies are right now. Returns
    /// whether there were any.
    fn read_eagerly(&self, config: &mut Config) -> bool {
        let mut any = false;
        for &at in &self.open {
            let op = &self.ops[at];
            let Some(reply) = op.reply else { continue };
            if !op.is_read() || config.done.has(at) {
                continue;
            }
            let Operation { call, times, .. } = op.operation;
            let right = match call {
                Call::Get => config.state.reads(times, reply),
                _ => config.state.after(call, times, Some(reply)) == Some(Next::Same),
            };
            if right {
                config.done.set(at);
                any = true;
            }
        }
        any
    }

    fn explain(&self, at: usize, before: &[Config]) -> HistoryError {
        let operation = self.ops[at].operation.clone();
        let states: BTreeSet<_> = before.iter().map(|config| &config.state.value).collect();
        let mut possible: Vec<String> = states
            .iter()
            .map(|value| match value {
                Some(value) => format!("{:?}", String::from_utf8_lossy(value)),
                None => "nothing".to_owned(),
            })
            .collect();
        possible.truncate(10);
        let End::Replied(end, _) = operation.end else {
            return HistoryError::Undecided { steps: self.steps };
        };
        let mut earlier: Vec<_> =
            self.ops.iter().map(|op| op.operation).filter(|other| other.start < end).collect();
        let old = earlier.len().saturating_sub(STORY_MAX);
        let story: Vec<String> = earlier.drain(old..).map(ToString::to_string).collect();
        let (possible, story) = (possible.join(" or "), story.join("\n"));
        HistoryError::NotLinearizable { operation: Box::new(operation), possible, story }
    }
}

/// Finds operations of unknown outcome that nobody can tell apart.
fn find_alike(ops: &mut [Op<'_>], read: &[&[u8]]) {
    let was_seen = |part: &[u8]| {
        let digits = part.iter().all(u8::is_ascii_digit) || part.first() == Some(&b'-');
        let within =
            |value: &&[u8]| part.is_empty() || value.windows(part.len()).any(|w| w == part);
        digits || read.iter().any(within)
    };
    let mut classes: BTreeMap<(u8, i64), usize> = BTreeMap::new();
    let mut found = Vec::new();
    for op in ops.iter() {
        let class = match &op.operation.call {
            _ if op.reply.is_some() => None,
            Call::Incr(by) => Some((0, *by)),
            Call::Del => Some((1, 0)),
            Call::Persist => Some((2, 0)),
            Call::Set(part, None) if !was_seen(part) => Some((3, part.len() as i64)),
            Call::SetNx(part) if !was_seen(part) => Some((4, part.len() as i64)),
            Call::Append(part) if !was_seen(part) => Some((5, part.len() as i64)),
            _ => None,
        };
        let count = classes.len();
        found.push(class.map(|class| *classes.entry(class).or_insert(count)));
    }
    for (op, class) in ops.iter_mut().zip(found) {
        op.alike = class;
    }
}

/// Drops configurations that can do nothing which another one could not.
fn undominated(configs: Vec<Config>) -> Vec<Config> {
    let mut groups: BTreeMap<(State, Bits), Vec<(Bits, u64)>> = BTreeMap::new();
    for Config { state, done, used, blind_at } in configs {
        let group = groups.entry((state, done)).or_default();
        let is_better = |(u, b): &(Bits, u64)| u.is_within(&used) && *b >= blind_at;
        if group.iter().any(is_better) {
            continue;
        }
        group.retain(|(u, b)| !(used.is_within(u) && blind_at >= *b));
        group.push((used, blind_at));
    }
    let configs = groups.into_iter().flat_map(|((state, done), group)| {
        group.into_iter().map(move |(used, blind_at)| Config {
            state: state.clone(),
            done: done.clone(),
            used,
            blind_at,
        })
    });
    configs.collect()
}
