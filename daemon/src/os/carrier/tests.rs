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
    let client = hub(Router::new().route("/v2/_/blobs/{d}", get(pending::<String>))).await.client();
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

/// A stick with this blob; its folder goes with it.
fn stick(bytes: Option<&[u8]>) -> (tempfile::TempDir, Arc<MediaSource>) {
    let dir = tempfile::tempdir().unwrap();
    if let Some(bytes) = bytes {
        let path = dir.path().join(cairn_model::media::blob_path(&Digest::of(bytes)));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let source = MediaSource::open(dir.path(), &cairn_model::NodeId::of_public_key(&[7; 32])).unwrap();
    (dir, Arc::new(source))
}

/// Reads all of `blob` on a thread of its own, from these sources.
fn reading(
    sources: Sources,
    patience: Patience,
    blob: &Payload,
) -> tokio::task::JoinHandle<io::Result<Vec<u8>>> {
    let (mut carrier, serving) = build(sources, patience, Arc::default());
    tokio::spawn(serving);
    let blob = blob.clone();
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        carrier.read(&blob, 0, blob.size)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    })
}

#[tokio::test]
async fn a_stick_is_read_before_the_hub_is_asked() {
    let shop = Shop::new(3_000_000);
    let (_dir, stick) = stick(Some(&shop.bytes));
    let (blob, bytes, answers) = (shop.payload(), shop.bytes.clone(), shop.answers.clone());
    let client = hub(shop.router()).await.client();
    let (_held, sources) = sources(Some(stick), Some(client));
    assert!(reading(sources, QUICK, &blob).await.unwrap().unwrap() == bytes);
    assert_eq!(answers.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_hub_gives_what_the_stick_lacks() {
    let shop = Shop::new(300_000);
    let (_dir, stick) = stick(None);
    let (blob, bytes) = (shop.payload(), shop.bytes.clone());
    let client = hub(shop.router()).await.client();
    let (_held, sources) = sources(Some(stick), Some(client));
    assert!(reading(sources, QUICK, &blob).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn a_stick_that_failed_comes_after_the_hub() {
    let shop = Shop::new(300_000);
    let (dir, stick) = stick(Some(&shop.bytes));
    let (blob, bytes, answers) = (shop.payload(), shop.bytes.clone(), shop.answers.clone());
    let changed = vec![0; bytes.len()];
    std::fs::write(dir.path().join(cairn_model::media::blob_path(&blob.digest)), changed).unwrap();
    let tired = Some(Arc::downgrade(&stick));
    let client = hub(shop.router()).await.client();
    let (_held, sources) = sources(Some(stick), Some(client));
    let sources = Sources { tired, ..sources };
    assert!(reading(sources, QUICK, &blob).await.unwrap().unwrap() == bytes);
    assert_eq!(answers.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn without_a_hub_what_the_stick_lacks_ends_the_read_with_its_cure() {
    let (_dir, stick) = stick(None);
    let (_held, sources) = sources(Some(stick), None);
    let error = reading(sources, QUICK, &Shop::new(10).payload()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("export to it again"), "{error}");
}

#[tokio::test]
async fn a_stick_that_is_plugged_in_takes_over_from_a_hub_that_hangs() {
    let shop = Shop::new(300_000);
    let (_dir, stick) = stick(Some(&shop.bytes));
    let asked = watch::channel(false).0;
    let hangs = {
        let asked = asked.clone();
        move || {
            asked.send_replace(true);
            pending::<String>()
        }
    };
    let client = hub(Router::new().route("/v2/_/blobs/{d}", get(hangs))).await.client();
    let ((plug, _hub), sources) = sources(None, Some(client));
    let read = reading(sources, QUICK, &shop.payload());
    asked.subscribe().wait_for(|asked| *asked).await.unwrap();
    plug.send_replace(Some(stick));
    assert!(read.await.unwrap().unwrap() == shop.bytes);
}

#[tokio::test]
async fn a_stick_that_is_pulled_is_let_go_and_the_next_one_goes_on() {
    let shop = Shop::new(40_000_000);
    let (_dir, first) = stick(Some(&shop.bytes));
    let (_other, second) = stick(Some(&shop.bytes));
    let held = Arc::downgrade(&first);
    let ((plug, _hub), sources) = sources(Some(first), None);
    let (mut carrier, serving) = build(sources, QUICK, Arc::default());
    tokio::spawn(serving);
    let (blob, begun) = (shop.payload(), watch::channel(false).0);
    let (reads, goes_on) = (begun.clone(), std::sync::mpsc::channel::<()>());
    let (go_on, wait) = goes_on;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; 1000];
        let mut reader = carrier.read(&blob, 0, blob.size).unwrap();
        reader.read_exact(&mut bytes).unwrap();
        reads.send_replace(true);
        wait.recv().unwrap();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    begun.subscribe().wait_for(|begun| *begun).await.unwrap();
    plug.send_replace(None);
    let gone = async {
        while held.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("nothing holds it");
    go_on.send(()).unwrap();
    plug.send_replace(Some(second));
    assert!(read.await.unwrap() == shop.bytes);
}

#[tokio::test]
async fn with_neither_stick_nor_hub_it_says_what_is_missing() {
    let ((_plug, _hub), sources) = sources(None, None);
    let patience = Patience { silence: Duration::from_millis(50), ..QUICK };
    let error = reading(sources, patience, &Shop::new(10).payload()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("plug the stick in again"), "{error}");
}
