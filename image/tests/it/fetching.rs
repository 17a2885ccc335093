//! A packages folder holds exactly what was locked, or says what is wrong.

use std::path::PathBuf;

use cairn_image::fetch::{self, FetchError};
use cairn_image::lock::{Archive, Lock, Package};

fn package(content: &[u8]) -> Package {
    Package {
        name: "thing".into(),
        version: "1:2.0-1".into(),
        arch: "all".into(),
        archive: Archive::Debian,
        path: "pool/main/t/thing/thing_2.0-1_all.deb".into(),
        size: content.len() as u64,
        sha256: fetch::hash(&mut &content[..]).unwrap(),
    }
}

#[test]
fn a_package_that_is_gone_is_named_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let error = fetch::verify(&package(b"x"), folder.path()).unwrap_err();
    assert!(matches!(error, FetchError::Missing { .. }));
    let said = error.to_string();
    for part in ["thing 1:2.0-1", "cairn-image fetch", "cairn-image lock"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn rejects_a_package_with_another_hash() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(b"right");
    std::fs::write(folder.path().join(package.file_name()), b"wrong").unwrap();
    let error = fetch::verify(&package, folder.path()).unwrap_err();
    let FetchError::Hash { expected, found, .. } = &error else { panic!("{error}") };
    assert_eq!(expected, &package.sha256);
    assert_ne!(found, expected);
    assert!(error.to_string().contains("cairn-image fetch"));
}

#[test]
fn accepts_the_package_that_was_locked() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(b"right");
    std::fs::write(folder.path().join(package.file_name()), b"right").unwrap();
    assert_eq!(fetch::verify(&package, folder.path()).unwrap(), folder.path().join(package.file_name()));
}

fn lock(package: &Package) -> Lock {
    Lock::new("trixie", "amd64", 1, vec![package.clone()], Vec::new())
}

#[test]
fn packages_are_found_wherever_they_lie_also_below_a_hash() {
    let (folder, package) = (tempfile::tempdir().unwrap(), package(b"right"));
    let stored = folder.path().join(format!("0c5k7w7ij3xr1l5mkzbqcmzhzgm5m3xx-{}", package.file_name()));
    for path in [folder.path().join(package.file_name()), stored] {
        std::fs::write(&path, b"right").unwrap();
        let gathered = fetch::gather(&lock(&package), std::slice::from_ref(&path)).unwrap();
        fetch::verify(&package, gathered.path()).unwrap();
    }
}

#[test]
fn refuses_a_file_that_is_no_package_of_the_lock() {
    let foreign = PathBuf::from("/nowhere/other_1.0_all_000000000000.deb");
    let error = fetch::gather(&lock(&package(b"x")), &[foreign]).unwrap_err();
    assert!(matches!(error, FetchError::Foreign(_)));
    assert!(error.to_string().contains("other_1.0_all"), "{error}");
}
