//! Figures of sticks: what a node takes from one, beside `cp` of the same bytes from the same medium; and a stick for 50
//! nodes beside one for a single node. First on this machine, with a folder in the place of a stick; then on a node under
//! QEMU, with a stick.

mod native;
mod nodes;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use cairn_tests_vm::{
    Hub, Lab, Site, Stick, Vm,
    site::{self, VISIT_DEADLINE},
    vm::{run, usb::Protection},
    wait,
};

use super::Row;

/// Bytes of the image that is carried, none of which compress.
const IMAGE_BYTES: u64 = 96 << 20;

const MIB: f64 = 1_048_576.0;

pub(super) fn measure() -> Result<Vec<Row>> {
    let lab = Lab::new("bench-usb")?;
    let mut rows = native::measure(&lab)?;
    rows.extend(under_qemu(&lab)?);
    Ok(rows)
}

/// An app whose image is the web server's with a file of random bytes beside it.
fn deploy_large(lab: &Lab, hub: &Hub) -> Result<()> {
    let layout = lab.dir().join("large");
    site::copy(&lab.examples().join("web-server"), &layout)?;
    let payload = lab.dir().join("payload");
    run(Command::new("sh").args([
        "-c",
        "head -c \"$1\" /dev/urandom >\"$2\"",
        "sh",
        &IMAGE_BYTES.to_string(),
        &payload.display().to_string(),
    ]))?;
    run(Command::new("umoci")
        .args(["insert", "--image", &format!("{}:latest", layout.display())])
        .arg(&payload)
        .arg("/payload"))?;
    hub.push_image(&layout, "bench/large:1")?;
    let file = lab.dir().join("large.yaml");
    fs::write(
        &file,
        "name: large\nservices:\n  large:\n    image: bench/large:1\n    command: [sleep, infinity]\n    deploy: { mode: global }\n",
    )?;
    hub.cairn(&["app", "deploy", &file.display().to_string()]).map(drop)
}

/// The rows of what was taken from one stick.
fn taken(what: &str, bytes: u64, took: f64, copied: f64, peak: f64) -> Vec<Row> {
    let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
    vec![
        Row {
            what: format!("{what}: verified, copied, applied"),
            figure: rate(took),
            baseline: rate(copied),
            unit: "MB/s",
            against: "cp of the same bytes from it, and sync",
        },
        Row {
            what: format!("{what}: cairnd at its most (VmHWM)"),
            figure: peak,
            baseline: bytes as f64 / MIB,
            unit: "MiB",
            against: "the bytes that it took",
        },
    ]
}

/// Peak memory in MiB, from `/proc/PID/status`.
fn peak(status: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmHWM")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Blobs in a folder that are not among the names in `there`, and their bytes.
fn missing(folder: &Path, there: &str) -> Result<(Vec<String>, u64)> {
    let (mut list, mut bytes) = (Vec::new(), 0);
    for entry in fs::read_dir(folder.join("blobs/sha256"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !there.contains(&name) {
            list.push(format!("blobs/sha256/{name}"));
            bytes += entry.metadata()?.len();
        }
    }
    ensure!(
        bytes > IMAGE_BYTES,
        "the large image is not on the stick: {bytes} bytes are missing on the node"
    );
    Ok((list, bytes))
}

fn under_qemu(lab: &Lab) -> Result<Vec<Row>> {
    let mut site = Site::running(lab)?;
    deploy_large(lab, &site.hub)?;
    site.export()?;
    let there = site.vm.check("find /var/lib/cairn/blobs -type f")?;
    let (list, bytes) = missing(&site.folder, &there)?;
    let copied = copy_by_hand(&mut site.vm, &site.stick, &list)?;

    let pid = "$(systemctl show cairnd -p MainPID --value)";
    site.vm.check(&format!("echo 5 >/proc/{pid}/clear_refs"))?;
    let said = site::show(&mut site.vm, &site.stick)?;
    ensure!(said["state"] == "done", "the node did not take the stick: {said}");
    let took = took(&mut site.vm)?;
    let peak = peak(&site.vm.check(&format!("cat /proc/{pid}/status"))?)?;
    println!("  under QEMU: {bytes} bytes in {} blobs, {took:.2} s, by hand {copied:.2} s", list.len());
    Ok(taken("a stick under QEMU", bytes, took, copied, peak))
}

/// Seconds for what a person without cairnd would do.
fn copy_by_hand(vm: &mut Vm, stick: &Stick, list: &[String]) -> Result<f64> {
    vm.check("systemctl mask -q --runtime cairn-media@.service")?;
    vm.plug("stick", stick.image(), Protection::Writable)?;
    wait::until("the stick to be seen", VISIT_DEADLINE, || {
        Ok((vm.run("test -b /dev/sda1 && udevadm settle")?.code == 0).then_some(()))
    })?;
    let said = vm.check(&format!(
        "mkdir -p /run/bench /var/lib/bench && mount -o ro /dev/sda1 /run/bench && cd /run/bench && sync && \
         begin=$(date +%s%N) && cp {} /var/lib/bench/ && sync && end=$(date +%s%N) && cd / && umount /run/bench && \
         rm -r /var/lib/bench && echo took $((end - begin))",
        list.join(" ")
    ))?;
    vm.unplug("stick")?;
    vm.check("systemctl unmask -q --runtime cairn-media@.service; systemctl daemon-reload")?;
    let nanoseconds = said.lines().find_map(|line| line.strip_prefix("took "));
    Ok(nanoseconds.with_context(|| format!("no time: {said}"))?.trim().parse::<f64>()? / 1e9)
}

/// Seconds of the last visit from the agent's first look to "applied", by its own log: asking it meanwhile would cost the
/// node more than the copying.
fn took(vm: &mut Vm) -> Result<f64> {
    let log = vm.check(
        "journalctl -b -u cairnd --no-pager -o short-unix | grep -E 'a stick is looked at|is applied' | tail -n 2",
    )?;
    let times: Vec<f64> =
        log.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    let [begun, applied] = times[..] else { bail!("not two lines: {log}") };
    Ok(applied - begun)
}

#[cfg(test)]
mod tests {
    use super::peak;

    #[test]
    fn the_peak_is_in_mebibytes() {
        assert_eq!(peak("VmPeak:\t9 kB\nVmHWM:\t   20480 kB\n").unwrap(), 20.0);
        assert!(peak("VmRSS: 1 kB").is_err());
    }
}
