//! `cairn-oci run`: from a workload file to a running container.

use std::fs;

use anyhow::{Context, Result};
use cairn_model::workload::OciWorkload;
use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};

use crate::{
    cgroup, cleanup, cli, executor::Workload, layout, layout::Layout, network, notify, rootfs, shim, spec,
    user,
};

/// Runs the container; gives our exit code.
pub(crate) fn run(args: &cli::Run) -> Result<u8> {
    let workload = layout::load(&args.workload)?;
    let layout = Layout::of(&workload);
    cleanup::sweep(&layout, &args.network).context("failed to clear an earlier run away")?;
    let outcome = run_swept(&workload, &layout, args);
    // Under systemd a container that runs outlives us, and the unit's ExecStopPost cleans up after it.
    if outcome.is_err() || !hands_over(args) {
        let swept = cleanup::sweep(&layout, &args.network).context("failed to clean up");
        return outcome.and_then(|code| swept.map(|()| code));
    }
    outcome
}

fn hands_over(args: &cli::Run) -> bool {
    notify::is_supervised() && !args.shim
}

fn run_swept(workload: &OciWorkload, layout: &Layout, args: &cli::Run) -> Result<u8> {
    fs::create_dir_all(&workload.run_dir)
        .with_context(|| format!("failed to make {}", workload.run_dir.display()))?;
    // Held to the end: a shim is stopped by a cleanup before anything is taken away.
    let _lock = layout.create()?;
    let mut container =
        create(workload, layout, args).with_context(|| format!("failed to create {}", workload.id))?;
    let init = container.pid().context("the container has no process")?;
    if hands_over(args) {
        container.start().with_context(|| format!("failed to start {}", workload.id))?;
        notify::hand_over(nix::unistd::Pid::from_raw(init.as_raw()))?;
        return Ok(0);
    }
    let signals = shim::block_signals()?;
    container.start().with_context(|| format!("failed to start {}", workload.id))?;
    drop(container);
    notify::ready()?;
    shim::wait(nix::unistd::Pid::from_raw(init.as_raw()), &signals)
}

fn create(workload: &OciWorkload, layout: &Layout, args: &cli::Run) -> Result<Container> {
    let cgroup = cgroup::payload_path(&workload.id)?;
    fs::write(layout.cgroup_note(), cgroup.as_os_str().as_encoded_bytes())
        .context("failed to note the cgroup")?;

    let answer = network::set_up(workload, layout, &args.network)?;
    network::files::write(workload, layout, answer.as_ref())?;

    let own_mounts = rootfs::OwnMounts::enter()?;
    let root = rootfs::mount(workload, layout)?;
    let identity = user::look_up(&root, &workload.user)?;
    drop(root);
    spec::mounts::stage_binds(workload, layout)?;
    let spec = spec::build(workload, layout, &identity, &cgroup)?;
    let config = serde_json::to_vec(&spec).context("failed to write the runtime spec")?;
    fs::write(layout.bundle().join("config.json"), config).context("failed to write the runtime spec")?;

    cgroup::create(&cgroup)?;
    let executor = Workload { init: workload.init, seccomp: None };
    let container = ContainerBuilder::new(workload.id.clone(), SyscallType::default())
        .with_root_path(layout.state())
        .and_then(ContainerBuilder::validate_id)?
        .with_executor(executor)
        .as_init(layout.bundle())
        .with_systemd(false)
        .with_detach(true)
        .build()?;
    drop(own_mounts);
    Ok(container)
}
