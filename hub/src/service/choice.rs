//! Which nodes an operator means: by id, by host name, by labels. All of what is wrong with it is told at once.

use std::collections::BTreeMap;

use cairn_model::{NodeId, api::OsNodes};

use super::Hub;
use crate::{
    error::{Error, Kind, Result},
    selector::Selector,
    store::{NodeRow, NodeState},
};

/// What is wrong with one node, or with one name of a node.
pub(super) type Problem = (Kind, String);

/// Which nodes may be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Members: one that waits for approval is passed over by selectors, and refused by name.
    Members,
    /// Those that wait for approval too.
    All,
}

impl Among {
    fn includes(self, row: &NodeRow) -> bool {
        self == Self::All || row.state == NodeState::Approved
    }
}

impl Hub {
    /// The nodes that `asked` means, by id. Where it names ids alone, no other node is looked at.
    pub(super) async fn chosen(&self, asked: &OsNodes, among: Among) -> Result<Vec<NodeRow>> {
        if asked.nodes.is_empty() && asked.selector.is_none() {
            let kind = match among {
                Among::Members => Kind::OsRefused,
                Among::All => Kind::Malformed,
            };
            let text =
                "neither nodes nor a selector is given; name nodes, or select all by an empty selector";
            return Err(Error::new(kind, text));
        }
        let selector = asked.selector.as_deref().map(Selector::parse).transpose()?;
        let ids: Option<Vec<NodeId>> = asked.nodes.iter().map(|name| name.parse().ok()).collect();
        let rows = match ids.filter(|_| selector.is_none()) {
            Some(ids) => self.rows_of(&ids).await?,
            None => self.store.nodes().await?,
        };
        let mut chosen: BTreeMap<NodeId, NodeRow> = BTreeMap::new();
        let mut problems = Vec::new();
        let index = Index::of(&rows);
        for name in &asked.nodes {
            match index.find(name, among) {
                Ok(row) => {
                    chosen.insert(row.id.clone(), row.clone());
                }
                Err(problem) => problems.push(problem),
            }
        }
        refuse(problems)?;
        if let Some(selector) = selector {
            let selected = rows
                .into_iter()
                .filter(|row| among.includes(row) && selector.matches(&row.effective_labels()));
            chosen.extend(selected.map(|row| (row.id.clone(), row)));
        }
        if chosen.is_empty() {
            let text = "no member of the fleet matches the selector; see `cairn node ls`";
            return Err(Error::new(Kind::NotFound, text));
        }
        Ok(chosen.into_values().collect())
    }

    /// The nodes of these ids that there are.
    async fn rows_of(&self, ids: &[NodeId]) -> Result<Vec<NodeRow>> {
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            let row = self.store.node(id).await?;
            rows.extend(row.filter(|row| row.state != NodeState::Removed));
        }
        Ok(rows)
    }
}

/// Nodes by what they may be named by.
struct Index<'a> {
    by_id: BTreeMap<&'a str, &'a NodeRow>,
    by_hostname: BTreeMap<&'a str, Vec<&'a NodeRow>>,
}

impl<'a> Index<'a> {
    fn of(rows: &'a [NodeRow]) -> Self {
        let by_id: BTreeMap<_, _> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
        let mut by_hostname: BTreeMap<&str, Vec<&NodeRow>> = BTreeMap::new();
        for row in by_id.values().copied() {
            by_hostname.entry(&row.facts.hostname).or_default().push(row);
        }
        Self { by_id, by_hostname }
    }

    /// The node of that id, or of that host name where it is unique.
    fn find(&self, name: &str, among: Among) -> std::result::Result<&'a NodeRow, Problem> {
        let cut: String = name.chars().take(80).collect();
        let named = self.by_hostname.get(name).map_or(&[][..], Vec::as_slice);
        let row = match (self.by_id.get(name), named) {
            (Some(row), _) => row,
            (None, [row]) => row,
            (None, []) => {
                return Err((Kind::NotFound, format!("node {cut:?} does not exist; see `cairn node ls`")));
            }
            (None, several) => {
                let text = format!("{} nodes have the host name {cut:?}", several.len());
                return Err((Kind::Conflict, format!("{text}; name one by its id (`cairn node ls`)")));
            }
        };
        if !among.includes(row) {
            let text = format!("it waits for approval; run `cairn node approve {}`", row.id);
            return Err((Kind::OsRefused, about(row, &text)));
        }
        Ok(row)
    }
}

/// `text` about a node.
pub(super) fn about(node: &NodeRow, text: &str) -> String {
    format!("node {} ({}): {text}", node.id, node.facts.hostname)
}

/// Ends in an error where there is a problem. One is told as it is; of several, the kind of the first counts.
pub(super) fn refuse(problems: Vec<Problem>) -> Result<()> {
    let Some((kind, first)) = problems.first() else { return Ok(()) };
    let message = match problems.len() {
        1 => first.clone(),
        more => format!("nothing was changed, {more} nodes stand against it; see to each of the problems"),
    };
    let error = Error::new(*kind, message);
    Err(error.with_problems(problems.into_iter().map(|(_, text)| text).collect()))
}
