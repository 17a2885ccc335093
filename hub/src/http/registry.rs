//! `/v2`: OCI Distribution 1.1 over [`crate::registry`]. Repository names hold slashes, so that paths are read by hand.

use std::{collections::HashMap, time::Duration};

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use cairn_model::{Digest, api::Role, oci};

use super::auth;
use crate::{
    registry::{ANY_REPOSITORY, Reference, RegistryError, is_repository},
    service::{Caller, Operator, SharedHub},
};

mod blobs;
mod fault;
mod manifests;
mod uploads;

use fault::Fault;

type Result<T> = std::result::Result<T, Fault>;
type QueryMap = HashMap<String, String>;

/// A manifest of the largest size over a slow line.
const MANIFEST_TIME: Duration = Duration::from_secs(120);

/// What a path below `/v2/` names.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Uploads,
    Upload(String),
    Blob(Digest),
    Manifest(Reference),
    Tags,
    Referrers(Digest),
}

/// `GET /v2/`: whether the credential is good.
pub(super) async fn ping(State(hub): State<SharedHub>, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    caller(&hub, &parts).await?;
    Ok(([("docker-distribution-api-version", "registry/2.0")], StatusCode::OK).into_response())
}

/// Everything else below `/v2/`.
pub(super) async fn dispatch(
    State(hub): State<SharedHub>,
    Path(path): Path<String>,
    Query(query): Query<QueryMap>,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let caller = caller(&hub, &parts).await?;
    let (repository, target) = parse_path(&path)?;
    let reading = matches!(parts.method, Method::GET | Method::HEAD);
    if repository == ANY_REPOSITORY {
        return any_repository(&hub, &caller, &target, &parts).await;
    }
    let Caller::Operator(operator) = caller else {
        return Err(Fault::denied(
            "nodes read under the name _ only: /v2/_/manifests/DIGEST and /v2/_/blobs/DIGEST",
        ));
    };
    let looks_only = reading && !matches!(target, Target::Upload(_) | Target::Uploads);
    auth::ensure_role(&operator, if looks_only { Role::Viewer } else { Role::Operator })?;
    if !is_repository(&repository) {
        return Err(RegistryError::NameInvalid(repository.chars().take(80).collect()).into());
    }
    let ask = Ask {
        hub: &hub,
        repository: &repository,
        operator: &operator,
        query: &query,
        headers: &parts.headers,
    };
    match (target, parts.method.as_str()) {
        (Target::Uploads, "POST") => uploads::start(&ask, body).await,
        (Target::Upload(id), "GET") => uploads::status(&ask, &id),
        (Target::Upload(id), "PATCH") => uploads::patch(&ask, &id, body).await,
        (Target::Upload(id), "PUT") => uploads::finish(&ask, &id, body).await,
        (Target::Upload(id), "DELETE") => uploads::cancel(&ask, &id).await,
        (Target::Blob(digest), "GET" | "HEAD") => blobs::get(&hub, Some(&repository), &digest, &parts).await,
        (Target::Blob(digest), "DELETE") => blobs::delete(&ask, &digest).await,
        (Target::Manifest(reference), "GET" | "HEAD") => manifests::get(&ask, &reference, &parts).await,
        (Target::Manifest(reference), "PUT") => manifests::put(&ask, &reference, body).await,
        (Target::Manifest(reference), "DELETE") => manifests::delete(&ask, &reference).await,
        (Target::Tags, "GET") => manifests::tags(&ask).await,
        (Target::Referrers(digest), "GET") => manifests::referrers(&ask, &digest).await,
        _ => Err(Fault::unsupported()),
    }
}

/// One request of an operator's client.
struct Ask<'a> {
    hub: &'a SharedHub,
    repository: &'a str,
    operator: &'a Operator,
    query: &'a QueryMap,
    headers: &'a HeaderMap,
}

async fn caller(hub: &SharedHub, parts: &Parts) -> Result<Caller> {
    let token = auth::credential(&parts.headers).ok_or_else(Fault::challenge)?;
    Ok(hub.caller(&token, auth::origin(parts)).await?)
}

