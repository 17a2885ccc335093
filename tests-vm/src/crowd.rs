//! A stick with millions of files, made within seconds: an empty file is an entry of its folder and nothing else, so that
//! whole folders of them are written at once.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, Result, ensure};

use crate::fat::{ENTRY, Tree};

/// Most entries of a folder, by the rules of FAT.
const FOLDER: usize = 65_536;
/// Left free in folders that exist: a node writes there too.
const SPARE: usize = 4_096;
/// What a link says at the end of a chain.
const END: u32 = 0x0fff_ffff;
const IS_FOLDER: u8 = 0x10;
const IS_FILE: u8 = 0x20;

/// A file system that is filled.
struct Crowd<'a> {
    image: &'a File,
    tree: Tree,
    table: Vec<u8>,
    /// The first cluster that nothing has, nor any after it.
    free: u32,
    /// Files so far.
    files: usize,
}

/// Fills every folder of a FAT32 without a partition table, and as many new ones (`MORE/…`) as it takes, until there are
/// `files` more of them than before.
pub fn crowd(image: &Path, files: usize) -> Result<()> {
    let image = File::options().read(true).write(true).open(image).context("there is no stick")?;
    let read = |at: u64, bytes: &mut [u8]| Ok(image.read_exact_at(bytes, at)?);
    let tree = Tree::read(&read, 0)?;
    let place = tree.shape.tables[0].clone();
    let mut table = vec![0; usize::try_from(place.end - place.start)?];
    read(place.start, &mut table)?;
    let used = (2..tree.shape.clusters + 2).rev().find(|cluster| tree.link(*cluster) != 0).unwrap_or(2);
    let mut crowd = Crowd { image: &image, tree, table, free: used + 1, files: 0 };
    let folders: Vec<String> =
        crowd.tree.items.iter().filter(|(_, item)| item.is_folder).map(|(path, _)| path.clone()).collect();
    let inside: usize = folders.len() * (FOLDER - SPARE);
    let more = crowd.more(files.saturating_sub(inside))?;
    for path in folders {
        let first = if path.is_empty() { vec![entry("MORE       ", IS_FOLDER, more)] } else { Vec::new() };
        crowd.extend(&path, first)?;
    }
    ensure!(crowd.files >= files, "only {} files", crowd.files);
    crowd.finish()
}

