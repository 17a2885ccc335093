//! Keeps the node's OS as desired: watches what is wanted → admits → writes the other slot → restarts when the policy
//! says so → lets the health gate decide → keeps or goes back. The updater has a thread of its own ([`engine`]); this
//! task decides when it does what, and tells.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cairn_model::{
    Digest, OsVersion,
    error::chain,
    report::{OsState, OsStatus, Severity, WorkloadStatus},
};
use cairn_ota::{Machine, Startup, UpdateError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    act::supervisor::RestartMachine,
    assemble::Assembled,
    bus::port::OsRequest,
    link::LinkStatus,
    report::Reporter,
    source::{HubClient, MediaSource},
    status::WorkStatus,
};

mod armed;
mod carrier;
mod command;
pub mod confirm;
mod engine;
mod follow;
mod gate;
mod open;
mod requests;
mod token;
mod trial;
mod window;

use engine::{Engine, Find};
use gate::Verdict;
use open::Patience;
use trial::{Clock, Terms, Trial};

/// Requests that wait for the task.
const WAITING: usize = 16;
/// How often the gate looks.
const LOOK: Duration = Duration::from_secs(1);
/// An ordinary boot is complete after so long at the latest, whatever the workloads do.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// Pause between two tries of what the disk refused.
const RETRY: Duration = Duration::from_secs(10);
/// A restart that was asked for and does not come is asked for again.
const RESTART_AGAIN: Duration = Duration::from_secs(120);
/// Progress goes to the hub at most this often.
const CALM: Duration = Duration::from_secs(5);

/// What the task is made of.
pub struct Config {
    /// The machine is looked for below this folder.
    pub root: PathBuf,
    /// The updater's own folder: `…/os`.
    pub state_dir: PathBuf,
    /// What does not outlive a boot.
    pub run_dir: PathBuf,
    /// The node's own command that must end with 0 on an OS that is tried.
    pub health_command: Vec<String>,
    /// Whether there is a hub at all. What must be heard of it the signed policy says.
    pub has_hub: bool,
    /// The generation to run.
    pub desired: watch::Receiver<Option<Arc<Assembled>>>,
    /// How the workloads stand.
    pub work: watch::Receiver<WorkStatus>,
    /// How the node stands with its hub.
    pub link: watch::Receiver<LinkStatus>,
    /// Where releases come from.
    pub hub: watch::Receiver<Option<HubClient>>,
    /// The stick that is plugged in: it is read before the hub is asked. Whoever unplugs it says so here first.
    pub stick: watch::Receiver<Option<Arc<MediaSource>>>,
    /// What restarts the machine.
    pub restart: Arc<dyn RestartMachine>,
    /// Where events go.
    pub reporter: Reporter,
}

/// The handle: what the task publishes, and how it is asked.
#[derive(Debug, Clone)]
pub struct Os {
    /// How the OS stands, as it changes; `None` on a node that does not update its OS.
    pub status: watch::Receiver<Option<OsStatus>>,
    /// The same for the hub: progress alone changes it every few seconds only.
    pub reported: watch::Receiver<Option<OsStatus>>,
    /// What keeps the node from updating its OS, with a cure.
    pub problem: watch::Receiver<Option<String>>,
    verdict: watch::Receiver<Option<Result<(), String>>>,
    requests: mpsc::Sender<OsRequest>,
}

impl Os {
    /// Restarts into the OS that stands written; a refusal has cause and cure.
    pub async fn apply(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let no_task = || "this node does not update its OS; boot it from an image of Cairn".to_owned();
        self.requests.send(OsRequest::Apply { reply }).await.map_err(|_| no_task())?;
        answer.await.unwrap_or_else(|_| Err(no_task()))
    }

    /// Waits until the OS that runs is kept, or given up, with the reason.
    pub async fn verdict(&self) -> Result<(), String> {
        let mut verdict = self.verdict.clone();
        let ended = || Err("cairnd ends".to_owned());
        verdict.wait_for(Option::is_some).await.map_or_else(|_| ended(), |v| v.clone().unwrap_or_else(ended))
    }
}

/// Where the task publishes.
struct Outputs {
    status: watch::Sender<Option<OsStatus>>,
    reported: watch::Sender<Option<OsStatus>>,
    problem: watch::Sender<Option<String>>,
    verdict: watch::Sender<Option<Result<(), String>>>,
}

