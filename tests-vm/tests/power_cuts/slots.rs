//! Which releases stand whole in which slot. Comparing 80 MB for each state would take days: what differs on the flushed
//! disk is remembered by block, and only what is pending is compared anew.

use std::{collections::BTreeSet, fs, ops::Range, path::Path};

use anyhow::{Context, Result};
use cairn_tests_vm::replay::{BLOCK, Disk};

/// An OS as `cairn-image build` made it.
#[derive(Debug)]
pub struct Os {
    /// Its version.
    pub version: String,
    /// Its kernel image.
    pub uki: Vec<u8>,
    root: Vec<u8>,
    tree: Vec<u8>,
}

impl Os {
    /// From the folder of a build.
    pub fn load(version: &str, build: &Path) -> Result<Self> {
        let read = |name: &str| {
            fs::read(build.join(name))
                .with_context(|| format!("failed to read {name} of {}", build.display()))
        };
        let (root, tree, uki) = (read("root.erofs")?, read("root.verity")?, read("uki.efi")?);
        Ok(Self { version: version.to_owned(), root, tree, uki })
    }
}

/// Bytes that should stand at a place.
#[derive(Debug)]
struct Watch<'a> {
    range: Range<u64>,
    wanted: &'a [u8],
    /// Blocks of the flushed disk that differ.
    wrong: BTreeSet<u64>,
}

impl<'a> Watch<'a> {
    fn new(disk: &Disk, start: u64, wanted: &'a [u8]) -> Result<Self> {
        let range = start..start + wanted.len() as u64;
        let mut watch = Self { range, wanted, wrong: BTreeSet::new() };
        for block in watch.range.start / BLOCK..watch.range.end / BLOCK {
            if !watch.is_right(disk, block)? {
                watch.wrong.insert(block);
            }
        }
        Ok(watch)
    }

    fn is_right(&self, disk: &Disk, block: u64) -> Result<bool> {
        let mut bytes = [0; BLOCK as usize];
        disk.read(block * BLOCK, &mut bytes)?;
        let at = usize::try_from(block * BLOCK - self.range.start)?;
        Ok(self.wanted[at..at + BLOCK as usize] == bytes)
    }

    fn flushed(&mut self, disk: &Disk, blocks: &BTreeSet<u64>) -> Result<()> {
        for &block in blocks.range(self.range.start / BLOCK..self.range.end / BLOCK) {
            if self.is_right(disk, block)? {
                self.wrong.remove(&block);
            } else {
                self.wrong.insert(block);
            }
        }
        Ok(())
    }

    fn is_whole(&self, disk: &Disk) -> Result<bool> {
        let mut touched = disk.touched(&self.range);
        // A slot is written from its beginning: what is missing is found soonest from the end.
        touched.sort_unstable_by(|a, b| b.cmp(a));
        let pending: BTreeSet<u64> = touched.iter().copied().collect();
        if self.wrong.iter().any(|block| !pending.contains(block)) {
            return Ok(false);
        }
        for block in touched {
            if !self.is_right(disk, block)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// One OS in one slot.
#[derive(Debug)]
struct Place<'a> {
    os: &'a Os,
    root: Watch<'a>,
    tree: Watch<'a>,
}

/// All known OSes, each in both slots.
#[derive(Debug)]
pub struct Slots<'a> {
    places: Vec<Place<'a>>,
}

impl<'a> Slots<'a> {
    /// Looks at both slots, given where their roots and trees begin.
    pub fn new(disk: &Disk, starts: [(u64, u64); 2], known: &'a [Os]) -> Result<Self> {
        let mut places = Vec::new();
        for (root, tree) in starts {
            for os in known {
                let (root, tree) = (Watch::new(disk, root, &os.root)?, Watch::new(disk, tree, &os.tree)?);
                places.push(Place { os, root, tree });
            }
        }
        Ok(Self { places })
    }

    /// After a flush that has made `blocks` last.
    pub fn flushed(&mut self, disk: &Disk, blocks: &BTreeSet<u64>) -> Result<()> {
        for place in &mut self.places {
            place.root.flushed(disk, blocks)?;
            place.tree.flushed(disk, blocks)?;
        }
        Ok(())
    }

    /// The versions that stand whole, root and tree, in a slot after the cut.
    pub fn whole(&self, disk: &Disk) -> Result<BTreeSet<&'a str>> {
        let mut whole = BTreeSet::new();
        for Place { os, root, tree } in &self.places {
            if tree.is_whole(disk)? && root.is_whole(disk)? {
                whole.insert(os.version.as_str());
            }
        }
        Ok(whole)
    }
}
