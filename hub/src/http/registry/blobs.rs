//! Blobs out, whole or in part.

use axum::{
    body::Body,
    http::{Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use cairn_model::Digest;
use object_store::GetRange;

use super::{Ask, Fault, Result, text};
use crate::service::SharedHub;

/// What a Range header asks for.
enum Wanted {
    All,
    Part(GetRange),
}

pub(super) async fn get(
    hub: &SharedHub,
    repository: Option<&str>,
    digest: &Digest,
    parts: &Parts,
) -> Result<Response> {
    let size = hub.registry.blob_size(repository, digest).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::ETAG, format!("\"{digest}\"")),
        (super::manifests::CONTENT_DIGEST, digest.to_string()),
    ];
    if parts.method == Method::HEAD {
        return Ok((headers, [(header::CONTENT_LENGTH, size)]).into_response());
    }
    let range = match wanted(text(&parts.headers, header::RANGE), size)? {
        Wanted::All => None,
        Wanted::Part(range) => Some(range),
    };
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let blob = hub.registry.blob(digest, range).await?;
    let length = blob.range.end - blob.range.start;
    let mut response =
        (status, headers, [(header::CONTENT_LENGTH, length)], Body::from_stream(blob.stream)).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{}", blob.range.start, blob.range.end.saturating_sub(1), blob.size);
        if let Ok(value) = text.try_into() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

pub(super) async fn delete(ask: &Ask<'_>, digest: &Digest) -> Result<Response> {
    ask.hub.registry.delete_blob(ask.repository, digest).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Reads a Range header. Several ranges and other units are ignored, as RFC 9110 allows.
fn wanted(header: Option<&str>, size: u64) -> Result<Wanted> {
    let Some(spec) = header.and_then(|h| h.trim().strip_prefix("bytes=")).filter(|spec| !spec.contains(','))
    else {
        return Ok(Wanted::All);
    };
    let outside = || Fault::range("the range lies outside the blob", size);
    let Some((first, last)) = spec.trim().split_once('-') else { return Ok(Wanted::All) };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => GetRange::Bounded(first..last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.trim().is_empty() => GetRange::Bounded(first..size),
        (Err(_), Ok(count)) if first.trim().is_empty() && count > 0 => GetRange::Suffix(count.min(size)),
        _ => return Err(outside()),
    };
    match &range {
        GetRange::Bounded(bounded) if bounded.start >= size => Err(outside()),
        GetRange::Suffix(_) if size == 0 => Err(outside()),
        _ => Ok(Wanted::Part(range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let check = |header: &str, expected: Option<GetRange>| match wanted(Some(header), 10) {
            Ok(Wanted::Part(range)) => assert_eq!(Some(range), expected, "{header}"),
            Ok(Wanted::All) => assert_eq!(None, expected, "{header}"),
            Err(_) => panic!("{header}"),
        };
        check("bytes=0-3", Some(GetRange::Bounded(0..4)));
        check("bytes=4-", Some(GetRange::Bounded(4..10)));
        check("bytes=8-99", Some(GetRange::Bounded(8..10)));
        check("bytes=-3", Some(GetRange::Suffix(3)));
        check("bytes=0-1,3-4", None);
        check("lines=1-2", None);
        for bad in ["bytes=10-", "bytes=5-2", "bytes=-0", "bytes=a-b", "bytes=18446744073709551615-"] {
            assert!(wanted(Some(bad), 10).is_err(), "{bad}");
        }
    }
}
