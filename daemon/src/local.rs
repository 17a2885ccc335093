//! The node's own API on a unix socket. Its status may be read by root and by members of the group `cairn`; what changes
//! something is root's alone.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{
        State,
        connect_info::{ConnectInfo, Connected},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use cairn_model::local::{
    LocalStatus, MEDIA_PATH, MediaAttached, OS_APPLY_PATH, OS_CONFIRM_PATH, STATUS_PATH,
};
use nix::unistd::Group;
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    link::LinkStatus,
    media::{Device, Media},
    os::Os,
    status::{Identity, OsView, WorkStatus, local_status},
};

pub(crate) mod request;

/// Whose members may read the status.
const GROUP: &str = "cairn";

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
    /// How its OS stands, and what can be asked of it.
    pub os: Os,
    /// How the stick stands, and who is told of another one.
    pub media: Media,
}

impl Views {
    /// The node's state as it is now.
    pub fn status(&self) -> LocalStatus {
        let (link, work) = (self.link.borrow().clone(), self.work.borrow().clone());
        let os =
            OsView { status: self.os.status.borrow().clone(), problem: self.os.problem.borrow().clone() };
        let media = self.media.status.borrow().clone();
        LocalStatus { media, ..local_status(&self.identity, &link, &work, &os, *self.unsent.borrow()) }
    }
}

/// Binds the socket; one that is left over from a daemon that was killed is replaced.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(run_dir)?;
    let path = run_dir.join("cairnd.sock");
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Where there is no such group, or the daemon is not root, the socket is the daemon's own alone.
    if let Ok(Some(group)) = Group::from_name(GROUP)
        && let Err(e) = std::os::unix::fs::chown(&path, None, Some(group.gid.as_raw()))
    {
        tracing::debug!("the socket is not given to group {GROUP}: {e}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Who is at the other end, by what the kernel says.
#[derive(Debug, Clone, Copy)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

impl Peer {
    /// Root, or whoever the daemon itself is.
    fn may_command(self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw())
    }
}

fn router(views: Views) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status))
        .route(OS_APPLY_PATH, post(apply))
        .route(OS_CONFIRM_PATH, get(confirm))
        .route(MEDIA_PATH, post(attached))
        .with_state(views)
}

/// Serves until `stop` is cancelled.
pub async fn serve(listener: UnixListener, views: Views, stop: CancellationToken) {
    let service = router(views).into_make_service_with_connect_info::<Peer>();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    // A verdict may be waited for as long as a trial takes: that does not hold up the end.
    tokio::select! {
        served = served.into_future() => if let Err(e) = served {
            tracing::error!("the local socket is lost: {e}");
        },
        () = stop.cancelled() => {}
    }
}

async fn status(State(views): State<Views>) -> Json<LocalStatus> {
    Json(views.status())
}

async fn apply(State(views): State<Views>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if !peer.may_command() {
        return (StatusCode::FORBIDDEN, "only root may restart the node; use sudo").into_response();
    }
    match views.os.apply().await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => (StatusCode::CONFLICT, refusal).into_response(),
    }
}

async fn confirm(State(views): State<Views>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if !peer.may_command() {
        return (StatusCode::FORBIDDEN, "only root may ask for the verdict; use sudo").into_response();
    }
    match views.os.verdict().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(reason) => (StatusCode::CONFLICT, reason).into_response(),
    }
}

/// The unit that mounts sticks says so, through `cairnd media attach`.
async fn attached(
    State(views): State<Views>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(MediaAttached { device }): Json<MediaAttached>,
) -> Response {
    if !peer.may_command() {
        return (StatusCode::FORBIDDEN, "only root may tell of a stick; plug it in").into_response();
    }
    let device = match device.parse::<Device>() {
        Ok(device) => device,
        Err(e) => return (StatusCode::BAD_REQUEST, e.to_string()).into_response(),
    };
    match views.media.attach(device) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(busy) => (StatusCode::SERVICE_UNAVAILABLE, busy).into_response(),
    }
}
