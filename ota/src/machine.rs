//! What the machine is: which OS runs in which slot, and where slots and ESP are. Found by looking at the kernel, never
//! by names that a disk gives itself.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use cairn_model::report::Slot;

use crate::{OsVersion, VersionError, verity};

mod discover;
mod scan;
#[cfg(test)]
mod tests;

pub use scan::ScanError;

/// Where the ESP is mounted.
pub const ESP: &str = "boot";

/// The devices of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotDevices {
    /// Root file system.
    pub root: PathBuf,
    /// Hash tree, and the boot record at its end.
    pub tree: PathBuf,
}

/// A machine with two slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Which slot runs.
    pub running: Slot,
    /// The running OS.
    pub identity: Identity,
    /// Names this start of the kernel.
    pub boot_id: String,
    /// Where the ESP is mounted.
    pub esp: PathBuf,
    /// Slot A, slot B.
    pub slots: [SlotDevices; 2],
    /// The device through which the kernel verifies each block of the root that runs; none on a machine of plain files.
    pub verified: Option<PathBuf>,
}

/// What the running OS says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its version.
    pub version: OsVersion,
    /// What kind of machine it is for.
    pub compatible: String,
    /// CPU architecture in Go's names.
    pub arch: String,
    /// Root hash, 64 lower-case hex digits.
    pub root_hash: String,
}

/// Why the machine is not known.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Somebody's own machine, or a container: there is nothing to update.
    #[error("this is no Cairn appliance: {why}; its OS is not updated by Cairn")]
    NotAnAppliance {
        /// How it shows.
        why: &'static str,
    },
    /// Something that must be looked at cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// os-release names no version that can be.
    #[error("os-release of the running OS names no version; build the image with cairn-image")]
    Version(#[source] VersionError),
    /// The disk is not laid out as a Cairn disk.
    #[error(
        "the disk {disk} is not laid out as Cairn lays it out: {why}; flash it again with 'cairn-image flash'"
    )]
    Layout {
        /// Its name.
        disk: String,
        /// What is wrong.
        why: String,
    },
    /// The ESP is not there.
    #[error(
        "the ESP is not mounted on /{ESP}: {why}; start boot.automount, or look for its errors in the journal"
    )]
    Esp {
        /// How it shows.
        why: &'static str,
    },
}

impl Machine {
    /// Finds out by the kernel's files below `root`, which is `/` but in tests.
    ///
    /// # Errors
    /// [`MachineError::NotAnAppliance`] where there is nothing to update; else what keeps this appliance from updates.
    pub fn discover(root: &Path) -> Result<Self, MachineError> {
        discover::discover(root)
    }

    /// A machine of plain files: `root-a`, `tree-a`, `root-b`, `tree-b` and the folder `esp`, all in `folder`.
    pub fn of_files(folder: &Path, running: Slot, identity: Identity, boot_id: &str) -> Self {
        let slot = |slot: Slot| SlotDevices {
            root: folder.join(format!("root-{}", slot.as_str())),
            tree: folder.join(format!("tree-{}", slot.as_str())),
        };
        let (esp, boot_id) = (folder.join("esp"), boot_id.to_owned());
        let slots = [slot(Slot::A), slot(Slot::B)];
        Self { running, identity, boot_id, esp, slots, verified: None }
    }

    /// Version of what runs.
    pub fn version(&self) -> &OsVersion {
        &self.identity.version
    }

    /// What kind of machine it is.
    pub fn compatible(&self) -> &str {
        &self.identity.compatible
    }

    /// Root hash of what runs.
    pub fn root_hash(&self) -> &str {
        &self.identity.root_hash
    }

    /// The devices of a slot.
    pub fn devices(&self, slot: Slot) -> &SlotDevices {
        match slot {
            Slot::A => &self.slots[0],
            Slot::B => &self.slots[1],
        }
    }

    /// Which root a slot's hash tree is for, by its top block; `None` if it holds none.
    ///
    /// # Errors
    /// If the partition cannot be read.
    pub fn content(&self, slot: Slot) -> io::Result<Option<String>> {
        let tree = self.devices(slot).open_tree()?;
        Ok(verity::identify(&tree)?.map(|(_, root_hash)| root_hash))
    }
}

impl SlotDevices {
    /// The root for reading.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open_root(&self) -> io::Result<File> {
        File::open(&self.root)
    }

    /// The hash tree for reading.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open_tree(&self) -> io::Result<File> {
        File::open(&self.tree)
    }

    /// The hash tree for reading and writing.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open_tree_to_write(&self) -> io::Result<File> {
        writable(&self.tree)
    }

    /// Both for reading and writing.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn open_to_write(&self) -> io::Result<(File, File)> {
        Ok((writable(&self.root)?, writable(&self.tree)?))
    }
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Length of a file or block device.
pub(crate) fn length(path: &Path) -> io::Result<u64> {
    io::Seek::seek(&mut File::open(path)?, io::SeekFrom::End(0))
}
