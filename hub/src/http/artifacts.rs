//! `/api/v1/artifacts` and `/api/v1/audit`.

use axum::{
    Json,
    extract::{Query, State},
    http::header,
    response::IntoResponse,
};
use cairn_model::api::{Artifact, AuditRow};
use serde::Deserialize;

use super::{
    answer::{Checked, Raw},
    auth::By,
};
use crate::{error::Result, service::SharedHub};

/// Most rows in one answer.
const MAX_ROWS: u32 = 10_000;

pub(super) async fn list(State(hub): State<SharedHub>) -> Result<Json<Vec<Artifact>>> {
    Ok(Json(hub.artifacts().await?))
}

pub(super) async fn unsigned(State(hub): State<SharedHub>) -> Result<impl IntoResponse> {
    Ok(([(header::CONTENT_TYPE, "application/json")], hub.unsigned_targets().await?))
}

pub(super) async fn signed(
    State(hub): State<SharedHub>,
    By(who): By,
    Raw(metadata): Raw,
) -> Result<Json<Vec<Artifact>>> {
    Ok(Json(hub.accept_signed_targets(&who, metadata.to_vec()).await?))
}

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    limit: Option<u32>,
}

pub(super) async fn audit(
    State(hub): State<SharedHub>,
    Checked(Query(query)): Checked<Query<AuditQuery>>,
) -> Result<Json<Vec<AuditRow>>> {
    Ok(Json(hub.audit_rows(query.limit.unwrap_or(100).min(MAX_ROWS)).await?))
}
