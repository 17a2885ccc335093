//! A release that is armed and then not wanted any more, or wanted on other terms.

use std::fs;

use cairn_model::{
    desired::{DesiredOs, OsHealth},
    report::OsState,
};
use cairn_ota::{Admission, OsVersion, Startup, UpdateError, Updater};

use crate::{
    bed::{Bed, Made, install, release},
    child::alone,
};

fn version(text: &str) -> OsVersion {
    text.parse().unwrap()
}

/// A machine that runs `running` and has `new` armed, in the same boot.
fn armed(running: &str, new: &str) -> (Bed, Made, Updater) {
    let (bed, new) = (Bed::flashed(&release(running, 0)), release(new, 0));
    let (mut updater, _) = bed.start();
    updater.confirm().unwrap();
    let wanted = DesiredOs { allow_downgrade: true, ..new.wanted() };
    install(&mut updater, &new, &wanted).unwrap();
    (bed, new, updater)
}

#[test]
fn rejects_to_disarm_what_is_not_armed() {
    let bed = Bed::flashed(&release("1", 0));
    let (mut updater, _) = bed.start();
    assert!(matches!(updater.disarm(), Err(UpdateError::Step(_))));
    let (bed, _, _) = armed("1", "2");
    let (mut updater, startup) = bed.start();
    assert_eq!(startup, Startup::Trying { version: version("2") });
    let before = bed.names();
    assert!(matches!(updater.disarm(), Err(UpdateError::Step(_))), "it needs a verdict");
    assert_eq!(bed.names(), before);
    updater.confirm().unwrap();
    assert!(matches!(updater.disarm(), Err(UpdateError::Step(_))), "it is what runs");
}

#[test]
fn what_is_disarmed_is_not_booted_by_a_power_cut() {
    for (running, new) in [("1", "2"), ("2", "1")] {
        let (bed, made, mut updater) = armed(running, new);
        updater.disarm().unwrap();
        assert_eq!(bed.names(), [format!("cairn_{running}.efi")]);
        let status = updater.status();
        assert_eq!((status.state, status.release, status.other), (OsState::Idle, None, None));
        let (mut updater, startup) = bed.start();
        assert_eq!((startup, updater.status().version), (Startup::Normal, version(running)));
        assert_eq!(updater.status().state, OsState::Idle);
        let wanted = DesiredOs { allow_downgrade: true, ..made.wanted() };
        assert_eq!(updater.admit(&made.digest, &made.release, &wanted).unwrap(), Admission::Install);
        install(&mut updater, &made, &wanted).unwrap();
        assert_eq!(bed.start().1, Startup::Trying { version: version(new) }, "nothing is held against it");
    }
}

#[test]
fn a_disarming_that_is_cut_off_leaves_one_entry_and_can_be_repeated() {
    if alone("armed::a_disarming_that_is_cut_off_leaves_one_entry_and_can_be_repeated") {
        return;
    }
    for point in
        ["ota::bless", "ota::state-write", "ota::state-written", "ota::entry-remove", "ota::entry-removed"]
    {
        for (running, new) in [("1", "2"), ("2", "1")] {
            let (bed, made, mut updater) = armed(running, new);
            let machine = updater.machine().clone();
            let scenario = fail::FailScenario::setup();
            fail::cfg(point, "return").unwrap();
            let cut = updater.disarm().is_err();
            scenario.teardown();
            assert!(cut || (point == "ota::bless" && running == "1"), "{point}");
            // A daemon that was killed there, without a restart.
            let (mut updater, startup) = Updater::open(machine, &bed.state()).unwrap();
            assert_eq!(startup, Startup::Normal, "{point}");
            assert!(bed.first_is_whole(), "{point}");
            if matches!(updater.status().state, OsState::Armed | OsState::Written) {
                updater.disarm().unwrap();
            }
            assert_eq!(bed.names(), [format!("cairn_{running}.efi")], "{point}");
            let (updater, startup) = bed.start();
            assert_eq!((startup, updater.status().version), (Startup::Normal, version(running)), "{point}");
            let wanted = DesiredOs { allow_downgrade: true, ..made.wanted() };
            let admitted = updater.admit(&made.digest, &made.release, &wanted).unwrap();
            assert_eq!(admitted, Admission::Install, "{point}");
        }
    }
}

#[test]
fn rejects_to_disarm_without_an_entry_to_come_back_to() {
    let (bed, _, mut updater) = armed("1", "2");
    fs::remove_file(bed.entries_folder().join("cairn_1.efi")).unwrap();
    assert!(matches!(updater.disarm(), Err(UpdateError::NoOwnEntry { .. })));
    assert_eq!(bed.names(), ["cairn_2+3-0.efi"]);
    assert_eq!(updater.status().state, OsState::Armed);
}

#[test]
fn terms_that_are_given_after_arming_are_those_of_the_trial() {
    let (bed, new, mut updater) = armed("1", "2");
    let health = OsHealth { deadline_seconds: 77, hub: false };
    let wanted = DesiredOs { attempt: 5, health: health.clone(), ..new.wanted() };
    let other = release("3", 0);
    updater.retarget(&other.digest, &other.release, &wanted).unwrap();
    updater.retarget(&new.digest, &new.release, &wanted).unwrap();
    let (mut updater, _) = bed.start();
    let trying = updater.trying().unwrap().clone();
    assert_eq!((trying.attempt, trying.health, trying.digest), (5, health, Some(new.digest.clone())));
    updater.retarget(&new.digest, &new.release, &new.wanted()).unwrap();
    assert_eq!(updater.trying().unwrap().attempt, 5, "what is being tried stays as it is");
}

#[test]
fn a_release_of_which_only_the_entry_is_known_gets_its_name_back() {
    let (bed, new, updater) = armed("1", "2");
    fs::remove_file(bed.state().join("state.json")).unwrap();
    let (mut updater, _) = Updater::open(updater.machine().clone(), &bed.state()).unwrap();
    assert_eq!(updater.status().release, None);
    updater.retarget(&new.digest, &new.release, &new.wanted()).unwrap();
    assert_eq!(updater.status().release, Some(new.digest));
}
