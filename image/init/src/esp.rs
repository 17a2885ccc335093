//! The EFI system partition of a disk: the entries whose root cannot be booted lose their tries there, so that the boot
//! loader takes the other one. A start that goes well never comes here.

use std::fs::{self, File};
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use nix::unistd::syncfs;

use crate::block::Disk;
use crate::entry::{Entry, EntryName, Plan, Rename, plan};
use crate::verity::RootHash;
use crate::{Outcome, command_line, log, pe, record, slot};

/// Where it is mounted, in the initrd alone.
const MOUNT_POINT: &str = "/esp";

/// Where the boot loader looks for unified kernel images.
const ENTRIES: &str = "EFI/Linux";

/// Most files that are looked at.
const MAX_FILES: usize = 256;

/// Debian's defaults, so that no other character set is looked for.
const OPTIONS: &str = "codepage=437,iocharset=ascii,utf8,fmask=0177,dmask=0077";

/// Takes the tries from every entry on this disk that boots the given root, if there is another that boots or may boot.
pub(crate) fn mark_spent(disk: &Disk, root_hash: &RootHash) -> Outcome<Plan> {
    let number = disk.layout().and_then(|layout| layout.esp);
    let device = number
        .and_then(|number| disk.partition(number))
        .ok_or_else(|| format!("{} has no EFI system partition", disk.name()))?;
    let _ = fs::create_dir_all(MOUNT_POINT);
    // Folders are written as they change: in a rename, vfat then puts the new name and its content on the disk before it
    // takes the old name away.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_DIRSYNC;
    mount(Some(device.as_str()), MOUNT_POINT, Some("vfat"), flags, Some(OPTIONS))
        .map_err(|error| format!("failed to mount the EFI system partition {device}: {error}"))?;
    let may_boot = |root_hash: &RootHash| may_boot(disk, root_hash);
    let result = mark_spent_in(&Path::new(MOUNT_POINT).join(ENTRIES), root_hash, &may_boot);
    umount(MOUNT_POINT).map_err(|error| format!("failed to unmount {device}: {error}"))?;
    result
}

/// Whether this disk has the root, and nobody has found it damaged. A record that cannot be read says nothing.
fn may_boot(disk: &Disk, root_hash: &RootHash) -> bool {
    let slot = slot::on_disk(disk.clone(), root_hash);
    slot.is_some_and(|slot| !record::read(&slot.tree, root_hash).is_ok_and(|record| record.is_corrupt()))
}

/// The same for a folder of entries.
fn mark_spent_in(folder: &Path, root_hash: &RootHash, may_boot: &dyn Fn(&RootHash) -> bool) -> Outcome<Plan> {
    let failed = |error| format!("failed to list the boot entries: {error}");
    let mut files = Vec::new();
    for file in fs::read_dir(folder).map_err(failed)?.take(MAX_FILES) {
        files.extend(file.map_err(failed)?.file_name().into_string().ok());
    }
    files.sort();
    let entries: Vec<Entry> = files.iter().filter_map(|file| read_entry(folder, file)).collect();
    let plan = plan(&entries, &files, root_hash, may_boot);
    let Plan::MarkSpent { revived, spent } = &plan else { return Ok(plan) };
    if let Some(revived) = revived {
        rename(folder, revived, "the boot loader tries it once more")?;
        sync(folder)?;
    }
    for entry in spent {
        rename(folder, entry, "the boot loader does not take it any more")?;
    }
    sync(folder)?;
    Ok(plan)
}

fn rename(folder: &Path, (from, to): &Rename, meaning: &str) -> Outcome<()> {
    fs::rename(folder.join(from), folder.join(to))
        .map_err(|error| format!("failed to rename the boot entry {from} to {to}: {error}"))?;
    log(&format!("the boot entry {from} is now {to}: {meaning}"));
    Ok(())
}

