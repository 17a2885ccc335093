//! `cairnd media mount`: mounts a stick so that not one byte of it changes, by the system's own `mount`. It is run by
//! `cairn-media@.service` in the machine's own mount namespace, for what is mounted in another one nobody else sees.
//!
//! - The block device itself is made read-only first. That is not excessive: ext4 replays its journal, cleans up orphans
//!   and notes errors even on a file system that is mounted read-only.
//! - `ro=fs`: the file system takes no writes, the mount point would. The daemon's own view of the mount is a copy, whose
//!   flags nobody can change later; so it can write once the file system is made writable for the outbox.
//! - `errors=remount-ro`: what ext4 does on an error is written on the stick otherwise, and may be a panic.
//! - An ext4 whose journal was not replayed, because it was pulled in the middle, is first mounted without its journal.
//!   If it is a stick of Cairn's, on which the daemon itself wrote last, then its journal is replayed.

use std::{
    ffi::OsStr,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cairn_model::media::RECEIPT;
use cairn_trust::fetch::Folder;

use super::Device;

const MOUNT: &str = "/usr/bin/mount";
const UMOUNT: &str = "/usr/bin/umount";
const BLOCKDEV: &str = "/usr/sbin/blockdev";

/// The file systems that are read; no other driver is let loose on what a stranger formatted.
const TYPES: &str = "vfat,exfat,ext4";
/// What holds for all of them.
const OPTIONS: &str = "ro=fs,nosuid,nodev,noexec,nosymfollow,errors=remount-ro";

/// Why a stick is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum CannotMount {
    /// The mount point cannot be made.
    #[error("failed to make the mount point {path}")]
    Point {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program did not do it.
    #[error("{program} refused: {said}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
}

/// Mounts `/dev/<device>` at `folder/<device>`.
///
/// # Errors
/// If it holds no file system that is read here, or a damaged one.
pub fn mount(device: &Device, folder: &Path) -> Result<(), CannotMount> {
    let point = folder.join(device.as_str());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&point);
    made.map_err(|source| CannotMount::Point { path: point.clone(), source })?;
    mount_with(&mut System { node: Path::new("/dev").join(device.as_str()), point })
}

/// What is done to the system.
trait Hands {
    /// `--setro` or `--setrw`.
    fn protect(&mut self, flag: &'static str) -> Result<(), CannotMount>;
    fn mount(&mut self, types: &'static str, more: &'static str) -> Result<(), CannotMount>;
    fn unmount(&mut self) -> Result<(), CannotMount>;
    /// Whether what is mounted has the receipt.
    fn is_ours(&mut self) -> bool;
}

fn mount_with(hands: &mut dyn Hands) -> Result<(), CannotMount> {
    hands.protect("--setro")?;
    let Err(refused) = hands.mount(TYPES, "") else { return Ok(()) };
    if hands.mount("ext4", ",noload").is_err() {
        return Err(refused);
    }
    if !hands.is_ours() {
        return Ok(());
    }
    hands.unmount()?;
    hands.protect("--setrw")?;
    let replayed = hands.mount("ext4", "");
    hands.protect("--setro")?;
    // Write-protected by a switch, it is read as it is.
    replayed.or_else(|_| hands.mount("ext4", ",noload"))
}

struct System {
    node: PathBuf,
    point: PathBuf,
}

fn run(program: &'static str, arguments: &[&OsStr]) -> Result<(), CannotMount> {
    let refused = |said: String| CannotMount::Program { program, said };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| refused(format!("it cannot be run: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(refused(format!("{}: {}", output.status, said.trim())))
}

impl Hands for System {
    fn protect(&mut self, flag: &'static str) -> Result<(), CannotMount> {
        run(BLOCKDEV, &[flag.as_ref(), self.node.as_ref()])
    }

    fn mount(&mut self, types: &'static str, more: &'static str) -> Result<(), CannotMount> {
        let options = format!("{OPTIONS}{more}");
        let arguments: [&OsStr; 6] = [
            "-t".as_ref(),
            types.as_ref(),
            "-o".as_ref(),
            options.as_ref(),
            self.node.as_ref(),
            self.point.as_ref(),
        ];
        run(MOUNT, &arguments)
    }

    fn unmount(&mut self) -> Result<(), CannotMount> {
        run(UMOUNT, &[self.point.as_ref()])
    }

    fn is_ours(&mut self) -> bool {
        Folder::open(&self.point).and_then(|folder| folder.len(RECEIPT)).is_ok_and(|found| found.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stick, and what was done to it.
    #[derive(Default)]
    struct Stick {
        formatted: bool,
        dirty: bool,
        ours: bool,
        switch: bool,
        protected: bool,
        done: Vec<String>,
    }

    fn refused() -> CannotMount {
        CannotMount::Program { program: MOUNT, said: "no".to_owned() }
    }

    impl Hands for Stick {
        fn protect(&mut self, flag: &'static str) -> Result<(), CannotMount> {
            self.protected = flag == "--setro";
            self.done.push(flag.to_owned());
            Ok(())
        }

        fn mount(&mut self, types: &'static str, more: &'static str) -> Result<(), CannotMount> {
            let replays = self.dirty && more.is_empty();
            if !self.formatted || (replays && (self.protected || self.switch)) {
                return Err(refused());
            }
            assert!(self.protected || self.ours, "a stranger's stick could be written to");
            self.dirty &= !replays;
            self.done.push(format!("mount {types}{more}"));
            Ok(())
        }

        fn unmount(&mut self) -> Result<(), CannotMount> {
            self.done.push("unmount".to_owned());
            Ok(())
        }

        fn is_ours(&mut self) -> bool {
            self.ours
        }
    }

    #[test]
    fn an_ordinary_stick_is_mounted_at_once_and_protected() {
        let mut stick = Stick { formatted: true, ..Stick::default() };
        mount_with(&mut stick).unwrap();
        assert_eq!(stick.done, ["--setro", "mount vfat,exfat,ext4"]);
    }

    #[test]
    fn a_strangers_journal_is_not_replayed() {
        let mut stick = Stick { formatted: true, dirty: true, ..Stick::default() };
        mount_with(&mut stick).unwrap();
        assert_eq!(stick.done, ["--setro", "mount ext4,noload"]);
        assert!(stick.dirty);
    }

    #[test]
    fn the_journal_of_a_stick_of_ours_is_replayed() {
        let mut stick = Stick { formatted: true, dirty: true, ours: true, ..Stick::default() };
        mount_with(&mut stick).unwrap();
        let expected = ["--setro", "mount ext4,noload", "unmount", "--setrw", "mount ext4", "--setro"];
        assert_eq!(stick.done, expected);
        assert!(!stick.dirty && stick.protected);
    }

    #[test]
    fn a_journal_behind_a_switch_is_left_as_it_is() {
        let mut stick = Stick { formatted: true, dirty: true, ours: true, switch: true, ..Stick::default() };
        mount_with(&mut stick).unwrap();
        assert_eq!(stick.done.last().unwrap(), "mount ext4,noload");
        assert!(stick.protected);
    }

    #[test]
    fn what_no_driver_takes_is_refused() {
        assert!(mount_with(&mut Stick::default()).is_err());
    }
}
