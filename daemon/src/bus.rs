//! The node on D-Bus: `org.cairn.Node1` at `/org/cairn/Node1`, and RAUC's `de.pengutronix.rauc.Installer` at `/`, so that
//! tools which drive RAUC drive Cairn. It decides nothing: what is asked goes through the [`port`] to the OS task, which
//! installs only what is genuine. Who may speak to it is in `dist/node/usr/share/dbus-1/system.d/org.cairn.Node1.conf`:
//! root alone, for properties and signals too.
//!
//! One task owns the [`installation`] as RAUC's tools see it; the objects on the bus send it what they are asked for and
//! read what it publishes. A lost bus is connected to again, and an installation goes on meanwhile.

use std::{collections::HashMap, future::pending, pin::Pin, time::Duration};

use cairn_model::{error::chain, media::MediaStatus, report::OsStatus};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use zbus::{
    connection::Builder,
    fdo::{RequestNameFlags, RequestNameReply},
    object_server::InterfaceRef,
};

use crate::backoff::{self, Backoff};

mod dict;
mod installation;
mod installer;
mod node;
pub mod port;
mod source;

#[cfg(test)]
mod tests;

use installation::{Change, Installation, View};
use installer::{Installer, Order};
use node::Node;
pub use port::{OsRequest, Port};

/// Our own name.
pub const NAME: &str = "org.cairn.Node1";

/// RAUC's name; taken only on a node that updates its OS.
pub const RAUC_NAME: &str = "de.pengutronix.rauc";

const NODE_PATH: &str = "/org/cairn/Node1";
const RAUC_PATH: &str = "/";

/// Longest that the bus itself may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// Which bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The system's.
    System,
    /// Another, by D-Bus address: for tests.
    At(String),
}

#[derive(Debug, thiserror::Error)]
enum BusError {
    #[error("failed to serve on the bus")]
    Bus(#[from] zbus::Error),
    #[error("the bus went away")]
    Closed,
}

/// Serves until `stop` is cancelled. A bus that is not there, or goes away, is tried again at a pace.
pub async fn serve(address: Address, port: Port, stop: CancellationToken) {
    let mut desk = Desk::new(port);
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
    loop {
        let begun = tokio::time::Instant::now();
        let Err(e) = session(&address, &mut desk, &stop).await else { return };
        if begun.elapsed() > Duration::from_secs(60) {
            backoff.reset();
        }
        tracing::warn!("{}; it is tried again", chain(&e));
        // Both arms are cancel-safe: they have no state.
        tokio::select! {
            () = tokio::time::sleep(backoff.after_failure(backoff::random())) => {}
            () = stop.cancelled() => return,
        }
    }
}

type Install = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What outlives a connection: the installation that somebody asked for on the bus, and what is shown of it.
struct Desk {
    port: Port,
    installation: Installation,
    shown: watch::Sender<View>,
    running: Option<Install>,
}

impl Desk {
    fn new(port: Port) -> Self {
        let installation = Installation::default();
        let (shown, _) = watch::channel(installation.view.clone());
        Self { port, installation, shown, running: None }
    }

    /// Takes an order, or says why not. One installation runs at a time.
    fn take(&mut self, Order { source, digest, accepted }: Order) {
        let taken = self.installation.begin();
        if taken.is_ok() {
            tracing::info!(?source, "asked over D-Bus to install");
            let port = self.port.clone();
            self.running = Some(Box::pin(async move {
                port.ask(|reply| OsRequest::Install { source, digest, reply }).await
            }));
        }
        // Whoever asked may have gone: then nobody waits for the answer.
        let _ = accepted.send(taken);
    }

