//! How a blank node becomes a member.

use std::collections::BTreeMap;

use cairn_model::{
    NodeId,
    enroll::{EnrollGrant, EnrollRequest, EnrollState},
    error::chain,
    media::Freshness,
};
use cairn_trust::{envelope, keys::PublicKey};
use serde_json::{json, value::RawValue};

use super::{Carrier, Hub};
use crate::{
    clock,
    error::{Error, Kind, Result},
    secret,
    store::{Change, EnrollTokenRow, NodeRow, NodeState, Tx, Way},
};

/// The only `schema` of enrolment messages.
const SCHEMA: u32 = 1;

impl Hub {
    /// Takes an enrolment request that a node sent, a compact JWS. A key that is a member or waits already is told so
    /// again, whatever became of its token.
    pub(crate) async fn enroll(&self, jws: &str, from: &str) -> Result<EnrollGrant> {
        let (row, is_new) = self.admit(jws, Carrier::Network(from)).await?;
        if is_new {
            self.presence.seen(&row.id, clock::now_ms());
            if row.state == NodeState::Approved {
                self.fleet.converge().await?;
            }
        }
        self.grant(&row).await
    }

    /// Writes down the node of an enrolment request, and says whether it is new. The caller lets the fleet converge.
    pub(super) async fn admit(&self, jws: &str, carrier: Carrier<'_>) -> Result<(NodeRow, bool)> {
        let (request, key) = envelope::verify_enroll(jws).map_err(|e| {
            Error::new(Kind::EnvelopeRefused, format!("the enrolment request is refused: {}", chain(&e)))
        })?;
        if request.schema != SCHEMA {
            let text =
                format!("the enrolment request has schema {}, this hub knows {SCHEMA}", request.schema);
            return Err(Error::new(Kind::Malformed, format!("{text}; update the older of the two")));
        }
        let id = key.node_id();
        let mut tx = self.store.begin().await?;
        if let Some(known) = tx.node(&id).await?.filter(|row| row.state != NodeState::Removed) {
            return Ok((known, false));
        }
        let now = clock::now_ms();
        let token = match carrier {
            // Whoever holds a stick has no more rights by it: such a node waits for an operator.
            Carrier::Stick(_) if request.token.is_empty() => None,
            Carrier::Stick(_) | Carrier::Network(_) => {
                Some(usable_token(&mut tx, &request.token, now).await?)
            }
        };
        let row = new_row(id, &request, &key, token.as_ref(), carrier, now);
        tx.enroll_node(&row).await?;
        if let Some(token) = &token {
            tx.count_enroll_token_use(&token.id).await?;
        }
        let token = token.map(|token| token.id);
        let mut after = json!({"state": row.state.as_str(), "labels": row.labels, "token": token});
        let subject = row.id.as_str();
        let change = match carrier {
            Carrier::Network(origin) => {
                let (actor, action) = (subject, "node.enroll");
                Change { actor, origin, action, subject, before: None, after: Some(after) }
            }
            Carrier::Stick(by) => {
                after["carrier"] = json!("stick");
                by.change("node.enroll", subject, None, Some(after))
            }
        };
        tx.audit(now, change).await?;
        tx.commit().await?;
        tracing::info!(node = %row.id, state = row.state.as_str(), host = %row.facts.hostname, "node enrolled");
        Ok((row, true))
    }

    /// Where a node stands, with what it must pin once it is a member.
    pub(crate) async fn grant(&self, row: &NodeRow) -> Result<EnrollGrant> {
        let node = row.id.clone();
        if row.state != NodeState::Approved {
            let (state, director_root, artifacts_root) = (EnrollState::Pending, None, None);
            return Ok(EnrollGrant { schema: SCHEMA, node, state, director_root, artifacts_root });
        }
        let (director, artifacts) = self.signer.first_roots().await?;
        Ok(EnrollGrant {
            schema: SCHEMA,
            node,
            state: EnrollState::Approved,
            director_root: Some(raw_json(director)?),
            artifacts_root: Some(raw_json(artifacts)?),
        })
    }
}

/// A root as it was signed, for a JSON document.
pub(super) fn raw_json(bytes: Vec<u8>) -> Result<Box<RawValue>> {
    let text = String::from_utf8(bytes).map_err(|e| Error::internal("the hub could not read its root", e))?;
    RawValue::from_string(text).map_err(|e| Error::internal("the hub could not read its root", e))
}

async fn usable_token(tx: &mut Tx, text: &str, now: i64) -> Result<EnrollTokenRow> {
    let token = tx.enroll_token_by_hash(&secret::hash(text)).await?.ok_or_else(|| {
        Error::new(
            Kind::TokenUnknown,
            "the enrolment token is not known to this hub; check that it was copied whole, or make one with \
             `cairn token create`",
        )
    })?;
    if token.expires_at <= now {
        let text = format!("enrolment token {} expired at {}", token.id, clock::rfc3339(token.expires_at));
        return Err(Error::new(
            Kind::TokenExpired,
            format!("{text}; make a new one with `cairn token create`"),
        ));
    }
    if token.used > 0 && !token.reusable {
        let text = format!("enrolment token {} was used by another node and is not reusable", token.id);
        return Err(Error::new(Kind::TokenUsed, format!("{text}; make a new one with `cairn token create`")));
    }
    Ok(token)
}

fn new_row(
    id: NodeId,
    request: &EnrollRequest,
    key: &PublicKey,
    token: Option<&EnrollTokenRow>,
    carrier: Carrier<'_>,
    now: i64,
) -> NodeRow {
    let labels: BTreeMap<String, String> = token.map(|token| token.labels.clone()).unwrap_or_default();
    let (heard_by, freshness) = match carrier {
        Carrier::Network(_) => (Way::Network, Freshness::default()),
        Carrier::Stick(_) => (Way::Stick { reported_at: None }, Freshness::AIR_GAPPED),
    };
    let approved = token.is_some_and(|token| token.auto_approve);
    NodeRow {
        id,
        public_key: key.to_base64url(),
        state: if approved { NodeState::Approved } else { NodeState::Pending },
        labels,
        facts: request.facts.clone(),
        enrolled_at: now,
        last_seen: Some(now),
        heard_by: Some(heard_by),
        freshness,
        acknowledged: 0,
        status: None,
        generation: 0,
    }
}
