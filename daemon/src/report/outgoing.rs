//! What leaves the node, signed: reports and the enrolment request, whichever way they go.

use std::sync::Arc;

use cairn_model::{
    Facts, NodeId,
    enroll::{self, EnrollRequest},
    error::chain,
};
use cairn_trust::{envelope, keys::KeyPair};

use crate::ledger::{Ledger, OutboxRow};

/// What a task needs that carries the node's words away; cheap to clone.
#[derive(Debug, Clone)]
pub struct Outgoing {
    key: Arc<KeyPair>,
    ledger: Ledger,
    facts: Facts,
    token: String,
}

impl Outgoing {
    /// For the node of `key`; `token` is its enrolment token, where it has one.
    pub fn new(key: Arc<KeyPair>, ledger: Ledger, facts: Facts, token: Option<String>) -> Self {
        Self { key, ledger, facts, token: token.unwrap_or_default() }
    }

    /// Whose words they are.
    pub fn node(&self) -> NodeId {
        self.key.public().node_id()
    }

    /// Whether the node and its hub agree on the numbers of reports: until then none may go out, for a ledger that was
    /// lost gave the same numbers to others.
    pub async fn is_numbered(&self) -> Result<bool, String> {
        self.ledger.sequence_is_known().await.map_err(|e| chain(&e))
    }

    /// Reports after `sequence` as signed envelopes, oldest first, with their numbers: some `max_bytes` of them, but at
    /// least one where there is one. Ask again after the last; empty means that there are no more. Their numbers are on
    /// the disk. None is dropped for that: only an acknowledgement does so.
    pub async fn envelopes_after(
        &self,
        sequence: u64,
        max_bytes: usize,
    ) -> Result<Vec<(u64, String)>, String> {
        let rows = self.ledger.reports_after(sequence, max_bytes).await.map_err(|e| chain(&e))?;
        let numbers: Vec<u64> = rows.iter().map(|row| row.report.sequence).collect();
        Ok(numbers.into_iter().zip(sign(&self.key, &rows)?).collect())
    }

    /// The node's request to become a member, signed.
    pub fn enrol_request(&self) -> Result<String, String> {
        enrol_request(&self.key, &self.facts, &self.token)
    }
}

/// A signed envelope for each row.
pub(super) fn sign(key: &KeyPair, rows: &[OutboxRow]) -> Result<Vec<String>, String> {
    rows.iter().map(|row| envelope::sign_report(key, &row.report).map_err(|e| chain(&e))).collect()
}

/// A signed request to become a member.
pub(crate) fn enrol_request(key: &KeyPair, facts: &Facts, token: &str) -> Result<String, String> {
    let request = EnrollRequest {
        schema: enroll::SCHEMA,
        token: token.to_owned(),
        public_key: key.public().to_base64url(),
        facts: facts.clone(),
    };
    envelope::sign_enroll(key, &request).map_err(|e| chain(&e))
}
