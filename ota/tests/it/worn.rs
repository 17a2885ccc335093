//! What wears out or is lost: blocks that go bad while they run, slots and kernel images that cannot be read, kernel images
//! that were put together before a power cut, a state file that nobody has; and marks that would lead into what nobody has
//! seen start.

use std::{fs, fs::File, os::unix::fs::symlink};

use cairn_model::{
    desired::DesiredOs,
    report::{OsState, Slot},
};
use cairn_ota::{
    BootControl, Mark, OsVersion, Refusal, Startup, SystemdBoot, UpdateError, Updater, record::BootRecord,
};

use crate::bed::{Bed, Made, install, release};

/// A regular file that fails to be read from its start, as a worn disk does: with EIO.
const UNREADABLE: &str = "/proc/self/mem";

fn version(text: &str) -> OsVersion {
    text.parse().unwrap()
}

/// A machine that runs version 1 and has version 2 armed.
fn armed() -> (Bed, Made) {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, _) = bed.start();
    updater.confirm().unwrap();
    install(&mut updater, &new, &new.wanted()).unwrap();
    (bed, new)
}

/// A machine that runs version 2 for good, with version 1 in the other slot.
fn updated() -> Bed {
    let (bed, _) = armed();
    bed.start().0.confirm().unwrap();
    bed
}

fn starts(bed: &Bed, tree: &str) -> u32 {
    BootRecord::read_any(&File::open(bed.at(tree)).unwrap()).unwrap().starts
}

#[test]
fn a_block_that_goes_bad_while_it_runs_is_found_before_the_boot_is_complete() {
    let bed = updated();
    let (mut updater, _) = bed.start();
    bed.corrupt(Slot::B, 30);
    let error = updater.confirm().unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap();
    assert!(cause.contains("the OS that runs is damaged"), "{error}: {cause}");
    assert_eq!(starts(&bed, "tree-b"), 1, "the initrd looks at the next start");
    assert!(matches!(bed.start().1, Startup::FellOver { .. }));
}

#[test]
fn a_block_that_goes_bad_on_trial_is_not_kept() {
    let (bed, _) = armed();
    let (mut updater, _) = bed.start();
    bed.corrupt(Slot::B, 30);
    updater.confirm().unwrap_err();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+2-1.efi"]);
    assert!(updater.trying().is_some());
    assert!(matches!(bed.start().1, Startup::RolledBack { .. }));
}

#[test]
fn the_running_slot_is_marked_bad_only_for_one_that_was_kept() {
    let (bed, _) = armed();
    let machine = cairn_ota::Machine { boot_id: "again".into(), ..bed.start().0.machine().clone() };
    assert_eq!(machine.running, Slot::B);
    // Version 1 runs, version 2 has tries left and was never kept.
    let (bed, _) = armed();
    let running = cairn_ota::machine::Identity {
        version: version("1"),
        root_hash: release("1", 0).root_hash().to_owned(),
        ..machine.identity
    };
    let machine = cairn_ota::Machine::of_files(bed.path(), Slot::A, running, "again");
    let (mut updater, _) = Updater::open(machine, &bed.state()).unwrap();
    let before = bed.names();
    assert!(matches!(updater.mark(Slot::A, Mark::Bad), Err(UpdateError::NoWayBack { .. })));
    assert!(matches!(updater.mark(Slot::B, Mark::Good), Err(UpdateError::Untried { slot: Slot::B })));
    assert_eq!(bed.names(), before);
    updater.mark(Slot::B, Mark::Bad).unwrap();
    let error = updater.mark(Slot::B, Mark::Good).unwrap_err();
    assert!(error.to_string().contains("make it active first"), "{error}");
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+0-1.efi"]);
}

#[test]
fn a_kernel_image_of_before_the_start_is_never_gone_on_with() {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, _) = bed.start();
    let mut observe = |_| {};
    let stopped = updater.install(
        &new.digest,
        &new.release,
        &new.wanted(),
        &mut crate::bed::carrier(),
        crate::bed::MEMORY,
        &mut observe,
        &|| true,
    );
    assert!(matches!(stopped, Err(UpdateError::Stopped)), "{stopped:?}");
    assert_eq!(updater.status().state, OsState::Fetching);
    assert_eq!(bed.names(), [".cairn_2.tmp", "cairn_1.efi"]);
    let (mut updater, _) = bed.start();
    assert_eq!(bed.names(), ["cairn_1.efi"]);
    install(&mut updater, &new, &new.wanted()).unwrap();
    assert_eq!(bed.start().1, Startup::Trying { version: version("2") });
}

