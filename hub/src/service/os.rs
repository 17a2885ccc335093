//! Which OS nodes shall run: set by operators, checked for every node before anything changes.

use std::collections::{BTreeMap, HashMap};

use cairn_model::{
    Digest, NodeId,
    api::{OsNode, OsNodes, OsRelease, OsSet},
    desired::{CommandKind, DesiredOs},
};
use serde_json::json;

use super::{
    Hub, Operator,
    choice::{Among, about, refuse},
    logs::MAX_OPEN,
};
use crate::{
    clock,
    error::{Error, Kind, Result},
    os::{self, Misfit, Wanted},
    secret,
    selector::Selector,
    store::{NewCommand, NodeRow, NodeState, OsRow, ReleaseRow},
};

/// A node that does not restart within this time need not any more: the operator who watches has gone.
const APPLY_SECONDS: i64 = 3600;

impl Hub {
    /// Every release, newest version first.
    pub(crate) async fn os_releases(&self) -> Result<Vec<OsRelease>> {
        let mut rows = self.store.releases().await?;
        rows.sort_by(|a, b| {
            (&b.release.version, b.pushed_at, &b.digest).cmp(&(&a.release.version, a.pushed_at, &a.digest))
        });
        let mut desired: HashMap<Digest, u32> = HashMap::new();
        for row in self.store.os_rows().await? {
            *desired.entry(row.desired.release).or_default() += 1;
        }
        let nodes = self.store.nodes().await?;
        let members = || nodes.iter().filter(|node| node.state == NodeState::Approved);
        let view = |row: ReleaseRow| OsRelease {
            signed: self.signer.is_signed(&row.digest),
            pushed_at: clock::rfc3339(row.pushed_at),
            desired: desired.get(&row.digest).copied().unwrap_or(0),
            running: members().map(|node| u32::from(os::runs(node, &row))).sum(),
            digest: row.digest,
            release: row.release,
        };
        Ok(rows.into_iter().map(view).collect())
    }

    /// The members that `selector` selects, with their OS.
    pub(crate) async fn os_nodes(&self, selector: &Selector) -> Result<Vec<OsNode>> {
        let mut nodes = self.store.nodes().await?;
        nodes.retain(|node| node.state == NodeState::Approved && selector.matches(&node.effective_labels()));
        self.os_view(nodes).await
    }

    async fn os_view(&self, nodes: Vec<NodeRow>) -> Result<Vec<OsNode>> {
        let rows = self.store.os_rows().await?;
        let mut desired: BTreeMap<NodeId, DesiredOs> =
            rows.into_iter().map(|row| (row.node, row.desired)).collect();
        let view = |node: NodeRow| {
            let desired = desired.remove(&node.id);
            let unsigned = desired.as_ref().filter(|os| !self.signer.is_signed(&os.release));
            OsNode {
                problems: unsigned.map(unsigned_problem).into_iter().collect(),
                online: self.is_online(&node),
                node: node.id,
                hostname: node.facts.hostname,
                desired,
                status: node.status.and_then(|status| status.os),
            }
        };
        Ok(nodes.into_iter().map(view).collect())
    }

    /// Makes a release the OS of some nodes: of all of them, or, where one cannot have it, of none. Those that shall run
    /// it just so already are left alone.
    pub(crate) async fn set_os(&self, who: &Operator, set: &OsSet) -> Result<Vec<OsNode>> {
        let malformed = |text: String| Error::new(Kind::Malformed, text);
        let wanted = Wanted::parse(&set.release).map_err(malformed)?;
        os::check_policies(&set.reboot, &set.health).map_err(malformed)?;
        let releases = self.store.releases().await?;
        let offers: Vec<&ReleaseRow> = releases.iter().filter(|row| wanted.names(row)).collect();
        if offers.is_empty() {
            let text = format!("release {}", set.release);
            return Err(Error::not_found(text, "see `cairn os ls`, or push it with `cairn os push`"));
        }
        let nodes = self.chosen(&set.nodes, Among::Members).await?;
        let mut chosen = Vec::with_capacity(nodes.len());
        let mut problems = Vec::new();
        for node in &nodes {
            match os::choose(&offers, node, set.allow_downgrade, |digest| self.signer.is_signed(digest)) {
                Ok(row) => chosen.push((node, row)),
                Err(Misfit::Ambiguous(text)) => problems.push((Kind::Conflict, about(node, &text))),
                Err(Misfit::Refused(text)) => problems.push((Kind::OsRefused, about(node, &text))),
            }
        }
        refuse(problems)?;
        let changed = self.write_os(who, set, &chosen).await?;
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        self.fleet.converge().await?;
        self.os_view(nodes.into_iter().filter(|node| changed.contains(&node.id)).collect()).await
    }

