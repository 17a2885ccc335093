//! What is written to a stick, and what a prepared stick cannot have written elsewhere.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use super::*;

const NODE: &str = "n-0123456789abcdef";

struct Stick {
    dir: tempfile::TempDir,
}

impl Stick {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn shelf(&self) -> Result<Shelf, ShelfError> {
        Root::open(self.dir.path()).unwrap().shelf(&NODE.parse().unwrap())
    }

    fn report(&self, sequence: u64) -> PathBuf {
        self.dir.path().join(report_path(&NODE.parse().unwrap(), sequence))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path(&format!("outbox/{NODE}"))).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn reports_are_whole_readable_by_whoever_carries_them_and_written_once() {
    let stick = Stick::new();
    let shelf = stick.shelf().unwrap();
    assert_eq!(shelf.put_report(7, "seven", 1 << 20).unwrap(), Put::Written);
    assert_eq!(shelf.put_report(7, "seven", 1 << 20).unwrap(), Put::WasThere);
    assert_eq!(shelf.put_report(7, "seve7", 1 << 20).unwrap(), Put::Written);
    shelf.put_request("please", 1 << 20).unwrap();
    shelf.sync().unwrap();
    assert_eq!(stick.names(), ["00000000000000000007.jws", "enroll.jws"]);
    assert_eq!(fs::read(stick.report(7)).unwrap(), b"seve7");
    assert_eq!(fs::metadata(stick.report(7)).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::metadata(stick.path("outbox")).unwrap().permissions().mode() & 0o777, 0o755);
    shelf.remove_request().unwrap();
    shelf.remove_request().unwrap();
    assert_eq!(stick.names(), ["00000000000000000007.jws"]);
}

#[test]
fn what_is_acknowledged_goes_and_nothing_else() {
    let stick = Stick::new();
    let shelf = stick.shelf().unwrap();
    for sequence in 3..=9 {
        shelf.put_report(sequence, "x", 1 << 20).unwrap();
    }
    fs::write(stick.path(&format!("outbox/{NODE}/notes.txt")), "a technician's").unwrap();
    assert_eq!(shelf.remove_acknowledged(6, soon()).unwrap(), 4);
    assert_eq!(shelf.remove_acknowledged(6, soon()).unwrap(), 0);
    assert_eq!(shelf.remove_acknowledged(0, soon()).unwrap(), 0);
    let left =
        ["00000000000000000007.jws", "00000000000000000008.jws", "00000000000000000009.jws", "notes.txt"];
    assert_eq!(stick.names(), left);
    assert!(matches!(shelf.remove_acknowledged(9, Instant::now()), Err(ShelfError::TooSlow)));
}

#[test]
fn a_full_stick_is_said_and_holds_no_halves() {
    let stick = Stick::new();
    let shelf = stick.shelf().unwrap();
    assert!(shelf.room().unwrap() > 0);
    assert!(matches!(shelf.put_report(1, "0123456789", 9), Err(ShelfError::Full)));
    assert!(matches!(io_error("x", Errno::ENOSPC), ShelfError::Full));
    let failed = io_error("x", Errno::EROFS);
    assert!(matches!(failed, ShelfError::Io { .. }));
    // The cause comes from the system, once; the cure is ours.
    let told = cairn_model::error::chain(&failed);
    assert!(told.contains("failed to write x on the stick; plug it in again"), "{told}");
    assert_eq!(told.matches("Read-only file system").count(), 1, "{told}");
    assert!(stick.names().is_empty());
}

#[test]
fn never_writes_through_a_link_in_the_place_of_a_folder() {
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["outbox".to_owned(), format!("outbox/{NODE}")] {
        let stick = Stick::new();
        if name != "outbox" {
            fs::create_dir(stick.path("outbox")).unwrap();
        }
        symlink(elsewhere.path(), stick.path(&name)).unwrap();
        let error = stick.shelf().unwrap_err();
        assert!(matches!(&error, ShelfError::InTheWay { path } if *path == name), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
    let stick = Stick::new();
    fs::write(stick.path("outbox"), "a file").unwrap();
    assert!(matches!(stick.shelf(), Err(ShelfError::InTheWay { .. })));
}

#[test]
fn never_writes_through_a_name_that_somebody_made_before() {
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "theirs").unwrap();
    let stick = Stick::new();
    let shelf = stick.shelf().unwrap();
    let temporary = stick.path(&format!("outbox/{NODE}/{TEMPORARY}"));
    symlink(&victim, &temporary).unwrap();
    symlink(&victim, stick.report(1)).unwrap();
    fs::hard_link(&victim, stick.report(2)).unwrap_or_else(|_| fs::write(stick.report(2), "theirs").unwrap());
    nix::unistd::mkfifo(&stick.report(3), Mode::from_bits_truncate(0o600)).unwrap();
    for sequence in 1..=3 {
        assert_eq!(shelf.put_report(sequence, "ours", 1 << 20).unwrap(), Put::Written);
        assert!(fs::symlink_metadata(stick.report(sequence)).unwrap().is_file());
        assert_eq!(fs::read(stick.report(sequence)).unwrap(), b"ours");
    }
    // A link to what would be written is no reason to leave it.
    fs::write(&victim, "ours").unwrap();
    symlink(&victim, stick.report(4)).unwrap();
    assert_eq!(shelf.put_report(4, "ours", 1 << 20).unwrap(), Put::Written);
    assert!(fs::symlink_metadata(stick.report(4)).unwrap().is_file());
    assert_eq!(fs::read(&victim).unwrap(), b"ours");
    // What is acknowledged is removed, not what it leads to.
    fs::remove_file(stick.report(4)).unwrap();
    symlink(&victim, stick.report(4)).unwrap();
    assert_eq!(shelf.remove_acknowledged(4, soon()).unwrap(), 4);
    assert!(victim.exists());
}

#[test]
fn folders_in_the_way_are_named() {
    let stick = Stick::new();
    let shelf = stick.shelf().unwrap();
    fs::create_dir(stick.report(1)).unwrap();
    fs::write(stick.report(1).join("x"), "x").unwrap();
    let error = shelf.put_report(1, "ours", 1 << 20).unwrap_err();
    assert!(matches!(&error, ShelfError::InTheWay { path } if path.ends_with("1.jws")), "{error}");
    assert_eq!(stick.names(), ["00000000000000000001.jws"], "nothing half is left");
    fs::create_dir(stick.path(&format!("outbox/{NODE}/{TEMPORARY}"))).unwrap();
    let error = shelf.put_report(2, "ours", 1 << 20).unwrap_err();
    assert!(matches!(&error, ShelfError::InTheWay { path } if path.ends_with(TEMPORARY)), "{error}");
}
