//! What each node would do with a release that is made desired there: from what the nodes last said and what the hub
//! holds. Pure. It decides nothing: the hub and the node do, the node from what is signed.

use cairn_model::{
    Digest, NodeId, OsVersion, Release,
    api::{OsNode, OsRelease},
    report::{OsMethod, OsState, OsStatus},
};
use serde::Serialize;

/// What an operator allowed by name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowed {
    pub(crate) downgrade: bool,
    pub(crate) retry: bool,
}

/// One node and its outlook.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NodeOutlook {
    pub(crate) node: NodeId,
    pub(crate) hostname: String,
    pub(crate) online: bool,
    /// What it runs, as it last said.
    pub(crate) runs: Option<OsVersion>,
    pub(crate) outlook: Outlook,
}

/// What a node would do.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Outlook {
    /// Nothing: it runs that.
    Runs,
    /// Nobody knows: it has not said what it runs.
    Unknown,
    /// It would fetch that much, at most, and write it.
    Installs { method: OsMethod, bytes: u64, full: u64 },
    /// It would not take it.
    Refuses { cause: String, cure: String },
}

impl Outlook {
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refuses { .. })
    }
}

/// The outlook of every one of `nodes`.
pub(crate) fn outlook(wanted: &OsRelease, nodes: &[OsNode], allowed: Allowed) -> Vec<NodeOutlook> {
    nodes
        .iter()
        .map(|node| NodeOutlook {
            node: node.node.clone(),
            hostname: node.hostname.clone(),
            online: node.online,
            runs: node.status.as_ref().map(|status| status.version.clone()),
            outlook: match &node.status {
                Some(status) => of_node(&wanted.digest, &wanted.release, status, allowed),
                None => Outlook::Unknown,
            },
        })
        .collect()
}

fn of_node(digest: &Digest, release: &Release, status: &OsStatus, allowed: Allowed) -> Outlook {
    let refuses = |cause: String, cure: &str| Outlook::Refuses { cause, cure: cure.to_owned() };
    if status.compatible != release.compatible {
        let cause = format!("it is a {}, the release is for {}", status.compatible, release.compatible);
        return refuses(cause, "choose a release for it: `cairn os ls`");
    }
    if status.version == release.version {
        return Outlook::Runs;
    }
    if let Some(min) = release.min_version.as_ref().filter(|min| status.version < **min) {
        let cause = format!("it runs {}, and this release can only follow {min} or newer", status.version);
        return refuses(cause, "set a release in between first");
    }
    if status.version > release.version && !allowed.downgrade {
        return refuses(format!("it runs {}, which is newer", status.version), "--allow-downgrade");
    }
    let failed_there = status.state == OsState::RolledBack && status.release.as_ref() == Some(digest);
    if failed_there && !allowed.retry {
        let cause = match &status.detail {
            Some(detail) => format!("it failed there before: {detail}"),
            None => "it failed there before".to_owned(),
        };
        return refuses(cause, "--retry");
    }
    let full = full_size(release);
    let patch = release.patches.iter().find(|patch| patch.from == status.version);
    match patch.map(|patch| patch.blob.size).filter(|bytes| *bytes < full) {
        Some(bytes) => Outlook::Installs { method: OsMethod::Patch, bytes, full },
        None => Outlook::Installs { method: OsMethod::Chunks, bytes: full, full },
    }
}

/// What a node fetches that has nothing of a release yet.
pub(crate) fn full_size(release: &Release) -> u64 {
    release.chunks.index.size.saturating_add(release.chunks.pack.size)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contents::tests::release_json;

    fn wanted() -> OsRelease {
        let mut release = release_json();
        release["chunks"]["pack"]["size"] = json!(250_000_000);
        release["patches"][0]["blob"]["size"] = json!(7_000_000);
        serde_json::from_value(json!({"digest": Digest::of(b"wanted"), "release": release, "signed": true,
            "pushed_at": "2026-06-01T12:00:00Z", "desired": 0, "running": 0}))
        .unwrap()
    }

    fn check(change: Value, allowed: Allowed) -> Outlook {
        let mut status = json!({"version": "1.1.0", "compatible": "cairn-generic-amd64", "slot": "a", "other": null,
            "state": "idle"});
        for (key, value) in change.as_object().unwrap() {
            status[key] = value.clone();
        }
        let node =
            serde_json::from_value(json!({"node": "n-aaaa000000000000", "hostname": "aaa", "online": true,
            "desired": null, "status": status}));
        outlook(&wanted(), &[node.unwrap()], allowed).remove(0).outlook
    }

    #[test]
    fn says_what_a_node_would_refuse_and_what_helps() {
        let failed =
            json!({"state": "rolled-back", "release": Digest::of(b"wanted"), "detail": "web is unhealthy"});
        for (change, cause, cure) in [
            (
                json!({"compatible": "other"}),
                "it is a other, the release is for cairn-generic",
                "cairn os ls",
            ),
            (json!({"compatible": "other", "version": "1.2.0"}), "is for cairn-generic", "cairn os ls"),
            (json!({"version": "1.0.0~rc1"}), "only follow 1.0.0 or newer", "in between"),
            (json!({"version": "1.10.0"}), "it runs 1.10.0, which is newer", "--allow-downgrade"),
            (failed, "it failed there before: web is unhealthy", "--retry"),
        ] {
            let Outlook::Refuses { cause: said, cure: helps } = check(change.clone(), Allowed::default())
            else {
                panic!("{change} is not refused")
            };
            assert!(said.contains(cause) && helps.contains(cure), "{said}; {helps}");
        }
    }

    #[test]
    fn what_is_allowed_by_name_is_no_refusal_and_nothing_else_is() {
        let all = Allowed { downgrade: true, retry: true };
        let failed = json!({"state": "rolled-back", "release": Digest::of(b"wanted")});
        assert!(!check(json!({"version": "1.10.0"}), all).is_refusal());
        assert!(!check(failed, all).is_refusal());
        assert!(check(json!({"compatible": "other"}), all).is_refusal());
        assert!(check(json!({"version": "0.9"}), all).is_refusal());
        // That another release failed is no reason.
        let other = json!({"state": "rolled-back", "release": Digest::of(b"other")});
        assert!(!check(other, Allowed::default()).is_refusal());
    }

    #[test]
    fn takes_a_patch_where_there_is_one_and_it_is_smaller() {
        let full = 250_000_005;
        let none = Allowed::default();
        let expected = Outlook::Installs { method: OsMethod::Patch, bytes: 7_000_000, full };
        assert_eq!(check(json!({}), none), expected);
        let expected = Outlook::Installs { method: OsMethod::Chunks, bytes: full, full };
        assert_eq!(check(json!({"version": "1.0.5"}), none), expected);
        assert_eq!(check(json!({"version": "1.2.0"}), none), Outlook::Runs);
    }
}
