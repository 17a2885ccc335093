//! Brings the packages of a lock into a folder, by apt's own downloader (so that proxies and credentials of the machine
//! work), and proves that a folder holds them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use crate::apt::Mirror;
use crate::lock::{Lock, Package};

/// apt's downloader.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Downloads at a time.
const PARALLEL: usize = 4;

/// Why a package is not there.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The folder cannot be used.
    #[error("failed to use packages folder {path}")]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// apt's downloader cannot be started.
    #[error("failed to run {APT_HELPER}; `fetch` needs a Debian machine")]
    Helper(#[source] std::io::Error),
    /// The mirror does not have it (any more), or cannot be reached.
    #[error(
        "package {name} {version} cannot be fetched from the mirror ({said}); if the mirror has moved on, \
             renew the lock with `cairn-image lock`"
    )]
    Gone {
        /// Package.
        name: String,
        /// Version.
        version: String,
        /// The downloader's last line.
        said: String,
    },
    /// `build` was started without it.
    #[error(
        "package {name} {version} is missing in {folder}; run `cairn-image fetch`, and if the mirror no longer \
             has it, `cairn-image lock` first"
    )]
    Missing {
        /// Package.
        name: String,
        /// Version.
        version: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file was given as a package of the lock, and is none.
    #[error(
        "{0} is named like no package of the lock; give the folder that `cairn-image fetch` filled, or files with \
             the names that it gives them"
    )]
    Foreign(PathBuf),
    /// The bytes are not those that were locked.
    #[error(
        "package {name} {version} has SHA-256 {found}, the lock says {expected}; delete {path} and run \
             `cairn-image fetch` again"
    )]
    Hash {
        /// Package.
        name: String,
        /// Version.
        version: String,
        /// The file.
        path: PathBuf,
        /// What was locked.
        expected: String,
        /// What the file has.
        found: String,
    },
}

/// What a fetch did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Packages that were there and right.
    pub kept: usize,
    /// Packages that were downloaded.
    pub fetched: usize,
    /// Bytes that were downloaded.
    pub bytes: u64,
}

/// Makes `folder` hold every package of the lock.
pub fn fetch(lock: &Lock, mirror: &Mirror, folder: &Path) -> Result<Report, FetchError> {
    std::fs::create_dir_all(folder).map_err(|source| FetchError::Folder { path: folder.into(), source })?;
    let packages = lock.all();
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new(Ok(Report::default()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(package) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = ensure_package(package, mirror, folder);
                    let failed = result.is_err();
                    note(&outcome, package, result);
                    if failed {
                        next.store(packages.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Counts one package, or keeps the first error.
fn note(outcome: &Mutex<Result<Report, FetchError>>, package: &Package, result: Result<bool, FetchError>) {
    let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Ok(report) = outcome.as_mut() else { return };
    match result {
        Ok(false) => report.kept += 1,
        Ok(true) => {
            report.fetched += 1;
            report.bytes += package.size;
        }
        Err(error) => *outcome = Err(error),
    }
}

/// Whether the package had to be downloaded.
fn ensure_package(package: &Package, mirror: &Mirror, folder: &Path) -> Result<bool, FetchError> {
    match verify(package, folder) {
        Ok(_) => return Ok(false),
        Err(FetchError::Missing { .. } | FetchError::Hash { .. }) => {}
        Err(other) => return Err(other),
    }
    let target = folder.join(package.file_name());
    let partial = folder.join(format!("{}.part", package.file_name()));
    let output = Command::new(APT_HELPER)
        .env("LC_ALL", "C")
        .args(["-o", "Acquire::Retries=3", "download-file"])
        .arg(mirror.address(package))
        .arg(&partial)
        .arg(format!("SHA256:{}", package.sha256))
        .output()
        .map_err(FetchError::Helper)?;
    if !output.status.success() {
        let _ = std::fs::remove_file(&partial);
        let said = String::from_utf8_lossy(&output.stderr);
        let said =
            said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").trim().to_owned();
        return Err(FetchError::Gone { name: package.name.clone(), version: package.version.clone(), said });
    }
    std::fs::rename(&partial, &target).map_err(|source| FetchError::Folder { path: target, source })?;
    verify(package, folder).map(|_| true)
}

/// A folder that [`verify`] can look in, of packages that lie wherever somebody else's downloader put them: links, named
/// as a lock names its packages. A file is known by the end of its name, for Nix puts a hash in front.
pub fn gather(lock: &Lock, files: &[PathBuf]) -> Result<tempfile::TempDir, FetchError> {
    let unusable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| FetchError::Folder { path, source }
    };
    let folder = tempfile::tempdir().map_err(unusable(&std::env::temp_dir()))?;
    let known: BTreeSet<String> = lock.all().into_iter().map(Package::file_name).collect();
    for file in files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let own = [Some(name.as_str()), name.split_once('-').map(|(_, rest)| rest)]
            .into_iter()
            .flatten()
            .find(|name| known.contains(*name))
            .ok_or_else(|| FetchError::Foreign(file.clone()))?;
        let link = folder.path().join(own);
        std::os::unix::fs::symlink(file, &link).map_err(unusable(&link))?;
    }
    Ok(folder)
}

/// Path of a package whose bytes are those that were locked.
pub fn verify(package: &Package, folder: &Path) -> Result<PathBuf, FetchError> {
    let path = folder.join(package.file_name());
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (name, version) = (package.name.clone(), package.version.clone());
            return Err(FetchError::Missing { name, version, folder: folder.into() });
        }
        Err(source) => return Err(FetchError::Folder { path, source }),
    };
    let found = hash(&mut file).map_err(|source| FetchError::Folder { path: path.clone(), source })?;
    if found != package.sha256 {
        let (name, version, expected) =
            (package.name.clone(), package.version.clone(), package.sha256.clone());
        return Err(FetchError::Hash { name, version, path, expected, found });
    }
    Ok(path)
}

/// SHA-256 of all that can be read.
pub fn hash(reader: &mut impl Read) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(reader, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}
