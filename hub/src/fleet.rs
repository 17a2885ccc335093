//! The task that decides what runs where: it alone places, compiles, and signs for nodes.
//!
//! It is a reconciler: it takes no input but a nudge, looks at everything, and makes what differs so. It first writes
//! what it decided to the database, then signs it, then wakes the nodes' long polls. A crash in between is mended by
//! the first look after the start.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use cairn_model::{
    AppName, DesiredState, NodeId,
    compose::App,
    desired::{Command, DesiredOs},
    media::Freshness,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    compile::{self, Compiled, SignedApp, Wanted},
    error::{Error, Kind, Result},
    schedule::{self, Candidate, Demand, Placement, Slot},
    sign::Signer,
    store::{AppRow, AppVersion, DesiredRow, NodeRow, NodeState, PlacedReplica, Store},
};

/// Nudges that may wait; more are merged anyway.
const QUEUE: usize = 256;

/// Nodes whose signed files are written down as such together.
const PUBLISH_BATCH: usize = 64;

type Outcome = std::result::Result<(), (Kind, String)>;
type Nudge = Option<oneshot::Sender<Outcome>>;

/// The handle of the task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Fleet {
    nudges: mpsc::Sender<Nudge>,
    waiters: Waiters,
}

/// The task itself.
pub(crate) struct Reconciler {
    store: Store,
    signer: Signer,
    nudges: mpsc::Receiver<Nudge>,
    waiters: Waiters,
}

/// The nodes that wait for news.
#[derive(Clone, Default)]
struct Waiters(Arc<Mutex<HashMap<NodeId, watch::Sender<()>>>>);

/// Makes the task and its handle.
pub(crate) fn build(store: Store, signer: Signer) -> (Fleet, Reconciler) {
    let (sender, nudges) = mpsc::channel(QUEUE);
    let waiters = Waiters::default();
    let fleet = Fleet { nudges: sender, waiters: waiters.clone() };
    (fleet, Reconciler { store, signer, nudges, waiters })
}

impl Fleet {
    /// Asks for a look without waiting for it.
    pub(crate) fn request(&self) {
        // A full queue means that a look is due anyway.
        let _ = self.nudges.try_send(None);
    }

    /// Asks for a look and waits until what it decided is signed and served.
    pub(crate) async fn converge(&self) -> Result<()> {
        let draining = || {
            Error::new(
                Kind::Draining,
                "the hub is shutting down; what was stored is signed at its next start",
            )
        };
        let (reply, outcome) = oneshot::channel();
        self.nudges.send(Some(reply)).await.map_err(|_| draining())?;
        outcome.await.map_err(|_| draining())?.map_err(|(kind, message)| Error::new(kind, message))
    }

