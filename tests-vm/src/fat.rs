//! FAT32 as it lies on a stick, read without its driver: every folder, and which clusters each file has. For sticks that
//! were pulled in the middle of a write, which a driver would repair or refuse on its way.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, ensure};

/// Length of a name in a folder, in bytes.
pub(crate) const ENTRY: usize = 32;
/// Deepest folder that is followed: a loop has no end.
const MAX_DEPTH: usize = 16;
/// From here on a link of a chain says that it ends.
const END: u32 = 0x0fff_fff8;
/// The upper four bits of a link are reserved.
const LINK: u32 = 0x0fff_ffff;

/// Reads bytes at a place.
pub type Reader<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<()>;

/// The measures of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Where the file system begins, in bytes.
    pub start: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Where each copy of the table of clusters is, in bytes.
    pub tables: Vec<Range<u64>>,
    /// Where the first cluster, of number 2, is.
    pub data: u64,
    /// How many clusters there are.
    pub clusters: u32,
    /// First cluster of the topmost folder.
    pub root: u32,
}

impl Shape {
    /// Reads it from the first sector of the file system that begins at `start`.
    pub fn read(read: Reader<'_>, start: u64) -> Result<Self> {
        let mut head = [0; 512];
        read(start, &mut head)?;
        let short = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let long = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        ensure!(head[510..] == [0x55, 0xaa] && &head[82..87] == b"FAT32", "this is no FAT32");
        let sector = short(11);
        ensure!(sector == 512 && head[13].is_power_of_two() && (1..=2).contains(&head[16]), "odd measures");
        let (reserved, table) = (short(14) * sector, u64::from(long(36)) * sector);
        let tables: Vec<_> = (0..u64::from(head[16]))
            .map(|number| start + reserved + number * table..start + reserved + (number + 1) * table)
            .collect();
        let data = tables.last().context("no table")?.end;
        let cluster = u64::from(head[13]) * sector;
        let clusters = u32::try_from((start + u64::from(long(32)) * sector - data) / cluster)?;
        Ok(Self { start, cluster, tables, data, clusters, root: long(44) })
    }

    /// Where a cluster is, in bytes.
    pub fn place(&self, cluster: u32) -> Range<u64> {
        let start = self.data + u64::from(cluster.saturating_sub(2)) * self.cluster;
        start..start + self.cluster
    }

    fn has(&self, cluster: u32) -> bool {
        (2..self.clusters + 2).contains(&cluster)
    }
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whether it is a folder.
    pub is_folder: bool,
    /// What its entry says; 0 for a folder.
    pub size: u64,
    /// Its clusters, as far as its chain leads.
    pub clusters: Vec<u32>,
    /// The chain ends as it should: with its mark, and with as many clusters as the size needs.
    pub is_whole: bool,
}

/// A file system at one moment.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Its measures.
    pub shape: Shape,
    /// Everything by path.
    pub items: BTreeMap<String, Item>,
    /// Copies of the table are the same.
    pub tables_agree: bool,
    table: Vec<u8>,
}

impl Tree {
    /// Reads the file system that begins at `start`. An error where no driver would take it: what is not whole of a single
    /// file is noted with it.
    pub fn read(read: Reader<'_>, start: u64) -> Result<Self> {
        let shape = Shape::read(read, start)?;
        let mut tables = Vec::new();
        for place in &shape.tables {
            let mut table = vec![0; usize::try_from(place.end - place.start)?];
            read(place.start, &mut table)?;
            tables.push(table);
        }
        let tables_agree = tables.iter().all(|table| *table == tables[0]);
        let table = tables.swap_remove(0);
        let mut tree = Self { shape, items: BTreeMap::new(), tables_agree, table };
        let (clusters, is_whole) = tree.chain(tree.shape.root);
        ensure!(is_whole, "the topmost folder has no end");
        tree.items.insert(String::new(), Item { is_folder: true, size: 0, clusters, is_whole });
        tree.walk(read, "", 0)?;
        Ok(tree)
    }

