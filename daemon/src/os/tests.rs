//! The OS task from a desired release to one that is kept, and all the ways in which that comes to nothing.

use std::{fs, sync::atomic::Ordering};

use cairn_model::{
    desired::RebootPolicy,
    report::{Health, Slot, WorkloadState, WorkloadStatus},
};

use super::*;
use crate::bus::port::Source;

mod stage;

use stage::{Build, Stage, reasons};

/// How it says that it waits to be asked.
fn waits(status: &OsStatus) -> bool {
    status.detail.as_deref().is_some_and(|detail| detail.contains("cairn os apply"))
}

fn workload(state: WorkloadState) -> WorkloadStatus {
    WorkloadStatus {
        app: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
        replica: 0,
        image: Digest::of(b"image"),
        state,
        health: Health::Healthy,
        restarts: 0,
        detail: None,
    }
}

fn builds() -> (Build, Build) {
    (Build::new("1", 11), Build::new("2", 22))
}

/// Installed, restarted into: the first half of many tests. Ends with the daemon of the new OS.
async fn into_the_new_one(stage: &mut Stage, old: &Build, new: &Build, deadline: u32) -> stage::Daemon {
    let mut daemon = stage.boot(old, Slot::A).await;
    daemon.work.send_modify(|work| work.workloads = vec![workload(WorkloadState::Running)]);
    let release = stage.release(new, |_| {});
    daemon.desire(&release, |wanted| wanted.health.deadline_seconds = deadline);
    daemon.until_restart().await;
    daemon.until("armed", |status| status.state == OsState::Armed).await;
    daemon.end().await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
    stage.count_a_try("cairn_2+3-0.efi", "cairn_2+2-1.efi");
    let daemon = stage.boot(new, Slot::B).await;
    daemon.desire(&release, |wanted| wanted.health.deadline_seconds = deadline);
    daemon.until("the trial", |status| status.state == OsState::Trying).await;
    daemon
}

#[tokio::test]
async fn a_desired_os_is_written_tried_and_kept() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = into_the_new_one(&mut stage, &old, &new, 60).await;
    // Both are asked for: neither alone will do.
    daemon.until("the hub is missed", |s| s.detail.as_deref().is_some_and(|d| d.contains("hub"))).await;
    daemon.hear_hub();
    daemon.until("the workload is missed", |s| s.state == OsState::Good).await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2.efi"]);
    assert_eq!(daemon.os.verdict().await, Ok(()));
    assert_eq!(daemon.restarts(), 0);
    let events = daemon.end().await;
    let expected = ["os-update-started", "os-update-written", "os-restarting", "os-trying", "os-kept"];
    assert_eq!(reasons(&events), expected);
}

#[tokio::test]
async fn without_a_hub_an_os_comes_by_stick_and_is_kept_without_asking_for_one() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    stage.hubless = true;
    let release = stage.release(&new, |_| {});
    let desire = |daemon: &stage::Daemon| {
        daemon.desire(&release, |wanted| {
            // Nobody sets its clock but people: windows are kept by that.
            let windows = ["00:00-12:00", "12:00-00:00"].map(str::to_owned).into();
            wanted.reboot = RebootPolicy::Window { windows, time_zone: "UTC".to_owned() };
        });
    };
    let mut daemon = stage.boot(&old, Slot::A).await;
    desire(&daemon);
    daemon.until("it waits for the stick", |s| s.state == OsState::Fetching).await;
    daemon.stick.send_replace(Some(stage.stick()));
    daemon.until_restart().await;
    daemon.end().await;
    assert_eq!(stage.shop.sent.load(Ordering::SeqCst), 0, "nobody asked the hub");
    stage.count_a_try("cairn_2+3-0.efi", "cairn_2+2-1.efi");

    let daemon = stage.boot(&new, Slot::B).await;
    desire(&daemon);
    daemon.until("kept", |status| status.state == OsState::Good).await;
    let events = daemon.end().await;
    let kept = events.iter().find(|event| event.reason == "os-kept").expect("it is told");
    assert!(kept.message.contains("the hub is not asked"), "{}", kept.message);
}

