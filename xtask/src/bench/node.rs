//! Figures of a node under QEMU: what the daemon costs, how long a boot takes, and how soon a deploy arrives.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cairn_tests_vm::{Hub, Lab, Vm, lab::READY_DEADLINE, vm::run};

use super::{Row, median};

/// Deploys that are timed; each is a new app on the same node.
const ROUNDS: usize = 7;

/// Between two questions: a node without KVM that is asked without pause does nothing else.
const PAUSE: Duration = Duration::from_millis(20);

/// A drop-in that keeps the daemon from starting: the baseline of the boot.
const MASKED: &str = "[Unit]\nConditionPathExists=!/\n";

pub(super) fn measure() -> Result<Vec<Row>> {
    let lab = Lab::new("bench-node")?;
    let (hub, mut vm) = lab.enrolled(&[8080, 8081])?;
    lab.push_examples(&hub)?;
    let idle = pss(&mut vm, "$(systemctl show cairnd -p MainPID --value)")?;
    let journald = pss(&mut vm, "$(systemctl show systemd-journald -p MainPID --value)")?;
    let mut rows = vec![Row {
        what: "cairnd, idle, PSS".to_owned(),
        figure: idle,
        baseline: journald,
        unit: "MiB",
        against: "systemd-journald on the same node",
    }];
    keep_local(&lab, &hub)?;
    rows.push(deploys(&lab, &hub, &mut vm, "container", 8080, "    image: demo/web:1\n")?);
    rows.push(deploys(
        &lab,
        &hub,
        &mut vm,
        "component",
        8081,
        "    image: demo/hello:1\n    platform: wasi/wasm\n",
    )?);
    for replicas in [1, 10] {
        rows.push(overhead(&lab, &hub, &mut vm, replicas)?);
    }
    drop(vm);
    rows.push(boot(&lab, &hub)?);
    Ok(rows)
}

/// PSS of a process in MiB.
fn pss(vm: &mut Vm, pid: &str) -> Result<f64> {
    sum_of_pss(&vm.check(&format!("grep ^Pss: /proc/{pid}/smaps_rollup"))?)
}

/// Adds up lines like `Pss:  1234 kB`, in MiB: the appliance has no awk.
fn sum_of_pss(text: &str) -> Result<f64> {
    let kib =
        text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>();
    anyhow::ensure!(text.contains("Pss:") || text.trim().is_empty(), "no PSS in: {text}");
    Ok(kib / 1024.0)
}

/// An app that uses both images, so that they stay on the node: the deploys that are timed are of local images.
fn keep_local(lab: &Lab, hub: &Hub) -> Result<()> {
    let file = lab.dir().join("keep.yaml");
    fs::write(
        &file,
        "name: keep\nservices:\n  web:\n    image: demo/web:1\n    command: [sleep, infinity]\n  \
         hello:\n    image: demo/hello:1\n    platform: wasi/wasm\n    ports: ['8090:8080']\n",
    )?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    hub.wait_app_ready("keep", READY_DEADLINE)?;
    Ok(())
}

/// From `cairn app deploy` to the first HTTP answer, against how long systemd says that the unit itself took to start.
fn deploys(lab: &Lab, hub: &Hub, vm: &mut Vm, what: &str, port: u16, image: &str) -> Result<Row> {
    let from_here = vm.forwarded(port).context("the port is not forwarded")?;
    let file = lab.dir().join("bench.yaml");
    let path = file.display().to_string();
    let (mut deployed, mut started) = (Vec::new(), Vec::new());
    // The first round warms up and is not counted.
    for round in 0..=ROUNDS {
        let app = format!("bench-{what}-{round}");
        fs::write(
            &file,
            format!(
                "name: {app}\nservices:\n  main:\n{image}    ports: ['{port}:8080']\n    \
                 stop_grace_period: 1s\n    deploy: {{ mode: global }}\n"
            ),
        )?;
        let start = Instant::now();
        hub.cairn(&["app", "deploy", &path])?;
        let answered = until_answer(from_here, start)?;
        let own = own_start(vm, &format!("cairn-{}-main-0.service", app.replace('-', "_")))?;
        if round > 0 {
            deployed.push(answered);
            started.push(own);
        }
        hub.cairn(&["app", "rm", &app])?;
        until_gone(from_here)?;
    }
    Ok(Row {
        what: format!("{what}: deploy of a local image to first answer, median of {ROUNDS}"),
        figure: median(deployed),
        baseline: median(started),
        unit: "ms",
        against: "start of its unit alone, as systemd times it",
    })
}

