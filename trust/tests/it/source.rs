//! A source in memory that counts what is asked of it and serves what it is told to, true or false.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_trust::fetch::{Fetch, FetchError};

/// Files by path, and the log of requests with the length of each answer.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    log: Mutex<Vec<(String, usize)>>,
}

impl Source {
    pub(crate) fn put(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.files.insert(path.to_owned(), bytes.into());
    }

    /// The requests since the last call.
    pub(crate) fn take_log(&self) -> Vec<(String, usize)> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Fetch for Source {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        let file = self.files.get(path);
        let entry = (path.to_owned(), file.map_or(0, Vec::len));
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        match file {
            Some(bytes) if bytes.len() as u64 > max_len => {
                Err(FetchError::TooLarge { path: path.to_owned(), limit: max_len })
            }
            file => Ok(file.map(|bytes| Bytes::from(bytes.clone()))),
        }
    }
}
