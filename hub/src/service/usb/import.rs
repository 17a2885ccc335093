//! What nodes put on a stick, taken in as if they had sent it: each report by the key of the node that it claims, stored
//! exactly once by the code that also takes reports from the network. Whoever carries the stick can leave things out or
//! bring them again, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{
    NodeId,
    error::chain,
    media::{MAX_IMPORT_ENROLMENTS, MAX_IMPORT_REPORTS, MediaImport, MediaImported, MediaImportedNode},
    report::Report,
};
use cairn_trust::{envelope, keys::PublicKey};

use super::super::{
    Carrier, Hub, Operator,
    choice::about,
    identity,
    reports::{self, Brought},
};
use crate::{
    error::{Error, Kind, Result},
    store::{NodeRow, NodeState},
};

/// Most reports of one transaction: nobody else writes to the database meanwhile.
const AT_ONCE: usize = 1000;

/// Reports that are verified before others get a turn.
const BEFORE_A_TURN: usize = 64;

/// Most lines of what was refused.
const MAX_LINES: usize = 200;

/// What was refused: each line once, with how often.
#[derive(Default)]
struct Refusals {
    lines: BTreeMap<String, u64>,
    more: u64,
}

impl Refusals {
    fn add(&mut self, line: String, count: u64) {
        let full = self.lines.len() >= MAX_LINES;
        match self.lines.get_mut(&line) {
            Some(so_far) => *so_far += count,
            None if full => self.more += count,
            None => {
                self.lines.insert(line, count);
            }
        }
    }

    fn into_lines(self) -> Vec<String> {
        let told = self.lines.into_iter().map(|(line, count)| match count {
            1 => line,
            count => format!("{count} times: {line}"),
        });
        let more = (self.more > 0)
            .then(|| format!("and {} more; see to these first, then import the stick again", self.more));
        told.chain(more).collect()
    }
}

impl Hub {
    /// Takes in what nodes put on a stick. What one of them did wrong keeps none of the others' from being stored.
    pub(crate) async fn usb_import(&self, who: &Operator, import: &MediaImport) -> Result<MediaImported> {
        for (what, count, most) in [
            ("reports", import.reports.len(), MAX_IMPORT_REPORTS),
            ("enrolment requests", import.enrolments.len(), MAX_IMPORT_ENROLMENTS),
        ] {
            if count > most {
                let text = format!("{count} {what} in one request; send at most {most}");
                return Err(Error::new(Kind::TooLarge, text));
            }
        }
        let mut refused = Refusals::default();
        // First: a node whose token makes it a member at once may have put reports on the same stick.
        let (asked, joined) = self.import_enrolments(who, &import.enrolments, &mut refused).await?;
        let nodes = self.import_reports(who, import, &mut refused).await?;
        if joined {
            self.fleet.converge().await?;
        }
        let mut enrolled = Vec::with_capacity(asked.len());
        for id in &asked {
            let row = self.store.node(id).await?.filter(|row| row.state != NodeState::Removed);
            enrolled.extend(row.map(|row| self.view(&row)).transpose()?);
        }
        Ok(MediaImported { nodes, enrolled, refused: refused.into_lines() })
    }

    /// The nodes that asked, and whether any is a member by it.
    async fn import_enrolments(
        &self,
        who: &Operator,
        envelopes: &[String],
        refused: &mut Refusals,
    ) -> Result<(BTreeSet<NodeId>, bool)> {
        let mut asked = BTreeSet::new();
        let mut joined = false;
        for jws in envelopes {
            match self.admit(jws.trim(), Carrier::Stick(who)).await {
                Ok((row, is_new)) => {
                    joined |= is_new && row.state == NodeState::Approved;
                    asked.insert(row.id);
                }
                Err(error) if error.is_own_fault() => return Err(error),
                Err(error) => refused.add(format!("{}{}", claimant(jws), error.message), 1),
            }
        }
        Ok((asked, joined))
    }

