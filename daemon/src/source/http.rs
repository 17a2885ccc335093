//! The hub over HTTPS: its CA is pinned, every request carries a fresh token by the node's key, every answer is bounded.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_model::{
    Digest,
    api::ApiError,
    enroll::{EnrollGrant, ReportsRequest, ReportsResponse, WaitResponse},
    error::chain,
};
use cairn_trust::{
    envelope,
    fetch::{Fetch, FetchError, Headers, HttpFetch, Pace, collect_paced},
    keys::KeyPair,
};
use futures_util::{StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_RANGE, DATE, HeaderMap, HeaderValue, RANGE},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    time_provider::TimeProvider,
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{BlobStream, Source, SourceError, judged_by_the_clock, plain};

/// Longest time until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time between two pieces of an answer; the long poll has its own.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// The hub answers a long poll after 50 s at the latest; beyond this the connection is dead.
const WAIT_TIMEOUT: Duration = Duration::from_secs(65);
/// Largest answer of the node API: an enrolment grant with two TUF roots.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Most of the hub's words that go into a message.
const MAX_MESSAGE_CHARS: usize = 400;

/// The time that certificates are judged by: the clock, but never before the OS was built, so that a node whose battery
/// is flat can still reach its hub.
#[derive(Debug, Clone, Copy)]
pub struct Clocked {
    /// When the OS was built.
    pub floor: Option<Timestamp>,
}

impl Clocked {
    /// Now, as far as can be known.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        self.floor.map_or(now, |floor| floor.max(now))
    }
}

impl TimeProvider for Clocked {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.now().as_second()).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// How to know the hub.
#[derive(Debug, Clone)]
pub struct HubTls {
    /// The hub's CA, PEM: nothing else is believed.
    pub ca_pem: String,
    /// What time it is.
    pub clock: Clocked,
}

