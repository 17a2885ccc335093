//! Names of images → digests of platform manifests; what is not in the hub is refused where the file names it.

use std::collections::BTreeMap;

use cairn_model::{
    AppName, Digest, ServiceName,
    api::Deploy,
    compose::{App, Arch, ImageRef, Platform, Service},
    desired::DesiredApp,
    error::chain,
    oci,
    resolve::{ImageConfig, resolve},
};

use super::super::Hub;
use crate::{
    error::{Error, Kind, Result},
    registry::{Manifest, Reference, RegistryError},
    store::ManifestRow,
};

/// A cause and a cure.
type Refusal = (String, &'static str);

const CURE_PUSH: &str = "push it with `skopeo copy SOURCE docker://HUB/NAME:TAG` or `cairn artifact push`, or mend the name (`cairn artifact ls`)";

impl Hub {
    /// Pins every service of `app` to the manifest that nodes shall run, and makes sure that nodes can resolve it.
    pub(super) async fn pin_images(
        &self,
        name: &AppName,
        app: &mut App,
        deploy: &Deploy,
    ) -> Result<BTreeMap<ServiceName, Digest>> {
        let mut images = BTreeMap::new();
        let mut configs = BTreeMap::new();
        let mut written = BTreeMap::new();
        let mut problems = Vec::new();
        for (service_name, service) in &mut app.services {
            let image = service.image.to_string();
            let pinned = match self.platform_manifest(service).await? {
                Ok(digest) => self.image_config(service, &digest).await?.map(|config| (digest, config)),
                Err(refusal) => Err(refusal),
            };
            match pinned {
                Ok((digest, config)) => {
                    service.pin(digest.clone());
                    configs.extend(config.map(|config| (digest.clone(), config)));
                    images.insert(service_name.clone(), digest);
                }
                Err((cause, cure)) => {
                    problems.push(problem(deploy, service_name, &image, &format!("{cause}; {cure}")));
                }
            }
            written.insert(service_name.clone(), image);
        }
        if !problems.is_empty() {
            let text =
                format!("{} names images that cannot be run; mend what the problems name", deploy.file);
            return Err(Error::new(Kind::ImageUnknown, text).with_problems(problems));
        }
        // With the node's own function: what a node would refuse is refused here, before it gets there.
        for (service_name, image) in &written {
            let services = [(service_name.clone(), vec![0])].into();
            let desired = DesiredApp { app: Digest::of(b""), services };
            if let Err(error) = resolve(name, app, &desired, &configs) {
                problems.push(problem(deploy, service_name, image, &error.to_string()));
            }
        }
        if problems.is_empty() {
            return Ok(images);
        }
        let text = format!("{} is refused; mend what the problems name", deploy.file);
        Err(Error::new(Kind::ComposeRefused, text).with_problems(problems))
    }

    /// The config of a container image that is here whole; a wasm artifact has none that matters.
    async fn image_config(
        &self,
        service: &Service,
        digest: &Digest,
    ) -> Result<std::result::Result<Option<ImageConfig>, Refusal>> {
        let row = self.store.manifest(digest).await?;
        let row = row.ok_or_else(|| Error::internal("a manifest went away", anyhow::anyhow!("{digest}")))?;
        let manifest = self.read_manifest(&row).await?;
        if let Some(blob) = self.registry.missing_blob(&manifest).await? {
            let cause = format!("layer {blob} of image {} is foreign and not in this hub", service.image);
            return Ok(Err((cause, "push the image with all its layers: nodes fetch from their hub only")));
        }
        if service.platform == Platform::Wasm {
            return Ok(Ok(None));
        }
        let Some(config) = manifest.blobs.first() else { return Ok(Ok(None)) };
        let parsed = match self.registry.small_blob(&config.digest, oci::MAX_MANIFEST_BYTES).await {
            Ok(bytes) => ImageConfig::parse(&bytes).map_err(|e| chain(&e)),
            Err(RegistryError::TooLarge { limit }) => Err(format!("larger than {limit} bytes")),
            Err(e) => return Err(e.into()),
        };
        Ok(parsed.map(Some).map_err(|cause| {
            let cause = format!("the config of image {} cannot be read: {cause}", service.image);
            (cause, "build and push the image again")
        }))
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
            Err(RegistryError::ManifestUnknown(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    async fn read_manifest(&self, row: &ManifestRow) -> Result<Manifest> {
        let bytes = self.registry.manifest_bytes(&row.digest).await?;
        Manifest::parse(&row.media_type, &bytes)
            .map_err(|e| Error::internal("the hub could not read a manifest", anyhow::anyhow!(e)))
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

/// A line of the refusal: `file:line:column: key: cause; cure`.
fn problem(deploy: &Deploy, service: &ServiceName, image: &str, text: &str) -> String {
    let (line, column) = place_of_image(&deploy.compose, service, image);
    format!("{}:{line}:{column}: services.{service}.image: {text}", deploy.file)
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
