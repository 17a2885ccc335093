//! `cairn-oci run`: from a workload file to a running container.

use std::fs;

use anyhow::{Context, Result, bail};
use cairn_model::workload::OciWorkload;
use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
use nix::{
    sys::{signal::SigSet, wait::waitpid},
    unistd::Pid,
};

use crate::{
    cgroup, cleanup, cli, executor::Workload, layout, layout::Layout, log, network, notify, process, rootfs,
    shim, spec, user,
};

/// Runs the container; gives our exit code.
pub(crate) fn run(args: &cli::Run) -> Result<u8> {
    let workload = layout::load(&args.workload)?;
    let layout = Layout::of(&workload);
    cleanup::sweep(&layout, &args.network).context("failed to clear an earlier run away")?;
    fs::create_dir_all(&workload.run_dir)
        .with_context(|| format!("failed to make {}", workload.run_dir.display()))?;
    let outcome = if notify::is_supervised() && !args.shim {
        match hand_over(&workload, &layout, args) {
            // The container outlives us; the unit's ExecStopPost cleans up after it.
            Ok(0) => return Ok(0),
            other => other,
        }
    } else {
        stay(&workload, &layout, args)
    };
    let swept = cleanup::sweep(&layout, &args.network).context("failed to clean up");
    outcome.and_then(|code| swept.map(|()| code))
}

/// Leaves the container to systemd.
///
/// systemd waits for a main process only if it is systemd's own child at the moment when it hears of it; of another's
/// child it says "we'll most likely not notice when it exits", and kills it on stop without the grace period. So a
/// worker makes the container and ends, by which its child becomes PID 1's, before systemd is told. And the container
/// is started only after systemd knows its process: else a short one could be over, and its exit code lost, before.
fn hand_over(workload: &OciWorkload, layout: &Layout, args: &cli::Run) -> Result<u8> {
    let Some(worker) = process::fork_child()? else {
        log::install();
        let code = match create_locked(workload, layout, args) {
            Ok(_) => 0,
            Err(error) => crate::report(&error),
        };
        std::process::exit(code.into());
    };
    let worked = waitpid(worker, None).context("failed to wait for the worker")?;
    match shim::exit_code(worked) {
        Some(0) => {}
        Some(code) => return Ok(code),
        None => bail!("the worker ended with {worked:?}"),
    }
    let state = layout.state().join(&workload.id);
    let mut container = Container::load(state).context("failed to read the container's state")?;
    let init = container.pid().context("the container has no process")?;
    notify::hand_over(Pid::from_raw(init.as_raw()))?;
    container.start().with_context(|| format!("failed to start {}", workload.id))?;
    Ok(0)
}

/// Waits for the container and gives its exit code.
fn stay(workload: &OciWorkload, layout: &Layout, args: &cli::Run) -> Result<u8> {
    // The lock is held to the end: a cleanup stops a shim before it takes anything away.
    let (mut container, signals, _lock) = create_locked(workload, layout, args)?;
    let init = container.pid().context("the container has no process")?;
    container.start().with_context(|| format!("failed to start {}", workload.id))?;
    drop(container);
    notify::ready()?;
    shim::wait(Pid::from_raw(init.as_raw()), &signals)
}

fn create_locked(
    workload: &OciWorkload,
    layout: &Layout,
    args: &cli::Run,
) -> Result<(Container, SigSet, fs::File)> {
    let lock = layout.create()?;
    let (container, signals) =
        create(workload, layout, args).with_context(|| format!("failed to create {}", workload.id))?;
    Ok((container, signals, lock))
}

fn create(workload: &OciWorkload, layout: &Layout, args: &cli::Run) -> Result<(Container, SigSet)> {
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
    // Inherited by the container's first process, so that a mini init there loses no signal before it watches for them.
    let signals = shim::block_signals()?;
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
    Ok((container, signals))
}
