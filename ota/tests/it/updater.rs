//! Updates from end to end on a machine of files: kept, given up, fallen over, refused, interrupted, forgotten.

use std::{fs, io, io::Read};

use cairn_model::{
    release::{DataLayout, Payload},
    report::{OsState, Slot},
};
use cairn_ota::{
    Admission, BootControl, BootEntry, BootError, Carrier, Mark, OsVersion, Refusal, Startup, SystemdBoot,
    UpdateError, Updater, boot::Entry, record::BootRecord,
};

use crate::bed::{Bed, MEMORY, Made, carrier, install, release};

fn version(text: &str) -> OsVersion {
    text.parse().unwrap()
}

/// A machine that runs version 1 and has version 2 armed.
fn armed() -> (Bed, Made) {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, _) = bed.start();
    updater.confirm().unwrap();
    install(&mut updater, &new, &new.wanted()).unwrap();
    assert_eq!(updater.status().state, OsState::Armed);
    (bed, new)
}

/// A machine that runs version 2 for good, with version 1 in the other slot.
fn updated() -> (Bed, Made) {
    let (bed, new) = armed();
    bed.start().0.confirm().unwrap();
    (bed, new)
}

#[test]
fn an_update_is_written_armed_tried_and_kept() {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Normal);
    updater.confirm().unwrap();
    let mut seen = Vec::new();
    let mut observe = |status: cairn_model::report::OsStatus| seen.push(status.state);
    updater
        .install(&new.digest, &new.release, &new.wanted(), &mut carrier(), MEMORY, &mut observe, &|| false)
        .unwrap();
    seen.dedup();
    assert_eq!(seen, [OsState::Fetching, OsState::Written, OsState::Armed]);
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
    assert_eq!(updater.status().other, Some(version("2")));
    assert_eq!(updater.status().release, Some(new.digest.clone()));
    updater.expect_healthy(&["cairn-web.service".into()], true).unwrap();
    assert_eq!(updater.expectations(), [] as [&str; 0], "they are about the next start");

    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Trying { version: version("2") });
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+2-1.efi"]);
    let trying = updater.trying().unwrap();
    assert_eq!(trying.digest, Some(new.digest.clone()));
    assert_eq!(trying.health_command, new.release.health_command);
    assert_eq!(updater.expectations(), ["cairn-web.service"]);
    assert!(trying.hub_verified);
    assert_eq!(updater.status().slot, Slot::B);
    updater.confirm().unwrap();
    assert_eq!(updater.status().state, OsState::Good);
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2.efi"]);
    assert!(updater.trying().is_none() && updater.expectations().is_empty());

    let (updater, startup) = bed.start();
    assert_eq!(startup, Startup::Normal);
    assert_eq!(updater.status().state, OsState::Good);
    assert_eq!(updater.status().other, Some(version("1")));
    assert_eq!(updater.admit(&new.digest, &new.release, &new.wanted()).unwrap(), Admission::Runs);
}

#[test]
fn a_completed_boot_resets_the_boot_record() {
    let bed = Bed::flashed(&release("1", 0));
    let starts = || BootRecord::read_any(&fs::File::open(bed.at("tree-a")).unwrap()).unwrap().starts;
    bed.power_on().unwrap();
    let (mut updater, _) = bed.start();
    assert_eq!(starts(), 2);
    updater.confirm().unwrap();
    updater.confirm().unwrap();
    assert_eq!(starts(), 0);
}

/// All files of a machine, to see that none has changed.
fn snapshot(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = ["root-a", "tree-a", "root-b", "tree-b"]
        .iter()
        .map(|name| ((*name).to_owned(), fs::read(bed.at(name)).unwrap()))
        .collect();
    files.extend(bed.names().into_iter().map(|name| {
        let content = fs::read(bed.entries_folder().join(&name)).unwrap();
        (name, content)
    }));
    files
}