    /// What a file holds, as far as its size and its chain lead.
    pub fn content(&self, read: Reader<'_>, path: &str) -> Result<Vec<u8>> {
        let item = self.items.get(path).with_context(|| format!("there is no {path}"))?;
        let mut bytes = self.bytes(read, &item.clusters)?;
        bytes.truncate(usize::try_from(item.size)?);
        Ok(bytes)
    }

    /// Clusters that more than one has, each with the two that have it.
    pub fn crossed(&self) -> Vec<(u32, String, String)> {
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        let mut crossed = Vec::new();
        for (path, item) in &self.items {
            for &cluster in &item.clusters {
                if let Some(other) = owners.insert(cluster, path) {
                    crossed.push((cluster, other.to_owned(), path.clone()));
                }
            }
        }
        crossed
    }

    /// What the table says of a cluster.
    pub fn link(&self, cluster: u32) -> u32 {
        let at = cluster as usize * 4;
        let bytes = self.table.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default()) & LINK
    }

    /// The clusters from `first` on, and whether the chain ends with its mark.
    fn chain(&self, first: u32) -> (Vec<u32>, bool) {
        let (mut clusters, mut next) = (Vec::new(), first);
        while self.shape.has(next) && clusters.len() < self.shape.clusters as usize {
            clusters.push(next);
            next = self.link(next);
        }
        let ends = next >= END;
        (clusters, ends)
    }

    fn bytes(&self, read: Reader<'_>, clusters: &[u32]) -> Result<Vec<u8>> {
        let length = usize::try_from(self.shape.cluster)?;
        let mut bytes = vec![0; clusters.len() * length];
        for (piece, &cluster) in bytes.chunks_mut(length).zip(clusters) {
            read(self.shape.place(cluster).start, piece)?;
        }
        Ok(bytes)
    }

    fn walk(&mut self, read: Reader<'_>, folder: &str, depth: usize) -> Result<()> {
        ensure!(depth < MAX_DEPTH, "{folder} has no bottom");
        let clusters = self.items.get(folder).map(|item| item.clusters.clone()).unwrap_or_default();
        for Entry { name, is_folder, first, size } in entries(&self.bytes(read, &clusters)?) {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let (clusters, ends) = if first == 0 { (Vec::new(), true) } else { self.chain(first) };
            let wanted =
                if is_folder { clusters.len().max(1) as u64 } else { size.div_ceil(self.shape.cluster) };
            let is_whole = ends && clusters.len() as u64 == wanted;
            let item = Item { is_folder, size, clusters, is_whole };
            ensure!(self.items.insert(path.clone(), item).is_none(), "{path} is there twice");
            if is_folder {
                self.walk(read, &path, depth + 1)?;
            }
        }
        Ok(())
    }
}

struct Entry {
    name: String,
    is_folder: bool,
    first: u32,
    size: u64,
}

/// The entries of a folder; what is deleted, the label, and the folder's own two are left out.
fn entries(folder: &[u8]) -> Vec<Entry> {
    let (mut found, mut long) = (Vec::new(), Vec::<[u8; ENTRY]>::new());
    for raw in folder.chunks_exact(ENTRY) {
        let Ok(raw) = <[u8; ENTRY]>::try_from(raw) else { continue };
        match (raw[0], raw[11]) {
            (0, _) => break,
            (0xe5, _) => long.clear(),
            (_, attributes) if attributes & 0x3f == 0x0f => long.push(raw),
            (b'.', _) => long.clear(),
            (_, attributes) if attributes & 0x08 != 0 => long.clear(),
            (_, attributes) => {
                let word = |at: usize| u32::from(u16::from_le_bytes([raw[at], raw[at + 1]]));
                let name = long_name(&long, checksum(&raw)).unwrap_or_else(|| short_name(&raw));
                found.push(Entry {
                    name,
                    is_folder: attributes & 0x10 != 0,
                    first: word(20) << 16 | word(26),
                    size: u64::from(word(28) | word(30) << 16),
                });
                long.clear();
            }
        }
    }
    found
}

