//! The hub over HTTP: one pinned CA, deadlines, bounded answers, and every error turned into a cause with a cure.

mod error;
pub(crate) mod registry;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use cairn_model::error::chain;
use cairn_trust::fetch::HttpFetch;
use reqwest::{
    Method, RequestBuilder, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

use crate::{
    connection::{Connection, is_loopback},
    failure::Failure,
};

/// How long until a connection stands. Hubs are reached over radio links too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long one question may take as a whole; a deploy signs metadata for every node.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long data that was sent may stay unacknowledged; for uploads, whose length in time nobody knows.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer that is read. 100,000 nodes are some 60 MB.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// A hub that answers.
pub(crate) struct Client {
    http: reqwest::Client,
    connection: Connection,
}

impl Client {
    pub(crate) fn new(connection: Connection) -> Result<Self, Failure> {
        let build_failure =
            |error: reqwest::Error| Failure::failed(format!("cannot set up TLS: {}", chain(&error)));
        let certificates = match &connection.ca {
            Some(pem) => reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(build_failure)?,
            None => Vec::new(),
        };
        let mut builder = reqwest::Client::builder()
            .tls_certs_only(certificates)
            .tls_version_min(reqwest::tls::Version::TLS_1_3)
            // A redirect would carry the question, and on the same host the token, where nobody asked for it.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(STALL_TIMEOUT)
            .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&connection.hub) {
            builder = builder.no_proxy();
        }
        Ok(Self { http: builder.build().map_err(build_failure)?, connection })
    }

    /// `GET /api/v1/<path>`.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let mut url = self.api(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.json(self.request(Method::GET, url)).await
    }

    /// A question with a body, whose answer has one too.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let url = self.api(path)?;
        self.json(self.request(method, url).json(body)).await
    }

    /// `POST` of raw JSON bytes, as they were signed.
    pub(crate) async fn post_raw<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let url = self.api(path)?;
        let request = self.request(Method::POST, url).header("content-type", "application/json").body(body);
        self.json(request).await
    }

    /// `POST` without a body.
    pub(crate) async fn post_empty<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        let url = self.api(path)?;
        self.json(self.request(Method::POST, url)).await
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &[&str]) -> Result<(), Failure> {
        let url = self.api(path)?;
        self.answer(self.request(Method::DELETE, url).timeout(ANSWER_TIMEOUT)).await.map(|_| ())
    }

    /// The exact bytes of a file below the hub's root, at most `max` of them.
    pub(crate) async fn raw(&self, path: &[&str], max: usize) -> Result<Bytes, Failure> {
        let url = self.url(path)?;
        let response = self.answer(self.request(Method::GET, url).timeout(ANSWER_TIMEOUT)).await?;
        self.body(response, max).await
    }

    /// The hub's artifacts repository, for a verifying client.
    pub(crate) fn artifacts_repository(&self) -> Result<HttpFetch, Failure> {
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.connection.token.expose()))
            .map_err(|_| Failure::usage("the access token is no text for a header"))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        let url = self.url(&["tuf", "artifacts"])?;
        Ok(HttpFetch::new(self.http.clone(), url, Arc::new(move || headers.clone())))
    }

    /// Where to keep what is trusted of that repository.
    pub(crate) fn trust_folder(&self) -> Option<&Path> {
        self.connection.trust_folder.as_deref()
    }

    fn api(&self, path: &[&str]) -> Result<Url, Failure> {
        // These three would make another path of it.
        if let Some(segment) = path.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
            return Err(Failure::not_found(format!("there is nothing of the name {segment:?}")));
        }
        self.url(&[&["api", "v1"], path].concat())
    }

    /// A URL whose parts are single path segments, whatever is in them.
    fn url(&self, segments: &[&str]) -> Result<Url, Failure> {
        let mut url = self.connection.hub.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::usage(format!("the hub's URL {} has no path", self.connection.hub)))?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url).bearer_auth(self.connection.token.expose())
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.answer(request.timeout(ANSWER_TIMEOUT)).await?;
        let body = self.body(response, MAX_ANSWER_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| {
            Failure::failed(format!("the answer of {} is not what this version expects: {error}", self.hub()))
                .cure("use a cairn of the hub's version")
        })
    }

    /// An answer that is a success.
    async fn answer(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| error::of_transport(&error, self.hub()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response, 1 << 20).await.unwrap_or_default();
        Err(error::of_answer(status, &body, self.hub(), &self.connection.token_place))
    }

    async fn body(&self, mut response: Response, max: usize) -> Result<Bytes, Failure> {
        let mut body = BytesMut::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| error::of_transport(&error, self.hub()))?
        {
            if body.len() + chunk.len() > max {
                return Err(Failure::failed(format!(
                    "the answer of {} is larger than {max} bytes",
                    self.hub()
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    pub(crate) fn hub(&self) -> &Url {
        &self.connection.hub
    }
}
