//! What goes wrong, as clients see it: each kind has one status and one stable code, chosen in one exhaustive match.

use std::fmt;

use axum::http::StatusCode;
use cairn_model::api::{ApiError, ApiErrorBody};

/// Every way in which a request can end badly. A new kind must choose its status and code in [`Kind::client`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request cannot be read.
    Malformed,
    /// No credential, or one that is unknown or expired.
    Unauthenticated,
    /// A good credential that does not allow this.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The method is not known for this path.
    MethodNotAllowed,
    /// It clashes with what is there.
    Conflict,
    /// A body or a document over its bound.
    TooLarge,
    /// Too much at once.
    Busy,
    /// It took longer than it may.
    Timeout,
    /// An enrolment token that the hub does not know.
    TokenUnknown,
    /// An enrolment token past its end.
    TokenExpired,
    /// A one-time enrolment token that was used.
    TokenUsed,
    /// The node waits for approval.
    NodePending,
    /// The node was removed by an operator.
    NodeRemoved,
    /// A Compose file that is not taken as it is.
    ComposeRefused,
    /// An OS that some node cannot have, or that none was named for.
    OsRefused,
    /// A time for metadata to hold that no node can have, or that was not accepted as it has to be.
    FreshnessRefused,
    /// An image that the hub does not have.
    ImageUnknown,
    /// A report after one that is missing.
    ReportGap,
    /// A report or enrolment request that does not verify.
    EnvelopeRefused,
    /// Signed metadata that does not verify.
    MetadataRefused,
    /// A key that this needs is not on the hub.
    KeyOffline,
    /// What is desired of a node could not be signed; that of the others is.
    NotSigned,
    /// The disk is full.
    DiskFull,
    /// The hub is shutting down.
    Draining,
    /// A fault of the hub's own; the cause goes to the log, not to the client.
    Internal,
}

impl Kind {
    /// Status and stable code.
    pub(crate) fn client(self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed => (StatusCode::BAD_REQUEST, "malformed"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout"),
            Self::TokenUnknown => (StatusCode::FORBIDDEN, "token-unknown"),
            Self::TokenExpired => (StatusCode::FORBIDDEN, "token-expired"),
            Self::TokenUsed => (StatusCode::FORBIDDEN, "token-used"),
            Self::NodePending => (StatusCode::FORBIDDEN, "node-pending"),
            Self::NodeRemoved => (StatusCode::FORBIDDEN, "node-removed"),
            Self::ComposeRefused => (StatusCode::UNPROCESSABLE_ENTITY, "compose-refused"),
            Self::OsRefused => (StatusCode::UNPROCESSABLE_ENTITY, "os-refused"),
            Self::FreshnessRefused => (StatusCode::UNPROCESSABLE_ENTITY, "freshness-refused"),
            Self::ImageUnknown => (StatusCode::UNPROCESSABLE_ENTITY, "image-unknown"),
            Self::ReportGap => (StatusCode::CONFLICT, "report-gap"),
            Self::EnvelopeRefused => (StatusCode::FORBIDDEN, "envelope-refused"),
            Self::MetadataRefused => (StatusCode::UNPROCESSABLE_ENTITY, "metadata-refused"),
            Self::KeyOffline => (StatusCode::CONFLICT, "key-offline"),
            Self::NotSigned => (StatusCode::INTERNAL_SERVER_ERROR, "not-signed"),
            Self::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk-full"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }
}

/// A request that ended badly.
#[derive(Debug)]
pub(crate) struct Error {
    /// Which way.
    pub(crate) kind: Kind,
    /// For the client: cause and cure.
    pub(crate) message: String,
    /// Where there may be more than one: one line each.
    pub(crate) problems: Vec<String>,
    source: Option<anyhow::Error>,
}

/// What most of the hub returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that the client may read in full.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), problems: Vec::new(), source: None }
    }

    /// Whether it is the hub's own fault, or its machine's: what was asked may be right.
    pub(crate) fn is_own_fault(&self) -> bool {
        self.kind.client().0.is_server_error()
    }

    /// Says that `what` does not exist, and where to look.
    pub(crate) fn not_found(what: impl fmt::Display, cure: &str) -> Self {
        Self::new(Kind::NotFound, format!("{what} does not exist; {cure}"))
    }

    /// With one line for each problem of a document.
    pub(crate) fn with_problems(mut self, problems: Vec<String>) -> Self {
        self.problems = problems;
        self
    }

    /// A fault of the hub's own, `tried` in a few words.
    pub(crate) fn internal(tried: &'static str, source: impl Into<anyhow::Error>) -> Self {
        let source = source.into().context(tried);
        if source.chain().any(is_disk_full) {
            return Self {
                kind: Kind::DiskFull,
                message: format!(
                    "{tried}: the hub's disk is full; free space in its data folder and try again"
                ),
                problems: Vec::new(),
                source: Some(source),
            };
        }
        Self {
            kind: Kind::Internal,
            message: format!("{tried}; the hub's log has the cause"),
            problems: Vec::new(),
            source: Some(source),
        }
    }

    /// The body to answer with.
    pub(crate) fn body(&self) -> ApiError {
        let (_, code) = self.kind.client();
        ApiError {
            error: ApiErrorBody {
                code: code.to_owned(),
                message: self.message.clone(),
                problems: self.problems.clone(),
            },
        }
    }

    /// Writes the hub's own faults to the log, with their whole chain, once.
    pub(crate) fn log(&self) {
        if let Some(source) = &self.source {
            tracing::error!(code = self.kind.client().1, "{source:#}");
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{source:#}"),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

fn is_disk_full(cause: &(dyn std::error::Error + 'static)) -> bool {
    let by_io = cause.downcast_ref::<std::io::Error>().is_some_and(|e| {
        e.kind() == std::io::ErrorKind::StorageFull || e.kind() == std::io::ErrorKind::QuotaExceeded
    });
    // SQLite says it in words only (SQLITE_FULL).
    by_io || cause.to_string().contains("database or disk is full")
}

impl From<crate::store::StoreError> for Error {
    fn from(source: crate::store::StoreError) -> Self {
        Self::internal("the hub could not use its database", source)
    }
}

impl From<crate::sign::SignerError> for Error {
    fn from(source: crate::sign::SignerError) -> Self {
        match source {
            crate::sign::SignerError::KeyOffline => Self::new(
                Kind::KeyOffline,
                "the artifacts targets key is not on this hub; sign with `cairn artifact sign`",
            ),
            crate::sign::SignerError::Refused(message) => Self::new(Kind::MetadataRefused, message),
            crate::sign::SignerError::Full(message) => Self::new(Kind::TooLarge, message),
            crate::sign::SignerError::NoSuchFile => Self::new(
                Kind::NotFound,
                "no such metadata; the node has no generation yet, or the name is not TUF's",
            ),
            other => Self::internal("the hub could not sign", other),
        }
    }
}

impl From<crate::registry::RegistryError> for Error {
    fn from(source: crate::registry::RegistryError) -> Self {
        match source {
            crate::registry::RegistryError::Signer(full @ crate::sign::SignerError::Full(_)) => full.into(),
            other => Self::internal("the hub could not use its registry", other),
        }
    }
}
