//! Sticks that somebody has prepared, and blobs that do not fit one file.

use std::{
    fs,
    os::unix::fs::{FileExt, symlink},
};

use futures_util::TryStreamExt;
use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::assemble::Blob;

struct Stick {
    dir: tempfile::TempDir,
    node: NodeId,
}

impl Stick {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), node: NodeId::of_public_key(&[7; 32]) }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("stick").join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), bytes).unwrap();
    }

    fn source(&self) -> MediaSource {
        MediaSource::open(&self.path(""), &self.node).unwrap()
    }
}

fn missing(digest: &Digest, size: u64) -> Missing {
    Missing { blob: Blob { digest: digest.clone(), size }, have: 0 }
}

async fn all(stream: Result<BlobStream, SourceError>) -> Result<Vec<u8>, SourceError> {
    stream?.bytes.map_ok(|piece| piece.to_vec()).try_concat().await
}

#[tokio::test]
async fn gives_documents_and_blobs_from_any_offset() {
    let stick = Stick::new();
    let bytes: Vec<u8> = (0..600_000u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
    let digest = Digest::of(&bytes);
    stick.put(&blob_path(&digest), &bytes);
    let source = stick.source();
    assert_eq!(source.manifest(&digest, 600_000).await.unwrap(), bytes);
    assert_eq!(source.document(&digest, 600_000).await.unwrap(), bytes);
    for offset in [0, 1, 599_999, 600_000, 700_000] {
        let stream = source.blob(&digest, offset).await.unwrap();
        assert_eq!(stream.offset, offset);
        let expected = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        assert!(all(Ok(stream)).await.unwrap() == expected, "from {offset}");
    }
    assert!(all(source.range(&digest, 5, 300_000).await).await.unwrap() == bytes[5..300_005]);
    assert!(all(source.range(&digest, 599_999, 10).await).await.unwrap() == bytes[599_999..]);
}

#[tokio::test]
async fn a_blob_in_parts_is_read_as_one() {
    let stick = Stick::new();
    let digest = Digest::of(b"of 4 GiB and 6 bytes");
    for (part, marks) in [(0, "AB"), (1, "CD")] {
        stick.put(&part_path(&digest, part), b"");
        let file = fs::OpenOptions::new().write(true).open(stick.path(&part_path(&digest, part))).unwrap();
        file.set_len(PART_BYTES).unwrap();
        file.write_all_at(&marks.as_bytes()[..1], 0).unwrap();
        file.write_all_at(&marks.as_bytes()[1..], PART_BYTES - 1).unwrap();
    }
    stick.put(&part_path(&digest, 2), b"ending");
    let source = stick.source();
    source.announce(&[missing(&digest, 2 * PART_BYTES + 6)]).await.unwrap();
    for (offset, expected) in
        [(0, "A\0"), (PART_BYTES - 2, "\0BC\0"), (2 * PART_BYTES - 2, "\0Dendi"), (2 * PART_BYTES + 3, "ing")]
    {
        let read = all(source.range(&digest, offset, expected.len() as u64).await).await.unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), expected, "from {offset}");
    }
    // Two GiB further: nothing of it is held.
    let mut pieces = source.blob(&digest, 0).await.unwrap().bytes;
    for _ in 0..40 {
        assert!(pieces.next().await.unwrap().unwrap().len() <= PIECE_BYTES);
    }
}

#[tokio::test]
async fn a_hole_between_parts_ends_the_blob() {
    let stick = Stick::new();
    let digest = Digest::of(b"holed");
    stick.put(&part_path(&digest, 0), b"short");
    stick.put(&part_path(&digest, 1), b"never read at the wrong place");
    let source = stick.source();
    let error = source.announce(&[missing(&digest, PART_BYTES + 29)]).await.unwrap_err();
    assert!(matches!(error, SourceError::Damaged { .. }) && error.to_string().contains("5 bytes"), "{error}");
    assert_eq!(all(source.blob(&digest, 0).await).await.unwrap(), b"short");
    let error = source.blob(&digest, 5 * PART_BYTES).await.unwrap_err();
    assert!(matches!(error, SourceError::Absent { .. }), "{error}");
}

