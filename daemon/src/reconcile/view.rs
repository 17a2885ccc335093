//! From what is known to what is planned with and what is shown. Pure.

use std::collections::BTreeMap;

use cairn_model::{
    compose::{Condition as ComposeCondition, NetworkMode, Restart as ComposeRestart},
    report::{Health, Severity, WorkloadState, WorkloadStatus},
    resolve::{Kind, ResolvedReplica},
};

use crate::{
    act::{images::ImagesState, supervisor::UnitState, workload},
    assemble::Assembled,
    plan::{Condition, Dependency, Phase, Plan, Waiting, Wanted},
    status::WorkStatus,
};

/// What the status is made of.
pub(super) struct Sources<'a> {
    pub(super) units: &'a BTreeMap<String, UnitState>,
    pub(super) plan: &'a Plan,
    pub(super) images: &'a ImagesState,
    pub(super) start_errors: &'a BTreeMap<String, String>,
    pub(super) last_ends: &'a BTreeMap<String, String>,
    pub(super) restarts: &'a BTreeMap<String, u32>,
    pub(super) now_ms: u64,
}

/// The planner's view of the replicas.
pub(super) fn wanted(desired: &Assembled) -> BTreeMap<String, Wanted> {
    desired
        .replicas
        .iter()
        .map(|(unit, replica)| {
            let wanted = Wanted {
                spec: replica.spec_hash(),
                image: replica.image.clone(),
                restart: workload::restart(replica.restart),
                after: dependencies(desired, replica),
                ports: workload::host_ports(replica).into_iter().collect(),
            };
            (unit.clone(), wanted)
        })
        .collect()
}

/// Every replica on this node of each service that `replica` depends on.
fn dependencies(desired: &Assembled, replica: &ResolvedReplica) -> Vec<Dependency> {
    let mut found = Vec::new();
    for (service, condition) in &replica.depends_on {
        let condition = match condition {
            ComposeCondition::ServiceStarted => Condition::Started,
            ComposeCondition::ServiceHealthy => Condition::Healthy,
            ComposeCondition::ServiceCompletedSuccessfully => Condition::Completed,
        };
        let units = desired
            .replicas
            .iter()
            .filter(|(_, other)| other.id.app == replica.id.app && other.id.service == *service);
        found.extend(units.map(|(unit, _)| Dependency { unit: unit.clone(), condition }));
    }
    found
}

/// Units that need an address, with their app.
pub(super) fn bridged(desired: &Assembled) -> BTreeMap<String, String> {
    desired
        .replicas
        .iter()
        .filter(|(_, r)| r.kind == Kind::Oci && r.network == NetworkMode::Bridge)
        .map(|(unit, r)| (unit.clone(), r.id.app.to_string()))
        .collect()
}

/// How the workloads stand.
pub(super) fn work_status(
    desired: &Assembled,
    sources: &Sources<'_>,
    health_of: impl Fn(&str) -> Health,
) -> WorkStatus {
    let workloads = desired.replicas.iter().map(|(unit, replica)| {
        let spec = replica.spec_hash();
        let observed = sources.units.get(unit);
        // A unit of an earlier spec is on its way out: what is asked for is not there yet.
        let current = observed.filter(|state| state.tag.spec == spec);
        let (state, detail) = match current {
            Some(unit) => (state_of(unit), unit.detail.clone()),
            None if observed.is_some() => {
                (WorkloadState::Pending, Some("replaces its predecessor".to_owned()))
            }
            None => waiting(unit, replica, sources),
        };
        let health = match (&replica.health, state) {
            (None, _) => Health::None,
            (Some(_), WorkloadState::Running) => health_of(unit),
            (Some(_), _) => Health::Starting,
        };
        let restarts = current
            .map_or(0, |unit| unit.restarts)
            .saturating_add(sources.restarts.get(unit).copied().unwrap_or(0));
        let restarts = match replica.restart {
            // systemd counts the one that its limit refuses, too.
            ComposeRestart::OnFailure { max_retries: Some(max) } => restarts.min(max),
            _ => restarts,
        };
        WorkloadStatus {
            app: replica.id.app.clone(),
            service: replica.id.service.clone(),
            replica: replica.id.index,
            image: replica.image.clone(),
            state,
            health,
            restarts,
            detail,
        }
    });
    let mut problems: Vec<String> = sources
        .images
        .failed
        .iter()
        .filter(|(image, _)| desired.images.contains_key(image))
        .map(|(_, problem)| problem.clone())
        .collect();
    problems.extend(sources.start_errors.iter().map(|(unit, problem)| format!("{unit}: {problem}")));
    WorkStatus { generation: desired.desired.generation, workloads: workloads.collect(), problems }
}

