//! USB sticks: plugged into a running node and pulled out again, through QEMU's control socket.

use std::{fs::File, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use super::Vm;
use crate::wait;

/// The controller that sticks are plugged into.
pub(super) const CONTROLLER: [&str; 2] = ["-device", "qemu-xhci,id=usb"];

/// QEMU lets go of an image as soon as its device is gone.
const RELEASE_DEADLINE: Duration = Duration::from_secs(60);

/// How the node sees a stick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// It can be written to.
    Writable,
    /// Its slide switch says no.
    WriteProtected,
}

impl Vm {
    /// Plugs an image in as a USB stick; `name` is whatever [`Vm::unplug`] is to call it by.
    pub fn plug(&mut self, name: &str, image: &Path, protection: Protection) -> Result<()> {
        let image = image.canonicalize().with_context(|| format!("no stick at {}", image.display()))?;
        let medium = json!({
            "driver": "raw",
            "node-name": name,
            "read-only": protection == Protection::WriteProtected,
            "file": { "driver": "file", "filename": image },
        });
        self.qmp.execute("blockdev-add", medium)?;
        self.attach(name)
    }

    /// Like [`Vm::plug`], with every write that reaches the stick recorded in a new file `log`; it can be read once the
    /// stick is pulled.
    pub fn plug_recorded(&mut self, name: &str, image: &Path, log: &Path) -> Result<()> {
        let image = image.canonicalize().with_context(|| format!("no stick at {}", image.display()))?;
        File::create(log).with_context(|| format!("failed to make {}", log.display()))?;
        let log = log.canonicalize()?;
        let recorder = json!({
            "driver": "blklogwrites",
            "node-name": name,
            "file": { "driver": "raw", "file": { "driver": "file", "filename": image } },
            "log": { "driver": "file", "filename": log },
            "log-sector-size": 512,
            // Each entry is counted at once: a stick is pulled at any time.
            "log-super-update-interval": 1,
        });
        self.qmp.execute("blockdev-add", recorder)?;
        self.attach(name)
    }

    fn attach(&mut self, name: &str) -> Result<()> {
        let device =
            json!({ "driver": "usb-storage", "id": name, "drive": name, "bus": "usb.0", "removable": true });
        self.qmp.execute("device_add", device).map(drop)
    }

    /// Pulls a stick out, whatever the node is doing with it. What the node has not yet written to it is lost.
    pub fn unplug(&mut self, name: &str) -> Result<()> {
        self.qmp.execute("device_del", json!({ "id": name }))?;
        wait::until("QEMU to let go of the stick", RELEASE_DEADLINE, || {
            self.qmp.execute("blockdev-del", json!({ "node-name": name })).map(Some)
        })?;
        Ok(())
    }
}
