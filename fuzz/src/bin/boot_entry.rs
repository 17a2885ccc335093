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
    // Whether the good root is there: a spent entry gets one more try then.
    let there = data.first().is_some_and(|byte| byte % 2 == 0);
    let Plan::MarkSpent { revived, spent } = plan(&entries, &files, &bad, &|_| there) else { return };
    let is_bad = |name: &str| entries.iter().any(|entry| entry.file == name && entry.root_hash == bad);
    for (from, to) in &spent {
        assert!(is_bad(from), "{from} is not of the bad root");
        let spent = EntryName::parse(to).expect("a spent entry is one of ours");
        assert!(!is_bootable(spent), "{to}");
    }
    for (from, to) in &revived {
        assert!(there && !is_bad(from), "{from} is not of the good root");
        let revived = EntryName::parse(to).expect("a revived entry is one of ours");
        assert!(is_bootable(revived), "{to}");
    }
    let renames: Vec<_> = revived.iter().chain(&spent).collect();
    for (from, to) in &renames {
        assert!(!files.iter().any(|file| file.eq_ignore_ascii_case(to)), "{to} exists");
        assert_eq!(renames.iter().filter(|(_, other)| other.eq_ignore_ascii_case(to)).count(), 1, "{to}");
        if let (Ok(before), Ok(after)) = (from.parse::<BootEntry>(), to.parse::<BootEntry>()) {
            assert_eq!(before.version, after.version);
        }
    }
    let boots = |entry: &Entry| entry.root_hash == good && is_bootable(entry.name.clone());
    assert!(revived.is_some() || entries.iter().any(boots));
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
    match plan(&entries, &[], &hash("0a"), &|_| false) {
        Plan::MarkSpent { spent, .. } => !spent.is_empty(),
        other => panic!("{other:?}"),
    }
}