#[test]
fn refuses_with_cause_and_cure_before_anything_is_written() {
    let base = release("5", 0);
    let bed = Bed::flashed(&base);
    let (mut updater, _) = bed.start();
    let before = snapshot(&bed);
    type Change = fn(&mut cairn_model::release::Release);
    let cases: [(&str, Change, &str); 8] = [
        ("6", |r| r.compatible = "other-board".into(), "cairn-test-amd64"),
        ("6", |r| r.arch = "arm64".into(), "choose a release for amd64"),
        ("6", |r| r.min_version = Some("5.1".parse().unwrap()), "install 5.1 first"),
        ("4", |_| {}, "--allow-downgrade"),
        ("5", |r| r.verity.root_hash = "0".repeat(64), "a version of its own"),
        ("6", |r| r.data_layout = DataLayout { min: 2, max: 3 }, "release in between first"),
        ("6", |r| r.root.size = 1 << 30, "larger layout"),
        ("6", |r| r.uki.size = u64::MAX, "not Cairn's"),
    ];
    for (version, change, cure) in cases {
        let mut new = release(version, 1);
        change(&mut new.release);
        let refusal = updater.admit(&new.digest, &new.release, &new.wanted()).unwrap_err();
        assert!(refusal.text().contains(cure), "{}", refusal.text());
        assert!(!refusal.may_pass());
        let error = install(&mut updater, &new, &new.wanted()).unwrap_err();
        assert!(matches!(error, UpdateError::Refused(_)), "{error}");
        updater.refuse(&new.digest, &new.release, &refusal).unwrap();
        let status = updater.status();
        assert_eq!(status.state, OsState::Refused);
        assert_eq!(status.detail, Some(refusal.text()));
        assert_eq!(snapshot(&bed), before);
    }
    let new = release("6", 0);
    assert_eq!(updater.admit(&new.digest, &new.release, &new.wanted()).unwrap(), Admission::Install);
}

#[test]
fn a_hash_tree_and_its_record_must_fit() {
    let bed = Bed::flashed(&release("1", 0));
    let (updater, _) = bed.start();
    let new = release("2", 0);
    fs::File::options().write(true).open(bed.at("tree-b")).unwrap().set_len(3 * 4096 - 1).unwrap();
    let refusal = updater.admit(&new.digest, &new.release, &new.wanted()).unwrap_err();
    assert!(refusal.text().contains("hash tree"), "{}", refusal.text());
}

#[test]
fn three_boots_that_are_not_completed_lead_back_and_the_release_is_remembered() {
    let (bed, new) = armed();
    for left in ["2-1", "1-2", "0-3"] {
        assert_eq!(bed.power_on().unwrap().version(), &version("2"));
        assert_eq!(bed.names(), ["cairn_1.efi".to_owned(), format!("cairn_2+{left}.efi")]);
    }
    let (mut updater, startup) = bed.start();
    let Startup::RolledBack { version: given_up, reason } = startup else { panic!("{startup:?}") };
    assert_eq!(given_up, version("2"));
    assert!(reason.contains("3 tries"), "{reason}");
    assert_eq!(updater.status().state, OsState::RolledBack);
    assert_eq!(updater.status().detail, Some(reason));
    assert_eq!(updater.status().other, None);
    let refusal = updater.admit(&new.digest, &new.release, &new.wanted()).unwrap_err();
    assert!(matches!(refusal, Refusal::FailedBefore { .. }), "{refusal}");
    let again = cairn_model::desired::DesiredOs { attempt: 1, ..new.wanted() };
    assert_eq!(bed.start().1, Startup::Normal, "told once");
    install(&mut updater, &new, &again).unwrap();
    assert_eq!(bed.start().1, Startup::Trying { version: version("2") });
}

