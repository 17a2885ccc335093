//! Figures of sticks: a node under QEMU takes what one brings, beside `cp` of the same bytes from the same medium on the
//! same node; and a stick for 50 nodes beside one for a single node.

mod nodes;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::{
    Lab, Site, Stick, Vm,
    site::{self, VISIT_DEADLINE},
    stick::Form,
    vm::{run, usb::Protection},
    wait,
};

use super::Row;

/// Bytes of the image that is carried, none of which compress.
const IMAGE_BYTES: u64 = 96 << 20;

/// Nodes of a large site.
const NODES: usize = 50;

/// Room for the image on a node's stick, and for what else is needed.
const STICK_MIB: u64 = 512;

const MIB: f64 = 1_048_576.0;

pub(super) fn measure() -> Result<Vec<Row>> {
    let lab = Lab::new("bench-usb")?;
    let mut site = Site::running(&lab)?;
    deploy_large(&lab, &site)?;
    let mut rows = import(&lab, &mut site)?;
    rows.extend(fleet(&lab, &mut site)?);
    Ok(rows)
}

/// An app whose image is the web server's with a file of random bytes beside it.
fn deploy_large(lab: &Lab, site: &Site) -> Result<()> {
    let layout = lab.dir().join("large");
    site::copy(&lab.examples().join("web-server"), &layout)?;
    let payload = lab.dir().join("payload");
    run(Command::new("head")
        .args(["-c", &IMAGE_BYTES.to_string(), "/dev/urandom"])
        .stdout(fs::File::create(&payload)?))?;
    run(Command::new("umoci")
        .args(["insert", "--image", &format!("{}:latest", layout.display())])
        .arg(&payload)
        .arg("/payload"))?;
    site.hub.push_image(&layout, "bench/large:1")?;
    let file = lab.dir().join("large.yaml");
    fs::write(
        &file,
        "name: large\nservices:\n  large:\n    image: bench/large:1\n    command: [sleep, infinity]\n    deploy: { mode: global }\n",
    )?;
    site.hub.cairn(&["app", "deploy", &file.display().to_string()]).map(drop)
}

/// The first visit with the large image, against `cp` of what was missing.
fn import(lab: &Lab, site: &mut Site) -> Result<Vec<Row>> {
    site.export()?;
    let list = missing(site)?;
    let bytes: u64 =
        list.iter().map(|path| fs::metadata(site.folder.join(path)).map_or(0, |m| m.len())).sum();
    ensure!(
        bytes > IMAGE_BYTES,
        "the large image is not on the stick: {bytes} bytes are missing on the node"
    );
    let copied = copy_by_hand(&mut site.vm, &site.stick, &list)?;

    let pid = "$(systemctl show cairnd -p MainPID --value)";
    site.vm.check(&format!("echo 5 >/proc/{pid}/clear_refs"))?;
    let took = visit(&mut site.vm, &site.stick)?;
    let peak = site.vm.check(&format!("grep VmHWM: /proc/{pid}/status"))?;
    let peak: f64 = peak.split_whitespace().nth(1).context("no VmHWM")?.parse()?;
    site.stick.read_back(&site.folder)?;
    site.import()?;
    println!("  {bytes} bytes in {} blobs; {}", list.len(), lab.dir().display());
    let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
    Ok(vec![
        Row {
            what: "a visit, from mounted to unmounted: verified, taken, answered".to_owned(),
            figure: rate(took),
            baseline: rate(copied),
            unit: "MB/s",
            against: "mount, cp of the same bytes, sync, unmount",
        },
        Row {
            what: "cairnd at its most during the visit (VmHWM)".to_owned(),
            figure: peak / 1024.0,
            baseline: bytes as f64 / MIB,
            unit: "MiB",
            against: "the bytes that it took",
        },
    ])
}

