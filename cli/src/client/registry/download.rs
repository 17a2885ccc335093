//! Blobs out of the hub, from any place in them: what came before a broken connection is not sent again.

use bytes::Bytes;
use cairn_model::Digest;
use reqwest::{Method, Response, StatusCode, header};
use tokio::time::timeout;
use url::Url;

use super::ANY_REPOSITORY;
use crate::{
    client::{ANSWER_TIMEOUT, Client, STALL_TIMEOUT, error},
    failure::{Failure, Kind},
};

/// A blob that is on its way.
pub(crate) struct Download {
    response: Response,
    /// Where in the blob it begins.
    pub(crate) offset: u64,
    hub: Url,
}

impl Download {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match timeout(STALL_TIMEOUT, self.response.chunk()).await {
            Ok(piece) => piece.map_err(|error| error::of_transport(&error, &self.hub)),
            Err(_) => Err(Failure::timeout(format!("the hub at {} stopped sending", self.hub))
                .cure("run this again: it goes on from there")),
        }
    }
}

impl Client {
    /// Begins to fetch a blob from byte `from` on. Its bytes are not checked here.
    pub(crate) async fn download(
        &self,
        repository: &str,
        digest: &Digest,
        from: u64,
    ) -> Result<Download, Failure> {
        let mut last = Failure::not_found(format!("{} does not have {digest}", self.hub()));
        for repository in [repository, ANY_REPOSITORY] {
            let url = self.v2(repository, &["blobs", digest.as_str()])?;
            let mut request = self.request(Method::GET, url);
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let answered = timeout(ANSWER_TIMEOUT, self.answer(request)).await.unwrap_or_else(|_| {
                Err(Failure::timeout(format!("the hub at {} did not answer in time", self.hub())))
            });
            match answered {
                Ok(response) => {
                    let offset = if begins_at(&response, from) { from } else { 0 };
                    return Ok(Download { response, offset, hub: self.hub().clone() });
                }
                Err(failure) if failure.kind == Kind::NotFound => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }
}

/// Whether the answer is the part that was asked for; a server may send all of it instead.
fn begins_at(response: &Response, from: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.trim().strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
    response.status() == StatusCode::PARTIAL_CONTENT && start == Some(from)
}
