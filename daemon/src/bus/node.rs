//! `org.cairn.Node1` at `/org/cairn/Node1`: how the node stands, and the one thing that can be asked of it.

use cairn_model::{media::MediaStatus, report::OsStatus};
use zbus::{fdo, interface};

use super::{
    Dict, dict,
    port::{OsRequest, Port},
};

/// The object.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) port: Port,
}

/// Whether the difference is worth a signal: not every byte of a transfer is.
pub(super) fn is_news(told: Option<&OsStatus>, now: Option<&OsStatus>) -> bool {
    let coarse = |status: Option<&OsStatus>| {
        status.map(|status| {
            let progress = status.progress.as_ref().map(|p| (p.method, p.percent()));
            (OsStatus { progress: None, ..status.clone() }, progress)
        })
    };
    coarse(told) != coarse(now)
}

/// The same for a stick.
pub(super) fn is_stick_news(told: Option<&MediaStatus>, now: Option<&MediaStatus>) -> bool {
    let coarse = |status: Option<&MediaStatus>| {
        status.map(|status| (MediaStatus { copied: 0, ..status.clone() }, status.percent()))
    };
    coarse(told) != coarse(now)
}

#[interface(name = "org.cairn.Node1")]
impl Node {
    /// Restarts into the OS that stands written, whatever the policy says.
    async fn os_apply(&self) -> fdo::Result<()> {
        tracing::info!("asked over D-Bus to restart into the new OS");
        self.port.ask(|reply| OsRequest::Apply { reply }).await.map_err(fdo::Error::Failed)
    }

    /// The document that `GET /v1/status` on the local socket gives, as JSON. It changes with time alone, so no signal
    /// says that it did.
    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> fdo::Result<String> {
        serde_json::to_string(&(self.port.node)()).map_err(|e| fdo::Error::Failed(e.to_string()))
    }

    /// How the OS stands, with the keys of `os` in that document; empty on a node that does not update its OS. Its changes
    /// are signalled, those of a transfer with each percent.
    #[zbus(property)]
    fn os(&self) -> Dict {
        dict::document(self.port.os.borrow().as_ref())
    }

    /// How the stick stands that is plugged in, or the last one, with the keys of `media` in that document; empty where
    /// there was none. `removable` says whether it may be pulled. Its changes are signalled, those of a copy with each
    /// percent.
    #[zbus(property)]
    fn media(&self) -> Dict {
        dict::document(self.port.media.borrow().as_ref())
    }
}
