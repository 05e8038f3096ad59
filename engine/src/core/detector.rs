//! When silence means that a peer is gone: failure detectors, as functions of what arrived and when.
//!
//! One watches one connection to a peer's core. The peer sends a *pulse* with each heartbeat interval, and whatever
//! else it has to say in between. Any sign of life ends a suspicion. A wrong suspicion costs work (all shards that
//! sleep behind the peer wake) and no safety; a late one costs the time until the next election.
//!
//! This process may have stood still itself: then everybody seems silent, until what has arrived meanwhile is read.
//! Who owns a detector tells it so ([`FailureDetector::forgive`]).

use std::fmt;
use std::time::Duration;

use crate::limits::{DETECTOR_PULSES_MAX, DETECTOR_PULSES_MISSED_MIN};

/// Decides whether a peer has fallen silent. Times are on one clock, and may come a little out of order.
pub trait FailureDetector: fmt::Debug {
    /// A pulse has arrived.
    fn pulsed(&mut self, at: Duration);

    /// Something has arrived, a pulse or not.
    fn heard(&mut self, at: Duration);

    /// This process stood still until now: silence counts from now on.
    fn forgive(&mut self, now: Duration);

    /// Whether the peer is to be given up.
    fn suspects(&self, now: Duration) -> bool;
}

/// Which detector is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detection {
    /// [`Phi`].
    #[default]
    Phi,
    /// [`Fixed`], with the election timeout.
    Fixed,
}

impl Detection {
    /// A detector of this kind for a peer that was heard now.
    pub(super) fn detector(
        self,
        heartbeat_interval: Duration,
        election_timeout: Duration,
        now: Duration,
    ) -> Box<dyn FailureDetector> {
        match self {
            Self::Phi => Box::new(Phi::new(heartbeat_interval, election_timeout, now)),
            Self::Fixed => Box::new(Fixed { timeout: election_timeout, heard: now }),
        }
    }
}

/// Suspects a peer after a fixed time.
#[derive(Debug)]
pub struct Fixed {
    timeout: Duration,
    heard: Duration,
}

impl FailureDetector for Fixed {
    fn pulsed(&mut self, at: Duration) {
        self.heard(at);
    }

    fn heard(&mut self, at: Duration) {
        self.heard = self.heard.max(at);
    }

    fn forgive(&mut self, now: Duration) {
        self.heard(now);
    }

    fn suspects(&self, now: Duration) -> bool {
        now.saturating_sub(self.heard) >= self.timeout
    }
}

/// Phi above which a peer is suspected: one wrong suspicion in 100 million pulses, were the intervals between them
/// normally distributed.
const PHI_MAX: f64 = 8.0;

/// Accrues suspicion with silence, by how regular the pulses came (Hayashibara and others 2004): the less the
/// intervals between the last [`DETECTOR_PULSES_MAX`] of them varied, the sooner. Bounded on both sides: not before
/// [`DETECTOR_PULSES_MISSED_MIN`] heartbeat intervals, and after an election timeout in any case.
#[derive(Debug)]
pub struct Phi {
    interval: Duration,
    election_timeout: Duration,
    heard: Duration,
    last_pulse: Duration,
    /// The newest intervals in seconds, overwritten in turn.
    intervals: [f32; DETECTOR_PULSES_MAX],
    count: usize,
}

impl Phi {
    /// For a peer that was heard now and is expected to send a pulse with each interval.
    #[must_use]
    pub fn new(interval: Duration, election_timeout: Duration, now: Duration) -> Self {
        Self {
            interval,
            election_timeout,
            heard: now,
            last_pulse: now,
            intervals: [0.0; DETECTOR_PULSES_MAX],
            count: 0,
        }
    }

    /// Mean and standard deviation of the intervals. What has been seen is too little at first, and chance may make
    /// it too regular: so the deviation is half an interval at least.
    fn distribution(&self) -> (f64, f64) {
        let expected = self.interval.as_secs_f64();
        let known = &self.intervals[..self.count.min(DETECTOR_PULSES_MAX)];
        if known.is_empty() {
            return (expected, expected / 2.0);
        }
        let known = || known.iter().map(|interval| f64::from(*interval));
        let count = known().count() as f64;
        let mean = known().sum::<f64>() / count;
        let variance = known().map(|interval| (interval - mean).powi(2)).sum::<f64>() / count;
        (mean.max(expected), variance.sqrt().max(expected / 2.0))
    }

    /// The negative decimal logarithm of the probability that a pulse comes after so long a silence.
    fn phi(&self, silence: Duration) -> f64 {
        let (mean, deviation) = self.distribution();
        let y = (silence.as_secs_f64() - mean) / deviation;
        // The logistic approximation of the normal distribution, as in Akka.
        let e = (-y * (1.5976 + 0.070_566 * y * y)).exp();
        if y > 0.0 { -(e / (1.0 + e)).log10() } else { -(1.0 - 1.0 / (1.0 + e)).log10() }
    }
}

