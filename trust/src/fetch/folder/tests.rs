//! A folder as an attacker would prepare it.

use std::os::unix::{fs::symlink, net::UnixListener};

use nix::{sys::stat::Mode, unistd::mkfifo};
use tempfile::TempDir;

use super::*;

/// A folder with `tuf/root.json`, and beside it, outside, `secret/root.json`.
fn stick() -> (TempDir, Folder) {
    let around = tempfile::tempdir().unwrap();
    let root = around.path().join("stick");
    std::fs::create_dir_all(root.join("tuf")).unwrap();
    std::fs::write(root.join("tuf/root.json"), b"root").unwrap();
    std::fs::create_dir(around.path().join("secret")).unwrap();
    std::fs::write(around.path().join("secret/root.json"), b"secret").unwrap();
    let folder = Folder::open(&root).unwrap();
    (around, folder)
}

/// That every way to `path` ends in an error of this kind.
fn check_refused(folder: &Folder, path: &str, kind: ErrorKind, says: &str) {
    for error in [
        folder.file(path).map(drop).unwrap_err(),
        folder.read(path, 1 << 20).map(drop).unwrap_err(),
        folder.len(path).map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), kind, "{path}: {error}");
        assert!(error.to_string().contains(says), "{path}: {error}");
    }
}

