//! The thread that owns the updater: it reads and writes disks for minutes, which the daemon's one thread must not. It
//! takes work as closures, one after the other, and publishes the status after each, and while one installs.

use std::{path::PathBuf, thread};

use cairn_model::{error::chain, report::OsStatus};
use cairn_ota::{Machine, MachineError, SlotInfo, Startup, Updater};
use tokio::sync::{mpsc, oneshot, watch};

type Work = Box<dyn FnOnce(&mut Updater, &Publish) + Send>;

/// Where the thread says how things stand.
#[derive(Debug)]
pub(super) struct Publish {
    status: watch::Sender<Option<OsStatus>>,
    slots: watch::Sender<Option<[SlotInfo; 2]>>,
}

impl Publish {
    /// How an update stands; also called from within an installation.
    pub(super) fn status(&self, now: OsStatus) {
        self.status.send_if_modified(|status| {
            let changed = status.as_ref() != Some(&now);
            *status = Some(now);
            changed
        });
    }

    fn all(&self, updater: &Updater) {
        self.status(updater.status());
        match updater.slots() {
            Ok(slots) => {
                self.slots.send_replace(Some(slots));
            }
            Err(e) => tracing::warn!("the slots cannot be read: {}", chain(&e)),
        }
    }
}

/// What opening came to.
#[derive(Debug)]
pub(super) enum Opened {
    /// There are two slots.
    Ready {
        /// What the last restart came to.
        startup: Startup,
        /// The machine.
        machine: Box<Machine>,
    },
    /// This node does not run from a disk of Cairn's.
    NotAnAppliance,
    /// It does, but the disk or its state cannot be used.
    Failed(String),
}

/// The handle on the thread.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    work: mpsc::UnboundedSender<Work>,
    /// How the OS stands, as the updater sees it.
    pub(super) status: watch::Receiver<Option<OsStatus>>,
    /// How the slots stand; as they were before an installation while one runs.
    pub(super) slots: watch::Receiver<Option<[SlotInfo; 2]>>,
}

/// The thread is gone: it panicked.
#[derive(Debug, thiserror::Error)]
#[error("the updater's thread is gone; restart cairnd")]
pub(super) struct Gone;

/// Where the machine is looked for: below `/`, or one that a test made.
#[derive(Debug, Clone)]
pub(super) enum Find {
    /// The machine that runs, its files below this folder.
    Below(PathBuf),
    /// This one.
    #[cfg(test)]
    Made(Box<Machine>),
}

impl Engine {
    /// Starts the thread. It ends with the last handle.
    pub(super) fn start(
        find: Find,
        state_dir: PathBuf,
    ) -> std::io::Result<(Self, oneshot::Receiver<Opened>)> {
        let (work, mut works) = mpsc::unbounded_channel::<Work>();
        let (status, status_out) = watch::channel(None);
        let (slots, slots_out) = watch::channel(None);
        let (opened, opened_out) = oneshot::channel();
        thread::Builder::new().name("os".to_owned()).spawn(move || {
            let (mut updater, publish) = match open(find, &state_dir) {
                Ok((updater, startup)) => {
                    let publish = Publish { status, slots };
                    publish.all(&updater);
                    let machine = Box::new(updater.machine().clone());
                    let _ = opened.send(Opened::Ready { startup, machine });
                    (updater, publish)
                }
                Err(why) => {
                    let _ = opened.send(why);
                    return;
                }
            };
            while let Some(work) = works.blocking_recv() {
                work(&mut updater, &publish);
            }
        })?;
        Ok((Self { work, status: status_out, slots: slots_out }, opened_out))
    }

    /// Has the thread do something, and waits for what comes of it. What was handed over is done even if nobody waits.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Updater, &Publish) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        self.begin(work).await.map_err(|_| Gone)
    }

    /// Has the thread do something; the answer comes when it is done.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Updater, &Publish) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, answer) = oneshot::channel();
        // Where the thread is gone, so is the sender, and the answer says so.
        let _ = self.work.send(Box::new(move |updater, publish| {
            let result = work(updater, publish);
            publish.all(updater);
            let _ = done.send(result);
        }));
        answer
    }
}

fn open(find: Find, state_dir: &std::path::Path) -> Result<(Updater, Startup), Opened> {
    let machine = match find {
        Find::Below(root) => match Machine::discover(&root) {
            Ok(machine) => machine,
            Err(MachineError::NotAnAppliance { .. }) => return Err(Opened::NotAnAppliance),
            Err(e) => return Err(Opened::Failed(chain(&e))),
        },
        #[cfg(test)]
        Find::Made(machine) => *machine,
    };
    Updater::open(machine, state_dir).map_err(|e| Opened::Failed(chain(&e)))
}
