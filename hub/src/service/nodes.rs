//! The fleet's members, as operators see and change them.

use cairn_model::{
    Digest, NodeId,
    api::{HeardBy, LabelChange, Node, NodeEvent},
    enroll::EnrollState,
    media::{Freshness, FreshnessSet},
};
use cairn_trust::keys::PublicKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    Hub, Operator,
    choice::{Among, about},
    identity, tokens,
};
use crate::{
    clock,
    error::{Error, Kind, Result},
    selector::Selector,
    store::{NodeRow, NodeState, Way},
};

/// A node that was heard of within this time is online: two long polls and some patience.
const ONLINE_MS: i64 = 120_000;

/// Longest time for which metadata may hold, short of for ever, in days: what is signed for nodes holds no longer.
const MAX_DAYS: u32 = 3650;

/// Most events in one answer.
const MAX_EVENTS: u32 = 200;

impl Hub {
    /// The nodes that `selector` selects.
    pub(crate) async fn list_nodes(&self, selector: &Selector) -> Result<Vec<Node>> {
        let rows = self.store.nodes().await?;
        rows.iter()
            .filter(|row| selector.matches(&row.effective_labels()))
            .map(|row| self.view(row))
            .collect()
    }

    /// A node by id, or by host name where that is unique.
    pub(crate) async fn show_node(&self, name: &str) -> Result<Node> {
        let row = self.find_node(name).await?;
        self.view(&row)
    }

    /// The newest events of a node.
    pub(crate) async fn node_events(&self, name: &str) -> Result<Vec<NodeEvent>> {
        let row = self.find_node(name).await?;
        Ok(self.store.events(&row.id, MAX_EVENTS).await?)
    }

    /// Whether what is desired of `node` needs this manifest.
    pub(crate) async fn needs(&self, node: &NodeId, digest: &Digest) -> Result<bool> {
        Ok(self.store.needs(node).await?.contains(digest))
    }

    /// Whether a manifest that `node` needs names this blob.
    pub(crate) async fn needs_blob(&self, node: &NodeId, digest: &Digest) -> Result<bool> {
        let needs = self.store.needs(node).await?;
        Ok(self.store.any_names_blob(&needs, digest).await?)
    }

    /// Takes a node in; one that is a member already stays one.
    pub(crate) async fn approve_node(&self, who: &Operator, name: &str) -> Result<Node> {
        let id = self.find_node(name).await?.id;
        let mut tx = self.store.begin().await?;
        // Read again here: a removal since then is not undone.
        let row = tx.node(&id).await?.filter(|row| row.state != NodeState::Removed);
        let row = row.ok_or_else(|| missing(name))?;
        if row.state == NodeState::Pending {
            tx.set_node_state(&row.id, NodeState::Approved).await?;
            let (before, after) = (json!({"state": "pending"}), json!({"state": "approved"}));
            let change = who.change("node.approve", row.id.as_str(), Some(before), Some(after));
            tx.audit(clock::now_ms(), change).await?;
            tx.commit().await?;
        } else {
            drop(tx);
        }
        self.fleet.converge().await?;
        self.show_node(row.id.as_str()).await
    }

    /// Changes a node's labels; what is placed by them follows.
    pub(crate) async fn label_node(&self, who: &Operator, name: &str, change: LabelChange) -> Result<Node> {
        let id = self.find_node(name).await?.id;
        let mut tx = self.store.begin().await?;
        let row = tx.node(&id).await?.ok_or_else(|| missing(name))?;
        let mut labels = row.labels.clone();
        labels.retain(|key, _| !change.remove.contains(key));
        labels.extend(change.set);
        tokens::check_labels(&labels)?;
        if labels != row.labels {
            tx.set_node_labels(&id, &labels).await?;
            let audit = who.change("node.label", id.as_str(), Some(json!(row.labels)), Some(json!(labels)));
            tx.audit(clock::now_ms(), audit).await?;
            tx.commit().await?;
            self.fleet.converge().await?;
        }
        self.show_node(id.as_str()).await
    }

    /// Takes a node out: it may fetch nothing more, and its replicas are placed elsewhere.
    pub(crate) async fn remove_node(&self, who: &Operator, name: &str) -> Result<()> {
        let row = self.find_node(name).await?;
        let mut tx = self.store.begin().await?;
        tx.set_node_state(&row.id, NodeState::Removed).await?;
        let os = tx.delete_os_row(&row.id).await?.map(|row| row.desired);
        let (state, hostname) = (row.state.as_str(), &row.facts.hostname);
        let before = json!({"state": state, "labels": row.labels, "hostname": hostname, "os": os});
        tx.audit(clock::now_ms(), who.change("node.remove", row.id.as_str(), Some(before), None)).await?;
        tx.commit().await?;
        self.fleet.converge().await
    }

