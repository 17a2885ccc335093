//! Each version of each document is still read, and what is newer, larger or unsound is refused with a cure.

use std::{collections::BTreeMap, fs};

use cairn_model::{
    DesiredState, Digest, DocumentError, Facts, Report,
    desired::{Command, CommandKind, DesiredApp, Policy},
    enroll::EnrollRequest,
    report::{CommandOutput, Event, Health, NodeStatus, Record, Severity, WorkloadState, WorkloadStatus},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{check_golden, repository};

fn facts() -> Facts {
    Facts {
        schema: 1,
        hostname: "edge-1".to_owned(),
        arch: "amd64".to_owned(),
        kernel: "6.12.0-amd64".to_owned(),
        os: "cairn".to_owned(),
        os_version: "1".to_owned(),
        daemon_version: "0.1.0".to_owned(),
        cpus: 4,
        memory_bytes: 1 << 30,
        data_bytes: 8 << 30,
        runtimes: vec!["oci".to_owned(), "wasm".to_owned()],
        labels: BTreeMap::from([("zone".to_owned(), "berlin".to_owned())]),
    }
}

fn desired() -> DesiredState {
    let app = DesiredApp {
        app: Digest::of(b"app"),
        services: BTreeMap::from([("web".parse().unwrap(), vec![0, 2])]),
    };
    let logs =
        CommandKind::Logs { app: "shop".parse().unwrap(), service: Some("web".parse().unwrap()), lines: 100 };
    DesiredState {
        schema: 1,
        node: "n-0123456789abcdef".parse().unwrap(),
        generation: 7,
        apps: BTreeMap::from([("shop".parse().unwrap(), app)]),
        os: None,
        commands: vec![Command { id: "c1".to_owned(), not_after: 1_800_000_000, kind: logs }],
        policy: Policy::default(),
    }
}

fn report() -> Report {
    let workload = WorkloadStatus {
        app: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
        replica: 0,
        image: Digest::of(b"image"),
        state: WorkloadState::Running,
        health: Health::Healthy,
        restarts: 1,
        detail: Some("last exit code 1".to_owned()),
    };
    let time_ms = 1_800_000_000_000;
    Report {
        schema: 1,
        node: "n-0123456789abcdef".parse().unwrap(),
        boot: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        sequence: 3,
        time_ms,
        records: vec![
            Record::Facts(facts()),
            Record::Status(NodeStatus {
                generation: 7,
                workloads: vec![workload],
                problems: vec!["the hub is not reachable; check the network".to_owned()],
                os: None,
            }),
            Record::Event(Event {
                time_ms,
                severity: Severity::Warning,
                reason: "workload-failed".to_owned(),
                message: "shop/web/0 ended with exit code 1; see its logs".to_owned(),
            }),
            Record::CommandOutput(CommandOutput {
                command: "c1".to_owned(),
                chunk: 0,
                text: "hello\n".to_owned(),
                exit_code: Some(0),
            }),
        ],
    }
}

fn value(document: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(document).unwrap();
    value.sort_all_objects();
    value
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(repository(&format!("model/tests/golden/{name}.v1.json"))).unwrap()
}

#[test]
fn goldens_of_version_1_are_read_and_written() {
    check_golden("model/tests/golden/desired-state.v1.json", &value(&desired()));
    check_golden("model/tests/golden/report.v1.json", &value(&report()));
    check_golden("model/tests/golden/facts.v1.json", &value(&facts()));
    assert_eq!(DesiredState::parse(&golden("desired-state")).unwrap(), desired());
    assert_eq!(Report::parse(&golden("report")).unwrap(), report());
    assert_eq!(Facts::parse(&golden("facts")).unwrap(), facts());
}

/// The desired state with one thing changed.
fn changed(change: impl FnOnce(&mut Value)) -> Result<DesiredState, DocumentError> {
    let mut document = value(&desired());
    change(&mut document);
    DesiredState::parse(document.to_string().as_bytes())
}

#[test]
fn refuses_a_newer_schema_with_a_cure() {
    for schema in [0, 2, 1_000_000_000_000_u64] {
        // A newer one has fields that we do not know: the number is what is told all the same.
        let error = changed(|document| {
            document["schema"] = json!(schema);
            document["os"] = json!({});
        });
        let text = error.unwrap_err().to_string();
        let expected = format!(
            "the desired state has schema {schema}, but this program knows 1 to 1; update this program"
        );
        assert_eq!(text, expected);
    }
    for (result, what) in [
        (Report::parse(b"{\"schema\":2}").map(drop), "report"),
        (Facts::parse(b"{\"schema\":2}").map(drop), "facts"),
        (EnrollRequest::parse(b"{\"schema\":2}").map(drop), "enrolment request"),
    ] {
        assert!(result.unwrap_err().to_string().starts_with(&format!("the {what} has schema 2")));
    }
}

#[test]
fn refuses_what_is_unsound() {
    assert!(changed(|_| {}).is_ok());
    let refused = |change: fn(&mut Value), text: &str| {
        let error = changed(change).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(|d| d["apps"]["shop"]["services"]["web"] = json!([1, 1]), "replica 1 of web twice");
    refused(|d| d["commands"] = json!([d["commands"][0], d["commands"][0]]), "repeated id \"c1\"");
    refused(|d| d["commands"][0]["id"] = json!(""), "bad or repeated id");
    refused(|d| d["policy"]["poll_seconds"] = json!(0), "poll_seconds: 0");
    refused(|d| d["unknown"] = json!(1), "malformed");
    refused(|d| d["node"] = json!("n-../../x"), "malformed");
    refused(|d| d["apps"]["Bad Name"] = d["apps"]["shop"].clone(), "malformed");
    let mut first = value(&report());
    first["sequence"] = json!(0);
    assert!(Report::parse(first.to_string().as_bytes()).is_err());
}

#[test]
fn refuses_what_is_too_large_or_too_deep() {
    let large = vec![b' '; (4 << 20) + 1];
    assert!(matches!(DesiredState::parse(&large), Err(DocumentError::TooLarge { .. })));
    assert!(matches!(Report::parse(&large), Err(DocumentError::TooLarge { .. })));
    assert!(matches!(Facts::parse(&large), Err(DocumentError::TooLarge { .. })));
    assert!(matches!(EnrollRequest::parse(&large), Err(DocumentError::TooLarge { .. })));
    let deep = format!("{{\"schema\":1,\"x\":{}", "[".repeat(1_000_000));
    assert!(matches!(DesiredState::parse(deep.as_bytes()), Err(DocumentError::Malformed { .. })));
}