#[tokio::test]
async fn says_what_it_lacks_before_anything_is_copied() {
    let stick = Stick::new();
    let (good, other) = (Digest::of(b"good"), Digest::of(b"other"));
    stick.put(&blob_path(&good), b"good");
    let source = stick.source();
    source.announce(&[missing(&good, 4)]).await.unwrap();
    let error = source.announce(&[missing(&good, 4), missing(&other, 5)]).await.unwrap_err();
    assert!(matches!(&error, SourceError::Absent { digest } if *digest == other), "{error}");
    assert!(error.to_string().contains("--since"), "{error}");
    for (size, what) in [(3, "longer"), (5, "truncated")] {
        let error = source.announce(&[missing(&good, size)]).await.unwrap_err();
        assert!(matches!(error, SourceError::Damaged { .. }) && error.is_answer(), "{what}: {error}");
    }
}

#[tokio::test]
async fn rejects_documents_that_are_changed_too_large_or_absent() {
    let stick = Stick::new();
    let digest = Digest::of(b"genuine");
    let source = {
        fs::create_dir_all(stick.path("")).unwrap();
        stick.source()
    };
    let error = source.document(&digest, 100).await.unwrap_err();
    assert!(matches!(error, SourceError::Absent { .. }), "{error}");
    stick.put(&blob_path(&digest), b"genuinE");
    let error = source.document(&digest, 100).await.unwrap_err();
    assert!(matches!(error, SourceError::Corrupt { .. }), "{error}");
    let error = source.manifest(&digest, 6).await.unwrap_err();
    assert!(matches!(error, SourceError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn rejects_links_pipes_and_folders_wherever_they_lie() {
    let digest = Digest::of(b"genuine");
    let (blob, part) = (blob_path(&digest), part_path(&digest, 0));
    for at in ["blobs", "blobs/sha256", &blob] {
        let stick = Stick::new();
        stick.put(&blob, b"genuine");
        let moved = stick.dir.path().join("elsewhere");
        fs::rename(stick.path(at), &moved).unwrap();
        symlink(&moved, stick.path(at)).unwrap();
        let source = stick.source();
        let refusals = [
            source.document(&digest, 100).await.unwrap_err(),
            source.blob(&digest, 0).await.unwrap_err(),
            source.announce(&[missing(&digest, 7)]).await.unwrap_err(),
        ];
        for error in refusals {
            let not_a_file = matches!(&error, SourceError::Fetch(FetchError::NotAFile { .. }));
            assert!(not_a_file && error.is_answer(), "{at}: {error}");
        }
    }
    let stick = Stick::new();
    stick.put("real", b"genuine");
    stick.put(&blob_path(&Digest::of(b"other")), b"other");
    symlink("../../real", stick.path(&part)).unwrap();
    let error = stick.source().blob(&digest, 0).await.unwrap_err();
    assert!(matches!(error, SourceError::Fetch(FetchError::NotAFile { .. })), "a part: {error}");
    // To open a pipe would wait for ever.
    mkfifo(&stick.path(&blob), Mode::S_IRWXU).unwrap();
    let error = stick.source().blob(&digest, 0).await.unwrap_err();
    assert!(matches!(error, SourceError::Fetch(FetchError::NotAFile { .. })), "a pipe: {error}");
    fs::remove_file(stick.path(&blob)).unwrap();
    fs::create_dir(stick.path(&blob)).unwrap();
    let error = stick.source().document(&digest, 100).await.unwrap_err();
    assert!(matches!(error, SourceError::Fetch(FetchError::NotAFile { .. })), "a folder: {error}");
}

#[tokio::test]
async fn a_grant_is_bounded_and_must_be_one() {
    let stick = Stick::new();
    stick.put("cairn-bundle.json", b"{}");
    let (source, path) = (stick.source(), grant_path(&stick.node));
    assert!(source.is_there().await);
    assert!(source.grant().await.unwrap().is_none());
    let endless = vec![b' '; MAX_GRANT_BYTES + 1];
    let newer = serde_json::json!({"schema": 2, "node": stick.node, "state": "pending"}).to_string();
    for content in [&endless[..], b"", b"[[[[", newer.as_bytes()] {
        stick.put(&path, content);
        let error = source.grant().await.unwrap_err();
        assert!(matches!(error, SourceError::Damaged { .. }), "{error}");
    }
    fs::remove_file(stick.path(&path)).unwrap();
    symlink("/etc/passwd", stick.path(&path)).unwrap();
    let error = source.grant().await.unwrap_err();
    assert!(matches!(error, SourceError::Fetch(FetchError::NotAFile { .. })), "{error}");
    fs::remove_dir_all(stick.path("")).unwrap();
    assert!(!source.is_there().await, "it was pulled");
}

#[tokio::test]
async fn an_os_is_there_by_all_its_chunks_or_by_a_patch() {
    let payload = |bytes: &[u8]| serde_json::json!({"digest": Digest::of(bytes), "size": bytes.len()});
    let release = serde_json::json!({
        "schema": 1, "version": "1.2.3", "compatible": "x", "arch": "amd64", "name": "X", "built": 1,
        "data_layout": {"min": 1, "max": 1},
        "root": {"digest": Digest::of(b"r"), "size": 4096}, "uki": payload(b"u"),
        "verity": {"root_hash": "0".repeat(64), "salt": "", "uuid": "0".repeat(32)},
        "chunks": {"index": payload(b"index"), "pack": payload(b"pack")},
        "patches": [{"from": "1.2.2", "from_root_hash": "0".repeat(64), "blob": payload(b"patch"),
                     "from_uki": Digest::of(b"u"), "memory": 1}],
    });
    let release = Release::parse(release.to_string().as_bytes()).unwrap();
    let put = |stick: &Stick, bytes: &[u8]| stick.put(&blob_path(&Digest::of(bytes)), bytes);
    let stick = Stick::new();
    put(&stick, b"index");
    assert!(!stick.source().brings(&release).await);
    put(&stick, b"pack");
    assert!(stick.source().brings(&release).await);
    let stick = Stick::new();
    put(&stick, b"patch");
    assert!(stick.source().brings(&release).await);
    stick.put(&blob_path(&Digest::of(b"patch")), b"patc");
    assert!(!stick.source().brings(&release).await, "torn");
}

#[tokio::test]
async fn a_read_that_hangs_holds_up_its_own_stick_alone() {
    let (hung, other) = (StickThread::start(PIECE_TIMEOUT), StickThread::start(PIECE_TIMEOUT));
    let (go_on, wait) = mpsc::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let stuck = tokio::spawn({
        let hung = hung.clone();
        async move {
            let work = move || {
                begun.send(()).unwrap();
                wait.recv().map_err(io::Error::other)
            };
            hung.run(work).await
        }
    });
    has_begun.await.unwrap();
    let after = tokio::spawn(async move { hung.run(|| Ok(2)).await });
    assert_eq!(other.run(|| Ok(1)).await.unwrap(), 1);
    assert!(!after.is_finished());
    go_on.send(()).unwrap();
    stuck.await.unwrap().unwrap();
    assert_eq!(after.await.unwrap().unwrap(), 2);
}

#[test]
fn metadata_is_read_by_the_sticks_own_thread() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let stick = Stick::new();
    stick.put(&format!("{DIRECTOR}/{}/timestamp.json", stick.node), b"signed");
    // Another's read hangs in the kernel, and the runtime has no more threads than this one.
    let (go_on, wait) = mpsc::channel::<()>();
    let hangs = runtime.spawn_blocking(move || wait.recv());
    runtime.block_on(async {
        let source = stick.source();
        let get = |path, max| timeout(Duration::from_secs(20), source.director().fetch(path, max));
        let found = get("timestamp.json", 6).await.expect("it waits for nobody").unwrap();
        assert_eq!(found.as_deref(), Some(b"signed".as_slice()));
        assert!(get("2.root.json", 6).await.unwrap().unwrap().is_none());
        let error = get("timestamp.json", 5).await.unwrap().unwrap_err();
        assert!(matches!(error, FetchError::TooLarge { limit: 5, .. }), "{error}");
        let error = get("../../real", 5).await.unwrap().unwrap_err();
        assert!(matches!(error, FetchError::BadPath { .. }), "{error}");
        // A stick that hangs is given up by its own clock, and said to be unreadable.
        let hung = Metadata { thread: StickThread::start(Duration::from_millis(20)), ..source.director };
        let (_release, held) = mpsc::channel::<()>();
        let holds = hung.thread.run(move || held.recv().map_err(io::Error::other)).await;
        assert_eq!(holds.unwrap_err().kind(), ErrorKind::TimedOut);
        let error = hung.fetch("timestamp.json", 6).await.unwrap_err();
        assert!(matches!(error, FetchError::Transport { .. }), "{error}");
    });
    go_on.send(()).unwrap();
    runtime.block_on(hangs).unwrap().unwrap();
}

#[tokio::test]
async fn a_read_that_never_ends_is_given_up() {
    let reader = StickThread::start(Duration::from_millis(20));
    let (_go_on, wait) = mpsc::channel::<()>();
    let error = reader.run(move || wait.recv().map_err(io::Error::other)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(matches!(told("blob", error), SourceError::Media { .. }));
}