#[tokio::test]
async fn a_node_that_is_signed_to_have_no_network_asks_nothing_of_a_hub_that_is_dead() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let release = stage.release(&new, |_| {});
    let desire = |daemon: &stage::Daemon, hub: bool| {
        daemon.desire(&release, |wanted| {
            wanted.health.hub = hub;
            let windows = ["00:00-12:00", "12:00-00:00"].map(str::to_owned).into();
            wanted.reboot = RebootPolicy::Window { windows, time_zone: "UTC".to_owned() };
        });
    };
    // A hub is configured, and nobody has heard of it in this boot.
    let mut daemon = stage.boot(&old, Slot::A).await;
    daemon.stick.send_replace(Some(stage.stick()));
    desire(&daemon, true);
    let unset = |s: &OsStatus| s.detail.as_deref().is_some_and(|d| d.contains("clock is not set yet"));
    daemon.until("its clock is the hub's to set", unset).await;
    assert_eq!(daemon.restarts(), 0);
    desire(&daemon, false);
    daemon.until_restart().await;
    daemon.end().await;
    assert_eq!(stage.shop.sent.load(Ordering::SeqCst), 0, "nobody asked the hub");
    stage.count_a_try("cairn_2+3-0.efi", "cairn_2+2-1.efi");

    let daemon = stage.boot(&new, Slot::B).await;
    desire(&daemon, false);
    daemon.until("kept", |status| status.state == OsState::Good).await;
    let events = daemon.end().await;
    let kept = events.iter().find(|event| event.reason == "os-kept").expect("it is told");
    assert!(kept.message.contains("by the policy for this node"), "{}", kept.message);
}

#[tokio::test]
async fn a_stick_tries_at_once_what_would_wait() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    stage.hubless = true;
    let mut daemon = stage.boot(&old, Slot::A).await;
    let empty = tempfile::tempdir().unwrap();
    let node = "n-0123456789abcdef".parse().unwrap();
    daemon.stick.send_replace(Some(Arc::new(MediaSource::open(empty.path(), &node).unwrap())));
    daemon.desire(&stage.release(&new, |_| {}), |_| {});
    let failed = daemon.until("the stick lacks it", |s| s.state == OsState::Failed).await;
    assert!(failed.detail.unwrap().contains("export to it again"));
    daemon.stick.send_replace(Some(stage.stick()));
    daemon.until_restart().await;
}

#[tokio::test]
async fn an_os_that_is_not_well_is_given_up_and_not_tried_again() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let mut daemon = into_the_new_one(&mut stage, &old, &new, 1).await;
    daemon.until_restart().await;
    let events = daemon.events().await;
    let last = events.last().unwrap();
    assert_eq!(last.reason, "os-unhealthy", "it is on the disk before the restart");
    assert!(last.message.contains("the hub has not answered"), "{}", last.message);
    assert!(daemon.os.verdict().await.unwrap_err().contains("the hub has not answered"));
    assert_eq!(stage.entries()[0], "cairn_1.efi");
    assert!(stage.entries()[1].starts_with("cairn_2+0-"), "{:?}", stage.entries());
    daemon.end().await;

    let daemon = stage.boot(&old, Slot::A).await;
    let release = stage.release(&new, |_| {});
    daemon.desire(&release, |_| {});
    let status = daemon.until("rolled back", |s| s.state == OsState::RolledBack).await;
    assert!(status.detail.unwrap().contains("the hub has not answered"));
    assert_eq!(daemon.os.verdict().await, Ok(()));
    daemon.desire(&release, |wanted| wanted.attempt = 1);
    daemon.until("tried again", |s| s.state == OsState::Armed).await;
    let events = daemon.end().await;
    let told = reasons(&events);
    assert_eq!(told.iter().filter(|reason| **reason == "os-rolled-back").count(), 1, "{told:?}");
    assert!(!told.contains(&"os-refused"), "how it failed was told already: {told:?}");
}

