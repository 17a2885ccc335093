//! Decides what to do next: a pure function of what is wanted, what is observed, which images are ready, what was tried
//! before, and now.
//!
//! The plan is level-triggered: it says the steps that are right at this moment, never a script for later. What has to
//! wait (for an image, a dependency, a port, a back-off) is simply not in it yet; a later look finds it. The plan of a
//! converged node is empty.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{Digest, report::Health};

#[cfg(test)]
mod tests;

/// First pause before a failed replica is started again, in milliseconds; doubles with every failure in a row.
const BACKOFF_FIRST_MS: u64 = 1_000;
/// Longest such pause: a broken replica costs little, and a mended one is back within minutes.
const BACKOFF_LAST_MS: u64 = 120_000;

/// A published port of the node: protocol (`tcp`, `udp`) and number.
pub type HostPort = (String, u16);

/// One replica that should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// What must be replaced when it changes.
    pub spec: Digest,
    /// The image or component that must be ready first.
    pub image: Digest,
    /// Whether it is started again after it ended.
    pub restart: Restart,
    /// What must be so before it starts.
    pub after: Vec<Dependency>,
    /// The node's ports that it takes.
    pub ports: BTreeSet<HostPort>,
}

/// Whether a replica is started again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never; it may complete or fail once a boot.
    No,
    /// After a failure, at most so many times.
    OnFailure {
        /// No limit where absent.
        max: Option<u32>,
    },
    /// Always.
    Always,
}

/// A replica that another one needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Its unit; one that is not wanted on this node counts as there, because it cannot be seen from here.
    pub unit: String,
    /// What it must have reached.
    pub condition: Condition,
}

/// What a dependency must have reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its main process runs, or ran to completion.
    Started,
    /// Its health check passes.
    Healthy,
    /// It ended with exit code 0.
    Completed,
}

/// Where an observed unit is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Starting, or between two starts by the supervisor's own restart.
    Starting,
    /// The main process runs.
    Running,
    /// Asked to stop.
    Stopping,
    /// Ended with exit code 0; the supervisor will not start it again.
    Completed,
    /// Ended otherwise; the supervisor will not start it again.
    Failed,
}

/// One unit that the supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// What it was made from; absent for one that does not say.
    pub spec: Option<Digest>,
    /// Where it is in its life.
    pub phase: Phase,
    /// What the health check says.
    pub health: Health,
    /// How often it was started again.
    pub restarts: u32,
    /// The node's ports that it holds.
    pub ports: BTreeSet<HostPort>,
}

/// What was tried before with a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Failures in a row.
    pub failures: u32,
    /// When the last of them was, on the clock of `now`.
    pub failed_at_ms: u64,
}

impl History {
    /// When the unit may be started again.
    pub fn not_before_ms(&self) -> u64 {
        if self.failures == 0 {
            return 0;
        }
        let pause = BACKOFF_FIRST_MS.saturating_shl((self.failures - 1).min(16));
        self.failed_at_ms.saturating_add(pause.min(BACKOFF_LAST_MS))
    }
}

/// `<<` that stays at the top instead of wrapping.
trait SaturatingShl {
    fn saturating_shl(self, by: u32) -> Self;
}

impl SaturatingShl for u64 {
    fn saturating_shl(self, by: u32) -> Self {
        self.checked_mul(1 << by.min(63)).unwrap_or(Self::MAX)
    }
}

/// All that the planner looks at.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// By unit name.
    pub wanted: &'a BTreeMap<String, Wanted>,
    /// By unit name.
    pub observed: &'a BTreeMap<String, Observed>,
    /// Images and components that can be started at once.
    pub ready: &'a BTreeSet<Digest>,
    /// By unit name.
    pub history: &'a BTreeMap<String, History>,
    /// Monotonic milliseconds.
    pub now_ms: u64,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Stop a unit.
    Stop {
        /// Which.
        unit: String,
        /// Why.
        why: StopReason,
    },
    /// Forget a unit that has ended, so that its name is free.
    Clear {
        /// Which.
        unit: String,
    },
    /// Make an image or component ready.
    Prepare {
        /// Which.
        image: Digest,
    },
    /// Start a wanted unit.
    Start {
        /// Which.
        unit: String,
    },
}

/// Why a unit is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopReason {
    /// It should not run here any more.
    NotWanted,
    /// It is to run differently.
    Changed,
    /// Its health check fails.
    Unhealthy,
}

/// Why a wanted unit is not started yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Its image is not ready.
    Image,
    /// Another unit has not reached what this one needs.
    Dependency(Dependency),
    /// A unit that is on its way out still holds one of its ports.
    Port(HostPort),
    /// It failed, and the pause is not over.
    BackOff {
        /// When it is.
        until_ms: u64,
    },
}

