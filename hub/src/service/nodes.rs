//! The fleet's members, as operators see and change them.

use cairn_model::{
    Digest, NodeId,
    api::{LabelChange, Node, NodeEvent},
    enroll::EnrollState,
};
use cairn_trust::keys::PublicKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Hub, Operator, identity, tokens};
use crate::{
    clock,
    error::{Error, Kind, Result},
    selector::Selector,
    store::{NodeRow, NodeState},
};

/// A node that was heard of within this time is online: two long polls and some patience.
const ONLINE_MS: i64 = 120_000;

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

    fn last_seen(&self, row: &NodeRow) -> Option<i64> {
        self.presence.last_seen(&row.id).max(row.last_seen)
    }

    /// Whether a node was heard of lately.
    pub(super) fn is_online(&self, row: &NodeRow) -> bool {
        self.last_seen(row).is_some_and(|at| clock::now_ms() - at < ONLINE_MS)
    }

    fn view(&self, row: &NodeRow) -> Result<Node> {
        let key = identity::public_key(row)?;
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
            last_seen: self.last_seen(row).map(clock::rfc3339),
            online: self.is_online(row),
            heard_by: None,
            freshness: Default::default(),
            desired_generation: row.generation,
            status: row.status.clone(),
        })
    }
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
