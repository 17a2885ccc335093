//! What a manifest is, by its own bytes: neither a file's name nor a hub's word counts. Pure.

use cairn_model::{
    Digest, Release,
    error::chain,
    oci::{
        ARTIFACT_TYPE_APP, ARTIFACT_TYPE_RELEASE, MEDIA_TYPE_RELEASE_CONFIG, MEDIA_TYPE_RELEASE_INDEX,
        MEDIA_TYPE_RELEASE_PACK, MEDIA_TYPE_RELEASE_PATCH, MEDIA_TYPE_WASM_CONFIG,
    },
    release::Payload,
};
use serde::Deserialize;

/// The manifest of one image or artifact, or an index. What is not read is not refused: nodes judge it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    manifests: Option<Vec<serde::de::IgnoredAny>>,
}

/// A blob as a manifest names it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What people call it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Release,
    App,
    Wasm,
    Index,
    Image,
    /// Its artifact type, or its config's media type.
    Other(String),
}

impl Kind {
    pub(crate) fn word(&self) -> &str {
        match self {
            Self::Release => "OS release",
            Self::App => "app",
            Self::Wasm => "wasm",
            Self::Index => "index",
            Self::Image => "image",
            Self::Other(text) => text,
        }
    }
}

/// Why something is no release.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error("it is no manifest: {0}")]
    NoManifest(String),
    #[error("it is no OS release, but: {0}")]
    AnotherKind(String),
    #[error("its {0} is not that of an OS release")]
    Type(&'static str),
    #[error("it names no config")]
    NoConfig,
    #[error("{0}")]
    Document(String),
    #[error("it says that {what} {digest} has {size} bytes, but no layer of the manifest is that")]
    NoLayer { what: String, digest: Digest, size: u64 },
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        serde_json::from_slice(bytes).map_err(|error| ReleaseError::NoManifest(error.to_string()))
    }

    /// What has one of a release's two marks is shown as one: no reader that looks at the other can be led astray.
    pub(crate) fn kind(&self) -> Kind {
        let artifact = self.artifact_type.as_deref().unwrap_or_default();
        let config = self.config.as_ref().map(|config| config.media_type.as_str()).unwrap_or_default();
        match (artifact, config) {
            (ARTIFACT_TYPE_RELEASE, _) | (_, MEDIA_TYPE_RELEASE_CONFIG) => Kind::Release,
            (ARTIFACT_TYPE_APP, _) => Kind::App,
            (MEDIA_TYPE_WASM_CONFIG, _) | (_, MEDIA_TYPE_WASM_CONFIG) => Kind::Wasm,
            _ if self.manifests.is_some() => Kind::Index,
            (
                "",
                "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json",
            ) => Kind::Image,
            ("", "") => Kind::Other("unknown".into()),
            ("", other) | (other, _) => Kind::Other(other.into()),
        }
    }

    /// What must be there beside the manifest: config and layers.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers)
    }

    /// The config blob, of a manifest that has a release's marks, both.
    pub(crate) fn release_config(&self) -> Result<&Descriptor, ReleaseError> {
        let kind = self.kind();
        if kind != Kind::Release {
            return Err(ReleaseError::AnotherKind(kind.word().to_owned()));
        }
        if self.artifact_type.as_deref() != Some(ARTIFACT_TYPE_RELEASE) {
            return Err(ReleaseError::Type("artifact type"));
        }
        let config = self.config.as_ref().ok_or(ReleaseError::NoConfig)?;
        if config.media_type != MEDIA_TYPE_RELEASE_CONFIG {
            return Err(ReleaseError::Type("config's media type"));
        }
        Ok(config)
    }

    /// The release that the config says; every blob by which it travels is a layer.
    pub(crate) fn release(&self, config: &[u8]) -> Result<Release, ReleaseError> {
        let release = Release::parse(config).map_err(|error| {
            // Its sources are not part of its message.
            ReleaseError::Document(chain(&error))
        })?;
        self.ensure_layer("the table of chunks", &release.chunks.index, MEDIA_TYPE_RELEASE_INDEX)?;
        self.ensure_layer("the pack of chunks", &release.chunks.pack, MEDIA_TYPE_RELEASE_PACK)?;
        for patch in &release.patches {
            let what = format!("the patch from {}", patch.from);
            self.ensure_layer(&what, &patch.blob, MEDIA_TYPE_RELEASE_PATCH)?;
        }
        Ok(release)
    }

    fn ensure_layer(&self, what: &str, blob: &Payload, media_type: &str) -> Result<(), ReleaseError> {
        let is_it = |layer: &Descriptor| {
            layer.digest == blob.digest && layer.size == blob.size && layer.media_type == media_type
        };
        if self.layers.iter().any(is_it) {
            return Ok(());
        }
        Err(ReleaseError::NoLayer { what: what.to_owned(), digest: blob.digest.clone(), size: blob.size })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A release with one patch, as JSON.
    pub(crate) fn release_json() -> Value {
        let payload = |text: &str| json!({"digest": Digest::of(text.as_bytes()), "size": text.len()});
        let hash = "ab".repeat(32);
        json!({
            "schema": 1, "version": "1.2.0", "compatible": "cairn-generic-amd64", "arch": "amd64",
            "min_version": "1.0.0", "changelog": "Faster.\nSafer.\n", "name": "Cairn 1.2.0", "built": 1_780_000_000,
            "data_layout": {"min": 1, "max": 1},
            "root": {"digest": Digest::of(b"root"), "size": 268_435_456},
            "uki": {"digest": Digest::of(b"uki"), "size": 12_000_000},
            "verity": {"root_hash": hash, "salt": "", "uuid": "00".repeat(16)},
            "chunks": {"index": payload("index"), "pack": payload("the pack of it")},
            "patches": [{"from": "1.1.0", "from_root_hash": hash, "blob": payload("patch"),
                "from_uki": Digest::of(b"old"), "memory": 96_000_000}],
            "health_command": ["/usr/bin/check", "--all"],
        })
    }

    fn manifest_json() -> Value {
        let layer = |media_type: &str, text: &str| json!({"mediaType": media_type, "digest": Digest::of(text.as_bytes()), "size": text.len()});
        json!({
            "schemaVersion": 2, "artifactType": ARTIFACT_TYPE_RELEASE,
            "config": layer(MEDIA_TYPE_RELEASE_CONFIG, "config"),
            "layers": [layer(MEDIA_TYPE_RELEASE_INDEX, "index"), layer(MEDIA_TYPE_RELEASE_PACK, "the pack of it"),
                layer(MEDIA_TYPE_RELEASE_PATCH, "patch")],
        })
    }

    fn check(manifest: &Value, release: &Value) -> Result<Release, ReleaseError> {
        let manifest = Manifest::parse(manifest.to_string().as_bytes())?;
        manifest.release_config()?;
        manifest.release(release.to_string().as_bytes())
    }

    #[test]
    fn refuses_what_is_no_release_or_only_half_of_one() {
        let with = |pointer: &str, value: Value| {
            let mut manifest = manifest_json();
            *manifest.pointer_mut(pointer).unwrap() = value;
            check(&manifest, &release_json()).unwrap_err()
        };
        assert_eq!(with("/artifactType", json!("x")), ReleaseError::Type("artifact type"));
        assert_eq!(with("/artifactType", Value::Null), ReleaseError::Type("artifact type"));
        assert_eq!(with("/config", Value::Null), ReleaseError::NoConfig);
        assert_eq!(with("/config/mediaType", json!("x")), ReleaseError::Type("config's media type"));
        assert!(matches!(with("/config/digest", json!("../x")), ReleaseError::NoManifest(_)));
        for layer in 0..3 {
            for (key, value) in
                [("size", json!(1)), ("digest", json!(Digest::of(b"x"))), ("mediaType", json!("x"))]
            {
                let error = with(&format!("/layers/{layer}/{key}"), value);
                assert!(matches!(error, ReleaseError::NoLayer { .. }), "{layer} {key}: {error}");
            }
        }
        let mut image = manifest_json();
        image["artifactType"] = Value::Null;
        image["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        assert_eq!(check(&image, &release_json()), Err(ReleaseError::AnotherKind("image".into())));
        let mut release = release_json();
        release["version"] = json!("v1");
        assert!(matches!(check(&manifest_json(), &release), Err(ReleaseError::Document(_))));
        assert!(matches!(Manifest::parse(b"[]"), Err(ReleaseError::NoManifest(_))));
        assert!(check(&manifest_json(), &release_json()).is_ok());
    }

    #[test]
    fn one_mark_of_a_release_is_enough_to_be_shown_as_one() {
        let kind = |manifest: Value| Manifest::parse(manifest.to_string().as_bytes()).unwrap().kind();
        let config =
            |media_type: &str| json!({"mediaType": media_type, "digest": Digest::of(b""), "size": 0});
        let image = "application/vnd.oci.image.config.v1+json";
        for (manifest, expected) in [
            (json!({"artifactType": ARTIFACT_TYPE_RELEASE, "config": config(image)}), Kind::Release),
            (json!({"artifactType": "x", "config": config(MEDIA_TYPE_RELEASE_CONFIG)}), Kind::Release),
            (json!({"config": config(MEDIA_TYPE_RELEASE_CONFIG), "manifests": []}), Kind::Release),
            (json!({"artifactType": ARTIFACT_TYPE_APP, "config": config("x")}), Kind::App),
            (json!({"config": config(MEDIA_TYPE_WASM_CONFIG)}), Kind::Wasm),
            (json!({"config": config(image)}), Kind::Image),
            (json!({"manifests": []}), Kind::Index),
            (json!({"artifactType": "x/y", "config": config(image)}), Kind::Other("x/y".into())),
            (json!({}), Kind::Other("unknown".into())),
        ] {
            assert_eq!(kind(manifest.clone()), expected, "{manifest}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_no_manifest() {
        // Two readers could each believe another one of them.
        let twice = format!(r#"{{"artifactType": "x", "artifactType": "{ARTIFACT_TYPE_RELEASE}"}}"#);
        assert!(Manifest::parse(twice.as_bytes()).is_err());
    }
}
