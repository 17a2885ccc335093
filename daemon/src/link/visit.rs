//! What the task that finds sticks asks of the link, and what it is told.

use std::sync::Arc;

use cairn_model::Digest;
use tokio::sync::{oneshot, watch};

use crate::source::MediaSource;

/// A stick is there to be read. It must not be pulled before the reply has come: that is only sent when nothing of
/// [`MediaVisit::source`] is held here any more.
#[derive(Debug)]
pub struct MediaVisit {
    /// The stick.
    pub source: Arc<MediaSource>,
    /// Bytes copied so far, and bytes that were missing in all.
    pub progress: watch::Sender<(u64, u64)>,
    /// What came of it.
    pub reply: oneshot::Sender<MediaOutcome>,
}

/// What came of a [`MediaVisit`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MediaOutcome {
    /// The node is a member of a fleet, perhaps by this very stick.
    pub member: bool,
    /// The generation that it brought and that is applied now; `None` where it brought nothing newer.
    pub generation: Option<u64>,
    /// Why nothing was taken, cause and cure, with the name of the attack that it may be.
    pub refused: Option<(Option<String>, String)>,
    /// The stick could not be read to the end: pulled, or failing.
    pub broken: bool,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// The OS release that is desired and lies on this stick. Whether it runs already, and when it stands written, the
    /// OS task says.
    pub writes_os: Option<Digest>,
}
