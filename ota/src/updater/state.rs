//! The steps of an update as pure functions: which step may follow which, and what a start of the machine means for the
//! update that is recorded.

use cairn_model::{
    Digest,
    desired::{DesiredOs, OsHealth},
    report::{OsProgress, OsState, Slot},
};
use serde::{Deserialize, Deserializer, Serialize};

use super::store::lenient;
use crate::OsVersion;

/// Starts of the old OS after which an armed entry that the loader leaves alone is given up: else a node whose loader
/// cannot write its ESP would restart for ever.
pub(super) const MAX_IGNORED_STARTS: u32 = 3;

/// An update that was begun, and how far it came. A newer OS may have written it, with fields that are not known here and
/// without some that are: all that can do without is left to its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The release; unknown where the state file was lost while it was tried.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// Its version.
    pub version: OsVersion,
    /// Its root.
    pub root_hash: String,
    /// Where it goes, or went.
    pub slot: Slot,
    /// How far it came.
    pub state: OsState,
    /// Number of the attempt that was asked for.
    #[serde(default)]
    pub attempt: u32,
    /// What must hold before it is kept.
    #[serde(default, deserialize_with = "health")]
    pub health: OsHealth,
    /// The release's own command that must pass; an argument list.
    #[serde(default)]
    pub health_command: Vec<String>,
    /// Units that were healthy before, and must be again.
    #[serde(default)]
    pub expectations: Vec<String>,
    /// What the hub says was verified before, and must be again.
    #[serde(default)]
    pub hub_verified: bool,
    /// Root hash of what ran when it began.
    #[serde(default)]
    pub from: String,
    /// The start of the kernel in which it was armed, or was last looked at.
    #[serde(default)]
    pub boot_id: String,
    /// Starts of another OS since it was armed, without the loader having tried it.
    #[serde(default)]
    pub ignored_starts: u32,
    /// Why it is in this state.
    #[serde(default)]
    pub detail: Option<String>,
    /// [`super::Startup::RolledBack`] has been said.
    #[serde(default)]
    pub reported: bool,
    /// What its transfer came to.
    #[serde(default, deserialize_with = "lenient")]
    pub progress: Option<OsProgress>,
}

/// A policy as a newer OS may have written it, whose further fields count for nothing here.
#[derive(Deserialize)]
#[serde(default)]
struct Health {
    deadline_seconds: u32,
    hub: bool,
}

impl Default for Health {
    fn default() -> Self {
        let OsHealth { deadline_seconds, hub } = OsHealth::default();
        Self { deadline_seconds, hub }
    }
}

fn health<'de, D: Deserializer<'de>>(from: D) -> Result<OsHealth, D::Error> {
    let Health { deadline_seconds, hub } = lenient(from)?.unwrap_or_default();
    Ok(OsHealth { deadline_seconds, hub })
}

impl Attempt {
    /// One that begins.
    pub(super) fn new(version: &OsVersion, root_hash: &str, slot: Slot, from: &str, boot_id: &str) -> Self {
        Self {
            digest: None,
            version: version.clone(),
            root_hash: root_hash.to_owned(),
            slot,
            state: OsState::Idle,
            attempt: 0,
            health: OsHealth::default(),
            health_command: Vec::new(),
            expectations: Vec::new(),
            hub_verified: false,
            from: from.to_owned(),
            boot_id: boot_id.to_owned(),
            ignored_starts: 0,
            detail: None,
            reported: false,
            progress: None,
        }
    }

    /// The same for what an operator wants.
    pub(super) fn wanted(mut self, digest: &Digest, wanted: &DesiredOs, command: &[String]) -> Self {
        self.digest = Some(digest.clone());
        self.attempt = wanted.attempt;
        self.health = wanted.health.clone();
        self.health_command = command.to_vec();
        self
    }
}

/// What happens to an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Its transfer begins, or begins again.
    Begun,
    /// All of it is in the slot, and verified.
    Transferred,
    /// Transfer or arming failed.
    Broke,
    /// The node will not have it.
    Refused,
    /// Its boot entry is in.
    EntryIn,
    /// Its boot entry is about to be taken out again: it is not wanted any more.
    Disarmed,
    /// Its boot entry is seen to be in, whatever was recorded: an entry stands only while its slot is whole.
    Found,
    /// The machine started into it.
    Started,
    /// The machine started, and the loader will still try it.
    NotStarted,
    /// It is kept.
    Confirmed,
    /// It is given up while it runs.
    Rejected,
    /// The machine started into something else, and the loader will not try it again.
    FellBack,
}

/// A step that may not follow; a defect, or somebody who asks for what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an update that is {state:?} cannot be {event:?}; wait for the end of the step, or look at 'cairn os status'"
)]
pub struct IllegalStep {
    pub(super) state: OsState,
    pub(super) event: Event,
}

