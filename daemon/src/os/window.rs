//! When a node may restart into its new OS: pure, from the windows of the policy, their time zone, and now.
//!
//! A window is open whenever the clock on the wall in that zone shows a time within it. So one in the hour that a change to
//! summer time leaves out does not open on that day, and one in the hour that comes twice is open twice. The zones
//! are compiled in: an appliance has no zoneinfo, and must know the same as its hub, which refuses what is not there.

use cairn_model::{MaintenanceWindow, window::WindowError};
use jiff::{
    Timestamp, ToSpan,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

/// How far ahead is looked, in days: a weekly window that a change of the clock leaves out opens the week after.
const AHEAD: i64 = 22;

/// What the windows say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// The node may restart now.
    Open,
    /// Not before then.
    At(Timestamp),
}

/// Why no window can be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum WindowsError {
    #[error("{0}")]
    Window(#[from] WindowError),
    #[error(
        "the policy names no maintenance window; name one, or let the node restart at once or on request"
    )]
    None,
    #[error("no time zone is called {zone:?}; use an IANA name such as Europe/Berlin, or UTC")]
    Zone { zone: String },
    #[error("the clock of this node shows {now}, which no calendar holds; set it")]
    Clock { now: Timestamp },
}

/// Whether a window is open, and else when one opens. Whoever waits asks again then: the clock may be set meanwhile.
///
/// # Errors
/// With cause and cure, if a window or the zone cannot be read, or there is no window.
pub(super) fn opening(windows: &[String], time_zone: &str, now: Timestamp) -> Result<Opening, String> {
    find(windows, time_zone, now).map_err(|e| e.to_string())
}

fn find(windows: &[String], time_zone: &str, now: Timestamp) -> Result<Opening, WindowsError> {
    let windows = windows.iter().map(|text| text.parse()).collect::<Result<Vec<MaintenanceWindow>, _>>()?;
    if windows.is_empty() {
        return Err(WindowsError::None);
    }
    let zone = TimeZoneDatabase::bundled()
        .get(time_zone)
        .map_err(|_| WindowsError::Zone { zone: time_zone.chars().take(64).collect() })?;
    let is_open = |at: &Timestamp| {
        let local = zone.to_datetime(*at);
        let weekday = local.weekday().to_monday_zero_offset().unsigned_abs();
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        windows.iter().any(|window| window.contains(weekday, minute))
    };
    if is_open(&now) {
        return Ok(Opening::Open);
    }
    let late = |_| WindowsError::Clock { now };
    let at = edges(&windows, &zone, now).map_err(late)?.into_iter().find(is_open);
    // No zone leaves out the same hour in three weeks; if one did, it would be looked at again.
    let horizon = || now.checked_add((AHEAD * 24).hours()).map_err(late);
    at.map_or_else(horizon, Ok).map(Opening::At)
}

/// Every instant after `now` at which a window may open, in order: where one begins by the clock on the wall, each time
/// that it shows that, and where the clock is set.
fn edges(
    windows: &[MaintenanceWindow],
    zone: &TimeZone,
    now: Timestamp,
) -> Result<Vec<Timestamp>, jiff::Error> {
    let today = zone.to_datetime(now).date();
    let last = today.checked_add(AHEAD.days())?;
    let mut edges = Vec::new();
    for date in today.series(1.day()).take_while(|date| *date <= last) {
        for window in windows {
            let begin = date.at(0, 0, 0, 0).checked_add(i64::from(window.begin()).minutes())?;
            shown(begin, zone, &mut edges)?;
        }
    }
    let horizon = zone.to_timestamp(last.at(0, 0, 0, 0))?;
    edges.extend(zone.following(now).map(|change| change.timestamp()).take_while(|at| *at < horizon));
    edges.retain(|edge| *edge > now);
    edges.sort_unstable();
    Ok(edges)
}

