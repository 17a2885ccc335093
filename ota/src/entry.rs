//! Names of boot entries with the boot loader's counters: `cairn_<version>+<left>-<done>.efi`.

use std::fmt;
use std::str::FromStr;

use crate::OsVersion;

/// Tries that a new entry gets before the loader falls back.
pub const FIRST_TRIES: u32 = 3;

/// Largest counter that is told apart; a larger one counts as this. The loader goes on counting starts where nothing is
/// left to try, and a name that could not be read then would be no entry any more.
const MAX_TRIES: u32 = 99;

/// Why a file name is no boot entry of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no Cairn boot entry; expected cairn_<version>.efi or cairn_<version>+<left>-<done>.efi")]
pub struct EntryError(String);

/// Boot loader specification, boot counting: an entry without counters is known to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// Which OS version it boots.
    pub version: OsVersion,
    /// Tries left and tries done; `None` once the entry is blessed.
    pub tries: Option<(u32, u32)>,
}

impl BootEntry {
    /// A freshly written entry, not yet known to be good.
    pub fn untried(version: OsVersion) -> Self {
        Self { version, tries: Some((FIRST_TRIES, 0)) }
    }

    /// An entry that the loader may boot without counting.
    pub fn good(version: OsVersion) -> Self {
        Self { version, tries: None }
    }

    /// Whether the loader will still try it.
    pub fn is_bootable(&self) -> bool {
        self.tries.is_none_or(|(left, _)| left > 0)
    }
}

impl fmt::Display for BootEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tries {
            None => write!(f, "cairn_{}.efi", self.version),
            Some((left, done)) => write!(f, "cairn_{}+{left}-{done}.efi", self.version),
        }
    }
}

impl FromStr for BootEntry {
    type Err = EntryError;

    fn from_str(name: &str) -> Result<Self, EntryError> {
        let error = || EntryError(name.chars().take(128).collect());
        let stem = name.strip_prefix("cairn_").and_then(|n| n.strip_suffix(".efi")).ok_or_else(error)?;
        let (version, tries) = match stem.split_once('+') {
            None => (stem, None),
            Some((version, counters)) => (version, Some(parse_counters(counters).ok_or_else(error)?)),
        };
        Ok(Self { version: version.parse().map_err(|_| error())?, tries })
    }
}

/// `3` or `3-0`: the loader leaves the second part out while it is zero.
fn parse_counters(text: &str) -> Option<(u32, u32)> {
    let number = |t: &str| -> Option<u32> {
        let digits = !t.is_empty() && t.chars().all(|c| c.is_ascii_digit());
        digits.then(|| t.parse().unwrap_or(MAX_TRIES).min(MAX_TRIES))
    };
    match text.split_once('-') {
        None => Some((number(text)?, 0)),
        Some((left, done)) => Some((number(left)?, number(done)?)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["cairn_0.1.0.efi", "cairn_0.1.0+3-0.efi", "cairn_1.2~rc1-4+0-3.efi"] {
            let entry: BootEntry = name.parse().unwrap();
            assert_eq!(entry.to_string(), name);
        }
        assert_eq!("cairn_1+3.efi".parse::<BootEntry>().unwrap().tries, Some((3, 0)));
    }

    #[test]
    fn refuses_foreign_and_broken_names() {
        let bad = [
            "",
            "cairn_.efi",
            "cairn_1+.efi",
            "cairn_1+3-.efi",
            "cairn_1+-3.efi",
            "cairn_1+3-0-1.efi",
            "cairn_1+3+1.efi",
            "windows.efi",
            "cairn_1.EFI",
            "cairn_../1.efi",
            "cairn_1+ 3.efi",
        ];
        for name in bad {
            assert!(name.parse::<BootEntry>().is_err(), "{name}");
        }
    }

    #[test]
    fn counters_beyond_the_largest_count_as_that() {
        let tries = |name: &str| name.parse::<BootEntry>().unwrap().tries;
        assert_eq!(tries("cairn_1+0-99.efi"), Some((0, 99)));
        assert_eq!(tries("cairn_1+0-100.efi"), Some((0, 99)));
        assert_eq!(tries("cairn_1+999999999999-4294967296.efi"), Some((99, 99)));
    }

    #[test]
    fn an_entry_without_tries_left_is_not_booted() {
        let version: OsVersion = "1".parse().unwrap();
        assert!(BootEntry::good(version.clone()).is_bootable());
        assert!(BootEntry::untried(version.clone()).is_bootable());
        assert!(!BootEntry { version, tries: Some((0, 3)) }.is_bootable());
    }

    proptest! {
        #[test]
        fn any_name_is_read_without_panic(name in any::<String>(), middle in "[0-9a-z.~+-]{0,40}") {
            let _ = name.parse::<BootEntry>();
            let _ = format!("cairn_{middle}.efi").parse::<BootEntry>();
        }

        #[test]
        fn whatever_is_read_is_written_so_that_it_reads_the_same(
            version in "[0-9][0-9a-z.~-]{0,22}", tries in prop::option::of((0u32..=99, 0u32..=99)),
        ) {
            let entry = BootEntry { version: version.parse().unwrap(), tries };
            prop_assert_eq!(entry.to_string().parse::<BootEntry>().unwrap(), entry);
        }
    }
}
