//! `cairn local`: the daemon of this node, by its socket. Works without a hub and without a context.

use std::{io, path::Path, time::Duration};

use cairn_model::{
    api::ApiError,
    error::chain,
    local::{OS_APPLY_PATH, STATUS_PATH},
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::{
    args::{LocalOsVerb, LocalVerb},
    failure::{Failure, Kind},
    render::local::LocalStatus,
    screen,
};

/// The daemon answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Longest reason that is shown of an answer in plain text, in characters.
const MAX_REASON: usize = 2000;

pub(super) async fn run(verb: LocalVerb) -> Result<(), Failure> {
    match verb {
        LocalVerb::Status { socket, output } => {
            let body = ask(&socket, Method::GET, STATUS_PATH).await?;
            let status = serde_json::from_slice(&body)
                .map_err(|error| Failure::failed(format!("the daemon's answer is no JSON: {error}")))?;
            super::show_one(output.output, &LocalStatus(status))
        }
        LocalVerb::Os(LocalOsVerb::Apply { socket }) => {
            ask(&socket, Method::POST, OS_APPLY_PATH).await?;
            screen::print("this node restarts into the OS that stands written\n")
        }
    }
}

async fn ask(socket: &Path, method: Method, path: &str) -> Result<Bytes, Failure> {
    tokio::time::timeout(TIMEOUT, exchange(socket, method, path))
        .await
        .map_err(|_| Failure::timeout("the daemon did not answer in time").cure("journalctl -u cairnd"))?
}

async fn exchange(socket: &Path, method: Method, path: &str) -> Result<Bytes, Failure> {
    let broken = |error: &dyn std::error::Error| {
        Failure::new(Kind::NoConnection, format!("the daemon broke off: {}", chain(error)))
            .cure("journalctl -u cairnd")
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| no_socket(socket, &error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
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
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    // Cancel-safe: both are polled on by reference. The connection may end with the answer still to be taken.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

/// What the daemon says against it: in the words of the API's errors, or plain.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let (said, problems) = match serde_json::from_slice::<ApiError>(body) {
        Ok(ApiError { error }) => (error.message, error.problems),
        Err(_) => (String::from_utf8_lossy(body).trim().chars().take(MAX_REASON).collect(), Vec::new()),
    };
    match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
            Failure::new(Kind::Denied, format!("the daemon does not allow this: {said}"))
                .cure("run it as root")
        }
        StatusCode::NOT_FOUND => Failure::failed("the daemon of this node does not know what was asked")
            .cure("use a cairn of the daemon's version: `cairn local status` shows it"),
        status if status.is_client_error() && !said.is_empty() => Failure::refused(said).problems(problems),
        status => {
            Failure::failed(format!("the daemon answered {status}: {said}")).cure("journalctl -u cairnd")
        }
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