    /// Publishes what changed, for the getters, and says what it was.
    fn publish(&mut self, completed: Option<i32>) -> Vec<Change> {
        let view = self.installation.view.clone();
        let before = self.shown.send_replace(view.clone());
        installation::changes(&before, &view, completed)
    }
}

/// Ends when the installation does; never, where there is none. Cancel-safe: the future stays where it is.
async fn ended(running: &mut Option<Install>) -> Result<(), String> {
    let Some(install) = running else { return pending().await };
    let result = install.await;
    *running = None;
    result
}

/// One connection. `Ok` once `stop` is cancelled.
async fn session(address: &Address, desk: &mut Desk, stop: &CancellationToken) -> Result<(), BusError> {
    // Half a dozen callers can wait; the bus itself bounds what a client may have in flight.
    let (orders, mut inbox) = mpsc::channel(8);
    let builder = match address {
        Address::System => Builder::system()?,
        Address::At(address) => Builder::address(address.as_str())?,
    };
    let installer = Installer { shown: desk.shown.subscribe(), orders, port: desk.port.clone() };
    let connection = builder
        .method_timeout(CALL_TIMEOUT)
        .serve_at(RAUC_PATH, installer)?
        .serve_at(NODE_PATH, Node { port: desk.port.clone() })?
        .name(NAME)?
        .build()
        .await?;
    let objects = Objects {
        installer: connection.object_server().interface(RAUC_PATH).await?,
        node: connection.object_server().interface(NODE_PATH).await?,
    };
    let (mut os, mut media) = (desk.port.os.clone(), desk.port.media.clone());
    os.mark_changed();
    let (mut watched, mut plugged) = (true, true);
    let mut stick: Option<MediaStatus> = None;
    let mut named = false;
    let mut told: Option<OsStatus> = None;
    loop {
        // Each arm is cancel-safe: a watch and an mpsc keep what is not taken, the rest has no state or stays in place.
        let completed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = connection.closed() => return Err(BusError::Closed),
            changed = os.changed(), if watched => {
                watched = changed.is_ok();
                let status = os.borrow_and_update().clone();
                if node::is_news(told.as_ref(), status.as_ref()) {
                    objects.tell_os().await;
                }
                told.clone_from(&status);
                status.and_then(|status| desk.installation.observe(&status))
            }
            changed = media.changed(), if plugged => {
                plugged = changed.is_ok();
                let status = media.borrow_and_update().clone();
                if node::is_stick_news(stick.as_ref(), status.as_ref()) {
                    objects.tell_media().await;
                }
                stick = status;
                None
            }
            Some(order) = inbox.recv() => {
                desk.take(order);
                None
            }
            result = ended(&mut desk.running) => {
                // What the OS task published before its answer is seen first: it belongs to this installation.
                if let Some(status) = os.borrow().as_ref() {
                    desk.installation.observe(status);
                }
                Some(desk.installation.end(result))
            }
        };
        if !named && told.is_some() {
            take_rauc_name(&connection).await?;
            named = true;
        }
        objects.announce(desk.publish(completed)).await;
    }
}

/// RAUC's name may be RAUC's own, on a host that has it: then it stays there, and ours is served alone.
async fn take_rauc_name(connection: &zbus::Connection) -> Result<(), BusError> {
    let reply = connection.request_name_with_flags(RAUC_NAME, RequestNameFlags::DoNotQueue.into()).await;
    match reply {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(_) | Err(zbus::Error::NameTaken) => {
            tracing::warn!("{RAUC_NAME} belongs to another program; tools that drive RAUC reach that one");
            Ok(())
        }
        Err(e) => Err(e.into()),
    }
}

struct Objects {
    installer: InterfaceRef<Installer>,
    node: InterfaceRef<Node>,
}

impl Objects {
    /// Sends the signals, in order. A signal that does not get out is no fault of what it tells: the next thing that the
    /// bus is asked finds out.
    async fn announce(&self, changes: Vec<Change>) {
        let emitter = self.installer.signal_emitter();
        for change in changes {
            let installer = self.installer.get().await;
            let sent = match change {
                Change::Operation => installer.operation_changed(emitter).await,
                Change::LastError => installer.last_error_changed(emitter).await,
                Change::Progress => installer.progress_changed(emitter).await,
                Change::Compatible => installer.compatible_changed(emitter).await,
                Change::SystemVersion => installer.system_version_changed(emitter).await,
                Change::BootSlot => installer.boot_slot_changed(emitter).await,
                Change::Completed(result) => Installer::completed(emitter, result).await,
            };
            if let Err(e) = sent {
                tracing::debug!(?change, "a signal was not sent: {e}");
            }
        }
    }

    async fn tell_os(&self) {
        let sent = self.node.get().await.os_changed(self.node.signal_emitter()).await;
        if let Err(e) = sent {
            tracing::debug!("a signal was not sent: {e}");
        }
    }

    async fn tell_media(&self) {
        let sent = self.node.get().await.media_changed(self.node.signal_emitter()).await;
        if let Err(e) = sent {
            tracing::debug!("a signal was not sent: {e}");
        }
    }
}

/// `a{sv}`.
type Dict = HashMap<String, zbus::zvariant::OwnedValue>;
