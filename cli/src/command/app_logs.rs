//! `cairn app logs`: asks the nodes through the hub, and waits until all have answered.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use cairn_model::{
    NodeId,
    api::{LogsRequest, LogsResult, LogsStarted},
};
use reqwest::Method;

use crate::{
    args::{AppLogs, Format},
    client::Client,
    failure::Failure,
    render::{self, text},
    screen,
};

const INTERVAL: Duration = Duration::from_millis(300);

pub(super) async fn run(client: &Client, args: AppLogs) -> Result<(), Failure> {
    let node: Option<NodeId> = match &args.node {
        Some(node) => Some(super::node::find(client, node).await?.id),
        None => None,
    };
    let request = LogsRequest { service: args.service, node, lines: Some(args.lines) };
    let started: LogsStarted =
        client.send(Method::POST, &["apps", args.app.as_str(), "logs"], &request).await?;
    let deadline = Instant::now() + args.timeout;
    let result = loop {
        let result: LogsResult = client.get(&["logs", &started.id], &[]).await?;
        if result.complete || Instant::now() >= deadline {
            break result;
        }
        tokio::time::sleep(INTERVAL).await;
    };
    match args.output.output {
        Format::Table | Format::Wide | Format::Name => screen::print(&lines(&result))?,
        Format::Json | Format::Yaml => screen::print(&render::document(args.output.output, &result)?)?,
    }
    if result.complete {
        return Ok(());
    }
    let answered = |node: &&NodeId| result.nodes.get(*node).is_some_and(|logs| logs.complete);
    let silent: Vec<_> = started.nodes.iter().filter(|node| !answered(node)).map(NodeId::as_str).collect();
    Err(Failure::timeout(format!("no full answer yet from {}", silent.join(", ")))
        .cure("cairn node ls shows whether they are online; a longer --timeout waits longer"))
}

/// One node's lines as they are; those of several with the node in front of each.
fn lines(result: &LogsResult) -> String {
    let mut out = String::new();
    for (node, logs) in &result.nodes {
        for line in text::clean_lines(&logs.text).lines() {
            if result.nodes.len() > 1 {
                let _ = write!(out, "{node} ");
            }
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
