//! Paths in a tar, as lists of names: what parses can't climb out of anything.

use anyhow::{Result, bail};

/// Longest path, in bytes: the kernel's PATH_MAX.
const MAX_PATH: usize = 4096;
/// Longest name, in bytes: what every Linux file system takes.
const MAX_NAME: usize = 255;

/// A path below the layer's root, without `.`, `..`, empty names or a leading slash. Empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Reads a tar's path. A leading slash is dropped, as every unpacker does: the path is below the layer's root.
    pub(super) fn parse(raw: &[u8]) -> Result<Self> {
        if raw.len() > MAX_PATH {
            bail!("a path of {} bytes is longer than {MAX_PATH}", raw.len());
        }
        let mut path = Vec::with_capacity(raw.len());
        for name in raw.split(|&b| b == b'/') {
            match name {
                b"" | b"." => continue,
                b".." => bail!("path {:?} climbs out of the layer with \"..\"", show(raw)),
                name if name.len() > MAX_NAME => {
                    bail!("a name in path {:?} is longer than {MAX_NAME}", show(raw))
                }
                name if name.contains(&0) => bail!("path {:?} has a NUL byte", show(raw)),
                name => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name);
                }
            }
        }
        Ok(Self(path))
    }

    /// Parent and last name; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[u8], &[u8])> {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => Some((&self.0[..slash], &self.0[slash + 1..])),
            None if self.0.is_empty() => None,
            None => Some((b"", &self.0)),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn show(&self) -> String {
        show(&self.0)
    }
}

fn show(raw: &[u8]) -> String {
    String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned()
}
