//! `/api/v1/tokens` and `/api/v1/access-tokens`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use cairn_model::api::{AccessToken, CreatedAccessToken, CreatedToken, NewAccessToken, NewToken, Token};

use super::{
    answer::{Body, Checked},
    auth::By,
};
use crate::{error::Result, service::SharedHub};

pub(super) async fn list(State(hub): State<SharedHub>) -> Result<Json<Vec<Token>>> {
    Ok(Json(hub.enroll_tokens().await?))
}

pub(super) async fn create(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(new): Body<NewToken>,
) -> Result<Json<CreatedToken>> {
    Ok(Json(hub.create_enroll_token(&who, new).await?))
}

pub(super) async fn remove(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<StatusCode> {
    hub.delete_enroll_token(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn list_access(State(hub): State<SharedHub>) -> Result<Json<Vec<AccessToken>>> {
    Ok(Json(hub.access_tokens().await?))
}

pub(super) async fn create_access(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(new): Body<NewAccessToken>,
) -> Result<Json<CreatedAccessToken>> {
    Ok(Json(hub.create_access_token(&who, new).await?))
}

pub(super) async fn remove_access(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<StatusCode> {
    hub.delete_access_token(&who, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
