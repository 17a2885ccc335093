//! Pushing through `/v2` (OCI Distribution Spec 1.1): what the hub has already is not sent again, manifests go last.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cairn_model::Digest;
use futures_util::{Stream, stream};
use reqwest::{Method, StatusCode, header};
use tokio::io::AsyncReadExt as _;
use url::Url;

use super::{ANSWER_TIMEOUT, Client, error};
use crate::{failure::Failure, reference::Reference, render::text, screen::Progress};

/// How often the progress line is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How much of a file is in memory at a time.
const CHUNK: usize = 256 << 10;

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
                self.upload(&to.repository, blob, &title, &mut progress).await?;
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

    async fn upload(
        &self,
        repository: &str,
        blob: Blob,
        title: &str,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let start = self.v2(repository, &["blobs", "uploads", ""])?;
        let request = self.request(Method::POST, start.clone()).timeout(ANSWER_TIMEOUT);
        let response = self.answer(request.header(header::CONTENT_LENGTH, 0)).await?;
        let mut location = self.location(&start, response.headers().get(header::LOCATION))?;
        location.query_pairs_mut().append_pair("digest", blob.digest.as_str());

        let sent = Arc::new(AtomicU64::new(0));
        let size = blob.size;
        let body = match blob.source {
            Source::Memory(bytes) => reqwest::Body::from(bytes),
            Source::File(path) => reqwest::Body::wrap_stream(read_file(path, Arc::clone(&sent)).await?),
        };
        let request = self
            .request(Method::PUT, location)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(body);
        let upload = self.answer(request);
        tokio::pin!(upload);
        let mut tick = tokio::time::interval(TICK);
        loop {
            // Cancel-safe: the upload is polled on by reference, and a tick that is lost is a line less.
            tokio::select! {
                answer = &mut upload => return answer.map(|_| ()),
                _ = tick.tick() => {
                    let done = sent.load(Ordering::Relaxed);
                    progress.line(&format!("{title} {} of {}", text::size(done), text::size(size)));
                }
            }
        }
    }

    /// Where to upload to. The token goes to no other server than the hub.
    fn location(&self, start: &Url, header: Option<&header::HeaderValue>) -> Result<Url, Failure> {
        let wrong = || Failure::failed(format!("{} did not say where to upload to", self.hub()));
        let text = header.and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
        let url = start.join(text).map_err(|_| wrong())?;
        if url.origin() != start.origin() {
            return Err(Failure::refused(format!("{} wants the upload to go to another server", self.hub())));
        }
        Ok(url)
    }

    fn v2(&self, repository: &str, rest: &[&str]) -> Result<Url, Failure> {
        let segments: Vec<&str> =
            ["v2"].into_iter().chain(repository.split('/')).chain(rest.iter().copied()).collect();
        self.url(&segments)
    }
}

async fn read_file(
    path: PathBuf,
    sent: Arc<AtomicU64>,
) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + 'static, Failure> {
    let file = tokio::fs::File::open(&path)
        .await
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(stream::try_unfold((file, sent), |(mut file, sent)| async move {
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk).await?;
        if length == 0 {
            return Ok(None);
        }
        chunk.truncate(length);
        sent.fetch_add(length as u64, Ordering::Relaxed);
        Ok(Some((Bytes::from(chunk), (file, sent))))
    }))
}
