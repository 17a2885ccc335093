//! One visit of a stick, from its mount to its release. Whatever happens to the stick in between, the node goes on as it
//! was: what is not whole is not taken, and what is not on the stick stays in the node's own outbox.

use std::{path::Path, sync::Arc};

use cairn_model::{
    Digest,
    media::{MediaState, MediaStatus, RECEIPT},
    report::{OsState, Severity, WorkloadState},
};
use cairn_trust::fetch::Folder;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Device, Task, shelf::Root};
use crate::{
    link::{MediaOutcome, MediaVisit},
    source::{MediaSource, StickThread},
};

mod outbox;

/// Most messages about one stick, and longest one: they quote what lies on it.
const MAX_MESSAGES: usize = 16;
const MAX_MESSAGE_CHARS: usize = 600;

/// Why a visit ended before its end.
#[derive(Debug, PartialEq, Eq)]
struct Stopped {
    state: MediaState,
    message: String,
    /// What is reported; the link's task has reported what it found itself.
    event: Option<(Severity, &'static str)>,
}

impl Stopped {
    fn failed(message: impl Into<String>) -> Self {
        let event = Some((Severity::Warning, "stick-failed"));
        Self { state: MediaState::Failed, message: message.into(), event }
    }

    fn pulled() -> Self {
        Self::failed("it was pulled, or cannot be read any more; plug it in again, it goes on where it was")
    }

    fn foreign(why: &str) -> Self {
        let message = format!("it is left alone: {why}; `cairn usb export` makes a stick of Cairn's");
        Self { state: MediaState::Foreign, message, event: Some((Severity::Info, "stick-foreign")) }
    }
}

/// A stick of Cairn's.
struct Opened {
    source: Arc<MediaSource>,
    root: Arc<Root>,
}

impl Task {
    /// Visits the stick; says how it stands, and in the end that it may be pulled.
    pub(super) async fn visit(&self, device: &Device) {
        self.status.send_replace(Some(MediaStatus {
            device: device.to_string(),
            state: MediaState::Verifying,
            removable: false,
            messages: Vec::new(),
            copied: 0,
            to_copy: 0,
        }));
        tracing::info!(%device, "a stick is looked at");
        let ended = self.go(device).await;
        self.config.stick.send_replace(None);
        let state = match ended {
            Ok(state) => state,
            Err(Stopped { state, message, event }) => {
                self.say(&message);
                if let Some((severity, reason)) = event {
                    self.config.reporter.event(severity, reason, format!("stick {device}: {message}")).await;
                }
                state
            }
        };
        let removable = self.let_go(device).await;
        tracing::info!(%device, ?state, removable, "the stick is through");
        self.change(|status| (status.state, status.removable) = (state, removable));
    }

    async fn go(&self, device: &Device) -> Result<MediaState, Stopped> {
        let Opened { source, root } = self.open(device).await?;
        self.config.stick.send_replace(Some(source.clone()));
        let outcome = self.read(device, source).await?;
        if let Some(digest) = &outcome.writes_os {
            self.until_os_is_written(device, digest).await?;
        }
        self.config.stick.send_replace(None);
        self.change(|status| status.state = MediaState::WritingOutbox);
        if let Some(generation) = outcome.generation {
            self.until_settled(device, generation).await?;
        }
        let state = if outcome.refused.is_some() { MediaState::Refused } else { MediaState::Done };
        if state == MediaState::Done {
            // In the outbox before that is written: it goes back with this very stick.
            let words = self.status.borrow().as_ref().map(|status| status.messages.join("; "));
            let message = format!("stick {device}: {}", words.unwrap_or_default());
            self.config.reporter.event_stored(Severity::Info, "stick-visited", message).await;
        }
        if !outcome.may_write {
            if outcome.member {
                self.say(
                    "nothing is written to it, for nothing on it is signed by this node's fleet: the reports wait for a stick \
                     that `cairn usb export` has written there",
                );
            }
            return Ok(state);
        }
        self.write_outbox(device, root, outcome.member).await?;
        Ok(state)
    }

