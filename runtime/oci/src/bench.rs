//! Measures what `./x bench` prints for containers: this program against crun and runc, in turns, with the same spec.
//! Ours does more in that time: it makes the overlay from layers and the network namespace, and cleans up; the others
//! get a root file system that lies ready.

use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cairn_model::workload::{Network, OciWorkload};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use serde::Serialize;
use tempfile::TempDir;

use crate::{cgroup, cli, layout::Layout, network, spec, user::Identity};

const BUSYBOX: &str = "/bin/busybox";
/// Rounds that are not counted: the first ones read programs from disk.
const WARM_UP: usize = 3;

/// One line of the table; times in milliseconds.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    figure: f64,
    baseline: f64,
    against: &'static str,
}

/// A runtime and how it is told to run the bundle called `name` under the id `name`.
struct Contender {
    name: &'static str,
    command: fn(&Path, &str) -> Result<Command>,
}

const CONTENDERS: [Contender; 3] = [
    Contender { name: "cairn-oci", command: ours },
    Contender { name: "crun", command: |dir, bundle| others("crun", dir, bundle) },
    Contender { name: "runc", command: |dir, bundle| others("runc", dir, bundle) },
];

/// Measures and prints.
pub(crate) fn run(args: &cli::Bench) -> Result<()> {
    use_unified_cgroups()?;
    let dir = tempfile::tempdir().context("failed to make a folder")?;
    let layer = dir.path().join("layer");
    busybox_root(&layer)?;
    let mut rows = Vec::new();
    let subjects = [
        ("container start to exit and gone", "true", until_exit as fn(Command) -> Result<Duration>),
        ("container start to its first output", "echo", until_first_output),
    ];
    for (what, applet, measure) in subjects {
        prepare(&dir, &layer, applet)?;
        let mut times: [Vec<Duration>; CONTENDERS.len()] = Default::default();
        for round in 0..WARM_UP + args.rounds {
            for (contender, times) in CONTENDERS.iter().zip(&mut times) {
                let time = measure((contender.command)(dir.path(), applet)?)
                    .with_context(|| format!("{} failed", contender.name))?;
                if round >= WARM_UP {
                    times.push(time);
                }
            }
        }
        let [figure, baselines @ ..] = times.map(median);
        for (contender, baseline) in CONTENDERS.iter().skip(1).zip(baselines) {
            rows.push(Row { what, figure, baseline, against: contender.name });
        }
    }
    println!("{}", serde_json::to_string(&rows).context("failed to write the rows")?);
    Ok(())
}

fn ours(dir: &Path, bundle: &str) -> Result<Command> {
    let own = std::env::current_exe().context("failed to find this program")?;
    let mut command = Command::new(own);
    command.args(["run", "--shim"]).arg(dir.join(bundle).join("workload.json"));
    Ok(command)
}

fn others(program: &str, dir: &Path, bundle: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command
        .arg("--root")
        .arg(dir.join(format!("{program}-state")))
        .arg("run")
        .arg("--bundle")
        .arg(dir.join(bundle));
    command.arg(format!("bench-{}-{program}-{bundle}", std::process::id()));
    Ok(command)
}

fn until_exit(mut command: Command) -> Result<Duration> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().context("failed to start it")?;
    let time = start.elapsed();
    ensure!(status.success(), "it ended with {status}");
    Ok(time)
}

fn until_first_output(mut command: Command) -> Result<Duration> {
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("failed to start it")?;
    let mut byte = [0u8];
    let read = match &mut child.stdout {
        Some(stdout) => stdout.read_exact(&mut byte),
        None => bail!("it has no output"),
    };
    let time = start.elapsed();
    let status = child.wait().context("failed to wait for it")?;
    ensure!(status.success(), "it ended with {status}");
    read.context("it said nothing")?;
    Ok(time)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// crun refuses machines with both cgroup versions. In a mount namespace of our own, only version 2 is to be seen.
fn use_unified_cgroups() -> Result<()> {
    if cgroup::is_unified() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).context("failed to make a mount namespace; run as root")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .and_then(|()| mount_bind("/sys/fs/cgroup/unified", "/sys/fs/cgroup"))
        .context("failed to show cgroup v2 alone")
}

fn busybox_root(root: &Path) -> Result<()> {
    ensure!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing; install busybox-static");
    for folder in ["bin", "etc", "proc", "dev", "sys"] {
        fs::create_dir_all(root.join(folder)).context("failed to make the root file system")?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("failed to copy busybox")?;
    for applet in ["true", "echo"] {
        symlink("busybox", root.join("bin").join(applet)).context("failed to make the root file system")?;
    }
    Ok(())
}

/// Makes the folder `applet`: a workload file for us, a bundle with the same spec for the others.
fn prepare(dir: &TempDir, layer: &Path, applet: &str) -> Result<()> {
    let base = dir.path().join(applet);
    let workload = workload(&base, layer, applet);
    // The generated files of /etc must lie ready for the others: a layout of their own.
    let layout = Layout::of(&OciWorkload { run_dir: base.join("others"), ..workload.clone() });
    fs::create_dir_all(base.join("others")).context("failed to make a folder")?;
    drop(layout.create()?);
    network::files::write(&workload, &layout, None)?;
    let identity = Identity { uid: 0, gid: 0, groups: Vec::new(), home: "/".to_owned() };
    let cgroup = PathBuf::from(format!("/bench-{}-{applet}", std::process::id()));
    let mut spec = spec::build(&workload, &layout, &identity, &cgroup)?;
    make_self_contained(&mut spec, layer)?;
    let write = |name: &str, text: serde_json::Result<Vec<u8>>| -> Result<()> {
        fs::write(base.join(name), text?).with_context(|| format!("failed to write {name}"))
    };
    write("config.json", serde_json::to_vec(&spec))?;
    write("workload.json", serde_json::to_vec(&workload))
}

fn workload(base: &Path, layer: &Path, applet: &str) -> OciWorkload {
    OciWorkload {
        id: format!("bench-{}-{applet}", std::process::id()),
        run_dir: base.join("ours"),
        layers: vec![layer.to_owned()],
        writable_dir: None,
        read_only: false,
        args: vec![format!("/bin/{applet}"), "x".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        hostname: "bench".to_owned(),
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        mounts: Vec::new(),
        extra_hosts: Vec::new(),
        sysctls: Default::default(),
        ulimits: Vec::new(),
        network: Network::None,
        init: false,
    }
}

/// The others mount and make by themselves what we prepare: the root file system, the network namespace.
fn make_self_contained(spec: &mut Spec, layer: &Path) -> Result<()> {
    let root =
        RootBuilder::default().path(layer).readonly(false).build().context("failed to build the root")?;
    spec.set_root(Some(root));
    let network = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).build();
    let network = network.context("failed to build the network namespace")?;
    if let Some(namespaces) = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut()) {
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        namespaces.push(network);
    }
    Ok(())
}
