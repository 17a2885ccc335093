//! The ledger: crash cases, monotonic generations, once-only commands, outbox and acknowledgement.

use std::os::unix::fs::FileExt;

use cairn_model::{
    BootId, Report,
    report::{NodeStatus, Record},
};

use super::*;

const NO_LIMIT: u64 = u64::MAX;

async fn fresh() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    (dir, ledger)
}

fn generation(generation: u64, documents: &[&[u8]]) -> StoredGeneration {
    StoredGeneration {
        generation,
        desired_state: format!("state {generation}").into_bytes(),
        documents: documents.iter().map(|d| (Digest::of(d), d.to_vec())).collect(),
    }
}

pub(crate) fn report(marker: u64) -> Report {
    Report {
        schema: 1,
        node: NodeId::of_public_key(&[7; 32]),
        boot: "0".repeat(32).parse::<BootId>().unwrap(),
        sequence: 0,
        time_ms: 0,
        records: vec![Record::Status(NodeStatus {
            generation: marker,
            workloads: vec![],
            problems: vec![],
            os: None,
        })],
    }
}

fn numbers(rows: &[OutboxRow]) -> Vec<u64> {
    rows.iter().map(|r| r.report.sequence).collect()
}

#[tokio::test]
async fn a_generation_is_kept_whole_and_an_older_one_never_replaces_it() {
    let (dir, ledger) = fresh().await;
    assert!(ledger.generation().await.unwrap().is_none());
    ledger.accept(&generation(3, &[b"a", b"b"])).await.unwrap();
    ledger.accept(&generation(4, &[b"b", b"c"])).await.unwrap();
    let error = ledger.accept(&generation(3, &[b"a"])).await.unwrap_err();
    assert!(matches!(error, LedgerError::Older { offered: 3, applied: 4 }), "{error}");
    ledger.close().await;

    let again = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    let stored = again.generation().await.unwrap().unwrap();
    assert_eq!(stored.generation, 4);
    assert_eq!(stored.desired_state, b"state 4");
    assert_eq!(stored.documents.values().map(Vec::as_slice).collect::<Vec<_>>().len(), 2);
    assert!(stored.documents.contains_key(&Digest::of(b"c")));
    assert!(!stored.documents.contains_key(&Digest::of(b"a")));
}

#[tokio::test]
async fn a_document_that_changed_on_disk_is_not_believed() {
    let (_dir, ledger) = fresh().await;
    ledger.accept(&generation(1, &[b"genuine"])).await.unwrap();
    sqlx::query("UPDATE documents SET bytes = x'6576696c'").execute(&ledger.pool).await.unwrap();
    let error = ledger.generation().await.unwrap_err();
    assert!(error.to_string().contains("move ledger.sqlite* away"), "{error}");
}

#[tokio::test]
async fn a_torn_file_is_an_error_that_names_its_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.sqlite");
    std::fs::write(&path, b"this was a database before the power went").unwrap();
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("move ledger.sqlite* away"), "{error}");
}

#[tokio::test]
async fn a_file_with_torn_pages_is_refused() {
    let (dir, ledger) = fresh().await;
    let big = b"x".repeat(100_000);
    ledger.accept(&generation(1, &[&big])).await.unwrap();
    ledger.close().await;
    let path = dir.path().join("ledger.sqlite");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for page in 1..12 {
        file.write_at(&[0xff; 2048], page * 4096).unwrap();
    }
    assert!(matches!(Ledger::open(&path).await.unwrap_err(), LedgerError::Damaged { .. }));
}

#[tokio::test]
async fn a_ledger_of_a_newer_daemon_is_left_alone() {
    let (dir, ledger) = fresh().await;
    sqlx::raw_sql("PRAGMA user_version = 9").execute(&ledger.pool).await.unwrap();
    ledger.close().await;
    let error = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 9, .. }), "{error}");
}

