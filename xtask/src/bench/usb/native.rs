//! The node agent on this machine, without systemd, and a folder in the place of a stick: nothing is emulated.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests_vm::{Hub, Lab, site, vm::run, wait};
use serde_json::Value;

use super::{
    super::{Row, median},
    deploy_large, missing, nodes, peak, taken,
};

/// Nodes of a large site.
const NODES: usize = 50;

/// Between two looks into the agent's log.
const PAUSE: Duration = Duration::from_millis(2);

const DEADLINE: Duration = Duration::from_secs(300);

/// Rounds whose middle one counts.
const ROUNDS: usize = 5;

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let hub = lab.hub_named("native-hub")?;
    let (mut copies, mut visits, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    deploy_large(lab, &hub)?;
    let mut bytes = 0;
    let mut last = None;
    for round in 0..ROUNDS {
        // A new node each time: it has nothing of it yet.
        let (agent, id) = member(lab, &hub, round)?;
        let stick = agent.stick("stick");
        site::export(&hub, &stick, &[&id])?;
        let list;
        (list, bytes) = missing(&stick, "")?;
        copies.push(by_hand(lab, &stick, &list)?);
        forget()?;
        visits.push(agent.visit("stick")?);
        peaks.push(peak(&fs::read_to_string(format!("/proc/{}/status", agent.process.id()))?)?);
        last = Some((agent, id));
    }
    println!("  here: {bytes} bytes, {visits:.2?} s, by hand {copies:.2?} s, at most {peaks:.1?} MiB");
    let most = peaks.into_iter().fold(0.0, f64::max);
    let mut rows = taken("a folder on this machine's disk", bytes, median(visits), median(copies), most);
    let (agent, id) = last.context("there was no round")?;
    rows.extend(fleet(lab, &hub, &agent, &id)?);
    Ok(rows)
}

/// A node without a network that became a member by stick, and its id.
fn member(lab: &Lab, hub: &Hub, number: usize) -> Result<(Agent, String)> {
    let agent = Agent::start(&lab.dir().join(format!("agent{number}")), &lab.binaries())?;
    let id = agent.status()?["node"].as_str().context("a node has an id")?.to_owned();
    let blank = agent.stick("blank");
    site::export(hub, &blank, &[])?;
    agent.visit("blank")?;
    site::import(hub, &blank)?;
    hub.cairn(&["node", "approve", &id])?;
    Ok((agent, id))
}

/// Seconds for what a person without cairnd would do.
fn by_hand(lab: &Lab, stick: &Path, list: &[String]) -> Result<f64> {
    let to = lab.dir().join("by-hand");
    fs::create_dir_all(&to)?;
    forget()?;
    let start = Instant::now();
    run(Command::new("cp").args(list.iter().map(|path| stick.join(path))).arg(&to))?;
    run(Command::new("sync").arg("-f").arg(&to))?;
    let took = start.elapsed().as_secs_f64();
    fs::remove_dir_all(&to)?;
    Ok(took)
}

/// Nothing of the medium is in memory any more: who copies has to read it.
fn forget() -> Result<()> {
    run(&mut Command::new("sync"))?;
    fs::write("/proc/sys/vm/drop_caches", "1").context("failed to drop the page cache; are you root?")
}

/// A stick for a site of many nodes against one for a single node: what is written, and what it costs a node that has all
/// of it already.
fn fleet(lab: &Lab, hub: &Hub, agent: &Agent, own: &str) -> Result<Vec<Row>> {
    nodes::enrol(lab.dir(), hub, NODES - ROUNDS)?;
    let all: Vec<String> =
        hub.nodes()?.iter().filter_map(|node| Some(node["id"].as_str()?.to_owned())).collect();
    ensure!(all.len() == NODES, "not {NODES} nodes: {}", all.len());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut measured = Vec::new();
    for (name, ids) in [("one", &[own][..]), ("fifty", &all)] {
        let folder = agent.stick(name);
        let start = Instant::now();
        site::export(hub, &folder, ids)?;
        let seconds = start.elapsed().as_secs_f64();
        let bytes = size(&folder)? as f64 / 1e6;
        let visits = (0..ROUNDS).map(|_| agent.visit(name)).collect::<Result<Vec<_>>>()?;
        measured.push((seconds, bytes, median(visits) * 1000.0));
    }
    let [one, fifty] = measured[..] else { bail!("two are measured") };
    let row = |what: &str, unit, figure: f64, baseline: f64| Row {
        what: format!("{what} {NODES} nodes"),
        figure,
        baseline,
        unit,
        against: "the same for one node",
    };
    Ok(vec![
        row("`cairn usb export`: bytes on a stick for", "MB", fifty.1, one.1),
        row("`cairn usb export`: time for a stick for", "s", fifty.0, one.0),
        row("what a node that has all needs to see so, on a stick for", "ms", fifty.2, one.2),
    ])
}

/// A running cairnd; dropped means killed.
struct Agent {
    dir: PathBuf,
    process: Child,
}

impl Agent {
    fn start(dir: &Path, binaries: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        let at = dir.display();
        fs::create_dir_all(dir.join("etc/cairn"))?;
        fs::write(
            dir.join("etc/cairn/cairnd.toml"),
            format!(
                "[node]\nstate_dir = '{at}/state'\nrun_dir = '{at}/run'\n[runtime]\nsupervisor = 'processes'\n"
            ),
        )?;
        let log = File::create(dir.join("cairnd.log"))?;
        let mut command = Command::new(binaries.join("cairnd"));
        for name in ["JOURNAL_STREAM", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"] {
            command.env_remove(name);
        }
        command.arg("--root").arg(&dir).arg("run").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let agent = Self { process: command.spawn().context("failed to start cairnd")?, dir };
        wait::until("cairnd to answer", DEADLINE, || agent.status().map(Some))?;
        Ok(agent)
    }

    /// The folder that the agent takes for a stick of this name.
    fn stick(&self, name: &str) -> PathBuf {
        self.dir.join("run/media").join(name)
    }

    fn curl(&self, path: &str, more: &[&str]) -> Result<String> {
        run(Command::new("curl")
            .args(["-fsS", "--max-time", "10", "--unix-socket"])
            .arg(self.dir.join("run/cairnd.sock"))
            .args(more)
            .arg(format!("http://node{path}")))
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.curl("/v1/status", &[])?)?)
    }

    /// Tells the agent of a stick and waits until it is through with it; seconds until all was read, verified and applied.
    /// The agent's log says so: asking it meanwhile would be work too.
    fn visit(&self, name: &str) -> Result<f64> {
        let log = || fs::read_to_string(self.dir.join("cairnd.log")).unwrap_or_default();
        let before = log().len();
        let body = serde_json::json!({ "device": name }).to_string();
        let start = Instant::now();
        self.curl("/v1/media", &["--json", &body])?;
        let mut read = None;
        while start.elapsed() < DEADLINE {
            let log = log();
            let news = log.get(before..).unwrap_or_default();
            let now = start.elapsed().as_secs_f64();
            if news.contains("is applied") || news.contains("nothing newer") {
                read.get_or_insert(now);
            }
            if news.contains("the stick is through") {
                let media = self.status()?["media"].clone();
                ensure!(media["state"] == "done", "the agent did not take it: {media}");
                return Ok(read.unwrap_or(now));
            }
            thread::sleep(PAUSE);
        }
        bail!("the agent is not through with {name} within {} s:\n{}", DEADLINE.as_secs(), log())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { size(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(total)
}