fn sync(folder: &Path) -> Outcome<()> {
    let written = File::open(folder).and_then(|folder| {
        folder.sync_all()?;
        Ok(syncfs(&folder)?)
    });
    written.map_err(|error| format!("failed to write the boot entries: {error}"))
}

/// An entry of ours whose kernel image names a root; anything else is left alone and boots nothing of ours.
fn read_entry(folder: &Path, file: &str) -> Option<Entry> {
    let name = EntryName::parse(file)?;
    let section = pe::section(&mut File::open(folder.join(file)).ok()?, ".cmdline")?;
    let text = std::str::from_utf8(&section).ok()?;
    let root_hash = command_line::root_hash(text.trim_end_matches('\0')).ok()?;
    Some(Entry { file: file.to_owned(), name, root_hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pe::tests::sample;

    /// A folder of entries; each is a file name and the command line of its kernel image.
    fn folder(entries: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in entries {
            fs::write(folder.path().join(file), sample(".cmdline", text.as_bytes())).unwrap();
        }
        folder
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn root(byte: &str) -> String {
        format!("roothash={} ro\0", byte.repeat(32))
    }

    fn mark(folder: &tempfile::TempDir) -> Plan {
        mark_where(folder, &|_| false)
    }

    fn mark_where(folder: &tempfile::TempDir, may_boot: &dyn Fn(&RootHash) -> bool) -> Plan {
        let bad = RootHash::parse(&"0a".repeat(32)).unwrap();
        mark_spent_in(folder.path(), &bad, may_boot).unwrap()
    }

    #[test]
    fn the_bad_entry_is_found_by_its_root_and_loses_its_tries() {
        let entries = folder(&[("cairn_2.efi", &root("0a")), ("cairn_1.efi", &root("0b"))]);
        assert!(matches!(mark(&entries), Plan::MarkSpent { spent, .. } if spent.len() == 1));
        assert_eq!(names(&entries), ["cairn_1.efi", "cairn_2+0-1.efi"]);
        assert!(
            matches!(mark(&entries), Plan::MarkSpent { spent, .. } if spent.is_empty()),
            "once is enough"
        );
        assert_eq!(names(&entries), ["cairn_1.efi", "cairn_2+0-1.efi"]);
    }

    #[test]
    fn an_entry_that_boots_nothing_is_no_way_out() {
        let entries = folder(&[
            ("cairn_2.efi", &root("0a")),
            ("cairn_1.efi", "ro quiet\0"),
            ("cairn_0+0-3.efi", &root("0b")),
            (".cairn_3.tmp", &root("0c")),
        ]);
        fs::write(entries.path().join("cairn_4.efi"), b"torn").unwrap();
        let before = names(&entries);
        assert_eq!(mark(&entries), Plan::NoOther);
        assert_eq!(names(&entries), before);
    }

    #[test]
    fn a_newer_system_that_was_set_aside_is_tried_once_more() {
        let entries = folder(&[("cairn_1.efi", &root("0a")), ("cairn_2+0-1.efi", &root("0b"))]);
        let other = RootHash::parse(&"0b".repeat(32)).unwrap();
        assert_eq!(mark(&entries), Plan::NoOther, "it is not there, or damaged");
        assert_eq!(names(&entries), ["cairn_1.efi", "cairn_2+0-1.efi"]);
        let plan = mark_where(&entries, &|root| *root == other);
        assert!(matches!(plan, Plan::MarkSpent { revived: Some(_), .. }), "{plan:?}");
        assert_eq!(names(&entries), ["cairn_1+0-1.efi", "cairn_2+1-1.efi"]);
    }

    #[test]
    fn a_root_of_another_disk_changes_nothing() {
        let entries = folder(&[("cairn_1.efi", &root("0b"))]);
        assert_eq!(mark(&entries), Plan::NotListed);
        let gone = RootHash::parse(&"0a".repeat(32)).unwrap();
        assert!(mark_spent_in(&entries.path().join("gone"), &gone, &|_| true).is_err());
    }
}
