//! The task that keeps up with the fleet: enrols until the node is a member, then waits for news of the hub and pulls
//! them, and reads each stick that is brought. One task owns the verifier and the puller; what it finds goes out by
//! `watch`.
//!
//! It never gives up, and never stops anything that runs: whatever hub or stick do, it says what is wrong (journal, local
//! status, events) and tries again later. Hub and stick are two carriers of the same: whichever has the newer generation
//! is followed, and never one that is older than what is applied. A stick that takes long is read in turns with the hub.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use cairn_model::{Facts, NodeId, local::LinkState};
use cairn_trust::{clock::Clock, keys::KeyPair, node::Verifier};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    assemble::Assembled,
    backoff::{Backoff, random},
    blobs::Blobs,
    config::HubSettings,
    ledger::{Enrolment, Ledger},
    pull::Puller,
    report::Reporter,
    source::{Clocked, HubClient, HubTls},
};

mod enrol;
mod follow;
#[cfg(test)]
mod tests;
mod visit;
mod words;

use visit::{Joined, Pace};
pub use visit::{MediaOutcome, MediaVisit};

/// First and longest pause between tries to reach the hub.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How the node stands with its hub; published by the task.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkStatus {
    /// In a word.
    pub state: LinkState,
    /// What is wrong, with a cure.
    pub problem: Option<String>,
    /// Why what the hub offers is not taken, with a cure.
    pub refusal: Option<String>,
    /// When the hub last answered.
    pub last_contact: Option<Timestamp>,
    /// When what the hub said was last verified: an answer alone shows neither that this OS verifies nor that it stores.
    pub verified: Option<Instant>,
    /// By how many seconds the hub's clock is ahead of this node's, as far as that is known.
    pub skew_seconds: i64,
    /// The hub's address.
    pub hub: Option<String>,
}

impl LinkStatus {
    /// Before anything was heard of a hub, and of none.
    pub(crate) fn new(state: LinkState) -> Self {
        Self {
            state,
            problem: None,
            refusal: None,
            last_contact: None,
            verified: None,
            skew_seconds: 0,
            hub: None,
        }
    }
}

/// What the task is made of.
#[derive(Debug)]
pub struct Config {
    /// The configured hub, if any.
    pub hub: Option<HubSettings>,
    /// What the fleet's first roots must hash to, where that is configured.
    pub roots_sha256: Option<String>,
    /// `…/trust`: the TUF stores.
    pub trust_dir: PathBuf,
    /// `…/layers`: what is there needs no blob.
    pub layers_dir: PathBuf,
    /// The node's key.
    pub key: Arc<KeyPair>,
    /// Told to the hub at enrolment.
    pub facts: Facts,
    /// What time it is.
    pub clock: Clocked,
}

/// The handle: what the task publishes, and where it takes sticks.
#[derive(Debug, Clone)]
pub struct Link {
    /// How the node stands with its hub.
    pub status: watch::Receiver<LinkStatus>,
    /// A client for the hub once the node is a member.
    pub hub: watch::Receiver<Option<HubClient>>,
    /// The generation to run.
    pub desired: watch::Receiver<Option<Arc<Assembled>>>,
    /// Where sticks are brought to be read, one after the other.
    pub media: mpsc::Sender<MediaVisit>,
}

struct Task {
    config: Config,
    node: NodeId,
    ledger: Ledger,
    blobs: Blobs,
    reporter: Reporter,
    status: watch::Sender<LinkStatus>,
    hub: watch::Sender<Option<HubClient>>,
    desired: watch::Sender<Option<Arc<Assembled>>>,
    pace: Pace,
}

/// Sticks that wait to be read.
struct Visits(mpsc::Receiver<MediaVisit>);

impl Visits {
    /// The next one; never where nobody brings any. Cancel-safe: the channel keeps what was not received.
    async fn next(&mut self) -> MediaVisit {
        match self.0.recv().await {
            Some(visit) => visit,
            None => std::future::pending().await,
        }
    }
}

/// Makes the task and its handle; `initial` is the generation from the ledger.
pub fn build(
    config: Config,
    ledger: Ledger,
    blobs: Blobs,
    reporter: Reporter,
    initial: Option<Arc<Assembled>>,
) -> (Link, impl Future<Output = ()> + use<>) {
    let hub_address = config.hub.as_ref().map(|hub| hub.url.to_string());
    let state = match &config.hub {
        // A node with a generation is a member: it has only not heard of its hub yet.
        _ if initial.is_some() => LinkState::Offline,
        Some(_) => LinkState::Enrolling,
        None => LinkState::Unconfigured,
    };
    let (status, status_out) = watch::channel(LinkStatus { hub: hub_address, ..LinkStatus::new(state) });
    let (hub, hub_out) = watch::channel(None);
    let (desired, desired_out) = watch::channel(initial);
    let (media, visits) = mpsc::channel(1);
    let node = config.key.public().node_id();
    let task = Task { config, node, ledger, blobs, reporter, status, hub, desired, pace: Pace::default() };
    (Link { status: status_out, hub: hub_out, desired: desired_out, media }, task.run(Visits(visits)))
}

