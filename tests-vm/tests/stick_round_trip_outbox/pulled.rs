//! Records three visits of a stick (an outbox that is new, one that grows, one of which a part is acknowledged), has every
//! stick that a pull may leave checked, brings all their outboxes to the hub, and some of them to the node again.
//!
//! `CAIRN_PULLED` is how many of each visit the node sees again (1 where absent), `CAIRN_SEED` what chance begins with.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick,
    site::{self, ended, visits},
    stick::Form,
    vm::run,
};
use fastrand::Rng;
use serde_json::Value;

use crate::cuts::{self, Found, Recording};

/// Every report has more than one cluster then, and its folder grows after each few.
const STICK_MIB: u64 = 64;

/// What ends at an event, and is started again.
const HELLO: &str = "cairn-hello-hello-0.service";

/// Events to write about, at each visit.
const EVENTS: usize = 4;

/// Sticks by chance that the hub sees, of each visit: in-order ones it sees all.
const TO_HUB: usize = 20;

/// What the hub has, by what it said.
#[derive(Debug, Default)]
struct Heard {
    reports: BTreeSet<String>,
    stored: u64,
}

/// The whole of it.
pub fn at_any_write(lab: &Lab, site: &mut Site) -> Result<()> {
    let number = |name: &str, default: u64| env::var(name).map_or(Ok(default), |text| text.parse());
    let (again, seed) = (number("CAIRN_PULLED", 1)?, number("CAIRN_SEED", 1)?);
    let mut rng = Rng::with_seed(seed);
    let stick = Stick::make(lab.dir().join("recorded.img"), Form::Superfloppy, STICK_MIB)?;
    site.import()?;
    site.export()?;
    fs::remove_dir_all(site.folder.join("outbox")).ok();
    stick.fill(&site.folder)?;
    for round in ["new", "grown", "acknowledged"] {
        for _ in 0..EVENTS {
            // systemd waits a minute before it starts anew what ends again and again, unless that is forgotten.
            site.vm.check(&format!("systemctl reset-failed {HELLO}; systemctl kill -s KILL {HELLO}"))?;
            site::wait_answer(&mut site.vm, 8081, "WebAssembly")?;
        }
        let recording = record(lab, site, &stick, round)?;
        let start = Instant::now();
        let (found, sums) = recording.check(&mut rng).with_context(|| format!("{round}, seed {seed}"))?;
        println!("{round}, seed {seed}: {sums:?}, {} outboxes, {:.1?}", found.len(), start.elapsed());
        ensure!(sums.writes > 0 && found.len() > 1, "nothing was written: {sums:?}");
        let start = Instant::now();
        to_hub(lab, site, &found, &mut rng)?;
        println!("{round}: all at the hub after {:.1?}", start.elapsed());
        for _ in 0..again {
            let found = &found[rng.usize(..found.len())];
            to_node(lab, site, &recording, found.position).with_context(|| {
                format!("{round}, plugged in again, pulled after entry {}", found.position)
            })?;
        }
        if round == "grown" {
            // The hub has all of it by now, and says so: the node removes it.
            stick.read_back(&site.folder)?;
            site::import(&site.hub, &site.folder)?;
            site::export(&site.hub, &site.folder, &[&site.id])?;
            stick.fill(&site.folder)?;
        }
    }
    Ok(())
}

/// A visit whose writes are recorded.
fn record(lab: &Lab, site: &mut Site, stick: &Stick, round: &str) -> Result<Recording> {
    let file = |what: &str| lab.dir().join(format!("{round}.{what}"));
    let recording = Recording {
        before: file("before"),
        log: file("log"),
        after: file("after"),
        outbox: format!("outbox/{}", site.id),
    };
    cuts::copy(stick.image(), &recording.before)?;
    let before = visits(&mut site.vm)?;
    site.vm.plug_recorded("stick", stick.image(), &recording.log)?;
    let said = ended(&mut site.vm, before.ended + 1);
    site.vm.unplug("stick")?;
    let said = said?;
    ensure!(said["state"] == "done", "the node did not take it: {said}");
    stick.check()?;
    cuts::copy(stick.image(), &recording.after)?;
    Ok(recording)
}

