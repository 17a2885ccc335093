//! Events between two statuses.

use cairn_model::id::Digest;

use super::*;

fn status(workloads: &[(&str, WorkloadState, Health)]) -> WorkStatus {
    let workloads = workloads.iter().map(|(service, state, health)| WorkloadStatus {
        app: "shop".parse().unwrap(),
        service: service.parse().unwrap(),
        replica: 0,
        image: Digest::of(b"i"),
        state: *state,
        health: *health,
        restarts: 0,
        detail: Some("exited with code 3".to_owned()),
    });
    WorkStatus { generation: 1, workloads: workloads.collect(), problems: vec![] }
}

fn reasons(before: &WorkStatus, now: &WorkStatus) -> Vec<&'static str> {
    events(before, now).into_iter().map(|(_, reason, _)| reason).collect()
}

#[test]
fn each_change_is_told_once() {
    use Health::{Healthy, None, Starting};
    use WorkloadState::{Completed, Failed, Pending, Running};
    let nothing = status(&[]);
    let pending = status(&[("web", Pending, None)]);
    let running = status(&[("web", Running, Starting)]);
    let healthy = status(&[("web", Running, Healthy)]);
    let failed = status(&[("web", Failed, Starting)]);
    assert_eq!(reasons(&nothing, &pending), Vec::<&str>::new());
    assert_eq!(reasons(&pending, &running), ["workload-running"]);
    assert_eq!(reasons(&running, &healthy), ["workload-healthy"]);
    assert_eq!(reasons(&healthy, &healthy), Vec::<&str>::new());
    assert_eq!(reasons(&healthy, &failed), ["workload-failed"]);
    assert_eq!(reasons(&failed, &nothing), ["workload-removed"]);
    assert_eq!(reasons(&running, &status(&[("web", Completed, None)])), ["workload-completed"]);
    assert!(events(&healthy, &failed)[0].2.contains("exited with code 3"));
}
