//! What the registry must know of a manifest: its kind, and what it names.

use std::collections::BTreeMap;

use cairn_model::{Digest, oci};
use serde::Deserialize;
use serde_json::Value;

/// Most blobs or manifests that one manifest may name.
const MAX_DESCRIPTORS: usize = 4096;

/// A manifest or an index.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Its media type.
    pub(crate) media_type: String,
    /// Its artifact type, or its config's media type; empty for an index without one.
    pub(crate) artifact_type: String,
    /// Config and layers.
    pub(crate) blobs: Vec<Descriptor>,
    /// An index's manifests.
    pub(crate) manifests: Vec<Descriptor>,
    /// What it is attached to.
    pub(crate) subject: Option<Descriptor>,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// A reference to content.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    /// Of what kind.
    pub(crate) media_type: String,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its length.
    pub(crate) size: u64,
    /// For which machines, in an index.
    pub(crate) platform: Option<Platform>,
}

/// For which machines a manifest of an index is.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    /// `linux`.
    pub(crate) os: String,
    /// `amd64`.
    pub(crate) architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Value,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A layer that its maker does not allow registries to hand out; it may be missing.
    pub(crate) fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".rootfs.foreign.")
    }
}

impl Manifest {
    /// Reads a manifest that came with `content_type`; the error says what is wrong with it.
    pub(crate) fn parse(content_type: &str, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > oci::MAX_MANIFEST_BYTES {
            return Err(format!("it is larger than {} bytes", oci::MAX_MANIFEST_BYTES));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| format!("it is not such JSON: {e}"))?;
        if raw.schema_version != 2 {
            return Err("its schemaVersion is not 2".to_owned());
        }
        let media_type = raw.media_type.clone().unwrap_or_else(|| content_type.to_owned());
        if !content_type.is_empty() && media_type != content_type {
            return Err(format!("its mediaType is {media_type:?}, its Content-Type {content_type:?}"));
        }
        let index = match media_type.as_str() {
            oci::MEDIA_TYPE_MANIFEST | oci::MEDIA_TYPE_DOCKER_MANIFEST => false,
            oci::MEDIA_TYPE_INDEX | oci::MEDIA_TYPE_DOCKER_LIST => true,
            other => {
                return Err(format!("its media type {other:?} is not an OCI or Docker manifest or index"));
            }
        };
        let manifest = if index { raw.into_index(media_type)? } else { raw.into_manifest(media_type)? };
        if manifest.referenced().count() > MAX_DESCRIPTORS {
            return Err(format!("it names more than {MAX_DESCRIPTORS} blobs"));
        }
        Ok(manifest)
    }

    /// Everything that it consists of.
    pub(crate) fn referenced(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().chain(&self.manifests)
    }
}

impl Raw {
    fn into_index(self, media_type: String) -> Result<Manifest, String> {
        if self.config.is_some() || self.layers.is_some() {
            return Err("an index has neither config nor layers".to_owned());
        }
        Ok(Manifest {
            media_type,
            artifact_type: self.artifact_type.unwrap_or_default(),
            blobs: Vec::new(),
            manifests: self.manifests.ok_or("an index needs manifests")?,
            subject: self.subject,
            annotations: self.annotations,
        })
    }

    fn into_manifest(self, media_type: String) -> Result<Manifest, String> {
        if self.manifests.is_some() {
            return Err("an image manifest has no manifests".to_owned());
        }
        let config = self.config.ok_or("an image manifest needs a config")?;
        let artifact_type = self.artifact_type.unwrap_or_else(|| config.media_type.clone());
        let mut blobs = vec![config];
        blobs.extend(self.layers.ok_or("an image manifest needs layers")?);
        Ok(Manifest {
            media_type,
            artifact_type,
            blobs,
            manifests: Vec::new(),
            subject: self.subject,
            annotations: self.annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content_type: &str, json: &str, expected: Result<usize, &str>) {
        match (Manifest::parse(content_type, json.as_bytes()), expected) {
            (Ok(manifest), Ok(count)) => assert_eq!(manifest.referenced().count(), count, "{json}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{json}: {error}"),
            (got, _) => panic!("{json}: {got:?}"),
        }
    }

    #[test]
    fn reads_manifests_and_refuses_what_is_none() {
        let digest = Digest::of(b"x");
        let blob = format!(r#"{{"mediaType":"t","digest":"{digest}","size":1}}"#);
        let good = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#);
        check(oci::MEDIA_TYPE_MANIFEST, &good, Ok(2));
        check(oci::MEDIA_TYPE_INDEX, &format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#), Ok(1));
        check(oci::MEDIA_TYPE_INDEX, &good, Err("neither config nor layers"));
        check("text/plain", &good, Err("not an OCI or Docker"));
        check(oci::MEDIA_TYPE_MANIFEST, &good.replace(":2,", ":1,"), Err("schemaVersion"));
        check(oci::MEDIA_TYPE_MANIFEST, r#"{"schemaVersion":2}"#, Err("needs a config"));
        check(oci::MEDIA_TYPE_MANIFEST, "[]", Err("not such JSON"));
        check(oci::MEDIA_TYPE_MANIFEST, &good.replace("sha256", "md5"), Err("not a valid digest"));
        check(oci::MEDIA_TYPE_MANIFEST, &"[".repeat(100_000), Err("not such JSON"));
        let other = good.replacen('{', r#"{"mediaType":"application/x","#, 1);
        check(oci::MEDIA_TYPE_MANIFEST, &other, Err("its Content-Type"));
    }
}
