//! A state machine of one's own under the simulator: a bank, and two ways to get it wrong.
//!
//! ```text
//! cargo run --profile sim -p coracle-tools --example own_state_machine
//! cargo run --profile sim -p coracle-tools --example own_state_machine -- --bug applies-twice
//! cargo run --profile sim -p coracle-tools --example own_state_machine -- --seed 7
//! ```
//! Each shard is a bank with a few accounts. A transfer has an id, and a client that does not know whether its
//! transfer was done asks for it again: the bank must do it once. Money is neither made nor lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::process::ExitCode;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::{Parser, ValueEnum};
use coracle_engine::{
    Apply, ImageBuffer, Restore, ShardId, SnapshotError, SnapshotStream, StateMachine, WholeImage,
};
use coracle_tools::sim::{Ask, Campaign, Outcome, Plan, Request, Then, Workload, run};

const ACCOUNTS: u8 = 5;
const BALANCE_AT_FIRST: u64 = 100;
const TOTAL: u64 = ACCOUNTS as u64 * BALANCE_AT_FIRST;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bug {
    /// The bank forgets which transfers it has done.
    AppliesTwice,
    /// The bank takes a fee from whichever account a hash set names first: each replica from another one.
    HashOrder,
}

/// The state of one shard.
struct Bank {
    balances: [u64; ACCOUNTS as usize],
    /// Ids of the transfers that were done, in this order.
    done: Vec<u64>,
    seen: BTreeSet<u64>,
    /// What has come of a snapshot.
    restoring: ImageBuffer,
    bug: Option<Bug>,
}

impl Bank {
    fn new(bug: Option<Bug>) -> Self {
        let (balances, seen) = ([BALANCE_AT_FIRST; ACCOUNTS as usize], BTreeSet::new());
        Self { balances, done: Vec::new(), seen, restoring: ImageBuffer::default(), bug }
    }
}

impl StateMachine for Bank {
    /// Payload: id, from, to, amount. Reply: the balances.
    fn apply(&mut self, entry: Apply<'_>, reply: &mut BytesMut) {
        let mut payload = entry.payload.clone();
        let (id, from, to) = (payload.get_u64(), payload.get_u8(), payload.get_u8());
        let amount = payload.get_u64().min(self.balances[usize::from(from)]);
        if self.seen.insert(id) || self.bug == Some(Bug::AppliesTwice) {
            self.done.push(id);
            self.balances[usize::from(from)] -= amount;
            self.balances[usize::from(to)] += amount;
        }
        if self.bug == Some(Bug::HashOrder) {
            let accounts: HashSet<usize> = (0..self.balances.len()).collect();
            let payer = accounts.into_iter().find(|at| self.balances[*at] > 0).unwrap_or(0);
            self.balances[payer] -= 1;
            self.balances[0] += 1;
        }
        self.balances.iter().for_each(|balance| reply.put_u64(*balance));
    }

    /// Reply: the balances and the ids of all transfers.
    fn query(&self, _: &Bytes, reply: &mut BytesMut) {
        self.balances.iter().chain(&self.done).for_each(|number| reply.put_u64(*number));
    }

    /// The state is small: its image is made at once. It is what an audit answers, which is all there is.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotStream>, SnapshotError> {
        let mut image = BytesMut::new();
        self.query(&Bytes::new(), &mut image);
        Ok(Box::new(WholeImage::new(image.to_vec())))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), SnapshotError> {
        let Some(image) = self.restoring.take(part)? else { return Ok(()) };
        let damaged = || SnapshotError::Damaged(format!("a bank in {} bytes", image.len()));
        let (numbers, []) = image.as_chunks::<8>() else { return Err(damaged()) };
        let mut numbers = numbers.iter().map(|number| u64::from_be_bytes(*number));
        for balance in &mut self.balances {
            *balance = numbers.next().ok_or_else(damaged)?;
        }
        self.done = numbers.collect();
        self.seen = self.done.iter().copied().collect();
        Ok(())
    }
}

/// What clients do, and what they know.
#[derive(Default)]
struct Customers {
    bug: Option<Bug>,
    transfers: u64,
    /// What each client waits for, and how many transfers of that bank had been answered before.
    asked: BTreeMap<u32, (Request, usize)>,
    /// Transfers that were answered, by shard.
    answered: BTreeMap<ShardId, Vec<u64>>,
}

impl Customers {
    fn ask(&mut self, client: u32, shard: ShardId, payload: Bytes) -> Request {
        let request = Request { shard, write: !payload.is_empty(), payload, staleness: None };
        let before = self.answered.entry(shard).or_default().len();
        self.asked.insert(client, (request.clone(), before));
        request
    }
}

