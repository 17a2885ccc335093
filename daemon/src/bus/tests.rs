//! The interfaces on a real bus: driven by RAUC's own command line, by a client of our own, and by one who may not.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use cairn_model::{
    Digest,
    local::LocalStatus,
    media::MediaState,
    report::{OsMethod, OsProgress, OsState, OsStatus, Slot},
};
use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use zbus::{Proxy, zvariant::OwnedValue};

use super::{
    port::{Inspected, Mark, SlotView, Source},
    *,
};
use crate::fixtures::{local_status, os_status};

mod client;
mod policy;
mod rauc;

/// A bus of the test's own; ends with it.
struct Bus {
    child: Child,
    address: String,
}

impl Bus {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("dbus-daemon")
            .args(arguments)
            .args(["--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon runs: install Debian's package dbus-daemon");
        let mut address = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
        assert!(!address.is_empty(), "dbus-daemon did not start");
        // Without the id of this very bus: the system's address has none either.
        let address = address.trim().split(",guid=").next().unwrap().to_owned();
        Self { child, address }
    }

    fn session() -> Self {
        Self::start(&["--session"])
    }

    async fn client(&self) -> zbus::Connection {
        Builder::address(self.address.as_str()).unwrap().build().await.unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's side: the bus task, and in the OS task's place the test itself.
struct Served {
    bus: Bus,
    os: watch::Sender<Option<OsStatus>>,
    stick: watch::Sender<Option<MediaStatus>>,
    requests: mpsc::Receiver<OsRequest>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Served {
    async fn on(bus: Bus, status: Option<OsStatus>) -> Self {
        let (os, seen) = watch::channel(status.clone());
        let (stick, plugged) = watch::channel(None);
        let (port, requests) = Port::new(seen, plugged, Arc::new(local_status));
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(Address::At(bus.address.clone()), port, stop.clone()));
        let client = bus.client().await;
        wait_for_name(&client, if status.is_some() { RAUC_NAME } else { NAME }).await;
        Self { bus, os, stick, requests, stop, task }
    }

    async fn start() -> Self {
        Self::on(Bus::session(), Some(os_status(OsState::Idle))).await
    }

    /// The next thing that the OS task is asked for.
    async fn asked(&mut self) -> OsRequest {
        soon(self.requests.recv()).await.expect("a request")
    }

    fn publish(&self, change: impl FnOnce(&mut OsStatus)) {
        self.os.send_modify(|os| change(os.as_mut().unwrap()));
    }

    async fn end(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap();
    }
}

/// What never comes is a failure, not a test that hangs.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("it comes")
}

async fn wait_for_name(client: &zbus::Connection, name: &'static str) {
    let bus = zbus::fdo::DBusProxy::new(client).await.unwrap();
    let mut owners = bus.receive_name_owner_changed_with_args(&[(0, name)]).await.unwrap();
    if bus.name_has_owner(name.try_into().unwrap()).await.unwrap() {
        return;
    }
    while let Some(owner) = soon(owners.next()).await {
        if owner.args().unwrap().new_owner().is_some() {
            return;
        }
    }
}

fn written(written: u64) -> OsProgress {
    OsProgress { method: OsMethod::Patch, written, total: 1000, fetched: 9, to_fetch: 70, full: 700, rate: 5 }
}

fn slots() -> [SlotView; 2] {
    let slot = |slot, version: Option<&str>, running, tries_left| SlotView {
        slot,
        device: PathBuf::from(format!("/dev/vda-{}", slot.as_str())),
        version: version.map(|version| version.parse().unwrap()),
        bootable: version.is_some(),
        tries_left,
        running,
        corrupt: false,
    };
    [slot(Slot::A, Some("0.1.0"), true, None), slot(Slot::B, Some("0.2.0"), false, Some(3))]
}

fn digest() -> Digest {
    format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
}

fn inspected() -> Inspected {
    let release = serde_json::json!({
        "schema": 1, "version": "0.2.0", "compatible": "cairn-generic-amd64", "arch": "amd64",
        "changelog": "less to break", "name": "Cairn 0.2.0", "built": 1_795_000_000,
        "data_layout": { "min": 1, "max": 1 },
        "root": { "digest": digest(), "size": 4096 }, "uki": { "digest": digest(), "size": 1 },
        "verity": { "root_hash": "cd".repeat(32), "salt": "00", "uuid": "00".repeat(16) },
        "chunks": { "index": { "digest": digest(), "size": 1 }, "pack": { "digest": digest(), "size": 1 } },
    });
    Inspected { digest: digest(), release: serde_json::from_value(release).unwrap() }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
