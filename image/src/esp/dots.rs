//! Puts `.` and `..` where the FAT specification wants them. The FAT writer gives both a long name too, and `..` of a folder
//! below the root the root's cluster instead of 0; the kernel reads that, but `fsck.vfat` repairs it by renaming both, and
//! a folder without them is a damaged one to the kernel.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Length of an entry in a folder.
const ENTRY: usize = 32;

/// Attribute of a folder.
const FOLDER: u8 = 0x10;

/// Attributes of an entry with a part of a long name.
const LONG_NAME: u8 = 0x0f;

/// First byte of an entry that is not used any more.
const DELETED: u8 = 0xe5;

/// Folders within folders that are looked into; ours have three.
const MAX_DEPTH: usize = 8;

/// Where things are on a FAT32 volume.
struct Volume<'a, T> {
    device: &'a mut T,
    cluster_size: u64,
    fat: u64,
    data: u64,
}

/// Straightens every folder of the FAT32 volume that begins at the device's first byte.
///
/// # Errors
/// If the device cannot be read or written, or holds no FAT32 volume that makes sense.
pub(crate) fn straighten<T: Read + Write + Seek>(device: &mut T) -> io::Result<()> {
    let mut head = [0; 512];
    device.seek(SeekFrom::Start(0))?;
    device.read_exact(&mut head)?;
    let short = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
    let long = |at: usize| short(at) | short(at + 2) << 16;
    let (sector, cluster) = (short(11), u64::from(head[13]));
    let fat = short(14) * sector;
    let data = fat + u64::from(head[16]) * long(36) * sector;
    if sector != 512 || cluster == 0 || &head[82..87] != b"FAT32" {
        return Err(io::Error::other("this is no FAT32 volume of ours"));
    }
    let root = u32::try_from(long(44)).unwrap_or(u32::MAX);
    let mut volume = Volume { device, cluster_size: cluster * sector, fat, data };
    volume.folder(root, root, MAX_DEPTH)
}

impl<T: Read + Write + Seek> Volume<'_, T> {
    /// Straightens the folders in the folder at `cluster`.
    fn folder(&mut self, cluster: u32, root: u32, depth: usize) -> io::Result<()> {
        let mut at = Some(cluster);
        while let Some(cluster_now) = at {
            let bytes = self.read(cluster_now)?;
            for entry in bytes.chunks_exact(ENTRY) {
                let named = !matches!(entry[0], 0 | DELETED | b'.');
                if depth > 0 && named && entry[11] & LONG_NAME != LONG_NAME && entry[11] & FOLDER != 0 {
                    let child = first_cluster(entry);
                    self.dots(child, if cluster == root { 0 } else { cluster })?;
                    self.folder(child, root, depth - 1)?;
                }
            }
            at = self.next(cluster_now)?;
        }
        Ok(())
    }

    /// Puts the two entries into the first two places of the folder at `cluster`, and frees what they leave.
    fn dots(&mut self, cluster: u32, parent: u32) -> io::Result<()> {
        let mut bytes = self.read(cluster)?;
        let find = |name: &[u8; 11]| {
            let mut entries = bytes.chunks_exact(ENTRY).take(4);
            entries
                .find(|entry| entry[..11] == name[..] && entry[11] & LONG_NAME != LONG_NAME)
                .map(<[u8]>::to_vec)
        };
        let (Some(own), Some(mut above)) = (find(b".          "), find(b"..         ")) else {
            return Err(io::Error::other("a folder lacks its two first entries"));
        };
        above[20..22].copy_from_slice(&parent.to_le_bytes()[2..]);
        above[26..28].copy_from_slice(&parent.to_le_bytes()[..2]);
        let dot = |entry: &[u8]| match entry[11] & LONG_NAME == LONG_NAME {
            // `.` and `..` as a long name: UTF-16, ended by a zero.
            true => entry[1..].starts_with(b".\0\0\0") || entry[1..].starts_with(b".\0.\0\0\0"),
            false => entry[0] == b'.',
        };
        for entry in bytes.chunks_exact_mut(ENTRY).take(4).skip(2).filter(|entry| dot(entry)) {
            entry[0] = DELETED;
        }
        bytes[..ENTRY].copy_from_slice(&own);
        bytes[ENTRY..2 * ENTRY].copy_from_slice(&above);
        self.device.seek(SeekFrom::Start(self.place(cluster)))?;
        self.device.write_all(&bytes)
    }

    fn place(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster.saturating_sub(2)) * self.cluster_size
    }

    fn read(&mut self, cluster: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.cluster_size).unwrap_or_default()];
        let place = self.place(cluster);
        self.device.seek(SeekFrom::Start(place))?;
        self.device.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The cluster that follows one in its file.
    fn next(&mut self, cluster: u32) -> io::Result<Option<u32>> {
        let mut bytes = [0; 4];
        self.device.seek(SeekFrom::Start(self.fat + u64::from(cluster) * 4))?;
        self.device.read_exact(&mut bytes)?;
        let next = u32::from_le_bytes(bytes) & 0x0fff_ffff;
        Ok((2..0x0fff_fff7).contains(&next).then_some(next))
    }
}

fn first_cluster(entry: &[u8]) -> u32 {
    let short = |at: usize| u32::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
    short(20) << 16 | short(26)
}