#[test]
fn what_is_found_unhealthy_is_given_up_at_once() {
    let (bed, new) = armed();
    let (mut updater, _) = bed.start();
    updater.reject("web is not healthy: connection refused").unwrap();
    assert_eq!(updater.status().state, OsState::RolledBack);
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+0-1.efi"]);
    let (updater, startup) = bed.start();
    let reason = "web is not healthy: connection refused".to_owned();
    assert_eq!(startup, Startup::RolledBack { version: version("2"), reason: reason.clone() });
    assert_eq!(updater.status().detail, Some(reason));
    assert_eq!(bed.start().1, Startup::Normal);
    let refusal = updater.admit(&new.digest, &new.release, &new.wanted()).unwrap_err();
    assert!(refusal.text().contains("connection refused"), "{}", refusal.text());
}

#[test]
fn a_power_cut_between_verdict_and_mark_costs_one_try_and_no_more() {
    let (bed, _) = armed();
    let (mut updater, _) = bed.start();
    updater.reject("unwell").unwrap();
    fs::rename(bed.entries_folder().join("cairn_2+0-1.efi"), bed.entries_folder().join("cairn_2+2-1.efi"))
        .unwrap();
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Trying { version: version("2") });
    updater.confirm().unwrap();
    assert_eq!(bed.start().0.status().state, OsState::Good);
}

#[test]
fn rejects_nothing_where_nothing_else_boots() {
    let (bed, _) = armed();
    fs::remove_file(bed.entries_folder().join("cairn_1.efi")).unwrap();
    let (mut updater, _) = bed.start();
    let before = bed.names();
    assert!(matches!(updater.reject("unwell"), Err(UpdateError::NoWayBack { .. })));
    assert_eq!(bed.names(), before);
    assert!(updater.trying().is_some());
    updater.confirm().unwrap();
    assert!(matches!(updater.reject("late"), Err(UpdateError::Step(_))));
}

#[test]
fn a_good_slot_that_turns_out_corrupt_falls_over_and_can_be_written_anew() {
    let (bed, new) = updated();
    bed.corrupt(Slot::B, 3);
    let (mut updater, startup) = bed.start();
    let Startup::FellOver { version: fell, reason } = startup else { panic!("{startup:?}") };
    assert_eq!(fell, version("2"));
    assert!(reason.contains("slot b is corrupt from block 7"), "{reason}");
    assert_eq!(updater.status().other, None);
    assert_eq!(updater.status().version, version("1"));
    assert!(updater.slots().unwrap()[1].corrupt);
    assert_eq!(bed.start().1, Startup::Normal, "told once");
    install(&mut updater, &new, &new.wanted()).unwrap();
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Trying { version: version("2") });
    updater.confirm().unwrap();
    assert!(!updater.slots().unwrap()[1].corrupt);
}

#[test]
fn a_slot_that_is_corrupt_while_it_is_tried_is_rolled_back() {
    let (bed, _) = armed();
    bed.corrupt(Slot::B, 3);
    let (_, startup) = bed.start();
    let Startup::RolledBack { reason, .. } = startup else { panic!("{startup:?}") };
    assert!(reason.contains("corrupt"), "{reason}");
}

#[test]
fn a_corrupt_slot_is_told_also_where_the_state_is_lost() {
    let (bed, _) = updated();
    bed.corrupt(Slot::B, 3);
    fs::remove_file(bed.state().join("state.json")).unwrap();
    assert!(matches!(bed.start().1, Startup::FellOver { .. }));
    assert_eq!(bed.start().1, Startup::Normal);
}

