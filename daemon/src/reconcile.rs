//! The task that makes the node as it should be: observe → plan → act → publish, on every sign of change and on a timer.
//! It owns the supervisor, the probes, and the memory of what failed; it takes no input but the latest of everything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cairn_model::{
    Digest,
    error::chain,
    report::{Health, Severity},
};
use nix::sys::statvfs::statvfs;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    act::{
        images::Images,
        network::{self, Slots},
        supervisor::{Supervisor, UnitState},
        volumes,
        workload::{self, Places, Prepared},
    },
    assemble::{Assembled, Content},
    ledger::Ledger,
    plan::{self, History, Input, Observed, Phase, Plan, Step, StopReason, Wanted},
    probe::Verdict,
    report::Reporter,
    status::WorkStatus,
};

mod health;
#[cfg(test)]
mod tests;
mod view;

use health::Probes;

/// A look is due at least this often, whatever the signals say.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// A look after a failure of the supervisor itself.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// So many in a row mean that the connection to the supervisor is lost for good: a new daemon makes a new one.
const MAX_BLIND_LOOKS: u32 = 10;
/// With less room than this on the data partition, the ledger itself may fail soon.
const LEAST_FREE_BYTES: u64 = 16 << 20;
/// A replica that has run for so long is taken to be well: earlier failures are forgotten.
const WELL_AFTER_MS: u64 = 60_000;

/// What the task is made of.
pub struct Config {
    /// Who supervises.
    pub supervisor: Box<dyn Supervisor>,
    /// Where things are.
    pub places: Places,
    /// The generation to run.
    pub desired: watch::Receiver<Option<Arc<Assembled>>>,
    /// What makes images ready.
    pub images: Images,
    /// What is remembered.
    pub ledger: Ledger,
    /// Where events go.
    pub reporter: Reporter,
}

/// The handle: what the task publishes.
#[derive(Debug, Clone)]
pub struct Work {
    /// How the workloads stand.
    pub status: watch::Receiver<WorkStatus>,
    /// When the task last finished a look: what the watchdog watches.
    pub alive: watch::Receiver<Instant>,
}

struct Task {
    config: Config,
    status: watch::Sender<WorkStatus>,
    alive: watch::Sender<Instant>,
    begun: Instant,
    probes: Probes,
    history: BTreeMap<String, History>,
    running_since_ms: BTreeMap<String, u64>,
    restarts: BTreeMap<String, u32>,
    /// Why a unit could not be started, until it is.
    start_errors: BTreeMap<String, String>,
    /// How a unit ended last, until it runs again.
    last_ends: BTreeMap<String, String>,
    /// Which spec the memory of a unit is about: another one starts with a clean slate.
    remembered: BTreeMap<String, Digest>,
    slots: Slots,
    /// The generation after which what is left over was last removed.
    collected: u64,
    /// Looks in a row for which the supervisor had no answer.
    blind_looks: u32,
}

/// Makes the task and its handle.
pub async fn build(config: Config, stop: CancellationToken) -> (Work, impl Future<Output = ()>) {
    let (status, status_out) = watch::channel(WorkStatus::default());
    let (alive, alive_out) = watch::channel(Instant::now());
    // Counters and addresses that cannot be read are not worth a start without workloads: both are made anew.
    let restarts = config.ledger.restarts().await.unwrap_or_default();
    let slots = config.ledger.address_slots().await.unwrap_or_default();
    let (verdicts, received) = mpsc::channel(64);
    let task = Task {
        probes: Probes::new(verdicts),
        config,
        status,
        alive,
        begun: Instant::now(),
        history: BTreeMap::new(),
        running_since_ms: BTreeMap::new(),
        restarts,
        start_errors: BTreeMap::new(),
        last_ends: BTreeMap::new(),
        remembered: BTreeMap::new(),
        slots,
        collected: 0,
        blind_looks: 0,
    };
    (Work { status: status_out, alive: alive_out }, task.run(received, stop))
}

