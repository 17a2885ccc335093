//! Every fault point of an update, each time it is passed: with an error, with a full disk, and with a process that is
//! gone at once. After each the machine starts, knows where it stands, and the update ends when it is asked for again.

use std::{
    env, fs,
    path::Path,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use cairn_model::{desired::DesiredOs, report::OsState};
use cairn_ota::{OsVersion, Startup, UpdateError, Updater};

use crate::{
    bed::{Bed, INSTALL_POINTS, Made, install, release},
    child,
};

/// Exit code of a step that ended with an error.
const FAILED: i32 = 40;

/// Most times that one point is passed in one step; beyond, something goes round in circles.
const MAX_PASSES: u32 = 40;

/// How a fault point ends the step: with an error number, or with the process.
const MODES: [&str; 3] = ["return(5)", "return(28)", "abort"];

fn version(text: &str) -> OsVersion {
    text.parse().unwrap()
}

/// What a step installs.
fn made(step: &str) -> (Made, DesiredOs) {
    let made = if step == "downgrade" { release("0.9", 0) } else { release("3", 0) };
    let wanted = DesiredOs { allow_downgrade: step == "downgrade", ..made.wanted() };
    (made, wanted)
}

/// One step, as the daemon would take it.
fn take(step: &str, updater: &mut Updater) -> Result<(), UpdateError> {
    let (made, wanted) = made(step);
    match step {
        "confirm" => updater.confirm(),
        "reject" => updater.reject("unwell"),
        _ => install(updater, &made, &wanted),
    }
}

/// Version 2 runs and is good, version 1 is in the other slot; for a verdict version 3 is armed there instead.
fn template(step: &str) -> Bed {
    let bed = Bed::flashed(&release("1", 0));
    let second = release("2", 0);
    install(&mut bed.start().0, &second, &second.wanted()).unwrap();
    let (mut updater, _) = bed.start();
    updater.confirm().unwrap();
    if matches!(step, "confirm" | "reject") {
        let (third, wanted) = made(step);
        install(&mut updater, &third, &wanted).unwrap();
    }
    bed
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for found in fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        let to = to.join(found.file_name());
        if found.path().is_dir() {
            copy(&found.path(), &to);
        } else {
            fs::copy(found.path(), to).unwrap();
        }
    }
}

/// The child: starts the machine, and passes one point only so often.
#[test]
fn a_step_with_a_fault() {
    if !child::is("faults::a_step_with_a_fault") {
        return;
    }
    let variable = |name: &str| env::var(name).unwrap();
    let (step, point, mode) = (variable("STEP"), variable("POINT"), variable("MODE"));
    let passes: u32 = variable("PASSES").parse().unwrap();
    let bed = Bed::at_path(Path::new(&variable("BED")));
    if mode == "abort" {
        let left = AtomicU32::new(passes);
        let strike = move || {
            if left.fetch_sub(1, Ordering::SeqCst) == 0 {
                process::abort();
            }
        };
        fail::cfg_callback(point, strike).unwrap();
    } else {
        let before = if passes > 0 { format!("{passes}*off->") } else { String::new() };
        fail::cfg(point, &format!("{before}1*{mode}->off")).unwrap();
    }
    let machine = bed.power_on().unwrap();
    let done = Updater::open(machine, &bed.state()).and_then(|(mut updater, _)| take(&step, &mut updater));
    if done.is_err() {
        process::exit(FAILED);
    }
}

/// Runs a step with each point struck at each pass, and `after` on what is left.
fn strike(step: &str, points: &[&str], after: fn(&Bed, &str)) {
    let template = template(step);
    for point in points {
        let mut struck = 0;
        for mode in MODES {
            for passes in 0.. {
                assert!(passes < MAX_PASSES, "{point} is passed without end");
                let folder = tempfile::tempdir().unwrap();
                copy(template.path(), folder.path());
                let bed = Bed::at_path(folder.path());
                let variables = [
                    ("BED", folder.path().to_str().unwrap()),
                    ("STEP", step),
                    ("POINT", point),
                    ("MODE", mode),
                    ("PASSES", &passes.to_string()),
                ];
                let output = child::run("faults::a_step_with_a_fault", &variables);
                let case = format!("{step}: {point}, pass {passes}, {mode}");
                let text = String::from_utf8_lossy(&output.stderr);
                match (output.status.code(), mode) {
                    (Some(0), _) => {
                        after(&bed, &case);
                        break;
                    }
                    (Some(FAILED), "return(5)" | "return(28)") | (None, "abort") => struck += 1,
                    other => panic!("{case}: {other:?}\n{text}"),
                }
                after(&bed, &case);
            }
        }
        assert!(struck > 0, "{step} never passes {point}");
    }
}