/// Milliseconds from the start job of a unit to its READY=1.
fn own_start(vm: &mut Vm, unit: &str) -> Result<f64> {
    let text = vm.check(&format!(
        "systemctl show {unit} -p InactiveExitTimestampMonotonic -p ActiveEnterTimestampMonotonic --value"
    ))?;
    let times: Vec<f64> = text.lines().filter_map(|l| l.trim().parse().ok()).collect();
    let [a, b] = times[..] else { bail!("systemd says no times of {unit}: {text}") };
    Ok((a - b).abs() / 1000.0)
}

/// Milliseconds since `start` until HTTP is answered on the port.
fn until_answer(port: u16, start: Instant) -> Result<f64> {
    while start.elapsed() < READY_DEADLINE {
        if answers(port) {
            return Ok(start.elapsed().as_secs_f64() * 1000.0);
        }
        thread::sleep(PAUSE);
    }
    bail!("no answer on port {port} within {} s", READY_DEADLINE.as_secs())
}

fn until_gone(port: u16) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < READY_DEADLINE {
        if !answers(port) {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
    bail!("port {port} still answers after {} s", READY_DEADLINE.as_secs())
}

/// One HTTP request. QEMU accepts connections for the node in any case: only an answer counts.
fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let timeout = Duration::from_millis(500);
    let Ok(mut stream) = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), timeout)
    else {
        return false;
    };
    stream.set_read_timeout(Some(timeout)).ok();
    let mut status = [0_u8; 12];
    stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut status).is_ok()
        && status.starts_with(b"HTTP/1")
}

/// PSS of everything in the units' cgroups that is not the payload, against the payload itself.
fn overhead(lab: &Lab, hub: &Hub, vm: &mut Vm, replicas: u32) -> Result<Row> {
    let file = lab.dir().join("overhead.yaml");
    fs::write(
        &file,
        format!(
            "name: many\nservices:\n  main:\n    image: demo/web:1\n    command: [sleep, '3600']\n    deploy: {{ replicas: {replicas} }}\n"
        ),
    )?;
    hub.cairn(&["app", "deploy", &file.display().to_string()])?;
    hub.wait_app_ready("many", READY_DEADLINE)?;
    let total = |vm: &mut Vm, filter: &str| -> Result<f64> {
        let text = vm.check(&format!(
            "for p in $(find /sys/fs/cgroup -path '*cairn-many-main-*' -name cgroup.procs {filter} -exec cat {{}} +); \
             do grep ^Pss: /proc/$p/smaps_rollup; done; true"
        ))?;
        sum_of_pss(&text)
    };
    let ours = total(vm, "-not -path '*/payload/*'")?;
    let theirs = total(vm, "-path '*/payload/*'")?;
    Ok(Row {
        what: format!("memory of ours beside {replicas} container(s), PSS"),
        figure: ours,
        baseline: theirs,
        unit: "MiB",
        against: "the containers' own processes",
    })
}

/// Power-on to a ready node with the daemon, against the same image with the daemon kept from starting.
fn boot(lab: &Lab, hub: &Hub) -> Result<Row> {
    let token = hub.token(&["--auto-approve", "--reusable"])?;
    let userspace = |number: u32, extra: &[(&str, &str)]| -> Result<f64> {
        let mut vm = lab.boot_with(hub, number, &token, extra)?;
        vm.check("systemctl is-system-running --wait; true")?;
        let text =
            vm.check("systemctl show -p UserspaceTimestampMonotonic -p FinishTimestampMonotonic --value")?;
        let times: Vec<f64> = text.lines().filter_map(|l| l.trim().parse().ok()).collect();
        let [a, b] = times[..] else { bail!("systemd says no times: {text}") };
        Ok(a.max(b) / 1_000_000.0)
    };
    let with = userspace(2, &[])?;
    let without = userspace(3, &[("systemd.unit-dropin.cairnd.service", MASKED)])?;
    let image = run(std::process::Command::new("du").args(["-m", "--apparent-size"]).arg(lab.image()))?;
    println!("  disk image: {} MiB", image.split_whitespace().next().unwrap_or_default());
    Ok(Row {
        what: "kernel start to all units started".to_owned(),
        figure: with,
        baseline: without,
        unit: "s",
        against: "the same image with cairnd masked",
    })
}

#[cfg(test)]
mod tests {
    use super::sum_of_pss;

    #[test]
    fn adds_up_lines_of_smaps_rollup() {
        assert_eq!(sum_of_pss("Pss:   1024 kB\nPss:   512 kB\n").unwrap(), 1.5);
        assert_eq!(sum_of_pss("").unwrap(), 0.0);
        assert!(sum_of_pss("cat: no such file").is_err());
    }
}