/// The state after an event.
pub(super) fn next(state: OsState, event: Event) -> Result<OsState, IllegalStep> {
    use Event as E;
    use OsState as S;
    match (state, event) {
        // What is being tried is neither replaced nor refused: first it needs a verdict.
        (S::Trying, E::Begun) => Err(IllegalStep { state, event }),
        (_, E::Begun) => Ok(S::Fetching),
        (S::Fetching, E::Transferred) => Ok(S::Written),
        (S::Fetching | S::Written, E::Broke) => Ok(S::Failed),
        (S::Armed | S::Trying, E::Refused) => Err(IllegalStep { state, event }),
        (_, E::Refused) => Ok(S::Refused),
        (S::Written, E::EntryIn) => Ok(S::Armed),
        (S::Armed, E::Disarmed) => Ok(S::Written),
        (S::Fetching | S::Written | S::Failed, E::Found) => Ok(S::Armed),
        // Whatever was recorded: what runs on an entry with a counter is being tried. A failed one runs where only the
        // record of its entry failed; a rolled back one where the power was cut between verdict and mark; a good one
        // where an operator has made it the next.
        (_, E::Started) => Ok(S::Trying),
        (S::Armed | S::Trying, E::NotStarted) => Ok(S::Armed),
        (S::Trying, E::Confirmed) => Ok(S::Good),
        (S::Trying, E::Rejected) => Ok(S::RolledBack),
        (S::Armed | S::Trying | S::Good, E::FellBack) => Ok(S::RolledBack),
        (_, E::Transferred | E::Broke | E::EntryIn | E::Disarmed | E::Found | E::NotStarted) => {
            Err(IllegalStep { state, event })
        }
        (_, E::Confirmed | E::Rejected | E::FellBack) => Err(IllegalStep { state, event }),
    }
}

/// Tries left and done; `None` without a counter.
pub(super) type Tries = Option<(u32, u32)>;

/// What is seen after a start.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    /// Root hash of what runs.
    pub(super) root_hash: &'a str,
    /// This start of the kernel.
    pub(super) boot_id: &'a str,
    /// The entry of what runs, where there is one.
    pub(super) own: Option<Tries>,
    /// The entry of what is recorded, where there is one that boots its root.
    pub(super) target: Option<Tries>,
    /// Why the other slot is known to be corrupt.
    pub(super) corrupt: Option<&'a str>,
}

/// What that means for what is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing new.
    Unchanged,
    /// The entry came in, only the record of that was lost.
    Found,
    /// It runs and must show that it is well.
    Started,
    /// It runs and its entry is blessed, only the record of that was lost.
    Kept,
    /// The machine started without the loader having tried it.
    NotStarted,
    /// It was given up.
    FellBack(String),
    /// It was good, and is no longer what starts.
    FellOver(String),
}

/// Compares what is recorded with what is seen.
pub(super) fn find(attempt: &Attempt, seen: &Seen<'_>) -> Finding {
    use OsState as S;
    let tries_left = |entry: Option<Tries>| entry.is_some_and(|tries| tries.is_none_or(|(left, _)| left > 0));
    if attempt.root_hash == seen.root_hash {
        return match (attempt.state, seen.own) {
            (S::Written | S::Armed | S::Trying | S::RolledBack, Some(None)) => Finding::Kept,
            (S::Written | S::Armed | S::Trying | S::RolledBack, _) => Finding::Started,
            (S::Idle | S::Fetching | S::Refused | S::Failed, Some(Some(_))) => Finding::Started,
            (S::Good, Some(Some((left, _)))) if left > 0 => Finding::Started,
            (S::Good | S::Idle | S::Fetching | S::Refused | S::Failed, _) => Finding::Unchanged,
        };
    }
    match attempt.state {
        S::Fetching | S::Written | S::Failed if tries_left(seen.target) => Finding::Found,
        S::Armed | S::Trying => fell_back(attempt, seen),
        S::Good => Finding::FellOver(
            seen.corrupt.map_or_else(|| "the boot loader no longer starts it".to_owned(), str::to_owned),
        ),
        S::Written | S::Idle | S::Fetching | S::RolledBack | S::Refused | S::Failed => Finding::Unchanged,
    }
}

fn fell_back(attempt: &Attempt, seen: &Seen<'_>) -> Finding {
    if let Some(corrupt) = seen.corrupt {
        return Finding::FellBack(corrupt.to_owned());
    }
    match seen.target {
        None => Finding::FellBack("its boot entry is gone from the ESP".into()),
        Some(Some((0, done))) => {
            Finding::FellBack(format!("it did not start: no boot was completed in {done} tries"))
        }
        Some(_) if attempt.boot_id == seen.boot_id => Finding::Unchanged,
        Some(_) if attempt.ignored_starts + 1 >= MAX_IGNORED_STARTS => Finding::FellBack(format!(
            "the boot loader did not try it in {MAX_IGNORED_STARTS} restarts; look whether it can write the ESP"
        )),
        Some(_) => Finding::NotStarted,
    }
}
