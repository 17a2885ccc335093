//! A site without a network: one node that never had any, its hub far away, and a technician who carries a stick.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Hub, Lab, Vm,
    stick::{Form, Stick},
    vm::{run, usb::Protection},
    wait,
};

/// To mount, verify, copy, write back and unmount, under TCG on a busy machine: a deadline, not a time.
pub const VISIT_DEADLINE: Duration = Duration::from_secs(300);

/// Room for the examples' images, and for an OS release where one is carried.
const STICK_MIB: u64 = 512;

/// Steps after which the node does nothing more with a stick.
const ENDED: [&str; 4] = ["done", "foreign", "refused", "failed"];

/// The node, its hub and the stick between them.
#[derive(Debug)]
pub struct Site {
    /// The hub, which never hears of the node but by stick.
    pub hub: Hub,
    /// The node.
    pub vm: Vm,
    /// The stick.
    pub stick: Stick,
    /// The stick's content on the operator's machine.
    pub folder: PathBuf,
    /// The node's id.
    pub id: String,
}

impl Site {
    /// A hub, a blank node without a network, and a stick of that hub for nobody yet.
    pub fn blank(lab: &Lab, credentials: &[(&str, &str)]) -> Result<Self> {
        let hub = lab.hub()?;
        let folder = lab.dir().join("stick");
        export(&hub, &folder, &[])?;
        let stick = Stick::make(lab.dir().join("stick.img"), Form::Partitioned, STICK_MIB)?;
        stick.fill(&folder)?;
        let mut vm = lab.boot_air_gapped(1, credentials)?;
        let id = local(&mut vm)?["node"].as_str().context("a node has an id")?.to_owned();
        Ok(Self { hub, vm, stick, folder, id })
    }

    /// The node has asked, by stick, to become a member, and an operator has approved it; it does not know yet.
    pub fn approved(lab: &Lab) -> Result<Self> {
        let mut site = Self::blank(lab, &[])?;
        site.visit()?;
        let imported = site.import()?;
        ensure!(imported["enrolled"][0]["id"] == site.id.as_str(), "the node did not ask: {imported}");
        site.hub.cairn(&["node", "approve", &site.id])?;
        Ok(site)
    }

    /// The node is a member and runs the app of [`deploy`].
    pub fn running(lab: &Lab) -> Result<Self> {
        let mut site = Self::approved(lab)?;
        deploy(lab, &site.hub, 1)?;
        site.round()?;
        wait_answer(&mut site.vm, 8081, "WebAssembly")?;
        Ok(site)
    }

    /// `cairn usb export`, and the stick is filled with what it wrote.
    pub fn export(&self) -> Result<()> {
        export(&self.hub, &self.folder, &[&self.id])?;
        self.stick.fill(&self.folder)
    }

    /// The stick goes into the node until that says that it may be pulled; it must be sound then. What the node said.
    pub fn visit(&mut self) -> Result<Value> {
        let said = show(&mut self.vm, &self.stick)?;
        self.stick.check()?;
        self.stick.read_back(&self.folder)?;
        Ok(said)
    }

    /// `cairn usb import` of what the node wrote.
    pub fn import(&self) -> Result<Value> {
        import(&self.hub, &self.folder)
    }

    /// Export, visit and import, all of which succeed. What the hub said of the import.
    pub fn round(&mut self) -> Result<Value> {
        self.export()?;
        let said = self.visit()?;
        ensure!(said["state"] == "done", "the node did not take the stick: {said}");
        let imported = self.import()?;
        ensure!(imported["refused"].as_array().is_none_or(Vec::is_empty), "the hub refused some: {imported}");
        Ok(imported)
    }

    /// The node refuses a stick with these words, and what it runs is as it was.
    pub fn ensure_refused(&mut self, stick: &Stick, words: &[&str]) -> Result<()> {
        let before = running(&mut self.vm)?;
        let said = show(&mut self.vm, stick)?;
        ensure!(said["state"] == "refused", "the stick was not refused: {said}");
        let text = said["messages"].to_string();
        for word in words {
            ensure!(text.contains(word), "no word of {word:?}: {text}");
        }
        let message = said["messages"][0].as_str().context("it is refused without a word")?;
        ensure_said(&mut self.vm, message)?;
        ensure!(running(&mut self.vm)? == before, "the stick changed what runs: {said}");
        answer(&mut self.vm, 8081)?;
        Ok(())
    }
}

/// An app of one wasm component that answers on port 8081; `number` makes another app of it.
pub fn compose(number: u32) -> String {
    format!(
        "name: hello\nservices:\n  hello:\n    image: demo/hello:1\n    platform: wasi/wasm\n    ports: ['8081:8080']\n    \
         restart: always\n    environment: {{ NUMBER: '{number}' }}\n    deploy: {{ mode: global }}\n"
    )
}

/// Puts the examples into the hub, and deploys [`compose`].
pub fn deploy(lab: &Lab, hub: &Hub, number: u32) -> Result<()> {
    lab.push_examples(hub)?;
    redeploy(lab, hub, number)
}

