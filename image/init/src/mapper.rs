//! device-mapper: a verified view of the root. The bytes of each request are put together here; `kernel` passes them on.

use std::fs::OpenOptions;
use std::path::Path;

use crate::slot::Slot;
use crate::verity::RootHash;
use crate::{Outcome, kernel};

/// Length of `struct dm_ioctl`.
const REQUEST: usize = 312;

/// Length of `struct dm_target_spec`.
const TARGET: usize = 40;

/// Room for a request with one target, and for the kernel's answer.
const BUFFER: usize = 4096;

/// `DM_READONLY_FLAG`.
const READ_ONLY: u32 = 1;

/// What the kernel does about a block that does not fit its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Reboots at once: a system whose root is wrong must not go on.
    Restart,
    /// Fails the read.
    Report,
}

/// A read-only device on which every block is checked against the root hash.
pub(crate) fn open_verified(
    name: &str,
    slot: &Slot,
    root_hash: &RootHash,
    reaction: Reaction,
) -> Outcome<String> {
    let mut create = request(name, &format!("CRYPT-VERITY-{name}"), 0, 0);
    send(kernel::MapperCommand::Create, &mut create)?;
    let mut load = request(name, "", READ_ONLY, 1);
    put_target(&mut load, slot.superblock.data_blocks * 8, &parameters(slot, root_hash, reaction));
    send(kernel::MapperCommand::LoadTable, &mut load)?;
    send(kernel::MapperCommand::Resume, &mut request(name, "", 0, 0))?;
    let path = format!("/dev/dm-{}", minor(&create));
    if !Path::new(&path).exists() {
        return Err(format!("the kernel made no {path}"));
    }
    Ok(path)
}

/// Removes a device that nobody has open.
pub(crate) fn close(name: &str) -> Outcome<()> {
    send(kernel::MapperCommand::Remove, &mut request(name, "", 0, 0))
}

fn send(command: kernel::MapperCommand, buffer: &mut [u8]) -> Outcome<()> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/mapper/control")
        .map_err(|error| format!("failed to open the device mapper: {error}"))?;
    kernel::mapper(&control, command, buffer)
        .map_err(|error| format!("failed to set up the verified root ({command:?}): {error}"))
}

/// The target's arguments, as the kernel's documentation of dm-verity lists them; the tree follows one superblock block.
fn parameters(slot: &Slot, root_hash: &RootHash, reaction: Reaction) -> String {
    let Slot { root, tree, superblock, .. } = slot;
    let (blocks, salt) = (superblock.data_blocks, superblock.salt());
    let options = match reaction {
        Reaction::Restart => " 1 restart_on_corruption",
        Reaction::Report => "",
    };
    format!("1 {root} {tree} 4096 4096 {blocks} 1 sha256 {root_hash} {salt}{options}")
}

/// A `struct dm_ioctl` with room behind it.
fn request(name: &str, uuid: &str, flags: u32, targets: u32) -> Vec<u8> {
    let mut buffer = vec![0; BUFFER];
    let fields = [(0, 4), (12, BUFFER as u32), (16, REQUEST as u32), (20, targets), (28, flags)];
    for (at, value) in fields {
        buffer[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    buffer[48..48 + name.len()].copy_from_slice(name.as_bytes());
    buffer[176..176 + uuid.len()].copy_from_slice(uuid.as_bytes());
    buffer
}

/// One verity target over the whole device.
fn put_target(buffer: &mut [u8], sectors: u64, parameters: &str) {
    let text = REQUEST + TARGET;
    let next = (TARGET + parameters.len() + 1).next_multiple_of(8) as u32;
    buffer[REQUEST + 8..REQUEST + 16].copy_from_slice(&sectors.to_le_bytes());
    buffer[REQUEST + 20..REQUEST + 24].copy_from_slice(&next.to_le_bytes());
    buffer[REQUEST + 24..REQUEST + 30].copy_from_slice(b"verity");
    buffer[text..text + parameters.len()].copy_from_slice(parameters.as_bytes());
}

/// Minor number in the kernel's answer (its 64-bit device encoding).
fn minor(buffer: &[u8]) -> u64 {
    let device = buffer[40..48].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    device & 0xff | device >> 12 & 0xf_ff00
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Disk;
    use crate::verity::Superblock;

    #[test]
    fn a_table_load_is_laid_out_as_the_kernel_reads_it() {
        let hash = RootHash::parse(&"ab".repeat(32)).unwrap();
        let slot = Slot {
            disk: Disk::named("vda"),
            root: "/dev/vda2".into(),
            tree: "/dev/vda3".into(),
            superblock: Superblock { data_blocks: 16, salt: vec![1] },
        };
        let plain = format!("1 /dev/vda2 /dev/vda3 4096 4096 16 1 sha256 {} 01", "ab".repeat(32));
        assert_eq!(parameters(&slot, &hash, Reaction::Report), plain);
        let text = parameters(&slot, &hash, Reaction::Restart);
        assert_eq!(text, format!("{plain} 1 restart_on_corruption"));
        let mut buffer = request("cairn-root", "u", READ_ONLY, 1);
        put_target(&mut buffer, 128, &text);
        assert_eq!(buffer[..4], 4u32.to_le_bytes());
        assert_eq!(buffer[20..24], 1u32.to_le_bytes());
        assert_eq!(buffer[28..32], READ_ONLY.to_le_bytes());
        assert_eq!(&buffer[48..59], b"cairn-root\0");
        assert_eq!(buffer[320..328], 128u64.to_le_bytes());
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..361], b"1 /dev/vd");
    }

    #[test]
    fn minor_numbers_above_255_are_decoded() {
        let mut buffer = request("x", "", 0, 0);
        for (device, expected) in [(0xfd00u64, 0), (0xfd05, 5), (0x0010_fd02, 0x102)] {
            buffer[40..48].copy_from_slice(&device.to_le_bytes());
            assert_eq!(minor(&buffer), expected);
        }
    }
}
