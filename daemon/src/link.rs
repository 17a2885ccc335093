//! The task that keeps up with the hub: enrols until the node is a member, then waits for news and pulls them. One task
//! owns the verifier and the puller; what it finds goes out by `watch`.
//!
//! It never gives up, and never stops anything that runs: whatever the hub does, it says what is wrong (journal, local
//! status, events) and tries again later.

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use cairn_model::{
    Facts, NodeId,
    enroll::{EnrollGrant, EnrollRequest, EnrollState},
    error::chain,
    local::LinkState,
    report::Severity,
};
use cairn_trust::{clock::Clock, envelope, keys::KeyPair, node::Verifier};
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
    identity,
    ledger::{Enrolment, Ledger},
    pull::{PullError, Puller},
    report::Reporter,
    source::{Clocked, HubClient, HubTls, SourceError},
};

mod visit;

pub use visit::{MediaOutcome, MediaVisit};

/// First and longest pause between tries to reach the hub.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// First and longest pause between two looks whether an operator has approved.
const PENDING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A clock that is off by more than this is reported.
const MAX_SKEW_SECONDS: i64 = 120;

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

/// What the task is made of.
#[derive(Debug)]
pub struct Config {
    /// The configured hub, if any.
    pub hub: Option<HubSettings>,
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

/// The handle: what the task publishes.
#[derive(Debug, Clone)]
pub struct Link {
    /// How the node stands with its hub.
    pub status: watch::Receiver<LinkStatus>,
    /// A client for the hub once the node is a member.
    pub hub: watch::Receiver<Option<HubClient>>,
    /// The generation to run.
    pub desired: watch::Receiver<Option<Arc<Assembled>>>,
    /// Where sticks are brought to be read.
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
    let (status, status_out) = watch::channel(LinkStatus {
        // A node with a generation is a member: it has only not heard of its hub yet.
        state: match &config.hub {
            _ if initial.is_some() => LinkState::Offline,
            Some(_) => LinkState::Enrolling,
            None => LinkState::Unconfigured,
        },
        problem: None,
        refusal: None,
        last_contact: None,
        verified: None,
        skew_seconds: 0,
        hub: hub_address,
    });
    let (hub, hub_out) = watch::channel(None);
    let (desired, desired_out) = watch::channel(initial);
    let node = config.key.public().node_id();
    let (media, visits) = mpsc::channel(1);
    let task = Task { config, node, ledger, blobs, reporter, status, hub, desired };
    (Link { status: status_out, hub: hub_out, desired: desired_out, media }, task.run(visits))
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
    async fn run(self, _visits: mpsc::Receiver<MediaVisit>) {
        let enrolment = self.membership().await;
        self.follow(enrolment).await;
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

    /// What enrolment gave, now or earlier.
    async fn membership(&self) -> Enrolment {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.ledger.enrolment().await {
                Ok(Some(enrolment)) if enrolment.node == self.node => return self.current(enrolment),
                Ok(Some(other)) => {
                    tracing::warn!(was = %other.node, is = %self.node, "the node's key has changed; enrolling as a new node");
                }
                Ok(None) => {}
                Err(e) => {
                    self.say(LinkState::Offline, Some(chain(&e)));
                    sleep(backoff.after_failure(random())).await;
                    continue;
                }
            }
            return self.enrol().await;
        }
    }

    /// The configuration wins over what was true at enrolment: a hub may move, and its CA may be renewed.
    fn current(&self, mut enrolment: Enrolment) -> Enrolment {
        if let Some(hub) = &self.config.hub {
            enrolment.hub = hub.url.clone();
            if let Some(ca) = &hub.ca_pem {
                enrolment.ca_pem.clone_from(ca);
            }
        }
        let address = enrolment.hub.to_string();
        self.status.send_modify(|status| status.hub = Some(address));
        enrolment
    }

    async fn enrol(&self) -> Enrolment {
        let (hub, ca_pem, token) = match &self.config.hub {
            Some(HubSettings { url, ca_pem: Some(ca), token: Some(token) }) => (url, ca, token),
            Some(HubSettings { ca_pem, .. }) => {
                let (what, credential) = match ca_pem {
                    None => ("the hub's CA", "cairn.hub-ca"),
                    Some(_) => ("an enrolment token", "cairn.enroll-token"),
                };
                let problem = format!(
                    "{what} is missing; give it as credential {credential} or in cairnd.toml and restart"
                );
                self.say(LinkState::Enrolling, Some(problem));
                return pending().await;
            }
            None => {
                let problem = "no hub is configured; give the credential cairn.hub or hub.url in cairnd.toml";
                self.say(LinkState::Unconfigured, Some(problem.to_owned()));
                return pending().await;
            }
        };
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        let mut waiting = Backoff::new(PENDING.0, PENDING.1);
        let mut known = false;
        loop {
            let tls = HubTls { ca_pem: ca_pem.clone(), clock: self.config.clock };
            let answer = match HubClient::build(hub.clone(), &tls, self.config.key.clone()) {
                Ok(client) => self.ask(&client, token, known).await,
                Err(e) => Err(e),
            };
            let pause = match answer.and_then(|grant| self.admitted(hub, ca_pem, grant)) {
                Ok(Some(enrolment)) => match self.remember(&enrolment).await {
                    Ok(()) => return enrolment,
                    Err(problem) => {
                        self.say(LinkState::Enrolling, Some(problem));
                        retry.after_failure(random())
                    }
                },
                Ok(None) => {
                    (known, retry) = (true, Backoff::new(RETRY.0, RETRY.1));
                    let fingerprint = identity::fingerprint(&self.config.key.public());
                    let problem = format!(
                        "waits for an operator: `cairn node approve {}` (fingerprint {fingerprint})",
                        self.node
                    );
                    self.say(LinkState::Pending, Some(problem));
                    waiting.after_failure(random())
                }
                Err(e) => {
                    // A hub that forgot the node gets the whole request again.
                    known = false;
                    self.say(LinkState::Enrolling, Some(format!("not enrolled: {e}")));
                    retry.after_failure(random())
                }
            };
            sleep(pause).await;
        }
    }

