//! What the task that finds sticks asks of the link, what it is told, and how a stick is read: exactly as the hub is, by
//! the same pull.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cairn_model::{Digest, error::chain, report::Severity};
use cairn_trust::{
    client::{Client, ClientError, Limits},
    clock::Freshness,
    fetch::Fetch,
    store::Store,
};
use futures_util::StreamExt;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    Task,
    words::{self, Circumstances, Refused},
};
use crate::{
    ledger::Enrolment,
    pull::{PullError, Puller},
    source::{BlobStream, HubClient, MediaSource, Missing, Source, SourceError},
};

/// How long a stick may keep the node from its hub, and how slow it may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// So many bytes of documents and blobs must come,
    pub(super) least: u64,
    /// in so much time; else the visit ends, and the next one goes on where it was.
    pub(super) within: Duration,
    /// So long it is read before the hub is looked at: what is there of a large blob is hashed again after each turn, so
    /// that short ones would bring nothing forward.
    pub(super) turn: Duration,
    /// So long the look at the hub may take.
    pub(super) look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least: 4 << 20,
            within: Duration::from_secs(600),
            turn: Duration::from_secs(300),
            look: Duration::from_secs(60),
        }
    }
}

/// A stick is there to be read. It must not be pulled before the reply has come: that is only sent when nothing of
/// [`MediaVisit::source`] is held here any more. Where the reply is not waited for any longer, reading ends.
#[derive(Debug)]
pub struct MediaVisit {
    /// The stick.
    pub source: Arc<MediaSource>,
    /// Bytes copied so far, and bytes that were missing in all.
    pub progress: watch::Sender<(u64, u64)>,
    /// What came of it.
    pub reply: oneshot::Sender<MediaOutcome>,
}

/// A stick that has just made the node a member: it has more to give, and something to tell.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) visit: MediaVisit,
    pub(super) note: String,
}

impl MediaVisit {
    /// Ends it.
    pub(super) fn answer(self, outcome: MediaOutcome) {
        let Self { source, reply, .. } = self;
        drop(source);
        // Who asked may have left.
        let _ = reply.send(outcome);
    }

    /// Ends it where the node itself cannot read any stick now.
    pub(super) fn refuse(self, problem: String) {
        self.answer(MediaOutcome { member: true, ..MediaOutcome::refused(None, problem) });
    }
}

/// What came of a [`MediaVisit`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaOutcome {
    /// The node is a member of a fleet, perhaps by this very stick.
    pub member: bool,
    /// The generation that it brought and that is applied now; `None` where it brought nothing newer.
    pub generation: Option<u64>,
    /// Why nothing was taken, cause and cure, with the name of the attack that it may be.
    pub refused: Option<(Option<String>, String)>,
    /// The stick could not be read to the end: pulled, or failing.
    pub broken: bool,
    /// What this node has to say may be written to it: its request, where it may join by stick; a member's reports only
    /// where something on this very stick was signed by its fleet, however old.
    pub may_write: bool,
    /// Up to which sequence the hub has this node's reports, by its signed word.
    pub acknowledged: Option<u64>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// The OS release that is desired and lies on this stick. Whether it runs already, and when it stands written, the
    /// OS task says.
    pub writes_os: Option<Digest>,
}

impl MediaOutcome {
    pub(super) fn refused(attack: Option<String>, text: String) -> Self {
        Self { refused: Some((attack, words::plain(&text))), ..Self::default() }
    }
}

/// A stick whose progress is shown.
struct Shown {
    source: Arc<MediaSource>,
    progress: watch::Sender<(u64, u64)>,
    /// Bytes that came in the whole visit; what is shown begins anew with each turn.
    came: Arc<AtomicU64>,
}