/// By digest, whatever the repository. A node reads what it needs for what is desired of it, and nothing else: an app's
/// document may hold secrets, a release or an image somebody's know-how. Operators read everything.
async fn any_repository(
    hub: &SharedHub,
    caller: &Caller,
    target: &Target,
    parts: &Parts,
) -> Result<Response> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Fault::unsupported());
    }
    match target {
        Target::Manifest(Reference::Digest(digest)) => {
            let row = match caller {
                Caller::Operator(_) => hub.registry.find_any_manifest(digest).await?,
                Caller::Node(node) if hub.needs(node, digest).await? => {
                    hub.registry.find_signed_manifest(digest).await?
                }
                Caller::Node(_) => {
                    return Err(RegistryError::ManifestUnknown(format!("{digest} (for this node)")).into());
                }
            };
            manifests::send(hub, &row, parts).await
        }
        Target::Blob(digest) => {
            if let Caller::Node(node) = caller
                && !hub.needs_blob(node, digest).await?
            {
                return Err(RegistryError::BlobNotNeeded(digest.clone()).into());
            }
            blobs::get(hub, None, digest, parts).await
        }
        Target::Manifest(Reference::Tag(_))
        | Target::Uploads
        | Target::Upload(_)
        | Target::Tags
        | Target::Referrers(_) => {
            Err(Fault::denied("under the name _ there are manifests and blobs by digest only"))
        }
    }
}

fn parse_path(path: &str) -> Result<(String, Target)> {
    let unknown = || Fault::no_such_path();
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Ok((repository.to_owned(), Target::Tags));
    }
    if let Some(repository) =
        path.strip_suffix("/blobs/uploads").or_else(|| path.strip_suffix("/blobs/uploads/"))
    {
        return Ok((repository.to_owned(), Target::Uploads));
    }
    let (rest, last) = path.rsplit_once('/').ok_or_else(unknown)?;
    let digest = || last.parse().map_err(|_| RegistryError::DigestInvalid(last.chars().take(80).collect()));
    if let Some(repository) = rest.strip_suffix("/blobs/uploads") {
        return Ok((repository.to_owned(), Target::Upload(last.to_owned())));
    }
    if let Some(repository) = rest.strip_suffix("/blobs") {
        return Ok((repository.to_owned(), Target::Blob(digest()?)));
    }
    if let Some(repository) = rest.strip_suffix("/manifests") {
        let cut = || last.chars().take(80).collect();
        let reference = Reference::parse(last).ok_or_else(|| match last.contains(':') {
            true => RegistryError::DigestInvalid(cut()),
            false => RegistryError::ManifestUnknown(cut()),
        })?;
        return Ok((repository.to_owned(), Target::Manifest(reference)));
    }
    if let Some(repository) = rest.strip_suffix("/referrers") {
        return Ok((repository.to_owned(), Target::Referrers(digest()?)));
    }
    Err(unknown())
}

/// A body of at most a manifest's length.
async fn manifest_body(body: Body) -> Result<bytes::Bytes> {
    let limit = oci::MAX_MANIFEST_BYTES;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    match tokio::time::timeout(MANIFEST_TIME, axum::body::to_bytes(body, most)).await {
        Ok(read) => read.map_err(|_| RegistryError::TooLarge { limit }.into()),
        Err(_) => Err(RegistryError::Stalled(MANIFEST_TIME).into()),
    }
}

/// A header as text.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = Digest::of(b"x");
        let check = |path: &str, expected: Target| {
            let (repository, target) = parse_path(path).unwrap_or_else(|_| panic!("{path}"));
            assert_eq!((repository.as_str(), target), ("a/b", expected), "{path}");
        };
        check("a/b/tags/list", Target::Tags);
        check("a/b/blobs/uploads/", Target::Uploads);
        check("a/b/blobs/uploads/0f", Target::Upload("0f".to_owned()));
        check(&format!("a/b/blobs/{digest}"), Target::Blob(digest.clone()));
        check("a/b/manifests/v1", Target::Manifest(Reference::Tag("v1".to_owned())));
        check(&format!("a/b/referrers/{digest}"), Target::Referrers(digest));
        for bad in [
            "",
            "a",
            "a/b",
            "a/blobs/x",
            "a/blobs/sha256:0",
            "a/manifests/",
            "a/manifests/-x",
            "manifests/v1",
        ] {
            assert!(parse_path(bad).is_err(), "{bad}");
        }
    }
}