fn checksum(raw: &[u8; ENTRY]) -> u8 {
    raw[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// The name that the entries before a short one make, where they are whole and belong to it.
fn long_name(long: &[[u8; ENTRY]], sum: u8) -> Option<String> {
    let whole = !long.is_empty()
        && long[0][0] & 0x40 != 0
        && long.iter().rev().zip(1..).all(|(raw, number)| raw[0] & 0x3f == number && raw[13] == sum);
    let units: Vec<u16> = long
        .iter()
        .rev()
        .flat_map(|raw| [&raw[1..11], &raw[14..26], &raw[28..32]].concat())
        .collect::<Vec<u8>>()
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    whole.then(|| String::from_utf16_lossy(&units))
}

fn short_name(raw: &[u8; ENTRY]) -> String {
    let part = |bytes: &[u8], lower: bool| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if lower { text.to_lowercase() } else { text }
    };
    let (base, extension) = (part(&raw[..8], raw[12] & 0x08 != 0), part(&raw[8..11], raw[12] & 0x10 != 0));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File, os::unix::fs::FileExt, path::PathBuf};

    use super::*;
    use crate::{Stick, stick::Form};

    const LONG: &str = "outbox/n-0123456789abcdef/00000000000000000007.jws";

    fn stick(name: &str) -> (PathBuf, File) {
        let dir = std::env::temp_dir().join(format!("cairn-fat-{name}-{}", std::process::id()));
        let from = dir.join("from");
        fs::create_dir_all(from.join("outbox/n-0123456789abcdef")).unwrap();
        fs::write(from.join("short.txt"), "").unwrap();
        fs::write(from.join(LONG), "x".repeat(1500)).unwrap();
        let stick = Stick::make(dir.join("stick.img"), Form::Superfloppy, 64).unwrap();
        stick.fill(&from).unwrap();
        let image = File::options().read(true).write(true).open(stick.image()).unwrap();
        (dir, image)
    }

    fn tree(image: &File) -> Result<Tree> {
        Tree::read(&|at, bytes| Ok(image.read_exact_at(bytes, at)?), 0)
    }

    #[test]
    fn what_lies_on_a_stick_is_found_with_its_clusters() {
        let (dir, image) = stick("found");
        let found = tree(&image).unwrap();
        let paths: Vec<&str> = found.items.keys().map(String::as_str).collect();
        assert_eq!(paths, ["", "outbox", "outbox/n-0123456789abcdef", LONG, "short.txt"]);
        let report = &found.items[LONG];
        assert_eq!((report.size, report.is_whole), (1500, true));
        let content = found.content(&|at, bytes| Ok(image.read_exact_at(bytes, at)?), LONG).unwrap();
        assert_eq!(content, vec![b'x'; 1500]);
        assert!(found.tables_agree && found.crossed().is_empty() && found.items["short.txt"].is_whole);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn what_is_cut_short_is_told_from_what_is_whole() {
        let (dir, image) = stick("cut");
        let whole = tree(&image).unwrap();
        let (first, table) = (whole.items[LONG].clusters[0], &whole.shape.tables[0]);
        image.write_all_at(&[0; 4], table.start + u64::from(first) * 4).unwrap();
        let cut = tree(&image).unwrap();
        assert!(!cut.items[LONG].is_whole && !cut.tables_agree);
        let folder = whole.items["outbox"].clusters[0];
        image.write_all_at(&folder.to_le_bytes(), table.start + u64::from(first) * 4).unwrap();
        assert!(!tree(&image).unwrap().crossed().is_empty(), "the report goes on in a folder");
        image.write_all_at(&[0; 512], 0).unwrap();
        assert!(tree(&image).is_err(), "no first sector");
        fs::remove_dir_all(dir).unwrap();
    }
}
