//! The task that tells the hub: records become reports in the durable outbox, and go out in sequence until the hub has
//! acknowledged them. The outbox drops only what was acknowledged, but for old status records when it is full.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use cairn_model::{
    BootId, Facts, NodeId, Report,
    enroll::ReportsRequest,
    error::chain,
    report::{CommandOutput, Event, NodeStatus, Record, SCHEMA, Severity},
};
use cairn_trust::keys::KeyPair;
use jiff::Timestamp;
use tokio::{
    sync::{
        mpsc::{self, error::SendTimeoutError},
        oneshot, watch,
    },
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, random},
    ledger::{Ledger, LedgerError, RecordClass},
    source::{HubClient, SourceError},
};

mod outgoing;

pub use outgoing::Outgoing;
pub(crate) use outgoing::enrol_request;

/// Changes within this time go out as one status: a deploy changes a replica several times in a row.
const STATUS_DEBOUNCE: Duration = Duration::from_millis(200);
/// Most reports' bytes that are sent at once; the hub's limit is an envelope's.
const BATCH_BYTES: usize = 512 << 10;
/// Most that the outbox may take on the disk: months of events of a node without its hub.
const MAX_OUTBOX_BYTES: u64 = 16 << 20;
/// Records that may wait for the task; a full channel makes the teller wait, for [`PATIENCE`].
const CHANNEL: usize = 64;
/// How long a teller waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// First and longest pause between tries to send.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Most reports that wait in memory while the disk takes none.
const MAX_PENDING: usize = 256;
/// How long the last reports may take when the daemon ends.
const DRAIN: Duration = Duration::from_secs(2);

/// A record on its way to the outbox.
#[derive(Debug)]
pub struct Told {
    /// None where only the outbox has changed.
    record: Option<Record>,
    /// Who waits until it is on the disk.
    stored: Option<oneshot::Sender<()>>,
}

/// Where the other tasks put what the hub should know.
#[derive(Debug, Clone)]
pub struct Reporter {
    records: mpsc::Sender<Told>,
}

impl Reporter {
    /// A reporter and the end that [`Config`] takes.
    pub fn channel() -> (Self, mpsc::Receiver<Told>) {
        let (records, receiver) = mpsc::channel(CHANNEL);
        (Self { records }, receiver)
    }

    /// Something happened.
    pub async fn event(&self, severity: Severity, reason: &str, message: String) {
        let time_ms = Timestamp::now().as_millisecond();
        self.record(Record::Event(Event { time_ms, severity, reason: reason.to_owned(), message })).await;
    }

    /// Something happened, and it must be in the outbox before the caller goes on: it is about to restart the node.
    /// False where that did not come about within some seconds.
    pub async fn event_stored(&self, severity: Severity, reason: &str, message: String) -> bool {
        let time_ms = Timestamp::now().as_millisecond();
        let record = Record::Event(Event { time_ms, severity, reason: reason.to_owned(), message });
        let (stored, on_disk) = oneshot::channel();
        self.tell(Told { record: Some(record), stored: Some(stored) }).await;
        matches!(timeout(PATIENCE, on_disk).await, Ok(Ok(())))
    }

    /// A piece of a command's output.
    pub async fn output(&self, output: CommandOutput) {
        self.record(Record::CommandOutput(output)).await;
    }

    /// Reports have left the outbox by another way than this task's own.
    pub async fn recount(&self) {
        self.tell(Told { record: None, stored: None }).await;
    }

    async fn record(&self, record: Record) {
        self.tell(Told { record: Some(record), stored: None }).await;
    }

    async fn tell(&self, told: Told) {
        // Closed only while the daemon ends: what happens then shows in the next status. Who tells is the task that
        // starts workloads, which must not hang on the one that reports.
        if let Err(SendTimeoutError::Timeout(told)) = self.records.send_timeout(told, PATIENCE).await {
            tracing::error!(record = ?told.record, "a record is lost: the reports' task has taken none for a while");
        }
    }
}

/// What the task is made of.
#[derive(Debug)]
pub struct Config {
    /// The node's key.
    pub key: Arc<KeyPair>,
    /// Which boot this is.
    pub boot: BootId,
    /// Told once a start of the daemon.
    pub facts: Facts,
    /// The other end of [`Reporter::channel`].
    pub records: mpsc::Receiver<Told>,
    /// The node's state as it changes.
    pub status: watch::Receiver<NodeStatus>,
    /// Seconds between two status records when nothing changes.
    pub report_seconds: watch::Receiver<u32>,
    /// A client once the node is a member.
    pub hub: watch::Receiver<Option<HubClient>>,
}

struct Task {
    config: Config,
    node: NodeId,
    ledger: Ledger,
    unsent: watch::Sender<u64>,
    /// What the ledger could not take, oldest first: a full disk.
    pending: VecDeque<(Report, RecordClass)>,
}