/// When the clock shows that: once, twice, or never.
fn shown(at: DateTime, zone: &TimeZone, into: &mut Vec<Timestamp>) -> Result<(), jiff::Error> {
    match zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Unambiguous { offset } => into.push(offset.to_timestamp(at)?),
        AmbiguousOffset::Fold { before, after } => {
            into.extend([before.to_timestamp(at)?, after.to_timestamp(at)?]);
        }
        AmbiguousOffset::Gap { .. } => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(windows: &[&str], zone: &str, now: &str) -> Result<Opening, String> {
        let windows: Vec<String> = windows.iter().map(|&text| text.to_owned()).collect();
        opening(&windows, zone, now.parse().unwrap())
    }

    #[test]
    fn refuses_with_a_cure_what_says_nothing() {
        let check = |windows: &[&str], zone: &str, cause: &str, cure: &str| {
            let text = ask(windows, zone, "2026-06-01T00:00:00Z").unwrap_err();
            assert!(text.contains(cause) && text.contains(cure) && text.len() < 300, "{text}");
        };
        check(&["22:00-23:00"], "Europe/Berln", "no time zone is called", "Europe/Berlin");
        check(&["22:00-23:00"], "", "no time zone is called", "or UTC");
        check(&["22:00-23:00"], &"x".repeat(9999), "no time zone", "UTC");
        check(&["22:00-23:00", "Mo 1-2"], "UTC", "\"Mo 1-2\" is no maintenance window", "write it like");
        check(&[], "UTC", "no maintenance window", "at once");
    }

    #[test]
    fn a_clock_at_the_end_of_all_calendars_is_an_error() {
        let error = opening(&["01:00-02:00".to_owned()], "UTC", Timestamp::MAX).unwrap_err();
        assert!(error.contains("set it"), "{error}");
    }

    /// `open`, or when it opens.
    fn check(windows: &[&str], zone: &str, now: &str, expected: &str) {
        let shown = match ask(windows, zone, now).unwrap() {
            Opening::Open => "open".to_owned(),
            Opening::At(at) => at.to_string(),
        };
        assert_eq!(shown, expected, "{windows:?} in {zone} at {now}");
    }

    #[test]
    fn opens_by_the_clock_on_the_wall() {
        // 2026-11-21 is a Saturday; Berlin is an hour ahead.
        let (berlin, now) = ("Europe/Berlin", "2026-11-21T15:00:00Z");
        check(&["22:00-23:00"], "UTC", now, "2026-11-21T22:00:00Z");
        check(&["22:00-23:00"], berlin, now, "2026-11-21T21:00:00Z");
        check(&["Sat 15:30-17:00"], berlin, now, "open");
        check(&["Sat 16:00-17:00"], berlin, now, "open");
        check(&["Sat 15:00-16:00"], berlin, now, "2026-11-28T14:00:00Z");
        check(&["Mon..Fri 02:00-04:30"], "America/New_York", now, "2026-11-23T07:00:00Z");
        check(&["Wed 01:00-02:00", "Sun 01:00-02:00"], "UTC", now, "2026-11-22T01:00:00Z");
        check(&["00:00-24:00"], berlin, now, "open");
        check(&["10:00-15:01"], "UTC", "2026-11-21T15:00:59.999Z", "open");
        check(&["10:00-15:01"], "UTC", "2026-11-21T15:01:00Z", "2026-11-22T10:00:00Z");
        check(&["15:00-16:00"], "Asia/Kathmandu", now, "2026-11-22T09:15:00Z");
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let windows = ["Fri..Sun 22:00-04:00"];
        check(&windows, "UTC", "2026-11-20T03:00:00Z", "2026-11-20T22:00:00Z");
        check(&windows, "UTC", "2026-11-21T03:59:59Z", "open");
        check(&windows, "UTC", "2026-11-21T04:00:00Z", "2026-11-21T22:00:00Z");
        check(&windows, "UTC", "2026-11-23T03:00:00Z", "open");
        check(&windows, "UTC", "2026-11-23T04:00:00Z", "2026-11-27T22:00:00Z");
        // New Year's Eve is a Thursday; Berlin's clock shows 00:30 and 01:00.
        check(&["Thu 23:00-01:00"], "Europe/Berlin", "2026-12-31T23:30:00Z", "open");
        check(&["Thu 23:00-01:00"], "Europe/Berlin", "2027-01-01T00:00:00Z", "2027-01-07T22:00:00Z");
    }

    #[test]
    fn an_hour_that_is_left_out_opens_no_window() {
        // Berlin goes from 02:00 to 03:00 at 01:00 UTC on Sunday 2026-03-29.
        let (berlin, before) = ("Europe/Berlin", "2026-03-29T00:59:00Z");
        check(&["02:15-02:45"], berlin, before, "2026-03-30T00:15:00Z");
        check(&["Sun 02:00-03:00"], berlin, before, "2026-04-05T00:00:00Z");
        // What reaches into it or out of it is shorter that night.
        check(&["01:30-02:30"], berlin, before, "open");
        check(&["01:30-02:30"], berlin, "2026-03-29T01:00:00Z", "2026-03-29T23:30:00Z");
        check(&["02:30-03:15"], berlin, before, "2026-03-29T01:00:00Z");
        check(&["02:30-03:15"], berlin, "2026-03-29T01:15:00Z", "2026-03-30T00:30:00Z");
        check(&["Sat 22:00-04:00"], berlin, "2026-03-29T01:59:00Z", "open");
    }

    #[test]
    fn an_hour_that_comes_twice_opens_a_window_twice() {
        // Berlin goes from 03:00 back to 02:00 at 01:00 UTC on Sunday 2026-10-25.
        let (berlin, midnight) = ("Europe/Berlin", "2026-10-24T22:00:00Z");
        check(&["02:15-02:45"], berlin, midnight, "2026-10-25T00:15:00Z");
        check(&["02:15-02:45"], berlin, "2026-10-25T00:44:00Z", "open");
        check(&["02:15-02:45"], berlin, "2026-10-25T00:45:00Z", "2026-10-25T01:15:00Z");
        check(&["02:15-02:45"], berlin, "2026-10-25T01:44:00Z", "open");
        check(&["02:15-02:45"], berlin, "2026-10-25T01:45:00Z", "2026-10-26T01:15:00Z");
        check(&["02:00-03:00"], berlin, "2026-10-25T01:00:00Z", "open");
        check(&["01:00-02:30"], berlin, "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z");
    }

    /// Minute by minute over both changes of the clock, against the plain question to the window itself.
    #[test]
    fn agrees_with_the_clock_at_every_minute_around_a_change() {
        for (zone, from) in [
            ("Europe/Berlin", "2026-03-28T12:00:00Z"),
            ("Europe/Berlin", "2026-10-24T12:00:00Z"),
            // Half an hour, and from Thursday to Saturday.
            ("Australia/Lord_Howe", "2026-04-04T00:00:00Z"),
            ("Pacific/Apia", "2011-12-29T12:00:00Z"),
        ] {
            let tz = TimeZoneDatabase::bundled().get(zone).unwrap();
            for text in ["02:15-02:45", "01:30-03:30", "Sat 22:00-02:20", "Sun 00:00-24:00"] {
                let window: MaintenanceWindow = text.parse().unwrap();
                let open = |at: Timestamp| {
                    let local = tz.to_datetime(at);
                    let minute =
                        u16::try_from(i16::from(local.hour()) * 60 + i16::from(local.minute())).unwrap();
                    window.contains(local.weekday().to_monday_zero_offset().unsigned_abs(), minute)
                };
                let start: Timestamp = from.parse().unwrap();
                let minutes: Vec<Timestamp> = (0..2880).map(|i| start + i64::from(i).minutes()).collect();
                let mut next = None;
                for now in minutes.iter().rev() {
                    let found = ask(&[text], zone, &now.to_string()).unwrap();
                    if open(*now) {
                        next = Some(*now);
                        assert_eq!(found, Opening::Open, "{text} in {zone} at {now}");
                    } else if let Some(next) = next {
                        assert_eq!(found, Opening::At(next), "{text} in {zone} at {now}");
                    }
                }
            }
        }
    }
}
