//! `/node/v1`: what nodes ask of their hub.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use cairn_model::enroll::{EnrollState, ReportsRequest, ReportsResponse, WaitResponse};
use serde::Deserialize;

use super::{
    answer::{Body, Checked, Raw},
    auth::{Enrolled, Member, Origin},
};
use crate::{
    error::{Error, Kind, Result},
    service::SharedHub,
};

/// How long a long poll is held: under the minute after which proxies lose patience.
const WAIT: Duration = Duration::from_secs(50);

pub(super) async fn enroll(
    State(hub): State<SharedHub>,
    Origin(from): Origin,
    Raw(body): Raw,
) -> Result<Response> {
    let jws = std::str::from_utf8(&body)
        .map_err(|_| Error::new(Kind::Malformed, "the enrolment request is not a compact JWS; send one"))?;
    let grant = hub.enroll(jws.trim(), &from).await?;
    let status = match grant.state {
        EnrollState::Approved => StatusCode::OK,
        EnrollState::Pending => StatusCode::ACCEPTED,
    };
    Ok((status, Json(grant)).into_response())
}

pub(super) async fn enrollment(State(hub): State<SharedHub>, Enrolled(node): Enrolled) -> Result<Response> {
    Ok(Json(hub.grant(&node).await?).into_response())
}

#[derive(Deserialize)]
pub(super) struct WaitQuery {
    #[serde(default)]
    generation: u64,
}

/// Answers as soon as there is a generation above that of the query. A node that waits for approval may wait here too:
/// its first generation is the approval.
pub(super) async fn wait(
    State(hub): State<SharedHub>,
    Enrolled(node): Enrolled,
    Checked(Query(query)): Checked<Query<WaitQuery>>,
) -> Result<Response> {
    let deadline = tokio::time::Instant::now() + WAIT;
    // Subscribed before the first look: what comes in between is not missed.
    let mut news = hub.fleet.subscribe(&node.id);
    loop {
        let generation = hub.store.published_generation(&node.id).await?;
        if generation > query.generation {
            return Ok(Json(WaitResponse { generation }).into_response());
        }
        tokio::select! {
            // All are cancel-safe: the generation is looked up again each time.
            changed = news.changed() => {
                if changed.is_err() {
                    return Ok(StatusCode::NO_CONTENT.into_response());
                }
            }
            () = tokio::time::sleep_until(deadline) => return Ok(StatusCode::NO_CONTENT.into_response()),
            () = hub.shutdown.cancelled() => return Ok(StatusCode::NO_CONTENT.into_response()),
        }
    }
}

pub(super) async fn reports(
    State(hub): State<SharedHub>,
    Member(node): Member,
    Body(request): Body<ReportsRequest>,
) -> Result<Json<ReportsResponse>> {
    Ok(Json(hub.take_reports(&node, &request).await?))
}
