//! The task that visits USB sticks, one after the other: look for the receipt that makes a stick one of Cairn's → have
//! the link read it → wait until an OS is written from it → write this node's reports to it → let it go.
//!
//! Who mounts is systemd: a unit for each stick (`cairn-media@.service`, by a udev rule), which tells the daemon. Sticks
//! that were mounted while it was away it finds in its own folder below `/run`. The task is told everything by channels
//! and by [`Mounts`]; nothing on a stick is executed, and nothing is written to one that does not have the receipt.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc, time::Duration};

use cairn_model::{media::MediaStatus, report::OsStatus};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    link::MediaVisit,
    report::{Outgoing, Reporter},
    source::MediaSource,
    status::WorkStatus,
};

mod attach;
mod led;
mod mount;
mod mounts;
mod shelf;
mod visit;

pub use attach::attach;
pub use led::{FolderLamp, Lamp, Signal, UnitLamp};
pub use mount::mount;
pub use mounts::{MountError, Mounts, PlainFolders, UnitMounts};

/// Name of the folder of mount points in the folder for what does not outlive a boot.
pub const FOLDER: &str = "media";

/// Sticks that may wait; more than any machine has ports for.
const WAITING: usize = 16;

/// Most devices of which is remembered when they were visited.
const REMEMBERED: usize = 64;

/// What the configuration says about sticks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The lamp that shows how a stick stands: a name below `/sys/class/leds`.
    pub led: Option<String>,
}

impl Settings {
    /// Checks the name: it must not lead elsewhere.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(led: Option<String>) -> Result<Self, String> {
        let leads_elsewhere =
            |name: &String| matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']);
        match led {
            Some(name) if leads_elsewhere(&name) => Err(format!("{name:?} is not the name of a lamp")),
            led => Ok(Self { led }),
        }
    }
}

/// Name of a block device, which is that of its mount point and of its units too: letters and digits, such as `sdb1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device(String);

impl Device {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is none.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the name of a block device, such as sdb1")]
pub struct NoDevice(String);

impl FromStr for Device {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let plain = (1..=32).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric());
        if plain { Ok(Self(text.to_owned())) } else { Err(NoDevice(text.chars().take(80).collect())) }
    }
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one step on the stick itself: the kernel resets one that hangs a few times before it gives up.
    pub step: Duration,
    /// For all of the outbox: a stick that is so slow is worn out, or built to hold the node up.
    pub outbox: Duration,
    /// Until the OS task has begun with a release that a stick brings: after a boot it looks at the workloads first.
    pub os: Duration,
    /// For the next piece of an OS release that is being written: longer than the OS task itself waits for one.
    pub os_piece: Duration,
    /// Until the workloads of a new generation stand, so that their state goes back with the same stick.
    pub settle: Duration,
    /// Until what was just published stands in the outbox.
    pub stored: Duration,
    /// Between two looks whether a stick is still there.
    pub look: Duration,
    /// So long what came of a stick is shown before the next one's state takes its place.
    pub linger: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            step: Duration::from_secs(120),
            outbox: Duration::from_secs(600),
            os: Duration::from_secs(120),
            os_piece: Duration::from_secs(900),
            settle: Duration::from_secs(30),
            stored: Duration::from_secs(1),
            look: Duration::from_millis(500),
            linger: Duration::from_secs(5),
        }
    }
}

/// What the task is made of.
pub struct Config {
    /// What goes back by stick.
    pub outgoing: Outgoing,
    /// For people to compare.
    pub fingerprint: String,
    /// Where the link takes sticks.
    pub visits: mpsc::Sender<MediaVisit>,
    /// The stick that is being read, for the carrier of OS releases. All of it must be let go when it is none any more.
    pub stick: watch::Sender<Option<Arc<MediaSource>>>,
    /// How the OS stands.
    pub os: watch::Receiver<Option<OsStatus>>,
    /// How the workloads stand.
    pub work: watch::Receiver<WorkStatus>,
    /// Where events go.
    pub reporter: Reporter,
    /// Who mounts.
    pub mounts: Arc<dyn Mounts>,
    /// The lamp, where there is one.
    pub lamp: Option<Arc<dyn Lamp>>,
    /// How long is waited.
    pub patience: Patience,
}

/// A stick that somebody says is mounted.
#[derive(Debug, Clone)]
struct Attached {
    device: Device,
    at: Instant,
}

/// The handle: what the task publishes, and how it is told.
#[derive(Debug, Clone)]
pub struct Media {
    /// How the stick stands that is plugged in, or the last one.
    pub status: watch::Receiver<Option<MediaStatus>>,
    attached: mpsc::Sender<Attached>,
}

impl Media {
    /// A stick is mounted: it is visited when its turn comes.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn attach(&self, device: Device) -> Result<(), String> {
        let attached = Attached { device, at: Instant::now() };
        self.attached
            .try_send(attached)
            .map_err(|_| format!("{WAITING} sticks wait already; plug it in later"))
    }
}

/// Makes the task, which runs until `stop` is cancelled, and its handle. Dropped in the middle of a visit it has lost
/// nothing: the stick stays mounted, and the next daemon finds it.
pub fn build(config: Config, stop: CancellationToken) -> (Media, impl Future<Output = ()>) {
    let (attached, inbox) = mpsc::channel(WAITING);
    let (status, status_out) = watch::channel(None);
    let shown =
        led::follow(config.lamp.clone(), config.mounts.clone(), status.subscribe(), config.patience.look);
    let task = Task { config, status, visited: HashMap::new() };
    let both = async move {
        tokio::select! {
            () = task.run(inbox) => {}
            () = shown => {}
            () = stop.cancelled() => {}
        }
    };
    (Media { status: status_out, attached }, both)
}

struct Task {
    config: Config,
    status: watch::Sender<Option<MediaStatus>>,
    /// When the last visit of a device ended.
    visited: HashMap<Device, Instant>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Attached>) {
        let at = Instant::now();
        let found = self.config.mounts.mounted().into_iter();
        let mut queue: std::collections::VecDeque<Attached> =
            found.map(|device| Attached { device, at }).collect();
        loop {
            let next = match queue.pop_front() {
                Some(next) => next,
                None => match inbox.recv().await {
                    Some(next) => next,
                    None => std::future::pending().await,
                },
            };
            let visited = self.take(next).await;
            while let Ok(more) = inbox.try_recv() {
                queue.push_back(more);
            }
            if visited && !queue.is_empty() {
                sleep(self.config.patience.linger).await;
            }
        }
    }

    /// Visits it, unless it was visited after it was attached: then it is the same stick, told of twice.
    async fn take(&mut self, Attached { device, at }: Attached) -> bool {
        let seen = self.visited.get(&device).is_some_and(|ended| *ended > at);
        if seen && !self.config.mounts.is_mounted(&device) {
            return false;
        }
        self.visit(&device).await;
        if self.visited.len() >= REMEMBERED {
            self.visited.clear();
        }
        self.visited.insert(device, Instant::now());
        true
    }
}

#[cfg(test)]
mod tests;
