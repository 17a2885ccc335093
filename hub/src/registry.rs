//! The OCI registry below HTTP: blobs and manifests by digest in an object store, their index in the database.
//!
//! A blob is on disk, whole and fsynced under its digest, before its row is; a manifest is signed before its row is.
//! So a row never promises what is not there, and a crash leaves at most files that nobody names ([`sweep`]).

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use cairn_model::{Digest, oci};
use cairn_trust::sign::TargetEntry;
use futures_util::{StreamExt as _, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, path::Path as Key,
};

use serde_json::json;

use crate::{
    clock,
    service::Operator,
    sign::{Signer, SignerError},
    store::{ManifestRow, Store, StoreError, Tx},
};

mod manifest;
mod name;
mod release;
mod sweep;
mod upload;

pub(crate) use manifest::{Descriptor, Manifest};
pub(crate) use name::{ANY_REPOSITORY, Reference, is_repository};
pub(crate) use upload::{UploadStatus, Uploads};

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The repository's name.
    #[error("{0:?} is not a repository name (lower-case letters, digits, and . _ - / between them)")]
    NameInvalid(String),
    /// Nothing of that name.
    #[error("repository {0} does not exist")]
    NameUnknown(String),
    /// No such blob there.
    #[error("blob {0} is not in this repository; push it")]
    BlobUnknown(Digest),
    /// A blob that the asking node does not need.
    #[error("nothing that this node shall run names blob {0}; it is for other nodes")]
    BlobNotNeeded(Digest),
    /// No such upload.
    #[error("no such upload; it ended, was cancelled, or the hub restarted: start again with POST")]
    UploadUnknown,
    /// A chunk that does not follow the last.
    #[error("the chunk starts at {got}, the upload is at {at}; send from there")]
    OutOfOrder {
        /// Where it starts.
        got: u64,
        /// Where it should.
        at: u64,
    },
    /// What came is not what was announced.
    #[error("the bytes have digest {got}, not {wanted}")]
    DigestMismatch {
        /// As computed.
        got: Digest,
        /// As announced.
        wanted: String,
    },
    /// Not a digest.
    #[error("{0:?} is not a digest (sha256: and 64 lower-case hex digits)")]
    DigestInvalid(String),
    /// Over a bound.
    #[error("larger than {limit} bytes, which is the most that this hub takes")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// Too many uploads at once.
    #[error("{0} uploads are under way, which is the most that this hub takes; try again later")]
    TooManyUploads(usize),
    /// Not a manifest.
    #[error("the manifest cannot be taken: {0}")]
    ManifestInvalid(String),
    /// No such manifest there.
    #[error("manifest {0} is not in this repository")]
    ManifestUnknown(String),
    /// It names a blob that is not here.
    #[error("the manifest names {0}, which this hub does not have; push it first")]
    ManifestBlobUnknown(Digest),
    /// What is on disk is not what was pushed.
    #[error("manifest {0} is damaged on the hub's disk; push it again")]
    Damaged(Digest),
    /// It is in use.
    #[error("{0}")]
    Denied(String),
    /// The client stopped sending.
    #[error("the client stopped sending")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The client sent nothing for too long.
    #[error("nothing came for {} seconds", .0.as_secs())]
    Stalled(Duration),
    /// Disk.
    #[error("failed to use the blob store")]
    Objects(#[from] object_store::Error),
    /// Database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Signing.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

type Result<T> = std::result::Result<T, RegistryError>;

/// The registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Registry {
    objects: Arc<dyn ObjectStore>,
    store: Store,
    signer: Signer,
    /// Uploads under way.
    pub(crate) uploads: Uploads,
}

/// A blob, or a part of it, on its way out.
pub(crate) struct BlobStream {
    /// The whole blob's length.
    pub(crate) size: u64,
    /// Which bytes come.
    pub(crate) range: std::ops::Range<u64>,
    /// The bytes.
    pub(crate) stream: BoxStream<'static, object_store::Result<Bytes>>,
}

fn blob_key(digest: &Digest) -> Key {
    Key::from_iter(["blobs", "sha256", digest.hex()])
}