    /// Wakes up when something new may be there for `node`.
    pub(crate) fn subscribe(&self, node: &NodeId) -> watch::Receiver<()> {
        let mut table = self.waiters.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.entry(node.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// How many nodes wait for news.
    pub(crate) fn waiting(&self) -> usize {
        let table = self.waiters.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.values().filter(|sender| sender.receiver_count() > 0).count()
    }

    /// Forgets the nodes that wait no longer.
    pub(crate) fn forget_gone_waiters(&self) {
        let mut table = self.waiters.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, sender| sender.receiver_count() > 0);
    }
}

impl Waiters {
    fn wake(&self, node: &NodeId) {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = table.get(node) {
            sender.send_replace(());
        }
    }
}

/// What one look sees.
struct Observed {
    nodes: Vec<NodeRow>,
    current: BTreeMap<NodeId, DesiredState>,
    apps: BTreeMap<AppName, SignedApp>,
    demands: Vec<Demand>,
    rows: BTreeMap<AppName, AppRow>,
    placements: Vec<PlacedReplica>,
    commands: BTreeMap<NodeId, Vec<Command>>,
    os: BTreeMap<NodeId, DesiredOs>,
}

impl Reconciler {
    /// Looks whenever it is nudged, until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                // Both are cancel-safe: a cancelled token stays so, and recv loses no message.
                () = shutdown.cancelled() => return,
                nudge = self.nudges.recv() => nudge,
            };
            let Some(first) = first else { return };
            let mut replies: Vec<_> = first.into_iter().collect();
            while let Ok(nudge) = self.nudges.try_recv() {
                replies.extend(nudge);
            }
            let outcome = self.look().await.map_err(|error| {
                error.log();
                (error.kind, error.message)
            });
            for reply in replies {
                // Who asked may have hung up.
                let _ = reply.send(outcome.clone());
            }
        }
    }

    /// One look: decide, write down, sign, wake.
    pub(crate) async fn look(&self) -> Result<()> {
        let observed = self.observe().await?;
        let candidates: Vec<Candidate> = observed.nodes.iter().map(candidate).collect();
        let previous = observed.placements.iter().map(slot).collect();
        let placement = schedule::schedule(&observed.demands, &candidates, &previous);
        let changed = observed.compile(&placement);
        self.write_down(&observed, &placement, &changed).await?;
        self.publish().await
    }

    async fn observe(&self) -> Result<Observed> {
        let mut nodes = self.store.nodes().await?;
        nodes.retain(|node| node.state == NodeState::Approved);
        let mut current = BTreeMap::new();
        for row in self.store.desired().await? {
            let desired = serde_json::from_str(&row.document)
                .map_err(|e| Error::internal("the hub could not read what it desired of a node", e))?;
            current.insert(row.node, desired);
        }
        let mut apps = BTreeMap::new();
        let mut demands = Vec::new();
        for (name, versions) in self.store.app_versions().await? {
            let Some(version) = self.newest_signed(&versions) else { continue };
            let app = App::from_canonical_json(version.document.as_bytes())
                .map_err(|e| Error::internal("the hub could not read a deployed app", e))?;
            demands.extend(schedule::demands(&name, &app));
            let images = version.images.values().cloned().collect();
            apps.insert(name, SignedApp { digest: version.digest.clone(), images });
        }
        let mut commands: BTreeMap<NodeId, Vec<Command>> = BTreeMap::new();
        for (node, command) in self.store.open_commands(clock::now_ms() / 1000).await? {
            commands.entry(node).or_default().push(command);
        }
        let rows = self.store.app_rows().await?;
        let placements = self.store.placements().await?;
        let os = self.signed_os(&nodes).await?;
        Ok(Observed { nodes, current, apps, demands, rows, placements, commands, os })
    }

    /// The OS that each node shall run, where its signature still counts: nodes refuse the whole generation else. A node
    /// that gets its word by stick has no hub to ask whether a new OS is well.
    async fn signed_os(&self, nodes: &[NodeRow]) -> Result<BTreeMap<NodeId, DesiredOs>> {
        let mut desired = BTreeMap::new();
        for mut row in self.store.os_rows().await? {
            if !self.signer.is_signed(&row.desired.release) {
                continue;
            }
            let node = nodes.iter().find(|node| node.id == row.node);
            row.desired.health.hub &= node.is_none_or(|node| node.freshness == Freshness::Connected);
            desired.insert(row.node, row.desired);
        }
        Ok(desired)
    }

    /// The newest version that nodes would not refuse.
    fn newest_signed<'a>(&self, versions: &'a [AppVersion]) -> Option<&'a AppVersion> {
        versions.iter().find(|version| version.manifests().all(|digest| self.signer.is_signed(digest)))
    }

    /// Writes what was decided to the database, in one transaction, if anything differs.
    async fn write_down(
        &self,
        observed: &Observed,
        placement: &Placement,
        changed: &BTreeMap<NodeId, Compiled>,
    ) -> Result<()> {
        let wanted = observed.placed(placement, changed);
        let held: BTreeSet<&PlacedReplica> = observed.placements.iter().collect();
        let rows: Vec<AppRow> = observed.app_rows(placement);
        if changed.is_empty() && rows.is_empty() && wanted.iter().collect::<BTreeSet<_>>() == held {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        for gone in held.iter().filter(|placed| !placement.slots.contains(&slot(placed))) {
            tx.delete_placement(gone).await?;
        }
        for placed in wanted.iter().filter(|placed| !held.contains(placed)) {
            tx.upsert_placement(placed).await?;
        }
        for row in &rows {
            tx.set_app_row(row).await?;
        }
        for (node, compiled) in changed {
            let document = serde_json::to_string(&compiled.desired)
                .map_err(|e| Error::internal("the hub could not write what it desires of a node", e))?;
            let generation = compiled.desired.generation;
            let row = DesiredRow { node: node.clone(), generation, document, needs: compiled.needs.clone() };
            tx.set_desired(&row).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Signs what the database desires and nobody is served yet. One node's damaged files keep only that node waiting.
    async fn publish(&self) -> Result<()> {
        let unpublished = self.store.unpublished().await?;
        let mut failure = None;
        for batch in unpublished.chunks(PUBLISH_BATCH) {
            let mut signed = Vec::with_capacity(batch.len());
            for desired in batch {
                match self.signer.publish(desired.clone()).await {
                    Ok(()) => signed.push(desired),
                    Err(error) => {
                        let error = Error::from(error);
                        tracing::error!(node = %desired.node, "what is desired is not signed: {error}");
                        failure.get_or_insert((desired.node.clone(), error.kind, error.message));
                    }
                }
            }
            let mut tx = self.store.begin().await?;
            for desired in &signed {
                tx.mark_published(&desired.node, desired.generation).await?;
            }
            tx.commit().await?;
            for desired in signed {
                tracing::info!(node = %desired.node, generation = desired.generation, "signed what is desired");
                self.waiters.wake(&desired.node);
            }
        }
        let Some((node, kind, message)) = failure else { return Ok(()) };
        let kind = if kind == Kind::Internal { Kind::NotSigned } else { kind };
        Err(Error::new(kind, format!("stored, but node {node} waits for its signature: {message}")))
    }
}

impl Observed {
    /// The documents that differ from those that the nodes have.
    fn compile(&self, placement: &Placement) -> BTreeMap<NodeId, Compiled> {
        let mut by_node: BTreeMap<&NodeId, BTreeSet<Slot>> = BTreeMap::new();
        for slot in &placement.slots {
            by_node.entry(&slot.node).or_default().insert(slot.clone());
        }
        let (no_slots, no_commands) = (BTreeSet::new(), Vec::new());
        let mut changed = BTreeMap::new();
        for node in &self.nodes {
            let wanted = Wanted {
                apps: &self.apps,
                slots: by_node.get(&node.id).unwrap_or(&no_slots),
                os: self.os.get(&node.id),
                commands: self.commands.get(&node.id).unwrap_or(&no_commands),
            };
            let current = self.current.get(&node.id);
            if let Some(new) = compile::compile(&node.id, current, node.generation, wanted) {
                changed.insert(node.id.clone(), new);
            }
        }
        changed
    }

    /// Every placed replica, with the generation that it is as it is from.
    fn placed(&self, placement: &Placement, changed: &BTreeMap<NodeId, Compiled>) -> Vec<PlacedReplica> {
        let held: BTreeMap<Slot, u64> =
            self.placements.iter().map(|placed| (slot(placed), placed.since)).collect();
        let generations: BTreeMap<&NodeId, u64> =
            self.nodes.iter().map(|node| (&node.id, node.generation)).collect();
        placement
            .slots
            .iter()
            .map(|slot| {
                let old = held.get(slot).copied();
                let since = match changed.get(&slot.node) {
                    Some(new)
                        if old.is_none()
                            || compile::touches(self.current.get(&slot.node), &new.desired, slot) =>
                    {
                        new.desired.generation
                    }
                    _ => old.unwrap_or_else(|| generations.get(&slot.node).copied().unwrap_or(0)),
                };
                PlacedReplica {
                    app: slot.app.clone(),
                    service: slot.service.clone(),
                    replica: slot.replica,
                    node: slot.node.clone(),
                    since,
                }
            })
            .collect()
    }

    /// What is to be said of apps that differs from what was said.
    fn app_rows(&self, placement: &Placement) -> Vec<AppRow> {
        let mut rows = Vec::new();
        for (name, old) in &self.rows {
            let shortfall = placement.shortfalls.get(name).cloned().unwrap_or_default();
            if (old.unplaced, &old.problems) != (shortfall.unplaced, &shortfall.problems) {
                rows.push(AppRow {
                    name: name.clone(),
                    unplaced: shortfall.unplaced,
                    problems: shortfall.problems,
                });
            }
        }
        rows
    }
}

fn candidate(node: &NodeRow) -> Candidate {
    Candidate { id: node.id.clone(), labels: node.effective_labels(), facts: node.facts.clone() }
}

fn slot(placed: &PlacedReplica) -> Slot {
    Slot {
        app: placed.app.clone(),
        service: placed.service.clone(),
        replica: placed.replica,
        node: placed.node.clone(),
    }
}
