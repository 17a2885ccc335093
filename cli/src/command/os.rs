//! `cairn os`: releases, which of them nodes run, and how far their updates are.

use cairn_model::{
    Digest, Release,
    api::{OsNode, OsNodes, OsRelease},
};
use reqwest::Method;

use super::node::choose;
use crate::{
    args::{Format, OsMany, OsStatus, OsTargets, OsVerb},
    client::Client,
    failure::{Failure, Kind},
    render, screen,
};

const NO_RELEASE: &str = "no release; make one with `cairn-image release` and push it with `cairn os push`";

pub(super) async fn run(connect: &impl Fn() -> Result<Client, Failure>, verb: OsVerb) -> Result<(), Failure> {
    match verb {
        OsVerb::Push { layout, output } => super::os_push::run(connect, &layout, output.output).await,
        OsVerb::Ls(output) => super::show_list(output.output, &releases(&connect()?).await?, NO_RELEASE),
        OsVerb::Show { release, output } => {
            let releases = releases(&connect()?).await?;
            super::show_one(output.output, only(&choose_releases(&releases, &release)?, &release)?)
        }
        OsVerb::Set(args) => super::os_set::run(&connect()?, args).await,
        OsVerb::Unset(args) => {
            let tell = |node: &OsNode| match &node.status {
                Some(status) => format!("keeps {}", status.version),
                None => "keeps what it runs".to_owned(),
            };
            change(&connect()?, "unset", args, tell, "no OS was desired there: nothing has changed").await
        }
        OsVerb::Apply(args) => {
            let tell = |node: &OsNode| match node.status.as_ref().and_then(|status| status.target.as_ref()) {
                Some(target) if node.online => format!("restarts into {target}"),
                Some(target) => format!("restarts into {target} once it is back"),
                None => "restarts into the OS that stands written there".to_owned(),
            };
            let none = "no OS stands written there that waits for a restart; see `cairn os status`";
            change(&connect()?, "apply", args, tell, none).await
        }
        OsVerb::Status(args) => status(&connect()?, args).await,
    }
}

pub(super) async fn releases(client: &Client) -> Result<Vec<OsRelease>, Failure> {
    client.get(&["os", "releases"], &[]).await
}

/// By version, else by digest or the beginning of one; never by guess. Several have one version, for several kinds of
/// machines.
pub(super) fn choose_releases<'a>(
    releases: &'a [OsRelease],
    wanted: &str,
) -> Result<Vec<&'a OsRelease>, Failure> {
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let begins = |release: &&OsRelease| digits.len() >= 6 && release.digest.hex().starts_with(digits);
    let by_version: Vec<_> =
        releases.iter().filter(|release| release.release.version.as_str() == wanted).collect();
    if !by_version.is_empty() {
        return Ok(by_version);
    }
    match releases.iter().filter(begins).collect::<Vec<_>>() {
        found if found.is_empty() => {
            Err(Failure::not_found(format!("there is no release {wanted} in the hub")).cure("cairn os ls"))
        }
        found if found.len() > 1 => Err(ambiguous(wanted, &found)),
        found => Ok(found),
    }
}

fn only<'a>(found: &[&'a OsRelease], wanted: &str) -> Result<&'a OsRelease, Failure> {
    match found {
        [release] => Ok(release),
        several => Err(ambiguous(wanted, several)),
    }
}

fn ambiguous(wanted: &str, found: &[&OsRelease]) -> Failure {
    let known = |release: &&OsRelease| {
        format!("{} is {} for {}", release.digest, release.release.version, release.release.compatible)
    };
    Failure::usage(format!("{wanted} can be {} releases", found.len()))
        .cure("name its digest")
        .problems(found.iter().take(5).map(known).collect())
}

/// The nodes that are meant, as the hub is told: ids, so that a typing mistake changes nothing.
pub(super) async fn resolve(client: &Client, targets: &OsTargets) -> Result<(OsNodes, Vec<OsNode>), Failure> {
    let mut found: Vec<OsNode> = Vec::new();
    let mut ids = Vec::new();
    if !targets.nodes.is_empty() || targets.all {
        let all: Vec<OsNode> = client.get(&["os", "nodes"], &[]).await?;
        for wanted in &targets.nodes {
            let node = choose(&all, wanted)?;
            if !ids.contains(&node.node.to_string()) {
                ids.push(node.node.to_string());
                found.push(node.clone());
            }
        }
        if targets.all {
            found = all;
        }
    }
    if let Some(selector) = &targets.selector {
        let selected: Vec<OsNode> = client.get(&["os", "nodes"], &[("selector", selector)]).await?;
        for node in selected {
            if found.iter().all(|known| known.node != node.node) {
                found.push(node);
            }
        }
    }
    if found.is_empty() {
        return Err(Failure::not_found("no member of the fleet is meant by that").cure("cairn node ls"));
    }
    // A selector of nothing is every member.
    let selector = if targets.all { Some(String::new()) } else { targets.selector.clone() };
    Ok((OsNodes { nodes: ids, selector }, found))
}

