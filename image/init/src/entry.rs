//! Boot entries on the ESP: what their names say about tries, and which of them must not be booted any more.

use crate::verity::RootHash;

/// Largest counter that is believed; the loader itself uses small numbers only.
const MAX_TRIES: u32 = 99;

/// A file name `cairn_<version>[+<left>[-<done>]].efi`, as the boot loader specification defines boot counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryName {
    version: String,
    /// Tries left and done; `None` once the entry is known to be good.
    tries: Option<(u32, u32)>,
}

impl EntryName {
    /// `None` for what is no entry of ours.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_prefix("cairn_")?.strip_suffix(".efi")?;
        let (version, tries) = match stem.split_once('+') {
            None => (stem, None),
            Some((version, counters)) => (version, Some(parse_counters(counters)?)),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || ".~^-_".contains(c);
        let valid = !version.is_empty() && version.chars().all(plain);
        valid.then(|| Self { version: version.to_owned(), tries })
    }

    /// Whether the loader still boots it.
    fn is_bootable(&self) -> bool {
        self.tries.is_none_or(|(left, _)| left > 0)
    }

    /// The name with no tries left and `done` of them done.
    fn spent(&self, done: u32) -> String {
        format!("cairn_{}+0-{done}.efi", self.version)
    }
}

/// `3` or `3-0`.
fn parse_counters(text: &str) -> Option<(u32, u32)> {
    let number = |digits: &str| -> Option<u32> {
        let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten().filter(|number| *number <= MAX_TRIES)
    };
    match text.split_once('-') {
        None => Some((number(text)?, 0)),
        Some((left, done)) => Some((number(left)?, number(done)?)),
    }
}

/// An entry whose kernel image names a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// File name as it is.
    pub(crate) file: String,
    /// What that name says.
    pub(crate) name: EntryName,
    /// The root that it boots.
    pub(crate) root_hash: RootHash,
}

/// What to do about the entries of a root that cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Rename from, to; what is spent already needs no new name.
    MarkSpent(Vec<(String, String)>),
    /// This root is all that there is to boot: a loader without entries would be worse.
    NoOther,
    /// No entry boots this root: the loader was not led here from this ESP.
    NotListed,
}

