//! Words and figures for people.

use std::collections::BTreeMap;

use cairn_model::Digest;
use jiff::Timestamp;

/// `text` without control characters: what a node or an operator named can't move the cursor, colour the screen, or turn
/// the direction of what stands beside it.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if is_command(c) { ' ' } else { c }).collect()
}

/// `text` in lines, without control characters but tab.
pub(crate) fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if is_command(c) && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

/// Control characters, Unicode's line separators, and what makes text run the other way.
fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// `3m ago`, `in 23h`; the text itself where it is no time.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return time.to_owned() };
    let seconds = now.as_second() - time.as_second();
    match seconds {
        0 => "now".into(),
        1.. => format!("{} ago", span(seconds)),
        _ => format!("in {}", span(-seconds)),
    }
}

/// `90m`: how long something may take.
pub(crate) fn seconds(seconds: u64) -> String {
    span(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn span(seconds: i64) -> String {
    // Two of a unit before the next larger one: "90m ago" says more than "1h ago".
    if seconds < 2 * 60 {
        format!("{seconds}s")
    } else if seconds < 2 * 3_600 {
        format!("{}m", seconds / 60)
    } else if seconds < 2 * 86_400 {
        format!("{}h", seconds / 3_600)
    } else {
        format!("{}d", seconds / 86_400)
    }
}

/// `62.0 MB`: decimal units, as disks and networks have them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut scaled = bytes;
    let mut rest = 0;
    while scaled >= 1000 && unit + 1 < UNITS.len() {
        rest = scaled % 1000;
        scaled /= 1000;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled}.{} {}", rest / 100, UNITS[unit]) }
}

/// The first 12 hex digits: enough to tell artifacts apart.
pub(crate) fn short_digest(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}

/// `zone=berlin,rack=2`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

pub(crate) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let check = |time: &str, expected: &str| assert_eq!(age(time, now), expected, "{time}");
        check("2026-06-01T12:00:00Z", "now");
        check("2026-06-01T11:59:01Z", "59s ago");
        check("2026-06-01T11:57:00Z", "3m ago");
        check("2026-06-01T05:00:00Z", "7h ago");
        check("2026-05-22T12:00:00Z", "10d ago");
        check("2026-06-02T11:00:00Z", "in 23h");
        check("yesterday", "yesterday");
    }

    #[test]
    fn sizes_have_units() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (62_049_999, "62.0 MB"),
            (u64::MAX, "18446744.0 TB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn nothing_from_outside_reaches_the_terminal_as_a_command() {
        assert_eq!(clean("a\x1b[2Jb\nc\u{9b}d"), "a [2Jb c d");
        assert_eq!(clean("a\u{202e}b\u{2028}c\u{2066}d"), "a b c d");
        assert_eq!(clean_lines("a\x1b[2Jb\nc\td\r"), "a [2Jb\nc\td ");
    }
}
