//! Names of images in the hub.

use std::{fmt, str::FromStr};

use crate::id::Digest;

/// An image of the hub that the app is deployed to: `demo/web:1`, `demo/web@sha256:…`. Never with a registry's host:
/// nodes fetch from their hub only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// `demo/web`.
    pub repository: String,
    /// `1`; `latest` is meant where neither tag nor digest is there.
    pub tag: Option<String>,
    /// The digest of its manifest or index: present in every app that the hub has taken.
    pub digest: Option<Digest>,
}

/// Why a text names no image of the hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRefError {
    /// It names a registry.
    #[error("{0:?} is on another registry")]
    RegistryHost(String),
    /// Bad repository.
    #[error("{0:?} is no repository name (lower-case letters, digits, and `.`, `_`, `-`, `/` between them)")]
    Repository(String),
    /// Bad tag.
    #[error("{0:?} is no tag (letters, digits, `.`, `_`, `-`; at most 128)")]
    Tag(String),
    /// Bad digest.
    #[error("{0:?} is no digest (sha256: and 64 lower-case hex digits)")]
    Digest(String),
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A path component of a repository name (OCI Distribution Spec): runs of a-z and 0-9, with `.`, `_`, `__` or hyphens
/// between them.
fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    alnum(first)
        && alnum(last)
        && bytes.iter().all(|&b| alnum(b) || matches!(b, b'.' | b'_' | b'-'))
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(text: &str) -> Result<Self, ImageRefError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|_| ImageRefError::Digest(cut(digest)))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // Docker's rule: the part before the first slash is a host if it has a dot or a port, or is localhost.
        if let Some((host, _)) = name.split_once('/')
            && (host.contains(['.', ':']) || host == "localhost")
        {
            return Err(ImageRefError::RegistryHost(cut(host)));
        }
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (name, None),
        };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(ImageRefError::Repository(cut(repository)));
        }
        let tag_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if let Some(tag) = tag
            && (tag.is_empty()
                || tag.len() > 128
                || tag.starts_with(['.', '-'])
                || !tag.bytes().all(tag_byte))
        {
            return Err(ImageRefError::Tag(cut(tag)));
        }
        Ok(Self { repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
