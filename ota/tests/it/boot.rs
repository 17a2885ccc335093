//! Boot control over a folder: foreign files, twins, and the counters of systemd-boot.

use std::{
    fs,
    fs::File,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use cairn_model::{Digest, release::Payload};
use cairn_ota::{BootControl, BootError, OsVersion, SystemdBoot};

use crate::bed::kernel_image;

struct Esp {
    _temporary: tempfile::TempDir,
    folder: PathBuf,
    boot: SystemdBoot,
}

fn version(text: &str) -> OsVersion {
    text.parse().unwrap()
}

fn hash(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn image(digit: char) -> Vec<u8> {
    kernel_image(&format!("roothash={}", hash(digit)), digit as u64)
}

fn payload(bytes: &[u8]) -> Payload {
    Payload { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// An ESP with these entries, each booting a root of its version's digit; version 1 runs.
fn esp(names: &[&str]) -> Esp {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("EFI/Linux");
    fs::create_dir_all(&folder).unwrap();
    for name in names {
        let digit = name.chars().find(char::is_ascii_digit).unwrap_or('0');
        fs::write(folder.join(name), image(digit)).unwrap();
    }
    let boot = SystemdBoot::new(temporary.path(), &version("1"));
    Esp { _temporary: temporary, folder, boot }
}

impl Esp {
    fn boot_folder(&self) -> &Path {
        self._temporary.path()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.folder)
            .unwrap()
            .map(|found| found.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn stage(&self, text: &str, bytes: &[u8]) {
        let mut file = self.boot.staged(&version(text)).unwrap();
        file.set_len(0).unwrap();
        file.write_all(bytes).unwrap();
    }
}

#[test]
fn foreign_files_are_left_alone() {
    let foreign = ["other.efi", "cairn_x.efi", "cairn_1+3.efi.bak", ".cairn_9.tmp.efi", "cairn_2.EFI"];
    let esp = esp(&[&["cairn_1.efi"], &foreign[..]].concat());
    fs::create_dir(esp.folder.join("cairn_3.efi")).unwrap();
    let entries = esp.boot.entries().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].root_hash, Some(hash('1')));
    esp.boot.sweep(None).unwrap();
    assert_eq!(esp.names().len(), 7);
}

#[test]
fn entries_come_newest_first() {
    let esp = esp(&["cairn_1.9.efi", "cairn_1.10+3-0.efi", "cairn_1.2~rc1+0-3.efi"]);
    let versions: Vec<String> =
        esp.boot.entries().unwrap().iter().map(|entry| entry.boot.to_string()).collect();
    assert_eq!(versions, ["cairn_1.10+3-0.efi", "cairn_1.9.efi", "cairn_1.2~rc1+0-3.efi"]);
}

#[test]
fn an_esp_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let boot = SystemdBoot::new(folder.path(), &version("1"));
    assert!(matches!(boot.entries(), Err(BootError::Read { .. })));
    assert!(matches!(boot.staged(&version("2")), Err(BootError::Write { .. })));
}

#[test]
fn blessing_and_condemning_change_the_counters() {
    let cases: [(&str, &str, &str); 5] = [
        ("cairn_2+2-1.efi", "cairn_2.efi", "cairn_2+0-1.efi"),
        ("cairn_2+0-3.efi", "cairn_2.efi", "cairn_2+0-3.efi"),
        ("cairn_2+3.efi", "cairn_2.efi", "cairn_2+0-1.efi"),
        ("cairn_2+1-2.efi", "cairn_2.efi", "cairn_2+0-2.efi"),
        ("cairn_2.efi", "cairn_2.efi", "cairn_2+0-1.efi"),
    ];
    for (before, blessed, condemned) in cases {
        let esp = esp(&[before]);
        esp.boot.bless(&version("2")).unwrap();
        assert_eq!(esp.names(), [blessed]);
        let esp = self::esp(&[before]);
        esp.boot.mark_bad(&version("2")).unwrap();
        assert_eq!(esp.names(), [condemned]);
        esp.boot.mark_bad(&version("2")).unwrap();
        assert_eq!(esp.names(), [condemned], "twice");
    }
    let esp = esp(&["cairn_1.efi"]);
    assert!(matches!(esp.boot.bless(&version("2")), Err(BootError::Missing { .. })));
    assert!(matches!(esp.boot.mark_bad(&version("2")), Err(BootError::Missing { .. })));
    assert!(matches!(esp.boot.make_next(&version("2")), Err(BootError::Missing { .. })));
    esp.boot.remove(&version("2")).unwrap();
}

#[test]
fn twins_become_one_and_its_content_is_whole() {
    for (twins, how, left) in [
        (["cairn_2.efi", "cairn_2+2-1.efi"], "bless", "cairn_2.efi"),
        (["cairn_2.efi", "cairn_2+0-1.efi"], "bad", "cairn_2+0-1.efi"),
        (["cairn_2+3-0.efi", "cairn_2+2-1.efi"], "bad", "cairn_2+0-1.efi"),
        (["cairn_1.efi", "cairn_1+0-3.efi"], "bless", "cairn_1.efi"),
    ] {
        let esp = esp(&twins);
        let version = version(&twins[0][6..7]);
        assert_eq!(esp.boot.entries().unwrap()[0].twins.len(), 1);
        if how == "bless" { esp.boot.bless(&version) } else { esp.boot.mark_bad(&version) }.unwrap();
        assert_eq!(esp.names(), [left], "{twins:?}");
        let digit = twins[0].chars().nth(6).unwrap();
        assert_eq!(fs::read(esp.folder.join(left)).unwrap(), image(digit));
    }
    let esp = esp(&["cairn_2.efi", "cairn_2+2-1.efi", "cairn_1.efi"]);
    esp.boot.remove(&version("2")).unwrap();
    assert_eq!(esp.names(), ["cairn_1.efi"]);
}

#[test]
fn what_a_power_cut_left_of_a_rename_is_never_taken_for_the_entry() {
    for (whole, how, left) in [
        ("cairn_2+2-1.efi", "bless", "cairn_2.efi"),
        ("cairn_2+2-1.efi", "bad", "cairn_2+0-1.efi"),
        ("cairn_2+2-1.efi", "next", "cairn_2+3-0.efi"),
    ] {
        for running in ["1", "2"] {
            let esp = esp(&["cairn_1.efi", whole]);
            let boot = SystemdBoot::new(esp.boot_folder(), &version(running));
            // The new name before it has its content: not counted, and of no length.
            fs::write(esp.folder.join("cairn_2.efi"), b"").unwrap();
            let entries = boot.entries().unwrap();
            assert_eq!(entries[0].boot.to_string(), whole);
            assert!(entries[0].root_hash.is_some());
            match how {
                "bless" => boot.bless(&version("2")).unwrap(),
                "bad" => boot.mark_bad(&version("2")).unwrap(),
                _ => boot.make_next(&version("2")).unwrap(),
            }
            let mut names = ["cairn_1.efi", left];
            names.sort_unstable();
            assert_eq!(esp.names(), names);
            assert_eq!(fs::read(esp.folder.join(left)).unwrap(), image('2'));
            boot.remove(&version("2")).unwrap();
            assert_eq!(esp.names(), ["cairn_1.efi"]);
        }
    }
}

/// What `change` says on an ESP with these entries and not a byte of room, and which entries are whole then; `None` where
/// nothing can be mounted.
fn on_full_esp(
    names: &[&str],
    change: impl FnOnce(&SystemdBoot) -> Result<(), BootError>,
) -> Option<(Result<(), BootError>, Vec<String>)> {
    let folder = tempfile::tempdir().unwrap();
    let mount =
        |args: &[&str]| Command::new("mount").args(args).arg(folder.path()).status().unwrap().success();
    if !mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) {
        eprintln!("not root: no file system that is full was tried");
        return None;
    }
    let entries = folder.path().join("EFI/Linux");
    fs::create_dir_all(&entries).unwrap();
    for name in names {
        let content = if name.ends_with("+0-0.efi") { Vec::new() } else { image('2') };
        fs::write(entries.join(name), content).unwrap();
    }
    fs::write(folder.path().join("filler"), vec![1; 1 << 20]).unwrap_err();
    let outcome = change(&SystemdBoot::new(folder.path(), &version("2")));
    let mut whole: Vec<String> = fs::read_dir(&entries)
        .unwrap()
        .map(|found| found.unwrap())
        .filter(|found| fs::read(found.path()).unwrap() == image('2'))
        .map(|found| found.file_name().into_string().unwrap())
        .collect();
    whole.sort();
    Command::new("umount").arg(folder.path()).status().unwrap();
    Some((outcome, whole))
}

#[test]
fn a_good_os_is_kept_where_the_esp_has_no_room_for_a_copy() {
    // The second one is what a power cut left of a rename.
    let names = ["cairn_2+2-1.efi", "cairn_2+0-0.efi"];
    let Some((outcome, whole)) = on_full_esp(&names, |boot| boot.bless(&version("2"))) else { return };
    outcome.unwrap();
    assert_eq!(whole, ["cairn_2.efi"]);
}

#[test]
fn without_room_for_a_copy_what_runs_is_not_set_aside() {
    let names = ["cairn_1+3-0.efi", "cairn_2.efi"];
    let Some((outcome, whole)) = on_full_esp(&names, |boot| boot.make_next(&version("1"))) else { return };
    assert!(matches!(outcome, Err(BootError::Full { .. })), "{outcome:?}");
    assert_eq!(whole, names, "the loader takes what runs");
}

#[test]
fn what_is_set_aside_is_copied_and_never_renamed() {
    let inode = |esp: &Esp, name: &str| fs::metadata(esp.folder.join(name)).unwrap().ino();
    let esp = esp(&["cairn_1+3-0.efi", "cairn_2.efi"]);
    let before = inode(&esp, "cairn_2.efi");
    // Another name of the file, so that its number is not given to a new one.
    fs::hard_link(esp.folder.join("cairn_2.efi"), esp.boot_folder().join("held")).unwrap();
    esp.boot.make_next(&version("1")).unwrap();
    assert_eq!(esp.names(), ["cairn_1+3-0.efi", "cairn_2+0-1.efi"]);
    assert_ne!(inode(&esp, "cairn_2+0-1.efi"), before, "on vfat a rename has moments without either name");
    assert_eq!(fs::read(esp.folder.join("cairn_2+0-1.efi")).unwrap(), image('2'));
}

#[test]
fn a_downgrade_that_a_power_cut_ended_between_copy_and_old_name_goes_on() {
    for left in [["cairn_2.efi", "cairn_2+0-1.efi"], ["cairn_2+0-1.efi", "cairn_2+0-0.efi"]] {
        let esp = esp(&["cairn_1+3-0.efi", left[0], left[1]]);
        if left[1].ends_with("+0-0.efi") {
            fs::write(esp.folder.join(left[1]), b"").unwrap();
        }
        let boot = SystemdBoot::new(esp.boot_folder(), &version("2"));
        assert!(boot.entries().unwrap().iter().all(|entry| entry.root_hash.is_some()), "{left:?}");
        boot.make_next(&version("1")).unwrap();
        assert_eq!(esp.names(), ["cairn_1+3-0.efi", "cairn_2+0-1.efi"], "{left:?}");
        assert_eq!(fs::read(esp.folder.join("cairn_2+0-1.efi")).unwrap(), image('2'));
    }
}

#[test]
fn a_short_name_goes_once_the_running_entry_has_its_own() {
    let esp = esp(&["CAIRN_~1.EFI", "CAIRN_~2.EFI", "OTHER~1.EFI"]);
    esp.boot.sweep(None).unwrap();
    assert_eq!(esp.names().len(), 3, "it may be what runs");
    fs::write(esp.folder.join("cairn_1.efi"), b"").unwrap();
    esp.boot.sweep(None).unwrap();
    assert_eq!(esp.names().len(), 4, "an entry without a kernel image boots nothing");
    fs::write(esp.folder.join("cairn_1.efi"), image('1')).unwrap();
    esp.boot.sweep(None).unwrap();
    assert_eq!(esp.names(), ["OTHER~1.EFI", "cairn_1.efi"]);
}

#[test]
fn an_older_version_is_made_next_by_setting_the_newer_aside() {
    let esp = esp(&["cairn_1.efi", "cairn_2.efi", "cairn_3+0-3.efi"]);
    esp.boot.make_next(&version("1")).unwrap();
    assert_eq!(esp.names(), ["cairn_1.efi", "cairn_2+0-1.efi", "cairn_3+0-3.efi"]);
    esp.boot.make_next(&version("2")).unwrap();
    assert_eq!(esp.names(), ["cairn_1.efi", "cairn_2+3-0.efi", "cairn_3+0-3.efi"], "all its tries are back");
}

#[test]
fn a_new_entry_appears_whole_or_not_at_all() {
    let esp = esp(&["cairn_1.efi"]);
    let good = image('2');
    let unsound = |bytes: &[u8], meant: &Payload, root: char| {
        esp.stage("2", bytes);
        let result = esp.boot.install_as_last_act(&version("2"), meant, &hash(root));
        assert!(matches!(result, Err(BootError::Unsound { .. })), "{result:?}");
        assert_eq!(esp.boot.entries().unwrap().len(), 1);
    };
    unsound(&good[..good.len() - 1], &payload(&good), '2');
    unsound(&[&good[..], b"x"].concat(), &payload(&good), '2');
    unsound(&image('3'), &payload(&good), '2');
    unsound(&good, &payload(&good), '3');
    let no_root = kernel_image("quiet", 1);
    unsound(&no_root, &payload(&no_root), '2');
    esp.stage("2", &good);
    esp.boot.install_as_last_act(&version("2"), &payload(&good), &hash('2')).unwrap();
    assert_eq!(esp.names(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
    let again = esp.boot.install_as_last_act(&version("2"), &payload(&good), &hash('2'));
    assert!(matches!(again, Err(BootError::Unsound { .. })), "nothing is staged");
}

#[test]
fn what_staging_left_is_swept_but_for_what_goes_on() {
    let esp = esp(&["cairn_1.efi"]);
    esp.stage("2", b"half");
    esp.stage("3", b"half");
    esp.boot.sweep(Some(&version("3"))).unwrap();
    assert_eq!(esp.names(), [".cairn_3.tmp", "cairn_1.efi"]);
    let mut kept = String::new();
    std::io::Read::read_to_string(&mut esp.boot.staged(&version("3")).unwrap(), &mut kept).unwrap();
    assert_eq!(kept, "half", "an interrupted transfer goes on");
    esp.boot.sweep(None).unwrap();
    assert_eq!(esp.names(), ["cairn_1.efi"]);
}

#[test]
fn a_kernel_image_that_is_none_has_no_root() {
    let esp = esp(&[]);
    File::create(esp.folder.join("cairn_2+3-0.efi")).unwrap();
    fs::write(esp.folder.join("cairn_3.efi"), b"MZ").unwrap();
    assert!(esp.boot.entries().unwrap().iter().all(|entry| entry.root_hash.is_none()));
}
