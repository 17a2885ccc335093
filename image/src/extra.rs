//! Files that whoever builds an image puts into it: a site's network, its hub's CA, its settings.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};

use crate::tree::{Tree, merged_path};

/// Folders that an image's own content cannot be in: another file system is mounted over each.
const MOUNTED_OVER: [&str; 7] = ["boot", "dev", "proc", "run", "sys", "tmp", "var"];

/// A file and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    path: String,
    source: PathBuf,
}

/// Why a file cannot be put where it was meant to be.
#[derive(Debug, thiserror::Error)]
pub enum ExtraError {
    /// There is no `=`, or nothing on one side of it.
    #[error("'{0}' does not say what goes where; write PATH=FILE, such as etc/cairn/hub-ca.pem=./ca.pem")]
    Form(String),
    /// The path leaves the image.
    #[error("'{0}' is no path inside an image; write it as it lies there, without '..'")]
    Path(String),
    /// Nobody would see it.
    #[error(
        "'{path}' would never be seen, for another file system is mounted on /{folder}; files belong below etc or usr"
    )]
    Hidden {
        /// The path.
        path: String,
        /// Its first folder.
        folder: String,
    },
}

impl FromStr for Extra {
    type Err = ExtraError;

    fn from_str(text: &str) -> Result<Self, ExtraError> {
        let form = || ExtraError::Form(text.into());
        let (path, source) = text.split_once('=').ok_or_else(form)?;
        if path.is_empty() || source.is_empty() {
            return Err(form());
        }
        let outside = || ExtraError::Path(path.into());
        let path = merged_path(path).map_err(|_| outside())?.ok_or_else(outside)?;
        let folder = path.split('/').next().unwrap_or_default();
        if MOUNTED_OVER.contains(&folder) {
            return Err(ExtraError::Hidden { folder: folder.into(), path });
        }
        Ok(Self { path, source: source.into() })
    }
}

impl Extra {
    /// Where it lies in an image.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where it is taken from.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Puts it into a tree; a script keeps its execute bit.
    pub fn add(&self, tree: &mut Tree) -> Result<()> {
        let failed =
            || format!("failed to read {}, which is meant for /{}", self.source.display(), self.path);
        let content = std::fs::read(&self.source).with_context(failed)?;
        let mode = std::fs::metadata(&self.source).with_context(failed)?.permissions().mode();
        tree.file(&self.path, if mode & 0o100 != 0 { 0o755 } else { 0o644 }, content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_where_is_read_and_what_nobody_would_see_is_refused() {
        let extra: Extra = "/etc/cairn/hub-ca.pem=./a=b.pem".parse().unwrap();
        assert_eq!((extra.path(), extra.source()), ("etc/cairn/hub-ca.pem", Path::new("./a=b.pem")));
        assert_eq!("bin/x=y".parse::<Extra>().unwrap().path(), "usr/bin/x");
        for (bad, cure) in [
            ("etc/motd", "PATH=FILE"),
            ("=x", "PATH=FILE"),
            ("etc/x=", "PATH=FILE"),
            ("../x=y", "'..'"),
            ("/=y", "'..'"),
            ("var/lib/x=y", "below etc or usr"),
            ("run/x=y", "below etc or usr"),
        ] {
            let said = bad.parse::<Extra>().unwrap_err().to_string();
            assert!(said.contains(cure), "{bad}: {said}");
        }
    }

    #[test]
    fn a_file_takes_the_place_of_another_and_scripts_stay_executable() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("script");
        std::fs::write(&source, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&source, PermissionsExt::from_mode(0o555)).unwrap();
        let mut tree = Tree::default();
        tree.file("etc/x", 0o644, "old").unwrap();
        let extra: Extra = format!("etc/x={}", source.display()).parse().unwrap();
        extra.add(&mut tree).unwrap();
        assert_eq!(tree.text("etc/x").unwrap(), "#!/bin/sh\n");
        let gone: Extra = "etc/x=/nonexistent".parse().unwrap();
        assert!(format!("{:#}", gone.add(&mut tree).unwrap_err()).contains("meant for /etc/x"));
    }
}
