//! What went wrong between us and the hub, in words that say what to do next.

use std::{error::Error, io};

use cairn_model::{
    api::{ApiError, ApiErrorBody},
    error::chain,
};
use reqwest::StatusCode;
use rustls::CertificateError;
use serde::Deserialize;
use url::Url;

use crate::failure::{Failure, Kind};

/// The question did not get an answer.
pub(super) fn of_transport(error: &reqwest::Error, hub: &Url) -> Failure {
    if let Some(tls) = tls_error(error) {
        return of_tls(tls, hub);
    }
    if error.is_connect() {
        return Failure::new(
            Kind::NoConnection,
            format!("cannot reach the hub at {hub}: {}", root_cause(error)),
        )
        .cure("is cairn-hub running there, and the address right? `cairn context ls` shows it");
    }
    if error.is_timeout() {
        return Failure::timeout(format!("the hub at {hub} did not answer in time"))
            .cure("try again; `/readyz` of the hub says whether it is well");
    }
    Failure::new(
        Kind::NoConnection,
        format!("the connection to the hub at {hub} broke: {}", root_cause(error)),
    )
    .cure("try again")
}

fn of_tls(error: &rustls::Error, hub: &Url) -> Failure {
    let failure = |cause: String| Failure::new(Kind::NoConnection, cause);
    match error {
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => failure(format!("the hub at {hub} shows a certificate that the pinned CA did not sign")).cure(
            "if the hub has a new CA, get its file from whoever runs it and `cairn context add NAME \
                       --replace …`; if it has not, somebody else answers at that address",
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => failure(format!("the hub's certificate is not for the name in {hub}"))
            .cure("use a name that the hub was set up with, or set it up with this one"),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => failure(format!("the certificate of the hub at {hub} is not valid at this time"))
            .cure("is the clock of this machine right? else the hub needs a new certificate"),
        other => failure(format!("no TLS connection to the hub at {hub}: {other}"))
            .cure("is the port the hub's own? it speaks TLS 1.3"),
    }
}

/// The TLS error somewhere below `error`. An `io::Error` hides what it wraps from `source()`.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The innermost error: the outer ones say that a request was sent, which we know.
fn root_cause(error: &reqwest::Error) -> String {
    let mut root: &dyn Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    chain(root)
}

/// The errors of the OCI Distribution Spec.
#[derive(Deserialize)]
struct RegistryErrors {
    errors: Vec<RegistryError>,
}

#[derive(Deserialize)]
struct RegistryError {
    code: String,
    #[serde(default)]
    message: String,
}

/// The hub answered, and not with a success.
pub(super) fn of_answer(status: StatusCode, body: &[u8], hub: &Url, token_place: &str) -> Failure {
    let Some(said) = said(body) else {
        return of_stranger(status, hub);
    };
    let failure = match status {
        StatusCode::UNAUTHORIZED => Failure::new(
            Kind::Denied,
            format!("the hub does not accept the token of {token_place}: {}", said.message),
        )
        .cure(
            "it may have expired or been removed: have an admin run `cairn access-token create`, then \
                       `cairn context add NAME --replace … --token-stdin`",
        ),
        StatusCode::FORBIDDEN => Failure::new(
            Kind::Denied,
            format!("the token of {token_place} does not allow this: {}", said.message),
        )
        .cure("use a token with a higher role: `cairn access-token create NAME --role …`"),
        StatusCode::NOT_FOUND => Failure::not_found(said.message),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Failure::timeout(said.message),
        status if status.is_client_error() => Failure::refused(said.message),
        status => Failure::failed(format!("the hub failed ({status}): {}", said.message))
            .cure("the hub's log says more"),
    };
    // One problem alone may be the message as well: it is said once.
    let problems = said.problems.into_iter().filter(|problem| *problem != failure.cause).collect();
    failure.problems(problems)
}

fn said(body: &[u8]) -> Option<ApiErrorBody> {
    if let Ok(ours) = serde_json::from_slice::<ApiError>(body) {
        return Some(ours.error);
    }
    let errors = serde_json::from_slice::<RegistryErrors>(body).ok()?.errors;
    let message = errors
        .iter()
        .map(|e| if e.message.is_empty() { e.code.clone() } else { format!("{}: {}", e.code, e.message) })
        .collect::<Vec<_>>()
        .join("; ");
    Some(ApiErrorBody { code: errors.into_iter().next()?.code, message, problems: Vec::new() })
}

/// Not in the words of a hub: a proxy, or another server.
fn of_stranger(status: StatusCode, hub: &Url) -> Failure {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Failure::new(Kind::Denied, format!("{hub} answered {status}, and not in the words of a hub"))
                .cure("is a proxy in between?")
        }
        StatusCode::NOT_FOUND => Failure::not_found(format!("{hub} does not know what was asked"))
            .cure("is that a cairn-hub, and of this version?"),
        status => Failure::failed(format!("{hub} answered {status}, and not in the words of a hub"))
            .cure("is a proxy in between?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str) -> Failure {
        let hub: Url = "https://hub/".parse().unwrap();
        of_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &hub, "context demo")
    }

    #[test]
    fn statuses_become_exit_codes() {
        let ours = r#"{"error":{"code":"x","message":"cause; cure"}}"#;
        for (status, kind) in [
            (401, Kind::Denied),
            (403, Kind::Denied),
            (404, Kind::NotFound),
            (400, Kind::Refused),
            (409, Kind::Refused),
            (413, Kind::Refused),
            (422, Kind::Refused),
            (500, Kind::Failed),
            (503, Kind::Failed),
        ] {
            let failure = check(status, ours);
            assert_eq!(failure.kind, kind, "{status}");
            assert!(failure.cause.contains("cause; cure"));
            assert_eq!(check(status, "<html>").kind, if kind == Kind::Refused { Kind::Failed } else { kind });
        }
    }

    #[test]
    fn registry_errors_are_read_too() {
        let failure =
            check(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"other content","detail":{}}]}"#);
        assert_eq!(failure.cause, "DIGEST_INVALID: other content");
        assert_eq!(check(400, r#"{"errors":[]}"#).kind, Kind::Failed);
    }
}
