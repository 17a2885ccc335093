//! The version of an OS image, as it stands in os-release, in GPT labels and in the names of boot entries.

use std::fmt;
use std::str::FromStr;

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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OsVersion(String);

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
    fn accepts_what_labels_can_carry_and_refuses_the_rest() {
        for good in ["1", "0.1.0", "1.2.3~rc1", "2026.11.21-1", "12345678901234567890123"] {
            assert!(good.parse::<OsVersion>().is_ok(), "{good}");
        }
        for bad in ["", "v1", "1_2", "1+3", "1 2", "1/2", "1.0A", "123456789012345678901234", "é", "1\n"] {
            assert!(bad.parse::<OsVersion>().is_err(), "{bad}");
        }
    }
}
