//! systemd-boot: unified kernel images in one folder of the ESP, whose names carry the counters.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
};

use cairn_model::{Digest, release::Payload};
use fail::fail_point;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use sha2::Digest as _;

use super::{BootControl, BootError, Entry, chosen, is_staged, is_torn_name, staged_name, uki, write_error};
use crate::{BootEntry, OsVersion, entry::FIRST_TRIES, layout};

/// Most files of the folder that are looked at.
const MAX_FILES: usize = 256;

/// Largest kernel image that is believed.
const MAX_IMAGE: u64 = layout::ESP_SIZE;

/// Files with names of ours, by what the names say.
type Files = Vec<(BootEntry, PathBuf)>;

/// What may become of an entry where a power cut falls into its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// It may be lost: nobody counts on it.
    Expendable,
    /// It is kept wherever the ESP has room for a second copy.
    Kept,
    /// It is kept, or nothing is changed: it may be the only one that is known to start.
    Certain,
}

/// The entries of an ESP. Holds nothing open: the ESP is mounted when it is looked at, and unmounted after a while.
#[derive(Debug, Clone)]
pub struct SystemdBoot {
    esp: PathBuf,
    folder: PathBuf,
    running: OsVersion,
}

impl SystemdBoot {
    /// Of the ESP that is mounted at `esp`, on a machine that runs `running`.
    pub fn new(esp: &Path, running: &OsVersion) -> Self {
        Self { esp: esp.to_owned(), folder: esp.join(layout::ENTRY_FOLDER), running: running.clone() }
    }

    /// All files with names of ours, by version.
    fn files(&self) -> Result<BTreeMap<OsVersion, Files>, BootError> {
        let mut files: BTreeMap<OsVersion, Files> = BTreeMap::new();
        for (name, path) in self.names()? {
            // The loader, too, takes no folder and no other name for an entry.
            let Ok(boot) = name.parse::<BootEntry>() else { continue };
            if path.is_file() {
                files.entry(boot.version.clone()).or_default().push((boot, path));
            }
        }
        files.values_mut().for_each(|twins| twins.sort_by_key(|(boot, _)| boot.to_string()));
        Ok(files)
    }

    fn names(&self) -> Result<Vec<(String, PathBuf)>, BootError> {
        let failed = |source| BootError::Read { path: self.folder.clone(), source };
        let mut names = Vec::new();
        for found in fs::read_dir(&self.folder).map_err(failed)?.take(MAX_FILES) {
            let found = found.map_err(failed)?;
            if let Ok(name) = found.file_name().into_string() {
                names.push((name, found.path()));
            }
        }
        Ok(names)
    }

    /// The files of one version: those that hold a kernel image, and those that do not.
    fn halves(&self, version: &OsVersion) -> Result<(Files, Files), BootError> {
        let twins = self.files()?.remove(version).unwrap_or_default();
        Ok(twins.into_iter().partition(|(_, path)| is_image(path)))
    }

    /// The files of one version, the one that counts first. What holds no kernel image comes last: the loader does not
    /// show it, and a power cut in a rename leaves such a file, for vfat gives the new name its content a write later.
    fn of_version(&self, version: &OsVersion) -> Result<Files, BootError> {
        let (mut whole, empty) = self.halves(version)?;
        if !whole.is_empty() {
            let names: Vec<BootEntry> = whole.iter().map(|(boot, _)| boot.clone()).collect();
            whole.swap(0, chosen(&names, *version == self.running));
        }
        whole.extend(empty);
        Ok(whole)
    }

    /// Gives the version's entry its new counters, and leaves one file of it.
    fn settle(
        &self,
        version: &OsVersion,
        care: Care,
        tries: impl FnOnce(Option<(u32, u32)>) -> Option<(u32, u32)>,
    ) -> Result<(), BootError> {
        // What an earlier try has left of a rename takes no part, and no room.
        let (whole, empty) = self.halves(version)?;
        if !whole.is_empty() && !empty.is_empty() {
            self.erase(&empty.into_iter().map(|(_, path)| path).collect::<Vec<_>>())?;
        }
        let twins = self.of_version(version)?;
        let Some((boot, path)) = twins.first() else {
            return Err(BootError::Missing { version: version.clone() });
        };
        let entry = BootEntry { version: version.clone(), tries: tries(boot.tries) };
        let target = self.path(&entry);
        // A rename takes the old name away before the new one has its content on the disk. An entry that may be lost is
        // renamed; any other is copied, and the old one goes when the new one stands. Twins may share their clusters:
        // there, what stays gets its own before any of them is removed.
        if twins.len() > 1 || (care != Care::Expendable && *path != target) {
            match self.copy_to(path, &target, version) {
                // Better a rename that a power cut could tear than a good OS that is never kept.
                Err(BootError::Full { .. }) if twins.len() == 1 && care == Care::Kept => {
                    self.rename(path, &target)?;
                }
                copied => copied?,
            }
            fail_point!("ota::entry-copied", |_| Err(self.failed(
                "remove",
                path,
                io::Error::other("a fault point")
            )));
            let others = twins.into_iter().map(|(_, twin)| twin).filter(|twin| *twin != target);
            self.erase(&others.collect::<Vec<_>>())?;
        } else if *path != target {
            self.rename(path, &target)?;
        }
        self.sync()
    }