#[test]
fn a_kernel_image_that_cannot_be_read_or_written_is_begun_anew() {
    let (bed, mut new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, _) = bed.start();
    // Its place is taken by what can be neither.
    symlink(UNREADABLE, bed.entries_folder().join(".cairn_2.tmp")).unwrap();
    install(&mut updater, &new, &new.wanted()).unwrap_err();
    assert_eq!(bed.names(), ["cairn_1.efi"], "it is out of the way");
    install(&mut updater, &new, &new.wanted()).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
    // All is there, but the image boots another root: it is not kept either.
    let other = release("3", 0);
    new = release("2", 1);
    new.release.root = other.release.root.clone();
    new.release.verity = other.release.verity.clone();
    new.release.chunks = other.release.chunks.clone();
    install(&mut updater, &new, &new.wanted()).unwrap_err();
    assert!(!bed.names().contains(&".cairn_2.tmp".to_owned()), "{:?}", bed.names());
}

#[test]
fn a_slot_that_cannot_be_read_holds_nothing_and_keeps_nobody_from_anything() {
    let bed = updated();
    let machine = bed.power_on().unwrap();
    fs::remove_file(bed.at("tree-a")).unwrap();
    symlink(UNREADABLE, bed.at("tree-a")).unwrap();
    let (mut updater, startup) = Updater::open(machine, &bed.state()).unwrap();
    assert_eq!(startup, Startup::Normal);
    let [a, b] = updater.slots().unwrap();
    assert_eq!((a.root_hash, a.version, a.bootable), (None, None, false));
    assert!(b.running && b.good);
    updater.confirm().unwrap();
    assert!(matches!(updater.mark(Slot::B, Mark::Bad), Err(UpdateError::NoWayBack { .. })));
}

#[test]
fn a_kernel_image_of_others_that_cannot_be_read_is_no_obstacle() {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    symlink(UNREADABLE, bed.entries_folder().join("cairn_0.5+0-3.efi")).unwrap();
    let machine = bed.power_on().unwrap();
    let boot = SystemdBoot::new(&machine.esp, machine.version());
    let entries = boot.entries().unwrap();
    assert_eq!((entries.len(), entries[1].root_hash.clone()), (2, None));
    let (mut updater, _) = Updater::open(machine, &bed.state()).unwrap();
    install(&mut updater, &new, &new.wanted()).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+3-0.efi"], "an install removes it");
}

#[test]
fn a_release_whose_tries_are_spent_has_failed_also_where_the_state_is_lost() {
    for torn in [false, true] {
        let (bed, new) = armed();
        for _ in 0..3 {
            bed.power_on().unwrap();
        }
        fs::remove_file(bed.state().join("state.json")).unwrap();
        if torn {
            fs::write(bed.state().join("state.json"), "{").unwrap();
        }
        let (mut updater, startup) = bed.start();
        assert_eq!((startup, updater.status().state), (Startup::Normal, OsState::RolledBack));
        let refusal = updater.admit(&new.digest, &new.release, &new.wanted()).unwrap_err();
        assert!(
            matches!(&refusal, Refusal::FailedBefore { reason } if reason.contains("3 tries")),
            "{refusal}"
        );
        let refusal = bed.start().0.admit(&new.digest, &new.release, &new.wanted()).unwrap_err();
        assert!(matches!(refusal, Refusal::FailedBefore { .. }), "also after the next start");
        let again = DesiredOs { attempt: 1, ..new.wanted() };
        install(&mut updater, &new, &again).unwrap();
        assert_eq!(bed.start().1, Startup::Trying { version: version("2") });
    }
}

#[test]
fn a_corrupt_slot_is_no_failed_release_where_the_state_is_lost() {
    let bed = updated();
    bed.corrupt(Slot::B, 3);
    fs::remove_file(bed.state().join("state.json")).unwrap();
    let (mut updater, startup) = bed.start();
    assert!(matches!(startup, Startup::FellOver { .. }));
    let new = release("2", 0);
    install(&mut updater, &new, &new.wanted()).unwrap();
}

#[test]
fn an_entry_that_the_loader_counted_beyond_two_digits_stays_one() {
    let bed = Bed::flashed(&release("1", 0));
    let (machine, entries) = (bed.power_on().unwrap(), bed.entries_folder());
    fs::rename(entries.join("cairn_1.efi"), entries.join("cairn_1+0-100.efi")).unwrap();
    let (mut updater, startup) = Updater::open(machine, &bed.state()).unwrap();
    assert_eq!(startup, Startup::Trying { version: version("1") });
    updater.confirm().unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi"]);
}
