//! What the task that finds sticks asks of the link, what it is told, and how a stick is read: exactly as the hub is, by
//! the same pull.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cairn_model::{Digest, error::chain, report::Severity};
use cairn_trust::fetch::Fetch;
use futures_util::StreamExt;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    Task,
    words::{self, Circumstances, Refused},
};
use crate::{
    ledger::Enrolment,
    pull::{PullError, Puller},
    source::{BlobStream, MediaSource, Missing, Source, SourceError},
};

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
        self.source.manifest(digest, max_bytes).await
    }

    async fn document(&self, digest: &Digest, max_bytes: u64) -> Result<Bytes, SourceError> {
        self.source.document(digest, max_bytes).await
    }

    async fn blob(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let BlobStream { offset, bytes } = self.source.blob(digest, offset).await?;
        let progress = self.progress.clone();
        let count = move |piece: &Result<Bytes, SourceError>| {
            let n = piece.as_ref().map_or(0, Bytes::len) as u64;
            progress.send_modify(|(copied, _)| *copied += n);
        };
        Ok(BlobStream { offset, bytes: bytes.inspect(count).boxed() })
    }

    async fn range(&self, digest: &Digest, offset: u64, length: u64) -> Result<BlobStream, SourceError> {
        self.source.range(digest, offset, length).await
    }
}

impl Task {
    /// Reads a stick on a node that is a member.
    pub(super) async fn receive(
        &self,
        visit: MediaVisit,
        note: Option<String>,
        puller: &mut Puller,
        enrolment: &Enrolment,
    ) {
        let MediaVisit { source, progress, mut reply } = visit;
        let shown = Shown { source, progress };
        // Dropped in the middle it goes on from the disk the next time.
        let outcome = tokio::select! {
            outcome = self.read(&shown, puller, enrolment) => outcome,
            () = reply.closed() => return,
        };
        drop(shown);
        let notes = note.into_iter().chain(outcome.notes).collect();
        // Who asked may have left.
        let _ = reply.send(MediaOutcome { notes, ..outcome });
    }

    async fn read(&self, stick: &Shown, puller: &mut Puller, enrolment: &Enrolment) -> MediaOutcome {
        let begun = Instant::now();
        let clock = self.clock();
        let taken = match puller.pull(stick, clock, self.applied()).await {
            Ok(Some(newer)) => {
                let generation = newer.desired.generation;
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
        };
        let Refused { attack, text, broken } = words::refused(error, &circumstances);
        if broken {
            tracing::warn!("{text}");
            self.reporter.event(Severity::Warning, "stick-broken", text.clone()).await;
        } else {
            self.refuse(attack.as_deref(), &text).await;
        }
        MediaOutcome { member: true, broken, ..MediaOutcome::refused(attack, text) }
    }

    /// Tells of a refusal; what runs goes on.
    pub(super) async fn refuse(&self, attack: Option<&str>, text: &str) {
        let text = words::plain(text);
        tracing::error!("{text}");
        let reason = if attack.is_some() { "bundle-refused" } else { "stick-not-taken" };
        self.reporter.event(Severity::Error, reason, text).await;
    }
}

/// By the first root that it carries: only to find words, for what is believed has been verified before.
async fn is_of_another_fleet(source: &MediaSource, enrolment: &Enrolment) -> bool {
    let root = source.artifacts_root().await;
    root.is_some_and(|root| root.trim_ascii() != enrolment.artifacts_root.get().as_bytes().trim_ascii())
}
