//! The narrow door between the bus and the rest of the daemon: what the bus may see, and what it may ask the OS task for.
//! Nothing of D-Bus passes through it, and nothing of trust, carriers or disks.

use std::{fmt, path::PathBuf, sync::Arc};

use cairn_model::{
    Digest, OsVersion, Release,
    local::LocalStatus,
    media::MediaStatus,
    report::{OsStatus, Slot},
};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait for the OS task; it takes them one after the other, while an installation runs too.
const WAITING: usize = 16;

/// The answer to a request: a refusal is text with cause and cure, shown as it is.
pub type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Where the release is that is asked for. Wherever it lies, it is installed only if it is genuine: a target of the
/// artifacts repository that the node has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder on this machine with an OCI image layout (design section 5).
    Folder(PathBuf),
    /// The digest of its manifest, from the carriers that the node has.
    Digest(Digest),
    /// Its version, among the releases that are genuine.
    Version(OsVersion),
}

/// What is told of a release before it is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Digest of its manifest.
    pub digest: Digest,
    /// What it says of itself.
    pub release: Release,
}

/// How a slot stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotView {
    /// Which of the two.
    pub slot: Slot,
    /// The device that holds its root.
    pub device: PathBuf,
    /// What it holds, where that is known.
    pub version: Option<OsVersion>,
    /// The boot loader may start it.
    pub bootable: bool,
    /// Starts that are left; none where it is kept for good.
    pub tries_left: Option<u32>,
    /// It runs now.
    pub running: bool,
    /// A block of it was read that is not as it was signed.
    pub corrupt: bool,
}

/// What becomes of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is kept, and has no counter any more.
    Good,
    /// The boot loader does not start it again.
    Bad,
    /// It is what the boot loader starts next.
    Active,
}

/// What the bus asks the OS task for.
#[derive(Debug)]
pub enum OsRequest {
    /// Write the release to the other slot and arm it; answered when that is done or has failed. The status that is
    /// published before the answer is already that of the end.
    Install {
        /// Which.
        source: Source,
        /// It must have this digest, where one is given.
        digest: Option<Digest>,
        /// When it stands armed.
        reply: Reply<()>,
    },
    /// Read a release, and check that it is genuine; nothing is written.
    Inspect {
        /// Which.
        source: Source,
        /// What it says.
        reply: Reply<Inspected>,
    },
    /// How both slots stand.
    Slots {
        /// Slot a, slot b.
        reply: Reply<[SlotView; 2]>,
    },
    /// Which slot the boot loader starts next.
    Primary {
        /// It.
        reply: Reply<Slot>,
    },
    /// Change what the boot loader does with a slot.
    Mark {
        /// Which.
        slot: Slot,
        /// To what.
        how: Mark,
        /// When it is on the disk.
        reply: Reply<()>,
    },
    /// Restart into the OS that stands written, whatever the policy.
    Apply {
        /// Before the restart.
        reply: Reply<()>,
    },
}

/// The bus's end of the door.
#[derive(Clone)]
pub struct Port {
    /// How the OS stands; `None` on a node that does not update its OS.
    pub os: watch::Receiver<Option<OsStatus>>,
    /// How the stick stands that is plugged in, or the last one.
    pub media: watch::Receiver<Option<MediaStatus>>,
    /// How the node stands as a whole, made when it is asked for.
    pub node: Arc<dyn Fn() -> LocalStatus + Send + Sync>,
    requests: mpsc::Sender<OsRequest>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("os", &self.os).finish_non_exhaustive()
    }
}

impl Port {
    /// A door, and the end at which the OS task takes requests. A node without an OS task drops that end: then each
    /// request is refused.
    pub fn new(
        os: watch::Receiver<Option<OsStatus>>,
        media: watch::Receiver<Option<MediaStatus>>,
        node: Arc<dyn Fn() -> LocalStatus + Send + Sync>,
    ) -> (Self, mpsc::Receiver<OsRequest>) {
        let (requests, receiver) = mpsc::channel(WAITING);
        (Self { os, media, node, requests }, receiver)
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> OsRequest) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| no_task())?;
        answer.await.unwrap_or_else(|_| Err(no_task()))
    }
}

fn no_task() -> String {
    "this node does not update its OS: it does not run from a disk with two slots; write an appliance image to its disk \
     with cairn-image flash"
        .to_owned()
}
