//! Migrations that never were: each keeps a file of its layout.

use super::*;

const TWO: Migration = Migration { to: 2, run: |at| make(at, "two"), forget: |at| remove(at, "one") };
const THREE: Migration = Migration { to: 3, run: |at| make(at, "three"), forget: |at| remove(at, "two") };
const BROKEN: Migration = Migration { to: 3, run: |_| Err(io::Error::other("no room")), forget: |_| Ok(()) };

fn make(at: &Path, name: &str) -> io::Result<()> {
    fs::write(at.join(name), name)
}

fn remove(at: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(at.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn node() -> (tempfile::TempDir, PathBuf) {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("os");
    fs::create_dir(&folder).unwrap();
    fs::write(data.path().join("one"), "one").unwrap();
    (data, folder)
}

fn layout(current: u32, kept: &[u32]) -> Layout {
    Layout { current, kept: kept.to_vec() }
}

#[test]
fn rejects_a_release_that_does_not_know_the_layout() {
    for (min, max, fits) in [(1, 1, false), (3, 9, false), (1, 2, true), (2, 2, true), (2, 3, true)] {
        assert_eq!(plan(2, DataLayout { min, max }).is_ok(), fits, "{min} to {max}");
    }
    let text = plan(2, DataLayout { min: 3, max: 4 }).unwrap_err().to_string();
    assert!(text.contains("3 to 4") && text.contains("has 2") && text.contains("in between"), "{text}");
}

#[test]
fn a_partition_without_a_version_is_of_the_first() {
    let (_data, folder) = node();
    assert_eq!(read(&folder).unwrap(), layout(1, &[]));
}

#[test]
fn refuses_a_file_that_names_no_layout() {
    let (_data, folder) = node();
    for bad in ["", "x", "0", "-1", "1 2", "2 2", "1.5", "99999999999", "\u{ff}"] {
        fs::write(folder.join("layout"), bad).unwrap();
        assert!(matches!(read(&folder), Err(LayoutError::Malformed { .. })), "{bad:?}");
    }
    fs::write(folder.join("layout"), "2 1 ".repeat(MAX_BYTES)).unwrap();
    assert!(read(&folder).is_err());
}

#[test]
fn migrations_run_in_order_and_once_and_keep_the_old() {
    let (data, folder) = node();
    migrate(&folder, &[TWO, THREE]).unwrap();
    assert_eq!(read(&folder).unwrap(), layout(3, &[2, 1]));
    for name in ["one", "two", "three"] {
        assert!(data.path().join(name).exists(), "{name}");
    }
    fs::remove_file(data.path().join("three")).unwrap();
    migrate(&folder, &[TWO, THREE]).unwrap();
    assert!(!data.path().join("three").exists(), "it ran again");
}

#[test]
fn a_migration_that_fails_goes_on_where_it_was() {
    let (_data, folder) = node();
    assert!(migrate(&folder, &[TWO, BROKEN]).is_err());
    assert_eq!(read(&folder).unwrap(), layout(2, &[1]));
    migrate(&folder, &[TWO, THREE]).unwrap();
    assert_eq!(read(&folder).unwrap(), layout(3, &[2, 1]));
}

#[test]
fn an_older_os_goes_back_as_long_as_its_data_is_there() {
    let (data, folder) = node();
    migrate(&folder, &[TWO, THREE]).unwrap();
    go_back(&folder, 2).unwrap();
    assert_eq!(read(&folder).unwrap(), layout(2, &[1]));
    migrate(&folder, &[TWO, THREE]).unwrap();
    forget(&folder, &[TWO, THREE]).unwrap();
    assert_eq!(read(&folder).unwrap(), layout(3, &[]));
    assert!(!data.path().join("one").exists() && !data.path().join("two").exists());
    assert!(data.path().join("three").exists());
    assert!(matches!(go_back(&folder, 2), Err(LayoutError::Newer { current: 3 })));
    go_back(&folder, 3).unwrap();
}

#[test]
fn the_migrations_of_this_build_lead_to_its_layout() {
    let made = MIGRATIONS.iter().fold(1, |layout, migration| {
        assert_eq!(migration.to, layout + 1);
        migration.to
    });
    assert_eq!(made, CURRENT);
}