impl HubTls {
    fn client(&self) -> Result<Client, SourceError> {
        let bad =
            |cause: String| SourceError::Unreachable { cause: format!("the hub's CA is unusable: {cause}") };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|e| bad(e.to_string()))?;
            roots.add(certificate).map_err(|e| bad(e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_details(provider, Arc::new(self.clock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client::builder()
            .tls_backend_preconfigured(config)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .http1_only()
            .pool_max_idle_per_host(2)
            .pool_idle_timeout(Duration::from_secs(90))
            .user_agent(concat!("cairnd/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| bad(cause(&e)))
    }
}

/// The hub, for one node.
#[derive(Clone)]
pub struct HubClient {
    client: Client,
    url: Url,
    headers: Headers,
    director: HttpFetch,
    artifacts: HttpFetch,
    time: HubTime,
    patience: Duration,
}

/// The hub's time, learned from a refusal: a token that is minted by it is good even where this node's clock is years
/// off. It changes nothing about trust: what is signed is judged by `cairn_trust` with the node's own idea of time.
///
/// Kept as the hub's time at the start of this client, so that it goes on by the monotonic clock: a node whose clock is
/// set right in between is believed at once.
#[derive(Debug, Clone)]
struct HubTime {
    begun: Instant,
    /// Unix milliseconds; 0 for not learned.
    at_begin_ms: Arc<AtomicI64>,
}

/// Smaller differences are within the hub's own tolerance.
const LEAST_SKEW: SignedDuration = SignedDuration::from_secs(20);

impl HubTime {
    fn new() -> Self {
        Self { begun: Instant::now(), at_begin_ms: Arc::default() }
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn learn(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(hub) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return };
        self.at_begin_ms.store(hub.timestamp().as_millisecond() - self.elapsed_ms(), Ordering::Relaxed);
    }

    /// How far the hub's clock is ahead of `now`, where it is known and matters.
    fn skew(&self, now: Timestamp) -> Option<SignedDuration> {
        let at_begin_ms = self.at_begin_ms.load(Ordering::Relaxed);
        let hub = Timestamp::from_millisecond(at_begin_ms.checked_add(self.elapsed_ms())?).ok()?;
        let skew = hub.duration_since(now);
        (at_begin_ms != 0 && skew.abs() >= LEAST_SKEW).then_some(skew)
    }

    /// The hub's time, where it is known to differ from `now`.
    fn correct(&self, now: Timestamp) -> Timestamp {
        self.skew(now).and_then(|skew| now.checked_add(skew).ok()).unwrap_or(now)
    }
}

impl fmt::Debug for HubClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubClient").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl HubClient {
    /// A client for `url` that signs with `key`. Connects to nothing yet.
    pub fn build(url: Url, tls: &HubTls, key: Arc<KeyPair>) -> Result<Self, SourceError> {
        let client = tls.client()?;
        let node = key.public().node_id();
        let clock = tls.clock;
        let time = HubTime::new();
        let learned = time.clone();
        let headers: Headers = Arc::new(move || authorization(&key, learned.correct(clock.now())));
        let at = |path: &str| {
            let mut at = url.clone();
            at.set_path(path);
            at
        };
        let director = HttpFetch::new(client.clone(), at(&format!("/tuf/director/{node}/")), headers.clone());
        let artifacts = HttpFetch::new(client.clone(), at("/tuf/artifacts/"), headers.clone());
        Ok(Self { client, url, headers, director, artifacts, time, patience: PIECE_TIMEOUT })
    }

    /// With another idea of how long the hub may take to begin an answer.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Posts a signed enrolment request.
    pub async fn enroll(&self, jws: String) -> Result<EnrollGrant, SourceError> {
        let request = self.client.post(self.at("/node/v1/enroll")).body(jws);
        self.json("enrolment", request).await
    }

    /// Asks where the node stands.
    pub async fn enrollment(&self) -> Result<EnrollGrant, SourceError> {
        self.json("enrolment state", self.get("/node/v1/enrollment")).await
    }

    /// Waits until the hub has a newer generation than `generation`; nothing where it has none after its time.
    pub async fn wait(&self, generation: u64) -> Result<Option<WaitResponse>, SourceError> {
        let what = "wait";
        let mut url = self.at("/node/v1/wait");
        url.set_query(Some(&format!("generation={generation}")));
        let request = self.client.get(url).headers((self.headers)());
        let response = send(what, request, Instant::now() + WAIT_TIMEOUT).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.parse(what, response).await.map(Some)
    }

    /// Posts reports; the answer says what the hub has on disk.
    pub async fn reports(&self, request: &ReportsRequest) -> Result<ReportsResponse, SourceError> {
        let post = self.client.post(self.at("/node/v1/reports")).headers((self.headers)()).json(request);
        self.json("reports", post).await
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(path);
        url
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.at(path)).headers((self.headers)())
    }

    async fn json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<T, SourceError> {
        self.parse(what, send(what, request, Instant::now() + self.patience).await?).await
    }

    async fn parse<T: DeserializeOwned>(
        &self,
        what: &'static str,
        response: Response,
    ) -> Result<T, SourceError> {
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let bytes = body(what, response).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| SourceError::Garbage { what, cause: clean(&e.to_string()) })
    }

    async fn refused(&self, response: Response) -> SourceError {
        if response.status() == StatusCode::UNAUTHORIZED {
            self.time.learn(response.headers());
        }
        refused(response).await
    }

    /// How many seconds the hub's clock is ahead of this node's, where that made the hub refuse a token.
    pub fn skew_seconds(&self) -> i64 {
        self.time.skew(Timestamp::now()).map_or(0, |skew| skew.as_secs())
    }

    async fn small(&self, path: &str, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        let begun = Instant::now();
        let response = send("document", self.get(path), begun + self.patience).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        let bytes =
            collect_paced(digest.as_str(), max_bytes, Pace::default(), begun, response.bytes_stream())
                .await?;
        if Digest::of(&bytes) != *digest {
            return Err(SourceError::Corrupt { digest: digest.clone() });
        }
        Ok(bytes)
    }
}

fn authorization(key: &KeyPair, now: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A key that cannot sign leaves the header out; the hub's refusal then says what is missing.
    if let Ok(jwt) = envelope::mint_node_token(key, now)
        && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {jwt}"))
    {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

async fn send(
    what: &'static str,
    request: RequestBuilder,
    deadline: Instant,
) -> Result<Response, SourceError> {
    match timeout_at(deadline, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(e)) => Err(unreachable(&e.without_url())),
        Err(_) => Err(SourceError::Unreachable { cause: format!("no answer to {what} in time") }),
    }
}

fn unreachable(error: &reqwest::Error) -> SourceError {
    match judged_by_the_clock(error) {
        Some(cause) => SourceError::Clock { cause },
        None => SourceError::Unreachable { cause: cause(error) },
    }
}

async fn body(what: &'static str, response: Response) -> Result<Bytes, SourceError> {
    let stream = response.bytes_stream();
    Ok(collect_paced(what, MAX_ANSWER_BYTES, Pace::default(), Instant::now(), stream).await?)
}

async fn refused(response: Response) -> SourceError {
    let status = response.status().as_u16();
    let parsed = match body("error", response).await {
        Ok(bytes) => serde_json::from_slice::<ApiError>(&bytes).ok(),
        Err(_) => None,
    };
    match parsed {
        Some(ApiError { error }) => {
            SourceError::Refused { status, code: clean(&error.code), message: clean(&error.message) }
        }
        None => SourceError::Refused {
            status,
            code: String::new(),
            message: "no reason given; check that the address is that of a Cairn hub".to_owned(),
        },
    }
}

/// The hub's words, fit for a journal line.
fn clean(text: &str) -> String {
    plain(text, MAX_MESSAGE_CHARS)
}

/// An error with all its causes, fit for a journal line: reqwest alone says only "error sending request".
fn cause(error: &dyn Error) -> String {
    clean(&chain(error))
}

#[async_trait]
impl Source for HubClient {
    fn director(&self) -> &dyn Fetch {
        &self.director
    }

    fn artifacts(&self) -> &dyn Fetch {
        &self.artifacts
    }

    async fn manifest(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.small(&format!("/v2/_/manifests/{digest}"), digest, max_bytes).await
    }

    async fn document(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.small(&format!("/v2/_/blobs/{digest}"), digest, max_bytes).await
    }

    async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        self.stream(digest, offset, (offset > 0).then(|| format!("bytes={offset}-"))).await
    }

    async fn range(&self, digest: &Digest, offset: u64, length: u64) -> Result<BlobStream, SourceError> {
        let Some(last) = offset.checked_add(length).and_then(|end| end.checked_sub(1)).filter(|_| length > 0)
        else {
            return Ok(BlobStream { offset, bytes: futures_util::stream::empty().boxed() });
        };
        self.stream(digest, offset, Some(format!("bytes={offset}-{last}"))).await
    }
}

impl HubClient {
    async fn stream(
        &self,
        digest: &Digest,
        offset: u64,
        range: Option<String>,
    ) -> Result<BlobStream, SourceError> {
        let mut request = self.get(&format!("/v2/_/blobs/{digest}"));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let response = send("blob", request, Instant::now() + self.patience).await?;
        let offset = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => begin_of(response.headers(), offset)?,
            _ => return Err(self.refused(response).await),
        };
        let broken = |e: reqwest::Error| SourceError::Unreachable { cause: cause(&e.without_url()) };
        let path = digest.to_string();
        let stream = response.bytes_stream().map_err(broken).boxed();
        Ok(BlobStream { offset, bytes: paced(stream, path) })
    }
}

/// Where a partial answer begins: at or before what was asked for (RFC 9110 lets a server send more).
fn begin_of(headers: &HeaderMap, asked: u64) -> Result<u64, SourceError> {
    let Some(range) = headers.get(CONTENT_RANGE) else { return Ok(asked) };
    let begin = range.to_str().ok().and_then(|text| {
        let (begin, _) = text.strip_prefix("bytes ")?.split_once('-')?;
        begin.parse::<u64>().ok()
    });
    begin.filter(|begin| *begin <= asked).ok_or_else(|| SourceError::Garbage {
        what: "blob",
        cause: format!("bytes from {asked} on were asked for, others came"),
    })
}

/// Ends a stream that trickles: each piece within its time, and an average above the least rate.
fn paced(
    stream: futures_util::stream::BoxStream<'static, Result<Bytes, SourceError>>,
    path: String,
) -> futures_util::stream::BoxStream<'static, Result<Bytes, SourceError>> {
    let pace = Pace::default();
    let begun = Instant::now();
    let state = (stream, 0u64, path, false);
    futures_util::stream::unfold(state, move |(mut stream, received, path, done)| async move {
        if done {
            return None;
        }
        let allowed = Duration::from_millis(received.saturating_mul(1000) / u64::from(pace.bytes_per_second));
        let deadline = (begun + pace.start + allowed).min(Instant::now() + PIECE_TIMEOUT);
        match timeout_at(deadline, stream.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => {
                let received = received + piece.len() as u64;
                Some((Ok(piece), (stream, received, path, false)))
            }
            Ok(Some(Err(e))) => Some((Err(e), (stream, received, path, true))),
            Err(_) => {
                let slow = SourceError::Fetch(FetchError::TooSlow { path: path.clone() });
                Some((Err(slow), (stream, received, path, true)))
            }
        }
    })
    .boxed()
}
