//! OS updates as an operator sees them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{Hub, Lab, wait};

/// A transfer, a restart and a health gate under TCG on a busy machine: a deadline, not a time.
pub const UPDATE_DEADLINE: Duration = Duration::from_secs(420);

/// A release that does not start is tried three times before the loader goes back.
pub const FALLBACK_DEADLINE: Duration = Duration::from_secs(900);

/// Puts a release of `target/releases` into the hub.
pub fn push(lab: &Lab, hub: &Hub, name: &str) -> Result<()> {
    hub.cairn(&["os", "push", &lab.release(name)])?;
    Ok(())
}

/// What the hub knows of the OS of its one node.
pub fn status(hub: &Hub) -> Result<Value> {
    match hub.json(&["os", "status"])? {
        Value::Array(nodes) if nodes.len() == 1 => Ok(nodes[0].clone()),
        other => bail!("`cairn os status` does not show one node: {other}"),
    }
}

/// Waits until the node's OS is as `wanted` says of its `status`.
pub fn wait_status(
    hub: &Hub,
    what: &str,
    deadline: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    wait::until(what, deadline, || {
        let node = status(hub)?;
        if wanted(&node["status"]) {
            return Ok(Some(node["status"].clone()));
        }
        bail!("the node says: {}", node["status"])
    })
}

/// Waits until the node says that it runs `version` in this state.
pub fn wait_state(hub: &Hub, version: &str, state: &str, deadline: Duration) -> Result<Value> {
    let what = format!("the node to run {version} and be {state}");
    wait_status(hub, &what, deadline, |os| os["version"] == version && os["state"] == state)
}

/// What the newest event of the node with this reason says.
pub fn event(hub: &Hub, reason: &str) -> Result<String> {
    let node = status(hub)?;
    let id = node["node"].as_str().context("a node has an id")?;
    let Value::Array(events) = hub.json(&["event", "ls", id])? else { bail!("no list of events") };
    let found = events.iter().find(|event| event["reason"] == reason);
    let message = found.and_then(|event| event["message"].as_str());
    Ok(message.with_context(|| format!("no event {reason}: {events:?}"))?.to_owned())
}
