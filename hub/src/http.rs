//! Every route on one screen. The table of the operators' API makes the router, enforces the roles, and is the OpenAPI
//! document, so that the three cannot drift apart.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    routing::{any, get as read, post as write},
};
use cairn_model::{
    api::{
        AccessToken, AppStatus, AppSummary, Artifact, AuditRow, CreatedAccessToken, CreatedToken, Deploy,
        LabelChange, LogsRequest, LogsResult, LogsStarted, NewAccessToken, NewToken, Node, NodeEvent, OsNode,
        OsNodes, OsRelease, OsSet, Role, Token,
    },
    media::{self, FreshnessSet, MediaFiles, MediaImport, MediaImported, MediaNodes, MediaPlan},
};
use serde_json::Value;

use crate::service::SharedHub;

mod answer;
mod apps;
mod artifacts;
mod auth;
mod member;
mod nodes;
mod openapi;
mod os;
mod registry;
mod route;
mod status;
mod tokens;
mod tuf;
mod usb;

pub(crate) use openapi::openapi;
use route::{Route, delete, get, patch, post, put};

/// A Compose file of 1 MiB, quoted as JSON.
const API_BODY: usize = 4 << 20;
/// Targets metadata of the largest size that nodes read.
const METADATA_BODY: usize = 32 << 20;
/// Some envelopes of the largest size.
const REPORTS_BODY: usize = 8 << 20;
/// An enrolment request is facts and a token.
const ENROLL_BODY: usize = 64 << 10;

/// The operators' API below `/api/v1`.
fn operator_routes() -> Vec<Route> {
    use Role::{Admin, Operator, Viewer};
    vec![
        get("/nodes", Viewer, "The fleet", nodes::list).query("selector").answers::<Vec<Node>>(),
        get("/nodes/{node}", Viewer, "A node by id or host name", nodes::show).answers::<Node>(),
        post("/nodes/{node}/approve", Operator, "Take a node in", nodes::approve).answers::<Node>(),
        patch("/nodes/{node}/labels", Operator, "Change a node's labels", nodes::label)
            .takes::<LabelChange>()
            .answers::<Node>(),
        delete("/nodes/{node}", Operator, "Take a node out", nodes::remove),
        post("/nodes/freshness", Operator, "How long metadata for nodes holds", nodes::freshness)
            .takes::<FreshnessSet>()
            .answers::<Vec<Node>>(),
        get("/nodes/{node}/events", Viewer, "A node's newest events", nodes::events)
            .answers::<Vec<NodeEvent>>(),
        get("/tokens", Operator, "Enrolment tokens", tokens::list).answers::<Vec<Token>>(),
        post("/tokens", Operator, "Make an enrolment token", tokens::create)
            .takes::<NewToken>()
            .answers::<CreatedToken>(),
        delete("/tokens/{token}", Operator, "Take an enrolment token away", tokens::remove),
        get("/access-tokens", Admin, "Operators' tokens", tokens::list_access).answers::<Vec<AccessToken>>(),
        post("/access-tokens", Admin, "Make an operator's token", tokens::create_access)
            .takes::<NewAccessToken>()
            .answers::<CreatedAccessToken>(),
        delete("/access-tokens/{token}", Admin, "Take an operator's token away", tokens::remove_access),
        get("/apps", Viewer, "Apps", apps::list).answers::<Vec<AppSummary>>(),
        put("/apps/{app}", Operator, "Deploy an app", apps::deploy).takes::<Deploy>().answers::<AppSummary>(),
        get("/apps/{app}", Viewer, "An app with every replica", apps::show).answers::<AppStatus>(),
        delete("/apps/{app}", Operator, "Take an app away", apps::remove),
        post("/apps/{app}/logs", Operator, "Ask for an app's logs", apps::request_logs)
            .takes::<LogsRequest>()
            .answers::<LogsStarted>(),
        get("/logs/{request}", Operator, "What came back so far", apps::logs).answers::<LogsResult>(),
        get("/artifacts", Viewer, "Manifests in the hub", artifacts::list).answers::<Vec<Artifact>>(),
        get(
            "/artifacts/unsigned-targets",
            Operator,
            "The next targets metadata, to sign",
            artifacts::unsigned,
        )
        .answers::<Value>(),
        post("/artifacts/signed-targets", Operator, "Signed targets metadata", artifacts::signed)
            .takes::<Value>()
            .body_limit(METADATA_BODY)
            .answers::<Vec<Artifact>>(),
        get("/os/releases", Viewer, "OS releases", os::releases).answers::<Vec<OsRelease>>(),
        get("/os/nodes", Viewer, "Members and their OS", os::nodes)
            .query("selector")
            .answers::<Vec<OsNode>>(),
        post("/os/set", Operator, "Make a release the OS of nodes", os::set)
            .takes::<OsSet>()
            .answers::<Vec<OsNode>>(),
        post("/os/unset", Operator, "Leave the OS of nodes to itself", os::unset)
            .takes::<OsNodes>()
            .answers::<Vec<OsNode>>(),
        post("/os/apply", Operator, "Restart nodes into their new OS", os::apply)
            .takes::<OsNodes>()
            .answers::<Vec<OsNode>>(),
        get("/trust/roots", Viewer, "The first roots, which nodes pin", usb::roots).answers::<Value>(),
        post("/usb/plan", Operator, "What a stick for nodes needs", usb::plan)
            .takes::<OsNodes>()
            .answers::<MediaPlan>(),
        post("/usb/metadata", Operator, "Sign what a stick for nodes needs", usb::metadata)
            .takes::<MediaNodes>()
            .answers::<MediaFiles>(),
        post("/usb/import", Operator, "Take in what nodes put on a stick", usb::import)
            .takes::<MediaImport>()
            .body_limit(media::MAX_IMPORT_BYTES)
            .answers::<MediaImported>(),
        get("/audit", Viewer, "The newest changes", artifacts::audit)
            .query("limit")
            .answers::<Vec<AuditRow>>(),
    ]
}

/// Everything that the hub serves.
pub(crate) fn router(hub: SharedHub) -> Router {
    let mut api = Router::new();
    for route in operator_routes() {
        api = route.add_to(api, &hub);
    }
    let nodes = Router::new()
        .route("/enroll", write(member::enroll).layer(DefaultBodyLimit::max(ENROLL_BODY)))
        .route("/enrollment", read(member::enrollment))
        .route("/reports", write(member::reports).layer(DefaultBodyLimit::max(REPORTS_BODY)));
    let timed = Router::new()
        .nest("/api/v1", api.layer(DefaultBodyLimit::max(API_BODY)))
        .nest("/node/v1", nodes)
        .route("/tuf/artifacts/{file}", read(tuf::artifacts))
        .route("/tuf/director/{node}/{*file}", read(tuf::director))
        .route("/api/v1/openapi.json", read(status::openapi))
        .route("/healthz", read(status::healthz))
        .route("/readyz", read(status::readyz))
        .route("/metrics", read(status::metrics))
        .layer(from_fn(answer::within_time));
    Router::new()
        .merge(timed)
        // These take as long as they take: each has a bound of its own.
        .route("/node/v1/wait", read(member::wait))
        .route("/v2/", any(registry::ping))
        .route("/v2", any(registry::ping))
        .route("/v2/{*path}", any(registry::dispatch))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(from_fn_with_state(Arc::clone(&hub), answer::count))
        .with_state(hub)
}
