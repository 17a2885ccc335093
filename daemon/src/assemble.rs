//! From a desired state and the documents that it names (app manifests, Compose files, image manifests and configs) to
//! the replicas and images of this node. Pure: it says which documents are missing, or yields the whole.
//!
//! Used twice: by `pull`, which fetches what is missing, and at start on the documents in the ledger, without network.

use std::{collections::BTreeMap, sync::Arc};

use cairn_model::{
    DesiredState, Digest, Release,
    compose::{App, Platform, Problems},
    desired::DesiredOs,
    error::chain,
    id::{AppName, ServiceName},
    oci, release,
    resolve::{ImageConfig, ImageConfigError, ResolveError, ResolvedReplica, resolve},
};
use serde::Deserialize;

#[cfg(test)]
mod tests;

/// Largest config blob that is read into memory, in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Most layers of one image: overlayfs itself takes 500, and no builder makes more than 127.
const MAX_LAYERS: usize = 127;
/// Largest layer or component in bytes: far above any real one, far below what fills a disk by accident.
const MAX_BLOB_BYTES: u64 = 16 << 30;

/// Why a desired state cannot be assembled. Each is the fault of what was signed, not of the network.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// A document is not what it should be.
    #[error("{digest} is no {what}: {cause}; push it again and deploy the app again")]
    Malformed {
        /// Which document.
        digest: Digest,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// The Compose file in an app artifact is not accepted.
    #[error(
        "the Compose file of app {app} is refused by this node's version; deploy it again through an equal hub"
    )]
    Compose {
        /// Which app.
        app: AppName,
        /// What is wrong with it.
        #[source]
        source: Problems,
    },
    /// An image's config is malformed.
    #[error("the config of image {image} is refused")]
    ImageConfig {
        /// Which image.
        image: Digest,
        /// Why.
        #[source]
        source: ImageConfigError,
    },
    /// An image index without this node's platform.
    #[error("image {image} of service {service} has nothing for linux/{arch}; push one that has")]
    NoPlatform {
        /// Which image.
        image: Digest,
        /// Of which service.
        service: ServiceName,
        /// This node's architecture.
        arch: &'static str,
    },
    /// An image for another platform.
    #[error(
        "image {image} is for {found}, this node is {arch}; push one that fits or constrain its placement"
    )]
    OtherPlatform {
        /// Which image.
        image: Digest,
        /// What it is for.
        found: String,
        /// This node's architecture.
        arch: &'static str,
    },
    /// The OS release cannot be used.
    #[error("{digest} is no OS release: {cause}; make it again with `cairn-image release` and push it")]
    Release {
        /// Its manifest.
        digest: Digest,
        /// What is wrong.
        cause: String,
    },
    /// Desired state and app do not fit together.
    #[error("app {app} cannot run as desired")]
    Resolve {
        /// Which app.
        app: AppName,
        /// Why.
        #[source]
        source: ResolveError,
    },
}

/// A document to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its digest.
    pub digest: Digest,
    /// A manifest must be a signed target; a config is vouched for by its manifest.
    pub is_manifest: bool,
    /// It may have at most so many bytes.
    pub max_bytes: u64,
}

/// What an image or component consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A container image: its layers, bottom-most first.
    Oci(Vec<Layer>),
    /// A component: the one blob.
    Wasm(Blob),
}

impl Content {
    /// The blobs that it is made of.
    pub fn blobs(&self) -> Vec<&Digest> {
        match self {
            Self::Oci(layers) => layers.iter().map(|layer| &layer.blob.digest).collect(),
            Self::Wasm(blob) => vec![&blob.digest],
        }
    }
}

/// A blob to have on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its exact size in bytes.
    pub size: u64,
}

/// One layer of a container image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob as it is pulled.
    pub blob: Blob,
    /// Tells its compression.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// The OS to run: what is asked for, and what the signed release says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedOs {
    /// Digest of the release's manifest.
    pub digest: Digest,
    /// What the desired state says.
    pub wanted: DesiredOs,
    /// The release document.
    pub release: Release,
}

/// A whole generation, ready to be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The desired state as signed.
    pub desired: DesiredState,
    /// The replicas of this node by unit name.
    pub replicas: BTreeMap<String, ResolvedReplica>,
    /// What each image that a replica names consists of.
    pub images: BTreeMap<Digest, Content>,
    /// The OS to run; what it consists of is fetched when it is written, not before.
    pub os: Option<Arc<WantedOs>>,
}

/// Either the whole, or what is missing for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assembly {
    /// Nothing is missing.
    Whole(Box<Assembled>),
    /// These first; more may follow from them.
    Missing(Vec<Need>),
}

/// This machine's architecture in OCI's names.
pub fn node_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    artifact_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<PlatformField>,
}

#[derive(Debug, Clone, Deserialize)]
struct PlatformField {
    architecture: String,
    os: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

struct Walk<'a> {
    documents: &'a BTreeMap<Digest, Vec<u8>>,
    missing: Vec<Need>,
    arch: &'static str,
}