impl Registry {
    /// Opens the folder `data`. Uploads of an earlier run are gone: nobody holds their state.
    pub(crate) fn open(
        data: &Path,
        store: Store,
        signer: Signer,
        max_blob: u64,
        max_uploads: usize,
    ) -> anyhow::Result<Self> {
        let staging = data.join(upload::STAGING);
        match std::fs::remove_dir_all(&staging) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(anyhow::Error::new(e).context(format!("failed to clear {}", staging.display())));
            }
            _ => {}
        }
        let objects: Arc<dyn ObjectStore> =
            Arc::new(LocalFileSystem::new_with_prefix(data)?.with_fsync(true));
        let uploads = Uploads::new(Arc::clone(&objects), max_blob, max_uploads, upload::STALL);
        Ok(Self { objects, store, signer, uploads })
    }

    /// Whether the object store answers.
    pub(crate) async fn check(&self) -> Result<()> {
        match self.objects.head(&Key::from("blobs/probe")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Ends an upload: its bytes, which must have `wanted` as digest, become a blob of `repository`.
    pub(crate) async fn finish_upload(
        &self,
        repository: &str,
        upload: upload::Lease,
        wanted: &str,
    ) -> Result<Digest> {
        let wanted: Digest = wanted.parse().map_err(|_| RegistryError::DigestInvalid(wanted.to_owned()))?;
        let (staged, size) = upload.finish(&wanted).await?;
        let mut tx = self.store.begin().await?;
        self.objects.rename(&staged, &blob_key(&wanted)).await?;
        tx.insert_blob(repository, &wanted, size, clock::now_ms()).await?;
        tx.commit().await?;
        Ok(wanted)
    }

    /// Puts a small blob of the hub's own into `repository`.
    pub(crate) async fn put_blob(&self, repository: &str, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        if self.store.repository_blob_size(repository, &digest).await?.is_some() {
            return Ok(digest);
        }
        let size = bytes.len() as u64;
        let mut tx = self.store.begin().await?;
        self.objects.put(&blob_key(&digest), PutPayload::from_bytes(bytes)).await?;
        tx.insert_blob(repository, &digest, size, clock::now_ms()).await?;
        tx.commit().await?;
        Ok(digest)
    }

    /// Puts a blob of `from`, or of any repository, into `repository` too; false where it is not there.
    pub(crate) async fn mount(&self, repository: &str, from: Option<&str>, digest: &Digest) -> Result<bool> {
        let size = match from {
            Some(from) => self.store.repository_blob_size(from, digest).await?,
            None => self.store.blob_size(digest).await?,
        };
        if size.is_none() {
            return Ok(false);
        }
        let mut tx = self.store.begin().await?;
        if !tx.has_blob(digest).await? {
            return Ok(false);
        }
        tx.link_blob(repository, digest).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The length of a blob; in any repository where `repository` is absent.
    pub(crate) async fn blob_size(&self, repository: Option<&str>, digest: &Digest) -> Result<u64> {
        let size = match repository {
            Some(repository) => self.store.repository_blob_size(repository, digest).await?,
            None => self.store.blob_size(digest).await?,
        };
        size.ok_or_else(|| RegistryError::BlobUnknown(digest.clone()))
    }

    /// The bytes of a blob, or `range` of them.
    pub(crate) async fn blob(&self, digest: &Digest, range: Option<GetRange>) -> Result<BlobStream> {
        let options = GetOptions { range, ..GetOptions::default() };
        let got = self.objects.get_opts(&blob_key(digest), options).await?;
        Ok(BlobStream { size: got.meta.size, range: got.range.clone(), stream: got.into_stream().boxed() })
    }

    /// The bytes of a small blob, at most `limit`.
    pub(crate) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Bytes> {
        let got = self.objects.get(&blob_key(digest)).await?;
        if got.meta.size > limit {
            return Err(RegistryError::TooLarge { limit });
        }
        Ok(got.bytes().await?)
    }

    /// Takes a manifest: stores it, signs it where the key is here, then lists it. `by` is absent for the hub itself.
    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
        by: Option<&Operator>,
    ) -> Result<(Digest, Manifest)> {
        let digest = Digest::of(&bytes);
        if let Reference::Digest(wanted) = reference
            && *wanted != digest
        {
            return Err(RegistryError::DigestMismatch { got: digest, wanted: wanted.to_string() });
        }
        let manifest = Manifest::parse(media_type, &bytes).map_err(RegistryError::ManifestInvalid)?;
        self.ensure_referenced(&manifest).await?;
        let release = self.release_of(&manifest).await?;
        let row = ManifestRow {
            digest: digest.clone(),
            media_type: manifest.media_type.clone(),
            artifact_type: manifest.artifact_type.clone(),
            size: bytes.len() as u64,
            total_size: manifest.referenced().fold(bytes.len() as u64, |sum, d| sum.saturating_add(d.size)),
            subject: manifest.subject.as_ref().map(|d| d.digest.clone()),
            annotations: manifest.annotations.clone(),
            pushed_at: clock::now_ms(),
        };
        let name = match reference {
            Reference::Tag(tag) => format!("{repository}:{tag}"),
            Reference::Digest(_) => repository.to_owned(),
        };
        if self.signer.signs_artifacts() && !self.signer.is_signed(&digest) {
            self.signer.add_artifacts(vec![target_entry(&row, &name)]).await?;
        }
        let mut tx = self.store.begin().await?;
        self.objects.put(&blob_key(&digest), PutPayload::from_bytes(bytes)).await?;
        tx.insert_manifest(repository, &row).await?;
        note_blobs(&mut tx, &digest, &manifest).await?;
        if let Some(release) = &release {
            tx.insert_release(&digest, release).await?;
        }
        let mut before = None;
        if let Reference::Tag(tag) = reference {
            before = tx.set_tag(repository, tag, &digest).await?.map(|d| json!({ "digest": d }));
        }
        if let Some(by) = by {
            let change = by.change("artifact.push", &name, before, Some(json!({ "digest": digest })));
            tx.audit(row.pushed_at, change).await?;
        }
        tx.commit().await?;
        Ok((digest, manifest))
    }

    /// Refuses a manifest that names what is not here, or not so long.
    async fn ensure_referenced(&self, manifest: &Manifest) -> Result<()> {
        for named in manifest.referenced() {
            let size = if manifest.manifests.is_empty() {
                self.store.blob_size(&named.digest).await?
            } else {
                self.store.manifest(&named.digest).await?.map(|row| row.size)
            };
            match size {
                // Such layers are fetched from elsewhere, which nodes never do: no app may use them, but they may be kept.
                None if named.is_foreign() => {}
                None => return Err(RegistryError::ManifestBlobUnknown(named.digest.clone())),
                Some(size) if size != named.size => {
                    let text = format!("{} is {size} bytes long, not {}", named.digest, named.size);
                    return Err(RegistryError::ManifestInvalid(text));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The first blob that `manifest` names and that is not here: a foreign layer.
    pub(crate) async fn missing_blob(&self, manifest: &Manifest) -> Result<Option<Digest>> {
        for blob in &manifest.blobs {
            if self.store.blob_size(&blob.digest).await?.is_none() {
                return Ok(Some(blob.digest.clone()));
            }
        }
        Ok(None)
    }

    /// The row of the manifest that `reference` names.
    pub(crate) async fn find_manifest(&self, repository: &str, reference: &Reference) -> Result<ManifestRow> {
        let unknown = || RegistryError::ManifestUnknown(reference.to_string());
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => self.store.tag(repository, tag).await?.ok_or_else(unknown)?,
        };
        self.store.repository_manifest(repository, &digest).await?.ok_or_else(unknown)
    }

    /// The row of a manifest, in whichever repository.
    pub(crate) async fn find_any_manifest(&self, digest: &Digest) -> Result<ManifestRow> {
        let row = self.store.manifest(digest).await?;
        row.ok_or_else(|| RegistryError::ManifestUnknown(digest.to_string()))
    }

    /// The row of a manifest that nodes accept, in whichever repository.
    pub(crate) async fn find_signed_manifest(&self, digest: &Digest) -> Result<ManifestRow> {
        let row = self.store.manifest(digest).await?.filter(|row| self.signer.is_signed(&row.digest));
        row.ok_or_else(|| RegistryError::ManifestUnknown(format!("{digest} (signed)")))
    }

    /// A manifest's bytes, as they were pushed.
    pub(crate) async fn manifest_bytes(&self, digest: &Digest) -> Result<Bytes> {
        let bytes = self.small_blob(digest, oci::MAX_MANIFEST_BYTES).await?;
        if Digest::of(&bytes) != *digest {
            return Err(RegistryError::Damaged(digest.clone()));
        }
        Ok(bytes)
    }

    /// Takes a tag away, or a manifest with its tags.
    pub(crate) async fn delete_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        by: &Operator,
    ) -> Result<()> {
        if let Reference::Digest(digest) = reference {
            self.refuse_in_use(digest).await?;
        }
        let mut tx = self.store.begin().await?;
        let found = match reference {
            Reference::Tag(tag) => tx.delete_tag(repository, tag).await?,
            Reference::Digest(digest) => tx.delete_manifest(repository, digest, clock::now_ms()).await?,
        };
        if !found {
            return Err(RegistryError::ManifestUnknown(reference.to_string()));
        }
        let subject = format!("{repository} {reference}");
        tx.audit(clock::now_ms(), by.change("artifact.delete", &subject, None, None)).await?;
        Ok(tx.commit().await?)
    }

    async fn refuse_in_use(&self, digest: &Digest) -> Result<()> {
        for (app, versions) in self.store.app_versions().await? {
            if versions.iter().any(|version| version.manifests().any(|used| used == digest)) {
                return Err(RegistryError::Denied(format!(
                    "app {app} uses {digest}; remove the app first (`cairn app rm {app}`)"
                )));
            }
        }
        if let Some(node) = self.store.node_of_release(digest).await? {
            return Err(RegistryError::Denied(format!(
                "node {node} shall run {digest}; set another release first, or none (`cairn os unset --node {node}`)"
            )));
        }
        Ok(())
    }

    /// Takes a blob out of a repository.
    pub(crate) async fn delete_blob(&self, repository: &str, digest: &Digest) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let found = tx.unlink_blob(repository, digest, clock::now_ms()).await?;
        tx.commit().await?;
        if found { Ok(()) } else { Err(RegistryError::BlobUnknown(digest.clone())) }
    }

    /// Signs every manifest that is listed but no target: what a crash, or a key that came back, leaves.
    pub(crate) async fn sign_listed(&self) -> Result<usize> {
        if !self.signer.signs_artifacts() {
            return Ok(0);
        }
        let entries = self.unsigned_entries().await?;
        let count = entries.len();
        if count > 0 {
            self.signer.add_artifacts(entries).await?;
        }
        Ok(count)
    }

    /// Every manifest that is no target yet.
    pub(crate) async fn unsigned_entries(&self) -> Result<Vec<TargetEntry>> {
        let manifests = self.store.manifests().await?;
        Ok(manifests
            .iter()
            .filter(|(row, _)| !self.signer.is_signed(&row.digest))
            .map(|(row, names)| target_entry(row, names.first().map_or("", String::as_str)))
            .collect())
    }
}

/// Writes down what `manifest` names, all of which is still here: what nobody named may have been given back since it
/// was looked for.
async fn note_blobs(tx: &mut Tx, digest: &Digest, manifest: &Manifest) -> Result<()> {
    for blob in &manifest.blobs {
        if !blob.is_foreign() && !tx.has_blob(&blob.digest).await? {
            return Err(RegistryError::ManifestBlobUnknown(blob.digest.clone()));
        }
        tx.insert_manifest_blob(digest, &blob.digest).await?;
    }
    Ok(())
}

fn target_entry(row: &ManifestRow, name: &str) -> TargetEntry {
    let entry = TargetEntry::new(row.digest.clone(), row.size).media_type(&row.media_type);
    if name.is_empty() { entry } else { entry.name(name) }
}