impl Workload for Customers {
    fn machine(&self, _: ShardId) -> Box<dyn StateMachine> {
        Box::new(Bank::new(self.bug))
    }

    fn next(&mut self, ask: Ask<'_>) -> (String, Request) {
        let shard = ShardId(ask.rng.u32(..ask.shards));
        if ask.rng.u8(..4) == 0 {
            return (format!("audit bank {shard}"), self.ask(ask.client, shard, Bytes::new()));
        }
        self.transfers += 1;
        let (id, amount) = (self.transfers, ask.rng.u64(1..50));
        let (from, to) = (ask.rng.u8(..ACCOUNTS), ask.rng.u8(..ACCOUNTS));
        let mut payload = BytesMut::new();
        payload.put_u64(id);
        payload.put_slice(&[from, to]);
        payload.put_u64(amount);
        let words = format!("transfer {id}: {amount} from {from} to {to} in bank {shard}");
        (words, self.ask(ask.client, shard, payload.freeze()))
    }

    fn ended(&mut self, client: u32, _: Duration, outcome: Outcome) -> Result<Then, String> {
        let Some((request, before)) = self.asked.get(&client) else { return Ok(Then::Done) };
        let mut reply = match outcome {
            // Perhaps it was done: ask again, under the same id.
            Outcome::Unknown => return Ok(Then::Ask(request.clone())),
            Outcome::Refused => return Ok(Then::Done),
            Outcome::Replied(reply) => reply,
        };
        let shard = request.shard;
        let answered = self.answered.entry(shard).or_default();
        let sum: u64 = (0..ACCOUNTS).map(|_| reply.get_u64()).sum();
        if sum != TOTAL {
            return Err(format!("bank {shard} has {sum}, not {TOTAL}"));
        }
        if request.write {
            answered.push(request.payload.clone().get_u64());
            return Ok(Then::Done);
        }
        let mut done = BTreeSet::new();
        while reply.has_remaining() {
            let id = reply.get_u64();
            if !done.insert(id) {
                return Err(format!("bank {shard} has done transfer {id} twice"));
            }
        }
        match answered[..*before].iter().find(|id| !done.contains(id)) {
            Some(id) => Err(format!("bank {shard} has lost transfer {id}")),
            None => Ok(Then::Done),
        }
    }

    fn final_read(&mut self, number: usize, ask: Ask<'_>) -> Option<(String, Request)> {
        let shard = ShardId(number as u32);
        let words = format!("audit bank {shard}");
        (shard.0 < ask.shards).then(|| (words, self.ask(ask.client, shard, Bytes::new())))
    }

    fn verdict(&mut self) -> Result<(), String> {
        Ok(()) // every audit was judged when it came
    }
}

/// Simulates a bank under faults.
#[derive(Parser)]
struct Args {
    /// Seeds to run.
    #[arg(long, default_value_t = 300)]
    seeds: u64,
    /// Run this seed alone and tell its story.
    #[arg(long)]
    seed: Option<u64>,
    /// Build a bug into the bank.
    #[arg(long, value_enum)]
    bug: Option<Bug>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let customers = |bug| move |_: &_, _: &_| Customers { bug, ..Customers::default() };
    if let Some(seed) = args.seed {
        let report = run(&Plan::draw(seed), &customers(args.bug), true);
        println!("{}\n{:?}", report.story.join("\n"), report.failure);
        return ExitCode::from(u8::from(report.failure.is_some()));
    }
    match Campaign::of(args.seeds).check(customers(args.bug)) {
        Ok(total) => println!("{total}\nno invariant was violated"),
        Err(found) => println!("{found}"),
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invariant_violated(bug: Option<Bug>, seeds: u64) -> Option<String> {
        let campaign = Campaign { until_failure: true, ..Campaign::of(seeds) };
        let found = campaign.check(|_, _| Customers { bug, ..Customers::default() }).err()?;
        println!("{found}"); // shown if the test fails
        Some(found.failed.failure.invariant)
    }

    #[test]
    fn the_bank_is_sound() {
        assert_eq!(invariant_violated(None, 50), None);
    }

    #[test]
    fn both_bugs_are_found() {
        let found = |bug| invariant_violated(Some(bug), 1000).unwrap_or_default();
        assert_eq!(found(Bug::AppliesTwice), "answer");
        assert_eq!(found(Bug::HashOrder), "ApplyResult");
    }
}