/// Assembles what `desired` names out of `documents`, for a node of architecture `arch`.
pub fn assemble(
    desired: &DesiredState,
    documents: &BTreeMap<Digest, Vec<u8>>,
    arch: &'static str,
) -> Result<Assembly, AssembleError> {
    let mut walk = Walk { documents, missing: Vec::new(), arch };
    let (mut replicas, mut images) = (BTreeMap::new(), BTreeMap::new());
    for (name, desired_app) in &desired.apps {
        let Some(app) = walk.app(name, &desired_app.app)? else { continue };
        let mut configs = BTreeMap::new();
        for service_name in desired_app.services.keys() {
            let Some(service) = app.services.get(service_name) else { continue };
            let Some(digest) = &service.image.digest else { continue };
            match service.platform {
                Platform::Wasm => {
                    if let Some(content) = walk.component(digest)? {
                        images.insert(digest.clone(), content);
                    }
                }
                Platform::Oci { .. } => {
                    if let Some((content, config)) = walk.image(digest, service_name)? {
                        images.insert(digest.clone(), content);
                        configs.insert(digest.clone(), config);
                    }
                }
            }
        }
        if walk.missing.is_empty() {
            let resolved = resolve(name, &app, desired_app, &configs)
                .map_err(|source| AssembleError::Resolve { app: name.clone(), source })?;
            replicas.extend(resolved.into_iter().map(|r| (r.id.unit_name(), r)));
        }
    }
    let os = match &desired.os {
        Some(wanted) => walk.release(wanted)?.map(Arc::new),
        None => None,
    };
    if walk.missing.is_empty() {
        Ok(Assembly::Whole(Box::new(Assembled { desired: desired.clone(), replicas, images, os })))
    } else {
        walk.missing.sort_by(|a, b| a.digest.cmp(&b.digest));
        walk.missing.dedup_by(|a, b| a.digest == b.digest);
        Ok(Assembly::Missing(walk.missing))
    }
}