    /// Puts a copy of an entry under another name, all of it on the disk.
    fn copy_to(&self, path: &Path, target: &Path, version: &OsVersion) -> Result<(), BootError> {
        let copy = self.folder.join(staged_name(version));
        let copied = copy_synced(path, &copy).map_err(|error| self.failed("copy", &copy, error));
        if copied.is_err() {
            self.unlink(&copy)?;
        }
        copied?;
        self.name(&copy, target)?;
        self.sync()
    }

    /// Gives a whole file its name. The name is on the disk before it has any content, so that no part of it, torn off by
    /// a power cut, boots anything; the content follows in one sector.
    fn name(&self, from: &Path, to: &Path) -> Result<(), BootError> {
        if !to.exists() {
            File::create(to).map_err(|error| self.failed("create", to, error))?;
            self.sync()?;
        }
        self.rename(from, to)
    }

    /// Removes files. Their content goes first: the names of one file lie in several sectors, and what a power cut leaves
    /// of them must be nothing that boots.
    fn erase(&self, paths: &[PathBuf]) -> Result<(), BootError> {
        for path in paths {
            match OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("empty", path, error));
                }
                _ => {}
            }
        }
        self.sync()?;
        paths.iter().try_for_each(|path| self.unlink(path))
    }

    fn path(&self, entry: &BootEntry) -> PathBuf {
        self.folder.join(entry.to_string())
    }

    fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> BootError {
        write_error(&self.esp, what, path, source)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), BootError> {
        fs::rename(from, to).map_err(|error| self.failed("rename", from, error))
    }

    fn unlink(&self, path: &Path) -> Result<(), BootError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", path, error)),
            _ => Ok(()),
        }
    }

    fn sync_file(&self, path: &Path) -> Result<(), BootError> {
        File::open(path).and_then(|file| file.sync_all()).map_err(|error| self.failed("sync", path, error))
    }

    /// The whole file system: a folder's fsync does not cover the allocation table.
    fn sync(&self) -> Result<(), BootError> {
        let folder = File::open(&self.folder)
            .map_err(|source| BootError::Read { path: self.folder.clone(), source })?;
        nix::unistd::syncfs(&folder).map_err(|error| self.failed("sync", &self.folder, error.into()))
    }

    /// Reads a staged image from the disk and compares it with its release.
    fn verify(
        &self,
        path: &Path,
        version: &OsVersion,
        payload: &Payload,
        root_hash: &str,
    ) -> Result<(), BootError> {
        let unsound = |why| BootError::Unsound { version: version.clone(), why };
        let failed = |source| BootError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != payload.size || payload.size > MAX_IMAGE {
            return Err(unsound("its size"));
        }
        // What is compared is what the disk has, not what was meant to go there.
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|error| failed(error.into()))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        if Digest::from_sha256(&hasher.finalize().into()) != payload.digest {
            return Err(unsound("its digest"));
        }
        match uki::root_hash(&file).map_err(failed)? {
            Some(found) if found == root_hash => Ok(()),
            Some(_) => Err(unsound("it boots another root")),
            None => Err(unsound("its command line names no root hash")),
        }
    }
}

