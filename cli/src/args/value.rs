//! Values of the command line that have a grammar of their own.

use std::{str::FromStr, time::Duration};

use cairn_model::{MaintenanceWindow, media::Freshness};

/// The longest label key or value.
const MAX_LABEL: usize = 63;

/// Ten years: who wants more wants `none`.
const MAX_DAYS: u32 = 3650;

/// One change of a node's labels: `KEY=VALUE` or `KEY-`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LabelEdit {
    Set(String, String),
    Remove(String),
}

impl FromStr for LabelEdit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('=') {
            return parse_label(text).map(|(key, value)| Self::Set(key, value));
        }
        match text.strip_suffix('-') {
            Some(key) if is_label_key(key) => Ok(Self::Remove(key.into())),
            _ => Err("expected KEY=VALUE to set a label or KEY- to remove it".into()),
        }
    }
}

/// `KEY=VALUE`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if !is_label_key(key) {
        return Err(format!("a key is 1 to {MAX_LABEL} letters, digits, - _ . and /"));
    }
    if value.len() > MAX_LABEL || value.chars().any(|c| c.is_control() || c == ',') {
        return Err(format!(
            "a value is at most {MAX_LABEL} characters, without commas and control characters"
        ));
    }
    Ok((key.into(), value.into()))
}

fn is_label_key(key: &str) -> bool {
    (1..=MAX_LABEL).contains(&key.len())
        && key.starts_with(|c: char| c.is_ascii_alphanumeric())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}

/// A number with a unit: `90s`, `30m`, `24h`, `7d`, `2w`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "expected a number and one of s, m, h, d, w, as in 24h";
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(WRONG)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(WRONG.into()),
    };
    let number: u64 = number.parse().map_err(|_| WRONG.to_owned())?;
    let seconds =
        number.checked_mul(seconds_per_unit).filter(|s| *s > 0).ok_or("expected more than nothing")?;
    // Ten years: longer is a typing mistake, and adding it to a clock must not overflow.
    if seconds > 10 * 366 * 86_400 {
        return Err("expected at most ten years".into());
    }
    Ok(Duration::from_secs(seconds))
}

/// Labels that must hold: `KEY=VALUE`, `KEY!=VALUE`, joined by commas. An empty one would select everything.
pub(crate) fn parse_selector(text: &str) -> Result<String, String> {
    let is_term = |term: &str| {
        let (key, _) = term.split_once("!=").or_else(|| term.split_once('=')).unwrap_or_default();
        is_label_key(key.trim())
    };
    if text.split(',').all(is_term) {
        Ok(text.into())
    } else {
        Err("expected KEY=VALUE or KEY!=VALUE, joined by commas, as in zone=berlin,stage!=test".into())
    }
}

/// The value of the label `site`.
pub(crate) fn parse_site(text: &str) -> Result<String, String> {
    let (_, value) = parse_label(&format!("site={text}"))?;
    if value.is_empty() { Err("expected the value of the label site".into()) } else { Ok(value) }
}

/// `90`, `connected`, or `none`.
pub(crate) fn parse_freshness(text: &str) -> Result<Freshness, String> {
    match text {
        "connected" => Ok(Freshness::Connected),
        "none" => Ok(Freshness::Unlimited),
        days => days
            .parse()
            .ok()
            .filter(|days| (1..=MAX_DAYS).contains(days))
            .map(Freshness::Days)
            .ok_or_else(|| format!("expected a number of days from 1 to {MAX_DAYS}, connected, or none")),
    }
}

/// A maintenance window, as nodes read it.
pub(crate) fn parse_window(text: &str) -> Result<String, String> {
    text.trim()
        .parse::<MaintenanceWindow>()
        .map(|_| text.trim().to_owned())
        .map_err(|error| error.to_string())
}

/// The IANA name of a zone, written as nodes know it: they have the same table.
pub(crate) fn parse_time_zone(text: &str) -> Result<String, String> {
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(text).map_err(|_| {
        "there is no zone of that name; expected an IANA name, as in Europe/Berlin or UTC".to_owned()
    })?;
    Ok(zone.iana_name().unwrap_or(text).into())
}

/// The name of a context: also a file name.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let valid = (1..=40).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if valid {
        Ok(text.into())
    } else {
        Err("expected 1 to 40 letters, digits, - _ and ., a letter or digit first".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_bound() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(parse_duration("2w"), Ok(Duration::from_secs(1_209_600)));
        for bad in ["", "24", "h", "-1h", "1.5h", "0s", "99999999999999999999h", "9999w", "1 h", "1ms"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_set_or_removed() {
        assert_eq!("zone=berlin".parse(), Ok(LabelEdit::Set("zone".into(), "berlin".into())));
        assert_eq!("zone=".parse(), Ok(LabelEdit::Set("zone".into(), String::new())));
        assert_eq!("zone-".parse(), Ok(LabelEdit::Remove("zone".into())));
        for bad in ["zone", "=x", "-", "a b=c", "a=b,c=d"] {
            assert!(bad.parse::<LabelEdit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_selector_selects_by_something() {
        for good in ["zone=berlin", "zone!=berlin,stage=test", "zone="] {
            assert_eq!(parse_selector(good), Ok(good.into()));
        }
        for bad in ["", ",", " ", "zone", "=x", "!=x", "zone=a,", "zone=a,,b=c"] {
            assert!(parse_selector(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn windows_and_zones_are_those_that_nodes_know() {
        assert_eq!(parse_window(" Mon..Fri 22:00-04:00"), Ok("Mon..Fri 22:00-04:00".into()));
        for bad in ["", "02:00", "Mon", "Mo 02:00-04:00", "02:00-02:00", "02:00-04:00 UTC"] {
            assert!(parse_window(bad).is_err_and(|error| error.contains("write it like")), "{bad:?}");
        }
        assert_eq!(parse_time_zone("UTC"), Ok("UTC".into()));
        assert_eq!(parse_time_zone("europe/berlin"), Ok("Europe/Berlin".into()));
        for bad in ["", "Europe/Berlln", "../etc/passwd", "Europe/Berlin; reboot", "a b"] {
            assert!(parse_time_zone(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn context_names_are_file_names() {
        assert!(parse_name("prod-1.eu").is_ok());
        for bad in ["", ".", "..", "../x", "a/b", "-x", "a\n"] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