/// The task; [`Task::run`] makes it run.
pub struct Task {
    config: Config,
    out: Outputs,
    requests: mpsc::Receiver<OsRequest>,
    patience: Patience,
}

/// Makes the task and its handle.
pub fn build(config: Config) -> (Os, Task) {
    let (status, status_out) = watch::channel(None);
    let (reported, reported_out) = watch::channel(None);
    let (problem, problem_out) = watch::channel(None);
    let (verdict, verdict_out) = watch::channel(None);
    let (requests, received) = mpsc::channel(WAITING);
    let out = Outputs { status, reported, problem, verdict };
    let os = Os {
        status: status_out,
        reported: reported_out,
        problem: problem_out,
        verdict: verdict_out,
        requests,
    };
    (os, Task { config, out, requests: received, patience: Patience::default() })
}

impl Task {
    /// Runs until `stop` is cancelled; `bus` are requests from D-Bus.
    pub async fn run(self, bus: mpsc::Receiver<OsRequest>, stop: CancellationToken) {
        let find = Find::Below(self.config.root.clone());
        self.run_on(find, bus, stop).await;
    }

    async fn run_on(self, find: Find, bus: mpsc::Receiver<OsRequest>, stop: CancellationToken) {
        let calm = calm(self.out.status.subscribe(), self.out.reported.clone());
        // Dropped, an installation stops at its next block; what it has written is found again by the next one.
        tokio::select! {
            () = self.live(find, bus) => {}
            () = calm => {}
            () = stop.cancelled() => {}
        }
    }

    async fn live(self, find: Find, bus: mpsc::Receiver<OsRequest>) {
        let Self { config, out, requests, patience } = self;
        let mut requests = [bus, requests];
        match open::open(&find, &config.state_dir, patience, &out, &mut requests).await {
            Some((engine, startup, machine)) => {
                let (note, follow) = (Note::default(), follow::State::default());
                Node { config, out, engine, machine, requests, note, follow }.run(startup).await;
            }
            // Who asks is refused at once, where nobody is there to be asked.
            None => {
                drop(requests);
                Self::without_slots(config, out).await;
            }
        }
    }

