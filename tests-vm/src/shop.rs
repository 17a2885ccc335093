//! An app that writes to a volume: what an update must leave alone.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    Hub, Lab, Vm,
    lab::{READY_DEADLINE, fetch},
};

const COMPOSE: &str = "
name: shop
services:
  web:
    image: demo/web:1
    ports: ['8080:8080']
    volumes: ['data:/data']
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, 'http://127.0.0.1:8080/']
      interval: 2s
    restart: always
    deploy: { mode: global }
volumes:
  data:
";

/// Where the volume lies on the node.
const NOTE: &str = "/var/lib/cairn/volumes/shop/data/note";

/// Deploys the app on the lab's nodes, and leaves a note in its volume on `vm`.
pub fn open(lab: &Lab, hub: &Hub, vm: &mut Vm) -> Result<()> {
    lab.push_examples(hub)?;
    let file = lab.dir().join("shop.yaml");
    fs::write(&file, COMPOSE)?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    hub.wait_app_ready("shop", READY_DEADLINE)?;
    vm.check(&format!("echo 'of the shop' >{NOTE} && sync"))?;
    Ok(())
}

/// The app answers, and its note is still there.
pub fn ensure_open(vm: &mut Vm) -> Result<()> {
    let page = fetch(vm.forwarded(8080).unwrap_or_default(), "/", READY_DEADLINE)?;
    ensure!(page.contains("Cairn"), "the page is not the demo's: {page}");
    let note = vm.check(&format!("cat {NOTE}"))?;
    ensure!(note.trim() == "of the shop", "the volume lost its note: {note}");
    Ok(())
}
