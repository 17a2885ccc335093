//! What is signed for the way by stick: both repositories' metadata for as long as the nodes allow it, and grants.

use std::collections::BTreeMap;

use cairn_model::media::{
    ARTIFACTS, DIRECTOR, Freshness, MAX_METADATA_NODES, MediaFiles, MediaNodes, grant_path,
};
use cairn_trust::sign::Exported;
use serde_json::json;

use super::super::{
    Hub, Operator,
    choice::{about, refuse},
};
use crate::{
    clock,
    error::{Error, Kind, Result},
    store::{NodeRow, NodeState},
};

/// For how many days metadata of [`Freshness::Connected`] holds.
const CONNECTED_DAYS: u32 = 7;

impl Hub {
    /// Signs what a stick for these nodes carries beside blobs. Those that wait for approval get nothing.
    pub(crate) async fn usb_metadata(&self, who: &Operator, asked: MediaNodes) -> Result<MediaFiles> {
        let members = self.members_for_a_stick(asked).await?;
        let longest = longest(members.iter().map(|row| row.freshness));
        let artifacts = self.signer.export_artifacts(longest).await?;
        let mut expires = artifacts.expires;
        let problems = targets_end_first(&artifacts).into_iter().collect();
        let mut files = BTreeMap::new();
        take(&mut files, ARTIFACTS, artifacts)?;
        let mut changes = Vec::with_capacity(members.len());
        for row in &members {
            let signed = self.signer.export_director(row.id.clone(), row.acknowledged, row.freshness).await?;
            expires = expires.min(signed.expires);
            let (freshness, until) = (row.freshness, clock::rfc3339(signed.expires.as_millisecond()));
            changes.push(json!({"freshness": freshness, "acknowledged": row.acknowledged, "expires": until}));
            take(&mut files, &format!("{DIRECTOR}/{}", row.id), signed)?;
            let grant = serde_json::to_string(&self.grant(row).await?)
                .map_err(|e| Error::internal("the hub could not write a grant", e))?;
            files.insert(grant_path(&row.id), grant);
        }
        let now = clock::now_ms();
        let mut tx = self.store.begin().await?;
        for (row, after) in members.iter().zip(changes) {
            tx.audit(now, who.change("usb.export", row.id.as_str(), None, Some(after))).await?;
        }
        tx.commit().await?;
        self.metrics.count_exports(members.len() as u64);
        Ok(MediaFiles { files, expires: clock::rfc3339(expires.as_millisecond()), problems })
    }

    /// Those of the nodes that are members, each once; refuses nodes that are not known, all of them at once.
    async fn members_for_a_stick(&self, MediaNodes { mut nodes }: MediaNodes) -> Result<Vec<NodeRow>> {
        if nodes.is_empty() {
            return Err(Error::new(Kind::Malformed, "no node is named; name those that the stick is for"));
        }
        if nodes.len() > MAX_METADATA_NODES {
            let text = format!("{} nodes in one request", nodes.len());
            return Err(Error::new(Kind::TooLarge, format!("{text}; name at most {MAX_METADATA_NODES}")));
        }
        nodes.sort();
        nodes.dedup();
        let mut members = Vec::with_capacity(nodes.len());
        let mut problems = Vec::new();
        for id in &nodes {
            let Some(row) = self.store.node(id).await?.filter(|row| row.state != NodeState::Removed) else {
                problems.push((Kind::NotFound, format!("node {id} does not exist; see `cairn node ls`")));
                continue;
            };
            if row.state != NodeState::Approved {
                continue;
            }
            if self.store.published_generation(id).await? == 0 {
                let text = "nothing is signed for it yet; see the hub's log, then export again";
                problems.push((Kind::Conflict, about(&row, text)));
            }
            members.push(row);
        }
        refuse(problems)?;
        Ok(members)
    }
}

/// The longest of all: the artifacts repository is shared, and must hold for whoever is away longest.
fn longest(all: impl Iterator<Item = Freshness>) -> Freshness {
    all.max_by_key(|freshness| match freshness {
        Freshness::Connected => CONNECTED_DAYS,
        Freshness::Days(days) => *days,
        Freshness::Unlimited => u32::MAX,
    })
    .unwrap_or_default()
}

/// What to say where the operators' signature on the artifacts is the first to end: their key is not here to renew it.
fn targets_end_first(artifacts: &Exported) -> Option<String> {
    (artifacts.ends_first == "targets").then(|| {
        format!(
            "the operators' signature on the artifacts ends at {}, before the nodes' freshness does, and the stick with \
             it; renew it with `cairn artifact sign` or set a shorter freshness, then export again",
            clock::rfc3339(artifacts.expires.as_millisecond())
        )
    })
}

/// Puts what was signed below `folder`.
fn take(files: &mut BTreeMap<String, String>, folder: &str, signed: Exported) -> Result<()> {
    for (name, bytes) in signed.files {
        let text = String::from_utf8(bytes)
            .map_err(|e| Error::internal("the hub could not read what it signed", e))?;
        files.insert(format!("{folder}/{name}"), text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_counts_by_days_and_not_by_name() {
        use Freshness::{Connected, Days, Unlimited};
        for (all, expected) in [
            (vec![], Connected),
            (vec![Days(3), Connected], Connected),
            (vec![Connected, Days(8), Days(3)], Days(8)),
            (vec![Days(3650), Unlimited, Connected], Unlimited),
        ] {
            assert_eq!(longest(all.clone().into_iter()), expected, "{all:?}");
        }
    }
}
