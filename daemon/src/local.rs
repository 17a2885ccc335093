//! The node's own API on a unix socket: `GET /v1/status`. Root only: whoever may connect may see all of it.

use std::{io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{Json, Router, extract::State, routing::get};
use cairn_model::local::{LocalStatus, STATUS_PATH};
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    link::LinkStatus,
    status::{Identity, WorkStatus, local_status},
};

/// What the API shows.
#[derive(Debug, Clone)]
pub struct Views {
    /// Who the node is.
    pub identity: Arc<Identity>,
    /// How it stands with its hub.
    pub link: watch::Receiver<LinkStatus>,
    /// How its workloads stand.
    pub work: watch::Receiver<WorkStatus>,
    /// How many reports wait.
    pub unsent: watch::Receiver<u64>,
}

/// Binds the socket; one that is left over from a daemon that was killed is replaced.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    let path = run_dir.join("cairnd.sock");
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `stop` is cancelled.
pub async fn serve(listener: UnixListener, views: Views, stop: CancellationToken) {
    let router = Router::new().route(STATUS_PATH, get(status)).with_state(views);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(e) = served {
        tracing::error!("the local socket is lost: {e}");
    }
}

async fn status(State(views): State<Views>) -> Json<LocalStatus> {
    let (link, work) = (views.link.borrow().clone(), views.work.borrow().clone());
    Json(local_status(&views.identity, &link, &work, *views.unsent.borrow()))
}
