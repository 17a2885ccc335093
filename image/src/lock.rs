//! The lock: every package of the root and of the build tools by name, version, size and SHA-256. It names no host.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Format of the file that this program writes and reads.
const SCHEMA: u32 = 1;

/// Largest lock file that is read.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What can be wrong with a lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The file cannot be read.
    #[error("failed to read lock {path}; make one with `cairn-image lock`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is far larger than any lock.
    #[error("lock {0} is larger than 4 MiB; make it again with `cairn-image lock`")]
    TooLarge(PathBuf),
    /// The file is not TOML of the known shape.
    #[error("lock {path} is malformed; make it again with `cairn-image lock`")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The lock was written by a newer program.
    #[error(
        "lock {path} has schema {schema}, this program reads {SCHEMA}; use the cairn-image of the same release"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it says.
        schema: u32,
    },
    /// An entry holds a value that must not reach a path or a command.
    #[error(
        "lock {path}: package '{name}' has an invalid {field}; make the lock again with `cairn-image lock`"
    )]
    Entry {
        /// The file.
        path: PathBuf,
        /// The package.
        name: String,
        /// The field.
        field: &'static str,
    },
}

/// Which of Debian's two archives a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    /// The suite and its updates.
    Debian,
    /// Security updates.
    Security,
}

impl Archive {
    fn as_str(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Security => "security",
        }
    }
}

/// One package, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Debian package name.
    pub name: String,
    /// Debian version, epoch included.
    pub version: String,
    /// `amd64` or `all`.
    pub arch: String,
    /// Archive to fetch from.
    pub archive: Archive,
    /// Path below the archive's root, beginning with `pool/`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the file in lower-case hex.
    pub sha256: String,
}

impl Package {
    /// Name of the file in a packages folder: unique, free of anything but letters, digits and `._-`.
    pub fn file_name(&self) -> String {
        let version: String = self
            .version
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .collect();
        format!("{}_{version}_{}_{}.deb", self.name, self.arch, &self.sha256[..12])
    }

    /// The first field that could do harm, if any.
    fn invalid_field(&self) -> Option<&'static str> {
        let word = |text: &str, extra: &str| {
            !text.is_empty()
                && text.len() <= 128
                && !text.starts_with('.')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let path_is_plain = self.path.starts_with("pool/")
            && self.path.len() <= 512
            && self.path.split('/').all(|part| word(part, "+-._~%"));
        let checks = [
            ("name", word(&self.name, "+-.")),
            ("version", word(&self.version, "+-.~:")),
            ("arch", word(&self.arch, "-")),
            ("path", path_is_plain),
            ("sha256", self.sha256.len() == 64 && self.sha256.chars().all(is_hex)),
            ("size", self.size > 0 && self.size < 1 << 32),
        ];
        checks.into_iter().find(|(_, good)| !good).map(|(field, _)| field)
    }
}

/// A whole lock.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Format number.
    pub schema: u32,
    /// Debian suite.
    pub suite: String,
    /// Architecture.
    pub arch: String,
    /// Date of the newest archive index in Unix seconds: the build time, unless another is given.
    pub epoch: u64,
    /// Packages of the image.
    pub root: Vec<Package>,
    /// Packages that the build itself uses.
    pub tools: Vec<Package>,
}

impl Lock {
    /// Reads and checks a lock.
    pub fn load(path: &Path) -> Result<Self, LockError> {
        let read = |source| LockError::Read { path: path.into(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
            return Err(LockError::TooLarge(path.into()));
        }
        Self::parse(path, &std::fs::read_to_string(path).map_err(read)?)
    }

    /// Parses and checks the text of a lock; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, LockError> {
        let malformed = |source| LockError::Malformed { path: path.into(), source: Box::new(source) };
        let lock: Self = toml::from_str(text).map_err(malformed)?;
        if lock.schema != SCHEMA {
            return Err(LockError::Schema { path: path.into(), schema: lock.schema });
        }
        for package in lock.root.iter().chain(&lock.tools) {
            if let Some(field) = package.invalid_field() {
                return Err(LockError::Entry { path: path.into(), name: package.name.clone(), field });
            }
        }
        Ok(lock)
    }

    /// A lock of the current schema.
    pub fn new(suite: &str, arch: &str, epoch: u64, root: Vec<Package>, tools: Vec<Package>) -> Self {
        Self { schema: SCHEMA, suite: suite.into(), arch: arch.into(), epoch, root, tools }
    }

    /// One line a package, sorted as apt orders them: a lock is read in diffs.
    pub fn to_text(&self) -> String {
        let mut text =
            String::from("# Written by `cairn-image lock`. Every package of an image, pinned by SHA-256.\n");
        let header = [
            format!("schema = {}", self.schema),
            format!("suite = \"{}\"", self.suite),
            format!("arch = \"{}\"", self.arch),
            format!("epoch = {}", self.epoch),
        ];
        text.push_str(&header.join("\n"));
        text.push('\n');
        for (section, packages) in [("root", &self.root), ("tools", &self.tools)] {
            let _ = writeln!(text, "\n{section} = [");
            for p in packages {
                let _ = writeln!(
                    text,
                    "  {{ name = \"{}\", version = \"{}\", arch = \"{}\", archive = \"{}\", path = \"{}\", size = {}, sha256 = \"{}\" }},",
                    p.name,
                    p.version,
                    p.arch,
                    p.archive.as_str(),
                    p.path,
                    p.size,
                    p.sha256
                );
            }
            text.push_str("]\n");
        }
        text
    }

    /// Every package once, whichever section names it.
    pub fn all(&self) -> Vec<&Package> {
        let mut seen = std::collections::BTreeSet::new();
        self.root.iter().chain(&self.tools).filter(|p| seen.insert(p.sha256.as_str())).collect()
    }
}