#[test]
fn a_lost_or_torn_state_is_made_anew_and_never_good() {
    for torn in [None, Some(""), Some("{"), Some("{\"schema\": 99}"), Some("\u{0}\u{0}")] {
        let lose = |bed: &Bed| match torn {
            None => fs::remove_file(bed.state().join("state.json")).unwrap(),
            Some(text) => fs::write(bed.state().join("state.json"), text).unwrap(),
        };
        let (bed, new) = armed();
        lose(&bed);
        let machine = bed.power_on().unwrap();
        let (mut updater, startup) = Updater::open(machine.clone(), &bed.state()).unwrap();
        assert_eq!(startup, Startup::Trying { version: version("2") });
        assert_eq!(updater.trying().unwrap().digest, None);
        drop(Updater::open(machine, &bed.state()).unwrap());
        updater.confirm().unwrap();
        assert_eq!(bed.start().0.status().state, OsState::Good);
        lose(&bed);
        let (updater, startup) = bed.start();
        assert_eq!((startup, updater.status().state), (Startup::Normal, OsState::Idle));
        assert_eq!(updater.admit(&new.digest, &new.release, &new.wanted()).unwrap(), Admission::Runs);
    }
}

#[test]
fn an_armed_entry_that_nothing_is_remembered_about_is_armed() {
    let (bed, _) = (Bed::flashed(&release("1", 0)), ());
    let machine = bed.power_on().unwrap();
    let (mut updater, _) = Updater::open(machine.clone(), &bed.state()).unwrap();
    let new = release("2", 0);
    install(&mut updater, &new, &new.wanted()).unwrap();
    fs::remove_file(bed.state().join("state.json")).unwrap();
    let (updater, startup) = Updater::open(machine, &bed.state()).unwrap();
    assert_eq!((startup, updater.status().state), (Startup::Normal, OsState::Armed));
    assert_eq!(updater.admit(&new.digest, &new.release, &new.wanted()).unwrap(), Admission::Armed);
}

#[test]
fn a_restart_of_the_daemon_changes_nothing() {
    let bed = Bed::flashed(&release("1", 0));
    let new = release("2", 0);
    let machine = bed.power_on().unwrap();
    let (mut updater, _) = Updater::open(machine.clone(), &bed.state()).unwrap();
    install(&mut updater, &new, &new.wanted()).unwrap();
    for _ in 0..5 {
        let (updater, startup) = Updater::open(machine.clone(), &bed.state()).unwrap();
        assert_eq!((startup, updater.status().state), (Startup::Normal, OsState::Armed));
    }
    let machine = bed.power_on().unwrap();
    for _ in 0..5 {
        let (_, startup) = Updater::open(machine.clone(), &bed.state()).unwrap();
        assert_eq!(startup, Startup::Trying { version: version("2") });
    }
}

#[test]
fn a_loader_that_ignores_the_entry_ends_in_a_rollback_and_no_endless_restart() {
    let (bed, _) = armed();
    // The firmware starts version 1 although version 2 has tries left.
    let hide = |from: &str, to: &str| {
        fs::rename(bed.entries_folder().join(from), bed.entries_folder().join(to)).unwrap();
    };
    hide("cairn_2+3-0.efi", "hidden");
    let machines: Vec<_> = {
        let running = bed.power_on().unwrap();
        (0..3)
            .map(|boot| cairn_ota::Machine { boot_id: format!("again {boot}"), ..running.clone() })
            .collect()
    };
    hide("hidden", "cairn_2+3-0.efi");
    let starts: Vec<Startup> =
        machines.into_iter().map(|machine| Updater::open(machine, &bed.state()).unwrap().1).collect();
    assert_eq!(starts[..2], [Startup::Normal, Startup::Normal]);
    assert!(matches!(&starts[2], Startup::RolledBack { reason, .. } if reason.contains("3 restarts")));
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+0-1.efi"], "it does not come up by surprise");
}

#[test]
fn a_blessing_whose_record_was_lost_is_kept() {
    let (bed, _) = armed();
    let (mut updater, _) = bed.start();
    let before = fs::read(bed.state().join("state.json")).unwrap();
    updater.confirm().unwrap();
    fs::write(bed.state().join("state.json"), before).unwrap();
    let (updater, startup) = bed.start();
    assert_eq!((startup, updater.status().state), (Startup::Normal, OsState::Good));
}