/// What must hold whatever happened: something whole starts, and what is recorded is what is there.
fn check(bed: &Bed, case: &str) -> (Updater, Startup) {
    assert!(!bed.bootable().is_empty(), "{case}: {:?}", bed.names());
    let (updater, startup) = bed.start();
    assert!(!bed.bootable().is_empty(), "{case}: {:?}", bed.names());
    let status = updater.status();
    match status.state {
        OsState::Armed => assert_eq!(status.other, status.target, "{case}"),
        OsState::Trying | OsState::Good => assert_eq!(Some(status.version), status.target, "{case}"),
        _ => assert!(updater.trying().is_none(), "{case}"),
    }
    (updater, startup)
}

/// Until it runs: the step again, and a restart.
fn finish(bed: &Bed, case: &str) {
    let step = case.split(':').next().unwrap();
    let (made, wanted) = made(step);
    let (mut updater, startup) = check(bed, case);
    if !matches!(startup, Startup::Trying { .. }) {
        assert_eq!(updater.status().version, version("2"), "{case}");
        install(&mut updater, &made, &wanted).unwrap_or_else(|error| panic!("{case}: {error:?}"));
        (updater, _) = check(bed, case);
    }
    assert_eq!(updater.status().version, made.release.version, "{case}");
    updater.confirm().unwrap();
    let (updater, startup) = check(bed, case);
    assert_eq!((startup, updater.status().version), (Startup::Normal, made.release.version), "{case}");
}

#[test]
fn an_install_survives_every_fault() {
    strike("install", &INSTALL_POINTS, finish);
}

#[test]
fn an_install_of_an_older_version_survives_every_fault() {
    let points = [
        "ota::state-write",
        "ota::entry-rename",
        "ota::entry-renamed",
        "ota::set-aside",
        "ota::entry-copied",
        "ota::state-written",
    ];
    strike("downgrade", &points, |bed, case| {
        // The older one has never started: what runs must not be lost to it.
        let whole = bed.whole();
        assert!(whole.contains(&version("2")), "{case}: the way back: {:?}", bed.names());
        finish(bed, case);
    });
}

#[test]
fn a_confirmation_survives_every_fault() {
    let points = ["ota::bless", "ota::entry-copied", "ota::state-write", "ota::state-written"];
    strike("confirm", &points, |bed, case| {
        assert!(bed.bootable().contains(&version("2")), "{case}: the way back");
        let (mut updater, _) = check(bed, case);
        assert_eq!(updater.status().version, version("3"), "{case}");
        updater.confirm().unwrap();
        assert_eq!(check(bed, case).0.status().state, OsState::Good, "{case}");
    });
}

#[test]
fn a_rejection_survives_every_fault() {
    strike("reject", &["ota::mark-bad", "ota::state-write", "ota::state-written"], |bed, case| {
        let (mut updater, startup) = check(bed, case);
        if matches!(startup, Startup::Trying { .. }) {
            updater.reject("unwell").unwrap();
            let (after, startup) = check(bed, case);
            assert!(matches!(startup, Startup::RolledBack { .. }), "{case}: {startup:?}");
            updater = after;
        }
        assert_eq!(updater.status().version, version("2"), "{case}");
        assert_eq!(updater.status().state, OsState::RolledBack, "{case}");
        let (made, wanted) = made("reject");
        assert!(updater.admit(&made.digest, &made.release, &wanted).is_err(), "{case}");
    });
}
