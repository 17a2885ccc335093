//! How a blank node becomes a member.

use std::collections::BTreeMap;

use cairn_model::{
    NodeId,
    enroll::{EnrollGrant, EnrollRequest, EnrollState},
    error::chain,
};
use cairn_trust::{envelope, keys::PublicKey};
use serde_json::{json, value::RawValue};

use super::Hub;
use crate::{
    clock,
    error::{Error, Kind, Result},
    secret,
    store::{Change, EnrollTokenRow, NodeRow, NodeState, Tx},
};

/// The only `schema` of enrolment messages.
const SCHEMA: u32 = 1;

impl Hub {
    /// Takes an enrolment request, a compact JWS. A key that is a member or waits already is told so again, whatever
    /// became of its token.
    pub(crate) async fn enroll(&self, jws: &str, from: &str) -> Result<EnrollGrant> {
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
            drop(tx);
            return self.grant(&known).await;
        }
        let now = clock::now_ms();
        let token = usable_token(&mut tx, &request.token, now).await?;
        let row = new_row(id, &request, &key, &token, now);
        tx.enroll_node(&row).await?;
        tx.count_enroll_token_use(&token.id).await?;
        let after = json!({"state": row.state.as_str(), "labels": row.labels, "token": token.id});
        let change = Change {
            actor: row.id.as_str(),
            origin: from,
            action: "node.enroll",
            subject: row.id.as_str(),
            before: None,
            after: Some(after),
        };
        tx.audit(now, change).await?;
        tx.commit().await?;
        self.presence.seen(&row.id, now);
        tracing::info!(node = %row.id, state = row.state.as_str(), host = %row.facts.hostname, "node enrolled");
        if row.state == NodeState::Approved {
            self.fleet.converge().await?;
        }
        self.grant(&row).await
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

fn raw_json(bytes: Vec<u8>) -> Result<Box<RawValue>> {
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
    token: &EnrollTokenRow,
    now: i64,
) -> NodeRow {
    let labels: BTreeMap<String, String> = token.labels.clone();
    NodeRow {
        id,
        public_key: key.to_base64url(),
        state: if token.auto_approve { NodeState::Approved } else { NodeState::Pending },
        labels,
        facts: request.facts.clone(),
        enrolled_at: now,
        last_seen: Some(now),
        acknowledged: 0,
        status: None,
        generation: 0,
    }
}
