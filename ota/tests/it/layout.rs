//! A change of the data partition's layout that is struck at each of its destructive steps, by an error and by a process
//! that is gone: what the node has is never less than what its file names, and the next try comes to the end.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use cairn_ota::data_layout::{self, Layout, LayoutError, Migration};

use crate::child::alone;

/// Each layout is a file with its name.
const MIGRATIONS: [Migration; 2] = [
    Migration { to: 2, run: |at| fs::write(at.join("2"), ""), forget: |at| remove(&at.join("1")) },
    Migration { to: 3, run: |at| fs::write(at.join("3"), ""), forget: |at| remove(&at.join("2")) },
];

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs a step with a point struck at its `pass`; whether it came to its end.
fn struck(point: &str, mode: &str, pass: u32, step: impl FnOnce() -> Result<(), LayoutError>) -> bool {
    fail::cfg(point, &format!("{pass}*off->1*{mode}->off")).unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(step));
    fail::remove(point);
    outcome.is_ok_and(|outcome| outcome.is_ok())
}

/// Layouts whose data lies there, the newest first.
fn present(data: &Path) -> Vec<u32> {
    [3, 2, 1].into_iter().filter(|layout| data.join(layout.to_string()).exists()).collect()
}

#[test]
fn a_change_of_layout_survives_every_fault() {
    if alone("layout::a_change_of_layout_survives_every_fault") {
        return;
    }
    for point in ["ota::layout-migrated", "ota::layout-forget"] {
        for mode in ["return", "panic"] {
            let mut strikes = 0;
            for pass in 0.. {
                let data = tempfile::tempdir().unwrap();
                let folder = data.path().join("os");
                fs::create_dir(&folder).unwrap();
                fs::write(data.path().join("1"), "").unwrap();
                let ended = struck(point, mode, pass, || {
                    data_layout::migrate(&folder, &MIGRATIONS)?;
                    data_layout::forget(&folder, &MIGRATIONS)
                });
                let Layout { current, kept } = data_layout::read(&folder).unwrap();
                let (there, case) = (present(data.path()), format!("{point}, pass {pass}, {mode}"));
                assert!(there.contains(&current) && kept.iter().all(|old| there.contains(old)), "{case}");
                data_layout::migrate(&folder, &MIGRATIONS).unwrap();
                data_layout::forget(&folder, &MIGRATIONS).unwrap();
                assert_eq!(
                    data_layout::read(&folder).unwrap(),
                    Layout { current: 3, kept: vec![] },
                    "{case}"
                );
                assert_eq!(present(data.path()), [3], "{case}: nothing is left behind");
                if ended {
                    break;
                }
                strikes += 1;
            }
            assert_eq!(strikes, 2, "{point}, {mode}: one for each migration");
        }
    }
}
