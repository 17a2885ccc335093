//! Sources that send too much, too slowly, or nonsense.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cairn_trust::{
    client::ClientError,
    envelope::mint_node_token,
    fetch::{Fetch, FetchError, FolderFetch, Headers, HttpFetch, Pace, collect_paced},
    keys::KeyPair,
    node::Update,
};
use futures_util::{StreamExt, stream};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};
use url::Url;

use crate::{
    fleet::{Hub, Member},
    repository::{Repository, at, today},
    source::Source,
};

/// Serves `head` and then `body` over and over, with a pause between, to whoever connects.
async fn serve(head: &'static str, body: &'static [u8], pause: Duration) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut sent = stream.write_all(head.as_bytes()).await;
                while sent.is_ok() && !body.is_empty() {
                    sent = stream.write_all(body).await;
                    tokio::time::sleep(pause).await;
                }
                // An unfinished head is held open until the client gives up.
                if !head.ends_with("\r\n\r\n") {
                    let _ = stream.read(&mut [0; 16]).await;
                }
            });
        }
    });
    url
}

fn hasty(url: Url) -> HttpFetch {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let pace = Pace { start: Duration::from_millis(200), bytes_per_second: 1_000_000 };
    HttpFetch::public(reqwest::Client::new(), url).with_pace(pace)
}

async fn attack_of(url: Url) -> &'static str {
    let repository = Repository::new();
    let mut node = repository.client();
    let error = node.client.refresh(&hasty(url), at(today())).await.unwrap_err();
    error.attack().unwrap_or_else(|| panic!("names no attack: {error:?}")).name()
}

#[tokio::test]
async fn rejects_a_file_that_says_it_is_too_large() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n";
    assert_eq!(attack_of(serve(head, b"", Duration::ZERO).await).await, "endless-data");
}

#[tokio::test]
async fn rejects_endless_data() {
    static MEGABYTE: [u8; 1 << 20] = [b' '; 1 << 20];
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    assert_eq!(attack_of(serve(head, &MEGABYTE, Duration::ZERO).await).await, "endless-data");
}

#[tokio::test]
async fn rejects_slow_retrieval() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    assert_eq!(attack_of(serve(head, b" ", Duration::from_millis(5)).await).await, "slow-retrieval");
}

#[tokio::test]
async fn rejects_a_source_that_never_answers() {
    assert_eq!(attack_of(serve("HTTP/1.1 ", b"", Duration::ZERO).await).await, "slow-retrieval");
}

#[tokio::test]
async fn a_hub_that_is_down_or_answers_nonsense_is_no_attack() {
    for head in [
        "HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n",
        "garbage\r\n\r\n",
    ] {
        let url = serve(head, b"", Duration::ZERO).await;
        let repository = Repository::new();
        let error = repository.client().client.refresh(&hasty(url), at(today())).await.unwrap_err();
        assert!(error.is_transport() && error.attack().is_none(), "{error:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let repository = Repository::new();
    let url = format!("http://{closed}/").parse().unwrap();
    let error = repository.client().client.refresh(&hasty(url), at(today())).await.unwrap_err();
    assert!(error.is_transport(), "{error:?}");
}

#[tokio::test]
async fn rejects_metadata_over_its_limit_from_any_source() {
    let mut repository = Repository::new();
    repository.source.put("timestamp.json", vec![b' '; (16 << 10) + 1]);
    assert_eq!(repository.client().refused(&repository).await, "endless-data");
    // A pin is a limit too.
    let mut repository = Repository::new();
    repository.source.files.get_mut("1.targets.json").unwrap().push(b' ');
    assert_eq!(repository.client().refused(&repository).await, "endless-data");
}

#[tokio::test]
async fn rejects_targets_that_are_longer_or_other_than_signed() {
    let mut repository = Repository::new();
    let mut node = repository.client();
    node.refresh(&repository).await.unwrap();
    let info = node.client.find(&repository.source, "first", at(today())).await.unwrap().unwrap();
    let download = node.client.download(&repository.source, "targets/", "first", &info).await.unwrap();
    assert_eq!(download, b"first");
    let path = format!("targets/{}", info.path("first", true).unwrap());
    for (bytes, attack) in [(&b"first!"[..], "endless-data"), (b"firs", "tampering"), (b"frist", "tampering")]
    {
        repository.source.put(&path, bytes);
        let error = node.client.download(&repository.source, "targets/", "first", &info).await.unwrap_err();
        assert_eq!(error.attack().unwrap().name(), attack);
    }
    repository.source.files.remove(&path);
    let error = node.client.download(&repository.source, "targets/", "first", &info).await.unwrap_err();
    assert!(matches!(error, ClientError::Absent { .. }));
}

/// Serves `source` below its address and counts every byte of the connections, both ways.
async fn serve_counted(source: Source) -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let bytes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&bytes);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 << 10];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or("/").trim_start_matches('/').to_owned();
            let (status, body) = match source.files.get(&path) {
                Some(body) => ("200 OK", body.clone()),
                None => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\
                 date: Mon, 01 Jun 2026 00:00:00 GMT\r\n\r\n",
                body.len()
            );
            counted.fetch_add(length + head.len() + body.len(), Ordering::SeqCst);
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
        }
    });
    (url, bytes)
}

