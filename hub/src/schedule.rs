//! Which replica goes where: a pure function of the apps, the nodes, and where everything is now.
//!
//! What has a place that still fits keeps it (least movement); what is new goes where fewest of its kind are. What
//! finds no place is explained. An offline node keeps its replicas: it goes on running them.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{
    AppName, Facts, NodeId, ServiceName,
    compose::{App, Constraint, Mode, NetworkMode, Platform, Port},
};

#[cfg(test)]
mod tests;

/// What one service of one app asks for.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    app: AppName,
    service: ServiceName,
    mode: Mode,
    constraints: Vec<Constraint>,
    max_per_node: Option<u32>,
    memory_bytes: u64,
    milli_cpus: u64,
    ports: Vec<Port>,
    platform: Platform,
    /// Services of the same app that it talks to: better on the same node, for an app's network ends there.
    beside: Vec<ServiceName>,
}

/// A node that may be given work.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Its id.
    pub(crate) id: NodeId,
    /// The labels that count.
    pub(crate) labels: BTreeMap<String, String>,
    /// What it can do.
    pub(crate) facts: Facts,
}

/// One replica on one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    /// Of which app.
    pub(crate) app: AppName,
    /// Of which service.
    pub(crate) service: ServiceName,
    /// Its index; 0 on every node for a global service.
    pub(crate) replica: u32,
    /// Where.
    pub(crate) node: NodeId,
}

/// Why replicas of an app have no place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// How many.
    pub(crate) unplaced: u32,
    /// In words with a cure, a line a service.
    pub(crate) problems: Vec<String>,
}

/// What [`schedule`] decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Every replica that has a place.
    pub(crate) slots: BTreeSet<Slot>,
    /// The apps that are not wholly placed.
    pub(crate) shortfalls: BTreeMap<AppName, Shortfall>,
}

/// What the services of `app` ask for.
pub(crate) fn demands(name: &AppName, app: &App) -> Vec<Demand> {
    app.services
        .iter()
        .map(|(service, spec)| Demand {
            app: name.clone(),
            service: service.clone(),
            mode: spec.deploy.mode,
            constraints: spec.deploy.constraints.clone(),
            max_per_node: spec.deploy.max_replicas_per_node,
            memory_bytes: spec.deploy.reservations.memory_bytes.unwrap_or(0),
            milli_cpus: spec.deploy.reservations.milli_cpus.unwrap_or(0),
            ports: if spec.network_mode == NetworkMode::None { Vec::new() } else { spec.ports.clone() },
            platform: spec.platform,
            beside: spec.depends_on.keys().cloned().collect(),
        })
        .collect()
}

/// Gives every replica of `demands` a place among `candidates`, moving as little as possible of `previous`.
pub(crate) fn schedule(demands: &[Demand], candidates: &[Candidate], previous: &BTreeSet<Slot>) -> Placement {
    let mut demands: Vec<&Demand> = demands.iter().collect();
    demands.sort_by(|a, b| (&a.app, &a.service).cmp(&(&b.app, &b.service)));
    let mut fleet = Fleet::new(candidates);
    let mut slots = BTreeSet::new();

    let by_name: BTreeMap<_, _> = demands.iter().map(|d| ((&d.app, &d.service), *d)).collect();
    let mut held = BTreeSet::new();
    for slot in previous {
        let Some(demand) = by_name.get(&(&slot.app, &slot.service)) else { continue };
        // A service that was global has index 0 in many places.
        let twice = demand.mode != Mode::Global && held.contains(&(&slot.app, &slot.service, slot.replica));
        if slot.replica < demand.indices() && !twice && fleet.misfit(demand, &slot.node).is_none() {
            fleet.occupy(demand, &slot.node);
            held.insert((&slot.app, &slot.service, slot.replica));
            slots.insert(slot.clone());
        }
    }

    let mut short: Vec<(&Demand, u32)> = Vec::new();
    for demand in demands {
        let unplaced = match demand.mode {
            Mode::Global => place_global(demand, candidates, &mut fleet, &mut slots),
            Mode::Replicated { replicas } => {
                place_replicated(demand, replicas, candidates, &mut fleet, &mut slots)
            }
        };
        if let Some(count) = unplaced {
            short.push((demand, count));
        }
    }
    // Explained when all else is placed, so that the next look says the same.
    let mut shortfalls: BTreeMap<AppName, Shortfall> = BTreeMap::new();
    for (demand, count) in short {
        let misfits = fleet.misfits(demand, candidates, &slots);
        let shortfall = shortfalls.entry(demand.app.clone()).or_default();
        shortfall.unplaced += count;
        shortfall.problems.push(demand.explain(count, &misfits));
    }
    Placement { slots, shortfalls }
}

