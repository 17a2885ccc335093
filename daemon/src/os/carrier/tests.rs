//! The carrier over real HTTPS: connections that break, servers that know no ranges, hubs that refuse, readers that stop.

use std::sync::atomic::AtomicU32;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;

use super::*;
use crate::source::tests::hub;

const QUICK: Patience = Patience {
    retry: (Duration::from_millis(1), Duration::from_millis(5)),
    silence: Duration::from_secs(20),
};

/// What the hub of a test has, and how it behaves.
#[derive(Clone)]
struct Shop {
    bytes: Bytes,
    /// Each answer breaks off after so many bytes.
    breaks_after: usize,
    knows_ranges: bool,
    answers: Arc<AtomicU32>,
}

impl Shop {
    fn new(size: usize) -> Self {
        let bytes: Vec<u8> = (0..size).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        Self { bytes: bytes.into(), breaks_after: usize::MAX, knows_ranges: true, answers: Arc::default() }
    }

    fn payload(&self) -> Payload {
        Payload { digest: Digest::of(&self.bytes), size: self.bytes.len() as u64 }
    }

    fn router(self) -> Router {
        Router::new().route("/v2/_/blobs/{digest}", get(serve_blob)).with_state(self)
    }
}

async fn serve_blob(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    shop.answers.fetch_add(1, Ordering::SeqCst);
    let range = headers.get(header::RANGE).filter(|_| shop.knows_ranges).map(|range| {
        let (begin, end) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (begin.parse::<usize>().unwrap(), end.parse::<usize>().unwrap())
    });
    let (begin, end) = range.unwrap_or((0, shop.bytes.len() - 1));
    let body = shop.bytes.slice(begin..=end);
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let content_range = format!("bytes {begin}-{end}/{}", shop.bytes.len());
    let broken = body.len() > shop.breaks_after;
    let first = stream::iter([Ok::<_, io::Error>(body.slice(..body.len().min(shop.breaks_after)))]);
    // The break comes a moment later: else the server throws away what it has not sent.
    let cut = async {
        tokio::task::yield_now().await;
        Err(io::Error::other("cable pulled"))
    };
    let pieces = if broken { first.chain(stream::once(cut)).boxed() } else { first.boxed() };
    (status, [(header::CONTENT_RANGE, content_range)], Body::from_stream(pieces)).into_response()
}

type Held = (watch::Sender<Option<Arc<MediaSource>>>, watch::Sender<Option<HubClient>>);

fn sources(stick: Option<Arc<MediaSource>>, hub: Option<HubClient>) -> (Held, Sources) {
    let (stick, stick_out) = watch::channel(stick);
    let (hub, hub_out) = watch::channel(hub);
    ((stick, hub), Sources { stick: stick_out, hub: hub_out, tired: None })
}

fn only_hub(client: HubClient) -> (Held, Sources) {
    sources(None, Some(client))
}

/// Reads a range on a thread of its own, as the updater does.
async fn read(router: Router, blob: Payload, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let client = hub(router).await.client();
    let (_sender, sources) = only_hub(client);
    let (mut carrier, serving) = build(sources, QUICK, Arc::default());
    tokio::spawn(serving);
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        carrier.read(&blob, offset, length)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn gives_the_range_and_nothing_more_whatever_the_server_knows() {
    for knows_ranges in [true, false] {
        let shop = Shop { knows_ranges, ..Shop::new(900_000) };
        let (blob, bytes) = (shop.payload(), shop.bytes.clone());
        let read = read(shop.router(), blob, 100_000, 700_000).await.unwrap();
        assert!(read == bytes[100_000..800_000], "{} bytes, ranges: {knows_ranges}", read.len());
    }
}

#[tokio::test]
async fn goes_on_where_the_connection_broke() {
    let shop = Shop { breaks_after: 10_000, ..Shop::new(100_000) };
    let (blob, bytes, answers) = (shop.payload(), shop.bytes.clone(), shop.answers.clone());
    let read = read(shop.router(), blob, 5, 95_000).await.unwrap();
    assert!(read == bytes[5..95_005]);
    assert_eq!(answers.load(Ordering::SeqCst), 10, "each connection brought something");
}

#[tokio::test]
async fn a_hub_that_refuses_ends_the_read_with_its_reason() {
    let body = r#"{"error":{"code":"not-found","message":"no such blob; push the release again"}}"#;
    let router =
        Router::new().route("/v2/_/blobs/{d}", get(move || async move { (StatusCode::NOT_FOUND, body) }));
    let error = read(router, Shop::new(10).payload(), 0, 10).await.unwrap_err();
    assert!(error.to_string().contains("push the release again"), "{error}");
}

#[tokio::test]
async fn a_hub_that_restarts_is_asked_again() {
    let shop = Shop::new(1000);
    let (blob, bytes, failures) = (shop.payload(), shop.bytes.clone(), Arc::new(AtomicU32::new(0)));
    let answer = move |headers: HeaderMap| async move {
        if failures.fetch_add(1, Ordering::SeqCst) < 3 {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        serve_blob(State(shop), headers).await
    };
    let read = read(Router::new().route("/v2/_/blobs/{d}", get(answer)), blob, 0, 1000).await.unwrap();
    assert!(read == bytes);
}

#[tokio::test]
async fn a_read_that_waits_ends_when_it_is_stopped() {
    let client =
        hub(Router::new().route("/v2/_/blobs/{d}", get(pending::<String>))).await.client();
    let (_sender, sources) = only_hub(client);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut carrier, serving) = build(sources, QUICK, stop.clone());
    tokio::spawn(serving);
    let blob = Shop::new(10).payload();
    let reading = tokio::task::spawn_blocking(move || {
        carrier.read(&blob, 0, 10).and_then(|mut read| read.read_to_end(&mut Vec::new()))
    });
    stop.store(true, Ordering::Relaxed);
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
}
