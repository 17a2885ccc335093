//! `/tuf`: both repositories' metadata, and what is desired of each node.

use axum::{
    extract::{Path, State},
    http::header,
    response::IntoResponse,
};
use cairn_model::NodeId;

use super::{answer::Checked, auth::Reader};
use crate::{
    error::{Error, Kind, Result},
    service::SharedHub,
};

fn json(bytes: Vec<u8>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], bytes)
}

pub(super) async fn artifacts(
    State(hub): State<SharedHub>,
    Reader(_): Reader,
    Checked(Path(file)): Checked<Path<String>>,
) -> Result<impl IntoResponse> {
    Ok(json(hub.signer.artifacts_file(file).await?))
}

pub(super) async fn director(
    State(hub): State<SharedHub>,
    Reader(caller): Reader,
    Checked(Path((node, file))): Checked<Path<(String, String)>>,
) -> Result<impl IntoResponse> {
    let node: NodeId = node
        .parse()
        .map_err(|e: cairn_model::IdError| Error::new(Kind::NotFound, format!("{e}; see `cairn node ls`")))?;
    caller.ensure_may_see(&node)?;
    Ok(json(hub.signer.director_file(node, file).await?))
}