impl BootControl for SystemdBoot {
    fn entries(&self) -> Result<Vec<Entry>, BootError> {
        let mut entries = Vec::new();
        for version in self.files()?.into_keys().rev() {
            let twins = self.of_version(&version)?;
            let Some(((boot, path), twins)) = twins.split_first() else { continue };
            // What cannot be read boots nothing that is known; it must not keep the node from a release that can.
            let file = File::open(path).ok();
            entries.push(Entry {
                boot: boot.clone(),
                path: path.clone(),
                size: file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |found| found.len()),
                root_hash: file.and_then(|file| uki::root_hash(&file).ok().flatten()),
                twins: twins.iter().map(|(_, path)| path.clone()).collect(),
            });
        }
        Ok(entries)
    }

    fn room(&self) -> Result<u64, BootError> {
        let stat = nix::sys::statvfs::statvfs(&self.esp)
            .map_err(|error| BootError::Read { path: self.esp.clone(), source: error.into() })?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }

    fn staged(&self, version: &OsVersion) -> Result<File, BootError> {
        let path = self.folder.join(staged_name(version));
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| self.failed("open", &path, error))
    }

    fn install_as_last_act(
        &self,
        version: &OsVersion,
        payload: &Payload,
        root_hash: &str,
    ) -> Result<(), BootError> {
        let staged = self.folder.join(staged_name(version));
        if !staged.is_file() {
            return Err(BootError::Unsound { version: version.clone(), why: "it is not there" });
        }
        self.sync_file(&staged)?;
        self.sync()?;
        self.verify(&staged, version, payload, root_hash)?;
        let target = self.path(&BootEntry::untried(version.clone()));
        fail_point!("ota::entry-rename", |_| Err(self.failed(
            "rename",
            &staged,
            io::Error::other("a fault point")
        )));
        self.name(&staged, &target)?;
        fail_point!("ota::entry-renamed", |_| Err(self.failed(
            "sync",
            &target,
            io::Error::other("a fault point")
        )));
        self.sync()
    }

    fn remove(&self, version: &OsVersion) -> Result<(), BootError> {
        let paths: Vec<PathBuf> = self.of_version(version)?.into_iter().map(|(_, path)| path).collect();
        fail_point!("ota::entry-remove", |_| Err(self.failed(
            "remove",
            &self.folder,
            io::Error::other("a fault point")
        )));
        if !paths.is_empty() {
            self.erase(&paths)?;
        }
        fail_point!("ota::entry-removed", |_| Err(self.failed(
            "sync",
            &self.folder,
            io::Error::other("a fault point")
        )));
        self.sync()
    }

    fn sweep(&self, keep: Option<&OsVersion>) -> Result<(), BootError> {
        let kept = keep.map(staged_name);
        // A short name may be all that is left of the entry that runs: it stays until there is another.
        let runs = self.of_version(&self.running)?.iter().any(|(_, path)| is_image(path));
        let swept =
            |name: &String| (is_staged(name) && kept.as_ref() != Some(name)) || (runs && is_torn_name(name));
        let names = self.names()?.into_iter().filter(|(name, _)| swept(name));
        let paths: Vec<PathBuf> = names.map(|(_, path)| path).collect();
        if paths.is_empty() {
            return Ok(());
        }
        self.erase(&paths)?;
        self.sync()
    }

    fn bless(&self, version: &OsVersion) -> Result<(), BootError> {
        fail_point!("ota::bless", |_| Err(self.failed(
            "rename",
            &self.folder,
            io::Error::other("a fault point")
        )));
        self.settle(version, Care::Kept, |_| None)
    }

    fn mark_bad(&self, version: &OsVersion) -> Result<(), BootError> {
        fail_point!("ota::mark-bad", |_| Err(self.failed(
            "rename",
            &self.folder,
            io::Error::other("a fault point")
        )));
        self.settle(version, Care::Expendable, spent)
    }

    fn make_next(&self, version: &OsVersion) -> Result<(), BootError> {
        self.settle(version, Care::Kept, |tries| tries.map(|_| (FIRST_TRIES, 0)))?;
        for newer in self.files()?.into_keys().filter(|other| other > version) {
            fail_point!("ota::set-aside", |_| Err(self.failed(
                "copy",
                &self.folder,
                io::Error::other("a fault point")
            )));
            // One of them runs and is known to start; the older one may never have. Until it has, this is the way back.
            self.settle(&newer, Care::Certain, spent)?;
        }
        Ok(())
    }
}

/// The counters of an entry that the loader passes over.
fn spent(tries: Option<(u32, u32)>) -> Option<(u32, u32)> {
    Some((0, tries.map_or(1, |(_, done)| done.max(1))))
}

/// Whether the loader would show the file: it passes over what has no section that tells it an OS.
fn is_image(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(uki::root_hash(&file), Ok(Some(_))))
}

fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    let mut copy = File::create(to)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()
}