/// What to do now, what waits, and when to look again at the latest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which to do it: what goes comes before what arrives.
    pub steps: Vec<Step>,
    /// Wanted units that are not started yet, and why.
    pub waiting: BTreeMap<String, Waiting>,
    /// When a back-off ends, the earliest one.
    pub look_again_ms: Option<u64>,
}

/// Decides; see the module's text.
pub fn plan(input: Input<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut prepare = BTreeSet::new();
    for (unit, observed) in input.observed {
        match input.wanted.get(unit) {
            None => plan.steps.extend(remove(unit, observed, StopReason::NotWanted)),
            Some(wanted) => plan.steps.extend(revise(unit, wanted, observed, input.ready)),
        }
    }
    for (unit, wanted) in input.wanted {
        let stale = input.observed.get(unit).is_some_and(|o| o.spec.as_ref() != Some(&wanted.spec));
        if (stale || !input.observed.contains_key(unit)) && !input.ready.contains(&wanted.image) {
            prepare.insert(wanted.image.clone());
        }
        if input.observed.contains_key(unit) {
            continue;
        }
        match blocked(unit, wanted, input) {
            None => plan.steps.push(Step::Start { unit: unit.clone() }),
            Some(waiting) => {
                if let Waiting::BackOff { until_ms } = waiting {
                    plan.look_again_ms = Some(plan.look_again_ms.map_or(until_ms, |at| at.min(until_ms)));
                }
                plan.waiting.insert(unit.clone(), waiting);
            }
        }
    }
    plan.steps.extend(prepare.into_iter().map(|image| Step::Prepare { image }));
    plan.steps.sort();
    plan
}

/// The step that brings a unit nearer to being gone.
fn remove(unit: &str, observed: &Observed, why: StopReason) -> Option<Step> {
    let unit = unit.to_owned();
    match observed.phase {
        Phase::Starting | Phase::Running => Some(Step::Stop { unit, why }),
        Phase::Stopping => None,
        Phase::Completed | Phase::Failed => Some(Step::Clear { unit }),
    }
}

/// The step, if any, for a unit that is both wanted and there.
fn revise(unit: &str, wanted: &Wanted, observed: &Observed, ready: &BTreeSet<Digest>) -> Option<Step> {
    if observed.spec.as_ref() != Some(&wanted.spec) {
        // What runs is kept until what follows it can start: an image that cannot be prepared costs no service.
        return if ready.contains(&wanted.image) {
            remove(unit, observed, StopReason::Changed)
        } else {
            None
        };
    }
    let again = match (observed.phase, wanted.restart) {
        (Phase::Running, Restart::No) => false,
        (Phase::Running, Restart::Always | Restart::OnFailure { .. }) => {
            let unhealthy = observed.health == Health::Unhealthy;
            return unhealthy.then(|| Step::Stop { unit: unit.to_owned(), why: StopReason::Unhealthy });
        }
        (Phase::Starting | Phase::Stopping, _) => false,
        (Phase::Completed, restart) => restart == Restart::Always,
        (Phase::Failed, Restart::No) => false,
        (Phase::Failed, Restart::OnFailure { max }) => max.is_none_or(|max| observed.restarts < max),
        (Phase::Failed, Restart::Always) => true,
    };
    again.then(|| Step::Clear { unit: unit.to_owned() })
}

/// Why a wanted unit that is not there cannot be started yet.
fn blocked(unit: &str, wanted: &Wanted, input: Input<'_>) -> Option<Waiting> {
    if !input.ready.contains(&wanted.image) {
        return Some(Waiting::Image);
    }
    if let Some(unmet) = wanted.after.iter().find(|dependency| !is_met(dependency, input)) {
        return Some(Waiting::Dependency(unmet.clone()));
    }
    let leaving =
        input.observed.iter().filter(|(name, _)| name.as_str() != unit).filter(|(name, observed)| {
            input.wanted.get(*name).is_none_or(|w| observed.spec.as_ref() != Some(&w.spec))
        });
    for (_, observed) in leaving {
        if let Some(port) = observed.ports.intersection(&wanted.ports).next() {
            return Some(Waiting::Port(port.clone()));
        }
    }
    let until_ms = input.history.get(unit).map_or(0, History::not_before_ms);
    (until_ms > input.now_ms).then_some(Waiting::BackOff { until_ms })
}

fn is_met(dependency: &Dependency, input: Input<'_>) -> bool {
    let Some(wanted) = input.wanted.get(&dependency.unit) else { return true };
    let Some(observed) = input.observed.get(&dependency.unit) else { return false };
    if observed.spec.as_ref() != Some(&wanted.spec) {
        return false;
    }
    match dependency.condition {
        Condition::Started => matches!(observed.phase, Phase::Running | Phase::Completed),
        Condition::Healthy => {
            observed.phase == Phase::Running && matches!(observed.health, Health::Healthy | Health::None)
        }
        Condition::Completed => observed.phase == Phase::Completed,
    }
}
