//! What a disk is told about its site: hub, CA, enrolment token, host name, network.
//!
//! All of it lies on the ESP as `/loader/credentials/<name>.cred`. systemd-stub, which is part of every kernel image,
//! hands these files to the initrd, and cairn-init passes on those that it knows: so no update loses them, and no
//! driver is needed to read them. Passed over: the data partition (ext4 cannot be written here without mounting it)
//! and files that systemd would take itself (it also takes whole units and kernel parameters by that way).
//!
//! The ESP is mounted for root alone. The token is the one secret; the node removes it once it is enrolled, and a
//! token that was used up, or expired, is worth nothing to whoever finds the disk.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::memory::Sparse;
use crate::esp::dots;

/// Folder on the ESP that the stub looks into.
pub const FOLDER: &str = "loader/credentials";

/// What the stub takes.
const SUFFIX: &str = ".cred";

/// Largest file of each kind: the node reads no more either.
const MAX_CA: u64 = 64 << 10;
const MAX_TOKEN: u64 = 4 << 10;
const MAX_NETWORK: u64 = 16 << 10;

/// Most network files, and their longest name.
const MAX_NETWORKS: usize = 16;
const MAX_NETWORK_NAME: usize = 40;

/// Why something cannot be put on a disk.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A file is not there.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{what} is refused: {cause}; {cure}")]
    Value {
        /// The option.
        what: String,
        /// Why.
        cause: &'static str,
        /// What to do.
        cure: &'static str,
    },
    /// The ESP is full, or damaged.
    #[error("failed to write {name} to the image's ESP")]
    Write {
        /// Which file.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where what is asked for comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Address of the hub.
    pub hub: Option<String>,
    /// PEM file with the hub's authority.
    pub hub_ca: Option<PathBuf>,
    /// File with an enrolment token.
    pub token: Option<PathBuf>,
    /// Host name.
    pub hostname: Option<String>,
    /// systemd-networkd's files.
    pub network: Vec<PathBuf>,
}

/// What will lie on the ESP: credentials by name.
#[derive(Debug, Clone, Default)]
pub struct Provisioning(Vec<(String, Vec<u8>)>);

impl Provisioning {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// If a file cannot be read, or what it holds cannot be meant.
    pub fn read(sources: &Sources) -> Result<Self, ProvisionError> {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        if let Some(url) = &sources.hub {
            check_hub(url)?;
            files.push(("cairn.hub".into(), url.trim_end_matches('/').into()));
        }
        if let Some(path) = &sources.hub_ca {
            let pem = read(path, "--hub-ca", MAX_CA)?;
            if !pem.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") {
                let cure = "give the ca.pem that `cairn-hub init` made";
                return refuse("--hub-ca", "it holds no PEM certificate", cure);
            }
            files.push(("cairn.hub-ca".into(), pem));
        }
        if let Some(path) = &sources.token {
            let token = String::from_utf8(read(path, "--token-file", MAX_TOKEN)?).unwrap_or_default();
            let token = token.trim();
            if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
                let cure = "give a file with what `cairn token create` printed";
                return refuse("--token-file", "it holds no token", cure);
            }
            files.push(("cairn.enroll-token".into(), token.into()));
        }
        if let Some(name) = &sources.hostname {
            check_hostname(name)?;
            files.push(("cairn.hostname".into(), name.clone().into_bytes()));
        }
        if sources.network.len() > MAX_NETWORKS {
            return refuse("--network", "there are over 16 files", "leave some out");
        }
        for path in &sources.network {
            let name = format!("cairn.network.{}", network_name(path)?);
            if files.iter().any(|(known, _)| *known == name) {
                return refuse("--network", "two files have the same name", "rename one");
            }
            files.push((name, read(path, "--network", MAX_NETWORK)?));
        }
        Ok(Self(files))
    }

    /// Whether there is nothing to put on a disk.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the credentials.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Writes everything into an ESP; what had the same name is replaced.
    ///
    /// # Errors
    /// If there is no room.
    pub fn write(&self, esp: &mut Sparse) -> Result<(), ProvisionError> {
        if self.is_empty() {
            return Ok(());
        }
        let failed = |name: &str| {
            let name = name.to_owned();
            move |source| ProvisionError::Write { name, source }
        };
        let volume = esp.volume().map_err(failed(FOLDER))?;
        {
            let root = volume.root_dir();
            root.create_dir("loader").map_err(failed("loader"))?;
            let folder = root.create_dir(FOLDER).map_err(failed(FOLDER))?;
            for (name, content) in &self.0 {
                let name = format!("{name}{SUFFIX}");
                let mut file = folder.create_file(&name).map_err(failed(&name))?;
                file.truncate().map_err(failed(&name))?;
                file.write_all(content).map_err(failed(&name))?;
                file.flush().map_err(failed(&name))?;
            }
        }
        volume.unmount().map_err(failed(FOLDER))?;
        dots::straighten(esp).map_err(failed(FOLDER))
    }
}

fn refuse<T>(what: &str, cause: &'static str, cure: &'static str) -> Result<T, ProvisionError> {
    Err(ProvisionError::Value { what: what.into(), cause, cure })
}

/// Reads a file that must hold something, and not too much.
fn read(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>, ProvisionError> {
    let failed = |source| ProvisionError::Read { path: path.into(), source };
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut content).map_err(failed)?;
    if content.is_empty() || content.len() as u64 > limit {
        return refuse(what, "its file is empty or far too large", "check which file was named");
    }
    Ok(content)
}

/// What the node accepts: an https address without a path.
fn check_hub(url: &str) -> Result<(), ProvisionError> {
    let cure = "write https://host:port, as `cairn-hub init` printed it";
    let Some(rest) = url.strip_prefix("https://") else {
        return refuse("--hub", "it does not begin with https://", cure);
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if authority.is_empty() || authority.len() > 256 || !authority.chars().all(allowed) {
        return refuse("--hub", "behind https:// there is more than a host and a port, or less", cure);
    }
    Ok(())
}

/// RFC 1123, as the kernel and systemd take it.
fn check_hostname(name: &str) -> Result<(), ProvisionError> {
    let label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len())
            && label.chars().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 64 || !name.split('.').all(label) {
        let cure = "use letters, digits and '-', 64 at most";
        return refuse("--hostname", "it is no host name", cure);
    }
    Ok(())
}

/// The name under which networkd will read a file.
fn network_name(path: &Path) -> Result<&str, ProvisionError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(".network").or_else(|| name.strip_suffix(".netdev")).unwrap_or_default();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if stem.is_empty() || stem.len() > MAX_NETWORK_NAME || !stem.chars().all(allowed) {
        let cure = "name it such as 10-lan.network or 20-vlan.netdev";
        return refuse("--network", "its name is none for systemd-networkd", cure);
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