    /// Writes down what was chosen where it differs, in one transaction; which nodes those are.
    async fn write_os(
        &self,
        who: &Operator,
        set: &OsSet,
        chosen: &[(&NodeRow, &ReleaseRow)],
    ) -> Result<Vec<NodeId>> {
        let now = clock::now_ms();
        let mut changed = Vec::new();
        let mut tx = self.store.begin().await?;
        for (node, release) in chosen {
            // Read again here: a removal since then is not undone.
            if tx.node(&node.id).await?.is_none_or(|row| row.state != NodeState::Approved) {
                let text = about(node, "it was removed just now; nothing was changed, ask again without it");
                return Err(Error::new(Kind::Conflict, text));
            }
            let before = tx.os_row(&node.id).await?.map(|row| row.desired);
            let attempt = match &before {
                _ if set.retry => tx.next_os_attempt(&node.id).await?,
                Some(before) if before.release == release.digest => before.attempt,
                _ => 0,
            };
            let desired = DesiredOs {
                release: release.digest.clone(),
                version: release.release.version.clone(),
                allow_downgrade: set.allow_downgrade,
                attempt,
                reboot: set.reboot.clone(),
                health: set.health.clone(),
            };
            if before.as_ref() == Some(&desired) {
                continue;
            }
            let (before, after) = (before.map(|before| json!(before)), json!(desired));
            let row = OsRow { node: node.id.clone(), desired, set_at: now, set_by: who.name.clone() };
            tx.set_os_row(&row).await?;
            tx.audit(now, who.change("os.set", node.id.as_str(), before, Some(after))).await?;
            changed.push(node.id.clone());
        }
        tx.commit().await?;
        Ok(changed)
    }

    /// Leaves the OS of some nodes to itself: what runs there stays.
    pub(crate) async fn unset_os(&self, who: &Operator, asked: &OsNodes) -> Result<Vec<OsNode>> {
        let mut nodes = self.chosen(asked, Among::Members).await?;
        let now = clock::now_ms();
        let mut changed = Vec::new();
        let mut tx = self.store.begin().await?;
        for node in &nodes {
            let Some(before) = tx.delete_os_row(&node.id).await? else { continue };
            let before = Some(json!(before.desired));
            tx.audit(now, who.change("os.unset", node.id.as_str(), before, None)).await?;
            changed.push(node.id.clone());
        }
        tx.commit().await?;
        if !changed.is_empty() {
            self.fleet.converge().await?;
        }
        nodes.retain(|node| changed.contains(&node.id));
        self.os_view(nodes).await
    }

    /// Tells some nodes to restart into the OS that they shall run, if it stands written there, whatever their policy.
    /// Members that only match and shall run nothing certain are passed over.
    pub(crate) async fn apply_os(&self, who: &Operator, asked: &OsNodes) -> Result<Vec<OsNode>> {
        let mut nodes = self.chosen(asked, Among::Members).await?;
        let rows = self.store.os_rows().await?;
        let desired: BTreeMap<&NodeId, &DesiredOs> =
            rows.iter().map(|row| (&row.node, &row.desired)).collect();
        let named = |node: &NodeRow| asked.nodes.iter().any(|name| is_named(node, name));
        let unset = nodes.iter().filter(|node| !desired.contains_key(&node.id));
        let problem = |node: &NodeRow| {
            let text = "no OS is set for it; set one with `cairn os set`";
            (Kind::OsRefused, about(node, text))
        };
        let told = nodes.iter().any(|node| desired.contains_key(&node.id));
        refuse(unset.filter(|node| named(node) || !told).map(problem).collect())?;
        nodes.retain(|node| desired.contains_key(&node.id));

        let now = clock::now_ms();
        let open = self.store.open_commands(now / 1000).await?;
        let waiting = |node: &NodeRow| open.iter().filter(|(of, _)| *of == node.id).count();
        if let Some(busy) = nodes.iter().find(|node| waiting(node) >= MAX_OPEN) {
            let text = format!("{MAX_OPEN} requests wait for it; try again when it has answered");
            return Err(Error::new(Kind::Busy, about(busy, &text)));
        }
        let (request, kind) = (secret::random_hex(8), CommandKind::OsApply);
        let mut tx = self.store.begin().await?;
        for node in &nodes {
            let not_after = now / 1000 + APPLY_SECONDS;
            let command = NewCommand {
                id: secret::random_hex(8),
                request: &request,
                node: &node.id,
                kind: &kind,
                not_after,
            };
            tx.insert_command(&command).await?;
            let after = json!({"command": command.id, "os": desired.get(&node.id)});
            tx.audit(now, who.change("os.apply", node.id.as_str(), None, Some(after))).await?;
        }
        tx.commit().await?;
        self.fleet.converge().await?;
        self.os_view(nodes).await
    }
}

/// Whether `name` means `node`.
fn is_named(node: &NodeRow, name: &str) -> bool {
    node.id.as_str() == name || node.facts.hostname == name
}

/// What to say of a release whose signature was lost.
pub(super) fn unsigned_problem(os: &DesiredOs) -> String {
    format!(
        "the operators' signature on release {} ({}) does not count any more, so the node is not told to run it; run \
         `cairn artifact sign`",
        os.version, os.release
    )
}
