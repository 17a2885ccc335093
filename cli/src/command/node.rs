//! `cairn node`: the fleet's members.

use cairn_model::{
    NodeId,
    api::{LabelChange, Node, OsNode},
    media::{Freshness, FreshnessSet},
};
use reqwest::Method;

use crate::{
    args::{Format, LabelEdit, NodeFreshness, NodeLs, NodeVerb},
    client::Client,
    failure::Failure,
    render, screen,
};

const NO_NODES: &str = "no node; make a token for one with `cairn token create`";

pub(super) async fn run(client: &Client, verb: NodeVerb) -> Result<(), Failure> {
    match verb {
        NodeVerb::Ls(args) => ls(client, args).await,
        NodeVerb::Show { node, output } => super::show_one(output.output, &find(client, &node).await?),
        NodeVerb::Approve { nodes } => {
            for node in find_all(client, &nodes).await? {
                let approved: Node = client.post_empty(&["nodes", node.id.as_str(), "approve"]).await?;
                screen::print(&format!("{} ({}) is a member now\n", approved.id, host(&approved)))?;
            }
            Ok(())
        }
        NodeVerb::Label { node, labels } => label(client, &node, labels).await,
        NodeVerb::Freshness(args) => freshness(client, args).await,
        NodeVerb::Rm { nodes } => {
            for node in find_all(client, &nodes).await? {
                client.delete(&["nodes", node.id.as_str()]).await?;
                screen::print(&format!("{} ({}) is removed\n", node.id, host(&node)))?;
            }
            Ok(())
        }
    }
}

async fn ls(client: &Client, args: NodeLs) -> Result<(), Failure> {
    let query: Vec<_> = args.selector.as_deref().map(|selector| ("selector", selector)).into_iter().collect();
    if !args.watch {
        let nodes: Vec<Node> = client.get(&["nodes"], &query).await?;
        let empty = if args.selector.is_some() { "no node has these labels" } else { NO_NODES };
        return super::show_list(args.output.output, &nodes, empty);
    }
    super::watch::redraw_on_change(
        async || client.get::<Vec<Node>>(&["nodes"], &query).await,
        |nodes, now| render::list(args.output.output, nodes, now),
    )
    .await
}

/// How long what is signed for nodes holds.
async fn freshness(client: &Client, args: NodeFreshness) -> Result<(), Failure> {
    if args.freshness == Freshness::Unlimited && !args.accept_no_expiry {
        return Err(Failure::usage(
            "without an end nodes take any export that is newer than what they have, however old",
        )
        .cure("say a number of days; if that is meant, add --accept-no-expiry"));
    }
    let (nodes, _) = super::os::resolve(client, &args.targets).await?;
    let (freshness, accept_no_expiry) = (args.freshness, args.accept_no_expiry);
    let question = FreshnessSet { nodes, freshness, accept_no_expiry };
    let changed: Vec<Node> = client.send(Method::POST, &["nodes", "freshness"], &question).await?;
    let none = "that is so there already: nothing has changed";
    match args.output.output {
        Format::Table | Format::Wide => {
            for node in &changed {
                let holds = render::usb::freshness(node.freshness);
                screen::print(&format!(
                    "{} ({}): what is signed for it holds {holds}\n",
                    node.id,
                    host(node)
                ))?;
            }
            screen::note(if changed.is_empty() { none } else { "the next export for them is signed so" });
            Ok(())
        }
        format => super::show_list(format, &changed, none),
    }
}

async fn label(client: &Client, node: &str, labels: Vec<LabelEdit>) -> Result<(), Failure> {
    let mut change = LabelChange::default();
    for edit in labels {
        match edit {
            LabelEdit::Set(key, value) => drop(change.set.insert(key, value)),
            LabelEdit::Remove(key) => change.remove.push(key),
        }
    }
    if let Some(key) = change.remove.iter().find(|key| change.set.contains_key(*key)) {
        return Err(Failure::usage(format!("label {key} is set and removed at once")));
    }
    let node = find(client, node).await?;
    let node: Node = client.send(Method::PATCH, &["nodes", node.id.as_str(), "labels"], &change).await?;
    let labels = render::text::clean(&render::text::labels(&node.labels));
    screen::print(&format!("{} ({}): {labels}\n", node.id, host(&node)))
}

