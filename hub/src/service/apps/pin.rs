//! Names of images → digests of platform manifests; what is not in the hub is refused where the file names it.

use std::collections::BTreeMap;

use cairn_model::{
    Digest, ServiceName,
    api::Deploy,
    compose::{App, Arch, ImageRef, Platform, Service},
    oci,
};

use super::super::Hub;
use crate::{
    error::{Error, Kind, Result},
    registry::{Manifest, Reference},
    store::ManifestRow,
};

/// A cause and a cure.
type Refusal = (String, &'static str);

const CURE_PUSH: &str = "push it with `skopeo copy SOURCE docker://HUB/NAME:TAG` or `cairn artifact push`, or mend the name (`cairn artifact ls`)";

impl Hub {
    /// Pins every service of `app` to the manifest that nodes shall run.
    pub(super) async fn pin_images(
        &self,
        app: &mut App,
        deploy: &Deploy,
    ) -> Result<BTreeMap<ServiceName, Digest>> {
        let mut images = BTreeMap::new();
        let mut problems = Vec::new();
        for (name, service) in &mut app.services {
            match self.platform_manifest(service).await? {
                Ok(digest) => {
                    service.pin(digest.clone());
                    images.insert(name.clone(), digest);
                }
                Err((cause, cure)) => {
                    let (line, column) = place_of_image(&deploy.compose, name, &service.image.to_string());
                    problems.push(format!(
                        "{}:{line}:{column}: services.{name}.image: {cause}; {cure}",
                        deploy.file
                    ));
                }
            }
        }
        if problems.is_empty() {
            return Ok(images);
        }
        let text = format!("{} names images that cannot be run; mend what the problems name", deploy.file);
        Err(Error::new(Kind::ImageUnknown, text).with_problems(problems))
    }

    async fn platform_manifest(&self, service: &Service) -> Result<std::result::Result<Digest, Refusal>> {
        let image = &service.image;
        let Some(row) = self.named(image).await? else {
            return Ok(Err((format!("the hub has no image {image}"), CURE_PUSH)));
        };
        let manifest = self.read_manifest(&row).await?;
        if manifest.manifests.is_empty() {
            return Ok(check_kind(service, image, &manifest).map(|()| row.digest));
        }
        let (os, arch) = wanted_platform(service.platform);
        let fits = |p: &crate::registry::Descriptor| {
            p.platform.as_ref().is_some_and(|p| p.os == os && p.architecture == arch)
        };
        let Some(chosen) = manifest.manifests.iter().find(|d| fits(d)) else {
            let cause = format!("image {image} has no manifest for {os}/{arch}");
            return Ok(Err((cause, "push it for that platform, or choose another `platform`")));
        };
        Ok(Ok(chosen.digest.clone()))
    }

    async fn named(&self, image: &ImageRef) -> Result<Option<ManifestRow>> {
        let reference = match (&image.digest, &image.tag) {
            (Some(digest), _) => Reference::Digest(digest.clone()),
            (None, Some(tag)) => Reference::Tag(tag.clone()),
            (None, None) => Reference::Tag("latest".to_owned()),
        };
        match self.registry.find_manifest(&image.repository, &reference).await {
            Ok(row) => Ok(Some(row)),
            Err(crate::registry::RegistryError::ManifestUnknown(_)) => Ok(None),
            Err(e) => Err(Error::internal("the hub could not look an image up", anyhow::Error::new(e))),
        }
    }

    async fn read_manifest(&self, row: &ManifestRow) -> Result<Manifest> {
        let failed = |e| Error::internal("the hub could not read a manifest", e);
        let bytes =
            self.registry.manifest_bytes(&row.digest).await.map_err(|e| failed(anyhow::Error::new(e)))?;
        Manifest::parse(&row.media_type, &bytes).map_err(|e| failed(anyhow::anyhow!(e)))
    }
}

fn wanted_platform(platform: Platform) -> (&'static str, &'static str) {
    match platform {
        // One digest is pinned for all nodes, so that without a word it is the commonest architecture.
        Platform::Oci { arch } => ("linux", arch.unwrap_or(Arch::Amd64).as_str()),
        Platform::Wasm => ("wasi", "wasm"),
    }
}

/// Refuses a component as a container and the other way round, before a node has to.
fn check_kind(service: &Service, image: &ImageRef, manifest: &Manifest) -> std::result::Result<(), Refusal> {
    let wasm = manifest.artifact_type == oci::MEDIA_TYPE_WASM_CONFIG
        || manifest.blobs.iter().any(|blob| blob.media_type == oci::MEDIA_TYPE_WASM_LAYER);
    match (service.platform, wasm) {
        (Platform::Wasm, false) => Err((
            format!("image {image} is not a wasm artifact"),
            "remove `platform: wasi/wasm` or name another image",
        )),
        (Platform::Oci { .. }, true) => {
            Err((format!("image {image} is a wasm artifact"), "add `platform: wasi/wasm` to the service"))
        }
        (Platform::Wasm, true) | (Platform::Oci { .. }, false) => {
            if manifest.artifact_type == oci::ARTIFACT_TYPE_APP {
                return Err((format!("{image} is an app, not an image"), "name an image"));
            }
            Ok(())
        }
    }
}

/// Where the file names `image` for `service`: line and column from 1. The parser knows, but keeps it for itself; the
/// text after the service's key is searched, and where flow style defeats that, the first line that has the name.
fn place_of_image(compose: &str, service: &ServiceName, image: &str) -> (usize, usize) {
    let lines = || compose.lines().enumerate();
    let key = format!("{service}:");
    let start = lines().find(|(_, line)| line.trim_start().starts_with(&key)).map_or(0, |(at, _)| at);
    let at = |from: usize| {
        let mut rest = lines().skip(from);
        rest.find_map(|(at, line)| Some((at + 1, line[..line.find(image)?].chars().count() + 1)))
    };
    at(start).or_else(|| at(0)).unwrap_or((1, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_line_that_names_the_image() {
        let file = "services:\n  a:\n    image: demo/web:1\n  b:\n    image: demo/web:1\n";
        assert_eq!(place_of_image(file, &"a".parse().unwrap(), "demo/web:1"), (3, 12));
        assert_eq!(place_of_image(file, &"b".parse().unwrap(), "demo/web:1"), (5, 12));
        assert_eq!(place_of_image("{services: {a: {image: x}}}", &"a".parse().unwrap(), "x"), (1, 24));
    }
}
