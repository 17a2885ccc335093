//! What a stick carries of a repository, and how long that is signed for.
//!
//! A hub that the nodes reach proves every few days that it withholds nothing. A stick cannot: what it carries must hold
//! until the next one comes, so that it is signed for longer. That would weaken the nodes that do reach the hub, and so
//! what was signed for a stick is never what the hub serves: before its next answer it signs anew, with the next version
//! and the usual life.

use cairn_model::media::Freshness;
use jiff::{SignedDuration, Timestamp};

use super::{AHEAD, Lifetimes, SignError, shelf::Shelf};

/// What is meant by "for ever": no machine that reads it lives as long, and every reader can write the year.
const NEVER: Timestamp = Timestamp::constant(253_370_764_800, 0);

/// A repository as it goes onto a stick.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Content by path below the repository's folder. To be written in this order: `timestamp.json`, which makes the rest
    /// count, is the last.
    pub files: Vec<(String, Vec<u8>)>,
    /// When the first of the signatures ends.
    pub expires: Timestamp,
    /// The role whose signature that is. Where it isn't `timestamp`, the bundle holds for less long than was asked:
    /// operators must sign a new root, or artifacts targets, whose key is not on the hub.
    pub ends_first: &'static str,
}

/// When each role's signature ends.
pub(super) struct Ends {
    pub(super) root: Timestamp,
    pub(super) targets: Timestamp,
    pub(super) snapshot: Timestamp,
    pub(super) timestamp: Timestamp,
}

impl Exported {
    /// All roots of `roots`, then `files`.
    pub(super) fn new(roots: &Shelf, files: Vec<(String, Vec<u8>)>, ends: &Ends) -> Result<Self, SignError> {
        // A node may have been in a drawer for years: it follows every root since the one that it has.
        let mut versions = roots.versions("root.json")?;
        versions.sort_unstable();
        let mut all = Vec::with_capacity(versions.len() + files.len());
        for version in versions {
            let name = format!("{version}.root.json");
            let root = roots.required(&name)?;
            all.push((name, root));
        }
        all.extend(files);
        // The timestamp stands first: where all end together, nothing is amiss.
        let roles = [
            ("timestamp", ends.timestamp),
            ("snapshot", ends.snapshot),
            ("targets", ends.targets),
            ("root", ends.root),
        ];
        let (ends_first, expires) = roles
            .into_iter()
            .reduce(|first, next| if next.1 < first.1 { next } else { first })
            .unwrap_or(("timestamp", ends.timestamp));
        Ok(Self { files: all, expires, ends_first })
    }
}

impl Lifetimes {
    /// These, lengthened or shortened so that what is signed at `now` can be taken for new as long as `freshness` says.
    pub(super) fn lasting(self, freshness: Freshness, now: Timestamp) -> Self {
        let longest = longest(now);
        let timestamp = match freshness {
            Freshness::Connected => self.timestamp,
            Freshness::Days(days) => SignedDuration::from_hours(24 * i64::from(days)).min(longest),
            Freshness::Unlimited => longest,
        };
        Self {
            targets: self.targets.max(timestamp),
            snapshot: self.snapshot.max(timestamp),
            timestamp,
            ..self
        }
    }

    /// These, with targets that outlast the other roles by their own life: they are large, all nodes share them, and each
    /// new version is fetched by every one of them. So they are not signed anew for each stick.
    pub(super) fn with_lasting_targets(self, now: Timestamp) -> Self {
        Self { targets: self.timestamp.saturating_add(self.targets).min(longest(now)), ..self }
    }
}

fn longest(now: Timestamp) -> SignedDuration {
    NEVER.duration_since(now)
}

/// Whether what expires at `expires` was signed for longer than `lifetime`: for a stick, or by a clock that was ahead.
pub(super) fn outlives(expires: Timestamp, lifetime: SignedDuration, now: Timestamp) -> bool {
    expires.duration_since(now) > lifetime.saturating_add(AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_says_how_long_a_stick_holds() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let usual = Lifetimes::default();
        let days = |lifetime: SignedDuration| lifetime.as_hours() / 24;
        let check = |freshness, expected| {
            let lasting = usual.lasting(freshness, now);
            assert_eq!(
                [lasting.timestamp, lasting.snapshot, lasting.targets].map(days),
                expected,
                "{freshness:?}"
            );
            assert_eq!(lasting.root, usual.root);
        };
        check(Freshness::Connected, [7, 90, 365]);
        check(Freshness::Days(1), [1, 90, 365]);
        check(Freshness::Days(90), [90, 90, 365]);
        check(Freshness::Days(400), [400, 400, 400]);
        let ages = days(longest(now));
        assert_eq!(now + longest(now), "9999-01-01T00:00:00Z".parse().unwrap());
        check(Freshness::Unlimited, [ages, ages, ages]);
        check(Freshness::Days(u32::MAX), [ages, ages, ages]);
        let years = usual.lasting(Freshness::Days(400), now).with_lasting_targets(now);
        assert_eq!(days(years.targets), 800);
        let ever = usual.lasting(Freshness::Unlimited, now).with_lasting_targets(now);
        assert_eq!(days(ever.targets), ages);
    }
}
