//! Reports of nodes: verified, stored exactly once and in order, acknowledged when they are on disk.

use std::borrow::Cow;

use cairn_model::{
    NodeId,
    enroll::{ReportsRequest, ReportsResponse},
    error::chain,
    report::{self, NodeStatus, OsStatus, Record, Report},
};
use cairn_trust::{
    envelope::{self, Sequence},
    keys::PublicKey,
};
use serde_json::json;

use super::{Hub, Operator, identity};
use crate::{
    clock,
    error::{Error, Kind, Result},
    store::{NodeRow, Tx},
};

/// Most envelopes in one request; a node with more sends them in turns.
const MAX_ENVELOPES: usize = 256;

/// Longest text of an event that is kept, in bytes: ten thousand a node are.
const MAX_MESSAGE: usize = 4096;
/// The same for its name.
const MAX_REASON: usize = 64;

/// What came of some reports of one node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    /// How many are new and on disk.
    pub(super) stored: u64,
    /// How many were there already.
    pub(super) known: u64,
    /// The highest sequence up to which all are on disk.
    pub(super) acknowledged: u64,
    /// The first that was not taken, because one before it is missing.
    pub(super) gap: Option<u64>,
    /// The first and the last of those that are missing and were given up.
    pub(super) given_up: Option<(u64, u64)>,
}

/// How reports came that no node has sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brought<'a> {
    /// Who brought them.
    pub(super) by: &'a Operator,
    /// Whether the first that is new may come after a gap.
    pub(super) accept_gap: bool,
}

impl Hub {
    /// Stores what is new of `request` in one transaction; what the answer acknowledges is on disk.
    pub(crate) async fn take_reports(
        &self,
        node: &NodeRow,
        request: &ReportsRequest,
    ) -> Result<ReportsResponse> {
        if request.envelopes.len() > MAX_ENVELOPES {
            let text = format!("{} envelopes in one request", request.envelopes.len());
            return Err(Error::new(Kind::TooLarge, format!("{text}; send at most {MAX_ENVELOPES}")));
        }
        let key = identity::public_key(node)?;
        let reports: Vec<Report> =
            request.envelopes.iter().map(|jws| verify(jws, &key)).collect::<Result<_>>()?;
        let outcome = self.store_reports(&node.id, &reports, None).await?;
        match outcome.gap {
            // What came before the gap is stored; nothing of it would be told by an error.
            Some(got) if outcome.stored == 0 => {
                let expected = outcome.acknowledged.saturating_add(1);
                Err(Error::new(
                    Kind::ReportGap,
                    format!("report {got} came, but {expected} is missing; send from {expected} on"),
                ))
            }
            _ => Ok(ReportsResponse { acknowledged: outcome.acknowledged }),
        }
    }