/// Places one replica on every node that the service selects; how many of those had no room, or 0 where none is
/// selected at all.
fn place_global(
    demand: &Demand,
    candidates: &[Candidate],
    fleet: &mut Fleet<'_>,
    slots: &mut BTreeSet<Slot>,
) -> Option<u32> {
    let (mut selected, mut unplaced) = (0, 0);
    for candidate in candidates {
        let slot = demand.slot(0, &candidate.id);
        if slots.contains(&slot) {
            selected += 1;
            continue;
        }
        match fleet.misfit(demand, &candidate.id) {
            None => {
                selected += 1;
                fleet.occupy(demand, &candidate.id);
                slots.insert(slot);
            }
            // A global service is for the nodes that it selects; the others are none of its business.
            Some(misfit) if misfit.by_choice() => {}
            Some(_) => {
                selected += 1;
                unplaced += 1;
            }
        }
    }
    (unplaced > 0 || selected == 0).then_some(unplaced)
}

/// Places what is missing of `replicas`; how many found no place.
fn place_replicated(
    demand: &Demand,
    replicas: u32,
    candidates: &[Candidate],
    fleet: &mut Fleet<'_>,
    slots: &mut BTreeSet<Slot>,
) -> Option<u32> {
    let held: BTreeSet<u32> = slots
        .iter()
        .filter(|s| s.app == demand.app && s.service == demand.service)
        .map(|s| s.replica)
        .collect();
    let mut unplaced = 0;
    for replica in (0..replicas).filter(|index| !held.contains(index)) {
        match fleet.best(demand, candidates) {
            Some(node) => {
                let node = node.clone();
                fleet.occupy(demand, &node);
                slots.insert(demand.slot(replica, &node));
            }
            None => unplaced += 1,
        }
    }
    (unplaced > 0).then_some(unplaced)
}

impl Demand {
    fn slot(&self, replica: u32, node: &NodeId) -> Slot {
        Slot { app: self.app.clone(), service: self.service.clone(), replica, node: node.clone() }
    }

    /// Indices from here on do not exist.
    fn indices(&self) -> u32 {
        match self.mode {
            Mode::Global => 1,
            Mode::Replicated { replicas } => replicas,
        }
    }

    fn constraint_text(&self) -> String {
        let list: Vec<String> = self.constraints.iter().map(ToString::to_string).collect();
        if list.is_empty() { String::new() } else { format!(" {}", list.join(", ")) }
    }

    fn explain(&self, unplaced: u32, misfits: &[Misfit]) -> String {
        let cure = "approve, add or label nodes (`cairn node ls`), or change the app";
        if self.mode == Mode::Global && unplaced == 0 {
            return format!(
                "service {}: no approved node matches{}; {cure}",
                self.service,
                self.constraint_text()
            );
        }
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for misfit in misfits {
            *counts.entry(misfit.to_string()).or_default() += 1;
        }
        let reason = |(reason, count): (&String, &u32)| match count {
            1 => format!("1 node {reason}"),
            more => format!("{more} nodes each {reason}"),
        };
        let reasons: Vec<String> = counts.iter().map(reason).collect();
        let reasons =
            if reasons.is_empty() { "there is no approved node".to_owned() } else { reasons.join(", ") };
        let of = match self.mode {
            Mode::Global => "replicas have".to_owned(),
            Mode::Replicated { replicas } => format!("of {replicas} replicas have"),
        };
        format!("service {}: {unplaced} {of} no place: {reasons}; {cure}", self.service)
    }
}

/// Why a replica cannot go to a node; the text goes on after "1 node".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Misfit {
    #[error("that is not in the fleet any more")]
    Gone,
    #[error("does not match {0}")]
    Constraint(String),
    #[error("lacks the {0} runtime")]
    Runtime(&'static str),
    #[error("is not of architecture {0}")]
    Arch(&'static str),
    #[error("holds max_replicas_per_node already")]
    Full,
    #[error("has port {0} taken by {1}")]
    Port(String, String),
    #[error("lacks memory: {needs} MiB are asked for, {free} MiB not reserved")]
    Memory { needs: u64, free: u64 },
    #[error("lacks cpus: {needs}m are asked for, {free}m not reserved")]
    Cpus { needs: u64, free: u64 },
}

impl Misfit {
    /// The app does not want this node, as opposed to: the node cannot.
    fn by_choice(&self) -> bool {
        match self {
            Self::Gone | Self::Constraint(_) | Self::Runtime(_) | Self::Arch(_) | Self::Full => true,
            Self::Port(..) | Self::Memory { .. } | Self::Cpus { .. } => false,
        }
    }
}

/// What is given out so far.
struct Fleet<'a> {
    nodes: BTreeMap<&'a NodeId, (&'a Candidate, Load)>,
}