    /// Looks for the receipt, and for nothing else: what has none is a stranger's.
    async fn open(&self, device: &Device) -> Result<Opened, Stopped> {
        if !self.config.mounts.is_mounted(device) {
            return Err(Stopped::failed(format!(
                "it cannot be mounted: it is damaged, or formatted with none of vfat, exfat and ext4; see `journalctl -u \
                 cairn-media@{device}`, and format it anew"
            )));
        }
        let (point, node) = (self.config.mounts.point(device), self.config.outgoing.node());
        let thread = StickThread::start(self.config.patience.step);
        thread.run(move || Ok(open(&point, &node))).await.unwrap_or_else(|_| Err(Stopped::pulled()))
    }

    /// Has the link read it.
    async fn read(&self, device: &Device, source: Arc<MediaSource>) -> Result<MediaOutcome, Stopped> {
        let (progress, mut copied) = watch::channel((0, 0));
        let (reply, mut answer) = oneshot::channel();
        let gone = self.gone(device);
        tokio::pin!(gone);
        let ends = || Stopped::failed("the node agent ends; it looks at the stick again when it is back");
        // Both arms may be dropped: what is not taken was never begun.
        tokio::select! {
            sent = self.config.visits.send(MediaVisit { source, progress, reply }) => sent.map_err(|_| ends())?,
            () = &mut gone => return Err(Stopped::pulled()),
        }
        let outcome = loop {
            // Every arm is cancel-safe: a watch keeps its latest value, the others stay in place.
            tokio::select! {
                outcome = &mut answer => break outcome.map_err(|_| ends())?,
                Ok(()) = copied.changed() => {
                    let (copied, to_copy) = *copied.borrow_and_update();
                    self.change(|status| {
                        let state = if to_copy > 0 { MediaState::Copying } else { status.state };
                        (status.state, status.copied, status.to_copy) = (state, copied, to_copy);
                    });
                }
                () = &mut gone => return Err(Stopped::pulled()),
            }
        };
        if outcome.broken {
            let message = outcome.refused.map_or_else(|| Stopped::pulled().message, |(_, text)| text);
            return Err(Stopped { state: MediaState::Failed, message, event: None });
        }
        match (&outcome.refused, outcome.generation) {
            (Some((_, text)), _) => self.say(text),
            (None, Some(generation)) => self.say(&format!("generation {generation} is applied")),
            (None, None) if outcome.member => self.say("it brings nothing newer"),
            (None, None) => {}
        }
        outcome.notes.iter().for_each(|note| self.say(note));
        Ok(outcome)
    }

    /// Waits until the OS task has read what it needs, as long as it goes on with that. Written or not, the visit goes on.
    async fn until_os_is_written(&self, device: &Device, digest: &Digest) -> Result<(), Stopped> {
        let mut os = self.config.os.clone();
        let gone = self.gone(device);
        tokio::pin!(gone);
        let mut until = Instant::now() + self.config.patience.os;
        // Where it stood last, once it has begun.
        let mut begun = None;
        loop {
            let status = os.borrow_and_update().clone();
            let about = status.as_ref().filter(|status| status.release.as_ref() == Some(digest));
            let why = status.as_ref().and_then(|status| status.detail.clone()).unwrap_or_default();
            let (state, progress) = (about.map(|status| status.state), about.and_then(|s| s.progress));
            let stands = Some((state, progress.map(|p| (p.written, p.fetched))));
            if begun.is_some() && about.is_none() {
                self.say("the OS on it is not desired any more");
                return Ok(());
            }
            if (begun.is_some() || state == Some(OsState::Fetching)) && begun != stands {
                (begun, until) = (stands, Instant::now() + self.config.patience.os_piece);
            }
            match state {
                Some(OsState::Fetching) => {
                    let (copied, to_copy) = progress.map_or((0, 0), |p| (p.written, p.total));
                    self.change(|status| {
                        status.state = MediaState::WritingOs;
                        (status.copied, status.to_copy) = (copied, to_copy);
                    });
                }
                Some(OsState::Armed | OsState::Trying | OsState::Good) => {
                    if begun.is_some() {
                        self.say("the OS is written; it runs after the next restart");
                    }
                    return Ok(());
                }
                Some(OsState::Refused | OsState::RolledBack) => {
                    self.say(&format!("the OS is not taken: {why}"));
                    return Ok(());
                }
                Some(OsState::Failed) if begun.is_some() => {
                    self.say(&format!("the OS is not written: {why}; plug the stick in again"));
                    return Ok(());
                }
                Some(OsState::Failed | OsState::Idle | OsState::Written) | None => {}
            }
            // Every arm is cancel-safe: a watch keeps its latest value, the others stay in place.
            tokio::select! {
                changed = os.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(until) => {
                    self.say(&format!("the OS on it is not written now {why}; plug it in again later"));
                    return Ok(());
                }
                () = &mut gone => return Err(Stopped::pulled()),
            }
        }
    }

