//! Credentials of requests, and extractors that only let the right one through.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cairn_model::api::Role;

use crate::{
    error::{Error, Kind, Result},
    server::Peer,
    service::{Caller, Operator, SharedHub},
    store::NodeRow,
};

/// Longest credential: a JWT is under 1 KiB.
const MAX_CREDENTIAL: usize = 8 << 10;

/// The token in `Authorization`, by either scheme; the user of Basic is of no interest.
pub(super) fn credential(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok().filter(|v| v.len() <= MAX_CREDENTIAL)?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        return Some(pair.split_once(':')?.1.to_owned());
    }
    None
}

fn required(headers: &HeaderMap) -> Result<String> {
    credential(headers)
        .ok_or_else(|| Error::new(Kind::Unauthenticated, "no credential; send `Authorization: Bearer TOKEN`"))
}

/// The client's address.
pub(super) fn origin(parts: &Parts) -> String {
    parts.extensions.get::<Peer>().map_or_else(|| "unknown".to_owned(), |peer| peer.0.ip().to_string())
}

/// Refuses an operator whose role does not reach `role`.
pub(super) fn ensure_role(operator: &Operator, role: Role) -> Result<()> {
    if operator.role >= role {
        return Ok(());
    }
    let (has, needs) = (format!("{:?}", operator.role).to_lowercase(), format!("{role:?}").to_lowercase());
    let text = format!(
        "token {:?} has role {has}, this needs {needs}; ask an admin for another token",
        operator.name
    );
    Err(Error::new(Kind::Forbidden, text))
}

/// Lets operators through who have `role`, and tells handlers who it is.
pub(super) async fn require(
    State(hub): State<SharedHub>,
    role: Role,
    request: Request,
    next: Next,
) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let token = required(&parts.headers)?;
    let operator = hub.operator(&token, origin(&parts)).await?;
    ensure_role(&operator, role)?;
    parts.extensions.insert(operator);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// The operator that [`require`] let through.
pub(super) struct By(pub(super) Operator);

impl FromRequestParts<SharedHub> for By {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &SharedHub) -> Result<Self> {
        let operator = parts.extensions.get::<Operator>().cloned();
        operator.map(Self).ok_or_else(|| Error::new(Kind::Unauthenticated, "no credential"))
    }
}

/// A node that is a member.
pub(super) struct Member(pub(super) NodeRow);

impl FromRequestParts<SharedHub> for Member {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &SharedHub) -> Result<Self> {
        hub.member(&required(&parts.headers)?).await.map(Self)
    }
}

/// A node that is a member, or waits to be one.
pub(super) struct Enrolled(pub(super) NodeRow);

impl FromRequestParts<SharedHub> for Enrolled {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &SharedHub) -> Result<Self> {
        hub.node_or_pending(&required(&parts.headers)?).await.map(Self)
    }
}

/// An operator or a member.
pub(super) struct Reader(pub(super) Caller);

impl FromRequestParts<SharedHub> for Reader {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, hub: &SharedHub) -> Result<Self> {
        hub.caller(&required(&parts.headers)?, origin(parts)).await.map(Self)
    }
}

/// The client's address alone, for those who have no credential yet.
pub(super) struct Origin(pub(super) String);

impl FromRequestParts<SharedHub> for Origin {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &SharedHub) -> Result<Self> {
        Ok(Self(origin(parts)))
    }
}