/// Blobs on the stick that the node does not have, by path.
fn missing(site: &mut Site) -> Result<Vec<String>> {
    let there = site.vm.check("find /var/lib/cairn/blobs -type f")?;
    let mut list = Vec::new();
    for entry in fs::read_dir(site.folder.join("blobs/sha256"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !there.contains(&name) {
            list.push(format!("blobs/sha256/{name}"));
        }
    }
    Ok(list)
}

/// Seconds for what a technician without cairnd would do.
fn copy_by_hand(vm: &mut Vm, stick: &Stick, list: &[String]) -> Result<f64> {
    vm.check("systemctl mask -q --runtime cairn-media@.service")?;
    vm.plug("stick", stick.image(), Protection::Writable)?;
    wait::until("the stick to be seen", VISIT_DEADLINE, || {
        Ok((vm.run("test -b /dev/sda1 && udevadm settle")?.code == 0).then_some(()))
    })?;
    let said = vm.check(&format!(
        "mkdir -p /run/bench /var/lib/bench; sync; begin=$(date +%s%N); mount -o ro /dev/sda1 /run/bench && cd /run/bench && \
         cp {} /var/lib/bench/ && cd / && sync && umount /run/bench && end=$(date +%s%N) && rm -r /var/lib/bench && \
         echo took $((end - begin))",
        list.join(" ")
    ))?;
    vm.unplug("stick")?;
    vm.check("systemctl unmask -q --runtime cairn-media@.service; systemctl daemon-reload")?;
    let nanoseconds = said.lines().find_map(|line| line.strip_prefix("took "));
    Ok(nanoseconds.with_context(|| format!("no time: {said}"))?.trim().parse::<f64>()? / 1e9)
}

/// Seconds from mounted to unmounted, as the node's service manager has them.
fn visit(vm: &mut Vm, stick: &Stick) -> Result<f64> {
    let before = site::visits(vm)?;
    vm.plug("stick", stick.image(), Protection::Writable)?;
    let said = site::ended(vm, &before)?;
    ensure!(said["state"] == "done", "the node did not take the stick: {said}");
    let times = vm.check(
        "systemctl show 'cairn-media@*' -p InactiveExitTimestampMonotonic -p InactiveEnterTimestampMonotonic --value",
    )?;
    vm.unplug("stick")?;
    let times: Vec<f64> = times.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let [a, b] = times[..] else { anyhow::bail!("not one visit: {times:?}") };
    Ok((a - b).abs() / 1e6)
}

/// A stick for a site of many nodes against one for a single node: what is written, and what it costs the node.
fn fleet(lab: &Lab, site: &mut Site) -> Result<Vec<Row>> {
    nodes::enrol(lab.dir(), &site.hub, NODES - 1)?;
    let all: Vec<String> =
        site.hub.nodes()?.iter().filter_map(|node| Some(node["id"].as_str()?.to_owned())).collect();
    ensure!(all.len() == NODES, "not {NODES} nodes: {}", all.len());
    let mut measured = Vec::new();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let own = site.id.clone();
    for (name, ids) in [("one", &[own.as_str()][..]), ("fifty", &all)] {
        let folder = lab.dir().join(name);
        let start = Instant::now();
        site::export(&site.hub, &folder, ids)?;
        let seconds = start.elapsed().as_secs_f64();
        let stick = Stick::make(lab.dir().join("fleet.img"), Form::Partitioned, STICK_MIB)?;
        stick.fill(&folder)?;
        measured.push((seconds, size(&folder)? as f64 / 1e6, visit(&mut site.vm, &stick)?));
    }
    let [one, fifty] = measured[..] else { anyhow::bail!("two are measured") };
    let row = |what: &str, unit, figure: f64, baseline: f64| Row {
        what: format!("{what}, {NODES} nodes"),
        figure,
        baseline,
        unit,
        against: "the same for one node",
    };
    Ok(vec![
        row("a stick's bytes", "MB", fifty.1, one.1),
        row("`cairn usb export` to a folder", "s", fifty.0, one.0),
        row("a visit that brings nothing new, by a stick for", "s", fifty.2, one.2),
    ])
}

/// Bytes of all files below a folder.
fn size(dir: &Path) -> Result<u64> {
    let mut total = 0;
    let paths: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    for path in paths {
        total += if path.is_dir() { size(&path)? } else { fs::metadata(&path)?.len() };
    }
    Ok(total)
}
