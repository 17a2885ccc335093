//! What each node would do with a release that is made desired there: from what the nodes last said and what the hub
//! holds. Pure. It decides nothing: the hub and the node do, the node from what is signed.

use std::collections::BTreeSet;

use cairn_model::{
    NodeId, OsVersion, Release,
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

/// The outlook of every one of `nodes`, for the one of `offers` that is for it: all of one version.
pub(crate) fn outlook(offers: &[&OsRelease], nodes: &[OsNode], allowed: Allowed) -> Vec<NodeOutlook> {
    nodes
        .iter()
        .map(|node| NodeOutlook {
            node: node.node.clone(),
            hostname: node.hostname.clone(),
            online: node.online,
            runs: node.status.as_ref().map(|status| status.version.clone()),
            outlook: of_node(offers, node.status.as_ref(), allowed),
        })
        .collect()
}

fn of_node(offers: &[&OsRelease], status: Option<&OsStatus>, allowed: Allowed) -> Outlook {
    let refuses = |cause: String, cure: &str| Outlook::Refuses { cause, cure: cure.to_owned() };
    let Some(status) = status else {
        let cure = "wait for its next report, or flash it with an appliance image";
        return refuses("it has not said which OS it runs".into(), cure);
    };
    let Some(offer) = offers.iter().find(|offer| offer.release.compatible == status.compatible) else {
        let others: BTreeSet<_> = offers.iter().map(|offer| offer.release.compatible.as_str()).collect();
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        let cause = format!("it is a {}, the release is for {others}", status.compatible);
        return refuses(cause, "name a release that is for it (`cairn os ls`)");
    };
    if status.version == offer.release.version {
        return Outlook::Runs;
    }
    match obstacle(offer, status, allowed) {
        Some((cause, cure)) => refuses(cause, cure),
        None => installs(&offer.release, &status.version),
    }
}

/// Cause and cure, in the order in which hub and node look.
fn obstacle(offer: &OsRelease, status: &OsStatus, allowed: Allowed) -> Option<(String, &'static str)> {
    let OsRelease { digest, release, signed, .. } = offer;
    let (runs, version) = (&status.version, &release.version);
    if !signed {
        return Some((
            format!("{version} is not signed by an operator"),
            "run `cairn artifact sign --key FILE`",
        ));
    }
    if *runs > *version && !allowed.downgrade {
        return Some((format!("it runs {runs}, which is newer"), "allow it with --allow-downgrade"));
    }
    if let Some(min) = release.min_version.as_ref().filter(|min| *runs < **min) {
        let cause = format!("it runs {runs}, and {version} can only follow {min} or newer");
        return Some((cause, "set a release between them first"));
    }
    let failed_there = status.state == OsState::RolledBack && status.release.as_ref() == Some(digest);
    if failed_there && !allowed.retry {
        let detail = status.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        return Some((format!("it failed there before{detail}"), "try it again with --retry"));
    }
    None
}

fn installs(release: &Release, runs: &OsVersion) -> Outlook {
    let full = full_size(release);
    let patch = release.patches.iter().find(|patch| patch.from == *runs);
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
    use cairn_model::Digest;
    use serde_json::{Value, json};

    use super::*;
    use crate::contents::tests::release_json;

    fn offer(compatible: &str, signed: bool) -> OsRelease {
        let mut release = release_json();
        release["compatible"] = json!(compatible);
        release["chunks"]["pack"]["size"] = json!(250_000_000);
        release["patches"][0]["blob"]["size"] = json!(7_000_000);
        serde_json::from_value(json!({"digest": Digest::of(b"wanted"), "release": release, "signed": signed,
            "pushed_at": "2026-06-01T12:00:00Z", "desired": 0, "running": 0}))
        .unwrap()
    }

    fn node(change: &Value) -> OsNode {
        let mut status = json!({"version": "1.1.0", "compatible": "cairn-generic-amd64", "slot": "a", "other": null,
            "state": "idle"});
        for (key, value) in change.as_object().unwrap() {
            status[key] = value.clone();
        }
        serde_json::from_value(json!({"node": "n-aaaa000000000000", "hostname": "aaa", "online": true,
            "desired": null, "status": status}))
        .unwrap()
    }

    fn check(change: &Value, allowed: Allowed) -> Outlook {
        let (offer, other) = (offer("cairn-generic-amd64", true), offer("board", true));
        outlook(&[&other, &offer], &[node(change)], allowed).remove(0).outlook
    }

    #[track_caller]
    fn refused(outlook: &Outlook, cause: &str, cure: &str) {
        let Outlook::Refuses { cause: said, cure: helps } = outlook else {
            panic!("{outlook:?} is no refusal")
        };
        assert!(said.contains(cause) && helps.contains(cure), "{said}; {helps}");
    }

    #[test]
    fn says_what_a_node_would_refuse_and_what_helps() {
        let failed =
            json!({"state": "rolled-back", "release": Digest::of(b"wanted"), "detail": "web is unhealthy"});
        let foreign = "it is a other, the release is for board, cairn-generic-amd64";
        for (change, cause, cure) in [
            (json!({"compatible": "other"}), foreign, "cairn os ls"),
            (json!({"compatible": "other", "version": "1.2.0"}), foreign, "cairn os ls"),
            (json!({"version": "1.0.0~rc1"}), "can only follow 1.0.0 or newer", "between them"),
            (json!({"version": "1.10.0"}), "it runs 1.10.0, which is newer", "--allow-downgrade"),
            (failed, "it failed there before: web is unhealthy", "--retry"),
        ] {
            refused(&check(&change, Allowed::default()), cause, cure);
        }
        let mut silent = node(&json!({}));
        silent.status = None;
        let outlooks = |offer: &OsRelease, node: OsNode| outlook(&[offer], &[node], Allowed::default());
        let signed = offer("cairn-generic-amd64", true);
        refused(&outlooks(&signed, silent)[0].outlook, "has not said which OS", "next report");
        let unsigned = offer("cairn-generic-amd64", false);
        refused(&outlooks(&unsigned, node(&json!({})))[0].outlook, "not signed", "cairn artifact sign");
    }

    #[test]
    fn what_is_allowed_by_name_is_no_refusal_and_nothing_else_is() {
        let all = Allowed { downgrade: true, retry: true };
        let failed = json!({"state": "rolled-back", "release": Digest::of(b"wanted")});
        assert!(!check(&json!({"version": "1.10.0"}), all).is_refusal());
        assert!(!check(&failed, all).is_refusal());
        assert!(check(&json!({"compatible": "other"}), all).is_refusal());
        assert!(check(&json!({"version": "0.9"}), all).is_refusal());
        // That another release failed is no reason.
        let other = json!({"state": "rolled-back", "release": Digest::of(b"other")});
        assert!(!check(&other, Allowed::default()).is_refusal());
    }

    #[test]
    fn takes_a_patch_where_there_is_one_and_it_is_smaller() {
        let full = 250_000_005;
        let none = Allowed::default();
        let expected = Outlook::Installs { method: OsMethod::Patch, bytes: 7_000_000, full };
        assert_eq!(check(&json!({}), none), expected);
        let expected = Outlook::Installs { method: OsMethod::Chunks, bytes: full, full };
        assert_eq!(check(&json!({"version": "1.0.5"}), none), expected);
        assert_eq!(check(&json!({"version": "1.2.0"}), none), Outlook::Runs);
    }
}
