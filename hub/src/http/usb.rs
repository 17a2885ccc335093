//! `/api/v1/usb`, and the roots that a stick is verified by.

use axum::{Json, extract::State};
use cairn_model::{
    api::{OsNodes, TrustRoots},
    media::{MediaFiles, MediaImport, MediaImported, MediaNodes, MediaPlan},
};

use super::{answer::Body, auth::By};
use crate::{error::Result, service::SharedHub};

pub(super) async fn roots(State(hub): State<SharedHub>) -> Result<Json<TrustRoots>> {
    Ok(Json(hub.trust_roots().await?))
}

pub(super) async fn plan(
    State(hub): State<SharedHub>,
    Body(nodes): Body<OsNodes>,
) -> Result<Json<MediaPlan>> {
    Ok(Json(hub.usb_plan(&nodes).await?))
}

pub(super) async fn metadata(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(nodes): Body<MediaNodes>,
) -> Result<Json<MediaFiles>> {
    Ok(Json(hub.usb_metadata(&who, nodes).await?))
}

pub(super) async fn import(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(import): Body<MediaImport>,
) -> Result<Json<MediaImported>> {
    Ok(Json(hub.usb_import(&who, &import).await?))
}
