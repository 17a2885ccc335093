//! When nodes last asked by themselves: kept in memory, written down now and then, so that a poll costs no disk write.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use cairn_model::NodeId;

#[derive(Default)]
pub(crate) struct Presence(Mutex<HashMap<NodeId, Seen>>);

struct Seen {
    at: i64,
    saved: bool,
}

impl Presence {
    /// Notes that `node` spoke at `now` (Unix milliseconds).
    pub(crate) fn seen(&self, node: &NodeId, now: i64) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(node.clone(), Seen { at: now, saved: false });
    }

    /// When `node` last spoke to this process.
    pub(crate) fn last_seen(&self, node: &NodeId) -> Option<i64> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(node).map(|seen| seen.at)
    }

    /// What is not written down yet.
    pub(crate) fn take_unsaved(&self) -> Vec<(NodeId, i64)> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unsaved = table.iter_mut().filter(|(_, seen)| !seen.saved);
        unsaved
            .map(|(node, seen)| {
                seen.saved = true;
                (node.clone(), seen.at)
            })
            .collect()
    }
}