impl Crowd<'_> {
    /// New folders, in a folder of their own, whose first cluster is returned.
    fn more(&mut self, files: usize) -> Result<u32> {
        let count = files.div_ceil(FOLDER - 2);
        ensure!(count <= FOLDER - 2, "too many files for a folder of folders");
        let bytes = (count + 2) * ENTRY;
        let own = self.take(bytes)?;
        let mut folders = vec![entry(".          ", IS_FOLDER, own), entry("..         ", IS_FOLDER, 0)];
        let mut files = crowded(0..FOLDER - 2);
        for number in 0..count {
            let first = self.take(FOLDER * ENTRY)?;
            folders.push(entry(&format!("{number:011}"), IS_FOLDER, first));
            let mut folder =
                [entry(".          ", IS_FOLDER, first), entry("..         ", IS_FOLDER, own)].concat();
            folder.append(&mut files);
            self.image.write_all_at(&folder, self.tree.shape.place(first).start)?;
            files = folder.split_off(2 * ENTRY);
            self.files += FOLDER - 2;
        }
        self.image.write_all_at(&folders.concat(), self.tree.shape.place(own).start)?;
        Ok(own)
    }

    /// Fills what is left of a folder's last cluster, and adds clusters to it.
    fn extend(&mut self, path: &str, first: Vec<[u8; ENTRY]>) -> Result<()> {
        let item = self.tree.items.get(path).with_context(|| format!("there is no {path:?}"))?;
        let last = *item.clusters.last().context("a folder has a cluster")?;
        let (place, before) = (self.tree.shape.place(last), item.clusters.len() - 1);
        let mut bytes = vec![0; usize::try_from(self.tree.shape.cluster)?];
        self.image.read_exact_at(&mut bytes, place.start)?;
        let used = bytes.chunks_exact(ENTRY).position(|raw| raw[0] == 0).unwrap_or(bytes.len() / ENTRY);
        let room = bytes.len() / ENTRY - used;
        let there = before * bytes.len() / ENTRY + used + first.len();
        let count = (FOLDER - SPARE).saturating_sub(there);
        let mut new = first.concat();
        new.extend(crowded(0..count));
        ensure!(room * ENTRY < new.len(), "{path:?} has more room than files");
        let rest = new.split_off(room * ENTRY);
        bytes[used * ENTRY..].copy_from_slice(&new);
        self.image.write_all_at(&bytes, place.start)?;
        let next = self.take(rest.len())?;
        self.image.write_all_at(&rest, self.tree.shape.place(next).start)?;
        self.link(last, next);
        self.files += count;
        Ok(())
    }

    /// Takes clusters in a row for so many bytes; their chain is made.
    fn take(&mut self, bytes: usize) -> Result<u32> {
        let count = u32::try_from(bytes.div_ceil(usize::try_from(self.tree.shape.cluster)?))?;
        let (first, end) = (self.free, self.free + count);
        ensure!(count > 0 && end <= self.tree.shape.clusters + 2, "the stick is too small");
        for cluster in first..end {
            self.link(cluster, if cluster + 1 == end { END } else { cluster + 1 });
        }
        self.free = end;
        Ok(first)
    }

    fn link(&mut self, cluster: u32, to: u32) {
        let at = cluster as usize * 4;
        if let Some(link) = self.table.get_mut(at..at + 4) {
            link.copy_from_slice(&to.to_le_bytes());
        }
    }

    fn finish(self) -> Result<()> {
        for place in &self.tree.shape.tables {
            self.image.write_all_at(&self.table, place.start)?;
        }
        // How much is free is not known, says the second sector, which mkfs.vfat has filled in.
        Ok(self.image.write_all_at(&[0xff; 8], 512 + 488)?)
    }
}

/// Entries of empty files.
fn crowded(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|number| entry(&format!("{number:08X}XXX"), IS_FILE, 0)).collect()
}

fn entry(name: &str, attributes: u8, first: u32) -> [u8; ENTRY] {
    let mut raw = [0; ENTRY];
    raw[..11].copy_from_slice(&name.as_bytes()[..11]);
    raw[11] = attributes;
    let first = first.to_le_bytes();
    raw[20..22].copy_from_slice(&first[2..]);
    raw[26..28].copy_from_slice(&first[..2]);
    raw
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Stick, stick::Form};

    #[test]
    fn a_crowded_stick_is_sound_and_has_what_it_had() {
        let dir = std::env::temp_dir().join(format!("cairn-crowd-{}", std::process::id()));
        fs::create_dir_all(dir.join("from/tuf")).unwrap();
        fs::write(dir.join("from/tuf/a"), "x").unwrap();
        let stick = Stick::make(dir.join("stick.img"), Form::Superfloppy, 300).unwrap();
        stick.fill(&dir.join("from")).unwrap();
        crowd(stick.image(), 300_000).unwrap();
        let image = File::open(stick.image()).unwrap();
        let tree = Tree::read(&|at, bytes| Ok(image.read_exact_at(bytes, at)?), 0).unwrap();
        assert!(tree.items["tuf/a"].is_whole && tree.crossed().is_empty());
        assert!(tree.items.contains_key("MORE/00000000.000/0000FFFD.XXX"));
        let files = tree.items.values().filter(|item| !item.is_folder && item.clusters.is_empty()).count();
        assert!(files >= 300_000 && tree.items.values().all(|item| item.is_whole), "{files}");
        fs::remove_dir_all(dir).unwrap();
    }
}
