//! Slots, boot control and the disk layout of a Cairn machine; must never know HTTP or TUF.
//!
//! It starts no task. What stands today is what the image builder and the daemon must agree on: the partitions, their
//! labels, and the names of boot entries.

pub mod carrier;
pub mod chunks;
pub mod entry;
pub mod layout;
pub mod patch;
pub mod verity;

pub use cairn_model::os_version::{OsVersion, VersionError};
pub use carrier::{Carrier, FolderCarrier};
pub use entry::{BootEntry, EntryError};
pub use layout::{Partition, Role};