#[tokio::test]
async fn an_idle_poll_over_http_is_under_four_kilobytes_with_its_headers_and_tokens() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let hub = Hub::new();
    let mut member = Member::of(&hub);
    hub.deploy(&member.id, 1, &[]);
    let (director, artifacts) = hub.serve(&member.id);
    let ((director, sent), (artifacts, also_sent)) =
        (serve_counted(director).await, serve_counted(artifacts).await);
    let key = KeyPair::generate().unwrap();
    let headers: Headers = Arc::new(move || {
        let token = mint_node_token(&key, today()).unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    });
    let http = reqwest::Client::new();
    let director = HttpFetch::new(http.clone(), director, Arc::clone(&headers));
    let artifacts = HttpFetch::new(http, artifacts, headers);
    let update = member.verifier.update(&director, &artifacts, at(today()), 0).await.unwrap();
    assert!(matches!(update, Update::Verified(_)));
    sent.store(0, Ordering::SeqCst);
    also_sent.store(0, Ordering::SeqCst);
    let update = member.verifier.update(&director, &artifacts, at(today()), 1).await.unwrap();
    assert!(matches!(update, Update::Unchanged));
    let total = sent.load(Ordering::SeqCst) + also_sent.load(Ordering::SeqCst);
    assert!((500..4096).contains(&total), "{total}");
}

#[tokio::test]
async fn a_stream_that_always_has_one_more_byte_still_ends() {
    let endless = stream::repeat(Bytes::from_static(b"x")).map(Ok::<_, Infallible>);
    let pace = Pace { start: Duration::from_millis(20), bytes_per_second: u32::MAX };
    let slow = collect_paced("x", u64::MAX, pace, Instant::now(), endless).await;
    assert!(matches!(slow, Err(FetchError::TooSlow { .. })), "{slow:?}");
}

#[tokio::test]
async fn paths_never_lead_out_of_the_source() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), b"x").unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let (folder, http) = (FolderFetch::new(inner), hasty("http://127.0.0.1:1/base/".parse().unwrap()));
    for path in [
        "../secret",
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/..",
        "%2e%2e/secret",
        "%2E./secret",
        "a\0b",
        "a b",
        "a?b",
        "a#b",
        "http://x/",
    ] {
        assert!(matches!(folder.fetch(path, 9).await, Err(FetchError::BadPath { .. })), "{path}");
        assert!(matches!(http.fetch(path, 9).await, Err(FetchError::BadPath { .. })), "{path}");
    }
    assert!(folder.fetch("absent", 9).await.unwrap().is_none());
}

#[tokio::test]
async fn a_folder_and_a_hub_are_the_same_source() {
    let repository = Repository::new();
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in &repository.source.files {
        let file = folder.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    let source = FolderFetch::new(folder.path());
    let mut node = repository.client();
    node.client.refresh(&source, at(today())).await.unwrap();
    let info = node.client.find(&source, "first", at(today())).await.unwrap().unwrap();
    assert_eq!(node.client.download(&source, "targets/", "first", &info).await.unwrap(), b"first");
    // A folder in the place of a file, as on a prepared stick, is no file.
    std::fs::remove_file(folder.path().join("timestamp.json")).unwrap();
    std::fs::create_dir(folder.path().join("timestamp.json")).unwrap();
    assert!(node.client.refresh(&source, at(today())).await.is_err());
}