#[tokio::test]
async fn a_command_is_claimed_once_ever() {
    let (dir, ledger) = fresh().await;
    assert!(ledger.claim_command("c1", 1).await.unwrap());
    assert!(!ledger.claim_command("c1", 2).await.unwrap());
    ledger.close().await;
    let again = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    assert!(!again.claim_command("c1", 3).await.unwrap());
    assert!(again.claim_command("c2", 3).await.unwrap());
}

#[tokio::test]
async fn reports_are_numbered_when_sent_and_dropped_when_acknowledged() {
    let (dir, ledger) = fresh().await;
    for marker in 1..=3 {
        ledger.push_report(&report(marker), RecordClass::Event, NO_LIMIT).await.unwrap();
    }
    assert_eq!(numbers(&ledger.next_reports(1 << 20).await.unwrap()), [1, 2, 3]);
    assert_eq!(numbers(&ledger.next_reports(1).await.unwrap()), [1], "at least one, however large");
    assert_eq!(ledger.acknowledge(2).await.unwrap(), 2);
    ledger.close().await;
    let again = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    assert_eq!(numbers(&again.next_reports(1 << 20).await.unwrap()), [3], "unacknowledged ones stay");
    again.acknowledge(3).await.unwrap();
    again.push_report(&report(4), RecordClass::Event, NO_LIMIT).await.unwrap();
    assert_eq!(numbers(&again.next_reports(1 << 20).await.unwrap()), [4], "numbers never start again");
}

#[tokio::test]
async fn a_newer_status_replaces_one_that_was_never_sent() {
    let (_dir, ledger) = fresh().await;
    ledger.push_report(&report(1), RecordClass::Status, NO_LIMIT).await.unwrap();
    ledger.push_report(&report(2), RecordClass::Status, NO_LIMIT).await.unwrap();
    assert_eq!(ledger.unsent().await.unwrap(), 1);
    ledger.next_reports(1 << 20).await.unwrap();
    ledger.push_report(&report(3), RecordClass::Status, NO_LIMIT).await.unwrap();
    assert_eq!(numbers(&ledger.next_reports(1 << 20).await.unwrap()), [1, 2], "a numbered one stays");
}

#[tokio::test]
async fn a_full_outbox_drops_status_first_and_counts_lost_events() {
    let (_dir, ledger) = fresh().await;
    let size = serde_json::to_string(&report(0)).unwrap().len() as u64;
    ledger.push_report(&report(1), RecordClass::Status, NO_LIMIT).await.unwrap();
    assert_eq!(ledger.push_report(&report(2), RecordClass::Event, size * 2).await.unwrap(), 0);
    assert_eq!(ledger.push_report(&report(3), RecordClass::Event, size * 2).await.unwrap(), 0, "status went");
    assert_eq!(
        ledger.push_report(&report(4), RecordClass::Event, size * 2).await.unwrap(),
        1,
        "an event is counted"
    );
    assert_eq!(ledger.unsent().await.unwrap(), 2);
}

#[tokio::test]
async fn a_fresh_ledger_goes_on_after_what_the_hub_knows() {
    let (_dir, ledger) = fresh().await;
    assert!(!ledger.sequence_is_known().await.unwrap());
    ledger.push_report(&report(1), RecordClass::Event, NO_LIMIT).await.unwrap();
    ledger.push_report(&report(2), RecordClass::Event, NO_LIMIT).await.unwrap();
    ledger.next_reports(1 << 20).await.unwrap();
    ledger.resume_sequence(57).await.unwrap();
    assert!(ledger.sequence_is_known().await.unwrap());
    assert_eq!(numbers(&ledger.next_reports(1 << 20).await.unwrap()), [58, 59]);
}

