//! A disk as a power cut may leave it: all that was flushed, and of the rest what chance decides.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, hash_map},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    rc::Rc,
};

use anyhow::{Context, Result};

use crate::writes::{Entry, Log, SECTOR};

/// The unit in which changes are looked up.
pub const BLOCK: u64 = 4096;

/// A write that no flush has followed yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    start: u64,
    length: u64,
    data: u64,
}

/// The disk as of the last flush, and what was written since.
#[derive(Debug)]
struct State {
    log: Rc<Log>,
    base: File,
    pending: Vec<Pending>,
    /// Which pending writes touch a block, in their order.
    index: HashMap<u64, Vec<usize>>,
    /// How many bytes of each pending write have reached the disk.
    reached: Vec<u64>,
}

/// A disk under replay. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Rc<RefCell<State>>);

impl Disk {
    /// Starts from a raw disk of its own, which it changes.
    pub fn new(base: File, log: Rc<Log>) -> Self {
        let state = State { log, base, pending: Vec::new(), index: HashMap::new(), reached: Vec::new() };
        Self(Rc::new(RefCell::new(state)))
    }

    /// Takes the next entry of the log. Returns the blocks that a flush has made last.
    pub fn apply(&self, entry: Entry) -> Result<BTreeSet<u64>> {
        let state = &mut *self.0.borrow_mut();
        match entry {
            Entry::Write { start, length, data } => {
                let number = state.pending.len();
                state.pending.push(Pending { start, length, data });
                state.reached.push(length);
                for block in start / BLOCK..(start + length).div_ceil(BLOCK) {
                    state.index.entry(block).or_default().push(number);
                }
                Ok(BTreeSet::new())
            }
            Entry::Flush => {
                let mut bytes = Vec::new();
                for write in std::mem::take(&mut state.pending) {
                    bytes.resize(usize::try_from(write.length)?, 0);
                    state.log.read(write.data, &mut bytes)?;
                    state
                        .base
                        .write_all_at(&bytes, write.start)
                        .context("failed to write the replayed disk")?;
                }
                state.reached.clear();
                Ok(state.index.drain().map(|(block, _)| block).collect())
            }
        }
    }

    /// How many writes no flush has followed yet.
    pub fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// The blocks that they touch, within a range of bytes.
    pub fn touched(&self, range: &Range<u64>) -> Vec<u64> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        self.0.borrow().index.keys().copied().filter(|block| blocks.contains(block)).collect()
    }

    /// Cuts the power: `keep` says of each pending write how much of it reaches the disk, given its length in sectors.
    pub fn cut(&self, mut keep: impl FnMut(usize, u64) -> u64) {
        let state = &mut *self.0.borrow_mut();
        for (number, write) in state.pending.iter().enumerate() {
            state.reached[number] = keep(number, write.length / SECTOR) * SECTOR;
        }
    }

    /// Writes what has reached a partition since the last flush onto a copy of it.
    pub fn write_reached(&self, range: &Range<u64>, copy: &File) -> Result<()> {
        let state = &*self.0.borrow();
        let writes = state.pending.iter().zip(&state.reached);
        for (write, reached) in writes.filter(|(write, _)| range.contains(&write.start)) {
            let mut bytes = vec![0; usize::try_from(*reached)?];
            state.log.read(write.data, &mut bytes)?;
            copy.write_all_at(&bytes, write.start - range.start).context("failed to write a copy")?;
        }
        Ok(())
    }

    /// Reads as after the cut.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let state = &*self.0.borrow();
        state.base.read_exact_at(bytes, at).context("failed to read the replayed disk")?;
        let range = at..at + bytes.len() as u64;
        let mut last = None;
        let mut writes: Vec<usize> = (range.start / BLOCK..range.end.div_ceil(BLOCK))
            .filter_map(|block| state.index.get(&block))
            .flatten()
            .copied()
            .collect();
        writes.sort_unstable();
        for number in writes {
            if last.replace(number) == Some(number) {
                continue;
            }
            let write = state.pending[number];
            let (from, to) =
                (range.start.max(write.start), range.end.min(write.start + state.reached[number]));
            if from < to {
                let target = &mut bytes[usize::try_from(from - at)?..usize::try_from(to - at)?];
                state.log.read(write.data + (from - write.start), target)?;
            }
        }
        Ok(())
    }
}

