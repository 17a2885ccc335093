//! What a test does to a stick before each of its reads: it fails, hangs, or finds another stick than before. All reading of
//! a stick is done by its own thread, one read a piece of work, so that none goes by.

use std::{fmt, io, path::Path, sync::Arc};

use cairn_model::NodeId;
use cairn_trust::fetch::Folder;

use super::{MediaSource, PIECE_TIMEOUT, StickThread};

/// Called on the stick's thread before each piece of work; what it refuses is not done.
#[derive(Clone, Default)]
pub(crate) struct Fault(Option<Arc<dyn Fn() -> io::Result<()> + Send + Sync>>);

impl Fault {
    pub(crate) fn new(strike: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(strike)))
    }

    pub(super) fn strike(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |strike| strike())
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").finish_non_exhaustive()
    }
}

impl MediaSource {
    /// The stick at `root` with this fault, and blobs in parts of `part_bytes`.
    pub(crate) fn faulty(root: &Path, node: &NodeId, fault: Fault, part_bytes: u64) -> io::Result<Self> {
        let thread = StickThread { fault, ..StickThread::start(PIECE_TIMEOUT) };
        Ok(Self { part_bytes, ..Self::on(thread, Folder::open(root)?, node.clone()) })
    }
}
