//! Anything in any order, with the power cut anywhere: the boot loader always finds something whole to start.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use cairn_model::{desired::DesiredOs, report::Slot};
use cairn_ota::{BootEntry, Mark, OsVersion, Updater};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    bed::{Bed, INSTALL_POINTS, install, release},
    child,
};

/// Some never come up, though all of them is in their slot.
const VERSIONS: [&str; 6] = ["1", "2", "2.1", "3", "2.2-dead", "0.5-dead"];

thread_local! {
    /// Points that are still passed before the power goes.
    static FUSE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What unwinds when the power goes.
struct Cut;

#[derive(Debug, Clone)]
enum Step {
    Install(usize, bool),
    Boot,
    /// It starts, and goes down before the daemon is up.
    Die,
    Confirm,
    Reject,
    Mark(bool, Mark),
    LoseState,
    /// The next step is cut off after so many points.
    Cut(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mark = prop_oneof![Just(Mark::Good), Just(Mark::Bad), Just(Mark::Active)];
    let step = prop_oneof![
        4 => (0..VERSIONS.len(), any::<bool>()).prop_map(|(index, down)| Step::Install(index, down)),
        4 => Just(Step::Boot),
        2 => Just(Step::Die),
        3 => Just(Step::Confirm),
        2 => Just(Step::Reject),
        1 => (any::<bool>(), mark).prop_map(|(first, how)| Step::Mark(first, how)),
        1 => Just(Step::LoseState),
        4 => (0u32..30).prop_map(Step::Cut),
    ];
    prop::collection::vec(step, 1..24)
}

/// Does one step on a machine that runs. What is refused is refused; what unwinds was cut.
fn act(step: &Step, updater: &mut Updater) {
    match step {
        Step::Install(index, down) => {
            let made = release(VERSIONS[*index], 0);
            let wanted = DesiredOs { allow_downgrade: *down, attempt: 1_000, ..made.wanted() };
            let _ = install(updater, &made, &wanted);
        }
        Step::Confirm => {
            let _ = updater.confirm();
        }
        Step::Reject => {
            let _ = updater.reject("unwell");
        }
        Step::Mark(first, how) => {
            let _ = updater.mark(if *first { Slot::A } else { Slot::B }, *how);
        }
        Step::Boot | Step::Die | Step::LoseState | Step::Cut(_) => {}
    }
}

/// Runs `work` with the fuse; `None` if it was cut.
fn until_cut<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(work));
    FUSE.set(None);
    match done {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<Cut>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

fn walk(steps: &[Step]) -> Result<(), TestCaseError> {
    let bed = Bed::flashed(&release("1", 0));
    let mut running: Option<Updater> = None;
    // Whether an older version may be on trial, whose way back is the loader's last resort.
    let mut older = false;
    for step in steps {
        older |= matches!(step, Step::Install(_, true));
        match step {
            Step::Cut(passes) => FUSE.set(Some(*passes)),
            Step::LoseState => {
                running = None;
                std::fs::write(bed.state().join("state.json"), "torn").unwrap();
            }
            Step::Die => {
                running = None;
                prop_assert!(bed.power_on().is_some(), "a brick: {:?}", bed.names());
            }
            Step::Boot => running = None,
            _ => {}
        }
        if matches!(step, Step::Cut(_) | Step::LoseState | Step::Die) {
            continue;
        }
        let updater = match running.take() {
            Some(updater) => Some(updater),
            None => {
                let machine = bed.power_on();
                prop_assert!(machine.is_some(), "a brick: {:?}", bed.names());
                let open = || Updater::open(machine.unwrap(), &bed.state()).unwrap().0;
                until_cut(open)
            }
        };
        running = updater.and_then(|mut updater| {
            until_cut(move || {
                act(step, &mut updater);
                updater
            })
        });
        if let (Step::Boot, Some(updater)) = (step, &running) {
            let counted = bed.names().iter().any(|name| {
                name.parse().is_ok_and(|entry: BootEntry| {
                    entry.version == *updater.machine().version() && entry.tries.is_some()
                })
            });
            prop_assert!(!counted || older || updater.trying().is_some(), "untried: {:?}", bed.names());
        }
        prop_assert!(bed.first_is_whole(), "after {step:?}: {:?}", bed.names());
        prop_assert!(older || !bed.bootable().is_empty(), "after {step:?}: {:?}", bed.names());
    }
    end(&bed)
}

/// Whatever happened: the next release comes in, and stays.
fn end(bed: &Bed) -> Result<(), TestCaseError> {
    FUSE.set(None);
    let (mut updater, _) = bed.start();
    updater.confirm().unwrap();
    let last = release("9", 0);
    install(&mut updater, &last, &last.wanted()).unwrap();
    let (mut updater, _) = bed.start();
    updater.confirm().unwrap();
    let version: OsVersion = "9".parse().unwrap();
    prop_assert_eq!(bed.start().0.status().version, version);
    Ok(())
}

#[test]
fn whatever_happens_in_whatever_order_something_whole_boots() {
    if child::alone("random::whatever_happens_in_whatever_order_something_whole_boots") {
        return;
    }
    // All places at which the power can go.
    for point in INSTALL_POINTS.into_iter().chain(["ota::bless", "ota::mark-bad"]) {
        let strike = || {
            if let Some(left) = FUSE.get() {
                FUSE.set(left.checked_sub(1));
                if left == 0 {
                    // No hook is run: this is no panic, but the power going.
                    resume_unwind(Box::new(Cut));
                }
            }
        };
        fail::cfg_callback(point, strike).unwrap();
    }
    let default = ProptestConfig::default();
    // A quarter of what is usual: each case boots a dozen times. PROPTEST_CASES=4000 for a night.
    let config = ProptestConfig { cases: default.cases / 4, failure_persistence: None, ..default };
    TestRunner::new(config).run(&steps(), |steps| walk(&steps)).unwrap();
}
