//! The EFI system partition after a cut: what the boot loader would find there.

use std::{collections::BTreeSet, io::Read, ops::Range};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::replay::{Disk, Part};
use fatfs::{FileSystem, FsOptions};

use crate::slots::Os;

/// An entry that the boot loader would show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// File name.
    pub name: String,
    /// The known version whose kernel image it holds, whole; `None` for anything else.
    pub version: Option<String>,
    /// Tries left; `None` where the loader does not count.
    pub tries: Option<u32>,
}

/// The entries in `EFI/Linux`.
pub fn entries(disk: &Disk, range: Range<u64>, known: &[Os]) -> Result<Vec<Found>> {
    let volume =
        FileSystem::new(Part::new(disk, range), FsOptions::new()).context("the ESP does not parse")?;
    let root = volume.root_dir();
    let loader = root.open_file("EFI/BOOT/BOOTX64.EFI").context("the boot loader is gone")?;
    drop(loader);
    let folder = root.open_dir("EFI/Linux").context("the ESP has no EFI/Linux")?;
    let mut found = Vec::new();
    for entry in folder.iter() {
        let entry = entry.context("EFI/Linux does not parse")?;
        let name = entry.file_name();
        if !name.to_ascii_lowercase().ends_with(".efi") {
            continue;
        }
        if entry.len() == 0 {
            // The loader shows no file without an `.osrel` section; one in the middle of a rename has no content yet.
            continue;
        }
        let mut content = Vec::new();
        // A chain of clusters that is cut short is content that fits nothing.
        entry.to_file().read_to_end(&mut content).ok();
        let version = known.iter().find(|os| os.uki == content).map(|os| os.version.clone());
        found.push(Found { tries: tries(&name), name, version });
    }
    Ok(found)
}

/// The boot loader's counter in a file name.
fn tries(name: &str) -> Option<u32> {
    let (_, counter) = name.trim_end_matches(".efi").rsplit_once('+')?;
    counter.split('-').next()?.parse().ok()
}

/// A node must start: some entry that is not used up boots a root that verifies, and nothing that the loader would start
/// for ever is broken.
pub fn check(entries: &[Found], whole: &BTreeSet<&str>) -> Result<()> {
    let works = |entry: &Found| entry.version.as_deref().is_some_and(|version| whole.contains(version));
    let bootable = entries.iter().any(|entry| entry.tries != Some(0) && works(entry));
    ensure!(bootable, "nothing boots: entries {entries:?}, whole slots {whole:?}");
    for entry in entries.iter().filter(|entry| entry.tries.is_none()) {
        ensure!(
            works(entry),
            "{} is never given up and does not boot: entries {entries:?}, whole slots {whole:?}",
            entry.name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, version: Option<&str>) -> Found {
        Found { name: name.to_owned(), version: version.map(str::to_owned), tries: tries(name) }
    }

    #[test]
    fn counters_are_read_from_names() {
        for (name, left) in [
            ("cairn_1.efi", None),
            ("cairn_1+3-0.efi", Some(3)),
            ("cairn_1+0-3.efi", Some(0)),
            ("cairn_1+2.efi", Some(2)),
        ] {
            assert_eq!(tries(name), left, "{name}");
        }
    }

    #[test]
    fn a_disk_that_would_not_boot_is_noticed() {
        let whole = BTreeSet::from(["1"]);
        let good = entry("cairn_1.efi", Some("1"));
        assert!(check(std::slice::from_ref(&good), &whole).is_ok());
        assert!(check(&[good.clone(), entry("cairn_2+3-0.efi", None)], &whole).is_ok(), "it is given up");
        assert!(check(&[], &whole).is_err(), "no entry");
        assert!(check(std::slice::from_ref(&good), &BTreeSet::from(["2"])).is_err(), "its slot is not whole");
        assert!(check(&[entry("cairn_1+0-3.efi", Some("1"))], &whole).is_err(), "it is used up");
        assert!(check(&[good.clone(), entry("cairn_2.efi", Some("2"))], &whole).is_err(), "tried for ever");
        assert!(
            check(&[good, entry("CAIRN_~1.EFI", None)], &whole).is_err(),
            "a torn name without a counter"
        );
    }
}