    /// Not a disk of ours: an OS that is wanted all the same is a problem to tell.
    async fn without_slots(mut config: Config, out: Outputs) {
        out.verdict.send_replace(Some(Ok(())));
        loop {
            let wanted = config.desired.borrow_and_update().as_ref().and_then(|a| a.os.clone());
            out.problem.send_replace(wanted.map(|os| {
                format!(
                    "this node does not update its OS (wanted: {}): it does not run from a disk with two slots; write an \
                     appliance image to its disk with `cairn-image flash`, or take it out of `cairn os set`",
                    os.release.version
                )
            }));
            if config.desired.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Passes the status on; where progress alone changes, every few seconds.
async fn calm(mut live: watch::Receiver<Option<OsStatus>>, reported: watch::Sender<Option<OsStatus>>) {
    let mut due = Instant::now();
    while live.changed().await.is_ok() {
        loop {
            let now = live.borrow_and_update().clone();
            let before = reported.borrow().clone();
            if without_progress(before) != without_progress(now) || Instant::now() >= due {
                break;
            }
            // Both arms are cancel-safe: a watch keeps its latest value.
            tokio::select! {
                changed = live.changed() => if changed.is_err() { return },
                () = sleep_until(due) => break,
            }
        }
        reported.send_replace(live.borrow().clone());
        due = Instant::now() + CALM;
    }
}

fn without_progress(status: Option<OsStatus>) -> Option<OsStatus> {
    status.map(|status| OsStatus { progress: None, ..status })
}

/// What the task knows better than the updater, laid over its status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Note {
    state: Option<OsState>,
    about: Option<(Digest, OsVersion)>,
    detail: Option<String>,
}

impl Note {
    fn detail(text: impl Into<String>) -> Self {
        Self { detail: Some(text.into()), ..Self::default() }
    }

    fn over(&self, mut status: OsStatus) -> OsStatus {
        let Self { state, about, detail } = self.clone();
        status.state = state.unwrap_or(status.state);
        status.detail = detail.or(status.detail);
        if let Some((release, target)) = about {
            (status.release, status.target) = (Some(release), Some(target));
        }
        status
    }
}

/// A node with two slots.
struct Node {
    config: Config,
    out: Outputs,
    engine: Engine,
    machine: Box<Machine>,
    requests: [mpsc::Receiver<OsRequest>; 2],
    note: Note,
    follow: follow::State,
}

impl Node {
    async fn run(mut self, startup: Startup) {
        self.publish();
        let trying = self.tell(startup).await;
        let kept = if trying { self.try_it().await } else { self.settle().await };
        if kept {
            self.out.verdict.send_replace(Some(Ok(())));
            self.follow().await;
        }
    }

    /// Shows what the updater says and what this task knows beside it.
    fn publish(&mut self) {
        let status = self.engine.status.borrow_and_update().clone().map(|status| self.note.over(status));
        self.out.status.send_if_modified(|before| {
            let changed = *before != status;
            *before = status;
            changed
        });
    }

    fn set_note(&mut self, note: Note) {
        self.note = note;
        self.publish();
    }

    /// Says what the last restart came to; true where an OS is being tried.
    async fn tell(&self, startup: Startup) -> bool {
        let reporter = &self.config.reporter;
        match startup {
            Startup::Normal => false,
            Startup::Trying { version } => {
                tracing::info!(%version, "a new OS is being tried");
                let message = format!("OS {version} runs and must show that it is well");
                reporter.event(Severity::Info, "os-trying", message).await;
                true
            }
            Startup::RolledBack { version, reason } => {
                let message = format!(
                    "OS {version} was tried, and the node went back: {reason}. It is not tried again before `cairn os set \
                     --retry`"
                );
                tracing::error!("{message}");
                reporter.event(Severity::Error, "os-rolled-back", message).await;
                false
            }
            Startup::FellOver { version, reason } => {
                let message = format!(
                    "the slot of OS {version} is damaged, and the node runs from the other one: {reason}. Set an OS to \
                     write that slot anew; if it comes again, replace the disk"
                );
                tracing::error!("{message}");
                reporter.event(Severity::Error, "os-slot-corrupt", message).await;
                false
            }
        }
    }

    /// The next request, from wherever; never where nobody asks any more.
    async fn request(requests: &mut [mpsc::Receiver<OsRequest>; 2]) -> OsRequest {
        let [bus, own] = requests;
        // Both arms are cancel-safe: a channel keeps what was not received. A closed one is out of the race.
        tokio::select! {
            Some(request) = bus.recv() => request,
            Some(request) = own.recv() => request,
            else => std::future::pending().await,
        }
    }

    /// Waits, and answers requests meanwhile.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            // All arms are cancel-safe, as above.
            tokio::select! {
                () = sleep_until(until) => return,
                request = Self::request(&mut self.requests) => self.answer(request).await,
                Ok(()) = self.engine.status.changed() => self.publish(),
            }
        }
    }

    /// An OS is being tried: true once it is kept; where it is given up the restart comes.
    async fn try_it(&mut self) -> bool {
        let asked = self.engine.call(|updater, _| {
            let attempt = updater.trying().cloned();
            attempt.map(|attempt| (attempt, updater.expectations().to_vec()))
        });
        let (attempt, expected) = match asked.await {
            Ok(Some(asked)) => asked,
            Ok(None) => return self.settle().await,
            Err(gone) => {
                self.out.problem.send_replace(Some(gone.to_string()));
                return false;
            }
        };
        let asked = gate::asked_of_hub(&attempt.health, attempt.hub_verified, self.config.has_hub);
        let left_out = asked.err().unwrap_or_default();
        let terms = Terms {
            expected,
            hub: asked.ok(),
            deadline: Duration::from_secs(u64::from(attempt.health.deadline_seconds)),
            commands: vec![
                ("the release's health command", attempt.health_command.clone()),
                ("the node's health command (os.health_command)", self.config.health_command.clone()),
            ],
        };
        let passed = Clock::new(&self.config.run_dir).passed(&attempt.root_hash);
        let mut trial = Trial::begin(terms, passed, Instant::now());
        let mut gave_up = false;
        loop {
            let verdict = {
                let (work, link) = (self.config.work.borrow(), self.config.link.borrow());
                trial.look(self.config.desired.borrow().as_deref(), &work, &link, Instant::now())
            };
            match verdict {
                Verdict::Wait(what) => self.set_note(Note::detail(format!("{what}{left_out}"))),
                Verdict::Keep => break,
                Verdict::Reject(reason) => {
                    if self.give_up(&attempt.version, &reason).await {
                        self.restart_into_the_other(&reason).await;
                    }
                    gave_up = true;
                    break;
                }
            }
            self.pause(LOOK).await;
        }
        drop(trial);
        self.keep().await;
        if gave_up {
            return true;
        }
        let message = format!("OS {} is well and is kept{left_out}", attempt.version);
        tracing::info!("{message}");
        self.config.reporter.event(Severity::Info, "os-kept", message).await;
        true
    }