/// `unset` and `apply`: one question, and a line for each node that it changed.
async fn change(
    client: &Client,
    verb: &str,
    args: OsMany,
    tell: impl Fn(&OsNode) -> String,
    if_none: &str,
) -> Result<(), Failure> {
    let (nodes, _) = resolve(client, &args.targets).await?;
    let changed: Vec<OsNode> = client.send(Method::POST, &["os", verb], &nodes).await?;
    match args.output.output {
        Format::Table | Format::Wide => {
            for node in &changed {
                screen::print(&format!("{} ({}) {}\n", node.node, host(node), tell(node)))?;
            }
            if changed.is_empty() {
                screen::note(if_none);
            }
            Ok(())
        }
        format => super::show_list(format, &changed, if_none),
    }
}

pub(super) fn host(node: &OsNode) -> String {
    render::text::clean(&node.hostname)
}

async fn status(client: &Client, args: OsStatus) -> Result<(), Failure> {
    let format = args.output.output;
    if !args.watch {
        let nodes = nodes_of(client, &args).await?;
        let narrowed = args.selector.is_some();
        let empty =
            if narrowed { "no node has these labels" } else { "no node is a member of the fleet yet" };
        return super::show_list(format, &nodes, empty);
    }
    super::watch::redraw_on_change(
        async || nodes_of(client, &args).await,
        |nodes, now| render::list(format, nodes, now),
    )
    .await
}

/// Without names and labels: all.
async fn nodes_of(client: &Client, args: &OsStatus) -> Result<Vec<OsNode>, Failure> {
    if args.nodes.is_empty() && args.selector.is_none() {
        return client.get(&["os", "nodes"], &[]).await;
    }
    let targets = OsTargets { nodes: args.nodes.clone(), selector: args.selector.clone(), all: false };
    match resolve(client, &targets).await {
        Ok((_, found)) => Ok(found),
        // Labels that nobody has are no mistake here.
        Err(failure) if args.nodes.is_empty() && failure.kind == Kind::NotFound => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

/// Another release of the same version for the same machines: people, boot entries and labels could not tell the two
/// apart.
pub(super) fn same_version<'a>(
    releases: &'a [OsRelease],
    pushed: &Digest,
    release: &Release,
) -> Option<&'a OsRelease> {
    releases.iter().find(|known| {
        known.digest != *pushed
            && known.release.version == release.version
            && known.release.compatible == release.compatible
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contents::tests::release_json;

    fn release(digest: char, version: &str, compatible: &str) -> OsRelease {
        let mut release = release_json();
        release["version"] = json!(version);
        release["compatible"] = json!(compatible);
        let digest = format!("sha256:{}", digest.to_string().repeat(64));
        serde_json::from_value(json!({"digest": digest, "release": release, "signed": true,
            "pushed_at": "2026-06-01T12:00:00Z", "desired": 0, "running": 0}))
        .unwrap()
    }

    #[test]
    fn a_release_is_found_by_version_or_beginning_of_a_digest() {
        let releases = [release('a', "1.0", "x"), release('b', "1.1", "x"), release('c', "1.1", "y")];
        let check = |wanted: &str| {
            let found = choose_releases(&releases, wanted).map_err(|f| f.kind)?;
            Ok::<_, Kind>(found.iter().map(|r| &r.digest.hex()[..1]).collect::<String>())
        };
        assert_eq!(check("1.0"), Ok("a".into()));
        assert_eq!(check("1.1"), Ok("bc".into()));
        assert_eq!(check("bbbbbb"), Ok("b".into()));
        assert_eq!(check(&format!("sha256:{}", "c".repeat(64))), Ok("c".into()));
        for nothing in ["1", "aaaaa", "", "sha256:"] {
            assert_eq!(check(nothing), Err(Kind::NotFound), "{nothing:?}");
        }
        let twins = [release('a', "1.0", "x"), release('a', "1.1", "x")];
        assert_eq!(choose_releases(&twins, "aaaaaa").unwrap_err().kind, Kind::Usage);
        assert!(
            only(&choose_releases(&releases, "1.1").unwrap(), "1.1").is_err_and(|f| f.problems.len() == 2)
        );
    }

    #[test]
    fn one_version_of_one_kind_of_machine_is_one_release() {
        let releases = [release('a', "1.0", "x")];
        let check = |other: &OsRelease| same_version(&releases, &other.digest, &other.release).is_some();
        assert!(check(&release('b', "1.0", "x")));
        assert!(!check(&release('a', "1.0", "x")));
        assert!(!check(&release('b', "1.0", "y")));
        assert!(!check(&release('b', "1.1", "x")));
    }
}
