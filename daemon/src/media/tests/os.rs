//! An OS release that lies on a stick: how long its being written is waited for.

use cairn_model::report::{OsMethod, OsProgress};

use super::*;

#[tokio::test]
async fn an_os_is_waited_for_until_it_is_written_or_not() {
    let digest = Digest::of(b"release");
    let about = |state, detail: Option<&str>| OsStatus {
        release: Some(Digest::of(b"release")),
        detail: detail.map(str::to_owned),
        ..os_status(state)
    };
    for (end, words) in [
        (about(OsState::Armed, None), "the OS is written"),
        (about(OsState::Failed, Some("the disk is worn")), "the disk is worn"),
        (about(OsState::Refused, Some("it is for another machine")), "it is for another machine"),
    ] {
        let mut stage = Stage::start().await;
        stage.plug("sdb1");
        stage.answer(MediaOutcome { writes_os: Some(digest.clone()), ..member() }).await;
        // That it failed some time ago is no news.
        stage.os.send_replace(Some(about(OsState::Failed, Some("the hub was away"))));
        stage.os.send_replace(Some(about(OsState::Fetching, None)));
        stage.status(|status| status.state == MediaState::WritingOs).await;
        assert!(stage.stick.borrow().is_some());
        stage.os.send_replace(Some(about(OsState::Written, None)));
        stage.os.send_replace(Some(end));
        let status = stage.through().await;
        assert_eq!(status.state, MediaState::Done);
        assert!(says(&status, words) && !says(&status, "the hub was away"), "{words}: {status:?}");
        stage.end().await;
    }
    // One that is never begun does not hold the stick for ever.
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.answer(MediaOutcome { writes_os: Some(digest), ..member() }).await;
    let status = stage.through().await;
    assert!(status.state == MediaState::Done && says(&status, "is not written now"), "{status:?}");
    stage.end().await;
}

/// The stick is there, and the OS task reads the release from it.
async fn begun(os_piece: Duration) -> Stage {
    let mut stage = Stage::made(&[], true, Patience { os_piece, ..patience() }).await;
    let release = Some(Digest::of(b"release"));
    stage.os.send_replace(Some(OsStatus { release: release.clone(), ..os_status(OsState::Fetching) }));
    stage.plug("sdb1");
    stage.answer(MediaOutcome { writes_os: release, ..member() }).await;
    stage
}

#[tokio::test]
async fn an_os_that_is_not_desired_any_more_holds_no_stick() {
    let other = OsStatus { release: Some(Digest::of(b"other")), ..os_status(OsState::Fetching) };
    for instead in [Some(other), Some(os_status(OsState::Idle)), None] {
        let stage = begun(SOON * 10).await;
        stage.status(|status| status.state == MediaState::WritingOs).await;
        stage.os.send_replace(instead);
        let status = stage.through().await;
        assert!(status.state == MediaState::Done && says(&status, "not desired any more"), "{status:?}");
        stage.end().await;
    }
}

#[tokio::test]
async fn an_os_that_comes_on_is_waited_for_and_one_that_stands_still_is_not() {
    let piece = Duration::from_secs(1);
    let stage = begun(piece).await;
    let (begun, mut written) = (Instant::now(), 0);
    while begun.elapsed() < piece * 3 / 2 {
        written += 1;
        let (method, total) = (OsMethod::Chunks, u64::MAX);
        let at = OsProgress { method, written, total, fetched: 0, to_fetch: 0, full: 0, rate: 0 };
        let release = Some(Digest::of(b"release"));
        stage.os.send_replace(Some(OsStatus { release, progress: Some(at), ..os_status(OsState::Fetching) }));
        stage.status(|status| status.state == MediaState::WritingOs && status.copied == written).await;
    }
    let status = stage.through().await;
    assert!(status.state == MediaState::Done && says(&status, "is not written now"), "{status:?}");
    stage.end().await;
}
