//! Slots, boot control, the image writer and the update state machine of a Cairn machine; must never know HTTP or TUF.
//!
//! What comes in has been found genuine by others, and is compared with its digests here all the same. It must never write
//! to what runs, never change the partition table, and never leave the machine without an entry that boots a whole slot.
//! All of it blocks, and belongs on a thread for that. Writing a release starts threads of its own (`write/behind.rs` has
//! the channels between them), and all have ended when it returns.
//!
//! | module | what it is for |
//! |---|---|
//! | [`machine`] | which OS runs where: slots and ESP, found by looking at the kernel |
//! | [`boot`] | what the boot loader starts: entries and their counters |
//! | [`entry`] | names of boot entries |
//! | [`record`] | what initrd and daemon tell each other about a slot |
//! | [`updater`] | the state machine: admit, install, try, keep or go back |
//! | [`data_layout`] | the version of the data partition, and the way back from a newer one |
//! | [`mod@write`] | a release into a slot |
//! | [`chunks`], [`patch`] | the two ways of a delta |
//! | [`verity`] | hash trees |
//! | [`layout`] | the partitions of a disk |
//! | [`carrier`] | where bytes come from |

pub mod boot;
pub mod carrier;
pub mod chunks;
pub mod data_layout;
pub mod entry;
mod gpt;
pub mod layout;
pub mod machine;
#[cfg(test)]
mod noise;
pub mod patch;
pub mod record;
pub mod updater;
pub mod verity;
pub mod write;

pub use boot::{BootControl, BootError, SystemdBoot};
pub use cairn_model::os_version::{OsVersion, VersionError};
pub use carrier::{Carrier, FolderCarrier};
pub use entry::{BootEntry, EntryError};
pub use layout::{Partition, Role};
pub use machine::{Machine, MachineError};
pub use updater::{Admission, Attempt, Mark, Refusal, SlotInfo, Startup, UpdateError, Updater};