#[tokio::test]
async fn counters_and_addresses_round_trip() {
    let (_dir, ledger) = fresh().await;
    ledger.set_restarts("u", 3).await.unwrap();
    assert_eq!(ledger.restarts().await.unwrap()["u"], 3);
    ledger.set_restarts("u", 0).await.unwrap();
    assert!(ledger.restarts().await.unwrap().is_empty());
    let slots = BTreeMap::from([("app/web".to_owned(), 1), ("unit/x".to_owned(), 2)]);
    ledger.set_address_slots(&slots).await.unwrap();
    assert_eq!(ledger.address_slots().await.unwrap(), slots);
}

#[tokio::test]
async fn reports_are_read_page_by_page_and_keep_their_numbers() {
    let (dir, ledger) = fresh().await;
    for marker in 1..=200 {
        ledger.push_report(&report(marker), RecordClass::Event, NO_LIMIT).await.unwrap();
    }
    let bytes = serde_json::to_string(&report(1)).unwrap().len();
    let mut seen = Vec::new();
    loop {
        let page = ledger.reports_after(seen.last().copied().unwrap_or(0), 10 * bytes).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 10, "{}", page.len());
        seen.extend(numbers(&page));
    }
    assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    assert_eq!(numbers(&ledger.reports_after(199, 1).await.unwrap()), [200], "one, however large");
    ledger.close().await;
    let again = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    again.push_report(&report(201), RecordClass::Event, NO_LIMIT).await.unwrap();
    assert_eq!(numbers(&again.reports_after(198, NO_LIMIT as usize).await.unwrap()), [199, 200, 201]);
}

#[tokio::test]
async fn a_signed_acknowledgement_drops_what_it_names_and_finds_a_lost_ledger_out() {
    let (_dir, ledger) = fresh().await;
    for marker in 1..=4 {
        ledger.push_report(&report(marker), RecordClass::Event, NO_LIMIT).await.unwrap();
    }
    assert_eq!(ledger.acknowledge_signed(0).await.unwrap(), 0);
    assert!(ledger.sequence_is_known().await.unwrap(), "there is somebody who counts");
    assert_eq!(numbers(&ledger.reports_after(0, 1 << 20).await.unwrap()), [1, 2, 3, 4]);
    assert_eq!(ledger.acknowledge_signed(2).await.unwrap(), 2);
    assert_eq!(ledger.acknowledge_signed(1).await.unwrap(), 0, "an older word takes nothing back");
    assert_eq!(numbers(&ledger.reports_after(0, 1 << 20).await.unwrap()), [3, 4]);
    // Numbers that this ledger never gave: an earlier one did, and nothing of this one has arrived.
    assert_eq!(ledger.acknowledge_signed(700).await.unwrap(), 0);
    assert_eq!(numbers(&ledger.reports_after(0, 1 << 20).await.unwrap()), [701, 702]);
}

#[tokio::test]
async fn an_enrolment_without_a_hub_is_kept_where_an_older_daemon_does_not_look() {
    let (_dir, ledger) = fresh().await;
    let raw = || RawValue::from_string("{}".to_owned()).unwrap();
    let mut enrolment = Enrolment {
        hub: None,
        ca_pem: None,
        node: NodeId::of_public_key(&[7; 32]),
        director_root: raw(),
        artifacts_root: raw(),
    };
    ledger.set_enrolment(&enrolment).await.unwrap();
    assert!(ledger.meta(ENROLMENT).await.unwrap().is_none());
    assert_eq!(ledger.enrolment().await.unwrap().unwrap().hub, None);
    enrolment.hub = Some("https://hub:1".parse().unwrap());
    enrolment.ca_pem = Some("CA".to_owned());
    ledger.set_enrolment(&enrolment).await.unwrap();
    assert_eq!(ledger.enrolment().await.unwrap().unwrap().hub, enrolment.hub);
    assert!(ledger.meta(ENROLMENT_BY_MEDIA).await.unwrap().is_none());
    // As every daemon before this one wrote it.
    let written = ledger.meta(ENROLMENT).await.unwrap().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!((&value["hub"], &value["ca_pem"]), (&"https://hub:1/".into(), &"CA".into()));
}
