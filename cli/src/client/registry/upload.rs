//! One blob on its way into the hub. A large one goes in pieces: a connection that breaks costs a part of a piece, for the
//! hub says how much of it arrived, and it is gone on from there.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cairn_model::Digest;
use futures_util::{Stream, stream};
use reqwest::{Method, RequestBuilder, Response, header};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use url::Url;

use super::{Blob, Source};
use crate::{
    client::{ANSWER_TIMEOUT, Client},
    failure::{Failure, Kind},
    render::text,
    screen::Progress,
};

/// How often the progress line is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How much of a file is in memory at a time.
const CHUNK: usize = 256 << 10;
/// A larger blob is sent in pieces of this size.
const PIECE: u64 = 32 << 20;
/// How often in a row a piece may fail. With the pauses between them that is over two minutes: longer than it takes a hub
/// to notice that the connection which held the upload is gone.
const ATTEMPTS: u32 = 10;
/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Where the work is shown.
pub(super) struct Shown<'a> {
    pub(super) title: String,
    pub(super) progress: &'a mut Progress,
}

impl Client {
    pub(super) async fn upload(
        &self,
        repository: &str,
        blob: Blob,
        shown: &mut Shown<'_>,
    ) -> Result<(), Failure> {
        match blob.source {
            Source::Memory(bytes) => self.in_one(repository, &blob.digest, bytes).await,
            Source::File(path) => {
                let client = self;
                let Blob { digest, size, .. } = blob;
                Pieces { client, repository, path, digest, size, place: None, at: 0 }.send(shown).await
            }
        }
    }

    /// A small blob.
    async fn in_one(&self, repository: &str, digest: &Digest, bytes: Bytes) -> Result<(), Failure> {
        let mut place = self.start_upload(repository).await?;
        place.query_pairs_mut().append_pair("digest", digest.as_str());
        let request = self
            .request(Method::PUT, place)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(bytes);
        self.answer(request).await.map(|_| ())
    }

    async fn start_upload(&self, repository: &str) -> Result<Url, Failure> {
        let start = self.v2(repository, &["blobs", "uploads", ""])?;
        let request = self.request(Method::POST, start.clone()).timeout(ANSWER_TIMEOUT);
        let response = self.answer(request.header(header::CONTENT_LENGTH, 0)).await?;
        self.location(&start, &response)?
            .ok_or_else(|| Failure::failed(format!("{} did not say where to upload to", self.hub())))
    }

    /// Where to go on. The token goes to no other server than the hub.
    fn location(&self, from: &Url, response: &Response) -> Result<Option<Url>, Failure> {
        let Some(value) = response.headers().get(header::LOCATION) else { return Ok(None) };
        let url = value.to_str().ok().and_then(|text| from.join(text).ok());
        match url {
            Some(url) if url.origin() == from.origin() => Ok(Some(url)),
            Some(_) => {
                Err(Failure::refused(format!("{} wants the upload to go to another server", self.hub())))
            }
            None => Err(Failure::failed(format!("{} did not say where to upload to", self.hub()))),
        }
    }
}

/// A blob of a file, and how much of it the hub has.
struct Pieces<'a> {
    client: &'a Client,
    repository: &'a str,
    path: PathBuf,
    digest: Digest,
    size: u64,
    /// Where the hub takes it; absent before it was asked.
    place: Option<Url>,
    at: u64,
}

