//! An OCI image layout with one release in it: written beside its place and renamed when it is whole; read back by
//! digest.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cairn_model::oci::{
    ARTIFACT_TYPE_RELEASE, MAX_MANIFEST_BYTES, MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST,
    MEDIA_TYPE_RELEASE_CONFIG,
};
use cairn_model::release::{MAX_BYTES, Payload, Release};
use cairn_model::{Digest, DocumentError};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::ReleaseError;

/// Where blobs lie.
const BLOBS: &str = "blobs/sha256";

/// Why a layout cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {path}")]
pub struct LayoutError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Why a layout is no release.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file is not there.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("it is no OCI image layout with one Cairn release: {0}")]
    Foreign(String),
    /// A blob is not what its name says.
    #[error("blob {0} is damaged; copy the layout again")]
    Damaged(Digest),
    /// The document is refused.
    #[error("the release document is refused")]
    Document(#[source] DocumentError),
}

/// A layer of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// What it is.
    pub media_type: &'static str,
    /// Its bytes.
    pub payload: Payload,
}

/// A layout that is being written. What is not finished goes away.
#[derive(Debug)]
pub struct Writer {
    output: PathBuf,
    /// Beside the output, so that a rename suffices.
    folder: TempDir,
    /// For what does not stay.
    scratch: TempDir,
}

impl Writer {
    /// For `output`, which must not be there at the end.
    ///
    /// # Errors
    /// If nothing can be written beside it.
    pub fn begin(output: &Path) -> Result<Self, LayoutError> {
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        let failed = |source| LayoutError { path: parent.clone(), source };
        fs::create_dir_all(&parent).map_err(failed)?;
        let temporary = || tempfile::Builder::new().prefix(".cairn-release-").tempdir_in(&parent);
        let (folder, scratch) = (temporary().map_err(failed)?, temporary().map_err(failed)?);
        fs::create_dir_all(folder.path().join(BLOBS)).map_err(failed)?;
        Ok(Self { output: output.into(), folder, scratch })
    }

    /// A folder that goes away with this.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Adds a blob whose bytes `fill` writes.
    ///
    /// # Errors
    /// What `fill` says, or the file system.
    pub fn stream(
        &mut self,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), ReleaseError>,
    ) -> Result<Payload, ReleaseError> {
        let path = self.folder.path().join("blob");
        let failed = |source| LayoutError { path: path.clone(), source };
        let file = BufWriter::new(File::create(&path).map_err(failed)?);
        let mut counted = Counted { out: file, hasher: Sha256::new(), size: 0 };
        fill(&mut counted)?;
        let Counted { out, hasher, size } = counted;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        let digest = Digest::from_sha256(&hasher.finalize().into());
        fs::rename(&path, self.blob(&digest)).map_err(failed)?;
        Ok(Payload { digest, size })
    }

    /// Adds a blob.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<Payload, ReleaseError> {
        self.stream(|out| {
            let path = PathBuf::from("a blob");
            out.write_all(bytes).map_err(|source| LayoutError { path, source }.into())
        })
    }

    /// What was written, from the disk.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self, payload: &Payload) -> Result<Vec<u8>, LayoutError> {
        let path = self.blob(&payload.digest);
        fs::read(&path).map_err(|source| LayoutError { path, source })
    }

    /// What was written, to be read.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&self, payload: &Payload) -> Result<File, LayoutError> {
        let path = self.blob(&payload.digest);
        File::open(&path).map_err(|source| LayoutError { path, source })
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.path().join(BLOBS).join(digest.hex())
    }

    /// Writes document, manifest and index, and puts the layout into its place. Returns the manifest's digest.
    ///
    /// # Errors
    /// If the document is one that its readers refuse, or something cannot be written.
    pub fn finish(mut self, release: &Release, layers: &[Layer]) -> Result<Digest, ReleaseError> {
        let document = json_bytes(&json!(release));
        let read = Release::parse(&document).map_err(ReleaseError::Document)?;
        if read != *release {
            return Err(ReleaseError::Trial("its document reads as another".into()));
        }
        let config = self.bytes(&document)?;
        let manifest = manifest(release, &config, layers);
        let manifest = self.bytes(&json_bytes(&manifest))?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_INDEX,
            "manifests": [{
                "mediaType": MEDIA_TYPE_MANIFEST,
                "artifactType": ARTIFACT_TYPE_RELEASE,
                "digest": manifest.digest,
                "size": manifest.size,
                "annotations": { "org.opencontainers.image.ref.name": release.version },
            }],
        });
        let files = [
            ("index.json", json_bytes(&index)),
            ("oci-layout", json_bytes(&json!({ "imageLayoutVersion": "1.0.0" }))),
        ];
        let folder = self.folder.path();
        for (name, bytes) in files {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(|source| LayoutError { path, source })?;
        }
        let failed = |source| LayoutError { path: self.output.clone(), source };
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        // Where something came to be meanwhile, this fails: a folder replaces only an empty one.
        fs::rename(folder, &self.output).map_err(failed)?;
        Ok(manifest.digest)
    }
}