#[test]
fn a_downgrade_by_name_is_tried_and_kept() {
    let (bed, old) = (Bed::flashed(&release("2", 0)), release("1", 0));
    let (mut updater, _) = bed.start();
    let wanted = cairn_model::desired::DesiredOs { allow_downgrade: true, ..old.wanted() };
    install(&mut updater, &old, &wanted).unwrap();
    assert_eq!(bed.names(), ["cairn_1+3-0.efi", "cairn_2+0-1.efi"]);
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Trying { version: version("1") });
    updater.confirm().unwrap();
    let (updater, startup) = bed.start();
    assert_eq!((startup, updater.status().version), (Startup::Normal, version("1")));
}

#[test]
fn a_downgrade_that_does_not_start_or_is_unwell_leads_back_to_the_newer() {
    for unwell in [true, false] {
        let (bed, old) = (Bed::flashed(&release("2", 0)), release("1", 0));
        let (mut updater, _) = bed.start();
        let wanted = cairn_model::desired::DesiredOs { allow_downgrade: true, ..old.wanted() };
        install(&mut updater, &old, &wanted).unwrap();
        if unwell {
            let (mut updater, _) = bed.start();
            updater.reject("unwell").unwrap();
            assert_eq!(bed.names(), ["cairn_1+0-1.efi", "cairn_2.efi"]);
        } else {
            for _ in 0..3 {
                assert_eq!(bed.power_on().unwrap().version(), &version("1"));
            }
        }
        let (updater, startup) = bed.start();
        assert!(matches!(startup, Startup::RolledBack { .. }), "{startup:?}");
        assert_eq!(updater.status().version, version("2"));
        assert_eq!(bed.bootable(), [version("2")]);
        assert_eq!(bed.names().last().unwrap(), "cairn_2.efi");
    }
}

/// Breaks off after so many bytes.
struct Guard(cairn_ota::FolderCarrier, u64);

impl Carrier for Guard {
    fn read(&mut self, blob: &Payload, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send + '_>> {
        let Some(left) = self.1.checked_sub(length.min(self.1)).filter(|_| self.1 > 0) else {
            return Err(io::Error::other("the hub is gone"));
        };
        let whole = self.0.read(blob, offset, length)?.take(self.1);
        self.1 = left;
        Ok(Box::new(whole))
    }
}

#[test]
fn a_transfer_that_breaks_off_or_is_stopped_goes_on() {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, _) = bed.start();
    let size = new.release.chunks.index.size + new.release.chunks.pack.size / 2;
    let mut half = Guard(carrier(), size);
    let mut observe = |_| {};
    let error = updater
        .install(&new.digest, &new.release, &new.wanted(), &mut half, MEMORY, &mut observe, &|| false)
        .unwrap_err();
    assert!(matches!(error, UpdateError::Write(_)), "{error}");
    assert_eq!(updater.status().state, OsState::Failed);
    assert!(updater.status().detail.is_some());
    assert_eq!(bed.bootable(), [version("1")]);

    let error = updater
        .install(&new.digest, &new.release, &new.wanted(), &mut carrier(), MEMORY, &mut observe, &|| true)
        .unwrap_err();
    assert!(matches!(error, UpdateError::Stopped), "{error}");
    assert_eq!(updater.status().state, OsState::Fetching);
    let (mut updater, startup) = bed.start();
    assert_eq!((startup, updater.status().state), (Startup::Normal, OsState::Fetching));
    install(&mut updater, &new, &new.wanted()).unwrap();
    assert_eq!(bed.start().1, Startup::Trying { version: version("2") });
}