/// Decides. `files` are all names in the folder: two entries of one root do not become one, for on a FAT whose rename
/// was cut off they may share their content.
pub(crate) fn plan(entries: &[Entry], files: &[String], bad: &RootHash) -> Plan {
    let (ours, others): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| entry.root_hash == *bad);
    if ours.is_empty() {
        return Plan::NotListed;
    }
    if !others.iter().any(|entry| entry.name.is_bootable()) {
        return Plan::NoOther;
    }
    let mut renames: Vec<(String, String)> = Vec::new();
    for entry in ours.into_iter().filter(|entry| entry.name.is_bootable()) {
        let done = entry.name.tries.map_or(0, |(_, done)| done).max(1);
        // FAT knows no case.
        let taken = |name: &String| {
            files.iter().chain(renames.iter().map(|(_, to)| to)).any(|file| file.eq_ignore_ascii_case(name))
        };
        let free = (done..=MAX_TRIES).map(|done| entry.name.spent(done)).find(|name| !taken(name));
        renames.extend(free.map(|name| (entry.file.clone(), name)));
    }
    Plan::MarkSpent(renames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(byte: &str) -> RootHash {
        RootHash::parse(&byte.repeat(32)).unwrap()
    }

    /// Decides about root 0a; each entry is a file name and its root.
    fn decide(entries: &[(&str, &str)]) -> Plan {
        let files: Vec<String> = entries.iter().map(|(file, _)| (*file).to_owned()).collect();
        let entry = |(file, root): &(&str, &str)| {
            Some(Entry { file: (*file).into(), name: EntryName::parse(file)?, root_hash: hash(root) })
        };
        plan(&entries.iter().filter_map(entry).collect::<Vec<_>>(), &files, &hash("0a"))
    }

    fn renames(pairs: &[(&str, &str)]) -> Plan {
        Plan::MarkSpent(pairs.iter().map(|(from, to)| ((*from).into(), (*to).into())).collect())
    }

    #[test]
    fn only_our_names_are_entries() {
        let tries = |name: &str| EntryName::parse(name).map(|entry| entry.tries);
        assert_eq!(tries("cairn_0.1.0.efi"), Some(None));
        assert_eq!(tries("cairn_1.2~rc1-4+3-0.efi"), Some(Some((3, 0))));
        assert_eq!(tries("cairn_1+2.efi"), Some(Some((2, 0))));
        let bad = [
            "",
            "cairn_.efi",
            ".cairn_1.tmp",
            "cairn_1+.efi",
            "cairn_1+3-.efi",
            "cairn_1+3-0-1.efi",
            "cairn_1+3+1.efi",
            "cairn_1+100-0.efi",
            "cairn_1+99999999999999-0.efi",
            "cairn_../1.efi",
            "cairn_1.EFI",
            "windows.efi",
        ];
        for name in bad {
            assert_eq!(tries(name), None, "{name}");
        }
    }

    #[test]
    fn the_only_entry_that_boots_keeps_its_name() {
        assert_eq!(decide(&[("cairn_1.efi", "0a")]), Plan::NoOther);
        assert_eq!(decide(&[("cairn_1.efi", "0a"), ("cairn_2+0-3.efi", "0b")]), Plan::NoOther);
        assert_eq!(
            decide(&[("cairn_1.efi", "0a"), ("cairn_1+3-0.efi", "0a")]),
            Plan::NoOther,
            "the same root"
        );
        assert_eq!(decide(&[("cairn_1.efi", "0a"), ("other.efi", "0b")]), Plan::NoOther, "not ours");
    }

    #[test]
    fn a_root_that_no_entry_names_changes_nothing() {
        assert_eq!(decide(&[]), Plan::NotListed);
        assert_eq!(decide(&[("cairn_1.efi", "0b"), ("cairn_2+3-0.efi", "0c")]), Plan::NotListed);
    }

    #[test]
    fn the_entries_of_a_bad_root_lose_their_tries() {
        let good = ("cairn_0.9.efi", "0b");
        assert_eq!(decide(&[("cairn_1.efi", "0a"), good]), renames(&[("cairn_1.efi", "cairn_1+0-1.efi")]));
        assert_eq!(
            decide(&[("cairn_1+2-1.efi", "0a"), good]),
            renames(&[("cairn_1+2-1.efi", "cairn_1+0-1.efi")])
        );
        assert_eq!(
            decide(&[("cairn_1+1-2.efi", "0a"), ("cairn_2+3-0.efi", "0b")]),
            renames(&[("cairn_1+1-2.efi", "cairn_1+0-2.efi")])
        );
        assert_eq!(decide(&[("cairn_1+0-3.efi", "0a"), good]), renames(&[]), "spent already");
    }

    #[test]
    fn twins_get_names_of_their_own() {
        let twins = [("cairn_1.efi", "0a"), ("cairn_1+3-0.efi", "0a"), ("cairn_2.efi", "0b")];
        let expected = [("cairn_1.efi", "cairn_1+0-1.efi"), ("cairn_1+3-0.efi", "cairn_1+0-2.efi")];
        assert_eq!(decide(&twins), renames(&expected));
        let taken = [("cairn_1.efi", "0a"), ("cairn_1+0-1.EFI", "0a"), ("cairn_2.efi", "0b")];
        assert_eq!(decide(&taken), renames(&[("cairn_1.efi", "cairn_1+0-2.efi")]));
    }

    proptest! {
        #[test]
        fn random_names_never_panic_and_new_ones_are_spent(
            names in prop::collection::vec("(cairn_)?[0-9a-z.+-]{0,6}(\\+[0-9]{0,3}(-[0-9]{0,3})?)?(.efi)?", 0..8),
            bytes in ".{0,20}",
        ) {
            let _ = EntryName::parse(&bytes);
            let entries: Vec<(&str, &str)> =
                names.iter().enumerate().map(|(at, name)| (name.as_str(), if at % 2 == 0 { "0a" } else { "0b" })).collect();
            if let Plan::MarkSpent(renames) = decide(&entries) {
                for (from, to) in renames {
                    prop_assert!(names.contains(&from) && !names.contains(&to));
                    prop_assert!(!EntryName::parse(&to).unwrap().is_bootable());
                }
            }
        }
    }
}
