//! The share of bandwidth that transfers of one core may take together, so that commits are not hurt.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::env::Env;

/// A token bucket that never refuses: it says how long to wait.
///
/// It keeps one number, the time at which it would be full again. Taking bytes moves that time on, also
/// beyond the depth of the bucket; who takes then waits until the bytes are there. Whoever asks first is
/// served first, so that connections that take equal pieces in turn get equal shares; and who goes away
/// while it waits leaves nothing behind but the bytes of one piece.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    bytes_per_second: u64,
    burst_bytes: u64,
    full_at: Duration,
}

impl TokenBucket {
    /// A full bucket. 0 bytes per second: no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64, burst_bytes: u64) -> Self {
        Self { bytes_per_second, burst_bytes, full_at: Duration::ZERO }
    }

    /// Takes `bytes` at the time `now` and returns how long to wait before they are used. In any span
    /// of time, what is used is at most the burst, the rate times the span, and one piece.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let worth = self.time_of(bytes);
        self.full_at = self.full_at.max(now).saturating_add(worth);
        let depth = self.time_of(self.burst_bytes);
        self.full_at.saturating_sub(now).saturating_sub(depth)
    }

    /// How long `bytes` take to flow in.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// The budget of one core, shared by all its transfers in both directions.
#[derive(Debug)]
pub struct TransferBudget {
    bucket: RefCell<TokenBucket>,
    waited: Cell<Duration>,
}

impl TransferBudget {
    /// So many bytes per second, and so many at once after a quiet time. 0 bytes per second: no limit.
    ///
    /// A rate below [`PIECE_BYTES`](super::limits::PIECE_BYTES) times the connections of the core per
    /// [`SILENCE_MAX`](super::limits::SILENCE_MAX) makes peers take a slow transfer for a dead one.
    #[must_use]
    pub fn new(bytes_per_second: u64, burst_bytes: u64) -> Self {
        let bucket = RefCell::new(TokenBucket::new(bytes_per_second, burst_bytes));
        Self { bucket, waited: Cell::default() }
    }

    /// No limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(0, 0)
    }

    /// From now on it is as if it had been [made](TransferBudget::new) with these, unless it was; who waits already,
    /// waits on. Returns whether it was made with others.
    pub fn set_rate(&self, bytes_per_second: u64, burst_bytes: u64) -> bool {
        let bucket = &mut *self.bucket.borrow_mut();
        let changes =
            (bytes_per_second, burst_bytes) != (bucket.bytes_per_second, bucket.burst_bytes);
        if changes {
            *bucket = TokenBucket::new(bytes_per_second, burst_bytes);
        }
        changes
    }

    /// Takes `bytes`, at most one piece, and waits until they may be used.
    pub async fn take<E: Env>(&self, env: &E, bytes: usize) {
        let wait = self.bucket.borrow_mut().take(bytes as u64, env.now());
        if !wait.is_zero() {
            sometimes!(transfer_budget_waited);
            self.waited.set(self.waited.get().saturating_add(wait));
            env.sleep(wait).await;
        }
    }

    /// Time that transfers have waited for it, all together.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited.get()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_full_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut bucket = TokenBucket::new(1_000_000, 3000);
        let now = MS * 500;
        assert_eq!(bucket.take(3000, now), Duration::ZERO);
        assert_eq!(bucket.take(1000, now), MS);
        assert_eq!(bucket.take(1000, now), MS * 2);
        assert_eq!(bucket.take(1000, now + MS * 10), Duration::ZERO, "it has filled up again");
        assert_eq!(bucket.take(3000, now + MS * 10), MS, "and holds no more than its burst");
    }

    #[test]
    fn a_rate_may_change() {
        let budget = TransferBudget::unlimited();
        let take = || budget.bucket.borrow_mut().take(2000, MS);
        assert_eq!(take(), Duration::ZERO);
        budget.set_rate(1_000_000, 1000);
        assert_eq!(take(), MS);
        budget.set_rate(0, 0);
        assert_eq!(take(), Duration::ZERO);
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let mut bucket = TokenBucket::new(0, 0);
        assert_eq!(bucket.take(u64::MAX, Duration::ZERO), Duration::ZERO);
        assert_eq!(bucket.take(u64::MAX, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn absurd_numbers_wait_for_ever_and_break_nothing() {
        let mut bucket = TokenBucket::new(1, 0);
        assert!(bucket.take(u64::MAX, Duration::MAX) <= Duration::MAX);
        let mut bucket = TokenBucket::new(u64::MAX, u64::MAX);
        assert_eq!(bucket.take(u64::MAX, Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Takers that ask for the next piece when the last one was granted: no span of time sees more
        /// than it may, and all of them get the same.
        #[test]
        fn no_span_of_time_sees_more_than_its_share(
            rate in 1_000_u64..10_000_000,
            burst in 0_u64..100_000,
            piece in 1_u64..5000,
            takers in 1_usize..5,
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let mut free_at = vec![Duration::ZERO; takers];
            let mut grants: Vec<(Duration, u64)> = Vec::new();
            let mut counts = vec![0_u64; takers];
            for _ in 0..200 {
                let next = (0..takers).min_by_key(|taker| (free_at[*taker], counts[*taker])).unwrap_or(0);
                let now = free_at[next];
                let at = now + bucket.take(piece, now);
                free_at[next] = at;
                counts[next] += 1;
                grants.push((at, piece));
            }
            let (most, least) = (counts.iter().max(), counts.iter().min());
            prop_assert!(most.copied().unwrap_or(0) <= least.copied().unwrap_or(0) + 1, "{counts:?}");
            grants.sort();
            for first in 0..grants.len() {
                let mut sum = 0;
                for (at, bytes) in &grants[first..] {
                    sum += bytes;
                    let span = (*at - grants[first].0).as_secs_f64();
                    let allowed = burst as f64 + rate as f64 * (span + 1e-6) + piece as f64;
                    prop_assert!(sum as f64 <= allowed, "{sum} in {span} s, {allowed} allowed");
                }
            }
        }

        /// Nor does it hold back: waiting is never longer than what was taken before explains.
        #[test]
        fn nobody_waits_longer_than_needed(
            rate in 1_u64..1_000_000_000,
            burst in 0_u64..1_000_000,
            steps in vec((0_u64..100_000, 0_u64..1_000_000), 1..100),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now, mut taken) = (Duration::ZERO, 0_u64);
            for (bytes, micros) in steps {
                now += Duration::from_micros(micros);
                taken += bytes;
                let wait = bucket.take(bytes, now);
                let all = Duration::from_secs_f64(taken as f64 / rate as f64 + 1e-3);
                prop_assert!(wait <= all, "{wait:?} for {taken} bytes in all");
            }
        }
    }
}
