//! `/api/v1/apps` and `/api/v1/logs`.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use cairn_model::{
    AppName,
    api::{AppStatus, AppSummary, Deploy, LogsRequest, LogsResult, LogsStarted},
};

use super::{
    answer::{Body, Checked},
    auth::By,
};
use crate::{
    error::{Error, Kind, Result},
    service::SharedHub,
};

fn app_name(text: &str) -> Result<AppName> {
    text.parse()
        .map_err(|e: cairn_model::IdError| Error::new(Kind::Malformed, format!("{e}; choose another name")))
}

pub(super) async fn list(State(hub): State<SharedHub>) -> Result<Json<Vec<AppSummary>>> {
    Ok(Json(hub.list_apps().await?))
}

pub(super) async fn deploy(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(app)): Checked<Path<String>>,
    Body(deploy): Body<Deploy>,
) -> Result<Json<AppSummary>> {
    Ok(Json(hub.deploy(&who, app_name(&app)?, &deploy).await?))
}

pub(super) async fn show(
    State(hub): State<SharedHub>,
    Checked(Path(app)): Checked<Path<String>>,
) -> Result<Json<AppStatus>> {
    Ok(Json(hub.app_status(&app_name(&app)?).await?))
}

pub(super) async fn remove(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(app)): Checked<Path<String>>,
) -> Result<StatusCode> {
    hub.remove_app(&who, &app_name(&app)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn request_logs(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(app)): Checked<Path<String>>,
    Body(request): Body<LogsRequest>,
) -> Result<Json<LogsStarted>> {
    Ok(Json(hub.request_logs(&who, &app_name(&app)?, &request).await?))
}

pub(super) async fn logs(
    State(hub): State<SharedHub>,
    Checked(Path(id)): Checked<Path<String>>,
) -> Result<Json<LogsResult>> {
    Ok(Json(hub.logs(&id).await?))
}
