//! Values of the command line that have a grammar of their own.

use std::{str::FromStr, time::Duration};

/// The longest label key or value.
const MAX_LABEL: usize = 63;

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
    fn context_names_are_file_names() {
        assert!(parse_name("prod-1.eu").is_ok());
        for bad in ["", ".", "..", "../x", "a/b", "-x", "a\n"] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }
}
