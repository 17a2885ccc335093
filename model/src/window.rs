//! A maintenance window: on which days, from when to when, by the clock on the wall.

use std::{fmt, str::FromStr};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

const NAMES: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// Grammar: `[DAYS ]HH:MM-HH:MM`. DAYS as in systemd.time(7): names of days, whole or their first three letters, in any
/// case, and ranges of them, joined by commas: `Mon`, `Mon..Fri`, `Sat,Sun`; every day where absent. A window that ends
/// before it begins runs over midnight and belongs to the day on which it begins. It may end at `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaintenanceWindow {
    // Bit 0 is Monday.
    days: u8,
    begin: u16,
    end: u16,
}

/// Why a text is no maintenance window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no maintenance window: {why}; write it like 'Mon..Fri 22:00-04:30'")]
pub struct WindowError {
    text: String,
    why: &'static str,
}

impl MaintenanceWindow {
    /// Whether it begins on that day of the week; 0 is Monday, 6 is Sunday.
    pub const fn begins_on(&self, weekday: u8) -> bool {
        weekday < 7 && self.days & (1 << weekday) != 0
    }

    /// Minutes from midnight to its begin.
    pub const fn begin(&self) -> u16 {
        self.begin
    }

    /// How long it is by the clock on the wall, in minutes: 1 to 1440.
    pub const fn minutes(&self) -> u16 {
        if self.end > self.begin { self.end - self.begin } else { DAY - self.begin + self.end }
    }

    /// Whether it is open at `minute` (from midnight) of that day of the week.
    pub const fn contains(&self, weekday: u8, minute: u16) -> bool {
        let of_today = minute >= self.begin && minute < self.begin + self.minutes();
        let of_yesterday = minute + DAY < self.begin + self.minutes();
        let yesterday = if weekday == 0 { 6 } else { weekday - 1 };
        (of_today && self.begins_on(weekday)) || (of_yesterday && self.begins_on(yesterday))
    }
}

impl FromStr for MaintenanceWindow {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        parse(text).map_err(|why| WindowError { text: text.chars().take(64).collect(), why })
    }
}

fn parse(text: &str) -> Result<MaintenanceWindow, &'static str> {
    let (days, times) = match text.split_once(' ') {
        Some((days, times)) => (parse_days(days)?, times),
        None => (0x7f, text),
    };
    let (begin, end) = times.split_once('-').ok_or("there are no two times with a '-' between them")?;
    let (begin, end) = (parse_time(begin)?, parse_time(end)?);
    if begin == DAY {
        return Err("it begins at 24:00");
    }
    if begin == end {
        return Err("it ends when it begins");
    }
    Ok(MaintenanceWindow { days, begin, end })
}

fn parse_days(text: &str) -> Result<u8, &'static str> {
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let (first, last) = (parse_day(first)?, parse_day(last)?);
        if first > last {
            return Err("a range of days goes backwards; weeks begin on Monday");
        }
        for day in first..=last {
            days |= 1 << day;
        }
    }
    Ok(days)
}

fn parse_day(text: &str) -> Result<usize, &'static str> {
    let is = |name: &str| text.eq_ignore_ascii_case(name) || text.eq_ignore_ascii_case(&name[..3]);
    NAMES.iter().position(|name| is(name)).ok_or("a day is none of Mon, Tue, Wed, Thu, Fri, Sat, Sun")
}

fn parse_time(text: &str) -> Result<u16, &'static str> {
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = text.split_once(':').ok_or("a time is not HH:MM")?;
    match (number(hour), number(minute)) {
        (Some(hour @ 0..=23), Some(minute @ 0..=59)) => Ok(hour * 60 + minute),
        (Some(24), Some(0)) => Ok(DAY),
        _ => Err("a time is not HH:MM within 00:00 to 24:00"),
    }
}

impl fmt::Display for MaintenanceWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = (0..).zip(NAMES).filter(|(day, _)| self.begins_on(*day));
        let days: Vec<&str> = named.map(|(_, name)| &name[..3]).collect();
        if days.len() < NAMES.len() {
            write!(f, "{} ", days.join(","))?;
        }
        let Self { begin, end, .. } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", begin / 60, begin % 60, end / 60, end % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_window() {
        let check = |text: &str, cause: &str| {
            let error = text.parse::<MaintenanceWindow>().unwrap_err().to_string();
            assert!(error.contains(cause) && error.contains(';'), "{text:?}: {error}");
        };
        check("", "no two times");
        check("Mon", "no two times");
        check("Mon 22:00", "no two times");
        check("Mon  22:00-23:00", "HH:MM");
        check(" 22:00-23:00", "none of Mon");
        check("Mon, Tue 22:00-23:00", "none of Mon");
        check("Mo 22:00-23:00", "none of Mon");
        check("Mon..Mondays 22:00-23:00", "none of Mon");
        check("Sat..Mon 22:00-23:00", "backwards");
        check("Mon. 22:00-23:00", "none of Mon");
        check("22:00-22:00", "ends when it begins");
        check("24:00-01:00", "begins at 24:00");
        check("22:00-24:01", "HH:MM");
        check("25:00-26:00", "HH:MM");
        check("2:00-3:00", "HH:MM");
        check("+2:00-03:00", "HH:MM");
        check("22:60-23:00", "HH:MM");
        check("22-23", "HH:MM");
        check("22:00-23:00 ", "none of Mon");
        check("22:00–23:00", "no two times");
        check("é..ü 22:00-23:00", "none of Mon");
        let long = "x".repeat(10_000).parse::<MaintenanceWindow>().unwrap_err().to_string();
        assert!(long.len() < 300, "outside text is cut before it is quoted");
    }

    #[test]
    fn is_open_when_the_wall_clock_says_so() {
        let check = |text: &str, open: &[(u8, u16)], shut: &[(u8, u16)]| {
            let window: MaintenanceWindow = text.parse().unwrap();
            for (day, minute) in open {
                assert!(window.contains(*day, *minute), "{text} on {day} at {minute}");
            }
            for (day, minute) in shut {
                assert!(!window.contains(*day, *minute), "{text} on {day} at {minute}");
            }
        };
        check("02:00-03:30", &[(0, 120), (6, 209)], &[(0, 119), (0, 210)]);
        check("Sat,Sun 00:00-24:00", &[(5, 0), (6, 1439)], &[(4, 1439), (0, 0)]);
        // Over midnight, also from Sunday to Monday; the small hours belong to the day before.
        check(
            "Fri..Sun 22:00-04:00",
            &[(4, 1320), (5, 0), (0, 239)],
            &[(4, 0), (0, 240), (0, 1320), (4, 1319)],
        );
        check("monday,WED 10:00-11:00", &[(0, 600), (2, 659)], &[(1, 600)]);
        check("23:00-00:00", &[(3, 1439)], &[(3, 0), (3, 1379)]);
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        for (text, written, minutes) in [
            ("22:00-04:00", "22:00-04:00", 360),
            ("Mon..Wed 00:00-24:00", "Mon,Tue,Wed 00:00-24:00", 1440),
            ("sunday 01:00-00:59", "Sun 01:00-00:59", 1439),
            ("Mon..Sun 10:00-10:01", "10:00-10:01", 1),
        ] {
            let window: MaintenanceWindow = text.parse().unwrap();
            assert_eq!((window.to_string().as_str(), window.minutes()), (written, minutes));
            assert_eq!(written.parse(), Ok(window));
        }
    }
}