/// Makes the task; the handle says how many reports wait.
pub fn build(
    config: Config,
    ledger: Ledger,
    stop: CancellationToken,
) -> (watch::Receiver<u64>, impl Future<Output = ()>) {
    let node = config.key.public().node_id();
    let (unsent, out) = watch::channel(0);
    (out, Task { config, node, ledger, unsent, pending: VecDeque::new() }.run(stop))
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        self.store(Record::Facts(self.config.facts.clone()), RecordClass::Event).await;
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        // A status is due at the start, and then after changes and at least every `report_seconds`.
        let mut status_due = Instant::now();
        let mut send_at = Instant::now();
        let mut last_problem = None;
        loop {
            let waits = *self.unsent.borrow() > 0 && self.config.hub.borrow().is_some();
            // Every arm is cancel-safe: channels keep what was not received, timers have no state to lose.
            tokio::select! {
                Some(told) = self.config.records.recv() => {
                    self.take(told).await;
                    continue;
                }
                Ok(()) = self.config.status.changed() => {
                    self.config.status.mark_unchanged();
                    status_due = status_due.min(Instant::now() + STATUS_DEBOUNCE);
                    continue;
                }
                () = sleep_until(status_due) => {
                    let status = self.config.status.borrow_and_update().clone();
                    self.store(Record::Status(status), RecordClass::Status).await;
                    let seconds = (*self.config.report_seconds.borrow()).clamp(10, 86_400);
                    status_due = Instant::now() + Duration::from_secs(u64::from(seconds));
                    continue;
                }
                () = sleep_until(send_at), if waits => {}
                Ok(()) = self.config.hub.changed() => {
                    self.config.hub.mark_unchanged();
                    continue;
                }
                () = stop.cancelled() => break,
            }
            match self.send().await {
                Ok(()) => {
                    retry.reset();
                    last_problem = None;
                }
                Err(problem) => {
                    // Said once, not with every try of a week without hub.
                    if last_problem.as_ref() != Some(&problem) {
                        tracing::warn!("reports wait: {problem}");
                    }
                    last_problem = Some(problem);
                    send_at = Instant::now() + retry.after_failure(random());
                }
            }
        }
        self.drain().await;
    }

    /// What is on its way when the daemon ends is stored, and sent if the hub answers at once.
    async fn drain(&mut self) {
        self.config.records.close();
        while let Some(told) = self.config.records.recv().await {
            self.take(told).await;
        }
        let all = async {
            while *self.unsent.borrow() > 0 && self.config.hub.borrow().is_some() && self.send().await.is_ok()
            {
            }
        };
        tokio::select! {
            () = all => {}
            () = sleep(DRAIN) => {}
        }
    }

    async fn take(&mut self, told: Told) {
        match told.record {
            Some(record) => self.store(record, RecordClass::Event).await,
            None => self.count().await,
        }
        // What the ledger did not take waits in memory: whoever waits for the disk is not told that it is there.
        if let Some(stored) = told.stored
            && self.pending.is_empty()
        {
            let _ = stored.send(());
        }
    }

    async fn store(&mut self, record: Record, class: RecordClass) {
        let report = Report {
            schema: SCHEMA,
            node: self.node.clone(),
            boot: self.config.boot.clone(),
            sequence: 0,
            time_ms: Timestamp::now().as_millisecond(),
            records: vec![record],
        };
        if self.pending.len() >= MAX_PENDING {
            // Status first: a later one replaces it.
            let status =
                self.pending.iter().position(|(_, class)| *class == RecordClass::Status).unwrap_or(0);
            self.pending.remove(status);
            tracing::error!("a report is lost: the ledger takes none, and {MAX_PENDING} wait in memory");
        }
        self.pending.push_back((report, class));
        while let Some((report, class)) = self.pending.front() {
            match self.ledger.push_report(report, *class, MAX_OUTBOX_BYTES).await {
                Ok(0) => {}
                Ok(lost) => tracing::error!(lost, "the outbox is full; the oldest events were dropped"),
                Err(e) => {
                    tracing::error!(waiting = self.pending.len(), "a report waits in memory: {}", chain(&e));
                    break;
                }
            }
            self.pending.pop_front();
        }
        self.count().await;
    }

    async fn count(&self) {
        if let Ok(unsent) = self.ledger.unsent().await {
            self.unsent.send_replace(unsent);
        }
    }

    /// Sends the oldest of what waits, one batch: in between the task takes what others tell.
    async fn send(&self) -> Result<(), String> {
        let Some(hub) = self.config.hub.borrow().clone() else { return Ok(()) };
        let ledger = |e: LedgerError| chain(&e);
        if !self.ledger.sequence_is_known().await.map_err(ledger)? {
            // A ledger that is new, perhaps because the old one was lost: go on after what the hub knows.
            self.resume(&hub).await?;
        }
        let rows = self.ledger.next_reports(BATCH_BYTES).await.map_err(ledger)?;
        let Some(last) = rows.last().map(|row| row.report.sequence) else {
            self.count().await;
            return Ok(());
        };
        let request = ReportsRequest { envelopes: outgoing::sign(&self.config.key, &rows)? };
        match hub.reports(&request).await {
            Ok(answer) => {
                let dropped = self.ledger.acknowledge(answer.acknowledged.min(last)).await.map_err(ledger)?;
                self.count().await;
                if dropped == 0 {
                    return Err(format!("the hub has stored none of {} reports; trying again", rows.len()));
                }
                Ok(())
            }
            Err(SourceError::Refused { status: 409, message, .. }) => {
                // The hub was restored from an earlier backup: it misses numbers that we have dropped.
                tracing::warn!(
                    "the hub wants other sequence numbers ({message}); starting after what it knows"
                );
                self.resume(&hub).await?;
                // Not at once: a hub that answers so every time would be asked without end.
                Err("the hub wanted other sequence numbers; reports are numbered afresh".to_owned())
            }
            Err(e) => Err(e.to_string()),
        }
    }

    async fn resume(&self, hub: &HubClient) -> Result<(), String> {
        let empty = ReportsRequest { envelopes: vec![] };
        let answer = hub.reports(&empty).await.map_err(|e| e.to_string())?;
        self.ledger.resume_sequence(answer.acknowledged).await.map_err(|e| chain(&e))
    }
}

#[cfg(test)]
mod tests;
