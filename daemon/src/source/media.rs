//! A stick as a source.

use std::{io, path::Path};

use cairn_model::NodeId;
use cairn_trust::fetch::FolderFetch;

/// A stick, for one node.
#[derive(Debug)]
pub struct MediaSource {
    artifacts: FolderFetch,
    node: NodeId,
}

impl MediaSource {
    /// Takes up the stick that is mounted at `root`, for `node`.
    pub fn open(root: &Path, node: &NodeId) -> io::Result<Self> {
        Ok(Self { artifacts: FolderFetch::new(root), node: node.clone() })
    }

    /// Whose bundle is read.
    pub fn node(&self) -> &NodeId {
        &self.node
    }
}