#[test]
fn reads_regular_files_and_knows_what_is_absent() {
    let (_around, folder) = stick();
    assert_eq!(folder.read("tuf/root.json", 4).unwrap().unwrap(), b"root");
    assert_eq!(folder.len("tuf/root.json").unwrap(), Some(4));
    for absent in ["tuf/absent.json", "absent/root.json", "absent"] {
        assert!(folder.file(absent).unwrap().is_none());
        assert!(folder.read(absent, 4).unwrap().is_none());
        assert!(folder.len(absent).unwrap().is_none());
    }
    assert!(Folder::open(Path::new("/proc/version")).is_err());
    assert_eq!(Folder::open(Path::new("/nonexistent")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn follows_no_symbolic_link_at_any_place() {
    let (around, folder) = stick();
    let root = around.path().join("stick");
    symlink("../secret/root.json", root.join("out")).unwrap();
    symlink(around.path().join("secret/root.json"), root.join("absolute")).unwrap();
    symlink("tuf/root.json", root.join("inside")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("itself", root.join("itself")).unwrap();
    for link in ["out", "absolute", "inside", "dangling", "itself"] {
        check_refused(&folder, link, ErrorKind::InvalidData, "is a symbolic link");
    }
    symlink("../secret", root.join("folder-out")).unwrap();
    symlink("/", root.join("to-root")).unwrap();
    symlink("tuf", root.join("folder-inside")).unwrap();
    symlink("../../secret", root.join("tuf/deep")).unwrap();
    symlink(format!("/proc/{}/cwd", std::process::id()), root.join("magic")).unwrap();
    for path in [
        "folder-out/root.json",
        "to-root/etc/passwd",
        "folder-inside/root.json",
        "tuf/deep/root.json",
        "magic/Cargo.toml",
    ] {
        check_refused(&folder, path, ErrorKind::InvalidData, "behind a symbolic link");
    }
}

#[test]
fn a_hard_link_is_a_file_like_any_other() {
    let (around, folder) = stick();
    std::fs::hard_link(around.path().join("stick/tuf/root.json"), around.path().join("stick/same")).unwrap();
    assert_eq!(folder.read("same", 4).unwrap().unwrap(), b"root");
}

#[test]
fn no_path_leads_out() {
    let (around, folder) = stick();
    let absolute = around.path().join("secret/root.json");
    let long = "a/".repeat(600) + "b";
    for path in [
        "../secret/root.json",
        "tuf/../../secret/root.json",
        "tuf/../tuf/root.json",
        "tuf/..",
        "..",
        ".",
        "",
        "/",
        "./tuf/root.json",
        "tuf//root.json",
        "tuf/root.json/",
        absolute.to_str().unwrap(),
        &long,
    ] {
        check_refused(&folder, path, ErrorKind::InvalidInput, "not a path below");
    }
    assert!(folder.read("tuf/root.json\0", 4).is_err());
    assert!(folder.read(&"a".repeat(1000), 4).is_err());
}

#[test]
fn opens_nothing_but_regular_files_and_never_waits() {
    let (around, folder) = stick();
    let root = around.path().join("stick");
    mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let _socket = UnixListener::bind(root.join("socket")).unwrap();
    check_refused(&folder, "pipe", ErrorKind::InvalidData, "is a pipe");
    check_refused(&folder, "socket", ErrorKind::InvalidData, "is a socket");
    check_refused(&folder, "tuf", ErrorKind::InvalidData, "is a folder");
    check_refused(&folder, "tuf/root.json/below", ErrorKind::InvalidData, "no folder");
    let devices = Folder::open(Path::new("/dev")).unwrap();
    for device in ["null", "zero", "full", "random"] {
        // In a container each of them may be a mount of its own.
        let error = devices.file(device).map(drop).unwrap_err().to_string();
        assert!(error.contains("is a device") || error.contains("other file system"), "{device}: {error}");
    }
}

#[test]
fn other_file_systems_below_it_are_not_entered() {
    let all = Folder::open(Path::new("/")).unwrap();
    check_refused(&all, "proc/version", ErrorKind::InvalidData, "another file system");
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let (around, folder) = stick();
    let file = File::create(around.path().join("stick/huge")).unwrap();
    let size = 4 << 40;
    file.set_len(size).unwrap();
    assert_eq!(folder.read("huge", 64 << 20).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(folder.read("huge", size - 1).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(folder.len("huge").unwrap(), Some(size));
    assert!(folder.file("huge").unwrap().is_some(), "to stream from it is the caller's to limit");
}

/// Files of procfs say that they are empty, and hold something.
#[test]
fn a_file_that_lies_about_its_size_is_read_no_further_than_allowed() {
    let process = Folder::open(Path::new(&format!("/proc/{}", std::process::id()))).unwrap();
    assert_eq!(process.len("status").unwrap(), Some(0));
    assert_eq!(process.read("status", 64).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert!(process.read("status", 1 << 20).unwrap().unwrap().starts_with(b"Name:"));
}

#[test]
fn stays_with_the_folder_that_was_opened() {
    let (around, folder) = stick();
    let (root, aside) = (around.path().join("stick"), around.path().join("aside"));
    std::fs::rename(&root, &aside).unwrap();
    symlink(around.path().join("secret"), &root).unwrap();
    assert!(folder.read("root.json", 9).unwrap().is_none());
    assert_eq!(folder.clone().read("tuf/root.json", 9).unwrap().unwrap(), b"root");
}

#[tokio::test]
async fn metadata_is_fetched_below_a_prefix_and_links_are_named() {
    let (around, folder) = stick();
    symlink("root.json", around.path().join("stick/tuf/timestamp.json")).unwrap();
    let fetch = FolderFetch::within(folder.clone(), "tuf");
    assert_eq!(fetch.fetch("root.json", 4).await.unwrap().unwrap(), b"root"[..]);
    assert!(fetch.fetch("absent.json", 4).await.unwrap().is_none());
    assert!(matches!(fetch.fetch("root.json", 3).await, Err(FetchError::TooLarge { .. })));
    assert!(matches!(fetch.fetch("timestamp.json", 9).await, Err(FetchError::NotAFile { .. })));
    assert!(matches!(fetch.fetch("../secret/root.json", 9).await, Err(FetchError::BadPath { .. })));
    let whole = FolderFetch::within(folder, "");
    assert_eq!(whole.fetch("tuf/root.json", 4).await.unwrap().unwrap(), b"root"[..]);
}
