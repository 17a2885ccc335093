//! Which replicas are probed, and what the probes last said.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
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
    note: Note,
}

/// The name of a [`Note`]'s file.
const NOTE: &str = "health";

/// The last verdict on one start of a unit, beside its `workload.json`: a daemon that comes back takes up what it finds,
/// instead of calling a healthy replica unproven. Gone with a reboot, as what it is about.
#[derive(Debug)]
struct Note {
    path: PathBuf,
    about: String,
}

impl Note {
    fn new(unit_dir: &Path, state: &UnitState) -> Self {
        Self { path: unit_dir.join(NOTE), about: format!("{} {}", state.tag.spec, state.restarts) }
    }

    fn read(&self) -> Option<Health> {
        let text = fs::read_to_string(&self.path).ok()?;
        match text.strip_prefix(&self.about)?.trim() {
            "healthy" => Some(Health::Healthy),
            "unhealthy" => Some(Health::Unhealthy),
            _ => None,
        }
    }

    fn write(&self, health: Health) {
        let word = match health {
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
            Health::None | Health::Starting => "starting",
        };
        // Lost, it costs one probe.
        let _ = fs::write(&self.path, format!("{} {word}", self.about));
    }

    fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
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
            watched.note.write(verdict.health);
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
                let note = Note::new(&places.unit_dir(unit), state);
                let health = note.read().unwrap_or(Health::Starting);
                let about = Verdict { unit: unit.clone(), run: self.runs, health };
                let task = probe::watch(about, check.clone(), reach, self.verdicts.clone());
                let task = tokio::spawn(task).abort_handle();
                let (check, restarts) = (check.clone(), state.restarts);
                let watched = Watched { check, restarts, run: self.runs, health, task, note };
                self.watched.insert(unit.clone(), watched);
            }
        }
    }

    /// Before a unit is started: nothing that was found out earlier holds for it.
    pub(super) fn start_afresh(&mut self, unit: &str, places: &Places) {
        self.forget(unit);
        let _ = fs::remove_file(places.unit_dir(unit).join(NOTE));
    }

    /// Ends the probe of a unit.
    fn forget(&mut self, unit: &str) {
        if let Some(watched) = self.watched.remove(unit) {
            watched.task.abort();
            watched.note.remove();
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

#[cfg(test)]
mod tests {
    use cairn_model::id::Digest;

    use super::*;
    use crate::act::supervisor::Tag;

    #[test]
    fn a_note_is_believed_for_the_same_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let tag = Tag { replica: "a/b/0".into(), spec: Digest::of(b"x"), ports: vec![] };
        let state = UnitState { tag, phase: Phase::Running, restarts: 1, detail: None };
        let note = Note::new(dir.path(), &state);
        assert_eq!(note.read(), None);
        note.write(Health::Healthy);
        assert_eq!(Note::new(dir.path(), &state).read(), Some(Health::Healthy));
        let restarted = UnitState { restarts: 2, ..state.clone() };
        assert_eq!(Note::new(dir.path(), &restarted).read(), None);
        note.write(Health::Unhealthy);
        assert_eq!(note.read(), Some(Health::Unhealthy));
        note.remove();
        assert_eq!(note.read(), None);
    }
}