impl Shown {
    fn count(&self, document: Result<Bytes, SourceError>) -> Result<Bytes, SourceError> {
        let bytes = document?;
        self.came.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[async_trait]
impl Source for Shown {
    fn director(&self) -> &dyn Fetch {
        self.source.director()
    }

    fn artifacts(&self) -> &dyn Fetch {
        self.source.artifacts()
    }

    async fn announce(&self, missing: &[Missing]) -> Result<(), SourceError> {
        self.source.announce(missing).await?;
        let bytes = missing.iter().map(|m| m.blob.size.saturating_sub(m.have)).sum();
        self.progress.send_replace((0, bytes));
        Ok(())
    }

    async fn manifest(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.count(self.source.manifest(digest, max_bytes).await)
    }

    async fn document(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.count(self.source.document(digest, max_bytes).await)
    }

    async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let BlobStream { offset, bytes } = self.source.blob(digest, offset).await?;
        let (progress, came) = (self.progress.clone(), self.came.clone());
        let count = move |piece: &Result<Bytes, SourceError>| {
            let n = piece.as_ref().map_or(0, Bytes::len) as u64;
            came.fetch_add(n, Ordering::Relaxed);
            progress.send_modify(|(copied, _)| *copied += n);
        };
        Ok(BlobStream { offset, bytes: bytes.inspect(count).boxed() })
    }

    async fn range(&self, digest: &Digest, offset: u64, length: u64) -> Result<BlobStream, SourceError> {
        self.source.range(digest, offset, length).await
    }
}

impl Task {
    /// Reads a stick on a node that is a member, of `hub` where it has one.
    pub(super) async fn receive(
        &self,
        visit: MediaVisit,
        note: Option<String>,
        puller: &mut Puller,
        enrolment: &Enrolment,
        hub: Option<&HubClient>,
    ) {
        let MediaVisit { source, progress, mut reply } = visit;
        let shown = Shown { source, progress, came: Arc::default() };
        // Dropped in the middle it goes on from the disk the next time.
        let outcome = tokio::select! {
            outcome = self.read_in_turns(&shown, puller, enrolment, hub) => outcome,
            () = reply.closed() => return,
        };
        drop(shown);
        let notes = note.into_iter().chain(outcome.notes).collect();
        // Who asked may have left.
        let _ = reply.send(MediaOutcome { notes, ..outcome });
    }

    /// Reads it to its end, in turns with looks at the hub, unless it is too slow.
    async fn read_in_turns(
        &self,
        stick: &Shown,
        puller: &mut Puller,
        enrolment: &Enrolment,
        hub: Option<&HubClient>,
    ) -> MediaOutcome {
        let mut slow = pin!(too_slow(&stick.came, self.pace));
        loop {
            // Any arm may be dropped: what is read of a stick goes on from the disk.
            tokio::select! {
                outcome = self.read(stick, puller, enrolment) => return outcome,
                () = &mut slow => return self.given_up().await,
                () = sleep(self.pace.turn), if hub.is_some() => {}
            }
            if let Some(hub) = hub
                && let Err(problem) = self.look_at_hub(hub, puller).await
            {
                return MediaOutcome { member: true, ..MediaOutcome::refused(None, problem) };
            }
        }
    }

    /// Between two turns of a stick. What is dropped on either side leaves the puller's memory ahead of its disk: it is made
    /// anew for each.
    async fn look_at_hub(&self, hub: &HubClient, puller: &mut Puller) -> Result<(), String> {
        *puller = self.puller().await?;
        match timeout(self.pace.look, self.pull(hub, puller)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => self.explain(&e).await,
            Err(_) => tracing::debug!("the hub is left for the stick again"),
        }
        *puller = self.puller().await?;
        Ok(())
    }

    /// A stick that would take for ever.
    async fn given_up(&self) -> MediaOutcome {
        let Pace { least, within, .. } = self.pace;
        let text = format!(
            "the stick is too slow, less than {} MiB came in {} minutes; plug it in again, and it goes on where it stopped, or \
             export to another one",
            least >> 20,
            within.as_secs() / 60
        );
        self.broken(text).await
    }

    /// A stick that could not be read to its end.
    pub(super) async fn broken(&self, text: String) -> MediaOutcome {
        let text = words::plain(&text);
        tracing::warn!("{text}");
        self.reporter.event(Severity::Warning, "stick-broken", text.clone()).await;
        MediaOutcome { member: true, broken: true, ..MediaOutcome::refused(None, text) }
    }

    async fn read(&self, stick: &Shown, puller: &mut Puller, enrolment: &Enrolment) -> MediaOutcome {
        let begun = Instant::now();
        let clock = self.clock();
        let taken = match puller.pull(stick, clock, self.applied()).await {
            Ok(Some(newer)) => {
                let generation = newer.desired.generation;
                self.heard_last(false).await;
                self.apply(newer, begun, ", from a stick").await;
                Ok(Some(generation))
            }
            Ok(None) => self.replenish(stick, puller).await.map(|()| None),
            Err(e) => Err(e),
        };
        // Also of what is refused: what is trusted by now was verified.
        let acknowledged = self.acknowledge(puller).await;
        match taken {
            Ok(generation) => {
                let (writes_os, note) = self.os_on(&stick.source, enrolment).await;
                let notes = puller.unchecked(clock).into_iter().chain(note).collect();
                MediaOutcome {
                    member: true,
                    generation,
                    refused: None,
                    broken: false,
                    may_write: true,
                    acknowledged,
                    notes,
                    writes_os,
                }
            }
            Err(e) => MediaOutcome { acknowledged, ..self.not_taken(&e, &stick.source, enrolment).await },
        }
    }

