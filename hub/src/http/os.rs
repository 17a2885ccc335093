//! `/api/v1/os`.

use axum::{
    Json,
    extract::{Query, State},
};
use cairn_model::api::{OsNode, OsNodes, OsRelease, OsSet};

use super::{
    answer::{Body, Checked},
    auth::By,
    nodes::ListQuery,
};
use crate::{error::Result, selector::Selector, service::SharedHub};

pub(super) async fn releases(State(hub): State<SharedHub>) -> Result<Json<Vec<OsRelease>>> {
    Ok(Json(hub.os_releases().await?))
}

pub(super) async fn nodes(
    State(hub): State<SharedHub>,
    Checked(Query(query)): Checked<Query<ListQuery>>,
) -> Result<Json<Vec<OsNode>>> {
    Ok(Json(hub.os_nodes(&Selector::parse(&query.selector)?).await?))
}

pub(super) async fn set(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(set): Body<OsSet>,
) -> Result<Json<Vec<OsNode>>> {
    Ok(Json(hub.set_os(&who, &set).await?))
}

pub(super) async fn unset(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(nodes): Body<OsNodes>,
) -> Result<Json<Vec<OsNode>>> {
    Ok(Json(hub.unset_os(&who, &nodes).await?))
}

pub(super) async fn apply(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(nodes): Body<OsNodes>,
) -> Result<Json<Vec<OsNode>>> {
    Ok(Json(hub.apply_os(&who, &nodes).await?))
}
