//! What time it is, as far as a machine without a trustworthy clock can know.
//!
//! The believed time is the largest of the system's clock, the time at which the OS was built, and the last good time.
//! The last good time is not a reading of the own clock but what the hub's timestamp key signed (`x-cairn-signed-at`
//! in the trusted `timestamp.json`). So a clock that once jumped to 2036 leaves nothing behind that it could not take
//! back, and a clock at 1970 still cannot be made to accept what was expired when the last bundle was verified.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// The member of a signed `timestamp.json` that says when it was signed.
pub const SIGNED_AT: &str = "x-cairn-signed-at";

/// How a clock is set, for messages. An appliance has no login.
pub(crate) const SET_THE_CLOCK: &str = "set the clock in the firmware's setup or with `timedatectl set-time`, or let the machine reach a time server";

/// How far a clock may lie behind a time that is known to have passed: the clocks of others are not exact either.
const BEHIND: SignedDuration = SignedDuration::from_hours(1);

/// What the machine says about the time, read once an update.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The system's clock.
    pub system: Timestamp,
    /// When the OS image was built; it cannot be earlier than that.
    pub os_build: Option<Timestamp>,
}

impl Clock {
    /// The clock alone, as it stands now.
    pub fn system_only() -> Self {
        Self { system: Timestamp::now(), os_build: None }
    }

    /// What can't be checked because the clock is behind a time that must have passed; nothing where it can be right.
    pub(crate) fn unchecked(&self, last_good: Option<Timestamp>) -> Option<String> {
        let floor = self.believed(last_good);
        if floor.duration_since(self.system) <= BEHIND {
            return None;
        }
        let since = if last_good == Some(floor) {
            "the hub signed what is trusted here"
        } else {
            "this OS was built"
        };
        Some(format!(
            "the clock shows {:.0}, but {since} at {floor:.0}: whether metadata has expired since then can't be \
             checked; {SET_THE_CLOCK}",
            self.system
        ))
    }

    /// The believed time, given the last time that the hub has signed.
    pub fn believed(&self, last_good: Option<Timestamp>) -> Timestamp {
        let floor = self.os_build.max(last_good);
        floor.map_or(self.system, |floor| floor.max(self.system))
    }
}

/// How strictly expiry is enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// How long after its expiry metadata is still accepted; zero for fleets that are online.
    pub grace: SignedDuration,
}

impl Freshness {
    /// The time to hold against expiry dates when `believed` is the believed time.
    pub fn deadline(&self, believed: Timestamp) -> Timestamp {
        believed.checked_sub(self.grace).unwrap_or(Timestamp::MIN)
    }
}

/// When the holder of this metadata says it was signed, if it says so.
pub(crate) fn signed_at(extra: &std::collections::BTreeMap<String, Value>) -> Option<Timestamp> {
    extra.get(SIGNED_AT)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believes_the_latest_of_clock_build_and_last_good() {
        let t = |s: &str| s.parse::<Timestamp>().unwrap();
        let clock = |system, os_build| Clock { system: t(system), os_build };
        let (y1970, y2026, y2027) = ("1970-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        assert_eq!(clock(y1970, Some(t(y2026))).believed(None), t(y2026));
        assert_eq!(clock(y1970, Some(t(y2026))).believed(Some(t(y2027))), t(y2027));
        assert_eq!(clock(y2027, Some(t(y2026))).believed(Some(t(y2026))), t(y2027));
        assert_eq!(clock(y1970, None).believed(None), t(y1970));
        assert_eq!(clock(y2026, Some(t("2026-01-01T00:59:00Z"))).unchecked(Some(t(y2026))), None);
        let unset = clock(y1970, Some(t(y2026)));
        assert!(unset.unchecked(None).unwrap().contains("this OS was built at 2026-01-01T00:00:00Z"));
        let said = unset.unchecked(Some(t(y2027))).unwrap();
        assert!(said.starts_with("the clock shows 1970-01-01T00:00:00Z, but the hub signed"), "{said}");
        assert!(said.contains("2027-01-01T00:00:00Z") && said.contains("timedatectl set-time"), "{said}");
        let patient = Freshness { grace: SignedDuration::from_hours(24) };
        assert_eq!(patient.deadline(t("2026-01-02T00:00:00Z")), t(y2026));
        assert_eq!(patient.deadline(Timestamp::MIN), Timestamp::MIN);
    }
}