    /// Sets how long metadata for some nodes holds, from the next that is signed for them on.
    pub(crate) async fn set_freshness(&self, who: &Operator, set: &FreshnessSet) -> Result<Vec<Node>> {
        check_freshness(set)?;
        let nodes = self.chosen(&set.nodes, Among::All).await?;
        let now = clock::now_ms();
        let mut changed = Vec::new();
        let mut tx = self.store.begin().await?;
        for node in &nodes {
            // Read again here: a removal since then is not undone.
            let row = tx.node(&node.id).await?.filter(|row| row.state != NodeState::Removed);
            let Some(row) = row else {
                let text = about(node, "it was removed just now; nothing was changed, ask again without it");
                return Err(Error::new(Kind::Conflict, text));
            };
            if row.freshness == set.freshness {
                continue;
            }
            tx.set_node_freshness(&row.id, set.freshness).await?;
            let (before, after) = (json!(row.freshness), json!(set.freshness));
            tx.audit(now, who.change("node.freshness", row.id.as_str(), Some(before), Some(after))).await?;
            changed.push(NodeRow { freshness: set.freshness, ..row });
        }
        tx.commit().await?;
        // Whether a hub is asked before an OS is kept hangs on it.
        self.fleet.converge().await?;
        changed.iter().map(|row| self.view(row)).collect()
    }

    async fn find_node(&self, name: &str) -> Result<NodeRow> {
        if let Ok(id) = name.parse::<NodeId>() {
            let row = self.store.node(&id).await?.filter(|row| row.state != NodeState::Removed);
            return row.ok_or_else(|| missing(name));
        }
        let mut rows = self.store.nodes().await?;
        rows.retain(|row| row.facts.hostname == name);
        match rows.len() {
            0 => Err(missing(name)),
            1 => Ok(rows.swap_remove(0)),
            more => {
                let text =
                    format!("{more} nodes have the host name {name:?}; name one by its id (`cairn node ls`)");
                Err(Error::new(Kind::Conflict, text))
            }
        }
    }

    /// When and on which way a node was last heard of.
    fn last_heard(&self, row: &NodeRow) -> Option<(i64, HeardBy)> {
        let by_itself = self.presence.last_seen(&row.id);
        if let Some(at) = by_itself.filter(|at| row.last_seen.is_none_or(|written| *at >= written)) {
            return Some((at, HeardBy::Network));
        }
        let at = row.last_seen?;
        let way = match row.heard_by? {
            Way::Network => HeardBy::Network,
            // Of a node that has not reported yet, its enrolment is the newest; that has no time of the node's own.
            Way::Stick { reported_at } => {
                HeardBy::Stick { reported_at: clock::rfc3339(reported_at.unwrap_or(at)) }
            }
        };
        Some((at, way))
    }

    /// Whether a node asked by itself lately: a stick says nothing of how it is now.
    pub(super) fn is_online(&self, row: &NodeRow) -> bool {
        let written = row.last_seen.filter(|_| row.heard_by == Some(Way::Network));
        let seen = self.presence.last_seen(&row.id).max(written);
        seen.is_some_and(|at| clock::now_ms() - at < ONLINE_MS)
    }

    /// A node as operators see it.
    pub(super) fn view(&self, row: &NodeRow) -> Result<Node> {
        let key = identity::public_key(row)?;
        let (last_seen, heard_by) = self.last_heard(row).unzip();
        Ok(Node {
            id: row.id.clone(),
            state: match row.state {
                NodeState::Approved => EnrollState::Approved,
                NodeState::Pending | NodeState::Removed => EnrollState::Pending,
            },
            fingerprint: fingerprint(&key),
            labels: row.effective_labels(),
            facts: row.facts.clone(),
            enrolled_at: clock::rfc3339(row.enrolled_at),
            last_seen: last_seen.map(clock::rfc3339),
            online: self.is_online(row),
            heard_by,
            freshness: row.freshness,
            desired_generation: row.generation,
            status: row.status.clone(),
        })
    }
}

fn check_freshness(set: &FreshnessSet) -> Result<()> {
    let text = match set.freshness {
        Freshness::Unlimited if !set.accept_no_expiry => {
            "nodes without an expiry take any stick that is newer than what they have, however old it is; give a number \
             of days, or accept that by accept_no_expiry"
                .to_owned()
        }
        Freshness::Days(days) if !(1..=MAX_DAYS).contains(&days) => {
            format!("{days} days is not within 1 to {MAX_DAYS}; give another number")
        }
        Freshness::Connected | Freshness::Days(_) | Freshness::Unlimited => return Ok(()),
    };
    Err(Error::new(Kind::FreshnessRefused, text))
}

fn missing(name: &str) -> Error {
    let name: String = name.chars().take(80).collect();
    Error::not_found(format!("node {name:?}"), "see `cairn node ls`")
}

/// SHA-256 of the raw key in groups of four hex digits.
fn fingerprint(key: &PublicKey) -> String {
    let hex = hex::encode(Sha256::digest(key.as_bytes()));
    let groups: Vec<&str> = (0..hex.len()).step_by(4).map(|at| &hex[at..at + 4]).collect();
    groups.join(" ")
}
