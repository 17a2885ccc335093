//! `de.pengutronix.rauc.Installer` at `/`: RAUC's interface, as RAUC's own tools and those that drive it expect it.

use tokio::sync::{mpsc, oneshot, watch};
use zbus::{fdo, interface, object_server::SignalEmitter};

use super::{
    Dict, dict,
    installation::View,
    port::{Inspected, Mark, OsRequest, Port, Source},
    source,
};

/// An installation that somebody on the bus wants.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) source: Source,
    pub(super) digest: Option<cairn_model::Digest>,
    /// Whether it was begun.
    pub(super) accepted: oneshot::Sender<Result<(), String>>,
}

/// The object.
#[derive(Debug)]
pub(super) struct Installer {
    pub(super) shown: watch::Receiver<View>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) port: Port,
}

fn refused(reason: impl ToString) -> fdo::Error {
    fdo::Error::Failed(reason.to_string())
}

fn invalid(reason: impl ToString) -> fdo::Error {
    fdo::Error::InvalidArgs(reason.to_string())
}

impl Installer {
    async fn order(&self, bundle: &str, digest: Option<cairn_model::Digest>) -> fdo::Result<()> {
        let source = source::parse(bundle).map_err(invalid)?;
        let (accepted, answer) = oneshot::channel();
        let closing = || refused("cairnd is stopping; ask again when it is up");
        self.orders.send(Order { source, digest, accepted }).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?.map_err(refused)
    }

    async fn inspected(&self, bundle: &str) -> fdo::Result<Inspected> {
        let source = source::parse(bundle).map_err(invalid)?;
        self.port.ask(|reply| OsRequest::Inspect { source, reply }).await.map_err(refused)
    }

    fn booted(&self) -> fdo::Result<cairn_model::report::Slot> {
        let slot = self.port.os.borrow().as_ref().map(|os| os.slot);
        slot.ok_or_else(|| refused("this node does not update its OS: it has no slots"))
    }
}

#[interface(name = "de.pengutronix.rauc.Installer")]
impl Installer {
    /// Deprecated by RAUC.
    async fn install(&self, source: &str) -> fdo::Result<()> {
        self.order(source, None).await
    }

    /// Begins an installation; its end is the signal `Completed`.
    async fn install_bundle(&self, source: &str, args: Dict) -> fdo::Result<()> {
        let options = source::options(&args).map_err(invalid)?;
        self.order(source, options.digest).await
    }

    /// Deprecated by RAUC.
    #[zbus(out_args("compatible", "version"))]
    async fn info(&self, bundle: &str) -> fdo::Result<(String, String)> {
        let Inspected { release, .. } = self.inspected(bundle).await?;
        Ok((release.compatible, release.version.to_string()))
    }

    /// What a release says of itself; only of one that is genuine.
    #[zbus(out_args("info"))]
    async fn inspect_bundle(&self, source: &str, args: Dict) -> fdo::Result<Dict> {
        source::access_options(&args).map_err(invalid)?;
        self.inspected(source).await.map(|inspected| dict::bundle_info(&inspected))
    }

    /// `good` keeps a slot, `bad` makes it unbootable, `active` starts it next.
    #[zbus(out_args("slot_name", "message"))]
    async fn mark(&self, state: &str, slot_identifier: &str) -> fdo::Result<(String, String)> {
        let how = match state {
            "good" => Mark::Good,
            "bad" => Mark::Bad,
            "active" => Mark::Active,
            _ => {
                let state: String = state.chars().take(80).collect();
                return Err(invalid(format!("unknown subcommand {state}; use good, bad or active")));
            }
        };
        let slot = dict::slot_named(slot_identifier, self.booted()?).map_err(invalid)?;
        tracing::info!(?slot, ?how, "asked over D-Bus to mark a slot");
        self.port.ask(|reply| OsRequest::Mark { slot, how, reply }).await.map_err(refused)?;
        let name = dict::slot_name(slot);
        let message = match how {
            Mark::Good => format!("marked slot {name} as good"),
            Mark::Bad => format!("marked slot {name} as bad"),
            Mark::Active => format!("activated slot {name}"),
        };
        Ok((name.to_owned(), message))
    }

    /// All slots.
    #[zbus(out_args("slot_status_array"))]
    async fn get_slot_status(&self) -> fdo::Result<Vec<(String, Dict)>> {
        let slots = self.port.ask(|reply| OsRequest::Slots { reply }).await.map_err(refused)?;
        let compatible = self.shown.borrow().compatible.clone();
        Ok(slots.iter().map(|slot| dict::slot_status(slot, &compatible)).collect())
    }

    /// RAUC's artifacts are files beside the slots; Cairn's workloads are no such thing.
    #[zbus(out_args("artifacts"))]
    async fn get_artifact_status(&self) -> Vec<Dict> {
        Vec::new()
    }

    /// The slot that is started next.
    #[zbus(out_args("primary"))]
    async fn get_primary(&self) -> fdo::Result<String> {
        let slot = self.port.ask(|reply| OsRequest::Primary { reply }).await.map_err(refused)?;
        Ok(dict::slot_name(slot).to_owned())
    }

    /// `idle` or `installing`.
    #[zbus(property)]
    fn operation(&self) -> String {
        if self.shown.borrow().installing { "installing" } else { "idle" }.to_owned()
    }

    /// Why the latest installation failed.
    #[zbus(property)]
    fn last_error(&self) -> String {
        self.shown.borrow().last_error.clone()
    }

    /// Percentage, message, depth of nesting.
    #[zbus(property)]
    fn progress(&self) -> (i32, String, i32) {
        self.shown.borrow().progress.clone()
    }

    /// What kind of machine this is.
    #[zbus(property)]
    fn compatible(&self) -> String {
        self.shown.borrow().compatible.clone()
    }

    /// Cairn has none: a variant is another `compatible`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn variant(&self) -> String {
        String::new()
    }

    /// The version that runs.
    #[zbus(property)]
    fn system_version(&self) -> String {
        self.shown.borrow().version.clone()
    }

    /// The slot that runs, by its boot name.
    #[zbus(property)]
    fn boot_slot(&self) -> String {
        self.shown.borrow().boot_slot.clone()
    }

    /// An installation ended: 0 for success.
    #[zbus(signal)]
    pub(super) async fn completed(emitter: &SignalEmitter<'_>, result: i32) -> zbus::Result<()>;
}