/// Bytes that a [`Part`] takes up at once: fatfs asks for a cluster of 1 KiB, and then for four bytes of the table.
const PIECE: u64 = 64 << 10;

/// A partition of a disk, as a file. What was read is remembered: one is for one look at one state of the disk.
#[derive(Debug, Clone)]
pub struct Part {
    disk: Disk,
    range: Range<u64>,
    at: u64,
    pieces: HashMap<u64, Vec<u8>>,
}

impl Part {
    /// The bytes of `range`.
    pub fn new(disk: &Disk, range: Range<u64>) -> Self {
        Self { disk: disk.clone(), range, at: 0, pieces: HashMap::new() }
    }

    /// The piece of this number.
    fn piece(&mut self, number: u64) -> io::Result<&[u8]> {
        match self.pieces.entry(number) {
            hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            hash_map::Entry::Vacant(place) => {
                let start = self.range.start + number * PIECE;
                let length = PIECE.min(self.range.end - start);
                let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                self.disk.read(start, &mut bytes).map_err(io::Error::other)?;
                Ok(place.insert(bytes))
            }
        }
    }
}

impl Read for Part {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.range.end - self.range.start {
            return Ok(0);
        }
        let (number, within) = (self.at / PIECE, usize::try_from(self.at % PIECE).map_err(io::Error::other)?);
        let piece = &self.piece(number)?[within..];
        let count = bytes.len().min(piece.len());
        bytes[..count].copy_from_slice(&piece[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let size = self.range.end - self.range.start;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => size.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("a place before the partition"))?;
        Ok(self.at)
    }
}

impl Write for Part {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("a check does not write"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of two writes, a flush and a third write, over a disk of zeroes.
    fn disk(folder: &std::path::Path) -> Disk {
        let path = folder.join("log");
        let mut log = vec![0; 512];
        log[..8].copy_from_slice(&0x006a_7366_7773_6872_u64.to_le_bytes());
        log[8] = 1;
        log[16] = 4;
        log[24..28].copy_from_slice(&512_u32.to_le_bytes());
        for (sector, sectors, flags, byte) in
            [(0_u64, 2_u64, 0_u64, 1_u8), (1, 1, 0, 2), (0, 0, 1, 0), (8, 2, 0, 3)]
        {
            let mut head = [sector, sectors, flags].map(u64::to_le_bytes).concat();
            head.resize(512, 0);
            log.extend(head);
            log.extend(vec![byte; usize::try_from(sectors * SECTOR).unwrap()]);
        }
        std::fs::write(&path, log).unwrap();
        std::fs::write(folder.join("disk"), vec![0; 1 << 16]).unwrap();
        let base = File::options().read(true).write(true).open(folder.join("disk")).unwrap();
        Disk::new(base, Rc::new(Log::open(&path).unwrap()))
    }

    fn sectors(disk: &Disk) -> Vec<u8> {
        let mut bytes = vec![0; 10 * 512];
        disk.read(0, &mut bytes).unwrap();
        bytes.chunks(512).map(|sector| sector[511]).collect()
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_as_chance_has_it() {
        let folder = std::env::temp_dir().join(format!("cairn-replay-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let disk = disk(&folder);
        let entries = disk.0.borrow().log.entries.clone();
        for entry in &entries[..2] {
            assert!(disk.apply(*entry).unwrap().is_empty());
        }
        disk.cut(|_, all| all);
        assert_eq!(sectors(&disk)[..3], [1, 2, 0]);
        disk.cut(|number, all| if number == 0 { all } else { 0 });
        assert_eq!(sectors(&disk)[..3], [1, 1, 0]);
        disk.cut(|number, _| u64::from(number == 0));
        assert_eq!(sectors(&disk)[..3], [1, 0, 0], "torn");
        assert_eq!(disk.apply(entries[2]).unwrap(), BTreeSet::from([0]));
        disk.apply(entries[3]).unwrap();
        disk.cut(|_, _| 0);
        assert_eq!(sectors(&disk), [1, 2, 0, 0, 0, 0, 0, 0, 0, 0], "the flush made both last, whole");
        disk.cut(|_, all| all);
        assert_eq!(sectors(&disk)[8..], [3, 3]);
        assert_eq!(disk.touched(&(0..1 << 16)), [1]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