fn host(node: &Node) -> String {
    render::text::clean(&node.facts.hostname)
}

/// The one node that is meant.
pub(super) async fn find(client: &Client, wanted: &str) -> Result<Node, Failure> {
    let nodes: Vec<Node> = client.get(&["nodes"], &[]).await?;
    choose(&nodes, wanted).cloned()
}

/// All of them before anything is done to the first: a typing mistake in the third changes nothing.
async fn find_all(client: &Client, wanted: &[String]) -> Result<Vec<Node>, Failure> {
    let nodes: Vec<Node> = client.get(&["nodes"], &[]).await?;
    wanted.iter().map(|wanted| choose(&nodes, wanted).cloned()).collect()
}

/// What has a node's names.
pub(super) trait Named {
    fn id(&self) -> &NodeId;
    fn hostname(&self) -> &str;
}

impl Named for Node {
    fn id(&self) -> &NodeId {
        &self.id
    }

    fn hostname(&self) -> &str {
        &self.facts.hostname
    }
}

impl Named for OsNode {
    fn id(&self) -> &NodeId {
        &self.node
    }

    fn hostname(&self) -> &str {
        &self.hostname
    }
}

/// By id, else by host name, else by the beginning of an id; never by guess.
pub(super) fn choose<'a, T: Named>(nodes: &'a [T], wanted: &str) -> Result<&'a T, Failure> {
    if let Ok(id) = wanted.parse::<NodeId>()
        && let Some(node) = nodes.iter().find(|node| *node.id() == id)
    {
        return Ok(node);
    }
    let begins = |node: &T| {
        let id = node.id().as_str();
        !wanted.is_empty() && (id.starts_with(wanted) || id.trim_start_matches("n-").starts_with(wanted))
    };
    let by_host: Vec<_> = nodes.iter().filter(|node| node.hostname() == wanted).collect();
    let found = if by_host.is_empty() { nodes.iter().filter(|node| begins(node)).collect() } else { by_host };
    match found.as_slice() {
        [node] => Ok(node),
        [] => Err(Failure::not_found(format!("there is no node {wanted}")).cure("cairn node ls")),
        several => {
            let ids: Vec<_> = several.iter().map(|node| node.id().as_str()).take(5).collect();
            Err(Failure::usage(format!("{wanted} can be {} nodes: {}, …", several.len(), ids.join(", ")))
                .cure("write more of the id"))
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_model::{Facts, enroll::EnrollState};

    use super::*;
    use crate::failure::Kind;

    fn node(id: &str, hostname: &str) -> Node {
        Node {
            id: id.parse().unwrap(),
            state: EnrollState::Approved,
            fingerprint: String::new(),
            labels: Default::default(),
            facts: Facts { hostname: hostname.into(), ..Facts::default() },
            enrolled_at: String::new(),
            last_seen: None,
            online: false,
            heard_by: None,
            freshness: Default::default(),
            desired_generation: 0,
            status: None,
        }
    }

    #[test]
    fn a_node_is_found_by_id_host_name_or_unique_beginning() {
        let nodes = [
            node("n-aaaa000000000000", "one"),
            node("n-aaab000000000000", "two"),
            node("n-bbbb000000000000", "twin"),
            node("n-cccc000000000000", "twin"),
        ];
        let check = |wanted: &str| choose(&nodes, wanted).map(|n| n.id.to_string()).map_err(|f| f.kind);
        assert_eq!(check("n-aaaa000000000000"), Ok("n-aaaa000000000000".into()));
        assert_eq!(check("two"), Ok("n-aaab000000000000".into()));
        assert_eq!(check("aaaa"), Ok("n-aaaa000000000000".into()));
        assert_eq!(check("n-b"), Ok("n-bbbb000000000000".into()));
        assert_eq!(check("aaa"), Err(Kind::Usage));
        assert_eq!(check("twin"), Err(Kind::Usage));
        assert_eq!(check("zzz"), Err(Kind::NotFound));
        assert_eq!(check(""), Err(Kind::NotFound));
    }
}
