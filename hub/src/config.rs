//! Settings: fragments, all optional → merged → validated. Nothing is bound before all of it is valid.
//!
//! `DATA/hub.toml` first, then `DATA/hub.toml.d/*.toml` by name, then the command line; what comes later wins.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// The file below the data folder.
pub(crate) const FILE: &str = "hub.toml";

/// Where the hub listens where nothing says so.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:8443";

/// One file's worth of settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fragment {
    /// Host names in the hub's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) names: Option<Vec<String>>,
    /// Addresses in the hub's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) addresses: Option<Vec<IpAddr>>,
    /// Where to listen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<SocketAddr>,
    /// Largest blob that is taken, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_blob_bytes: Option<u64>,
    /// Uploads that may be under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_uploads: Option<usize>,
    /// Connections that may be open at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_connections: Option<usize>,
    /// Seconds that requests have left when the hub is told to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_seconds: Option<u64>,
}

/// The settings that hold.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The data folder.
    pub(crate) data: PathBuf,
    /// Host names in the hub's certificate.
    pub(crate) names: Vec<String>,
    /// Addresses in the hub's certificate.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// Largest blob that is taken, in bytes.
    pub(crate) max_blob_bytes: u64,
    /// Uploads that may be under way at once.
    pub(crate) max_uploads: usize,
    /// Connections that may be open at once.
    pub(crate) max_connections: usize,
    /// How long requests have left when the hub is told to stop.
    pub(crate) drain: Duration,
}

impl Fragment {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        // toml names the line, the unknown key and the known ones.
        toml::from_str(&text).with_context(|| format!("failed to understand {}", path.display()))
    }

    fn overlaid(self, over: Self) -> Self {
        Self {
            names: over.names.or(self.names),
            addresses: over.addresses.or(self.addresses),
            listen: over.listen.or(self.listen),
            max_blob_bytes: over.max_blob_bytes.or(self.max_blob_bytes),
            max_uploads: over.max_uploads.or(self.max_uploads),
            max_connections: over.max_connections.or(self.max_connections),
            drain_seconds: over.drain_seconds.or(self.drain_seconds),
        }
    }
}

impl Settings {
    /// Reads the settings of the data folder, with those of the command line over them.
    pub(crate) fn load(data: &Path, command_line: Fragment) -> anyhow::Result<Self> {
        let file = data.join(FILE);
        if !file.exists() {
            bail!("{} is not a hub's data folder; make one with `cairn-hub init --data {0}`", data.display());
        }
        let mut merged = Fragment::read(&file)?;
        for path in drop_ins(data)? {
            merged = merged.overlaid(Fragment::read(&path)?);
        }
        Self::validate(data, merged.overlaid(command_line))
    }

    fn validate(data: &Path, merged: Fragment) -> anyhow::Result<Self> {
        let names = merged.names.unwrap_or_default();
        let addresses = merged.addresses.unwrap_or_default();
        if names.is_empty() && addresses.is_empty() {
            bail!(
                "neither names nor addresses are set; nodes could not check whom they talk to: set one in {FILE}"
            );
        }
        let (blob, uploads) = (merged.max_blob_bytes.unwrap_or(16 << 30), merged.max_uploads.unwrap_or(64));
        let connections = merged.max_connections.unwrap_or(16_384);
        for (name, value) in [
            ("max_blob_bytes", blob),
            ("max_uploads", uploads as u64),
            ("max_connections", connections as u64),
        ] {
            if value == 0 {
                bail!("{name} is 0, so that the hub could do nothing; remove it or set a number above 0");
            }
        }
        let default_listen: SocketAddr = DEFAULT_LISTEN.parse()?;
        Ok(Self {
            data: data.to_owned(),
            names,
            addresses,
            listen: merged.listen.unwrap_or(default_listen),
            max_blob_bytes: blob,
            max_uploads: uploads,
            max_connections: connections,
            drain: Duration::from_secs(merged.drain_seconds.unwrap_or(20)),
        })
    }
}

fn drop_ins(data: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = data.join(format!("{FILE}.d"));
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("failed to list {}", folder.display())),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("failed to list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_fragments_win_and_unknown_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let load = |over| Settings::load(folder.path(), over);
        assert!(load(Fragment::default()).unwrap_err().to_string().contains("cairn-hub init"));
        std::fs::write(folder.path().join(FILE), "names = [\"hub\"]\nmax_uploads = 3\ndrain_seconds = 1\n")
            .unwrap();
        std::fs::create_dir(folder.path().join("hub.toml.d")).unwrap();
        std::fs::write(folder.path().join("hub.toml.d/10.toml"), "max_uploads = 4\n").unwrap();
        let over = Fragment { drain_seconds: Some(9), ..Fragment::default() };
        let settings = load(over).unwrap();
        assert_eq!((settings.max_uploads, settings.drain.as_secs()), (4, 9));
        std::fs::write(folder.path().join("hub.toml.d/20.toml"), "max_upload = 4\n").unwrap();
        let error = format!("{:#}", load(Fragment::default()).unwrap_err());
        assert!(error.contains("20.toml") && error.contains("max_uploads"), "{error}");
    }
}
