//! Manifests, tags, and what is attached to a manifest.

use axum::{
    Json,
    body::Body,
    http::{HeaderName, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use cairn_model::{Digest, oci};
use serde_json::{Value, json};

use super::{Ask, Fault, Result, manifest_body, text};
use crate::{
    registry::{Reference, RegistryError},
    service::SharedHub,
    store::ManifestRow,
};

/// The header that says what digest the content has.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Most tags in one answer.
const MAX_TAGS: u32 = 1000;

pub(super) async fn get(ask: &Ask<'_>, reference: &Reference, parts: &Parts) -> Result<Response> {
    let row = ask.hub.registry.find_manifest(ask.repository, reference).await?;
    send(ask.hub, &row, parts).await
}

/// A manifest as it was pushed.
pub(super) async fn send(hub: &SharedHub, row: &ManifestRow, parts: &Parts) -> Result<Response> {
    let headers = [
        (header::CONTENT_TYPE, row.media_type.clone()),
        (header::ETAG, format!("\"{}\"", row.digest)),
        (CONTENT_DIGEST, row.digest.to_string()),
        (header::CONTENT_LENGTH, row.size.to_string()),
    ];
    if parts.method == Method::HEAD {
        return Ok(headers.into_response());
    }
    let bytes = hub.registry.manifest_bytes(&row.digest).await?;
    Ok((headers, bytes).into_response())
}

pub(super) async fn put(ask: &Ask<'_>, reference: &Reference, body: Body) -> Result<Response> {
    let media_type = text(ask.headers, header::CONTENT_TYPE).unwrap_or_default().to_owned();
    let bytes = manifest_body(body).await?;
    let put =
        ask.hub.registry.put_manifest(ask.repository, reference, &media_type, bytes, Some(ask.operator));
    let (digest, manifest) = put.await?;
    let location = format!("/v2/{}/manifests/{digest}", ask.repository);
    let headers = [(header::LOCATION, location), (CONTENT_DIGEST, digest.to_string())];
    let mut response = (StatusCode::CREATED, headers).into_response();
    if let Some(subject) = manifest.subject
        && let Ok(value) = subject.digest.as_str().try_into()
    {
        response.headers_mut().insert("oci-subject", value);
    }
    Ok(response)
}

pub(super) async fn delete(ask: &Ask<'_>, reference: &Reference) -> Result<Response> {
    ask.hub.registry.delete_manifest(ask.repository, reference, ask.operator).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

pub(super) async fn tags(ask: &Ask<'_>) -> Result<Response> {
    let limit = match ask.query.get("n").map(|n| n.parse::<u32>()) {
        None => MAX_TAGS,
        Some(Ok(n)) => n.min(MAX_TAGS),
        Some(Err(_)) => return Err(Fault::malformed("n is not a number")),
    };
    let last = ask.query.get("last").map_or("", String::as_str);
    // One more than asked for tells whether there are more.
    let mut names = ask.hub.store.tags(ask.repository, last, limit + 1).await.map_err(RegistryError::from)?;
    if names.is_empty()
        && !ask.hub.store.repository_exists(ask.repository).await.map_err(RegistryError::from)?
    {
        return Err(RegistryError::NameUnknown(ask.repository.to_owned()).into());
    }
    let more = names.len() > limit as usize;
    names.truncate(limit as usize);
    let next = names
        .last()
        .filter(|_| more)
        .map(|last| format!("</v2/{}/tags/list?n={limit}&last={last}>; rel=\"next\"", ask.repository));
    let mut response = Json(json!({"name": ask.repository, "tags": names})).into_response();
    if let Some(value) = next.and_then(|next| next.try_into().ok()) {
        response.headers_mut().insert(header::LINK, value);
    }
    Ok(response)
}

pub(super) async fn referrers(ask: &Ask<'_>, subject: &Digest) -> Result<Response> {
    let rows = ask.hub.store.referrers(ask.repository, subject).await.map_err(RegistryError::from)?;
    let filter = ask.query.get("artifactType");
    let manifests: Vec<Value> = rows
        .iter()
        .filter(|row| filter.is_none_or(|wanted| *wanted == row.artifact_type))
        .map(descriptor)
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": oci::MEDIA_TYPE_INDEX, "manifests": manifests});
    let mut response = ([(header::CONTENT_TYPE, oci::MEDIA_TYPE_INDEX)], index.to_string()).into_response();
    if filter.is_some() {
        response
            .headers_mut()
            .insert("oci-filters-applied", header::HeaderValue::from_static("artifactType"));
    }
    Ok(response)
}

fn descriptor(row: &ManifestRow) -> Value {
    let mut descriptor = json!({
        "mediaType": row.media_type,
        "digest": row.digest,
        "size": row.size,
        "artifactType": row.artifact_type,
    });
    if !row.annotations.is_empty() {
        descriptor["annotations"] = json!(row.annotations);
    }
    descriptor
}
