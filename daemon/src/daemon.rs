//! Composes the daemon: every task and every channel is made here, and all of them end by one token.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use cairn_model::error::chain;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    act::{
        images,
        jobs::{JobRunner, ProcessJobs},
        processes::Processes,
        supervisor::{RestartMachine, Supervisor},
        trash::Trash,
        units::Units,
        volumes::ensure_private,
        workload::Places,
    },
    assemble::Assembled,
    blobs::Blobs,
    bus, commands,
    config::{Settings, SupervisorKind},
    identity,
    ledger::Ledger,
    link, local,
    media::{self, FolderLamp, Lamp, Mounts, PlainFolders, UnitLamp, UnitMounts},
    notify, os,
    pull::{self, PullError},
    reconcile,
    report::{self, Outgoing, Reporter},
    source::Clocked,
    status::{self, Identity},
};

/// How long the tasks may take to end: systemd's own limit is 90 s.
const DRAIN: Duration = Duration::from_secs(15);

/// Runs the daemon until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let mut tasks = start(&settings, &stop).await?;
    notify::ready();
    // Every arm is cancel-safe; a task that ends by itself while nobody asked for it is a fault.
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = tasks.join_next() => ended,
    };
    notify::stopping();
    tracing::info!("stopping");
    stop.cancel();
    let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
    match ended {
        None => Ok(()),
        Some(Ok(name)) => anyhow::bail!("task {name} ended by itself"),
        Some(Err(e)) => Err(e).context("a task ended by a fault"),
    }
}

struct Supervision {
    supervisor: Box<dyn Supervisor>,
    precompile: Arc<dyn JobRunner>,
    restart: Arc<dyn RestartMachine>,
    mounts: Arc<dyn Mounts>,
    lamp: Option<Arc<dyn Lamp>>,
}

async fn supervision(settings: &Settings, stop: &CancellationToken) -> Result<Supervision> {
    let sticks = settings.run_dir.join(media::FOLDER);
    let led = settings.media.led.as_deref();
    match settings.supervisor {
        SupervisorKind::Systemd => {
            let units = Units::connect(stop.clone())
                .await
                .context("failed to reach systemd over the system bus; is dbus running?")?;
            let jobs = units.jobs();
            Ok(Supervision {
                supervisor: Box::new(units),
                precompile: Arc::new(jobs.clone()),
                restart: Arc::new(jobs.clone()),
                mounts: Arc::new(UnitMounts::new(jobs.clone(), sticks)),
                lamp: led.map(|_| -> Arc<dyn Lamp> { Arc::new(UnitLamp::new(jobs)) }),
            })
        }
        SupervisorKind::Processes => {
            tracing::warn!("workloads are child processes, without limits: for development only");
            Ok(Supervision {
                supervisor: Box::new(Processes::default()),
                precompile: Arc::new(ProcessJobs),
                restart: Arc::new(ProcessJobs),
                mounts: Arc::new(PlainFolders::new(sticks)),
                lamp: led.map(|name| -> Arc<dyn Lamp> { Arc::new(FolderLamp::named(name)) }),
            })
        }
    }
}

