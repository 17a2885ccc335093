//! OS releases among what is pushed: the hub takes only what a node could read.

use cairn_model::{Digest, Release, error::chain, oci, release};

use super::{Manifest, Registry, RegistryError, Result};

impl Registry {
    /// The release that `manifest` is, if it is one. All that it names is here already.
    pub(super) async fn release_of(&self, manifest: &Manifest) -> Result<Option<Release>> {
        let typed = manifest.artifact_type == oci::ARTIFACT_TYPE_RELEASE;
        let Some(config) = manifest.blobs.first() else {
            let text = "an OS release is a manifest, not an index; make it with `cairn-image release`";
            return if typed { Err(invalid(text.to_owned())) } else { Ok(None) };
        };
        let configured = config.media_type == oci::MEDIA_TYPE_RELEASE_CONFIG;
        if !typed && !configured {
            return Ok(None);
        }
        if !(typed && configured) {
            return Err(invalid(format!(
                "an OS release has artifactType {} and a config of {}; this has {} and {}; make it with `cairn-image \
                 release`",
                oci::ARTIFACT_TYPE_RELEASE,
                oci::MEDIA_TYPE_RELEASE_CONFIG,
                manifest.artifact_type,
                config.media_type,
            )));
        }
        if let Some(missing) = self.missing_blob(manifest).await? {
            return Err(RegistryError::ManifestBlobUnknown(missing));
        }
        let bytes = self.small_blob(&config.digest, release::MAX_BYTES as u64).await?;
        if Digest::of(&bytes) != config.digest {
            return Err(RegistryError::Damaged(config.digest.clone()));
        }
        let release = Release::parse(&bytes).map_err(|e| invalid(chain(&e)))?;
        ensure_carried(manifest, &release).map_err(invalid)?;
        Ok(Some(release))
    }
}

fn invalid(cause: String) -> RegistryError {
    RegistryError::ManifestInvalid(cause)
}

/// Refuses a release that names blobs which are no layers of its manifest: no node would get them.
fn ensure_carried(manifest: &Manifest, release: &Release) -> std::result::Result<(), String> {
    let own = [
        (&release.chunks.index, "index", oci::MEDIA_TYPE_RELEASE_INDEX),
        (&release.chunks.pack, "pack", oci::MEDIA_TYPE_RELEASE_PACK),
    ];
    let patches = release.patches.iter().map(|patch| (&patch.blob, "patch", oci::MEDIA_TYPE_RELEASE_PATCH));
    let layers = manifest.blobs.get(1..).unwrap_or_default();
    for (payload, what, media_type) in own.into_iter().chain(patches) {
        let found = layers.iter().find(|layer| layer.digest == payload.digest);
        let found = found.ok_or_else(|| {
            format!("the release's {what} {} is no layer of the manifest; make it again", payload.digest)
        })?;
        if found.size != payload.size {
            let text = format!("the release's {what} has {} bytes, its layer {}", payload.size, found.size);
            return Err(format!("{text}; make it again"));
        }
        if found.media_type != media_type {
            let text = format!("the layer of the release's {what} is a {}", found.media_type);
            return Err(format!("{text}, not a {media_type}; make it again"));
        }
    }
    Ok(())
}