/// Runs the task until `stop` is cancelled. A pull that is cut off leaves nothing half-done: blobs resume, the ledger's
/// transaction never happened.
pub async fn run_until(task: impl Future<Output = ()>, stop: CancellationToken) {
    tokio::select! {
        () = task => {}
        () = stop.cancelled() => {}
    }
}

impl Task {
    async fn run(self, mut visits: Visits) {
        let (enrolment, joined) = self.membership(&mut visits).await;
        match self.follow(&enrolment, joined, &mut visits).await {}
    }

    fn say(&self, state: LinkState, problem: Option<String>) {
        self.status.send_if_modified(|status| {
            let changed = status.state != state || status.problem != problem;
            if changed {
                match &problem {
                    Some(problem) => tracing::warn!(?state, "{problem}"),
                    None => tracing::info!(?state, "link to the hub"),
                }
                (status.state, status.problem) = (state, problem);
            }
            changed
        });
    }

    fn heard(&self) {
        let now = Timestamp::now();
        self.status.send_modify(|status| status.last_contact = Some(now));
    }

    /// The hub was heard, and what it said is verified; also where it had nothing newer.
    fn believed(&self, skew_seconds: i64) {
        self.heard();
        self.status.send_modify(|status| {
            (status.verified, status.skew_seconds) = (Some(Instant::now()), skew_seconds);
        });
    }

    fn applied(&self) -> u64 {
        self.desired.borrow().as_ref().map_or(0, |assembled| assembled.desired.generation)
    }

    fn clock(&self) -> Clock {
        Clock { system: Timestamp::now(), os_build: self.config.clock.floor }
    }

    /// A member's life: it keeps up with its hub, where it has one, and leaves that for each stick that comes.
    async fn follow(&self, enrolment: &Enrolment, joined: Option<Joined>, visits: &mut Visits) -> Infallible {
        let (mut waiting, mut note) = joined.map_or((None, None), |j| (Some(j.visit), Some(j.note)));
        let client = self.client(enrolment);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            // Made anew after each stick: a pull that was dropped for it leaves the verifier's memory ahead of its disk.
            let mut puller = match self.puller().await {
                Ok(puller) => puller,
                Err(problem) => {
                    if let Some(visit) = waiting.take() {
                        visit.refuse(problem.clone());
                    }
                    self.say(LinkState::Offline, Some(problem));
                    // Both arms are cancel-safe.
                    tokio::select! {
                        () = sleep(backoff.after_failure(random())) => {}
                        visit = visits.next() => waiting = Some(visit),
                    }
                    continue;
                }
            };
            backoff.reset();
            if let Err((state, problem)) = &client {
                self.say(*state, problem.clone());
            }
            match (waiting.take(), &client) {
                (Some(visit), client) => {
                    let hub = client.as_ref().ok();
                    self.receive(visit, note.take(), &mut puller, enrolment, hub).await;
                }
                // What is dropped here goes on from the disk afterwards: blobs, metadata and ledger are whole or resumed.
                (None, Ok(client)) => tokio::select! {
                    never = self.keep_up(client, &mut puller) => match never {},
                    visit = visits.next() => waiting = Some(visit),
                },
                (None, Err(_)) => waiting = Some(visits.next().await),
            }
        }
    }

    /// What the node speaks to its hub with; none where only sticks are followed, and how that looks then.
    fn client(&self, enrolment: &Enrolment) -> Result<HubClient, (LinkState, Option<String>)> {
        let Some(hub) = &enrolment.hub else { return Err((LinkState::Unconfigured, None)) };
        let Some(ca_pem) = enrolment.ca_pem.clone() else {
            let problem = "the hub's CA is missing, only sticks are followed; give it as credential cairn.hub-ca or in \
                           cairnd.toml and restart";
            return Err((LinkState::Offline, Some(problem.to_owned())));
        };
        let tls = HubTls { ca_pem, clock: self.config.clock };
        let client = HubClient::build(hub.clone(), &tls, self.config.key.clone())
            .map_err(|e| (LinkState::Offline, Some(e.to_string())))?;
        self.hub.send_replace(Some(client.clone()));
        Ok(client)
    }

    async fn puller(&self) -> Result<Puller, String> {
        let told = |e: &dyn std::error::Error| cairn_model::error::chain(e);
        let verifier = Verifier::open(&self.config.trust_dir, self.node.clone()).map_err(|e| told(&e))?;
        Puller::build(verifier, self.ledger.clone(), self.blobs.clone(), self.config.layers_dir.clone())
            .await
            .map_err(|e| told(&e))
    }
}
