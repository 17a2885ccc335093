//! Boot control: which OS the boot loader starts, and how often it still tries it. [`SystemdBoot`] does it by the names
//! of files on the ESP, as the Boot Loader Specification says and systemd-boot 257 does it.
//!
//! The loader takes the newest version of those that have tries left or no counter, and lowers the counter before it
//! starts one. Where *every* entry is out of tries it takes the newest of all: the last resort, on which nothing here
//! relies but a trial of an older version (see [`BootControl::make_next`]). An entry without tries left counts as not
//! bootable here.
//!
//! **Twins.** A rename that is cut off can leave two files of one version. Which one counts: of the version that runs,
//! the one without a counter, else that with most tries left (what runs has just shown that it starts); of any other
//! version one that has no tries left, then the one without a counter, then that with fewest tries left (who condemned
//! it had a reason). Twins may share their clusters on the ESP, so that removing one would free the other's: what is
//! kept is copied before the others go.
//!
//! **Power cuts.** A rename on vfat is not one write: the new name is written without content, the old one goes, and the
//! content follows. So an entry that shall boot is never renamed but copied, the old file goes when the new one stands;
//! a name is on the disk before it has content, and content goes before names, so that no part of a name that a cut
//! tears off boots anything. A file without a kernel image is no entry, to the loader as to us.

use std::{
    fmt::Debug,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use cairn_model::release::Payload;

use crate::{BootEntry, OsVersion};

mod systemd;
#[cfg(test)]
mod tests;
pub mod uki;

pub use systemd::SystemdBoot;

/// Why the boot loader's entries could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The ESP cannot be read.
    #[error("failed to read {path} on the ESP; if this stays, check the disk and flash the machine again")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ESP cannot be written.
    #[error("failed to {what} {path} on the ESP; what runs can still be booted")]
    Write {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ESP is full.
    #[error("the ESP at {path} is full; remove what is not Cairn's from it and try again")]
    Full {
        /// Where it is mounted.
        path: PathBuf,
    },
    /// There is no entry of that version.
    #[error("the ESP has no boot entry of version {version}; install that version again")]
    Missing {
        /// Which.
        version: OsVersion,
    },
    /// What was written is not what was meant to be.
    #[error("the kernel image of version {version} is not what its release says: {why}; it is written again")]
    Unsound {
        /// Of which version.
        version: OsVersion,
        /// What is wrong.
        why: &'static str,
    },
}

/// What the boot loader knows about one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Version and tries.
    pub boot: BootEntry,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The root that it boots, if its command line names one.
    pub root_hash: Option<String>,
    /// Further files of the same version.
    pub twins: Vec<PathBuf>,
}

/// Says to a boot loader what to start. All that changes something has reached the disk when it returns.
pub trait BootControl: Debug + Send {
    /// One entry a version, newest first; what is not ours is left out. Of twins the one that counts, see the module.
    ///
    /// # Errors
    /// If the ESP cannot be read.
    fn entries(&self) -> Result<Vec<Entry>, BootError>;

    /// Free bytes.
    ///
    /// # Errors
    /// If the ESP cannot be asked.
    fn room(&self) -> Result<u64, BootError>;

    /// The file in which a kernel image is put together, with what it has from before. The loader does not see it.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn staged(&self, version: &OsVersion) -> Result<File, BootError>;

    /// Makes a staged kernel image an entry with [`crate::entry::FIRST_TRIES`] tries: syncs it, reads it back, compares
    /// with what the release says, and only then gives it its name. A power cut leaves all of it or none.
    ///
    /// # Errors
    /// If it is not the image that the release says, or boots another root, or the ESP fails.
    fn install_as_last_act(
        &self,
        version: &OsVersion,
        uki: &Payload,
        root_hash: &str,
    ) -> Result<(), BootError>;

    /// Removes all files of a version. Nothing happens if there are none.
    ///
    /// # Errors
    /// If the ESP fails.
    fn remove(&self, version: &OsVersion) -> Result<(), BootError>;

    /// Removes what staging left behind, but for one version's, and short names whose long ones a power cut took.
    ///
    /// # Errors
    /// If the ESP fails.
    fn sweep(&self, keep: Option<&OsVersion>) -> Result<(), BootError>;

    /// The version is good: it is booted without counting.
    ///
    /// # Errors
    /// If it has no entry, or the ESP fails.
    fn bless(&self, version: &OsVersion) -> Result<(), BootError>;

    /// The version is bad: it has no tries left.
    ///
    /// # Errors
    /// If it has no entry, or the ESP fails.
    fn mark_bad(&self, version: &OsVersion) -> Result<(), BootError>;

    /// The version is what the loader starts next. An entry that has a counter gets all of its tries back. As the loader
    /// prefers newer versions, those are marked bad; `loader.conf`'s `default` is not used, for the loader follows it
    /// without looking at the counters. So while an older version is tried, the one that is set aside is the loader's
    /// last resort only; whoever finds the older one failed blesses it again. What is set aside is copied: without room for
    /// that on the ESP it stays what the loader takes.
    ///
    /// # Errors
    /// If it has no entry, or the ESP has no room or fails.
    fn make_next(&self, version: &OsVersion) -> Result<(), BootError>;
}

/// The one of several names for a version that counts.
fn chosen(names: &[BootEntry], running: bool) -> usize {
    let rank = |entry: &BootEntry| match (entry.tries, running) {
        (None, true) => (0, 0),
        (Some((left, done)), true) => (1 + (99 - left.min(99)), done),
        (Some((0, done)), false) => (0, done),
        (None, false) => (1, 0),
        (Some((left, done)), false) => (1 + left, done),
    };
    (0..names.len()).min_by_key(|index| rank(&names[*index])).unwrap_or(0)
}

/// Name of the file in which a version is put together.
fn staged_name(version: &OsVersion) -> String {
    format!(".cairn_{version}.tmp")
}

/// Whether a file is one that staging may have left behind.
fn is_staged(name: &str) -> bool {
    name.strip_prefix(".cairn_").is_some_and(|rest| rest.ends_with(".tmp"))
}

/// Whether a file shows the short name that FAT makes for ours (`CAIRN_~1.EFI`): a power cut, here or in the firmware,
/// has torn it off its long one, so that it would boot uncounted whatever its slot holds by now.
fn is_torn_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let Some((stem, number)) = name.strip_suffix(".EFI").and_then(|name| name.split_once('~')) else {
        return false;
    };
    // Six characters of the long name; four digits of a hash after the first two where such names are many.
    let ours = stem == "CAIRN_" || (stem.len() == 6 && stem.starts_with("CA"));
    ours && number.len() == 1 && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Tells a full ESP from other failures to write.
fn write_error(esp: &Path, what: &'static str, path: &Path, source: io::Error) -> BootError {
    match source.kind() {
        io::ErrorKind::StorageFull => BootError::Full { path: esp.to_owned() },
        _ => BootError::Write { what, path: path.to_owned(), source },
    }
}
