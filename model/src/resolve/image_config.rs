//! The part of an OCI image config that matters to a replica (OCI Image Spec, "Image Configuration").

use std::collections::BTreeMap;

use serde::Deserialize;

/// What an image says of how it wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `config.Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `config.Cmd`.
    pub cmd: Vec<String>,
    /// `config.Env` as `NAME=value`.
    pub env: Vec<String>,
    /// `config.User`.
    pub user: String,
    /// `config.WorkingDir`.
    pub working_dir: String,
    /// `config.StopSignal`.
    pub stop_signal: Option<String>,
    /// `architecture`; empty where a wasm artifact or a sloppy builder left it out.
    pub architecture: String,
    /// `rootfs.diff_ids`: one a layer, bottom-most first.
    pub diff_ids: Vec<crate::id::Digest>,
}

/// Why an image config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageConfigError {
    /// Too large.
    #[error("the image config has {0} bytes, more than {max}; build the image with less metadata", max = MAX_BYTES)]
    TooLarge(usize),
    /// Not what the specification says.
    #[error("the image config is not as the OCI image specification says; build the image again")]
    Malformed(#[source] serde_json::Error),
}

/// Largest image config, in bytes: as large as the largest manifest.
const MAX_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    config: Option<Section>,
    #[serde(default)]
    rootfs: Option<RootFs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Section {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<crate::id::Digest>,
}

impl ImageConfig {
    /// Reads the config blob of an image. Keys that do not matter here are skipped, as the specification asks.
    ///
    /// # Errors
    /// If it is too large or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageConfigError> {
        if bytes.len() > MAX_BYTES {
            return Err(ImageConfigError::TooLarge(bytes.len()));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(ImageConfigError::Malformed)?;
        let section = document.config.unwrap_or_default();
        let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            entrypoint: section.entrypoint.unwrap_or_default(),
            cmd: section.cmd.unwrap_or_default(),
            env: section.env.unwrap_or_default(),
            user: section.user.unwrap_or_default(),
            working_dir: section.working_dir.unwrap_or_default(),
            stop_signal: non_empty(section.stop_signal),
            architecture: document.architecture.unwrap_or_default(),
            diff_ids: document.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default(),
        })
    }

    /// [`ImageConfig::env`] by name; entries that are no `NAME=value` are dropped, the last of a name counts.
    pub(super) fn env_by_name(&self) -> BTreeMap<String, String> {
        let pair = |entry: &String| {
            let (name, value) = entry.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        };
        self.env.iter().filter_map(pair).collect()
    }
}
