//! Pushing through `/v2` (OCI Distribution Spec 1.1): what the hub has already is not sent again, manifests go last. And
//! reading what must be the bytes of a digest.

pub(crate) mod download;
mod upload;

use std::path::PathBuf;

use bytes::Bytes;
use cairn_model::Digest;
use reqwest::{Method, StatusCode, header};
use url::Url;

use self::upload::Shown;
use super::{ANSWER_TIMEOUT, Client, error};
use crate::{
    failure::{Failure, Kind},
    reference::Reference,
    render::text,
    screen::Progress,
};

/// The name under which a hub hands out what it has by digest, whichever repository it is in.
const ANY_REPOSITORY: &str = "_";

/// What one push sends.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) blobs: Vec<Blob>,
    /// Children before parents: the last one gets the tag.
    pub(crate) manifests: Vec<Manifest>,
}

/// Bytes by digest.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) source: Source,
}

/// Where a blob's bytes are.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Memory(Bytes),
}

/// A manifest or an index.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    /// Pushes `content` and tags its last manifest.
    pub(crate) async fn push(&self, to: &Reference, content: Content) -> Result<(), Failure> {
        let mut progress = Progress::new();
        let count = content.blobs.len();
        for (n, blob) in content.blobs.into_iter().enumerate() {
            let title = format!("[{}/{count}] {}", n + 1, text::short_digest(&blob.digest));
            progress.line(&title);
            if !self.has_blob(&to.repository, &blob.digest).await? {
                self.upload(&to.repository, blob, &mut Shown { title, progress: &mut progress }).await?;
            }
        }
        progress.line("manifest");
        let last = content.manifests.len().saturating_sub(1);
        for (n, manifest) in content.manifests.into_iter().enumerate() {
            let name = if n == last { to.tag.clone() } else { manifest.digest.to_string() };
            let url = self.v2(&to.repository, &["manifests", &name])?;
            let request = self
                .request(Method::PUT, url)
                .timeout(ANSWER_TIMEOUT)
                .header(header::CONTENT_TYPE, &manifest.media_type)
                .body(manifest.bytes);
            self.answer(request).await?;
        }
        Ok(())
    }

    async fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool, Failure> {
        let url = self.v2(repository, &["blobs", digest.as_str()])?;
        let request = self.request(Method::HEAD, url).timeout(ANSWER_TIMEOUT);
        let response = request.send().await.map_err(|e| error::of_transport(&e, self.hub()))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            // The answer to HEAD has no body that would say why: the upload, which is asked next, does.
            _ => Ok(false),
        }
    }

    /// The bytes of a manifest, whoever sends them: at most `max`, and they have this digest. Asked for in `repository`,
    /// then under the name that all repositories have.
    pub(crate) async fn manifest(
        &self,
        repository: Option<&str>,
        digest: &Digest,
        max: u64,
    ) -> Result<Bytes, Failure> {
        self.by_digest(repository, "manifests", digest, max).await
    }

    /// The bytes of a small blob, likewise.
    pub(crate) async fn blob(
        &self,
        repository: Option<&str>,
        digest: &Digest,
        max: u64,
    ) -> Result<Bytes, Failure> {
        self.by_digest(repository, "blobs", digest, max).await
    }

    async fn by_digest(
        &self,
        repository: Option<&str>,
        kind: &str,
        digest: &Digest,
        max: u64,
    ) -> Result<Bytes, Failure> {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let mut last = Failure::not_found(format!("{} does not have {digest}", self.hub()));
        for repository in repository.into_iter().chain([ANY_REPOSITORY]) {
            let url = self.v2(repository, &[kind, digest.as_str()])?;
            let asked = self.answer(self.request(Method::GET, url).timeout(ANSWER_TIMEOUT)).await;
            match asked {
                Ok(response) => {
                    let bytes = self.body(response, max).await?;
                    if Digest::of(&bytes) == *digest {
                        return Ok(bytes);
                    }
                    return Err(Failure::refused(format!(
                        "{} sent other bytes than those of {digest}",
                        self.hub()
                    )));
                }
                Err(failure) if failure.kind == Kind::NotFound => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }

    fn v2(&self, repository: &str, rest: &[&str]) -> Result<Url, Failure> {
        let segments: Vec<&str> =
            ["v2"].into_iter().chain(repository.split('/')).chain(rest.iter().copied()).collect();
        self.url(&segments)
    }
}
