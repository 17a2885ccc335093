//! `cairn local`: the daemon of this node, by its socket. Works without a hub and without a context.

use std::{io, path::Path, time::Duration};

use cairn_model::local::STATUS_PATH;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::{
    args::LocalVerb,
    failure::{Failure, Kind, chain},
    render::local::LocalStatus,
};

/// The daemon answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 4 << 20;

pub(super) async fn run(verb: LocalVerb) -> Result<(), Failure> {
    let LocalVerb::Status { socket, output } = verb;
    let status = tokio::time::timeout(TIMEOUT, ask(&socket, STATUS_PATH))
        .await
        .map_err(|_| Failure::timeout("the daemon did not answer in time").cure("journalctl -u cairnd"))??;
    super::show_one(output.output, &LocalStatus(status))
}

async fn ask(socket: &Path, path: &str) -> Result<serde_json::Value, Failure> {
    let broken = |error: &dyn std::error::Error| {
        Failure::new(Kind::NoConnection, format!("the daemon broke off: {}", chain(error)))
            .cure("journalctl -u cairnd")
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| no_socket(socket, &error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::failed(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| Failure::failed(format!("the daemon's answer can't be read: {error}")))?
            .to_bytes();
        if !status.is_success() {
            return Err(Failure::failed(format!("the daemon answered {status}")).cure("journalctl -u cairnd"));
        }
        serde_json::from_slice(&body)
            .map_err(|error| Failure::failed(format!("the daemon's answer is no JSON: {error}")))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    // Cancel-safe: both are polled on by reference. The connection may end with the answer still to be taken.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

fn no_socket(socket: &Path, error: &io::Error) -> Failure {
    let failure =
        |kind| Failure::new(kind, format!("cannot reach the daemon at {}: {error}", socket.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => failure(Kind::Denied).cure("run it as root"),
        io::ErrorKind::NotFound => failure(Kind::NoConnection)
            .cure("this works on a node, where cairnd runs: systemctl status cairnd"),
        _ => failure(Kind::NoConnection).cure("systemctl status cairnd"),
    }
}