#[derive(Default)]
struct Load {
    memory_bytes: u64,
    milli_cpus: u64,
    replicas: u32,
    ports: Vec<(Port, String)>,
    by_service: BTreeMap<(AppName, ServiceName), u32>,
}

impl<'a> Fleet<'a> {
    fn new(candidates: &'a [Candidate]) -> Self {
        Self { nodes: candidates.iter().map(|c| (&c.id, (c, Load::default()))).collect() }
    }

    fn misfit(&self, demand: &Demand, node: &NodeId) -> Option<Misfit> {
        let Some((candidate, load)) = self.nodes.get(node) else { return Some(Misfit::Gone) };
        let facts = &candidate.facts;
        if let Some(broken) = demand.constraints.iter().find(|c| !c.matches(node, &candidate.labels, facts)) {
            return Some(Misfit::Constraint(broken.to_string()));
        }
        let (runtime, arch) = match demand.platform {
            Platform::Oci { arch } => ("oci", arch),
            Platform::Wasm => ("wasm", None),
        };
        // A node that says nothing of its runtimes, memory or cpus is taken at its word that it has some.
        if !facts.runtimes.is_empty() && !facts.runtimes.iter().any(|r| r == runtime) {
            return Some(Misfit::Runtime(runtime));
        }
        if let Some(arch) = arch.filter(|arch| !facts.arch.is_empty() && facts.arch != arch.as_str()) {
            return Some(Misfit::Arch(arch.as_str()));
        }
        let here = load.by_service.get(&(demand.app.clone(), demand.service.clone())).copied().unwrap_or(0);
        if demand.max_per_node.is_some_and(|max| here >= max) || (demand.mode == Mode::Global && here > 0) {
            return Some(Misfit::Full);
        }
        for port in &demand.ports {
            if let Some((_, owner)) = load.ports.iter().find(|(taken, _)| taken.clashes_with(port)) {
                let text = format!("{}/{}", port.published, port.protocol.as_str());
                return Some(Misfit::Port(text, owner.clone()));
            }
        }
        let free = facts.memory_bytes.saturating_sub(load.memory_bytes);
        if demand.memory_bytes > free && facts.memory_bytes > 0 {
            return Some(Misfit::Memory { needs: demand.memory_bytes.div_ceil(1 << 20), free: free >> 20 });
        }
        let free = (u64::from(facts.cpus) * 1000).saturating_sub(load.milli_cpus);
        if demand.milli_cpus > free && facts.cpus > 0 {
            return Some(Misfit::Cpus { needs: demand.milli_cpus, free });
        }
        None
    }

    /// Why the nodes that hold nothing of `demand`, or cannot take more of it, do not take it.
    fn misfits(&self, demand: &Demand, candidates: &[Candidate], slots: &BTreeSet<Slot>) -> Vec<Misfit> {
        let concerned = |misfit: &Misfit| demand.mode != Mode::Global || !misfit.by_choice();
        candidates
            .iter()
            .filter(|c| demand.mode != Mode::Global || !slots.contains(&demand.slot(0, &c.id)))
            .filter_map(|c| self.misfit(demand, &c.id))
            .filter(concerned)
            .collect()
    }

    fn occupy(&mut self, demand: &Demand, node: &NodeId) {
        let Some((_, load)) = self.nodes.get_mut(node) else { return };
        load.memory_bytes += demand.memory_bytes;
        load.milli_cpus += demand.milli_cpus;
        load.replicas += 1;
        let owner = format!("service {} of app {}", demand.service, demand.app);
        load.ports.extend(demand.ports.iter().map(|port| (*port, owner.clone())));
        *load.by_service.entry((demand.app.clone(), demand.service.clone())).or_default() += 1;
    }

    /// The node that suits best: beside what it talks to, then where fewest of its service, its app, and anything are.
    fn best(&self, demand: &Demand, candidates: &'a [Candidate]) -> Option<&'a NodeId> {
        candidates
            .iter()
            .filter(|c| self.misfit(demand, &c.id).is_none())
            .min_by_key(|c| (self.cost(demand, &c.id), &c.id))
            .map(|c| &c.id)
    }

    fn cost(&self, demand: &Demand, node: &NodeId) -> (usize, u32, u32, u32) {
        let Some((_, load)) = self.nodes.get(node) else { return (usize::MAX, 0, 0, 0) };
        let count = |service: &ServiceName| {
            load.by_service.get(&(demand.app.clone(), service.clone())).copied().unwrap_or(0)
        };
        let missing = demand.beside.iter().filter(|service| count(service) == 0).count();
        let of_app = load.by_service.iter().filter(|((app, _), _)| *app == demand.app).map(|(_, n)| n).sum();
        (missing, count(&demand.service), of_app, load.replicas)
    }
}