    async fn ask(&self, client: &HubClient, token: &str, known: bool) -> Result<EnrollGrant, SourceError> {
        let answer = if known {
            client.enrollment().await
        } else {
            let public = self.config.key.public();
            let request = EnrollRequest {
                schema: 1,
                token: token.to_owned(),
                public_key: public.to_base64url(),
                facts: self.config.facts.clone(),
            };
            let jws = envelope::sign_enroll(&self.config.key, &request)
                .map_err(|e| SourceError::Garbage { what: "enrolment", cause: chain(&e) })?;
            client.enroll(jws).await
        };
        if answer.as_ref().is_ok() || answer.as_ref().is_err_and(SourceError::is_answer) {
            self.heard();
        }
        answer
    }

    /// What a grant means: in, not yet, or nonsense.
    fn admitted(
        &self,
        hub: &url::Url,
        ca_pem: &str,
        grant: EnrollGrant,
    ) -> Result<Option<Enrolment>, SourceError> {
        if grant.node != self.node {
            let cause = format!("it names node {}, this is {}", grant.node, self.node);
            return Err(SourceError::Garbage { what: "enrolment", cause });
        }
        match (grant.state, grant.director_root, grant.artifacts_root) {
            (EnrollState::Pending, _, _) => Ok(None),
            (EnrollState::Approved, Some(director_root), Some(artifacts_root)) => Ok(Some(Enrolment {
                hub: hub.clone(),
                ca_pem: ca_pem.to_owned(),
                node: grant.node,
                director_root,
                artifacts_root,
            })),
            (EnrollState::Approved, _, _) => {
                let cause = "an approved node needs both roots".to_owned();
                Err(SourceError::Garbage { what: "enrolment", cause })
            }
        }
    }

    /// Pins the roots, then remembers: a power cut in between repeats the pinning, which is nothing.
    async fn remember(&self, enrolment: &Enrolment) -> Result<(), String> {
        let director = enrolment.director_root.get().as_bytes();
        let artifacts = enrolment.artifacts_root.get().as_bytes();
        Verifier::init(&self.config.trust_dir, director, artifacts).map_err(|e| chain(&e))?;
        self.ledger.set_enrolment(enrolment).await.map_err(|e| chain(&e))?;
        tracing::info!(node = %self.node, hub = %enrolment.hub, "enrolled");
        self.reporter.event(Severity::Info, "enrolled", format!("enrolled with {}", enrolment.hub)).await;
        Ok(())
    }