#[test]
fn what_is_armed_is_not_written_again_and_can_be_replaced() {
    let (bed, new) = (Bed::flashed(&release("1", 0)), release("2", 0));
    let (mut updater, _) = bed.start();
    install(&mut updater, &new, &new.wanted()).unwrap();
    let before = snapshot(&bed);
    let mut none = Guard(carrier(), 0);
    updater
        .install(&new.digest, &new.release, &new.wanted(), &mut none, MEMORY, &mut |_| {}, &|| false)
        .unwrap();
    assert_eq!(snapshot(&bed), before);
    let newer = release("3", 0);
    install(&mut updater, &newer, &newer.wanted()).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_3+3-0.efi"]);
    let rebuilt = release("3", 1);
    install(&mut updater, &rebuilt, &rebuilt.wanted()).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_3+3-0.efi"]);
    let (updater, _) = bed.start();
    assert_eq!(updater.machine().root_hash(), rebuilt.root_hash());
    let refusal = updater.admit(&newer.digest, &newer.release, &newer.wanted()).unwrap_err();
    assert!(matches!(refusal, Refusal::Trying { .. }) && refusal.may_pass());
}

#[test]
fn rejects_a_kernel_image_that_boots_another_root() {
    let bed = Bed::flashed(&release("1", 0));
    let (mut updater, _) = bed.start();
    let (mut new, other) = (release("2", 0), release("3", 0));
    // All that is named is genuine, but it does not belong together.
    new.release.root = other.release.root.clone();
    new.release.verity = other.release.verity.clone();
    let error = install(&mut updater, &new, &new.wanted()).unwrap_err();
    assert!(!matches!(error, UpdateError::Refused(_)), "{error}");
    assert_eq!(updater.status().state, OsState::Failed);
    assert_eq!(bed.bootable(), [version("1")]);
}

#[test]
fn an_install_needs_an_entry_to_come_back_to() {
    let bed = Bed::flashed(&release("1", 0));
    let (mut updater, _) = bed.start();
    let new = release("2", 0);
    fs::remove_file(bed.entries_folder().join("cairn_1.efi")).unwrap();
    let error = install(&mut updater, &new, &new.wanted()).unwrap_err();
    assert!(matches!(error, UpdateError::NoOwnEntry { .. }), "{error}");
}

/// An ESP without room.
#[derive(Debug)]
struct Full(SystemdBoot);

impl BootControl for Full {
    fn entries(&self) -> Result<Vec<Entry>, BootError> {
        self.0.entries()
    }
    fn room(&self) -> Result<u64, BootError> {
        Ok(100)
    }
    fn staged(&self, version: &OsVersion) -> Result<fs::File, BootError> {
        self.0.staged(version)
    }
    fn install_as_last_act(&self, version: &OsVersion, uki: &Payload, hash: &str) -> Result<(), BootError> {
        self.0.install_as_last_act(version, uki, hash)
    }
    fn remove(&self, version: &OsVersion) -> Result<(), BootError> {
        self.0.remove(version)
    }
    fn sweep(&self, keep: Option<&OsVersion>) -> Result<(), BootError> {
        self.0.sweep(keep)
    }
    fn bless(&self, version: &OsVersion) -> Result<(), BootError> {
        self.0.bless(version)
    }
    fn mark_bad(&self, version: &OsVersion) -> Result<(), BootError> {
        self.0.mark_bad(version)
    }
    fn make_next(&self, version: &OsVersion) -> Result<(), BootError> {
        self.0.make_next(version)
    }
}