impl Task {
    async fn run(mut self, mut verdicts: mpsc::Receiver<Verdict>, stop: CancellationToken) {
        let changes = self.config.supervisor.changes();
        loop {
            let desired = self.config.desired.borrow_and_update().clone();
            self.config.images.state.mark_unchanged();
            let again = match desired {
                Some(desired) => self.look(&desired).await,
                // No generation was ever verified here: nothing is known, so nothing is touched.
                None => LOOK_INTERVAL,
            };
            self.alive.send_replace(Instant::now());
            if self.blind_looks >= MAX_BLIND_LOOKS {
                tracing::error!("the supervisor does not answer; ending, to be started again");
                break;
            }
            // Every arm is cancel-safe: watches and Notify keep one wake-up, the channel keeps what was not received.
            tokio::select! {
                changed = self.config.desired.changed() => if changed.is_err() { break },
                () = changes.notified() => {}
                Ok(()) = self.config.images.state.changed() => {}
                Some(verdict) = verdicts.recv() => self.probes.settle(&verdict),
                () = tokio::time::sleep(again) => {}
                () = stop.cancelled() => break,
            }
        }
        self.probes.stop_all();
        self.config.supervisor.shutdown().await;
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// One look: observe, plan, act, publish. Returns when the next one is due at the latest.
    async fn look(&mut self, desired: &Arc<Assembled>) -> Duration {
        let units = match self.config.supervisor.list().await {
            Ok(units) => units,
            Err(e) => {
                tracing::error!("{e}");
                self.blind_looks += 1;
                self.status.send_modify(|status| status.problems = vec![e.to_string()]);
                return RETRY_INTERVAL;
            }
        };
        self.blind_looks = 0;
        let wanted = view::wanted(desired);
        self.assign_addresses(desired, &units).await;
        self.probes.follow(desired, &units, &self.config.places, &self.slots);
        let observed = self.observe(&units);
        self.forget(&wanted, &observed).await;
        let ready = self.config.images.state.borrow().ready.clone();
        let input = Input {
            wanted: &wanted,
            observed: &observed,
            ready: &ready,
            history: &self.history,
            now_ms: self.now_ms(),
        };
        let plan = plan::plan(input);
        self.publish(desired, &units, &plan).await;
        let all_done = self.carry_out(desired, &units, &plan).await;
        // A unit that still stops has an empty plan too, and still stands on its layers.
        let settled = observed
            .iter()
            .all(|(unit, seen)| wanted.get(unit).is_some_and(|w| seen.spec.as_ref() == Some(&w.spec)));
        if settled && plan == Plan::default() && self.collected != desired.desired.generation {
            // Everything runs as it should, and nothing else does: what no image names is left over.
            self.collected = desired.desired.generation;
            self.config.images.collect(desired.images.clone());
        }
        match plan.look_again_ms {
            _ if !all_done => RETRY_INTERVAL,
            Some(at) => Duration::from_millis(at.saturating_sub(self.now_ms())).min(LOOK_INTERVAL),
            None => LOOK_INTERVAL,
        }
    }

    fn observe(&mut self, units: &BTreeMap<String, UnitState>) -> BTreeMap<String, Observed> {
        let now = self.now_ms();
        self.running_since_ms.retain(|unit, _| units.get(unit).is_some_and(|u| u.phase == Phase::Running));
        for (name, unit) in units {
            if unit.phase == Phase::Running {
                let since = *self.running_since_ms.entry(name.clone()).or_insert(now);
                self.start_errors.remove(name);
                self.last_ends.remove(name);
                if now.saturating_sub(since) >= WELL_AFTER_MS
                    && self.probes.health_of(name) != Health::Unhealthy
                {
                    self.history.remove(name);
                }
            }
        }
        units
            .iter()
            .map(|(name, unit)| {
                let observed = Observed {
                    spec: Some(unit.tag.spec.clone()),
                    phase: unit.phase,
                    health: self.probes.health_of(name),
                    restarts: self.restarts_of(name, unit),
                    ports: unit.tag.ports.iter().cloned().collect(),
                };
                (name.clone(), observed)
            })
            .collect()
    }

    fn restarts_of(&self, name: &str, unit: &UnitState) -> u32 {
        unit.restarts.saturating_add(self.restarts.get(name).copied().unwrap_or(0))
    }

    /// What is neither wanted nor there any more leaves nothing behind, and what is wanted otherwise than before starts
    /// with a clean slate: its earlier failures say nothing about the new one.
    async fn forget(&mut self, wanted: &BTreeMap<String, Wanted>, observed: &BTreeMap<String, Observed>) {
        for (unit, wanted) in wanted {
            let before = self.remembered.insert(unit.clone(), wanted.spec.clone());
            if before.is_some_and(|before| before != wanted.spec) {
                self.clean_slate(unit).await;
            }
        }
        let gone = |unit: &str| !wanted.contains_key(unit) && !observed.contains_key(unit);
        let known: BTreeSet<String> = self.restarts.keys().chain(self.remembered.keys()).cloned().collect();
        for unit in known.into_iter().filter(|unit| gone(unit)) {
            self.clean_slate(&unit).await;
            self.remembered.remove(&unit);
            let Places { state_dir, trash, .. } = &self.config.places;
            if let Err(e) = volumes::remove_writable(state_dir, trash, &unit) {
                tracing::warn!(unit, "its writable layer is left behind: {e}");
            }
            self.config.places.remove_unit_dir(&unit);
        }
    }

    async fn clean_slate(&mut self, unit: &str) {
        self.history.remove(unit);
        self.start_errors.remove(unit);
        self.last_ends.remove(unit);
        self.set_restarts(unit, 0).await;
    }

    async fn set_restarts(&mut self, unit: &str, count: u32) {
        let before = if count == 0 {
            self.restarts.remove(unit)
        } else {
            self.restarts.insert(unit.to_owned(), count)
        };
        if before.unwrap_or(0) != count
            && let Err(e) = self.config.ledger.set_restarts(unit, count).await
        {
            tracing::warn!(unit, "a restart counter is not stored: {}", chain(&e));
        }
    }

    async fn assign_addresses(&mut self, desired: &Assembled, units: &BTreeMap<String, UnitState>) {
        let wanted = view::bridged(desired);
        let there: BTreeSet<String> = units.keys().cloned().collect();
        match network::allocate(&self.slots, &wanted, &there) {
            Ok(slots) if slots == self.slots => {}
            Ok(slots) => match self.config.ledger.set_address_slots(&slots).await {
                Ok(()) => self.slots = slots,
                Err(e) => tracing::error!("addresses are not stored: {}", chain(&e)),
            },
            Err(e) => tracing::error!("{e}"),
        }
    }

    /// Does what the plan says; false where a step failed, so that nothing will ring.
    async fn carry_out(
        &mut self,
        desired: &Arc<Assembled>,
        units: &BTreeMap<String, UnitState>,
        plan: &Plan,
    ) -> bool {
        let mut all_done = true;
        for step in &plan.steps {
            let done = match step {
                Step::Prepare { image } => {
                    if let Some(content) = desired.images.get(image) {
                        self.config.images.prepare(image.clone(), content.clone());
                    }
                    Ok(())
                }
                Step::Stop { unit, why } => {
                    tracing::info!(unit, ?why, "stopping");
                    self.before_stop(unit, *why).await;
                    self.config.supervisor.stop(unit).await
                }
                Step::Clear { unit } => {
                    self.before_clear(unit, desired, units).await;
                    self.config.supervisor.clear(unit).await
                }
                Step::Start { unit } => {
                    all_done &= self.start(unit, desired).await;
                    Ok(())
                }
            };
            if let Err(e) = done {
                tracing::error!("{e}");
                all_done = false;
            }
        }
        all_done
    }

    fn failed(&mut self, unit: &str) {
        let failed_at_ms = self.now_ms();
        let history = self.history.entry(unit.to_owned()).or_default();
        *history = History { failures: history.failures.saturating_add(1), failed_at_ms };
    }

    async fn before_stop(&mut self, unit: &str, why: StopReason) {
        match why {
            StopReason::NotWanted | StopReason::Changed => {}
            StopReason::Unhealthy => {
                self.failed(unit);
                let count = self.restarts.get(unit).copied().unwrap_or(0).saturating_add(1);
                self.set_restarts(unit, count).await;
                let message = format!("{unit} fails its health check and is started again");
                self.config.reporter.event(Severity::Warning, "workload-unhealthy", message).await;
            }
        }
    }

    /// A unit that has ended and is wanted as it was gets another start, after a pause.
    async fn before_clear(&mut self, unit: &str, desired: &Assembled, units: &BTreeMap<String, UnitState>) {
        let (Some(replica), Some(state)) = (desired.replicas.get(unit), units.get(unit)) else { return };
        if state.tag.spec == replica.spec_hash() {
            self.failed(unit);
            if let Some(detail) = &state.detail {
                self.last_ends.insert(unit.to_owned(), detail.clone());
            }
            let count = self.restarts.get(unit).copied().unwrap_or(0).saturating_add(1);
            self.set_restarts(unit, count).await;
        }
    }

    async fn start(&mut self, unit: &str, desired: &Arc<Assembled>) -> bool {
        let begun = Instant::now();
        self.probes.start_afresh(unit, &self.config.places);
        match self.try_start(unit, desired).await {
            Ok(()) => {
                let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(unit, ms, "started");
                self.start_errors.remove(unit);
                true
            }
            Err(problem) => {
                tracing::error!(unit, "not started: {problem}");
                self.failed(unit);
                if self.start_errors.insert(unit.to_owned(), problem.clone()).as_ref() != Some(&problem) {
                    let message = format!("{unit} cannot be started: {problem}");
                    self.config.reporter.event(Severity::Error, "workload-not-started", message).await;
                }
                false
            }
        }
    }

    async fn try_start(&mut self, unit: &str, desired: &Arc<Assembled>) -> Result<(), String> {
        let replica = desired.replicas.get(unit).ok_or("it is not wanted any more")?;
        let content = desired.images.get(&replica.image).ok_or("its image is not known")?;
        let prepared = match content {
            Content::Oci(layers) => Prepared::Layers(self.config.images.layer_paths(layers)),
            Content::Wasm(blob) => Prepared::Module(self.config.images.module_path(blob)),
        };
        let places = &self.config.places;
        let app = replica.id.app.as_str();
        let neighbours = workload::neighbours(places.network_base, &self.slots, &desired.replicas, app);
        let spec = workload::make_ready(places, replica, content, prepared, &self.slots, &neighbours)
            .map_err(|e| chain(&e))?;
        self.config.supervisor.start(&spec).await.map_err(|e| e.to_string())
    }

    fn disk_problem(&self) -> Option<String> {
        let stat = statvfs(&self.config.places.state_dir).ok()?;
        let free = stat.blocks_available() * stat.fragment_size();
        (free < LEAST_FREE_BYTES).then(|| {
            "the data partition is full: nothing new is fetched and reports wait in memory; remove apps or what fills \
             their volumes, or use a larger disk"
                .to_owned()
        })
    }

    async fn publish(&mut self, desired: &Assembled, units: &BTreeMap<String, UnitState>, plan: &Plan) {
        let images = self.config.images.state.borrow().clone();
        let sources = view::Sources {
            units,
            plan,
            images: &images,
            start_errors: &self.start_errors,
            last_ends: &self.last_ends,
            restarts: &self.restarts,
            now_ms: self.now_ms(),
        };
        let mut now = view::work_status(desired, &sources, |unit| self.probes.health_of(unit));
        now.problems.extend(self.disk_problem());
        let before = self.status.borrow().clone();
        if before == now {
            return;
        }
        // A daemon that comes back finds workloads that run: that is no news.
        let comes_back = before == WorkStatus::default() && !units.is_empty();
        let events = if comes_back { Vec::new() } else { view::events(&before, &now) };
        if comes_back {
            tracing::info!(units = units.len(), "workloads that run already are taken over as they are");
        }
        for (severity, reason, message) in events {
            tracing::info!(reason, "{message}");
            self.config.reporter.event(severity, reason, message).await;
        }
        self.status.send_replace(now);
    }
}
