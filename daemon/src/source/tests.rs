//! The hub client against hubs that refuse, talk garbage, never answer, or never end: everything is bounded and named.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cairn_trust::keys::KeyPair;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use tokio::{net::TcpListener, time::Instant};

use super::*;

/// A hub of this test's own, over TLS by a CA of its own.
pub(crate) struct Hub {
    pub(crate) url: url::Url,
    pub(crate) ca_pem: String,
}

fn certificates() -> (String, rustls::ServerConfig) {
    certificates_with(|_| {})
}

fn certificates_with(change: impl FnOnce(&mut rcgen::CertificateParams)) -> (String, rustls::ServerConfig) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    let chain = vec![certificate.der().clone()];
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, der)
        .unwrap();
    (certificate.pem(), config)
}

pub(crate) async fn hub(router: Router) -> Hub {
    hub_with(router, certificates()).await
}

async fn hub_with(router: Router, (ca_pem, config): (String, rustls::ServerConfig)) -> Hub {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    Hub { url: format!("https://localhost:{port}").parse().unwrap(), ca_pem }
}

impl Hub {
    pub(crate) fn client(&self) -> HubClient {
        let tls = HubTls { ca_pem: self.ca_pem.clone(), clock: Clocked { floor: None } };
        HubClient::build(self.url.clone(), &tls, Arc::new(KeyPair::generate().unwrap())).unwrap()
    }
}

fn endless() -> Response {
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    let stream = stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
    Body::from_stream(stream).into_response()
}

#[tokio::test]
async fn the_hubs_reason_reaches_the_message() {
    let body = r#"{"error":{"code":"token-expired","message":"the token has expired; make a new one"}}"#;
    let hub =
        hub(Router::new()
            .route("/node/v1/enroll", post(move || async move { (StatusCode::FORBIDDEN, body) })));
    let hub = hub.await;
    let error = hub.client().enroll("jws".into()).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::Refused { status: 403, code, .. } if code == "token-expired"),
        "{error}"
    );
    assert!(error.to_string().contains("make a new one"), "{error}");
    assert!(error.is_answer());
}

#[tokio::test]
async fn garbage_is_named_and_not_quoted_at_length() {
    let garbage = "\u{7}<html>".repeat(10_000);
    let router = Router::new()
        .route("/node/v1/enrollment", get(move || async move { garbage }))
        .route("/node/v1/wait", get(|| async { (StatusCode::BAD_GATEWAY, "<h1>nginx</h1>") }));
    let client = hub(router).await.client();
    let error = client.enrollment().await.unwrap_err();
    assert!(matches!(error, SourceError::Garbage { .. }), "{error}");
    assert!(error.to_string().len() < 700 && !error.to_string().contains('\u{7}'), "{error}");
    let error = client.wait(1).await.unwrap_err();
    assert!(matches!(error, SourceError::Refused { status: 502, .. }), "{error}");
}

#[tokio::test]
async fn endless_answers_are_cut_off() {
    let router = Router::new()
        .route("/node/v1/enrollment", get(|| async { endless() }))
        .route("/v2/_/manifests/{digest}", get(|| async { endless() }));
    let client = hub(router).await.client();
    let error = client.enrollment().await.unwrap_err();
    assert!(matches!(error, SourceError::Fetch(FetchError::TooLarge { .. })), "{error}");
    let error = client.manifest(&Digest::of(b"x"), 1000).await.unwrap_err();
    assert!(matches!(error, SourceError::Fetch(FetchError::TooLarge { .. })), "{error}");
}

#[tokio::test]
async fn a_hub_that_accepts_and_then_says_nothing_is_given_up() {
    let router = Router::new().route("/node/v1/enrollment", get(std::future::pending::<String>));
    let client = hub(router).await.client().with_patience(Duration::from_millis(300));
    let error = client.enrollment().await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    assert!(!error.is_answer());
}

