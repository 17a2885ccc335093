//! The version of an OS image, as it stands in os-release, in GPT labels and in the names of boot entries.

use std::{cmp::Ordering, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest version: a GPT name holds 36 UTF-16 units, and the verity label is `cairn_<version>_verity`.
pub const MAX_LENGTH: usize = 23;

/// Why a text is no OS version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{text}' is no OS version: {why}; use 1 to 23 of a-z, 0-9, '.', '~' and '-', beginning with a digit"
)]
pub struct VersionError {
    text: String,
    why: &'static str,
}

/// Grammar: `[0-9][a-z0-9.~-]{0,22}`. Neither `_` (it separates the parts of a label) nor `+` (it begins the boot
/// counter of an entry's name) can occur.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct OsVersion(String);

impl TryFrom<String> for OsVersion {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<OsVersion> for String {
    fn from(version: OsVersion) -> Self {
        version.0
    }
}

impl Ord for OsVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        // Two texts may stand for one version (1.0 and 1.00): the text then decides, so that equal means the same.
        compare(&self.0, &other.0).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for OsVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// UAPI.10 Version Format Specification, for the characters that an [`OsVersion`] can have, and where that leaves room, as
/// systemd-boot reads it: it starts the newest entry by its own order, and ours must be the same.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        // A pre-release is older than what it leads to, even than its end.
        if let Some(ordering) = separator(&mut a, &mut b, b'~') {
            return ordering;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let ordering = separator(&mut a, &mut b, b'-').or_else(|| separator(&mut a, &mut b, b'.'));
        if let Some(ordering) = ordering {
            return ordering;
        }
        let digits = a.first().is_some_and(u8::is_ascii_digit) || b.first().is_some_and(u8::is_ascii_digit);
        let ordering = if digits {
            let (left, right) = (take(&mut a, u8::is_ascii_digit), take(&mut b, u8::is_ascii_digit));
            let plain = |number: &[u8]| {
                let zeroes = number.iter().take_while(|digit| **digit == b'0').count();
                number[zeroes..].to_vec()
            };
            // Any number, also 0, is newer than none.
            let present = (!left.is_empty()).cmp(&!right.is_empty());
            let (left, right) = (plain(left), plain(right));
            present.then(left.len().cmp(&right.len())).then_with(|| left.cmp(&right))
        } else {
            take(&mut a, u8::is_ascii_lowercase).cmp(take(&mut b, u8::is_ascii_lowercase))
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
}

/// Takes the separator off both; where only one has it, that one is older.
fn separator(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Option<Ordering> {
    match (a.first() == Some(&mark), b.first() == Some(&mark)) {
        (true, true) => {
            (*a, *b) = (&a[1..], &b[1..]);
            None
        }
        (true, false) => Some(Ordering::Less),
        (false, true) => Some(Ordering::Greater),
        (false, false) => None,
    }
}

/// Splits off the longest beginning of which every byte is `wanted`.
fn take<'a>(text: &mut &'a [u8], wanted: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = text.iter().position(|byte| !wanted(byte)).unwrap_or(text.len());
    let (part, rest) = text.split_at(end);
    *text = rest;
    part
}

impl OsVersion {
    /// The version as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OsVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refuse = |why| Err(VersionError { text: text.chars().take(64).collect(), why });
        if text.is_empty() || text.len() > MAX_LENGTH {
            return refuse("too short or too long");
        }
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return refuse("it does not begin with a digit");
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".~-".contains(c);
        if !text.chars().all(allowed) {
            return refuse("it holds a character that labels and boot entries cannot carry");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for OsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_uapi_10_says() {
        // Its own list of examples, as far as our grammar goes.
        let ascending = [
            "1~rc1",
            "1",
            "1-1",
            "1.0",
            "1.0.1",
            "1.2~rc1-4",
            "1.2",
            "1.9",
            "1.10",
            "2026.11.21-1",
            "2026.11.21-10",
        ];
        let versions: Vec<OsVersion> = ascending.iter().map(|text| text.parse().unwrap()).collect();
        for (i, a) in versions.iter().enumerate() {
            for (j, b) in versions.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert!("123".parse::<OsVersion>().unwrap() < "123.a".parse().unwrap());
        assert!("123a".parse::<OsVersion>().unwrap() > "123".parse().unwrap());
        assert!("1.a".parse::<OsVersion>().unwrap() < "1.b".parse().unwrap());
    }

    #[test]
    fn odd_versions_are_ordered_as_the_boot_loader_does() {
        // As `systemd-analyze compare-versions` says; found by fuzzing.
        for (older, newer) in [
            ("1.a", "1.0"),
            ("1..0.0", "1.0"),
            ("1~", "1~~"),
            ("1-.", "1-"),
            ("1-.1", "1-.2"),
            ("1a", "11"),
            ("1ab.", "1abc"),
        ] {
            let [older, newer] = [older, newer].map(|text| text.parse::<OsVersion>().unwrap());
            assert_eq!(
                (older.cmp(&newer), newer.cmp(&older)),
                (Ordering::Less, Ordering::Greater),
                "{older} {newer}"
            );
        }
    }

    #[test]
    fn accepts_what_labels_can_carry_and_refuses_the_rest() {
        for good in ["1", "0.1.0", "1.2.3~rc1", "2026.11.21-1", "12345678901234567890123"] {
            assert!(good.parse::<OsVersion>().is_ok(), "{good}");
        }
        for bad in ["", "v1", "1_2", "1+3", "1 2", "1/2", "1.0A", "123456789012345678901234", "é", "1\n"] {
            assert!(bad.parse::<OsVersion>().is_err(), "{bad}");
        }
    }
}