#[test]
fn refuses_where_the_esp_has_no_room() {
    let bed = Bed::flashed(&release("1", 0));
    let machine = bed.power_on().unwrap();
    let boot = Box::new(Full(SystemdBoot::new(&machine.esp, machine.version())));
    let (mut updater, _) = Updater::open_with(machine, boot, &bed.state()).unwrap();
    let (new, before) = (release("2", 0), snapshot(&bed));
    match install(&mut updater, &new, &new.wanted()) {
        Err(UpdateError::Refused(Refusal::TooLarge { what: "kernel image", room: 100, .. })) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(snapshot(&bed), before);
}

#[test]
fn slots_are_marked_with_the_words_of_rauc() {
    let (bed, _) = updated();
    let (mut updater, _) = bed.start();
    let info = updater.slots().unwrap();
    assert_eq!((info[0].version.clone(), info[0].good, info[0].running), (Some(version("1")), true, false));
    assert_eq!((info[1].version.clone(), info[1].good, info[1].running), (Some(version("2")), true, true));
    updater.mark(Slot::A, Mark::Active).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+0-1.efi"]);
    let (mut updater, startup) = bed.start();
    assert_eq!((startup, updater.status().version), (Startup::Normal, version("1")), "it did not fall over");
    assert!(matches!(updater.mark(Slot::A, Mark::Bad), Err(UpdateError::NoWayBack { .. })));
    updater.mark(Slot::B, Mark::Active).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
    updater.mark(Slot::B, Mark::Bad).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+0-1.efi"]);
    updater.mark(Slot::B, Mark::Active).unwrap();
    updater.mark(Slot::A, Mark::Good).unwrap();
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Trying { version: version("2") });
    updater.mark(Slot::B, Mark::Good).unwrap();
    updater.mark(Slot::A, Mark::Good).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2.efi"]);
    updater.mark(Slot::B, Mark::Bad).unwrap();
    assert_eq!(bed.start().0.status().version, version("1"));
}

#[test]
fn marking_what_is_tried_is_the_verdict() {
    let (bed, new) = armed();
    bed.start().0.mark(Slot::B, Mark::Good).unwrap();
    assert_eq!(bed.start().0.status().state, OsState::Good);
    let (bed, _) = armed();
    bed.start().0.mark(Slot::B, Mark::Bad).unwrap();
    let (updater, startup) = bed.start();
    assert!(matches!(startup, Startup::RolledBack { .. }));
    assert!(updater.admit(&new.digest, &new.release, &new.wanted()).is_err());
}

#[test]
fn an_empty_or_corrupt_slot_cannot_be_marked_good() {
    let bed = Bed::flashed(&release("1", 0));
    let (mut updater, _) = bed.start();
    for how in [Mark::Good, Mark::Active] {
        assert!(matches!(updater.mark(Slot::B, how), Err(UpdateError::Empty { slot: Slot::B })));
    }
    let (bed, _) = updated();
    bed.corrupt(Slot::B, 1);
    let (mut updater, _) = bed.start();
    for how in [Mark::Good, Mark::Active] {
        assert!(matches!(updater.mark(Slot::B, how), Err(UpdateError::Empty { slot: Slot::B })));
    }
}

#[test]
fn expectations_are_bounded_and_only_for_an_armed_release() {
    let (bed, _) = (Bed::flashed(&release("1", 0)), ());
    let (mut updater, _) = bed.start();
    updater.expect_healthy(&["a.service".into()], false).unwrap();
    let many = vec![String::new(); 1025];
    assert!(matches!(updater.expect_healthy(&many, false), Err(UpdateError::TooMany { count: 1025 })));
}

#[test]
fn twins_of_the_running_entry_are_settled_before_an_install() {
    let bed = Bed::flashed(&release("1", 0));
    let content = fs::read(bed.entries_folder().join("cairn_1.efi")).unwrap();
    bed.put_entry(&BootEntry { version: version("1"), tries: Some((0, 3)) }.to_string(), &content);
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Normal);
    let new = release("2", 0);
    install(&mut updater, &new, &new.wanted()).unwrap();
    assert_eq!(bed.names(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
}

#[test]
fn a_newer_layout_of_the_data_partition_is_gone_back_from_or_said() {
    let bed = Bed::flashed(&release("1", 0));
    fs::write(bed.state().join("layout"), "2 1\n").unwrap();
    bed.start();
    assert_eq!(fs::read_to_string(bed.state().join("layout")).unwrap(), "1\n");
    fs::write(bed.state().join("layout"), "2\n").unwrap();
    let machine = bed.power_on().unwrap();
    assert!(matches!(Updater::open(machine, &bed.state()), Err(UpdateError::Layout(_))));
}
