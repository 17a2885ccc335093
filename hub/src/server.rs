//! TLS, connections and draining: everything between the socket and the routes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use crate::service::SharedHub;

/// A handshake takes a few round trips; who needs longer is not shaking hands.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// The same for the head of a request, and for the pause between two requests of one connection.
const HEAD: Duration = Duration::from_secs(75);

/// HTTP/2 connections that are silent are asked whether they are there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// The client's address, as handlers find it in a request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A bound socket.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    slots: Arc<Semaphore>,
}

/// Binds `listen`.
pub(crate) async fn bind(
    listen: SocketAddr,
    tls: Arc<ServerConfig>,
    max_connections: usize,
) -> anyhow::Result<Server> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("failed to listen on {listen}"))?;
    let slots = Arc::new(Semaphore::new(max_connections));
    Ok(Server { listener, acceptor: TlsAcceptor::from(tls), slots })
}

impl Server {
    /// Where it listens, with the port that was taken.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves `routes` until the hub shall stop, then lets requests end for at most `drain`.
    pub(crate) async fn serve(self, routes: Router, hub: SharedHub, drain: Duration) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                // Both are cancel-safe: no connection is lost by a dropped accept.
                () = hub.shutdown.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            let (stream, peer, slot) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    tracing::warn!("failed to accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            hub.metrics.count_connection();
            let client = Client { stream, peer: Peer(peer), _slot: slot };
            tokio::spawn(connection(self.acceptor.clone(), client, routes.clone(), graceful.watcher()));
        }
        drop(self.listener);
        if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time; they are cut");
        }
    }

    async fn accept(&self) -> anyhow::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let slot = Arc::clone(&self.slots).acquire_owned().await?;
        let (stream, peer) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer, slot))
    }
}

/// A connection, and its place among those that may be open.
struct Client {
    stream: TcpStream,
    peer: Peer,
    _slot: OwnedSemaphorePermit,
}

async fn connection(acceptor: TlsAcceptor, client: Client, routes: Router, watcher: Watcher) {
    let Client { stream, peer, _slot } = client;
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        // Scanners, and clients that do not trust us: nothing that a log should grow by.
        return;
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(64)
        .max_header_list_size(16 << 10);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        // A router is always ready.
        routes.clone().call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!("connection ended: {error}");
    }
}
