//! Serves a `wasi:http` component: one fresh instance per request, so that no request can see another's memory.

mod request;

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use tokio::{
    net::TcpStream,
    runtime,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use wasmtime::{Engine, component::Component};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use self::request::Server;
use crate::{engine::Ticker, link, outgoing::Outgoing, privileges, trap::plain, workload::Workload};

/// Open connections at once: each is a socket and at most [`MAX_HEAD_BYTES`] of buffer.
const MAX_CONNECTIONS: usize = 1024;
/// Request line and headers together; common servers take 8 to 64 KB.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// A client must send a whole head, and begin the next one on a kept connection, within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing of a response for this time is cut off.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running requests may take to finish after SIGTERM: below Compose's default grace period of ten seconds.
const DRAIN: Duration = Duration::from_secs(8);
/// Threads that run guests. More would cost memory, which an edge node has less of than requests.
const MAX_WORKERS: usize = 4;
/// After a failed accept (out of file descriptors, say): long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT.
pub(crate) fn serve(engine: &Engine, component: &Component, workload: Workload) -> Result<ExitCode> {
    ensure!(
        !workload.listen.is_empty(),
        "this component serves HTTP, but no port is given; add `ports` to the service"
    );
    let linked = ProxyPre::new(link::component(engine, component)?).map_err(plain)?;
    let listeners = workload.listen.iter().map(|address| bind(*address)).collect::<Result<Vec<_>>>()?;
    // A grant that cannot be kept is better found now than at the first request.
    workload.grants.wasi(crate::guest::Stdin::Empty)?;
    privileges::shed()?;
    let server = Arc::new(Server::new(
        linked,
        Ticker::start(engine)?,
        Outgoing::new(workload.grants.network),
        workload.request_timeout,
        workload.grants,
    ));
    runtime()?.block_on(run(server, listeners))?;
    Ok(ExitCode::SUCCESS)
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("failed to listen on {address}; is the port taken by another service?"))?;
    listener.set_nonblocking(true).with_context(|| format!("failed to prepare {address}"))?;
    Ok(listener)
}

fn runtime() -> Result<runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("failed to start the async runtime")
}

async fn run(server: Arc<Server>, listeners: Vec<TcpListener>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to watch for SIGINT")?;
    let stop = CancellationToken::new();
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let listener =
            tokio::net::TcpListener::from_std(listener).context("failed to watch a listening socket")?;
        accepting.spawn(accept(listener, Arc::clone(&server), Arc::clone(&connections), stop.clone()));
    }
    notify(sd_notify::NotifyState::Ready)?;
    // Both only wait for a signal: nothing is lost where the other one comes first.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    notify(sd_notify::NotifyState::Stopping)?;
    stop.cancel();
    let drained = timeout(DRAIN, async {
        while accepting.join_next().await.is_some() {}
        server.drained().await;
    });
    if drained.await.is_err() {
        eprintln!("cairn-wasm: some requests did not finish within {} s and were cut off", DRAIN.as_secs());
    }
    Ok(())
}

fn notify(state: sd_notify::NotifyState<'_>) -> Result<()> {
    sd_notify::notify(&[state]).context("failed to tell systemd how far we are")
}

/// Takes connections until told to stop, then waits for those it took.
async fn accept(
    listener: tokio::net::TcpListener,
    server: Arc<Server>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        // Dropping `accepted` gives the permit back; a connection not yet accepted stays in the kernel's queue and is
        // reset when the listener closes.
        let (permit, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, Arc::clone(&server), graceful.watcher());
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                eprintln!("cairn-wasm: failed to accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn connection(stream: TcpStream, server: Arc<Server>, watcher: hyper_util::server::graceful::Watcher) {
    // Without these a connection is only less tidy, so a failure is no reason to refuse it.
    let _ = stream.set_nodelay(true);
    let _ =
        setsockopt(&stream, TcpUserTimeout, &u32::try_from(STALL_TIMEOUT.as_millis()).unwrap_or(u32::MAX));
    let service = service_fn(move |request| Arc::clone(&server).answer(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Errors here are the client's (gone, or talking nonsense) and nothing that the operator could act on.
    let _ = watcher.watch(connection).await;
}
