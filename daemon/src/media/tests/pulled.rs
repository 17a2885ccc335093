//! Sticks that go in the middle, and machines that do not let go of them.

use super::*;

/// The next plug-in is as if nothing had been.
async fn works_again(stage: &mut Stage) {
    {
        let mut machine = stage.folders.machine.lock().unwrap();
        (machine.fails, machine.pulled_at) = (Vec::new(), None);
    }
    stage.plug("sdb1");
    stage.status(|status| !status.removable).await;
    stage.answer(member()).await;
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Done, "{status:?}");
    assert!(!stage.outbox("sdb1").is_empty());
}

async fn failed(stage: &Stage) {
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Failed, "{status:?}");
    assert!(says(&status, "plug it in again"), "{status:?}");
}

#[tokio::test]
async fn while_it_is_read() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    let visit = timeout(SOON, stage.visits.recv()).await.unwrap().unwrap();
    stage.pull();
    failed(&stage).await;
    // Nobody waits for the link any more, and it is told.
    assert!(visit.reply.is_closed());
    drop(visit);
    works_again(&mut stage).await;
    stage.end().await;
}

#[tokio::test]
async fn while_the_link_says_that_it_broke() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.answer(MediaOutcome { broken: true, ..refused(None) }).await;
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Failed);
    assert!(says(&status, "it is refused, because") && stage.outbox("sdb1").is_empty());
    works_again(&mut stage).await;
    stage.end().await;
}

#[tokio::test]
async fn while_the_os_is_written_from_it() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    let digest = Digest::of(b"release");
    let os = OsStatus { release: Some(digest.clone()), ..os_status(OsState::Fetching) };
    stage.os.send_replace(Some(os));
    stage.answer(MediaOutcome { writes_os: Some(digest), ..member() }).await;
    stage.status(|status| status.state == MediaState::WritingOs).await;
    stage.pull();
    failed(&stage).await;
    works_again(&mut stage).await;
    stage.end().await;
}

#[tokio::test]
async fn while_the_workloads_come_up() {
    let mut stage = Stage::start().await;
    stage.plug("sdb1");
    stage.folders.machine.lock().unwrap().pulled_at = Some("writable");
    stage.answer(MediaOutcome { generation: Some(9), ..member() }).await;
    stage.status(|status| status.state == MediaState::WritingOutbox).await;
    stage.pull();
    failed(&stage).await;
    works_again(&mut stage).await;
    stage.end().await;
}

#[tokio::test]
async fn while_its_outbox_is_written() {
    for step in ["writable", "read_only"] {
        let mut stage = Stage::start().await;
        stage.folders.machine.lock().unwrap().pulled_at = Some(step);
        stage.plug("sdb1");
        stage.answer(member()).await;
        failed(&stage).await;
        works_again(&mut stage).await;
        stage.end().await;
    }
}

#[tokio::test]
async fn what_cannot_be_mounted_is_told_with_its_cure() {
    let stage = Stage::start().await;
    stage.media.attach("sdb1".parse().unwrap()).unwrap();
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Failed);
    assert!(
        says(&status, "vfat, exfat and ext4") && says(&status, "journalctl -u cairn-media@sdb1"),
        "{status:?}"
    );
    stage.end().await;
}

#[tokio::test]
async fn a_stick_that_stays_mounted_may_be_pulled_only_where_nothing_is_written_to_it() {
    for (fails, harmless) in [(vec!["release"], true), (vec!["release", "read_only"], false)] {
        let mut stage = Stage::start().await;
        stage.folders.machine.lock().unwrap().fails = fails;
        stage.plug("sdb1");
        stage.answer(member()).await;
        let status = stage.status(|status| says(status, "it stays mounted")).await;
        assert_eq!(says(&status, "switch the node off before you pull it"), !harmless, "{status:?}");
        let status = stage.status(|status| status.state == MediaState::Done).await;
        assert_eq!(status.removable, harmless);
        stage.end().await;
    }
}

#[tokio::test]
async fn a_link_that_is_gone_ends_the_visit() {
    let mut stage = Stage::start().await;
    stage.visits.close();
    stage.plug("sdb1");
    let status = stage.through().await;
    assert_eq!(status.state, MediaState::Failed);
    assert!(says(&status, "the node agent ends"), "{status:?}");
    stage.end().await;
}

#[tokio::test]
async fn more_sticks_than_can_wait_are_refused_in_words() {
    let stage = Stage::start().await;
    let refused = (0..=WAITING + 1).find_map(|n| stage.media.attach(format!("sd{n}").parse().unwrap()).err());
    assert!(refused.unwrap().contains("plug it in later"));
    stage.end().await;
}
