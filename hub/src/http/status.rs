//! Whether the hub is well, and what it is like.

use axum::{Json, extract::State, http::header, response::IntoResponse};
use serde_json::Value;

use crate::{
    error::{Error, Kind, Result},
    service::SharedHub,
};

/// The process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The hub can do its work: database and blobs answer, and it is not about to stop.
pub(super) async fn readyz(State(hub): State<SharedHub>) -> Result<&'static str> {
    if hub.shutdown.is_cancelled() {
        return Err(Error::new(Kind::Draining, "the hub is shutting down; try another or wait"));
    }
    hub.store.check().await?;
    hub.registry.check().await.map_err(|e| Error::internal("the blob store does not answer", e))?;
    Ok("ready\n")
}

pub(super) async fn metrics(State(hub): State<SharedHub>) -> Result<impl IntoResponse> {
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], hub.metrics_text().await?))
}

pub(super) async fn openapi() -> Json<Value> {
    Json(super::openapi())
}
