//! Which replicas are probed, and what the probes last said.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use cairn_model::{
    compose::{HealthCheck, NetworkMode, Probe},
    report::Health,
    resolve::{Kind, ResolvedReplica},
};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    act::{
        network::{self, Slots},
        supervisor::UnitState,
        workload::Places,
    },
    assemble::Assembled,
    plan::Phase,
    probe::{self, Reach, Verdict},
};

/// The probes of this node; a probe's task ends when its unit does not run any more.
#[derive(Debug)]
pub(super) struct Probes {
    verdicts: mpsc::Sender<Verdict>,
    watched: BTreeMap<String, Watched>,
    runs: u64,
}

#[derive(Debug)]
struct Watched {
    check: HealthCheck,
    restarts: u32,
    run: u64,
    health: Health,
    task: AbortHandle,
}

impl Probes {
    pub(super) fn new(verdicts: mpsc::Sender<Verdict>) -> Self {
        Self { verdicts, watched: BTreeMap::new(), runs: 0 }
    }

    /// What the check of a unit says; `None` for one that has no check or does not run.
    pub(super) fn health_of(&self, unit: &str) -> Health {
        self.watched.get(unit).map_or(Health::None, |watched| watched.health)
    }

    /// Takes a verdict, unless it is about an earlier start.
    pub(super) fn settle(&mut self, verdict: &Verdict) {
        if let Some(watched) = self.watched.get_mut(&verdict.unit)
            && watched.run == verdict.run
        {
            watched.health = verdict.health;
        }
    }

    /// Probes what runs and has a check, and nothing else.
    pub(super) fn follow(
        &mut self,
        desired: &Assembled,
        units: &BTreeMap<String, UnitState>,
        places: &Places,
        slots: &Slots,
    ) {
        let check_of = |unit: &str| desired.replicas.get(unit).and_then(|replica| replica.health.clone());
        let stale: Vec<String> = self
            .watched
            .iter()
            .filter(|(unit, watched)| {
                let same_run = units
                    .get(*unit)
                    .is_some_and(|state| state.phase == Phase::Running && state.restarts == watched.restarts);
                !same_run || check_of(unit).as_ref() != Some(&watched.check)
            })
            .map(|(unit, _)| unit.clone())
            .collect();
        for unit in stale {
            self.forget(&unit);
        }
        for (unit, state) in units {
            if state.phase != Phase::Running || self.watched.contains_key(unit) {
                continue;
            }
            let Some(replica) = desired.replicas.get(unit) else { continue };
            if let Some(check) = &replica.health
                && let Some(reach) = reach(replica, check, places, slots)
            {
                self.runs += 1;
                let task = probe::watch(unit.clone(), self.runs, check.clone(), reach, self.verdicts.clone());
                let task = tokio::spawn(task).abort_handle();
                let (check, restarts) = (check.clone(), state.restarts);
                let watched = Watched { check, restarts, run: self.runs, health: Health::Starting, task };
                self.watched.insert(unit.clone(), watched);
            }
        }
    }

    /// Ends the probe of a unit.
    pub(super) fn forget(&mut self, unit: &str) {
        if let Some(watched) = self.watched.remove(unit) {
            watched.task.abort();
        }
    }

    /// Ends all probes.
    pub(super) fn stop_all(&mut self) {
        for watched in std::mem::take(&mut self.watched).into_values() {
            watched.task.abort();
        }
    }
}

fn reach(replica: &ResolvedReplica, check: &HealthCheck, places: &Places, slots: &Slots) -> Option<Reach> {
    let unit = replica.id.unit_name();
    let port = match &check.probe {
        Probe::Exec { .. } => {
            let (program, workload) = (places.runtimes.oci.clone(), places.workload_json(&unit));
            return Some(Reach::Inside { program, workload });
        }
        Probe::Http { port, .. } | Probe::Tcp { port } => *port,
    };
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match (replica.kind, replica.network) {
        // A component listens on the node itself, at the published port.
        (Kind::Wasm, _) => {
            let published = replica.ports.iter().find(|p| p.target == port);
            let ip = published.and_then(|p| p.host_ip).filter(|ip| !ip.is_unspecified()).unwrap_or(local);
            Some(Reach::Address(SocketAddr::new(ip, published.map_or(port, |p| p.published))))
        }
        (Kind::Oci, NetworkMode::Host) => Some(Reach::Address(SocketAddr::new(local, port))),
        (Kind::Oci, NetworkMode::Bridge) => {
            let place = network::place(places.network_base, slots, replica.id.app.as_str(), &unit)?;
            Some(Reach::Address(SocketAddr::new(IpAddr::V4(place.address), port)))
        }
        // Loopback only: nobody but the container itself can ask.
        (Kind::Oci, NetworkMode::None) => None,
    }
}