impl Walk<'_> {
    fn app(&mut self, name: &AppName, digest: &Digest) -> Result<Option<App>, AssembleError> {
        let Some(manifest) = self.manifest::<Manifest>(digest, "app manifest")? else { return Ok(None) };
        let kind = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
        if kind != oci::ARTIFACT_TYPE_APP {
            return Err(malformed(digest, "app manifest", format!("its artifact type is {kind:?}")));
        }
        let Some(config) = self.config(digest, &manifest.config)? else { return Ok(None) };
        let app = App::from_canonical_json(config)
            .map_err(|source| AssembleError::Compose { app: name.clone(), source })?;
        Ok(Some(app))
    }

    fn release(&mut self, wanted: &DesiredOs) -> Result<Option<WantedOs>, AssembleError> {
        let digest = &wanted.release;
        let refuse = |cause: String| AssembleError::Release {
            digest: digest.clone(),
            cause: cause.chars().take(300).collect(),
        };
        let Some(manifest) = self.manifest::<Manifest>(digest, "release manifest")? else { return Ok(None) };
        let kind = manifest.artifact_type.as_deref().unwrap_or_default();
        if kind != oci::ARTIFACT_TYPE_RELEASE || manifest.config.media_type != oci::MEDIA_TYPE_RELEASE_CONFIG
        {
            let config = &manifest.config.media_type;
            return Err(refuse(format!("its artifact type is {kind:?}, its config's {config:?}")));
        }
        if manifest.config.size > release::MAX_BYTES as u64 {
            let (size, most) = (manifest.config.size, release::MAX_BYTES);
            return Err(refuse(format!("its document has {size} bytes, more than {most}")));
        }
        let Some(bytes) = self.config(digest, &manifest.config)? else { return Ok(None) };
        let release = Release::parse(bytes).map_err(|e| refuse(chain(&e)))?;
        // The blobs are fetched by what the document says; the manifest is what registries keep them for.
        let patches = release.patches.iter().map(|patch| &patch.blob);
        let named = [&release.chunks.index, &release.chunks.pack].into_iter().chain(patches);
        for payload in named {
            let listed = |l: &&Descriptor| l.digest == payload.digest && l.size == payload.size;
            if manifest.layers.iter().find(listed).is_none() {
                return Err(refuse(format!("its manifest has no layer {} as it names", payload.digest)));
            }
        }
        Ok(Some(WantedOs { digest: digest.clone(), wanted: wanted.clone(), release }))
    }

    fn image(
        &mut self,
        digest: &Digest,
        service: &ServiceName,
    ) -> Result<Option<(Content, ImageConfig)>, AssembleError> {
        let arch = self.arch;
        let no_platform =
            || AssembleError::NoPlatform { image: digest.clone(), service: service.clone(), arch };
        let fits =
            |d: &Descriptor| d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == arch);
        let Some((chosen, manifest)) = self.platform_manifest(digest, fits, no_platform)? else {
            return Ok(None);
        };
        let Some(bytes) = self.config(&chosen, &manifest.config)? else { return Ok(None) };
        let config = ImageConfig::parse(bytes)
            .map_err(|source| AssembleError::ImageConfig { image: digest.clone(), source })?;
        if !config.architecture.is_empty() && config.architecture != arch {
            let found = config.architecture;
            return Err(AssembleError::OtherPlatform { image: digest.clone(), found, arch });
        }
        let layers = layers(&chosen, &manifest, &config)?;
        Ok(Some((Content::Oci(layers), config)))
    }

    fn component(&mut self, digest: &Digest) -> Result<Option<Content>, AssembleError> {
        let none = || malformed(digest, "wasm artifact", "its index has no wasm manifest".to_owned());
        let fits = |d: &Descriptor| d.platform.as_ref().is_some_and(|p| p.architecture == "wasm");
        let Some((chosen, manifest)) = self.platform_manifest(digest, fits, none)? else { return Ok(None) };
        let mut layers = manifest.layers.iter().filter(|l| l.media_type == oci::MEDIA_TYPE_WASM_LAYER);
        let (Some(layer), None) = (layers.next(), layers.next()) else {
            let cause = format!("it needs exactly one layer of type {}", oci::MEDIA_TYPE_WASM_LAYER);
            return Err(malformed(&chosen, "wasm artifact", cause));
        };
        Ok(Some(Content::Wasm(blob(&chosen, layer)?)))
    }

    /// The manifest behind `digest`: itself, or through an index the first one that `fits`.
    fn platform_manifest(
        &mut self,
        digest: &Digest,
        fits: impl Fn(&Descriptor) -> bool,
        none: impl Fn() -> AssembleError,
    ) -> Result<Option<(Digest, Manifest)>, AssembleError> {
        #[derive(Deserialize)]
        struct Probe {
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let Some(probe) = self.manifest::<Probe>(digest, "image manifest")? else { return Ok(None) };
        if probe.manifests.is_none() {
            let manifest = self.manifest(digest, "image manifest")?;
            return Ok(manifest.map(|m| (digest.clone(), m)));
        }
        let Some(index) = self.manifest::<Index>(digest, "image index")? else { return Ok(None) };
        let Some(chosen) = index.manifests.into_iter().find(fits) else { return Err(none()) };
        let manifest = self.manifest(&chosen.digest, "image manifest")?;
        Ok(manifest.map(|m| (chosen.digest, m)))
    }

    fn manifest<T: for<'de> Deserialize<'de>>(
        &mut self,
        digest: &Digest,
        what: &'static str,
    ) -> Result<Option<T>, AssembleError> {
        let Some(bytes) = self.documents.get(digest) else {
            let max_bytes = oci::MAX_MANIFEST_BYTES;
            self.missing.push(Need { digest: digest.clone(), is_manifest: true, max_bytes });
            return Ok(None);
        };
        serde_json::from_slice(bytes).map(Some).map_err(|e| malformed(digest, what, e.to_string()))
    }

    fn config(&mut self, of: &Digest, config: &Descriptor) -> Result<Option<&[u8]>, AssembleError> {
        if config.size > MAX_CONFIG_BYTES {
            let cause = format!("its config has {} bytes, more than {MAX_CONFIG_BYTES}", config.size);
            return Err(malformed(of, "manifest", cause));
        }
        let Some(bytes) = self.documents.get(&config.digest) else {
            let need = Need { digest: config.digest.clone(), is_manifest: false, max_bytes: config.size };
            self.missing.push(need);
            return Ok(None);
        };
        Ok(Some(bytes))
    }
}

fn layers(of: &Digest, manifest: &Manifest, config: &ImageConfig) -> Result<Vec<Layer>, AssembleError> {
    if manifest.layers.len() != config.diff_ids.len() || manifest.layers.len() > MAX_LAYERS {
        let (layers, ids) = (manifest.layers.len(), config.diff_ids.len());
        let cause =
            format!("it has {layers} layers and {ids} diff ids; equal numbers up to {MAX_LAYERS} are needed");
        return Err(malformed(of, "image manifest", cause));
    }
    let pairs = manifest.layers.iter().zip(&config.diff_ids);
    pairs
        .map(|(layer, diff_id)| {
            Ok(Layer {
                blob: blob(of, layer)?,
                media_type: layer.media_type.clone(),
                diff_id: diff_id.clone(),
            })
        })
        .collect()
}

fn blob(of: &Digest, descriptor: &Descriptor) -> Result<Blob, AssembleError> {
    if descriptor.size > MAX_BLOB_BYTES {
        let cause = format!("a layer has {} bytes, more than {MAX_BLOB_BYTES}", descriptor.size);
        return Err(malformed(of, "manifest", cause));
    }
    Ok(Blob { digest: descriptor.digest.clone(), size: descriptor.size })
}

fn malformed(digest: &Digest, what: &'static str, cause: String) -> AssembleError {
    // serde's messages may quote outside text: cut it.
    AssembleError::Malformed { digest: digest.clone(), what, cause: cause.chars().take(300).collect() }
}
