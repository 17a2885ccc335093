//! Puts together what the tasks publish: the node's status for the hub and for the local socket. Pure, but for the one
//! small task that keeps the whole up to date.

use cairn_model::{
    NodeId,
    local::LocalStatus,
    report::{NodeStatus, OsStatus, WorkloadStatus},
};
use tokio::sync::watch;

use crate::link::LinkStatus;

/// What the reconciler publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkStatus {
    /// The generation that it works for.
    pub generation: u64,
    /// Every replica that should run here.
    pub workloads: Vec<WorkloadStatus>,
    /// What keeps it from its work, with a cure.
    pub problems: Vec<String>,
}

/// What stays the same while the daemon runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// For people to compare.
    pub fingerprint: String,
}

/// What the OS task publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsView {
    /// How the OS stands; `None` on a node that does not update its OS.
    pub status: Option<OsStatus>,
    /// What keeps the node from updating its OS, with a cure.
    pub problem: Option<String>,
}

/// The status that goes to the hub.
pub fn node_status(link: &LinkStatus, work: &WorkStatus, os: &OsView) -> NodeStatus {
    let problems = link.refusal.iter().chain(&link.problem).chain(&work.problems).chain(&os.problem);
    NodeStatus {
        generation: work.generation,
        workloads: work.workloads.clone(),
        problems: problems.cloned().collect(),
        os: os.status.clone(),
    }
}

/// The status that the local socket shows.
pub fn local_status(
    identity: &Identity,
    link: &LinkStatus,
    work: &WorkStatus,
    os: &OsView,
    unsent: u64,
) -> LocalStatus {
    let node = node_status(link, work, os);
    LocalStatus {
        schema: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: identity.node.clone(),
        fingerprint: identity.fingerprint.clone(),
        hub: link.hub.clone(),
        link: link.state,
        last_contact: link.last_contact.map(|at| at.to_string()),
        generation: node.generation,
        workloads: node.workloads,
        problems: node.problems,
        os: node.os,
        // Whoever asks for all of it adds the stick.
        media: None,
        unsent_reports: unsent,
    }
}

/// Keeps the node's status up to date; ends when one of its sources does.
pub fn build(
    mut link: watch::Receiver<LinkStatus>,
    mut work: watch::Receiver<WorkStatus>,
    mut os: watch::Receiver<Option<OsStatus>>,
    mut os_problem: watch::Receiver<Option<String>>,
) -> (watch::Receiver<NodeStatus>, impl Future<Output = ()>) {
    let (out, status) = watch::channel(node_status(&link.borrow(), &work.borrow(), &OsView::default()));
    let task = async move {
        loop {
            // Every arm is cancel-safe: a watch keeps its latest value.
            let more = tokio::select! {
                changed = link.changed() => changed.is_ok(),
                changed = work.changed() => changed.is_ok(),
                changed = os.changed() => changed.is_ok(),
                changed = os_problem.changed() => changed.is_ok(),
            };
            if !more {
                return;
            }
            let view = OsView {
                status: os.borrow_and_update().clone(),
                problem: os_problem.borrow_and_update().clone(),
            };
            let now = node_status(&link.borrow_and_update(), &work.borrow_and_update(), &view);
            out.send_if_modified(|status| {
                let changed = *status != now;
                *status = now;
                changed
            });
        }
    };
    (status, task)
}