    async fn follow(&self, enrolment: Enrolment) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.open(&enrolment).await {
                Ok((client, puller)) => return self.keep_up(client, puller).await,
                Err(problem) => self.say(LinkState::Offline, Some(problem)),
            }
            sleep(backoff.after_failure(random())).await;
        }
    }

    async fn open(&self, enrolment: &Enrolment) -> Result<(HubClient, Puller), String> {
        let tls = HubTls { ca_pem: enrolment.ca_pem.clone(), clock: self.config.clock };
        let client = HubClient::build(enrolment.hub.clone(), &tls, self.config.key.clone())
            .map_err(|e| e.to_string())?;
        self.hub.send_replace(Some(client.clone()));
        let verifier = Verifier::open(&self.config.trust_dir, self.node.clone()).map_err(|e| chain(&e))?;
        let puller =
            Puller::build(verifier, self.ledger.clone(), self.blobs.clone(), self.config.layers_dir.clone())
                .await
                .map_err(|e| chain(&e))?;
        Ok((client, puller))
    }

    async fn keep_up(&self, client: HubClient, mut puller: Puller) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut hinted = self.applied();
        loop {
            let refreshed = Instant::now();
            match self.pull(&client, &mut puller).await {
                // A hint that leads to nothing must not make a busy loop.
                Ok(()) if hinted > self.applied() => sleep(backoff.after_failure(random())).await,
                Ok(()) => backoff.reset(),
                Err(e) => {
                    self.explain(&e).await;
                    sleep(backoff.after_failure(random())).await;
                    continue;
                }
            }
            hinted = self.news(&client, refreshed, &mut backoff).await;
        }
    }

    fn applied(&self) -> u64 {
        self.desired.borrow().as_ref().map_or(0, |assembled| assembled.desired.generation)
    }

    async fn pull(&self, client: &HubClient, puller: &mut Puller) -> Result<(), PullError> {
        let clock = Clock { system: Timestamp::now(), os_build: self.config.clock.floor };
        let begun = Instant::now();
        let newer = puller.pull(client, clock, self.applied()).await?;
        self.believed(client.skew_seconds());
        if let Some(newer) = newer {
            let generation = newer.desired.generation;
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(generation, replicas = newer.replicas.len(), ms, "generation applied");
            self.desired.send_replace(Some(newer));
            let message = format!("generation {generation} is verified, complete and stored");
            self.reporter.event(Severity::Info, "generation-applied", message).await;
        } else {
            // Something may have been lost from the disk since: have it back before it is needed.
            let current = self.desired.borrow().clone();
            if let Some(current) = current {
                puller.ensure_blobs(client, &current).await?;
            }
        }
        self.say(LinkState::Online, clock_problem(client.skew_seconds()));
        self.set_refusal(None);
        Ok(())
    }

    fn set_refusal(&self, refusal: Option<String>) -> bool {
        self.status.send_if_modified(|status| {
            let changed = status.refusal != refusal;
            status.refusal = refusal;
            changed
        })
    }

    /// Says what went wrong: a hub that is not reached is the link's problem, a bundle that is not believed is an event.
    async fn explain(&self, error: &PullError) {
        let text = chain(error);
        if error.is_transport() {
            self.say(LinkState::Offline, Some(text));
            return;
        }
        self.heard();
        self.say(LinkState::Online, None);
        let attack = error.attack();
        let refusal = match &attack {
            Some(attack) => format!("the hub's bundle is refused (it may be an attack: {attack}): {text}"),
            None => format!("the hub's bundle is not taken: {text}"),
        };
        if self.set_refusal(Some(refusal.clone())) {
            tracing::error!("{refusal}");
            let reason = if attack.is_some() { "bundle-refused" } else { "bundle-not-applied" };
            self.reporter.event(Severity::Error, reason, refusal).await;
        }
    }

    /// Returns when it is time to look again, with the generation that the hub hints at.
    async fn news(&self, client: &HubClient, refreshed: Instant, backoff: &mut Backoff) -> u64 {
        loop {
            let poll = self.poll_interval();
            match client.wait(self.applied()).await {
                Ok(Some(hint)) => {
                    self.heard();
                    return hint.generation;
                }
                Ok(None) => {
                    self.heard();
                    if refreshed.elapsed() >= poll {
                        return 0;
                    }
                }
                Err(e) if e.is_answer() && !e.is_passing() => {
                    // No long poll here (a proxy, an older hub): poll by the clock.
                    tracing::warn!("the long poll does not work, polling instead: {e}");
                    sleep(poll.mul_f64(0.75 + random() / 2.0)).await;
                    return 0;
                }
                Err(e) => {
                    self.say(LinkState::Offline, Some(e.to_string()));
                    sleep(backoff.after_failure(random())).await;
                    return 0;
                }
            }
        }
    }

    fn poll_interval(&self) -> Duration {
        let seconds = self.desired.borrow().as_ref().map_or(60, |a| a.desired.policy.poll_seconds);
        Duration::from_secs(u64::from(seconds.clamp(5, 86_400)))
    }
}

fn clock_problem(skew_seconds: i64) -> Option<String> {
    (skew_seconds.abs() > MAX_SKEW_SECONDS).then(|| {
        let (by, way) = (skew_seconds.unsigned_abs(), if skew_seconds > 0 { "behind" } else { "ahead" });
        format!("this node's clock is {by} s {way} of the hub's; set it or let NTP through")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that has not heard of its hub yet.
    async fn task(dir: &std::path::Path) -> Task {
        let key = Arc::new(KeyPair::generate().unwrap());
        let config = Config {
            hub: None,
            trust_dir: dir.join("trust"),
            layers_dir: dir.join("layers"),
            key: key.clone(),
            facts: Facts::default(),
            clock: Clocked { floor: None },
        };
        let status = LinkStatus {
            state: LinkState::Offline,
            problem: None,
            refusal: None,
            last_contact: None,
            verified: None,
            skew_seconds: 0,
            hub: None,
        };
        Task {
            config,
            node: key.public().node_id(),
            ledger: Ledger::open(&dir.join("ledger.sqlite")).await.unwrap(),
            blobs: Blobs::new(dir),
            reporter: Reporter::channel().0,
            status: watch::channel(status).0,
            hub: watch::channel(None).0,
            desired: watch::channel(None).0,
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_refused_is_heard_and_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let task = task(dir.path()).await;
        task.explain(&PullError::Endless { generation: 1 }).await;
        let status = task.status.borrow().clone();
        assert!(status.last_contact.is_some() && status.refusal.is_some(), "{status:?}");
        assert_eq!(status.verified, None);
        task.believed(-7);
        let status = task.status.borrow().clone();
        assert!(status.verified.is_some());
        assert_eq!(status.skew_seconds, -7);
    }
}
