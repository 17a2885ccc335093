//! What the chores need from Debian, and its installation.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::process;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compile, and make the image.
    Image,
    /// Also boot it, and push to a hub.
    Demo,
    /// Also everything that a test compares with.
    Test,
    /// Also everything that a benchmark compares with.
    Bench,
}

/// To compile: libcontainer's seccomp, aws-lc; to make the image: apt's own key ring.
const IMAGE: &[&str] = &[
    "gcc",
    "binutils",
    "pkg-config",
    "cmake",
    "libseccomp-dev",
    "debian-archive-keyring",
    "apt-utils",
    "xz-utils",
];
const DEMO: &[&str] =
    &["qemu-system-x86", "qemu-utils", "ovmf", "skopeo", "curl", "busybox-static", "python3-venv", "mtools"];
const TEST: &[&str] = &[
    "umoci",
    "faketime",
    "git",
    "iproute2",
    "nftables",
    "netavark",
    "kmod",
    "nix-bin",
    "dbus-daemon",
    "dbus-bin",
    "rauc",
    "dosfstools",
    "e2fsprogs",
    "exfatprogs",
];
const BENCH: &[&str] = &[
    "crun",
    "runc",
    // OS updates: the peers, what makes and signs bundles for them, and what tells their memory.
    "casync",
    "xdelta3",
    "zstd",
    "squashfs-tools",
    "openssl",
    "time",
];

/// Installs what is missing, and says what that is.
pub(crate) fn ensure(need: Need) -> Result<()> {
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "this machine has no apt-get: the chores install what they need on Debian 12, 13 and Ubuntu; elsewhere install \
         these by hand: {IMAGE:?} {DEMO:?} {TEST:?}"
    );
    let wanted: Vec<&str> = [
        (IMAGE, true),
        (DEMO, need != Need::Image),
        (TEST, matches!(need, Need::Test | Need::Bench)),
        (BENCH, need == Need::Bench),
    ]
    .into_iter()
    .filter(|(_, include)| *include)
    .flat_map(|(packages, _)| packages.iter().copied())
    .collect();
    let missing: Vec<&str> = wanted.into_iter().filter(|p| !is_installed(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing from Debian's packages: {}", missing.join(" "));
    process::step("apt-get update", "apt-update", Command::new("apt-get").args(["update", "-qq"]))?;
    process::step(
        "apt-get install",
        "apt-install",
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .context("failed to install what is missing: are you root, and is the machine's package mirror in reach?")
}

fn is_installed(package: &str) -> bool {
    process::output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}