/// Deploys [`compose`] with another number.
pub fn redeploy(lab: &Lab, hub: &Hub, number: u32) -> Result<()> {
    let file = lab.dir().join(format!("hello-{number}.yaml"));
    fs::write(&file, compose(number))?;
    hub.cairn(&["app", "deploy", &file.display().to_string()]).map(drop)
}

/// `cairn usb export` for these nodes; for none, a blank stick of the hub's.
pub fn export(hub: &Hub, folder: &Path, nodes: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let mut command = hub.command();
    command.args(["usb", "export", "--yes"]).arg(folder);
    if nodes.is_empty() {
        command.arg("--blank");
    }
    for node in nodes {
        command.args(["--node", node]);
    }
    run(&mut command).map(drop)
}

/// `cairn usb import`, parsed.
pub fn import(hub: &Hub, folder: &Path) -> Result<Value> {
    hub.json(&["usb", "import", &folder.display().to_string()])
}

/// What the node says of itself to whoever stands before it. After a start its agent takes a while to answer.
pub fn local(vm: &mut Vm) -> Result<Value> {
    wait::until("the node's agent to answer", VISIT_DEADLINE, || {
        let text = vm.check("cairn local status -o json")?;
        let said = serde_json::from_str(&text);
        said.map(Some).with_context(|| format!("`cairn local status` printed no JSON: {text}"))
    })
}

/// Plugs a stick in, waits until the node says that it may be pulled, and pulls it. What the node said.
pub fn show(vm: &mut Vm, stick: &Stick) -> Result<Value> {
    show_as(vm, stick, Protection::Writable)
}

/// Like [`show`], with the stick's slide switch as given.
pub fn show_as(vm: &mut Vm, stick: &Stick, protection: Protection) -> Result<Value> {
    let before = visits(vm)?;
    vm.plug("stick", stick.image(), protection)?;
    let said = ended(vm, before.ended + 1);
    vm.unplug("stick")?;
    said
}

/// How much of a message is looked for on the console, in characters.
const ON_CONSOLE: usize = 300;

/// What the node says of a stick is in its journal, and on its console too.
pub fn ensure_said(vm: &mut Vm, message: &str) -> Result<()> {
    let journal = vm.check("journalctl -b -u cairnd --no-pager -o cat -n 300")?;
    ensure!(journal.contains(&format!("stick: {message}")), "the journal has no word of {message:?}");
    // The console cuts a line at 400 characters.
    let start: String = message.chars().take(ON_CONSOLE).collect();
    wait::until("the console to say what the status says", VISIT_DEADLINE, || {
        ensure!(vm.console().contains(&start), "no {start:?} in:\n{}", vm.console_tail());
        Ok(Some(()))
    })
}

/// Waits until so many visits have ended since the node was started, and none is under way. What the node said of the last.
pub fn ended(vm: &mut Vm, wanted: usize) -> Result<Value> {
    wait::until("the node to be through with the stick", VISIT_DEADLINE, || {
        let (now, media) = (visits(vm)?, local(vm)?["media"].clone());
        let over = now.ended >= wanted && now.begun == now.ended;
        let state = media["state"].as_str().unwrap_or_default();
        if over && media["removable"] == true && ENDED.contains(&state) {
            return Ok(Some(media));
        }
        bail!("it says: {media}; {now:?}, where {wanted} are waited for")
    })
}

/// How many sticks the node has looked at since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Visits {
    /// With how many it has begun.
    pub begun: usize,
    /// With how many it was through.
    pub ended: usize,
}

/// Counts them in the node's journal: its status shows only the last one, and cannot be told from one that was the same.
pub fn visits(vm: &mut Vm) -> Result<Visits> {
    let lines = vm
        .check("journalctl -b -u cairnd --no-pager -o cat | grep -E ' stick is (looked at|through)'; true")?;
    Ok(Visits { begun: lines.matches(" looked at").count(), ended: lines.matches(" through").count() })
}

/// The workloads' units with their processes: unchanged means undisturbed.
pub fn running(vm: &mut Vm) -> Result<String> {
    vm.check("systemctl show 'cairn-*-*-*.service' -p Id -p MainPID | sort")
}

/// One HTTP request on the node to one of its own ports: it has no other network.
pub fn answer(vm: &mut Vm, port: u16) -> Result<String> {
    vm.check(&format!(
        "( exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET / HTTP/1.0\\r\\nHost: node\\r\\n\\r\\n' >&3 && timeout 20 cat <&3 )"
    ))
}

/// Waits until the node answers itself on a port with a page that holds `word`.
pub fn wait_answer(vm: &mut Vm, port: u16, word: &str) -> Result<()> {
    wait::until(&format!("an answer on the node's port {port}"), VISIT_DEADLINE, || {
        let page = answer(vm, port)?;
        ensure!(page.contains(word), "it answers: {page}");
        Ok(Some(()))
    })
    .with_context(|| format!("the node says: {}", local(vm).unwrap_or_default()))
}

/// The node, as `cairn node show` has it.
pub fn node(hub: &Hub, id: &str) -> Result<Value> {
    hub.json(&["node", "show", id])
}

/// Copies a folder, links as links.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::remove_dir_all(to).ok();
    run(std::process::Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}
