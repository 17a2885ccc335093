//! The appliance image: packages by the lock, then one hermetic build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{process, programs};

/// The version that images from a work tree carry.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// To run.
    Production,
    /// To test: with a root shell on a virtio port.
    Test,
}

/// Where an image's files are.
pub(crate) fn dir(flavour: Flavour) -> PathBuf {
    crate::target().join(match flavour {
        Flavour::Production => "image",
        Flavour::Test => "image-test",
    })
}

/// Builds the programs and an image of them; does nothing where neither has changed.
pub(crate) fn build(flavour: Flavour) -> Result<()> {
    programs::build()?;
    assemble(flavour, &packages()?, &dir(flavour))
}

/// One run of `cairn-image build` into `output`.
pub(crate) fn assemble(flavour: Flavour, lock: &Path, output: &Path) -> Result<()> {
    let what = match flavour {
        Flavour::Production => "assembling the image",
        Flavour::Test => "assembling the test image",
    };
    process::step(what, "image-build", &mut command(flavour, VERSION, lock, &programs::dir(), output))
}

/// `cairn-image build` of a version from a folder of programs.
pub(crate) fn command(
    flavour: Flavour,
    version: &str,
    lock: &Path,
    binaries: &Path,
    output: &Path,
) -> Command {
    let mut command = tool();
    command
        .args(["build", "--if-changed", "--version", version, "--dist", "dist", "--lock"])
        .arg(lock)
        .arg("--packages")
        .arg(debs())
        .arg("--binaries")
        .arg(binaries)
        .arg("--output")
        .arg(output);
    if flavour == Flavour::Test {
        command.arg("--test");
    }
    command
}

/// Fetches the packages of the committed lock. Where the mirror has moved on, they are solved afresh into a lock of
/// this machine's own, so that an old clone still builds; the committed lock stays as it is.
pub(crate) fn packages() -> Result<PathBuf> {
    let committed = crate::root().join("image/debian.lock");
    let fetched = fetch("fetching Debian's packages", &committed);
    let Err(error) = fetched else { return Ok(committed) };
    eprintln!("  {error:#}");
    let own = crate::target().join("debian.lock");
    process::step("solving the packages afresh", "image-lock", tool().args(["lock", "--output"]).arg(&own))?;
    fetch("fetching Debian's packages", &own)
        .context("the packages could not be had by a fresh lock either")?;
    Ok(own)
}

fn fetch(what: &str, lock: &Path) -> Result<()> {
    fs::create_dir_all(debs())?;
    process::step(what, "image-fetch", tool().args(["fetch", "--lock"]).arg(lock).arg("--into").arg(debs()))
}

/// Where packages are kept between builds.
pub(crate) fn debs() -> PathBuf {
    crate::target().join("debs")
}

/// `cairn-image`, as it was just built.
pub(crate) fn tool() -> Command {
    Command::new(programs::dir().join("cairn-image"))
}