impl FailureDetector for Phi {
    fn pulsed(&mut self, at: Duration) {
        let interval = at.saturating_sub(self.last_pulse);
        self.last_pulse = self.last_pulse.max(at);
        // Longer ones say that something was wrong, not how it usually is.
        if interval <= self.election_timeout {
            self.intervals[self.count % DETECTOR_PULSES_MAX] = interval.as_secs_f32();
            self.count += 1;
        }
        self.heard(at);
    }

    fn heard(&mut self, at: Duration) {
        self.heard = self.heard.max(at);
    }

    fn forgive(&mut self, now: Duration) {
        self.heard(now);
        self.last_pulse = self.last_pulse.max(now);
    }

    fn suspects(&self, now: Duration) -> bool {
        let silence = now.saturating_sub(self.heard);
        if silence < self.interval * DETECTOR_PULSES_MISSED_MIN {
            return false;
        }
        silence >= self.election_timeout || self.phi(silence) > PHI_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);
    const TIMEOUT: Duration = Duration::from_millis(1000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Pulses with these gaps, in milliseconds; gives the time of the last.
    fn replay(detector: &mut dyn FailureDetector, gaps: &[u64]) -> Duration {
        let mut at = Duration::ZERO;
        for gap in gaps {
            at += ms(*gap);
            assert!(!detector.suspects(at), "at {at:?}");
            detector.pulsed(at);
        }
        at
    }

    /// After how long a silence there is a suspicion.
    fn patience(detector: &dyn FailureDetector, since: Duration) -> Duration {
        let suspects = |after: &u64| detector.suspects(since + ms(*after));
        ms((0..10_000).find(suspects).unwrap_or(u64::MAX))
    }

    #[test]
    fn regular_pulses_make_a_short_patience() {
        let mut phi = Phi::new(INTERVAL, TIMEOUT, Duration::ZERO);
        let last = replay(&mut phi, &[100; 50]);
        let patience = patience(&phi, last);
        assert!((ms(300)..ms(450)).contains(&patience), "{patience:?}");
    }

    /// Recorded on loopback with two busy processors: the sender's ticks come late, and two at a time.
    #[test]
    fn irregular_pulses_make_a_longer_one() {
        let mut phi = Phi::new(INTERVAL, TIMEOUT, Duration::ZERO);
        let gaps = [101, 99, 152, 51, 100, 223, 98, 7, 101, 187, 54, 112, 90, 240, 61, 99, 102];
        let last = replay(&mut phi, &gaps.repeat(4));
        let patience = patience(&phi, last);
        assert!((ms(400)..ms(700)).contains(&patience), "{patience:?}");
    }

    #[test]
    fn a_pause_of_the_peer_is_noticed_and_does_not_spoil_what_is_known() {
        let mut phi = Phi::new(INTERVAL, TIMEOUT, Duration::ZERO);
        let last = replay(&mut phi, &[100; 50]);
        let before = patience(&phi, last);
        assert!(phi.suspects(last + ms(3000)));
        phi.pulsed(last + ms(3000));
        assert!(!phi.suspects(last + ms(3001)), "it is back");
        assert_eq!(patience(&phi, last + ms(3000)), before);
    }

    #[test]
    fn there_is_a_bound_however_irregular_the_pulses_were() {
        let mut phi = Phi::new(INTERVAL, TIMEOUT, Duration::ZERO);
        let mut at = Duration::ZERO;
        for gap in [10, 990].repeat(40) {
            at += ms(gap);
            phi.pulsed(at);
        }
        assert_eq!(patience(&phi, at), TIMEOUT);
    }

    #[test]
    fn whatever_is_heard_counts_and_only_pulses_are_measured() {
        let mut phi = Phi::new(INTERVAL, TIMEOUT, Duration::ZERO);
        let last = replay(&mut phi, &[100; 50]);
        let before = patience(&phi, last);
        (1..1000).for_each(|at| phi.heard(last + ms(at)));
        assert_eq!(patience(&phi, last + ms(999)), before, "a burst makes nobody impatient");
    }

    #[test]
    fn who_stood_still_itself_begins_to_wait_anew() {
        for mut detector in [Detection::Phi, Detection::Fixed]
            .map(|kind| kind.detector(INTERVAL, TIMEOUT, Duration::ZERO))
        {
            let last = replay(&mut *detector, &[100; 20]);
            let before = patience(&*detector, last);
            assert!(detector.suspects(last + ms(5000)));
            detector.forgive(last + ms(5000));
            assert_eq!(patience(&*detector, last + ms(5000)), before);
        }
    }

    #[test]
    fn the_fixed_one_waits_for_its_timeout() {
        let mut fixed = Detection::Fixed.detector(INTERVAL, TIMEOUT, Duration::ZERO);
        let last = replay(&mut *fixed, &[100, 900, 1, 99]);
        assert_eq!(patience(&*fixed, last), TIMEOUT);
    }
}