    /// Stores what is new of `reports`, which are the node's own, in one transaction, up to the first gap. `brought` is
    /// how, where they came by stick.
    pub(super) async fn store_reports(
        &self,
        node: &NodeId,
        reports: &[Report],
        brought: Option<Brought<'_>>,
    ) -> Result<Stored> {
        let mut tx = self.store.begin().await?;
        // Read inside the transaction: two requests for one node may race.
        let before = tx.node(node).await?.map_or(0, |row| row.acknowledged);
        let mut outcome = Stored { stored: 0, known: 0, acknowledged: before, gap: None, given_up: None };
        // One alone, and only before what is new: what is missing within a stick is seldom gone.
        let mut accept_gap = brought.is_some_and(|brought| brought.accept_gap);
        let mut concerns_fleet = false;
        let mut made_at = 0;
        for report in reports {
            let sequence = Sequence::check(outcome.acknowledged, report.sequence);
            if matches!(sequence, Sequence::Gap { .. }) && accept_gap {
                outcome.given_up = Some((outcome.acknowledged.saturating_add(1), report.sequence - 1));
                outcome.acknowledged = report.sequence - 1;
            }
            match Sequence::check(outcome.acknowledged, report.sequence) {
                Sequence::Next => {
                    concerns_fleet |= store(&mut tx, report).await?;
                    outcome.acknowledged = report.sequence;
                    outcome.stored += 1;
                    made_at = report.time_ms;
                    accept_gap = false;
                }
                Sequence::Replayed => outcome.known += 1,
                Sequence::Gap { .. } => {
                    outcome.gap = Some(report.sequence);
                    break;
                }
            }
        }
        if outcome.stored == 0 {
            return Ok(outcome);
        }
        tx.acknowledge(node, outcome.acknowledged).await?;
        tx.trim_events(node).await?;
        if let Some(Brought { by, .. }) = brought {
            let now = clock::now_ms();
            tx.heard_by_stick(node, now, made_at).await?;
            let (before, mut after) =
                (json!({"acknowledged": before}), json!({"acknowledged": outcome.acknowledged}));
            if let Some((from, to)) = outcome.given_up {
                after["given_up"] = json!({"from": from, "to": to});
            }
            tx.audit(now, by.change("usb.import", node.as_str(), Some(before), Some(after))).await?;
        }
        tx.commit().await?;
        self.metrics.count_reports(outcome.stored);
        if brought.is_some() {
            self.metrics.count_stick_reports(outcome.stored);
        }
        if concerns_fleet {
            self.fleet.request();
        }
        Ok(outcome)
    }
}

/// Reads a report that the node with `key` signed.
pub(super) fn verify(jws: &str, key: &PublicKey) -> Result<Report> {
    let report = envelope::verify_report(jws, key)
        .map_err(|e| Error::new(Kind::EnvelopeRefused, format!("a report is refused: {}", chain(&e))))?;
    if report.schema != report::SCHEMA {
        let text = format!("a report has schema {}, this hub knows {}", report.schema, report::SCHEMA);
        return Err(Error::new(Kind::Malformed, format!("{text}; update the older of the two")));
    }
    Ok(report)
}

/// Shortens `text` to at most `most` bytes of whole characters.
fn cut(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
}

/// A status with the texts of its OS cut: they are quoted to whoever looks at the fleet.
fn bounded(status: &NodeStatus) -> Cow<'_, NodeStatus> {
    let long = |os: &OsStatus| {
        os.compatible.len() > MAX_REASON || os.detail.as_ref().is_some_and(|text| text.len() > MAX_MESSAGE)
    };
    let mut status = Cow::Borrowed(status);
    if status.os.as_ref().is_some_and(long)
        && let Some(os) = &mut status.to_mut().os
    {
        cut(&mut os.compatible, MAX_REASON);
        if let Some(detail) = &mut os.detail {
            cut(detail, MAX_MESSAGE);
        }
    }
    status
}

/// Stores one report; says whether placement or what is desired may change by it: new facts, a command that ended.
async fn store(tx: &mut Tx, report: &Report) -> Result<bool> {
    let mut concerns_fleet = false;
    for (position, record) in report.records.iter().enumerate() {
        match record {
            Record::Event(event) if event.message.len() > MAX_MESSAGE || event.reason.len() > MAX_REASON => {
                let mut event = event.clone();
                cut(&mut event.message, MAX_MESSAGE);
                cut(&mut event.reason, MAX_REASON);
                tx.insert_event(&report.node, report.sequence, position, &event).await?;
            }
            Record::Status(status) => tx.set_status(&report.node, &bounded(status)).await?,
            Record::Event(event) => tx.insert_event(&report.node, report.sequence, position, event).await?,
            Record::Facts(facts) => {
                tx.set_facts(&report.node, facts).await?;
                concerns_fleet = true;
            }
            Record::CommandOutput(output) => concerns_fleet |= tx.insert_output(&report.node, output).await?,
        }
    }
    Ok(concerns_fleet)
}