fn manifest(release: &Release, config: &Payload, layers: &[Layer]) -> serde_json::Value {
    let descriptor = |media_type: &str, payload: &Payload| json!({ "mediaType": media_type, "digest": payload.digest, "size": payload.size });
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer.media_type, &layer.payload)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "artifactType": ARTIFACT_TYPE_RELEASE,
        "config": descriptor(MEDIA_TYPE_RELEASE_CONFIG, config),
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.title": release.name,
            "org.opencontainers.image.version": release.version,
        },
    })
}

/// Keys are in the order of the alphabet, or of the struct: either way the same each time.
fn json_bytes(value: &serde_json::Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Hashes and counts what passes.
struct Counted<W> {
    out: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What is read of an index or a manifest.
#[derive(Deserialize)]
struct IndexDocument {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument {
    artifact_type: Option<String>,
    config: Descriptor,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

/// A layout that was written before.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    /// The one release in it.
    pub release: Release,
}

impl Layout {
    /// Whether a folder says that it is a layout.
    pub fn is_one(folder: &Path) -> bool {
        folder.join("oci-layout").is_file()
    }

    /// Reads index, manifest and document.
    ///
    /// # Errors
    /// If it holds anything but one release.
    pub fn open(folder: &Path) -> Result<Self, ReadError> {
        let foreign = |cause: &str| ReadError::Foreign(cause.to_owned());
        let index = read_bounded(&folder.join("index.json"), MAX_MANIFEST_BYTES)?;
        let index: IndexDocument = serde_json::from_slice(&index)
            .map_err(|error| ReadError::Foreign(format!("index.json: {error}")))?;
        let [manifest] = index.manifests.as_slice() else {
            return Err(foreign("index.json does not name exactly one manifest"));
        };
        let manifest = blob(folder, manifest, MAX_MANIFEST_BYTES)?;
        let manifest: ManifestDocument = serde_json::from_slice(&manifest)
            .map_err(|error| ReadError::Foreign(format!("its manifest: {error}")))?;
        if manifest.artifact_type.as_deref() != Some(ARTIFACT_TYPE_RELEASE)
            || manifest.config.media_type != MEDIA_TYPE_RELEASE_CONFIG
        {
            return Err(foreign("its manifest is that of something else"));
        }
        let document = blob(folder, &manifest.config, MAX_BYTES as u64)?;
        let release = Release::parse(&document).map_err(ReadError::Document)?;
        Ok(Self { folder: folder.into(), release })
    }

    /// A blob, whole and checked.
    ///
    /// # Errors
    /// If it is not there, too large, or not what it should be.
    pub fn read(&self, payload: &Payload, limit: u64) -> Result<Vec<u8>, ReadError> {
        let descriptor =
            Descriptor { media_type: String::new(), digest: payload.digest.clone(), size: payload.size };
        blob(&self.folder, &descriptor, limit)
    }

    /// A blob, unchecked.
    ///
    /// # Errors
    /// If it is not there.
    pub fn file(&self, payload: &Payload) -> Result<File, ReadError> {
        let path = self.folder.join(BLOBS).join(payload.digest.hex());
        File::open(&path).map_err(|source| ReadError::Read { path, source })
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is far too large")));
    }
    Ok(bytes)
}

fn blob(folder: &Path, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ReadError> {
    let bytes = read_bounded(&folder.join(BLOBS).join(descriptor.digest.hex()), limit)?;
    if bytes.len() as u64 != descriptor.size || Digest::of(&bytes) != descriptor.digest {
        return Err(ReadError::Damaged(descriptor.digest.clone()));
    }
    Ok(bytes)
}
