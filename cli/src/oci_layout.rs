//! An OCI image layout on disk (OCI Image Spec, "Image Layout"), read for a push. Every blob is checked against its
//! digest before anything is sent.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use cairn_model::{
    Digest,
    oci::{MAX_MANIFEST_BYTES, MEDIA_TYPE_DOCKER_LIST, MEDIA_TYPE_INDEX},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{
    client::registry::{Blob, Content, Manifest, Source},
    failure::Failure,
};

/// An index in an index in the layout's index: nobody has more.
const MAX_DEPTH: usize = 3;
/// Most blobs and manifests of one push.
const MAX_ENTRIES: usize = 10_000;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// What is read of an index, and of a manifest.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// What is to be pushed of the layout in `folder`; `image` chooses where it holds several.
pub(crate) fn read(folder: &Path, image: Option<&str>) -> Result<Content, Failure> {
    if !folder.join("oci-layout").is_file() {
        return Err(Failure::usage(format!(
            "{} is no OCI image layout: it has no file oci-layout",
            folder.display()
        ))
        .cure("make one with `skopeo copy … oci:FOLDER:TAG`, or name a .wasm file"));
    }
    let index: Document = parse(&folder.join("index.json"), &bounded(&folder.join("index.json"))?)?;
    let chosen = choose(&index.manifests, image, folder)?;
    let mut walk = Walk { folder, content: Content::default(), seen: BTreeSet::new() };
    walk.manifest(chosen, 0)?;
    Ok(walk.content)
}

fn choose<'a>(
    manifests: &'a [Descriptor],
    image: Option<&str>,
    folder: &Path,
) -> Result<&'a Descriptor, Failure> {
    let name = |d: &'a Descriptor| d.annotations.get(REF_NAME).map(String::as_str);
    let fitting: Vec<_> = manifests.iter().filter(|d| image.is_none() || name(d) == image).collect();
    match (fitting.as_slice(), image) {
        ([one], _) => Ok(one),
        ([], None) => Err(Failure::refused(format!("{} holds no image", folder.display()))),
        (found, _) => {
            let names: Vec<_> = manifests.iter().filter_map(name).collect();
            let what = if found.is_empty() { "no image of this name" } else { "several images" };
            Err(Failure::usage(format!("{} holds {what}", folder.display()))
                .cure(format!("choose with --image one of: {}", names.join(", "))))
        }
    }
}

struct Walk<'a> {
    folder: &'a Path,
    content: Content,
    seen: BTreeSet<Digest>,
}

impl Walk<'_> {
    fn manifest(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(), Failure> {
        let digest = digest_of(descriptor)?;
        if !self.is_new(&digest)? {
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            return Err(Failure::refused("the indexes of the image are nested too deep".to_owned()));
        }
        let path = self.path(&digest);
        let bytes = bounded(&path)?;
        if Digest::of(&bytes) != digest || bytes.len() as u64 != descriptor.size {
            return Err(damaged(&path));
        }
        let document: Document = parse(&path, &bytes)?;
        let is_index = [MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_LIST].contains(&descriptor.media_type.as_str());
        if is_index {
            for child in &document.manifests {
                self.manifest(child, depth + 1)?;
            }
        } else {
            for blob in document.config.iter().chain(&document.layers) {
                self.blob(blob)?;
            }
        }
        self.content.manifests.push(Manifest { digest, media_type: descriptor.media_type.clone(), bytes });
        Ok(())
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<(), Failure> {
        let digest = digest_of(descriptor)?;
        if !self.is_new(&digest)? {
            return Ok(());
        }
        let path = self.path(&digest);
        // A layer that is only to be had elsewhere, by licence: the hub says whether it can do without.
        if !descriptor.urls.is_empty() && !path.exists() {
            return Ok(());
        }
        let (found, size) = hash(&path).map_err(|error| {
            Failure::refused(format!("the layout lacks a blob: {}: {error}", path.display()))
        })?;
        if found != digest || size != descriptor.size {
            return Err(damaged(&path));
        }
        self.content.blobs.push(Blob { digest, size, source: Source::File(path) });
        Ok(())
    }

    fn is_new(&mut self, digest: &Digest) -> Result<bool, Failure> {
        if self.seen.len() >= MAX_ENTRIES {
            return Err(Failure::refused(format!("the image has more than {MAX_ENTRIES} blobs")));
        }
        Ok(self.seen.insert(digest.clone()))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, Failure> {
    descriptor
        .digest
        .parse()
        .map_err(|error| Failure::refused(format!("the layout names a bad digest: {error}")))
}

fn damaged(path: &Path) -> Failure {
    Failure::refused(format!("{} does not hold what its name says", path.display()))
        .cure("make the layout again")
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Document, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::refused(format!("{} is not an OCI document: {error}", path.display())))
}

/// A small file of a layout.
pub(crate) fn bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let fail = |error: io::Error| Failure::refused(format!("cannot read {}: {error}", path.display()));
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(fail)?.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(Failure::refused(format!(
            "{} is larger than {MAX_MANIFEST_BYTES} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

fn hash(path: &Path) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let size = io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok((Digest::from_sha256(&hasher.finalize().into()), size))
}

#[cfg(test)]
mod tests;
