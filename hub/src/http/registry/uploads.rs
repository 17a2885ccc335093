//! Blobs in: in one piece, in chunks, or from another repository.

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use cairn_model::Digest;

use super::{Ask, Fault, Result, manifests::CONTENT_DIGEST, text};
use crate::registry::{RegistryError, UploadStatus, is_repository};

/// `POST`: starts an upload, or does all of it at once.
pub(super) async fn start(ask: &Ask<'_>, body: Body) -> Result<Response> {
    let from = ask.query.get("from").map(String::as_str);
    if let Some(digest) = ask.query.get("mount").and_then(|mount| mount.parse::<Digest>().ok())
        && from.is_none_or(is_repository)
        && ask.hub.registry.mount(ask.repository, from, &digest).await?
    {
        return Ok(created(ask, &digest));
    }
    let upload = ask.hub.registry.uploads.start(ask.repository).await?;
    let Some(wanted) = ask.query.get("digest") else {
        let status = upload.status();
        return Ok(accepted(ask, &status, StatusCode::ACCEPTED));
    };
    // Nobody knows this upload's id: it cannot be gone on with.
    let mut upload = upload.in_one_request();
    if let Err(error) = upload.receive(body.into_data_stream()).await {
        let _ = upload.cancel().await;
        return Err(error.into());
    }
    let digest = ask.hub.registry.finish_upload(ask.repository, upload, wanted).await?;
    Ok(created(ask, &digest))
}

/// `PATCH`: one chunk.
pub(super) async fn patch(ask: &Ask<'_>, id: &str, body: Body) -> Result<Response> {
    let mut upload = ask.hub.registry.uploads.take(ask.repository, id)?;
    if let Some(range) = text(ask.headers, header::CONTENT_RANGE) {
        upload.ensure_at(chunk_start(range)?)?;
    }
    upload.receive(body.into_data_stream()).await?;
    let status = upload.status();
    Ok(accepted(ask, &status, StatusCode::ACCEPTED))
}

/// `PUT`: the last chunk, if any, and the digest of the whole.
pub(super) async fn finish(ask: &Ask<'_>, id: &str, body: Body) -> Result<Response> {
    let wanted = ask.query.get("digest").ok_or_else(|| RegistryError::DigestInvalid(String::new()))?;
    let mut upload = ask.hub.registry.uploads.take(ask.repository, id)?;
    if let Some(range) = text(ask.headers, header::CONTENT_RANGE) {
        upload.ensure_at(chunk_start(range)?)?;
    }
    upload.receive(body.into_data_stream()).await?;
    let digest = ask.hub.registry.finish_upload(ask.repository, upload, wanted).await?;
    Ok(created(ask, &digest))
}

/// `GET`: how far it is.
pub(super) fn status(ask: &Ask<'_>, id: &str) -> Result<Response> {
    let status = ask.hub.registry.uploads.status(ask.repository, id)?;
    Ok(accepted(ask, &status, StatusCode::NO_CONTENT))
}

/// `DELETE`: never mind.
pub(super) async fn cancel(ask: &Ask<'_>, id: &str) -> Result<Response> {
    ask.hub.registry.uploads.take(ask.repository, id)?.cancel().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn accepted(ask: &Ask<'_>, upload: &UploadStatus, status: StatusCode) -> Response {
    let headers = [
        (header::LOCATION, format!("/v2/{}/blobs/uploads/{}", ask.repository, upload.id)),
        (header::RANGE, format!("0-{}", upload.size.saturating_sub(1))),
        (header::HeaderName::from_static("docker-upload-uuid"), upload.id.clone()),
    ];
    (status, headers).into_response()
}

fn created(ask: &Ask<'_>, digest: &Digest) -> Response {
    let location = (header::LOCATION, format!("/v2/{}/blobs/{digest}", ask.repository));
    (StatusCode::CREATED, [location, (CONTENT_DIGEST, digest.to_string())]).into_response()
}

/// `start-end`, as the distribution spec writes it; `bytes start-end/size` is what some clients send.
fn chunk_start(header: &str) -> Result<u64> {
    let spec = header.trim().trim_start_matches("bytes").trim();
    let start = spec.split_once('-').and_then(|(start, _)| start.parse().ok());
    start.ok_or_else(|| Fault::malformed("Content-Range is not START-END"))
}
