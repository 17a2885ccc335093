//! A folder that others have filled: a stick, a site relay's store, a test. No link in it is followed, no name leads out
//! of it, nothing but a regular file is opened, and no file is read further than the reader has said.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
};

use super::{Fetch, FetchError, is_plain};

/// Longest path that is looked up; none of those that anybody asks for comes near.
const MAX_PATH: usize = 1024;

/// A folder of which nothing is trusted, not even its form. It is held open: what is mounted over its path later, or put
/// in its place, isn't seen.
///
/// Paths are relative to it, their segments separated by `/`. The kernel resolves them (`openat2`): links of any kind and
/// other file systems on the way are errors. It is never listed, so that any number of files in it costs nothing.
#[derive(Debug, Clone)]
pub struct Folder {
    root: Arc<OwnedFd>,
}

impl Folder {
    /// Opens the folder at `root`, a path of ours: links that lead to it are followed.
    ///
    /// # Errors
    /// If it's absent or not a folder.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = OpenOptions::new().read(true).custom_flags(flags.bits()).open(root)?;
        Ok(Self { root: Arc::new(root.into()) })
    }

    /// Opens the regular file at `path` for reading; `None` where there is nothing. How much to read is the caller's to
    /// limit: the size that the file claims need not be true.
    ///
    /// # Errors
    /// `InvalidInput` where the path could lead out of the folder, `InvalidData` where it leads over a link or to
    /// something else than a regular file, else what the system says.
    pub fn file(&self, path: &str) -> io::Result<Option<File>> {
        // What is there is looked at first without opening it: to open a device or a pipe can act on it.
        let Some(seen) = self.resolve(path, OFlag::O_PATH)? else { return Ok(None) };
        require_regular(path, &seen)?;
        let reading = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let Some(file) = self.resolve(path, reading)? else { return Ok(None) };
        // It may have been exchanged in between.
        require_regular(path, &file)?;
        Ok(Some(file))
    }

    /// Reads the regular file at `path`, at most `max` bytes; `None` where there is nothing.
    ///
    /// # Errors
    /// As [`Folder::file`], and `FileTooLarge` where it holds, or claims to hold, more than `max`.
    pub fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.file(path)? else { return Ok(None) };
        let too_large =
            || io::Error::new(ErrorKind::FileTooLarge, format!("{path} is larger than {max} bytes"));
        if file.metadata()?.len() > max {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(too_large());
        }
        Ok(Some(bytes))
    }

    /// The size that the regular file at `path` claims, in bytes; `None` where there is nothing. Nothing is opened.
    ///
    /// # Errors
    /// As [`Folder::file`].
    pub fn len(&self, path: &str) -> io::Result<Option<u64>> {
        let Some(seen) = self.resolve(path, OFlag::O_PATH)? else { return Ok(None) };
        require_regular(path, &seen)?;
        Ok(Some(seen.metadata()?.len()))
    }

    fn resolve(&self, path: &str, flags: OFlag) -> io::Result<Option<File>> {
        if !is_beneath(path) {
            let what = format!("{path:?} is not a path below a folder");
            return Err(io::Error::new(ErrorKind::InvalidInput, what));
        }
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(resolve);
        loop {
            return match openat2(&*self.root, path, how) {
                Ok(file) => Ok(Some(file.into())),
                Err(Errno::ENOENT) => Ok(None),
                Err(Errno::EINTR) => continue,
                Err(Errno::ELOOP) => Err(odd(path, "lies behind a symbolic link")),
                Err(Errno::EXDEV) => Err(odd(path, "lies on another file system")),
                Err(Errno::ENOTDIR) => Err(odd(path, "lies below something that is no folder")),
                Err(error) => Err(error.into()),
            };
        }
    }
}

fn is_beneath(path: &str) -> bool {
    path.len() <= MAX_PATH && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

fn require_regular(path: &str, file: &File) -> io::Result<()> {
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = match () {
        () if kind.is_dir() => "is a folder",
        () if kind.is_symlink() => "is a symbolic link",
        () if kind.is_fifo() => "is a pipe",
        () if kind.is_socket() => "is a socket",
        () => "is a device",
    };
    Err(odd(path, what))
}

fn odd(path: &str, what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{path} {what}; only regular files are read here"))
}

/// Reads metadata and small targets below one [`Folder`].
#[derive(Debug, Clone)]
pub struct FolderFetch {
    base: Base,
    /// Empty, or ending in `/`.
    prefix: String,
}

#[derive(Debug, Clone)]
enum Base {
    Path(PathBuf),
    Open(Folder),
}

impl FolderFetch {
    /// Reads below the folder at `path`, which is opened anew for each file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { base: Base::Path(path.into()), prefix: String::new() }
    }

    /// Reads below `prefix` in `folder`; an empty prefix is the folder itself.
    pub fn within(folder: Folder, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Self { base: Base::Open(folder), prefix }
    }

    /// As [`Fetch::fetch`], where blocking is allowed: for whoever has a thread of their own for a folder that may hang.
    ///
    /// # Errors
    /// As [`Fetch::fetch`].
    pub fn read(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        if !is_plain(path) {
            return Err(FetchError::BadPath { path: path.to_owned() });
        }
        read(&self.base, &format!("{}{path}", self.prefix), max_len)
    }
}

fn read(base: &Base, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
    let folder = match base {
        Base::Open(folder) => Ok(folder.clone()),
        Base::Path(root) => match Folder::open(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened,
        },
    };
    match folder.and_then(|folder| folder.read(path, max_len)) {
        Ok(bytes) => Ok(bytes.map(Bytes::from)),
        Err(error) => Err(match error.kind() {
            ErrorKind::FileTooLarge => FetchError::TooLarge { path: path.to_owned(), limit: max_len },
            ErrorKind::InvalidData => FetchError::NotAFile { path: path.to_owned(), source: error },
            _ => FetchError::Transport { path: path.to_owned(), source: Box::new(error) },
        }),
    }
}

#[async_trait]
impl Fetch for FolderFetch {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        let (folder, path) = (self.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || folder.read(&path, max_len)).await.unwrap_or_else(|source| {
            Err(FetchError::Transport { path: "folder".to_owned(), source: Box::new(source) })
        })
    }
}

#[cfg(test)]
mod tests;
