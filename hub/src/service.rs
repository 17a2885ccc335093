//! What can be asked of the hub, without a word of HTTP: one file a subject, all as methods of [`Hub`].

use std::sync::Arc;

use cairn_model::{NodeId, api::Role};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::Fleet, metrics::Metrics, presence::Presence, registry::Registry, sign::Signer, store::Store,
};

pub(crate) mod apps;
pub(crate) mod artifacts;
mod choice;
pub(crate) mod enroll;
pub(crate) mod identity;
pub(crate) mod logs;
pub(crate) mod nodes;
pub(crate) mod os;
pub(crate) mod reports;
pub(crate) mod tokens;
pub(crate) mod usb;

/// Everything that a request may need.
pub(crate) struct Hub {
    /// The database.
    pub(crate) store: Store,
    /// The signing half.
    pub(crate) signer: Signer,
    /// Blobs and manifests.
    pub(crate) registry: Registry,
    /// The task that decides what runs where.
    pub(crate) fleet: Fleet,
    /// When nodes were last heard of.
    pub(crate) presence: Presence,
    /// Counters.
    pub(crate) metrics: Metrics,
    /// Cancelled once, when the hub shall stop.
    pub(crate) shutdown: CancellationToken,
}

/// How most of the hub holds on to the hub.
pub(crate) type SharedHub = Arc<Hub>;

/// Who asks, on behalf of operators.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// Name of the token.
    pub(crate) name: String,
    /// What it allows.
    pub(crate) role: Role,
    /// The client's address.
    pub(crate) origin: String,
}

/// The way on which something of a node came to the hub.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Carrier<'a> {
    /// The node sent it itself, from this address.
    Network(&'a str),
    /// This operator brought it.
    Stick(&'a Operator),
}

/// Who asks for metadata or content.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A person or their tool.
    Operator(Operator),
    /// A member of the fleet.
    Node(NodeId),
}

impl Operator {
    /// A change by this operator, for the audit.
    pub(crate) fn change<'a>(
        &'a self,
        action: &'a str,
        subject: &'a str,
        before: Option<serde_json::Value>,
        after: Option<serde_json::Value>,
    ) -> crate::store::Change<'a> {
        crate::store::Change { actor: &self.name, origin: &self.origin, action, subject, before, after }
    }
}