#[tokio::test]
async fn rejects_a_release_for_another_machine_before_anything_is_fetched() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let release = stage.release(&new, |release| release.compatible = "other-box".to_owned());
    for _ in 0..2 {
        let daemon = stage.boot(&old, Slot::A).await;
        daemon.desire(&release, |_| {});
        let status = daemon.until("refused", |s| s.state == OsState::Refused).await;
        assert!(status.detail.unwrap().contains("other-box"));
        assert_eq!(status.target.unwrap(), new.version);
        assert_eq!(stage.shop.sent.load(Ordering::SeqCst), 0);
        let events = daemon.end().await;
        assert_eq!(reasons(&events), ["os-refused"], "told once, whatever the daemon does");
    }
    assert_eq!(stage.entries(), ["cairn_1.efi"]);
}

#[tokio::test]
async fn a_transfer_that_breaks_again_and_again_ends_whole() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    stage.shop.breaks_after.store(100 << 10, Ordering::SeqCst);
    let mut daemon = stage.boot(&old, Slot::A).await;
    daemon.desire(&stage.release(&new, |_| {}), |_| {});
    daemon.until_restart().await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
}

#[tokio::test]
async fn a_release_whose_bytes_are_not_what_it_says_is_never_armed() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = stage.boot(&old, Slot::A).await;
    let wrong = Build::new("2", 33);
    let mut release = stage.release(&new, |_| {});
    release.chunks = stage.release(&wrong, |_| {}).chunks;
    daemon.desire(&release, |_| {});
    let failed = |s: &OsStatus| s.detail.as_deref().is_some_and(|d| d.contains("tried again by itself"));
    assert_eq!(daemon.until("failed", failed).await.state, OsState::Failed);
    assert_eq!(stage.entries(), ["cairn_1.efi"]);
    assert_eq!(daemon.restarts(), 0);
    let events = daemon.end().await;
    assert_eq!(reasons(&events), ["os-update-started", "os-update-failed"]);
}

#[tokio::test]
async fn a_daemon_that_ends_in_the_middle_goes_on_where_it_was() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let release = stage.release(&new, |_| {});
    let daemon = stage.boot(&old, Slot::A).await;
    daemon.desire(&release, |_| {});
    daemon.until("fetching", |s| s.progress.is_some_and(|p| p.written > 0)).await;
    daemon.end().await;
    assert_eq!(stage.entries(), ["cairn_1.efi"], "nothing boots what is half written");
    let mut daemon = stage.start(&old, Slot::A).await;
    daemon.desire(&release, |_| {});
    daemon.until_restart().await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
}

#[tokio::test]
async fn an_installation_that_waits_for_its_hub_stops_when_something_else_is_desired() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    stage.shop.hangs.store(true, Ordering::SeqCst);
    let mut daemon = stage.boot(&old, Slot::A).await;
    daemon.desire(&stage.release(&new, |_| {}), |_| {});
    daemon.until("fetching", |s| s.state == OsState::Fetching).await;
    stage.shop.hangs.store(false, Ordering::SeqCst);
    daemon.desire(&stage.release(&Build::new("3", 33), |_| {}), |_| {});
    daemon.until_restart().await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_3+3-0.efi"]);
}

#[tokio::test]
async fn a_kill_between_written_and_armed_fetches_next_to_nothing_again() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let release = stage.release(&new, |_| {});
    let mut daemon = stage.boot(&old, Slot::A).await;
    daemon.desire(&release, |_| {});
    daemon.until_restart().await;
    daemon.end().await;
    let sent = stage.shop.sent.load(Ordering::SeqCst);
    // As the kill leaves it: all of it stands written, and the last act has not happened.
    stage.count_a_try("cairn_2+3-0.efi", ".cairn_2.tmp");
    let state = stage.dir.path().join("os/state.json");
    let text = fs::read_to_string(&state).unwrap();
    assert!(text.contains("\"armed\""), "{text}");
    fs::write(&state, text.replace("\"armed\"", "\"written\"")).unwrap();
    let mut daemon = stage.start(&old, Slot::A).await;
    daemon.desire(&release, |_| {});
    daemon.until_restart().await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
    let again = stage.shop.sent.load(Ordering::SeqCst) - sent;
    assert!(again < sent / 20, "{again} of {sent} bytes came again");
}