impl Pieces<'_> {
    async fn send(mut self, shown: &mut Shown<'_>) -> Result<(), Failure> {
        let (mut failed, mut pause) = (0, FIRST_PAUSE);
        loop {
            let before = self.at;
            let step = if failed == 0 { Ok(false) } else { self.look_again().await };
            let step = match step {
                Ok(true) => return Ok(()),
                Ok(false) => self.next(shown).await,
                Err(failure) => Err(failure),
            };
            match step {
                Ok(true) => return Ok(()),
                Ok(false) => (failed, pause) = (0, FIRST_PAUSE),
                Err(failure) if failed < ATTEMPTS && may_pass(&failure, failed > 0 || self.at > 0) => {
                    if self.at > before {
                        (failed, pause) = (0, FIRST_PAUSE);
                    }
                    failed += 1;
                    shown.progress.line(&format!("{} broken off; trying again", shown.title));
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends what comes next; true once the hub has all of it.
    async fn next(&mut self, shown: &mut Shown<'_>) -> Result<bool, Failure> {
        let place = match &self.place {
            Some(place) => place.clone(),
            None => self.place.insert(self.client.start_upload(self.repository).await?).clone(),
        };
        let rest = self.size.saturating_sub(self.at);
        // The last piece, or the only one, brings the digest with it.
        if rest <= PIECE {
            let mut url = place;
            url.query_pairs_mut().append_pair("digest", self.digest.as_str());
            self.transfer(Method::PUT, url, rest, shown).await?;
            return Ok(true);
        }
        let response = self.transfer(Method::PATCH, place.clone(), PIECE, shown).await?;
        let expected = self.at + PIECE;
        if received(&response).is_some_and(|at| at != expected) {
            return Err(Failure::failed(format!("{} lost a part of the upload", self.client.hub()))
                .cure("try again: what is there already is not sent again"));
        }
        self.at = expected;
        if let Some(next) = self.client.location(&place, &response)? {
            self.place = Some(next);
        }
        Ok(false)
    }

    /// After a break: how much has arrived? True where it is all there.
    async fn look_again(&mut self) -> Result<bool, Failure> {
        let Some(place) = self.place.clone() else { return Ok(false) };
        let request = self.client.request(Method::GET, place.clone()).timeout(ANSWER_TIMEOUT);
        match self.client.answer(request).await {
            Ok(response) => {
                self.at = received(&response).unwrap_or(0).min(self.size);
                if let Some(next) = self.client.location(&place, &response)? {
                    self.place = Some(next);
                }
                Ok(false)
            }
            // It ended well and the answer was lost, or it is gone: a hub that restarted forgets uploads.
            Err(failure) if failure.kind == Kind::NotFound => {
                if self.client.has_blob(self.repository, &self.digest).await? {
                    return Ok(true);
                }
                (self.place, self.at) = (None, 0);
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn transfer(
        &self,
        method: Method,
        url: Url,
        length: u64,
        shown: &mut Shown<'_>,
    ) -> Result<Response, Failure> {
        let sent = Arc::new(AtomicU64::new(self.at));
        let body = read_file(&self.path, self.at, length, Arc::clone(&sent))
            .await
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", self.path.display())))?;
        let mut request = self
            .client
            .request(method, url)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(body));
        if self.size > PIECE {
            let range = format!("{}-{}", self.at, (self.at + length).saturating_sub(1));
            request = request.header(header::CONTENT_RANGE, range);
        }
        self.watched(request, &sent, shown).await
    }

    /// Waits for the answer and shows how far it is.
    async fn watched(
        &self,
        request: RequestBuilder,
        sent: &AtomicU64,
        shown: &mut Shown<'_>,
    ) -> Result<Response, Failure> {
        let upload = self.client.answer(request);
        tokio::pin!(upload);
        let mut tick = tokio::time::interval(TICK);
        loop {
            // Cancel-safe: the upload is polled on by reference, and a tick that is lost is a line less.
            tokio::select! {
                answer = &mut upload => return answer,
                _ = tick.tick() => {
                    let (done, size) = (text::size(sent.load(Ordering::Relaxed)), text::size(self.size));
                    shown.progress.line(&format!("{} {done} of {size}", shown.title));
                }
            }
        }
    }
}

/// Whether another attempt can mend it. An upload that was `under_way` is not found for a while where the hub believes it
/// to be in the hands of the broken connection, and never again where the hub restarted.
fn may_pass(failure: &Failure, under_way: bool) -> bool {
    match failure.kind {
        Kind::NoConnection | Kind::Timeout => true,
        Kind::NotFound => under_way,
        Kind::Failed | Kind::Usage | Kind::Refused | Kind::Denied => false,
    }
}

/// How many bytes the hub has: `Range: 0-N`, where N is the last of them. One byte and none look the same: none is
/// meant, for pieces are larger than one.
fn received(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::RANGE)?.to_str().ok()?;
    received_of(range)
}

fn received_of(range: &str) -> Option<u64> {
    let last: u64 = range.trim().trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

async fn read_file(
    path: &Path,
    from: u64,
    length: u64,
    sent: Arc<AtomicU64>,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
    let mut file = tokio::fs::File::open(path).await?;
    file.seek(io::SeekFrom::Start(from)).await?;
    Ok(stream::try_unfold((file.take(length), sent), |(mut file, sent)| async move {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_has_is_read_from_a_range() {
        for (range, expected) in [
            ("0-33554431", Some(33_554_432)),
            ("bytes=0-9", Some(10)),
            ("0-0", Some(0)),
            ("5-9", None),
            ("0-", None),
            ("", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(received_of(range), expected, "{range:?}");
        }
    }

    #[test]
    fn only_what_another_attempt_can_mend_is_tried_again() {
        let check = |kind, under_way| may_pass(&Failure::new(kind, ""), under_way);
        assert!(
            check(Kind::NoConnection, false) && check(Kind::Timeout, false) && check(Kind::NotFound, true)
        );
        assert!(!check(Kind::NotFound, false) && !check(Kind::Refused, true) && !check(Kind::Denied, true));
    }
}
