//! `/api/v1/nodes`.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use cairn_model::{
    api::{LabelChange, Node, NodeEvent},
    media::FreshnessSet,
};
use serde::Deserialize;

use super::{
    answer::{Body, Checked},
    auth::By,
};
use crate::{error::Result, selector::Selector, service::SharedHub};

#[derive(Deserialize)]
pub(super) struct ListQuery {
    #[serde(default)]
    pub(super) selector: String,
}

pub(super) async fn list(
    State(hub): State<SharedHub>,
    Checked(Query(query)): Checked<Query<ListQuery>>,
) -> Result<Json<Vec<Node>>> {
    Ok(Json(hub.list_nodes(&Selector::parse(&query.selector)?).await?))
}

pub(super) async fn show(
    State(hub): State<SharedHub>,
    Checked(Path(node)): Checked<Path<String>>,
) -> Result<Json<Node>> {
    Ok(Json(hub.show_node(&node).await?))
}

pub(super) async fn approve(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(node)): Checked<Path<String>>,
) -> Result<Json<Node>> {
    Ok(Json(hub.approve_node(&who, &node).await?))
}

pub(super) async fn label(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(node)): Checked<Path<String>>,
    Body(change): Body<LabelChange>,
) -> Result<Json<Node>> {
    Ok(Json(hub.label_node(&who, &node, change).await?))
}

pub(super) async fn freshness(
    State(hub): State<SharedHub>,
    By(who): By,
    Body(set): Body<FreshnessSet>,
) -> Result<Json<Vec<Node>>> {
    Ok(Json(hub.set_freshness(&who, &set).await?))
}

pub(super) async fn remove(
    State(hub): State<SharedHub>,
    By(who): By,
    Checked(Path(node)): Checked<Path<String>>,
) -> Result<StatusCode> {
    hub.remove_node(&who, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn events(
    State(hub): State<SharedHub>,
    Checked(Path(node)): Checked<Path<String>>,
) -> Result<Json<Vec<NodeEvent>>> {
    Ok(Json(hub.node_events(&node).await?))
}