#[tokio::test]
async fn by_hand_it_restarts_only_when_it_is_asked_to() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let mut daemon = stage.boot(&old, Slot::A).await;
    daemon.until("idle", |s| s.state == OsState::Idle).await;
    let refusal = daemon.os.apply().await.unwrap_err();
    assert!(refusal.contains("no OS stands written"), "{refusal}");
    let release = stage.release(&new, |_| {});
    daemon.desire(&release, |wanted| wanted.reboot = RebootPolicy::Manual);
    daemon.until("waiting", waits).await;
    assert_eq!(daemon.restarts(), 0);
    daemon.os.apply().await.unwrap();
    daemon.until_restart().await;
}

#[tokio::test]
async fn outside_its_window_it_says_when_that_opens() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = stage.boot(&old, Slot::A).await;
    let tomorrow = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).tomorrow().unwrap();
    let day = tomorrow.strftime("%a").to_string();
    let windows = vec![format!("{day} 12:00-13:00")];
    let reboot = RebootPolicy::Window { windows, time_zone: "UTC".to_owned() };
    let release = stage.release(&new, |_| {});
    let desire = || daemon.desire(&release, |wanted| wanted.reboot = reboot.clone());
    // A clock that nobody has set may show any time, and a hub that shows another one is no help.
    daemon.believe_hub(60);
    desire();
    let unset = |s: &OsStatus| s.detail.as_deref().is_some_and(|d| d.contains("clock is not set yet"));
    daemon.until("waiting for the clock", unset).await;
    let opens = |s: &OsStatus| s.detail.as_deref().is_some_and(|d| d.contains("window, which opens at"));
    daemon.believe_hub(-59);
    desire();
    daemon.until("waiting", opens).await;
    daemon.believe_hub(3600);
    desire();
    daemon.until("waiting for the clock", unset).await;
    let synchronized = stage.dir.path().join("run/systemd/timesync/synchronized");
    fs::create_dir_all(synchronized.parent().unwrap()).unwrap();
    fs::write(synchronized, "").unwrap();
    desire();
    daemon.until("waiting", opens).await;
    assert_eq!(daemon.restarts(), 0);
}

/// What is remembered of the armed release.
fn remembered(stage: &Stage) -> serde_json::Value {
    let text = fs::read(stage.dir.path().join("os/state.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["attempt"].clone()
}

#[tokio::test]
async fn what_must_be_well_is_on_the_disk_before_anybody_asks_for_the_restart() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let release = stage.release(&new, |_| {});
    for (verified, refused) in [(false, false), (true, false), (true, true)] {
        let daemon = stage.boot(&old, Slot::A).await;
        daemon.work.send_modify(|work| work.workloads = vec![workload(WorkloadState::Running)]);
        if verified {
            daemon.believe_hub(0);
        }
        if refused {
            daemon.link.send_modify(|link| link.refusal = Some("it is refused".to_owned()));
        }
        daemon.desire(&release, |wanted| wanted.reboot = RebootPolicy::Manual);
        daemon.until("waiting", waits).await;
        let attempt = remembered(&stage);
        assert_eq!(attempt["expectations"], serde_json::json!(["cairn-shop-web-0"]), "{attempt}");
        // What was refused before may be refused after: that is not the new OS's fault.
        assert_eq!(attempt["hub_verified"], verified && !refused, "{attempt}");
        daemon.end().await;
    }
}

#[tokio::test]
async fn an_armed_os_that_is_not_desired_any_more_is_not_booted() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let (running, release) = (stage.release(&old, |_| {}), stage.release(&new, |_| {}));
    let foreign = stage.release(&Build::new("3", 33), |release| release.compatible = "other".to_owned());
    let mut daemon = stage.boot(&old, Slot::A).await;
    for instead in [None, Some(&running), Some(&foreign)] {
        daemon.desire(&release, |wanted| wanted.reboot = RebootPolicy::Manual);
        daemon.until("armed", waits).await;
        assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
        match instead {
            None => daemon.desire_nothing(),
            Some(release) => daemon.desire(release, |_| {}),
        }
        daemon.until("taken back", |s| s.state != OsState::Armed && s.other.is_none()).await;
        assert_eq!(stage.entries(), ["cairn_1.efi"]);
        assert!(daemon.os.apply().await.is_err());
    }
    // It can be had again.
    daemon.desire(&release, |_| {});
    daemon.until_restart().await;
    assert_eq!(stage.entries(), ["cairn_1.efi", "cairn_2+3-0.efi"]);
}

