//! How long to wait before the next try: doubling, bounded, with jitter, so that a fleet that lost its hub does not
//! come back all at once.

use std::time::Duration;

/// The state of one kind of retry.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits `first` after the first failure and up to `last` after many.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// Success: the next failure waits shortly again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// How long to wait after a failure; `random` in 0..1 spreads it over the upper half.
    pub fn after_failure(&mut self, random: f64) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.last);
        pause.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// A number in 0..1 that differs from node to node and time to time; not for secrets.
pub fn random() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each RandomState from the system's random numbers.
    let hash = std::collections::hash_map::RandomState::new().build_hasher().finish();
    #[expect(clippy::cast_precision_loss, reason = "jitter needs no 53 bits")]
    let fraction = (hash >> 11) as f64 / (1u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_bound_and_starts_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let pauses: Vec<u64> = (0..5).map(|_| backoff.after_failure(1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.after_failure(0.0), Duration::from_millis(500));
    }

    #[test]
    fn random_stays_in_its_range() {
        assert!((0..1000).map(|_| random()).all(|r| (0.0..1.0).contains(&r)));
    }
}
