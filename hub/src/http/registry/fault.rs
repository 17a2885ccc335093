//! Errors of `/v2` as OCI clients read them.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    error::{Error, Kind},
    registry::RegistryError,
    sign::SignerError,
};

/// An error with its OCI code.
#[derive(Debug)]
pub(in crate::http) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
    range: Option<String>,
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), range: None }
    }

    pub(super) fn challenge() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED",
            "no credential; log in with any user name and an access token",
        )
    }

    pub(super) fn denied(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", message)
    }

    pub(super) fn unsupported() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this path does not know that method")
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            "the path names neither blobs, manifests, tags nor referrers",
        )
    }

    pub(super) fn range(message: &str, size: u64) -> Self {
        let mut fault = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "UNSUPPORTED", message);
        fault.range = Some(format!("bytes */{size}"));
        fault
    }

    pub(super) fn malformed(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", message)
    }
}

/// Status and code of each way in which the registry refuses.
fn client(error: &RegistryError) -> (StatusCode, &'static str) {
    match error {
        RegistryError::NameInvalid(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        RegistryError::NameUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        RegistryError::BlobUnknown(_) | RegistryError::BlobNotNeeded(_) => {
            (StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
        }
        RegistryError::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        RegistryError::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        RegistryError::DigestMismatch { .. } | RegistryError::DigestInvalid(_) => {
            (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
        }
        RegistryError::TooLarge { .. } | RegistryError::Signer(SignerError::Full(_)) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID")
        }
        RegistryError::TooManyUploads(_) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        RegistryError::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        RegistryError::ManifestUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        RegistryError::ManifestBlobUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
        RegistryError::Denied(_) => (StatusCode::FORBIDDEN, "DENIED"),
        RegistryError::Body(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        RegistryError::Stalled(_) => (StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID"),
        RegistryError::Damaged(_)
        | RegistryError::Objects(_)
        | RegistryError::Store(_)
        | RegistryError::Signer(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        let (status, code) = client(&error);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            return Error::internal("the registry failed", error).into();
        }
        Self::new(status, code, error.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        error.log();
        let (status, _) = error.kind.client();
        let code = match error.kind {
            Kind::Unauthenticated => "UNAUTHORIZED",
            Kind::Forbidden | Kind::NodePending | Kind::NodeRemoved => "DENIED",
            Kind::Busy => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        Self::new(status, code, error.message)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({"errors": [{"code": self.code, "message": self.message}]});
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"cairn\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(range) = self.range.and_then(|range| HeaderValue::try_from(range).ok()) {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        response
    }
}