    async fn import_reports(
        &self,
        who: &Operator,
        import: &MediaImport,
        refused: &mut Refusals,
    ) -> Result<Vec<MediaImportedNode>> {
        let brought = Brought { by: who, accept_gap: import.accept_gaps };
        let mut by_node: BTreeMap<NodeId, Vec<&str>> = BTreeMap::new();
        for jws in &import.reports {
            let jws = jws.trim();
            match envelope::claimed_node(jws) {
                Ok(node) => by_node.entry(node).or_default().push(jws),
                Err(error) => refused.add(format!("a report is refused: {}", chain(&error)), 1),
            }
        }
        let mut nodes = Vec::new();
        for (id, envelopes) in by_node {
            let row = match self.store.node(&id).await? {
                Some(row) if row.state == NodeState::Approved => row,
                other => {
                    refused.add(no_member(&id, other.as_ref()), envelopes.len() as u64);
                    continue;
                }
            };
            let reports = verified(&row, &envelopes, refused).await?;
            nodes.push(self.import_of_node(brought, &row, &reports, refused).await?);
        }
        Ok(nodes)
    }

    /// Stores what is new of one node's reports, which are sorted.
    async fn import_of_node(
        &self,
        mut brought: Brought<'_>,
        row: &NodeRow,
        reports: &[Report],
        refused: &mut Refusals,
    ) -> Result<MediaImportedNode> {
        let mut imported = MediaImportedNode {
            node: row.id.clone(),
            hostname: row.facts.hostname.clone(),
            stored: 0,
            known: 0,
            given_up: 0,
            acknowledged: row.acknowledged,
        };
        for some in reports.chunks(AT_ONCE) {
            let outcome = self.store_reports(&row.id, some, Some(brought)).await?;
            imported.stored += outcome.stored;
            imported.given_up += outcome.given_up.map_or(0, |(first, last)| last - first + 1);
            brought.accept_gap &= outcome.stored == 0;
            imported.known += outcome.known;
            imported.acknowledged = outcome.acknowledged;
            if let Some(first) = outcome.gap {
                refused.add(gap(row, first, reports, outcome.acknowledged), 1);
                break;
            }
        }
        Ok(imported)
    }
}

/// Those of one node's reports that are its own, in order, whatever order the stick had them in.
async fn verified(row: &NodeRow, envelopes: &[&str], refused: &mut Refusals) -> Result<Vec<Report>> {
    let key: PublicKey = identity::public_key(row)?;
    let mut own = Vec::with_capacity(envelopes.len());
    for some in envelopes.chunks(BEFORE_A_TURN) {
        for jws in some {
            match reports::verify(jws, &key) {
                Ok(report) => own.push(report),
                Err(error) => refused.add(about(row, &error.message), 1),
            }
        }
        tokio::task::yield_now().await;
    }
    own.sort_by_key(|report| report.sequence);
    Ok(own)
}

/// Who an envelope that is refused says it is from, for people.
fn claimant(jws: &str) -> String {
    envelope::claimed_node(jws.trim()).map(|id| format!("node {id}: ")).unwrap_or_default()
}

/// Why reports of a node that is no member are not taken.
fn no_member(id: &NodeId, row: Option<&NodeRow>) -> String {
    match row {
        None => format!(
            "node {id}: its reports are refused, this hub does not know it; import them at its own hub, or its \
             enrolment request first"
        ),
        Some(row) if row.state == NodeState::Removed => {
            let text =
                "its reports are refused, an operator removed it; enrol it again if that was not meant";
            about(row, text)
        }
        Some(row) => {
            let text = format!(
                "its reports are refused, it waits for approval; run `cairn node approve {id}`, then import the stick \
                 again"
            );
            about(row, &text)
        }
    }
}

/// What is said where reports are missing. A node drops only what a hub has acknowledged: they are on another stick or
/// still with the node, unless it was this hub before it was restored from an older backup.
fn gap(row: &NodeRow, first: u64, reports: &[Report], acknowledged: u64) -> String {
    let last = reports.last().map_or(first, |report| report.sequence);
    let range = |from: u64, to: u64| {
        if from == to { format!("report {from}") } else { format!("reports {from} to {to}") }
    };
    let (waiting, missing) = (range(first, last), range(acknowledged.saturating_add(1), first - 1));
    let text = format!(
        "{waiting} cannot be taken yet, {missing} must come first; import the stick that has what is missing, then this \
         one again, or bring a new one from the node, which writes all that it still has; where none has it, as after \
         this hub was restored from an older backup, it is gone: give it up with `cairn usb import --accept-gap`, or \
         connect the node to this hub once"
    );
    about(row, &text)
}
