//! Builds the programs, and puts them, stripped, where image, harness and demo take them from: `target/bin`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::process;

/// What goes into `target/bin`, besides the static ones.
const PROGRAMS: &[&str] =
    &["cairnd", "cairn", "cairn-hub", "cairn-oci", "cairn-wasm", "cairn-tuf-client", "cairn-tuf-fixture"];

/// What has no dynamic loader where it runs: in the initrd, and in Nix's sandbox, where `cairn-image` makes images. Built
/// for the same machine once more.
const STATIC: &[&str] = &["cairn-init", "cairn-image"];

/// The target's name, so that build scripts and macros stay as they are.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they are.
pub(crate) fn dir() -> PathBuf {
    crate::target().join("bin")
}

/// Builds what has changed.
pub(crate) fn build() -> Result<()> {
    process::step(
        "building the programs (the first time takes some ten minutes)",
        "cargo-build",
        Command::new("cargo").args(["build", "--workspace", "--bins", "--exclude", "xtask", "--locked"]),
    )?;
    process::step(
        "building the static programs",
        "cargo-build-static",
        Command::new("cargo")
            .args(["build", "--locked", "--target", STATIC_TARGET])
            .args(STATIC.iter().flat_map(|name| ["--package", *name]))
            .arg("--config")
            .arg(format!("target.{STATIC_TARGET}.rustflags=[\"-C\",\"target-feature=+crt-static\"]")),
    )?;
    fs::create_dir_all(dir()).with_context(|| format!("failed to make {}", dir().display()))?;
    for program in PROGRAMS {
        install(&crate::target().join("debug").join(program))?;
    }
    for program in STATIC {
        install(&crate::target().join(STATIC_TARGET).join("debug").join(program))?;
    }
    Ok(())
}

/// Strips `built` into [`dir`], where it differs from what lies there; otherwise the old file keeps its time, so that
/// nothing is made anew because of it.
fn install(built: &Path) -> Result<()> {
    let name = built.file_name().context("a program has a name")?;
    let to = dir().join(name);
    let fresh = dir().join(format!(".{}", name.to_string_lossy()));
    process::output(Command::new("strip").arg("-o").arg(&fresh).arg(built))?;
    if fs::read(&to).ok() == Some(fs::read(&fresh)?) {
        return Ok(fs::remove_file(&fresh)?);
    }
    fs::rename(&fresh, &to).with_context(|| format!("failed to put {} in place", to.display()))
}