#[tokio::test]
async fn rejects_to_restart_into_what_is_not_desired() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = stage.boot(&old, Slot::A).await;
    daemon.desire(&stage.release(&new, |_| {}), |wanted| wanted.reboot = RebootPolicy::Manual);
    daemon.until("armed", waits).await;
    // It cannot be taken back: there would be nothing left to boot.
    fs::remove_file(stage.entries_dir().join("cairn_1.efi")).unwrap();
    daemon.desire_nothing();
    let stuck = |s: &OsStatus| s.detail.as_deref().is_some_and(|d| d.contains("cannot be taken back"));
    let status = daemon.until("stuck", stuck).await;
    assert_eq!((status.state, stage.entries()), (OsState::Armed, vec!["cairn_2+3-0.efi".to_owned()]));
    let refusal = daemon.os.apply().await.unwrap_err();
    assert!(refusal.contains("not the one that is desired"), "{refusal}");
    assert_eq!(daemon.restarts(), 0);
}

#[tokio::test]
async fn terms_that_come_after_arming_are_those_of_the_trial() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = stage.boot(&old, Slot::A).await;
    let release = stage.release(&new, |_| {});
    daemon.desire(&release, |wanted| wanted.reboot = RebootPolicy::Manual);
    daemon.until("armed", waits).await;
    daemon.desire(&release, |wanted| {
        wanted.reboot = RebootPolicy::AtOnce;
        (wanted.attempt, wanted.health.deadline_seconds, wanted.health.hub) = (3, 77, false);
    });
    daemon.until("restarting", |s| s.detail.as_deref() == Some("restarts now")).await;
    let attempt = remembered(&stage);
    assert_eq!(attempt["attempt"], 3);
    assert_eq!(attempt["health"], serde_json::json!({"deadline_seconds": 77, "hub": false}));
}

#[tokio::test]
async fn rejects_marks_while_an_os_is_tried() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = into_the_new_one(&mut stage, &old, &new, 60).await;
    let before = stage.entries();
    for slot in [Slot::A, Slot::B] {
        for how in [crate::bus::port::Mark::Good, crate::bus::port::Mark::Bad] {
            let (reply, answer) = oneshot::channel();
            daemon.bus.send(OsRequest::Mark { slot, how, reply }).await.unwrap();
            let refusal = answer.await.unwrap().unwrap_err();
            assert!(refusal.contains("being tried"), "{refusal}");
        }
    }
    assert_eq!(stage.entries(), before);
    daemon.hear_hub();
    daemon.until("kept", |s| s.state == OsState::Good).await;
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_is_asked_again() {
    let (old, _) = builds();
    let mut stage = Stage::new(&old).await;
    stage.patience = Patience { retry: Duration::from_millis(20), verdict: Duration::from_secs(600) };
    // No folder, as on a data partition that is not there yet.
    fs::write(stage.dir.path().join("os"), "").unwrap();
    let daemon = stage.boot(&old, Slot::A).await;
    let mut problem = daemon.os.problem.clone();
    let told = problem.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(told.contains("trying again"), "{told}");
    let refusal = daemon.os.apply().await.unwrap_err();
    assert!(refusal.contains("trying again"), "{refusal}");
    assert_eq!(*daemon.os.verdict.borrow(), None, "one failure is no verdict on an OS that is tried");
    fs::remove_file(stage.dir.path().join("os")).unwrap();
    daemon.until("opened", |s| s.state == OsState::Idle).await;
    assert_eq!(*daemon.os.problem.borrow(), None);
    daemon.end().await;

    fs::remove_dir_all(stage.dir.path().join("os")).unwrap();
    fs::write(stage.dir.path().join("os"), "").unwrap();
    stage.patience.verdict = Duration::ZERO;
    let daemon = stage.boot(&old, Slot::A).await;
    assert!(daemon.os.verdict().await.is_err(), "not for ever");
}

