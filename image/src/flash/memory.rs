//! A partition in memory of which only what is not zero takes room: the ESP is looked into, and provisioned, before a
//! byte of it is on a disk.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use fatfs::{FileSystem, FsOptions};

use crate::esp::FIXED_TIME;

/// Unit in which memory is taken.
const BLOCK: usize = 64 * 1024;

/// As many zeroes as a block has.
static ZEROES: [u8; BLOCK] = [0; BLOCK];

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(BLOCK).all(|part| part == &ZEROES[..part.len()])
}

/// `size` bytes with a position, as a file has one.
#[derive(Debug, Clone, Default)]
pub struct Sparse {
    size: u64,
    at: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    /// Zeroes.
    pub fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// Copies from `offset` on; what lies behind the end stays as it is.
    pub(crate) fn read_at(&self, offset: u64, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (index, within) = locate(offset + done as u64);
            let count = (BLOCK - within).min(bytes.len() - done);
            let part = &mut bytes[done..done + count];
            match self.blocks.get(&index) {
                Some(block) => part.copy_from_slice(&block[within..within + count]),
                None => part.fill(0),
            }
            done += count;
        }
    }

    /// Puts bytes in; zeroes take no room where there was nothing.
    pub(crate) fn write_at(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (index, within) = locate(offset + done as u64);
            let count = (BLOCK - within).min(bytes.len() - done);
            let part = &bytes[done..done + count];
            if self.blocks.contains_key(&index) || !is_zero(part) {
                let block = self.blocks.entry(index).or_insert_with(|| vec![0; BLOCK]);
                block[within..within + count].copy_from_slice(part);
            }
            done += count;
        }
    }

    /// Mounts the FAT file system in it.
    ///
    /// # Errors
    /// If it holds none.
    pub fn volume(&mut self) -> io::Result<FileSystem<&mut Self>> {
        // The library asserts that it begins at the beginning.
        self.at = 0;
        FileSystem::new(self, FsOptions::new().time_provider(&FIXED_TIME))
    }

    /// How much there is from the position on, `wanted` at most.
    fn room(&self, wanted: usize) -> usize {
        let left = self.size.saturating_sub(self.at);
        usize::try_from(left).map_or(wanted, |left| left.min(wanted))
    }
}

/// Which block, and where in it.
fn locate(offset: u64) -> (u64, usize) {
    (offset / BLOCK as u64, (offset % BLOCK as u64) as usize)
}

impl Read for Sparse {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.room(bytes.len());
        self.read_at(self.at, &mut bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.room(bytes.len());
        self.write_at(self.at, &bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "a position before the beginning");
        self.at = target.ok_or_else(outside)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_file_of_fixed_size_and_zeroes_take_no_room() {
        let mut memory = Sparse::new(3 * BLOCK as u64 + 10);
        memory.write_all(&vec![0; 2 * BLOCK]).unwrap();
        assert!(memory.blocks.is_empty());
        memory.seek(SeekFrom::Start(BLOCK as u64 - 2)).unwrap();
        memory.write_all(b"abcd").unwrap();
        assert_eq!(memory.blocks.len(), 2);
        memory.seek(SeekFrom::Current(-4)).unwrap();
        let mut back = [0; 6];
        memory.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"abcd\0\0");
        memory.seek(SeekFrom::End(-3)).unwrap();
        assert!(memory.write_all(b"four").is_err(), "it does not grow");
        memory.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(memory.read(&mut back).unwrap(), 0);
        assert!(memory.seek(SeekFrom::End(-1_000_000)).is_err());
    }
}
