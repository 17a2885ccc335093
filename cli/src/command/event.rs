//! `cairn event`: what nodes report to have happened.

use cairn_model::api::NodeEvent;

use crate::{args::EventVerb, client::Client, failure::Failure};

pub(super) async fn run(client: &Client, verb: EventVerb) -> Result<(), Failure> {
    let EventVerb::Ls { node, output } = verb;
    let node = super::node::find(client, &node).await?;
    let events: Vec<NodeEvent> = client.get(&["nodes", node.id.as_str(), "events"], &[]).await?;
    super::show_list(output.output, &events, "nothing reported yet")
}
