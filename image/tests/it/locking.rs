//! What a lock may hold, and what is said when it does not.

use std::path::Path;

use cairn_image::lock::Lock;

const GOOD: &str = r#"
schema = 1
suite = "trixie"
arch = "amd64"
epoch = 1763200800
root = [
  { name = "bash", version = "5.2-1+b1", arch = "amd64", archive = "debian", path = "pool/main/b/bash/bash_5.2-1%2bb1_amd64.deb", size = 10, sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" },
]
tools = []
"#;

fn error(text: &str) -> String {
    let error = Lock::parse(Path::new("x.lock"), text).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {source}")
}

#[test]
fn a_lock_round_trips_through_its_text() {
    let lock = Lock::parse(Path::new("x.lock"), GOOD).unwrap();
    let again = Lock::parse(Path::new("y.lock"), &lock.to_text()).unwrap();
    assert_eq!(lock, again);
}

#[test]
fn the_lock_of_the_project_is_valid_and_names_no_host() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian.lock");
    let lock = Lock::load(&path).unwrap();
    assert!(lock.root.iter().any(|package| package.name == "systemd"));
    assert!(lock.tools.iter().any(|package| package.name == "erofs-utils"));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains("://"));
}

#[test]
fn bad_locks_are_refused_with_the_place_and_the_cure() {
    let table = [
        ("schema = 1", "schema = 2", "schema 2"),
        ("suite =", "siute =", "siute"),
        ("root = [", "root = {", "line"),
        ("size = 10", "size = \"10\"", "line"),
        ("size = 10", "size = 0", "invalid size"),
        ("archive = \"debian\"", "archive = \"elsewhere\"", "elsewhere"),
        ("pool/main", "../../etc", "invalid path"),
        ("pool/main", "pool/../main", "invalid path"),
        ("pool/main", "pool//main", "invalid path"),
        ("name = \"bash\"", "name = \"../bash\"", "invalid name"),
        ("name = \"bash\"", "name = \"\"", "invalid name"),
        ("5.2-1+b1\"", "5.2;rm -rf\"", "invalid version"),
        ("aaaa\"", "aaa\"", "invalid sha256"),
        ("aaaa\"", "AAAA\"", "invalid sha256"),
    ];
    for (from, to, expected) in table {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let said = error(&text);
        assert!(said.contains(expected), "{to}: {said}");
        assert!(said.contains("x.lock"), "{to}: {said}");
    }
    assert!(error("").contains("cairn-image lock"));
}

#[test]
fn a_missing_lock_names_the_cure() {
    let said = Lock::load(Path::new("/nonexistent/x.lock")).unwrap_err().to_string();
    assert!(said.contains("/nonexistent/x.lock") && said.contains("cairn-image lock"), "{said}");
}
