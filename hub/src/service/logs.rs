//! Logs of an app: asked of its nodes by a command each, gathered from what they report.

use std::collections::BTreeMap;

use cairn_model::{
    AppName, NodeId,
    api::{LogsRequest, LogsResult, LogsStarted, NodeLogs},
    desired::CommandKind,
};
use serde_json::json;

use super::{Hub, Operator};
use crate::{
    clock,
    error::{Error, Kind, Result},
    secret,
    store::NewCommand,
};

/// A node that does not start within this time need not any more: the operator has gone.
const WAIT_SECONDS: i64 = 300;

/// What a node started in time may still be on its way for so long.
const GRACE_SECONDS: i64 = 60;

/// Most lines a node; it caps at the same.
const MAX_LINES: u32 = 10_000;

/// Most commands that wait for one node: its document is bounded.
pub(super) const MAX_OPEN: usize = 32;

impl Hub {
    /// Asks the nodes that run `app` for its logs.
    pub(crate) async fn request_logs(
        &self,
        who: &Operator,
        app: &AppName,
        request: &LogsRequest,
    ) -> Result<LogsStarted> {
        let nodes = self.nodes_of(app, request).await?;
        let now = clock::now_ms();
        let open = self.store.open_commands(now / 1000).await?;
        if let Some(busy) =
            nodes.iter().find(|node| open.iter().filter(|(of, _)| of == *node).count() >= MAX_OPEN)
        {
            let text = format!("{MAX_OPEN} requests wait for node {busy}; try again when it has answered");
            return Err(Error::new(Kind::Busy, text));
        }
        let id = secret::random_hex(8);
        let kind = CommandKind::Logs {
            app: app.clone(),
            service: request.service.clone(),
            lines: request.lines.unwrap_or(100).min(MAX_LINES),
        };
        let mut tx = self.store.begin().await?;
        for node in &nodes {
            let not_after = now / 1000 + WAIT_SECONDS;
            let command =
                NewCommand { id: secret::random_hex(8), request: &id, node, kind: &kind, not_after };
            tx.insert_command(&command).await?;
        }
        let after = json!({"request": id, "nodes": nodes, "command": kind});
        tx.audit(now, who.change("app.logs", app.as_str(), None, Some(after))).await?;
        tx.commit().await?;
        self.fleet.converge().await?;
        Ok(LogsStarted { id, nodes })
    }

    async fn nodes_of(&self, app: &AppName, request: &LogsRequest) -> Result<Vec<NodeId>> {
        if self.store.latest_version(app).await?.is_none() {
            return Err(Error::not_found(format!("app {app}"), "see `cairn app ls`"));
        }
        let mut nodes: Vec<NodeId> = self
            .store
            .placements()
            .await?
            .into_iter()
            .filter(|placed| placed.app == *app)
            .filter(|placed| request.service.as_ref().is_none_or(|service| *service == placed.service))
            .filter(|placed| request.node.as_ref().is_none_or(|node| *node == placed.node))
            .map(|placed| placed.node)
            .collect();
        nodes.sort();
        nodes.dedup();
        if nodes.is_empty() {
            let text = format!(
                "nothing of app {app} that was asked for runs anywhere; see `cairn app status {app}`"
            );
            return Err(Error::new(Kind::NotFound, text));
        }
        Ok(nodes)
    }

    /// What came back so far.
    pub(crate) async fn logs(&self, id: &str) -> Result<LogsResult> {
        let rows = self.store.outputs(id).await?;
        if rows.is_empty() {
            return Err(Error::not_found("this logs request", "ask again with `cairn app logs`"));
        }
        let now = clock::now_ms() / 1000;
        let mut nodes = BTreeMap::new();
        for row in rows {
            let over = !row.complete && now > row.not_after + GRACE_SECONDS;
            let text = if over && row.text.is_empty() {
                "(the node did not answer in time)\n".to_owned()
            } else {
                row.text
            };
            nodes.insert(row.node, NodeLogs { text, complete: row.complete || over });
        }
        let complete = nodes.values().all(|node| node.complete);
        Ok(LogsResult { nodes, complete })
    }
}