    /// Waits until the workloads of the new generation stand, or a while: so that what became of them goes back too.
    async fn until_settled(&self, device: &Device, generation: u64) -> Result<(), Stopped> {
        use WorkloadState::{Pending, Starting, Stopping};
        let mut work = self.config.work.clone();
        let stands = |work: &crate::status::WorkStatus| {
            let moves = |state| matches!(state, Pending | Starting | Stopping);
            work.generation >= generation && !work.workloads.iter().any(|workload| moves(workload.state))
        };
        let settled = async {
            let _ = timeout(self.config.patience.settle, work.wait_for(stands)).await;
            sleep(self.config.patience.stored).await;
        };
        // Both arms may be dropped: nothing is begun here.
        tokio::select! {
            () = settled => Ok(()),
            () = self.gone(device) => Err(Stopped::pulled()),
        }
    }

    /// Unmounts it; whether it may be pulled.
    async fn let_go(&self, device: &Device) -> bool {
        let mounts = &self.config.mounts;
        let Err(e) = mounts.release(device).await else { return true };
        if !mounts.is_plugged_in(device) || !mounts.is_mounted(device) {
            return true;
        }
        // What is read-only may be pulled all the same.
        let harmless = mounts.read_only(device).await.is_ok();
        let then = match harmless {
            true => "; nothing is written to it, and it may be pulled all the same",
            false => "; switch the node off before you pull it",
        };
        self.say(&format!("it stays mounted: {e}{then}"));
        harmless
    }

    /// Ends when the stick is not there any more.
    async fn gone(&self, device: &Device) {
        while self.is_there(device) {
            sleep(self.config.patience.look).await;
        }
    }

    fn is_there(&self, device: &Device) -> bool {
        self.config.mounts.is_plugged_in(device) && self.config.mounts.is_mounted(device)
    }

    /// For whoever stands before the node.
    fn say(&self, message: &str) {
        let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
        tracing::info!("stick: {message}");
        self.change(|status| {
            if status.messages.len() < MAX_MESSAGES {
                status.messages.push(message);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut MediaStatus)) {
        self.status.send_if_modified(|status| {
            let Some(status) = status else { return false };
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}

/// A stick of Cairn's has the receipt as a regular file. It is not read: what it says is for people and for the hub.
fn open(point: &Path, node: &cairn_model::NodeId) -> Result<Opened, Stopped> {
    let cannot = |_| Stopped::pulled();
    match Folder::open(point).map_err(cannot)?.len(RECEIPT) {
        Ok(Some(_)) => {}
        Ok(None) => return Err(Stopped::foreign(&format!("it has no {RECEIPT}"))),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            return Err(Stopped::foreign(&e.to_string()));
        }
        Err(e) => return Err(cannot(e)),
    }
    let root = Arc::new(Root::open(point).map_err(cannot)?);
    let source = Arc::new(MediaSource::open(point, node).map_err(cannot)?);
    Ok(Opened { source, root })
}