fn state_of(unit: &UnitState) -> WorkloadState {
    match unit.phase {
        // Between two starts: the supervisor waits after a failure.
        Phase::Starting if unit.detail.is_some() => WorkloadState::Failed,
        Phase::Starting => WorkloadState::Starting,
        Phase::Running => WorkloadState::Running,
        Phase::Stopping => WorkloadState::Stopping,
        Phase::Completed => WorkloadState::Completed,
        Phase::Failed => WorkloadState::Failed,
    }
}

fn waiting(unit: &str, replica: &ResolvedReplica, sources: &Sources<'_>) -> (WorkloadState, Option<String>) {
    if let Some(problem) = sources.start_errors.get(unit) {
        return (WorkloadState::Failed, Some(problem.clone()));
    }
    match sources.plan.waiting.get(unit) {
        None => (WorkloadState::Starting, None),
        Some(Waiting::Image) => match sources.images.failed.get(&replica.image) {
            Some(problem) => (WorkloadState::Failed, Some(problem.clone())),
            None => (WorkloadState::Pending, Some("its image is being made ready".to_owned())),
        },
        Some(Waiting::Dependency(dependency)) => {
            let what = match dependency.condition {
                Condition::Started => "to start",
                Condition::Healthy => "to be healthy",
                Condition::Completed => "to complete",
            };
            (WorkloadState::Pending, Some(format!("waits for {} {what}", dependency.unit)))
        }
        Some(Waiting::Port((protocol, port))) => {
            (WorkloadState::Pending, Some(format!("waits until port {port}/{protocol} is free")))
        }
        Some(Waiting::BackOff { until_ms }) => {
            let seconds = until_ms.saturating_sub(sources.now_ms).div_ceil(1000);
            // Rounded, so that the status does not change with every look.
            let rounded = seconds.next_multiple_of(10);
            let end = sources.last_ends.get(unit).map_or("failed", String::as_str);
            (WorkloadState::Failed, Some(format!("{end}; starts again within {rounded} s")))
        }
    }
}

/// What happened between two statuses, for the hub.
pub(super) fn events(before: &WorkStatus, now: &WorkStatus) -> Vec<(Severity, &'static str, String)> {
    let key = |w: &WorkloadStatus| (w.app.clone(), w.service.clone(), w.replica);
    let earlier: BTreeMap<_, _> = before.workloads.iter().map(|w| (key(w), w)).collect();
    let mut events = Vec::new();
    for workload in &now.workloads {
        let old = earlier.get(&key(workload));
        let name = format!("{}/{}/{}", workload.app, workload.service, workload.replica);
        let detail = workload.detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
        if old.is_none_or(|old| old.state != workload.state) {
            match workload.state {
                WorkloadState::Running => {
                    events.push((Severity::Info, "workload-running", format!("{name} runs")))
                }
                WorkloadState::Completed => {
                    events.push((Severity::Info, "workload-completed", format!("{name} completed")));
                }
                WorkloadState::Failed => {
                    events.push((Severity::Error, "workload-failed", format!("{name} failed{detail}")));
                }
                WorkloadState::Pending | WorkloadState::Starting | WorkloadState::Stopping => {}
            }
        }
        if workload.health == Health::Healthy && old.is_none_or(|old| old.health != Health::Healthy) {
            events.push((Severity::Info, "workload-healthy", format!("{name} is healthy")));
        }
    }
    let gone = earlier.keys().filter(|k| !now.workloads.iter().any(|w| key(w) == **k));
    events.extend(gone.map(|(app, service, replica)| {
        (Severity::Info, "workload-removed", format!("{app}/{service}/{replica} is not wanted here any more"))
    }));
    events
}

#[cfg(test)]
mod tests;
