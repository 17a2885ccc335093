//! Boot entries on the ESP: what their names say about tries, and which of them must not be booted any more.

use crate::verity::RootHash;

/// Largest counter; the loader itself uses small numbers only. One above it counts as this: a number must never keep an
/// entry from being known.
const MAX_TRIES: u32 = 99;

/// Tries after which a spent entry is not tried once more. Two slots that fail without being provably damaged, or whose
/// records cannot be written, would else take turns without end.
const TRIES_BEFORE_GIVING_UP: u32 = 9;

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

    /// Tries done; none for a good one.
    fn done(&self) -> u32 {
        self.tries.map_or(0, |(_, done)| done)
    }

    /// A name with these counters that no file has: on a FAT, which knows no case, a clash would cost an entry.
    fn renamed(&self, left: u32, done: u32, taken: &[String]) -> Option<String> {
        let counted = (done..=MAX_TRIES).chain(1..done);
        let mut names = counted.map(|done| format!("cairn_{}+{left}-{done}.efi", self.version));
        names.find(|name| !taken.iter().any(|file| file.eq_ignore_ascii_case(name)))
    }
}

/// `3` or `3-0`.
fn parse_counters(text: &str) -> Option<(u32, u32)> {
    let number = |digits: &str| -> Option<u32> {
        let plain = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
        // What does not fit the type is above the largest, too.
        plain.then(|| digits.parse().unwrap_or(MAX_TRIES).min(MAX_TRIES))
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

/// A file's name, and the one that it gets.
pub(crate) type Rename = (String, String);

/// What to do about the entries of a root that cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The loader is led to another root.
    MarkSpent {
        /// First, and on the disk before the rest: an entry of another root that gets one more try, where else nothing
        /// would boot. An older system may have been made the active one since, which spent the newer one's.
        revived: Option<Rename>,
        /// Entries of this root; what is spent already needs no new name.
        spent: Vec<Rename>,
    },
    /// This root is all that there is to boot: a loader without entries would be worse.
    NoOther,
    /// No entry boots this root: the loader was not led here from this ESP.
    NotListed,
}

/// Decides. `files` are all names in the folder: two entries of one root do not become one, for on a FAT whose rename
/// was cut off they may share their content. `may_boot` says whether a root is there and not known to be damaged.
pub(crate) fn plan(
    entries: &[Entry],
    files: &[String],
    bad: &RootHash,
    may_boot: &dyn Fn(&RootHash) -> bool,
) -> Plan {
    let (ours, others): (Vec<&Entry>, Vec<&Entry>) =
        entries.iter().partition(|entry| entry.root_hash == *bad);
    if ours.is_empty() {
        return Plan::NotListed;
    }
    let mut taken = files.to_vec();
    let mut rename = |entry: &Entry, left, done| {
        let name = entry.name.renamed(left, done, &taken)?;
        taken.push(name.clone());
        Some((entry.file.clone(), name))
    };
    let mut revived = None;
    if !others.iter().any(|entry| entry.name.is_bootable()) {
        let worth_a_try =
            |entry: &&&Entry| entry.name.done() < TRIES_BEFORE_GIVING_UP && may_boot(&entry.root_hash);
        let candidate = others.iter().filter(worth_a_try).min_by_key(|entry| entry.name.done());
        revived = candidate.and_then(|entry| rename(entry, 1, entry.name.done()));
        if revived.is_none() {
            return Plan::NoOther;
        }
    }
    let bootable = ours.into_iter().filter(|entry| entry.name.is_bootable());
    let spent = bootable.filter_map(|entry| rename(entry, 0, entry.name.done().max(1))).collect();
    Plan::MarkSpent { revived, spent }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(byte: &str) -> RootHash {
        RootHash::parse(&byte.repeat(32)).unwrap()
    }

    /// Decides about root 0a; each entry is a file name and its root. Of root 0d no slot may be booted.
    fn decide(entries: &[(&str, &str)]) -> Plan {
        let files: Vec<String> = entries.iter().map(|(file, _)| (*file).to_owned()).collect();
        let entry = |(file, root): &(&str, &str)| {
            Some(Entry { file: (*file).into(), name: EntryName::parse(file)?, root_hash: hash(root) })
        };
        let entries: Vec<Entry> = entries.iter().filter_map(entry).collect();
        plan(&entries, &files, &hash("0a"), &|root| *root != hash("0d"))
    }

    fn pair((from, to): &(&str, &str)) -> Rename {
        ((*from).into(), (*to).into())
    }

    fn renames(pairs: &[(&str, &str)]) -> Plan {
        Plan::MarkSpent { revived: None, spent: pairs.iter().map(pair).collect() }
    }

    fn revives(revived: (&str, &str), spent: &[(&str, &str)]) -> Plan {
        Plan::MarkSpent { revived: Some(pair(&revived)), spent: spent.iter().map(pair).collect() }
    }

    #[test]
    fn only_our_names_are_entries() {
        let tries = |name: &str| EntryName::parse(name).map(|entry| entry.tries);
        assert_eq!(tries("cairn_0.1.0.efi"), Some(None));
        assert_eq!(tries("cairn_1.2~rc1-4+3-0.efi"), Some(Some((3, 0))));
        assert_eq!(tries("cairn_1+2.efi"), Some(Some((2, 0))));
        assert_eq!(
            tries("cairn_1+100-0.efi"),
            Some(Some((99, 0))),
            "large counters keep no entry from being known"
        );
        assert_eq!(tries("cairn_1+0-99999999999999999999.efi"), Some(Some((0, 99))));
        let bad = [
            "",
            "cairn_.efi",
            ".cairn_1.tmp",
            "cairn_1+.efi",
            "cairn_1+3-.efi",
            "cairn_1+3-0-1.efi",
            "cairn_1+3+1.efi",
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
        let damaged = [("cairn_1.efi", "0a"), ("cairn_2+0-3.efi", "0d")];
        assert_eq!(decide(&damaged), Plan::NoOther, "the other is known to be damaged");
        let given_up = [("cairn_1.efi", "0a"), ("cairn_2+0-9.efi", "0b")];
        assert_eq!(decide(&given_up), Plan::NoOther, "the other has failed for long");
        assert_eq!(
            decide(&[("cairn_1.efi", "0a"), ("cairn_1+3-0.efi", "0a")]),
            Plan::NoOther,
            "the same root"
        );
        assert_eq!(decide(&[("cairn_1.efi", "0a"), ("other.efi", "0b")]), Plan::NoOther, "not ours");
    }

    #[test]
    fn a_spent_entry_of_a_whole_system_is_tried_once_more_before_nothing_boots() {
        // What an older system leaves that was made the active one.
        assert_eq!(
            decide(&[("cairn_1.efi", "0a"), ("cairn_2+0-1.efi", "0b")]),
            revives(("cairn_2+0-1.efi", "cairn_2+1-1.efi"), &[("cairn_1.efi", "cairn_1+0-1.efi")])
        );
        assert_eq!(
            decide(&[("cairn_1+0-1.efi", "0a"), ("cairn_2+0-3.efi", "0b"), ("cairn_3+0-2.efi", "0d")]),
            revives(("cairn_2+0-3.efi", "cairn_2+1-3.efi"), &[]),
            "spent already, and a damaged one beside it"
        );
        assert_eq!(
            decide(&[("cairn_1.efi", "0a"), ("cairn_2+0-1.efi", "0b"), ("cairn_2+1-1.EFI", "0b")]),
            revives(("cairn_2+0-1.efi", "cairn_2+1-2.efi"), &[("cairn_1.efi", "cairn_1+0-1.efi")]),
            "names do not clash"
        );
        assert_eq!(
            decide(&[("cairn_1+0-1.efi", "0b"), ("cairn_1.efi", "0a")]),
            revives(("cairn_1+0-1.efi", "cairn_1+1-1.efi"), &[("cairn_1.efi", "cairn_1+0-2.efi")]),
            "two builds of one version"
        );
    }

    /// Two systems that fail take turns, as the loader would have it; `proven` are those whose damage is recorded when
    /// they were started. Returns how many starts there were before the console was told.
    fn starts_until_told(proven: &[&str]) -> usize {
        let mut entries = vec![("cairn_1.efi".to_owned(), "0a"), ("cairn_2+0-1.efi".to_owned(), "0b")];
        let mut known: Vec<RootHash> = Vec::new();
        for starts in 1..100 {
            let parse = |(file, root): &(String, &str)| Entry {
                file: file.clone(),
                name: EntryName::parse(file).unwrap(),
                root_hash: hash(root),
            };
            let parsed: Vec<Entry> = entries.iter().map(parse).collect();
            // The loader counts before it starts.
            let at = parsed.iter().position(|entry| entry.name.is_bootable()).unwrap_or(0);
            let (name, running) = (&parsed[at].name, parsed[at].root_hash);
            if let Some((left, done)) = name.tries.filter(|(left, _)| *left > 0) {
                entries[at].0 = format!("cairn_{}+{}-{}.efi", name.version, left - 1, done + 1);
            }
            if proven.contains(&entries[at].1) {
                known.push(running);
            }
            let parsed: Vec<Entry> = entries.iter().map(parse).collect();
            let files: Vec<String> = entries.iter().map(|(file, _)| file.clone()).collect();
            match plan(&parsed, &files, &running, &|root| !known.contains(root)) {
                Plan::MarkSpent { revived, spent } => {
                    for (from, to) in revived.into_iter().chain(spent) {
                        entries.iter_mut().find(|(file, _)| *file == from).unwrap().0 = to;
                    }
                }
                other => {
                    assert_eq!(other, Plan::NoOther);
                    return starts;
                }
            }
        }
        panic!("they take turns without end: {entries:?}")
    }

    #[test]
    fn two_damaged_systems_do_not_take_turns_without_end() {
        assert_eq!(starts_until_told(&["0a", "0b"]), 2);
        assert_eq!(starts_until_told(&["0a"]), 2);
        assert_eq!(starts_until_told(&["0b"]), 3);
        assert!(starts_until_told(&[]) < 20, "where no record can be written");
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
        let counted = [("cairn_1+1-99.efi", "0a"), ("cairn_1+0-99.efi", "0a"), ("cairn_2.efi", "0b")];
        assert_eq!(
            decide(&counted),
            renames(&[("cairn_1+1-99.efi", "cairn_1+0-1.efi")]),
            "no higher number is left"
        );
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
            if let Plan::MarkSpent { revived, spent } = decide(&entries) {
                let boots = |name: &str| EntryName::parse(name).unwrap().is_bootable();
                prop_assert!(spent.iter().all(|(_, to)| !boots(to)));
                prop_assert!(revived.iter().all(|(from, to)| !boots(from) && boots(to)));
                for (from, to) in revived.into_iter().chain(spent) {
                    prop_assert!(names.contains(&from) && !names.contains(&to));
                }
            }
        }
    }
}