async fn start(settings: &Settings, stop: &CancellationToken) -> Result<JoinSet<&'static str>> {
    for folder in [&settings.state_dir, &settings.run_dir] {
        ensure_private(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    let key =
        Arc::new(identity::load_key(&settings.state_dir).context(
            "the node's key cannot be used; check that the data partition has room and is writable",
        )?);
    let ledger = Ledger::open(&settings.state_dir.join("ledger.sqlite")).await?;
    let initial = initial_generation(&ledger).await?;
    let boot = identity::boot_id().context("failed to read the boot id")?;
    let facts = identity::facts(settings);
    let node = key.public().node_id();
    let fingerprint = identity::fingerprint(&key.public());
    let generation = initial.as_ref().map_or(0, |a| a.desired.generation);
    tracing::info!(%node, fingerprint, generation, version = env!("CARGO_PKG_VERSION"), "cairnd starts");

    let listener = local::bind(&settings.run_dir).context("failed to bind the local socket")?;
    let Supervision { supervisor, precompile, restart, mounts, lamp } = supervision(settings, stop).await?;
    let blobs = Blobs::new(&settings.state_dir);
    let (reporter, records) = Reporter::channel();
    let mut tasks = JoinSet::new();

    let link_config = link::Config {
        hub: settings.hub.clone(),
        roots_sha256: settings.roots_sha256.clone(),
        trust_dir: settings.state_dir.join("trust"),
        layers_dir: settings.state_dir.join("layers"),
        key: key.clone(),
        facts: facts.clone(),
        clock: Clocked { floor: identity::os_build_time() },
    };
    let (link, link_task) =
        link::build(link_config, ledger.clone(), blobs.clone(), reporter.clone(), initial);
    tasks.spawn(named("link", link::run_until(link_task, stop.clone())));

    let images_config = images::Config {
        state_dir: settings.state_dir.clone(),
        run_dir: settings.run_dir.clone(),
        runtimes: settings.runtimes.clone(),
        unpack: Arc::new(ProcessJobs),
        precompile,
    };
    let (images, images_task) = images::build(images_config, blobs, stop.clone());
    tasks.spawn(named("images", images_task));

    let reconcile_config = reconcile::Config {
        supervisor,
        places: Places {
            state_dir: settings.state_dir.clone(),
            run_dir: settings.run_dir.clone(),
            runtimes: settings.runtimes.clone(),
            network_base: settings.network_base,
            trash: Trash::start(&settings.state_dir).context("failed to make the trash")?,
        },
        desired: link.desired.clone(),
        images,
        ledger: ledger.clone(),
        reporter: reporter.clone(),
    };
    let (work, reconcile_task) = reconcile::build(reconcile_config, stop.clone()).await;
    tasks.spawn(named("reconcile", reconcile_task));

    let (plugged, plugged_out) = watch::channel(None);
    let os_config = os::Config {
        root: settings.root.clone(),
        state_dir: settings.state_dir.join("os"),
        run_dir: settings.run_dir.clone(),
        health_command: settings.os_health_command.clone(),
        has_hub: settings.hub.is_some() || ledger.enrolment().await?.is_some_and(|e| e.hub.is_some()),
        desired: link.desired.clone(),
        work: work.status.clone(),
        link: link.status.clone(),
        hub: link.hub.clone(),
        stick: plugged_out,
        restart,
        reporter: reporter.clone(),
    };
    let (os, os_task) = os::build(os_config);

    let (node_status, status_task) =
        status::build(link.status.clone(), work.status.clone(), os.reported.clone(), os.problem.clone());
    tasks.spawn(named("status", until(status_task, stop.clone())));

    // No token: whoever finds a stick reads what is on it.
    let outgoing = Outgoing::new(key.clone(), ledger.clone(), facts.clone(), None);
    let media_config = media::Config {
        outgoing,
        fingerprint: fingerprint.clone(),
        visits: link.media.clone(),
        stick: plugged,
        os: os.status.clone(),
        work: work.status.clone(),
        reporter: reporter.clone(),
        mounts,
        lamp,
        patience: media::Patience::default(),
    };
    let (media, media_task) = media::build(media_config, stop.clone());
    tasks.spawn(named("media", media_task));

    let (report_seconds, seconds_task) = report_interval(link.desired.clone());
    tasks.spawn(named("report interval", until(seconds_task, stop.clone())));
    let report_config = report::Config {
        key,
        boot,
        facts,
        records,
        status: node_status,
        report_seconds,
        hub: link.hub.clone(),
    };
    let (unsent, report_task) = report::build(report_config, ledger.clone(), stop.clone());
    tasks.spawn(named("report", report_task));

    let journalctl = settings.runtimes.journalctl.clone();
    let commands_task = commands::run(journalctl, os.clone(), ledger, link.desired, reporter, stop.clone());
    tasks.spawn(named("commands", commands_task));

    let identity = Arc::new(Identity { node, fingerprint });
    let (link, work_status) = (link.status, work.status);
    let views = local::Views { identity, link: link.clone(), work: work_status.clone(), unsent, os, media };
    let (port, asked) = bus::Port::new(
        views.os.status.clone(),
        views.media.status.clone(),
        Arc::new({
            let views = views.clone();
            move || views.status()
        }),
    );
    tasks.spawn(named("os", os_task.run(asked, stop.clone())));
    if settings.supervisor == SupervisorKind::Systemd {
        tasks.spawn(named("bus", bus::serve(bus::Address::System, port, stop.clone())));
    }
    tasks.spawn(named("local", local::serve(listener, views, stop.clone())));
    tasks.spawn(named("notify", notify::run(work.alive, link, work_status, stop.clone())));
    Ok(tasks)
}

/// The generation from the ledger. One that this version of the daemon does not understand (an app that an earlier one
/// accepted) must not keep it from its hub, where the cure comes from: then nothing is touched until that is there.
async fn initial_generation(ledger: &Ledger) -> Result<Option<Arc<Assembled>>> {
    match pull::from_ledger(ledger).await {
        Ok(initial) => Ok(initial),
        Err(PullError::Ledger(e)) => Err(e).context("the applied generation cannot be taken up"),
        Err(e) => {
            tracing::error!("the applied generation is not understood; what runs goes on: {}", chain(&e));
            Ok(None)
        }
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

async fn until(task: impl Future<Output = ()>, stop: CancellationToken) {
    tokio::select! {
        () = task => {}
        () = stop.cancelled() => {}
    }
}

/// How often the hub wants a status, by the newest policy.
fn report_interval(
    mut desired: watch::Receiver<Option<Arc<Assembled>>>,
) -> (watch::Receiver<u32>, impl Future<Output = ()>) {
    let seconds = |assembled: &Option<Arc<Assembled>>| {
        assembled.as_ref().map_or_else(
            || cairn_model::desired::Policy::default().report_seconds,
            |a| a.desired.policy.report_seconds,
        )
    };
    let (out, receiver) = watch::channel(seconds(&desired.borrow()));
    let task = async move {
        while desired.changed().await.is_ok() {
            out.send_replace(seconds(&desired.borrow_and_update()));
        }
    };
    (receiver, task)
}