/// Brings outboxes to the hub in the order in which they came about, and the last one once more. What is whole is taken,
/// once; what is not is named.
fn to_hub(lab: &Lab, site: &Site, found: &[Found], rng: &mut Rng) -> Result<()> {
    let folder = lab.dir().join("pulled");
    let by_chance = found.iter().filter(|found| !found.in_order).count().max(1);
    let mut heard = Heard::default();
    let last = found.iter().rfind(|found| found.in_order).context("there is no stick in order")?;
    for one in found.iter().chain([last]) {
        if !one.in_order && rng.usize(..by_chance) >= TO_HUB {
            continue;
        }
        put(&folder, &site.id, one)?;
        let said = import(site, &folder)?;
        let refused = said["refused"].as_array().map_or(0, Vec::len);
        let broken = one.reports.keys().filter(|name| !one.whole.contains(*name));
        for name in broken.clone() {
            ensure!(said["refused"].to_string().contains(name.as_str()), "no word of {name}: {said}");
        }
        ensure!(one.in_order || refused <= one.reports.len(), "too much is refused: {said}");
        if one.in_order && broken.count() == 0 {
            ensure!(refused == 0, "the hub refuses what is whole: {said}");
        }
        let node = &said["nodes"][0];
        let (stored, known) =
            (node["stored"].as_u64().unwrap_or_default(), node["known"].as_u64().unwrap_or_default());
        ensure!(stored + known <= one.whole.len() as u64, "more than there is: {said}, {:?}", one.whole);
        heard.reports.extend(one.whole.iter().cloned());
        heard.stored += stored;
        ensure!(heard.stored <= heard.reports.len() as u64, "something is stored twice: {said}");
    }
    put(&folder, &site.id, last)?;
    let again = import(site, &folder)?;
    let known = again["nodes"][0]["known"].as_u64().unwrap_or_default();
    ensure!(known == last.reports.len() as u64, "not all that is whole is at the hub: {again}");
    Ok(())
}

/// What the hub says, whether or not it has taken all.
fn import(site: &Site, folder: &Path) -> Result<Value> {
    let output = site.hub.command().args(["usb", "import", "-o", "json"]).arg(folder).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said)
        .with_context(|| format!("no JSON: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Makes a folder with this outbox.
fn put(folder: &Path, id: &str, found: &Found) -> Result<()> {
    fs::remove_dir_all(folder).ok();
    let outbox = folder.join("outbox").join(id);
    fs::create_dir_all(&outbox)?;
    for (name, text) in &found.reports {
        fs::write(outbox.join(name), text)?;
    }
    Ok(())
}

/// The node sees a stick that was pulled: it completes what was cut off.
fn to_node(lab: &Lab, site: &mut Site, recording: &Recording, position: usize) -> Result<()> {
    let image = lab.dir().join("again.img");
    recording.stick(position, &image)?;
    let stick = Stick::open(image, Form::Superfloppy, STICK_MIB);
    let said = site::show(&mut site.vm, &stick)?;
    let words = said["messages"].to_string();
    ensure!(said["state"] == "done" && !words.contains("not all"), "it was not completed: {said}");
    let (before, after) = (lab.dir().join("before"), lab.dir().join("after"));
    let original = Stick::open(recording.before.clone(), Form::Superfloppy, STICK_MIB);
    original.read_back(&before)?;
    stick.read_back(&after)?;
    run(Command::new("diff").args(["-r", "-q", "--exclude=outbox"]).args([&before, &after]))?;
    let imported = import(site, &after)?;
    ensure!(imported["refused"].as_array().is_none_or(Vec::is_empty), "the hub refused some: {imported}");
    let node = &imported["nodes"][0];
    ensure!(node["stored"].as_u64() > Some(0), "the node wrote nothing new on it: {imported}");
    Ok(())
}
