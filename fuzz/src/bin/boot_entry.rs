//! Names of boot entries, one a line: written and read they are the same, daemon and initrd agree on them, and what the
//! initrd does to a bad slot's entries never takes the last one that boots. The first byte of a line says whose root the
//! entry boots.
#![no_main]

use cairn_fuzz::refusal;
use cairn_ota::BootEntry;
use entry::{Entry, EntryName, Plan, plan};
use libfuzzer_sys::fuzz_target;
use verity::RootHash;

#[path = "../../../image/init/src/entry.rs"]
mod entry;
#[expect(dead_code, reason = "the initrd uses more of it")]
#[path = "../../../image/init/src/verity.rs"]
mod verity;

fuzz_target!(|data: &[u8]| {
    let [bad, good] = ["0a", "0b"].map(|byte| RootHash::parse(&byte.repeat(32)).expect("a hash"));
    let mut files: Vec<String> = Vec::new();
    let mut entries = Vec::new();
    for line in String::from_utf8_lossy(data).split('\n').take(32) {
        let Some(whose) = line.chars().next() else { continue };
        let name = &line[whose.len_utf8()..];
        if files.iter().any(|file| file.eq_ignore_ascii_case(name)) {
            continue;
        }
        files.push(name.to_owned());
        round_trip(name);
        let root_hash = if whose == 'a' { bad } else { good };
        entries.extend(EntryName::parse(name).map(|parsed| Entry {
            file: name.to_owned(),
            name: parsed,
            root_hash,
        }));
    }
    let Plan::MarkSpent(renames) = plan(&entries, &files, &bad) else { return };
    let is_bad = |name: &str| entries.iter().any(|entry| entry.file == name && entry.root_hash == bad);
    for (from, to) in &renames {
        assert!(is_bad(from), "{from} is not of the bad root");
        assert!(!files.iter().any(|file| file.eq_ignore_ascii_case(to)), "{to} exists");
        assert_eq!(renames.iter().filter(|(_, other)| other.eq_ignore_ascii_case(to)).count(), 1, "{to}");
        let spent = EntryName::parse(to).expect("a spent entry is one of ours");
        assert!(!is_bootable(spent), "{to}");
        if let (Ok(before), Ok(after)) = (from.parse::<BootEntry>(), to.parse::<BootEntry>()) {
            assert_eq!(before.version, after.version);
        }
    }
    assert!(entries.iter().any(|entry| entry.root_hash == good && is_bootable(entry.name.clone())));
});

fn round_trip(name: &str) {
    let entry: BootEntry = match name.parse() {
        Ok(entry) => entry,
        Err(error) => return refusal(&error),
    };
    assert_eq!(entry.to_string().parse().as_ref(), Ok(&entry));
    let initrd = EntryName::parse(name).expect("the initrd knows the daemon's names");
    assert_eq!(is_bootable(initrd), entry.is_bootable(), "{name}");
}

/// Whether the initrd would take its tries, if there was another.
fn is_bootable(name: EntryName) -> bool {
    let hash = |byte: &str| RootHash::parse(&byte.repeat(32)).expect("a hash");
    let other = EntryName::parse("cairn_0.efi").expect("a name");
    let entries = [
        Entry { file: "x".to_owned(), name, root_hash: hash("0a") },
        Entry { file: "y".to_owned(), name: other, root_hash: hash("0b") },
    ];
    match plan(&entries, &[], &hash("0a")) {
        Plan::MarkSpent(renames) => !renames.is_empty(),
        other => panic!("{other:?}"),
    }
}