#[tokio::test]
async fn rejects_a_hub_with_another_ca() {
    let real = hub(Router::new()).await;
    let other = Hub { url: real.url.clone(), ca_pem: certificates().0 };
    let error = other.client().enrollment().await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn rejects_a_document_with_other_bytes() {
    let router = Router::new().route("/v2/_/blobs/{digest}", get(|| async { "tampered" }));
    let client = hub(router).await.client();
    let error = client.document(&Digest::of(b"genuine"), 100).await.unwrap_err();
    assert!(matches!(error, SourceError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn asks_for_the_rest_of_a_blob() {
    async fn ranged(Path(_): Path<String>, headers: HeaderMap) -> Response {
        match headers.get(header::RANGE).and_then(|r| r.to_str().ok()) {
            Some("bytes=4-") => (StatusCode::PARTIAL_CONTENT, "rest").into_response(),
            _ => "the rest".into_response(),
        }
    }
    let client = hub(Router::new().route("/v2/_/blobs/{digest}", get(ranged))).await.client();
    for (offset, began, expected) in [(4, 4, "rest"), (0, 0, "the rest")] {
        let stream = client.blob(&Digest::of(b"x"), offset).await.unwrap();
        assert_eq!(stream.offset, began);
        let bytes: Vec<u8> = stream.bytes.map(|piece| piece.unwrap().to_vec()).concat().await;
        assert_eq!(bytes, expected.as_bytes());
    }
}

#[tokio::test]
async fn mints_its_tokens_by_the_hubs_clock_once_that_refused_one() {
    async fn judge(headers: HeaderMap) -> Response {
        let token = headers.get(header::AUTHORIZATION).and_then(|a| a.to_str().ok()?.strip_prefix("Bearer "));
        let payload = token.and_then(|t| t.split('.').nth(1)).unwrap_or_default();
        let claims =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, payload).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        let hub_now = Timestamp::now().as_second() + 90_000_000;
        if (claims["exp"].as_i64().unwrap() - hub_now).abs() < 400 {
            return r#"{"generation":7}"#.into_response();
        }
        let date = Timestamp::from_second(hub_now).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
        let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        (StatusCode::UNAUTHORIZED, [(header::DATE, date)], "").into_response()
    }
    let client = hub(Router::new().route("/node/v1/wait", get(judge))).await.client();
    assert!(client.wait(1).await.is_err());
    assert!((client.skew_seconds() - 90_000_000).abs() < 5, "{}", client.skew_seconds());
    assert_eq!(client.wait(1).await.unwrap().unwrap().generation, 7);
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_by_the_nodes_clock_is_a_matter_of_the_clock() {
    let expired = certificates_with(|params| params.not_after = rcgen::date_time_ymd(2001, 2, 3));
    let early = certificates_with(|params| params.not_before = rcgen::date_time_ymd(2999, 2, 3));
    let cases =
        [(expired, "was valid until 2001-02-03T00:00:00Z"), (early, "is valid from 2999-02-03T00:00:00Z on")];
    for (certificates, words) in cases {
        let client = hub_with(Router::new(), certificates).await.client();
        let error = client.enrollment().await.unwrap_err();
        assert!(matches!(error, SourceError::Clock { .. }), "{error}");
        assert!(!error.is_answer(), "nothing was heard");
        // The same where metadata is fetched, which has errors of its own.
        let fetched = client.director().fetch("timestamp.json", 1000).await.unwrap_err();
        let fetched = judged_by_the_clock(&fetched).expect("the clock is found");
        let year = Timestamp::now().to_string()[..4].to_owned();
        for text in [error.to_string(), fetched] {
            assert!(text.contains(words) && text.contains(&format!("clock it is {year}-")), "{text}");
            assert!(text.contains("set the clock or let NTP through"), "{text}");
            assert!(!text.contains("check the network"), "{text}");
        }
    }
    let other = Hub { ca_pem: certificates().0, ..hub(Router::new()).await };
    let error = other.client().enrollment().await.unwrap_err();
    assert!(
        !matches!(error, SourceError::Clock { .. }),
        "a forged certificate is no matter of the clock: {error}"
    );
}

#[tokio::test]
async fn the_hub_is_reached_again_once_the_clock_is_right() {
    // The clock comes right while the very same client goes on trying: time does so by itself here.
    let valid_from = std::time::SystemTime::now() + Duration::from_secs(3);
    let certificates = certificates_with(|params| params.not_before = valid_from.into());
    let router = Router::new().route("/node/v1/wait", get(|| async { r#"{"generation":7}"# }));
    let client = hub_with(router, certificates).await.client();
    let error = client.wait(1).await.unwrap_err();
    assert!(matches!(error, SourceError::Clock { .. }), "{error}");
    let begun = Instant::now();
    let generation = loop {
        match client.wait(1).await {
            Ok(hint) => break hint.unwrap().generation,
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(30), "{e}"),
        }
    };
    assert_eq!(generation, 7);
}