    /// What the hub has of this node's reports, by its signed word, need not be carried there again.
    async fn acknowledge(&self, puller: &Puller) -> Option<u64> {
        let acknowledged = puller.acknowledged()?;
        match self.ledger.acknowledge_signed(acknowledged).await {
            Ok(0) => {}
            Ok(dropped) => {
                tracing::info!(acknowledged, dropped, "the hub has these reports");
                self.reporter.recount().await;
            }
            Err(e) => tracing::error!("reports that the hub has cannot be dropped: {}", chain(&e)),
        }
        Some(acknowledged)
    }

    /// Whether the stick has the OS that is desired; else what to say of it.
    async fn os_on(&self, source: &MediaSource, enrolment: &Enrolment) -> (Option<Digest>, Option<String>) {
        let Some(os) = self.desired.borrow().as_ref().and_then(|desired| desired.os.clone()) else {
            return (None, None);
        };
        if source.brings(&os.release).await {
            return (Some(os.digest.clone()), None);
        }
        let version = &os.release.version;
        let runs = self.config.facts.os_version == version.to_string();
        let note = (!runs && enrolment.hub.is_none()).then(|| {
            format!("OS {version} is desired and is not whole on this stick; export to it again, without `--since`")
        });
        (None, note)
    }

    async fn not_taken(
        &self,
        error: &PullError,
        source: &MediaSource,
        enrolment: &Enrolment,
    ) -> MediaOutcome {
        let circumstances = Circumstances {
            node: &self.node,
            applied: self.applied(),
            is_there: source.is_there().await,
            other_fleet: is_of_another_fleet(source, enrolment).await,
            hub_was_last: self.ledger.hub_was_heard_last().await.unwrap_or_else(|e| {
                tracing::error!("{}", chain(&e));
                false
            }),
        };
        let Refused { attack, text, broken, overtaken } = words::refused(error, &circumstances);
        if broken {
            return self.broken(text).await;
        }
        let may_write = words::shows_fleet(error) || self.artifacts_show_fleet(source).await;
        if overtaken {
            tracing::info!("{text}: {}", chain(error));
            self.reporter.event(Severity::Info, "stick-older", text.clone()).await;
            return MediaOutcome { member: true, may_write, notes: vec![text], ..MediaOutcome::default() };
        }
        self.refuse(attack.as_deref(), &text).await;
        MediaOutcome { member: true, may_write, ..MediaOutcome::refused(attack, text) }
    }

    /// Whether the stick's artifacts repository is this fleet's: also a stick for other nodes alone takes reports along. The
    /// puller's own view of it is not used any more in this visit.
    async fn artifacts_show_fleet(&self, source: &MediaSource) -> bool {
        let store = Store::open(&self.config.trust_dir.join("artifacts")).map_err(ClientError::from);
        let client = store.and_then(|s| Client::open(s, Limits::default(), Freshness::default()));
        match client {
            Ok(mut client) => match client.poll(source.artifacts(), self.clock()).await {
                Ok(_) => true,
                Err(e) => words::is_signed(&e),
            },
            Err(_) => false,
        }
    }

    /// Tells of a refusal; what runs goes on.
    pub(super) async fn refuse(&self, attack: Option<&str>, text: &str) {
        let text = words::plain(text);
        tracing::error!("{text}");
        let reason = if attack.is_some() { "bundle-refused" } else { "stick-not-taken" };
        self.reporter.event(Severity::Error, reason, text).await;
    }
}

/// Ends when less came within some time than must.
pub(super) async fn too_slow(came: &AtomicU64, pace: Pace) {
    let mut before = came.load(Ordering::Relaxed);
    loop {
        sleep(pace.within).await;
        let now = came.load(Ordering::Relaxed);
        if now - before < pace.least {
            return;
        }
        before = now;
    }
}

/// By the first root that it carries: only to find words, for what is believed has been verified before. What is no document
/// any more is damage, and says nothing of whose it was.
async fn is_of_another_fleet(source: &MediaSource, enrolment: &Enrolment) -> bool {
    let Some(root) = source.artifacts_root().await else { return false };
    let is_document = serde_json::from_slice::<serde::de::IgnoredAny>(&root).is_ok();
    is_document && root.trim_ascii() != enrolment.artifacts_root.get().as_bytes().trim_ascii()
}
