//! A repository behind HTTP: a hub or a relay.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::{Client, StatusCode, header::HeaderMap};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{Fetch, FetchError, Pace, collect_paced, is_plain};

/// Makes the headers of one request: where a node's short-lived token is put in.
pub type Headers = Arc<dyn Fn() -> HeaderMap + Send + Sync>;

/// Reads files below one URL.
#[derive(Clone)]
pub struct HttpFetch {
    client: Client,
    base: Url,
    headers: Headers,
    pace: Pace,
}

impl HttpFetch {
    /// Reads below `base` (a missing final slash is added), with `headers` on each request.
    pub fn new(client: Client, mut base: Url, headers: Headers) -> Self {
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        Self { client, base, headers, pace: Pace::default() }
    }

    /// Without headers of its own: a public repository.
    pub fn public(client: Client, base: Url) -> Self {
        Self::new(client, base, Arc::new(HeaderMap::new))
    }

    /// With another idea of what is too slow.
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    fn url(&self, path: &str) -> Result<Url, FetchError> {
        if !is_plain(path) {
            return Err(FetchError::BadPath { path: path.to_owned() });
        }
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        Ok(url)
    }
}

impl fmt::Debug for HttpFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFetch").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn fetch(&self, path: &str, max_len: u64) -> Result<Option<Bytes>, FetchError> {
        let begun = Instant::now();
        let transport = |source: reqwest::Error| FetchError::Transport {
            path: path.to_owned(),
            // The URL is ours and may be long; the path is named already.
            source: Box::new(source.without_url()),
        };
        let request = self.client.get(self.url(path)?).headers((self.headers)()).send();
        let response = timeout_at(begun + self.pace.start, request)
            .await
            .map_err(|_| FetchError::TooSlow { path: path.to_owned() })?
            .map_err(transport)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            status => return Err(FetchError::Status { path: path.to_owned(), status: status.as_u16() }),
        }
        if response.content_length().is_some_and(|length| length > max_len) {
            return Err(FetchError::TooLarge { path: path.to_owned(), limit: max_len });
        }
        collect_paced(path, max_len, self.pace, begun, response.bytes_stream()).await.map(Some)
    }
}