#[tokio::test]
async fn only_what_the_hub_desires_is_installed_whoever_asks() {
    let (old, new) = builds();
    let mut stage = Stage::new(&old).await;
    let daemon = stage.boot(&old, Slot::A).await;
    let ask = async |source: Source| {
        let (reply, answer) = oneshot::channel();
        daemon.bus.send(OsRequest::Install { source, digest: None, reply }).await.unwrap();
        answer.await.unwrap()
    };
    let nothing = ask(Source::Version(new.version.clone())).await.unwrap_err();
    assert!(nothing.contains("desires no OS"), "{nothing}");
    let release = stage.release(&new, |_| {});
    daemon.desire(&release, |wanted| wanted.reboot = RebootPolicy::Manual);
    let other = ask(Source::Version("7".parse().unwrap())).await.unwrap_err();
    assert!(other.contains("desires OS 2"), "{other}");
    let other = ask(Source::Digest(Digest::of(b"other"))).await.unwrap_err();
    assert!(other.contains("desires OS 2"), "{other}");
    let folder = ask(Source::Folder(stage.dir.path().join("nothing"))).await.unwrap_err();
    assert!(folder.contains("index.json"), "{folder}");
    ask(Source::Version(new.version.clone())).await.unwrap();
    assert_eq!(daemon.os.status.borrow().as_ref().unwrap().state, OsState::Armed);
    let (reply, answer) = oneshot::channel();
    daemon.bus.send(OsRequest::Slots { reply }).await.unwrap();
    let slots = answer.await.unwrap().unwrap();
    assert!(slots[0].running && slots[1].tries_left == Some(3), "{slots:?}");
    let (reply, answer) = oneshot::channel();
    daemon.bus.send(OsRequest::Primary { reply }).await.unwrap();
    assert_eq!(answer.await.unwrap(), Ok(Slot::B));
}

#[tokio::test]
async fn a_node_without_slots_says_that_it_does_not_update() {
    let (old, new) = builds();
    let stage = Stage::new(&old).await;
    let release = stage.release(&new, |_| {});
    let daemon = stage.start_without_slots().await;
    assert_eq!(daemon.os.verdict().await, Ok(()), "nothing is being tried");
    daemon.desire(&release, |_| {});
    let mut problem = daemon.os.problem.clone();
    let told = problem.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(told.contains("does not update its OS") && told.contains("cairn-image flash"), "{told}");
    assert_eq!(*daemon.os.status.borrow(), None);
    assert!(daemon.os.apply().await.is_err());
    assert!(daemon.end().await.is_empty());
}

#[tokio::test]
async fn progress_alone_reaches_the_hub_at_a_calm_pace() {
    let (live, live_out) = watch::channel(None);
    let (reported, mut reported_out) = watch::channel(None);
    let task = tokio::spawn(calm(live_out, reported));
    let status = |written: u64| {
        let progress = serde_json::json!({
            "method": "chunks", "written": written, "total": 9, "fetched": 0, "to_fetch": 9, "full": 9, "rate": 0});
        serde_json::from_value::<OsStatus>(serde_json::json!({
            "version": "1", "compatible": "x", "slot": "a", "other": null, "state": "fetching", "progress": progress}))
        .unwrap()
    };
    live.send_replace(Some(status(1)));
    reported_out.changed().await.unwrap();
    live.send_replace(Some(status(2)));
    let armed = OsStatus { state: OsState::Armed, ..status(3) };
    live.send_replace(Some(armed.clone()));
    reported_out.changed().await.unwrap();
    assert_eq!(*reported_out.borrow_and_update(), Some(armed), "a new state is told at once");
    drop(live);
    task.await.unwrap();
}

#[test]
fn a_note_lies_over_the_status_and_leaves_the_rest() {
    let status: OsStatus = serde_json::from_value(serde_json::json!({
        "version": "1", "compatible": "x", "slot": "a", "other": null, "state": "armed", "detail": "old"}))
    .unwrap();
    let noted = Note::detail("new").over(status.clone());
    assert_eq!((noted.state, noted.detail.as_deref()), (OsState::Armed, Some("new")));
    assert_eq!(Note::default().over(status.clone()), status);
}
