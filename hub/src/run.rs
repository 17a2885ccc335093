//! Puts the hub together, serves, and takes it apart again.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    background, clock, config::Settings, fleet, http, init::DATABASE, metrics::Metrics, presence::Presence,
    registry::Registry, server, service::Hub, sign::Signer, store::Store, tls,
};

/// Serves until a signal; returns when everything is drained or its time is over.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let data = settings.data.clone();
    let _lock = lock(&data)?;
    tls::issue_if_possible(&data, &settings.names, &settings.addresses)?;
    let tls = tls::server_config(&data)?;
    let store = Store::open(&data.join(DATABASE)).await?;
    let signer = Signer::open(&data)?;
    let registry =
        Registry::open(&data, store.clone(), signer.clone(), settings.max_blob_bytes, settings.max_uploads)?;
    registry.note_named_blobs().await?;
    let swept = registry.sweep(clock::now_ms()).await?;
    if swept > 0 {
        tracing::info!(swept, "removed files that nobody names");
    }
    let signed = registry.sign_listed().await?;
    if signed > 0 {
        tracing::info!(signed, "signed artifacts that were not");
    }
    let (fleet, reconciler) = fleet::build(store.clone(), signer.clone());
    // Before anything is served: what a crash left between the database and the signed files is made good.
    if let Err(error) = reconciler.look().await {
        // What cannot be signed for one node is no reason to leave all the others alone: each look tries again.
        tracing::error!("the first look at the fleet failed: {error}");
    }

    let shutdown = CancellationToken::new();
    let drain = settings.drain;
    let (listen, max_connections) = (settings.listen, settings.max_connections);
    let hub = Arc::new(Hub {
        store: store.clone(),
        signer,
        registry,
        fleet,
        presence: Presence::default(),
        metrics: Metrics::default(),
        shutdown: shutdown.clone(),
    });
    let tasks = TaskTracker::new();
    // The reconciler outlives the server: a request that is being drained may need it.
    let reconciler_stop = CancellationToken::new();
    tasks.spawn(reconciler.run(reconciler_stop.clone()));
    tasks.spawn(background::run(Arc::clone(&hub)));

    let server = server::bind(listen, tls, max_connections).await?;
    let address = server.address()?;
    tracing::info!("listening on https://{address}");
    // Not running under systemd is no fault.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let routes = http::router(Arc::clone(&hub));
    let serving = tokio::spawn(server.serve(routes, Arc::clone(&hub), drain));
    wait_for_signal().await?;
    tracing::info!(seconds = drain.as_secs(), "told to stop; draining");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    shutdown.cancel();
    serving.await.context("the server's task died")?;
    reconciler_stop.cancel();
    tasks.close();
    tasks.wait().await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Two hubs on one folder would sign over each other.
fn lock(data: &std::path::Path) -> anyhow::Result<nix::fcntl::Flock<std::fs::File>> {
    let path = data.join("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("failed to open {}", path.display()))?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow::anyhow!("{} is in use by another cairn-hub ({errno}); stop that one first", data.display())
    })
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        // Both are cancel-safe; either is enough.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
