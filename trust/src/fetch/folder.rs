//! A repository in a folder: a stick, a site relay's store, a test.

use std::{
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Fetch, FetchError, is_plain};
use crate::durable;

/// Reads files below one folder.
#[derive(Debug, Clone)]
pub struct FolderFetch {
    folder: PathBuf,
}

impl FolderFetch {
    /// Reads below `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

fn read(file: &Path, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
    let transport = |source| FetchError::Transport { path: path.to_owned(), source: Box::new(source) };
    // Only regular files: opening a pipe or a device on a prepared stick would wait for ever.
    match std::fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => return Ok(None),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(transport(error)),
    }
    match durable::read(file, max_len) {
        Ok(bytes) => Ok(bytes.map(Bytes::from)),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(FetchError::TooLarge { path: path.to_owned(), limit: max_len })
        }
        Err(error) => Err(transport(error)),
    }
}

#[async_trait]
impl Fetch for FolderFetch {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        if !is_plain(path) {
            return Err(FetchError::BadPath { path: path.to_owned() });
        }
        let (file, path) = (self.folder.join(path), path.to_owned());
        tokio::task::spawn_blocking(move || read(&file, &path, max_len)).await.unwrap_or_else(|source| {
            Err(FetchError::Transport { path: "folder".to_owned(), source: Box::new(source) })
        })
    }
}
