//! The documents as others see them: JSON Schemas under `docs/schema/`, and a golden a version under `tests/golden/`.
//!
//! `CAIRN_BLESS=1 cargo test -p cairn-model` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod documents;
mod schemas;

use std::{env, fs, path::PathBuf};

/// A file of the repository, by its path from there.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// `actual` is what the file at `path` holds, or becomes it under `CAIRN_BLESS=1`.
#[track_caller]
fn check_golden(path: &str, actual: &serde_json::Value) {
    let file = repository(path);
    let text = format!("{actual:#}\n");
    if env::var_os("CAIRN_BLESS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == expected,
        "{path} is out of date: run CAIRN_BLESS=1 cargo test -p cairn-model, and look at the change"
    );
}
