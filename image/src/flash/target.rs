//! What an image is written to: a disk or a plain file, through the page cache on the way in and around it on the way
//! back.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::image::PIECE;

/// Alignment that reading around the page cache asks for.
const ALIGNMENT: usize = 4096;

/// Bytes after which the disk must have caught up: else progress would run ahead into memory, and the last fsync take
/// minutes.
const BACKLOG: u64 = 32 << 20;

/// Zeroes for file systems that cannot make holes.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// Takes bytes at places, and gives them back.
pub trait Target {
    /// Bytes that it has room for.
    fn size(&self) -> u64;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes `length` bytes read as zero, whatever was there.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn zero_at(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// Returns once all is on the medium; what is read from now on comes from there and not from memory.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn settle(&mut self) -> io::Result<()>;

    /// Fills `bytes`.
    ///
    /// # Errors
    /// Whatever the medium says.
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// Whether a file of this mode may be read by others than its owner.
pub fn is_shared(mode: u32) -> bool {
    mode & 0o044 != 0
}

/// A block device or a plain file.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    is_device: bool,
    size: u64,
    backlog: u64,
    /// The second way in, around the page cache, if the file system has one.
    direct: Option<File>,
    /// Room for one piece at an aligned address.
    buffer: Vec<u8>,
}

impl FileTarget {
    /// A disk of `size` bytes. The kernel refuses it while anything uses the disk or a part of it.
    pub fn device(path: &Path, size: u64) -> io::Result<Self> {
        let exclusive =
            OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_EXCL.bits()).open(path)?;
        if !exclusive.metadata()?.file_type().is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no block device"));
        }
        Ok(Self::new(exclusive, true, size))
    }

    /// A plain file: an existing one keeps its size and mode, a new one gets `size_if_new` and is for its owner alone: an
    /// image may hold a token.
    pub fn file(path: &Path, size_if_new: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.clone().create_new(true).mode(0o600).open(path) {
            Ok(file) => {
                file.set_len(size_if_new)?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a disk nor a plain file"));
        }
        Ok(Self::new(file, false, metadata.len()))
    }

    fn new(file: File, is_device: bool, size: u64) -> Self {
        Self { file, is_device, size, backlog: 0, direct: None, buffer: Vec::new() }
    }

    /// Major and minor number of the device that is open, whatever its name leads to by now.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn device_number(&self) -> io::Result<(u64, u64)> {
        let number = self.file.metadata()?.rdev();
        Ok((nix::sys::stat::major(number), nix::sys::stat::minor(number)))
    }

    /// Whether others than its owner may read what is open.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn is_shared(&self) -> io::Result<bool> {
        Ok(is_shared(self.file.metadata()?.mode()))
    }

    /// Has the disk catch up from time to time.
    fn account(&mut self, bytes: u64) -> io::Result<()> {
        self.backlog += bytes;
        if self.is_device && self.backlog >= BACKLOG {
            self.backlog = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn read_cached(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        self.file.read_exact_at(bytes, offset)
    }

    /// Reads around the page cache, into an aligned buffer and from aligned places.
    fn read_direct(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else { return Err(Errno::EINVAL.into()) };
        let unit = ALIGNMENT as u64;
        let start = offset / unit * unit;
        let skipped = (offset - start) as usize;
        let wanted = skipped + bytes.len();
        self.buffer.resize(PIECE + 3 * ALIGNMENT, 0);
        let shift = self.buffer.as_ptr().align_offset(ALIGNMENT);
        let room = self.buffer.get_mut(shift..shift + wanted.next_multiple_of(ALIGNMENT));
        let room = room.ok_or_else(|| io::Error::other("more than a piece was asked for"))?;
        let mut filled = 0;
        while filled < wanted {
            match direct.read_at(&mut room[filled..], start + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        bytes.copy_from_slice(&room[skipped..wanted]);
        Ok(())
    }
}

impl Target for FileTarget {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.account(bytes.len() as u64)
    }

    fn zero_at(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // A file gets a hole. A disk is never trusted to read discarded blocks as zero: the kernel writes zeroes, or
        // has the disk do it where it can.
        let how = match self.is_device {
            true => FallocateFlags::FALLOC_FL_ZERO_RANGE,
            false => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
        } | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (from, count) = (i64::try_from(offset), i64::try_from(length));
        let (Ok(from), Ok(count)) = (from, count) else { return Err(Errno::EFBIG.into()) };
        match fallocate(&self.file, how, from, count) {
            Ok(()) => return self.account(length),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL | Errno::ENODEV) => {}
            Err(error) => return Err(error.into()),
        }
        let mut done = 0;
        while done < length {
            let count = (length - done).min(ZEROES.len() as u64);
            self.write_at(offset + done, &ZEROES[..count as usize])?;
            done += count;
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        // What is open, and not what has its name by now.
        let same = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        self.direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(same).ok();
        Ok(())
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self.read_direct(offset, bytes) {
            // The file system cannot, or the disk wants a larger alignment: the cache was dropped at least.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                self.direct = None;
                self.read_cached(offset, bytes)
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_alone_and_an_existing_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        let target = FileTarget::file(&new, 4096).unwrap();
        assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o600);
        assert!(!target.is_shared().unwrap());
        fs::write(&old, b"x").unwrap();
        for (mode, shared) in [(0o644, true), (0o640, true), (0o604, true), (0o600, false), (0o622, false)] {
            fs::set_permissions(&old, fs::Permissions::from_mode(mode)).unwrap();
            let target = FileTarget::file(&old, 4096).unwrap();
            assert_eq!((target.size(), target.is_shared().unwrap()), (1, shared), "{mode:o}");
            assert_eq!(fs::metadata(&old).unwrap().mode() & 0o777, mode);
        }
    }

    #[test]
    fn what_is_read_back_is_what_was_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let mut target = FileTarget::file(&path, 8192).unwrap();
        target.write_at(0, &[7; 8192]).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, [9; 8192]).unwrap();
        target.settle().unwrap();
        let mut bytes = [0; 8192];
        target.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7), "another file has its name by now");
    }
}