    /// Confirms, for as long as it takes: the disk may be busy or fail for a while.
    async fn keep(&mut self) {
        loop {
            let problem = match self.engine.call(|updater, _| updater.confirm()).await {
                Ok(Ok(())) => break,
                Ok(Err(e)) => chain(&e),
                Err(gone) => gone.to_string(),
            };
            tracing::error!("the OS that runs cannot be confirmed: {problem}");
            self.set_note(Note::detail(format!("it cannot be confirmed, trying again: {problem}")));
            self.pause(RETRY).await;
        }
        self.set_note(Note::default());
    }

    /// Goes back: remembered by the updater first, then told durably, and only then the restart. False where there is
    /// nothing to go back to: an OS that is not well is better than none.
    async fn give_up(&mut self, version: &OsVersion, reason: &str) -> bool {
        let text = reason.to_owned();
        let rejected = self.engine.call(move |updater, _| updater.reject(&text)).await;
        let no_way_back = matches!(rejected, Ok(Err(UpdateError::NoWayBack { .. })));
        match rejected {
            Ok(Ok(())) => {}
            // The loader's counter ends it then, some restarts later.
            Ok(Err(e)) => tracing::error!("the entry is not marked as bad: {}", chain(&e)),
            Err(gone) => tracing::error!("the entry is not marked as bad: {gone}"),
        }
        let then = if no_way_back {
            "it stays, because the other slot has nothing to go back to; set another OS"
        } else {
            "the node goes back"
        };
        let message = format!("OS {version} is not well, and {then}: {reason}");
        tracing::error!("{message}");
        if !self.config.reporter.event_stored(Severity::Error, "os-unhealthy", message).await {
            tracing::warn!("the event is not on the disk; the updater remembers the reason itself");
        }
        !no_way_back
    }

    /// Does not return: the restart comes, or is asked for again.
    async fn restart_into_the_other(&mut self, reason: &str) {
        self.set_note(Note::detail(format!("{reason}; restarting into the other slot")));
        self.out.verdict.send_replace(Some(Err(reason.to_owned())));
        loop {
            if let Err(e) = self.config.restart.restart_machine().await {
                tracing::error!("{e}");
                self.set_note(Note::detail(format!("{reason}; {e}; restart the node by hand")));
            }
            self.pause(RESTART_AGAIN).await;
        }
    }

    /// An ordinary boot is complete when the workloads stand as wanted, or after a minute.
    async fn settle(&mut self) -> bool {
        let until = Instant::now() + SETTLED_AFTER;
        while Instant::now() < until && !self.is_settled() {
            // Every arm is cancel-safe: watches keep their latest value, channels what was not received.
            tokio::select! {
                Ok(()) = self.config.work.changed() => {}
                Ok(()) = self.config.desired.changed() => {}
                Ok(()) = self.engine.status.changed() => self.publish(),
                request = Self::request(&mut self.requests) => self.answer(request).await,
                () = sleep_until(until) => {}
            }
        }
        self.keep().await;
        true
    }

    fn is_settled(&self) -> bool {
        let (desired, work) = (self.config.desired.borrow(), self.config.work.borrow());
        let Some(desired) = desired.as_ref() else { return false };
        work.generation == desired.desired.generation && work.workloads.iter().all(WorkloadStatus::is_well)
    }
}

#[cfg(test)]
mod tests;
