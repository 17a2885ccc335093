//! USB sticks as image files: made, filled, read and checked without mounting them, since the machine that runs the
//! scenarios may not know their file systems.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::vm::run;

/// Where the partition begins, as every tool of today does it.
const PARTITION_SECTOR: u32 = 2048;
const SECTOR: u64 = 512;

/// FAT32 with logical blocks, in a partition table of the old kind.
const TYPE_FAT32: u8 = 0x0c;

/// How a stick is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One partition of vfat, as sticks are sold.
    Partitioned,
    /// vfat without a partition table, as some are.
    Superfloppy,
    /// ext4 without a partition table: it can hold links, holes and any number of files.
    Ext4,
    /// exFAT without a partition table. It can only be filled on a node: nothing else here can write to it.
    Exfat,
}

/// An image file that a node can be shown as a stick.
#[derive(Debug, Clone)]
pub struct Stick {
    image: PathBuf,
    form: Form,
    mib: u64,
}

impl Stick {
    /// An empty stick in a new file.
    pub fn make(image: PathBuf, form: Form, mib: u64) -> Result<Self> {
        let stick = Self::open(image, form, mib);
        stick.format(None)?;
        Ok(stick)
    }

    /// A stick that is there already.
    pub fn open(image: PathBuf, form: Form, mib: u64) -> Self {
        Self { image, form, mib }
    }

    /// The file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Formats it anew and puts what a folder holds onto it.
    pub fn fill(&self, from: &Path) -> Result<()> {
        ensure!(self.form != Form::Exfat, "exFAT cannot be filled from here");
        self.format(Some(from))?;
        let entries = entries(from)?;
        if self.form == Form::Ext4 || entries.is_empty() {
            return Ok(());
        }
        run(Command::new("mcopy").args(["-s", "-i"]).arg(self.file_system()).args(entries).arg("::/"))
            .with_context(|| format!("failed to fill {}", self.image.display()))?;
        Ok(())
    }

    /// Makes `into` hold what lies on the stick, and nothing else.
    pub fn read_back(&self, into: &Path) -> Result<()> {
        ensure!(self.form != Form::Exfat, "exFAT cannot be read from here");
        fs::remove_dir_all(into).ok();
        fs::create_dir_all(into).with_context(|| format!("failed to make {}", into.display()))?;
        if self.form == Form::Ext4 {
            let request = format!("rdump / \"{}\"", into.display());
            run(Command::new("debugfs").args(["-R", &request]).arg(&self.image))?;
            fs::remove_dir_all(into.join("lost+found")).ok();
            return Ok(());
        }
        if run(Command::new("mdir").args(["-b", "-i"]).arg(self.file_system()).arg("::/"))?.trim().is_empty()
        {
            return Ok(());
        }
        run(Command::new("mcopy").args(["-s", "-n", "-i"]).arg(self.file_system()).arg("::*").arg(into))
            .with_context(|| format!("failed to read {}", self.image.display()))?;
        Ok(())
    }

    /// The file system is sound, by the word of its own checker, which changes nothing.
    pub fn check(&self) -> Result<()> {
        let checker: &[&str] = match self.form {
            Form::Ext4 => &["e2fsck", "-f", "-n"],
            Form::Superfloppy => &["fsck.vfat", "-n"],
            Form::Exfat => &["fsck.exfat", "-n"],
            Form::Partitioned => return self.check_partition(),
        };
        run(Command::new(checker[0]).args(&checker[1..]).arg(&self.image)).map(drop)
    }

    fn check_partition(&self) -> Result<()> {
        // The checker knows no offsets.
        let alone = self.image.with_extension("partition");
        run(Command::new("dd")
            .args(["bs=1M", "skip=1", "conv=sparse", "status=none"])
            .arg(format!("if={}", self.image.display()))
            .arg(format!("of={}", alone.display())))?;
        let checked = run(Command::new("fsck.vfat").arg("-n").arg(&alone));
        fs::remove_file(&alone).ok();
        checked.map(drop)
    }

    /// A file of an ext4 stick claims to be larger, or smaller, than what it holds.
    pub fn lie_about_size(&self, path: &str, bytes: u64) -> Result<()> {
        let request = format!("set_inode_field \"/{path}\" size {bytes}");
        run(Command::new("debugfs").args(["-w", "-R", &request]).arg(&self.image)).map(drop)
    }

    fn format(&self, from: Option<&Path>) -> Result<()> {
        let mut file =
            File::create(&self.image).with_context(|| format!("failed to make {}", self.image.display()))?;
        file.set_len(self.mib << 20)?;
        if self.form == Form::Ext4 {
            let mut command = Command::new("mkfs.ext4");
            command.args(["-q", "-F", "-L", "CAIRN"]);
            if let Some(from) = from {
                // As many as there are, and room for what a node writes.
                let inodes = count(from)? + 1000;
                command.args(["-N", &inodes.to_string(), "-d"]).arg(from);
            }
            return run(command.arg(&self.image)).map(drop);
        }
        if self.form == Form::Exfat {
            return run(Command::new("mkfs.exfat").args(["-L", "CAIRN"]).arg(&self.image)).map(drop);
        }
        let mut command = Command::new("mkfs.vfat");
        command.args(["-F", "32", "-n", "CAIRN"]);
        if self.form == Form::Partitioned {
            file.write_all(&table(self.mib))?;
            command.args(["--offset", &PARTITION_SECTOR.to_string()]);
        }
        let blocks = (self.mib << 10) - self.offset() / 1024;
        run(command.arg(&self.image).arg(blocks.to_string())).map(drop)
    }

    fn offset(&self) -> u64 {
        if self.form == Form::Partitioned { u64::from(PARTITION_SECTOR) * SECTOR } else { 0 }
    }

    /// As mtools name it.
    fn file_system(&self) -> String {
        format!("{}@@{}", self.image.display(), self.offset())
    }
}

/// A partition table with one partition over all.
fn table(mib: u64) -> [u8; 512] {
    let sectors = u32::try_from((mib << 20) / SECTOR).unwrap_or(u32::MAX) - PARTITION_SECTOR;
    let mut table = [0_u8; 512];
    let entry = &mut table[446..462];
    // Cylinders, heads and sectors say nothing here: fe ff ff.
    entry[..8].copy_from_slice(&[0, 0xfe, 0xff, 0xff, TYPE_FAT32, 0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&PARTITION_SECTOR.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    Ok(listed.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

fn count(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for path in entries(dir)? {
        total += 1;
        if path.is_dir() && !path.is_symlink() {
            total += count(&path)?;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_on_a_stick_is_read_back() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("cairn-stick-{}", std::process::id()));
        let from = dir.join("from");
        fs::create_dir_all(from.join("tuf/director"))?;
        fs::write(from.join("cairn-bundle.json"), "{}")?;
        fs::write(from.join("tuf/director/1.root.json"), "x".repeat(100_000))?;
        for form in [Form::Partitioned, Form::Superfloppy, Form::Ext4] {
            let stick = Stick::make(dir.join("stick.img"), form, 64)?;
            stick.read_back(&dir.join("empty"))?;
            assert!(entries(&dir.join("empty"))?.is_empty(), "{form:?}");
            stick.fill(&from)?;
            stick.check()?;
            stick.read_back(&dir.join("back"))?;
            run(Command::new("diff").arg("-r").arg(&from).arg(dir.join("back")))
                .with_context(|| format!("{form:?}"))?;
        }
        Ok(fs::remove_dir_all(&dir)?)
    }
}
