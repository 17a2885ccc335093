//! How bodies come in and errors go out, the same for every route.

use std::time::{Duration, Instant};

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::{
    error::{Error, Kind},
    service::SharedHub,
};

/// No request of the API takes longer, signing for a whole fleet included.
const MOST_TIME: Duration = Duration::from_secs(120);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        self.log();
        let (status, _) = self.kind.client();
        let mut response = (status, Json(self.body())).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"cairn\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// A JSON body that is what it should be.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<SharedHub> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, hub: &SharedHub) -> Result<Self, Error> {
        let Raw(bytes) = Raw::from_request(request, hub).await?;
        // serde_json bounds the depth; the body's length bounds the rest.
        serde_json::from_slice(&bytes).map(Self).map_err(|e| {
            Error::new(
                Kind::Malformed,
                format!("the body is not what this request takes: {e}; see /api/v1/openapi.json"),
            )
        })
    }
}

/// A body as it came, within its bound.
pub(super) struct Raw(pub(super) Bytes);

impl FromRequest<SharedHub> for Raw {
    type Rejection = Error;

    async fn from_request(request: Request, hub: &SharedHub) -> Result<Self, Error> {
        Bytes::from_request(request, hub).await.map(Self).map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Error::new(Kind::TooLarge, "the body is too large; send less at once")
            }
            _ => Error::new(Kind::Malformed, "the body could not be read; send it again"),
        })
    }
}

/// A part of the request's line, refused in the hub's own words where it does not fit.
pub(super) struct Checked<E>(pub(super) E);

impl<E> FromRequestParts<SharedHub> for Checked<E>
where
    E: FromRequestParts<SharedHub>,
    E::Rejection: std::fmt::Display,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &SharedHub) -> Result<Self, Error> {
        E::from_request_parts(parts, hub).await.map(Self).map_err(|e| {
            let cause = e.to_string().to_lowercase();
            Error::new(Kind::Malformed, format!("{cause}; see /api/v1/openapi.json"))
        })
    }
}

/// Cuts what takes too long.
pub(super) async fn within_time(request: Request, next: Next) -> Result<Response, Error> {
    tokio::time::timeout(MOST_TIME, next.run(request)).await.map_err(|_| {
        Error::new(
            Kind::Timeout,
            format!("the request took more than {} seconds; try again", MOST_TIME.as_secs()),
        )
    })
}

/// Counts and traces every request.
pub(super) async fn count(State(hub): State<SharedHub>, request: Request, next: Next) -> Response {
    let (method, path, start) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let response = next.run(request).await;
    let time = start.elapsed();
    hub.metrics.count_request(response.status().as_u16(), time);
    tracing::debug!(%method, path, status = response.status().as_u16(), ms = time.as_millis(), "request");
    response
}

pub(super) async fn no_such_path() -> Error {
    Error::new(Kind::NotFound, "there is nothing at this path; see /api/v1/openapi.json")
}

pub(super) async fn no_such_method() -> Error {
    Error::new(Kind::MethodNotAllowed, "this path does not know that method; see /api/v1/openapi.json")
}
