//! `cairn os set`: which OS nodes shall run, when they restart into it, and what decides whether it stays.

use cairn_model::{
    api::{OsNode, OsRelease, OsSet as Question},
    desired::{OsHealth, RebootPolicy},
};
use jiff::Timestamp;
use reqwest::Method;

use super::os::{choose_releases, host, releases, resolve};
use crate::{
    args::{Format, OsSet, RebootArg},
    client::Client,
    failure::Failure,
    os_outlook::{Allowed, NodeOutlook, outlook},
    render, screen,
};

/// What a desired state can hold (`cairn_model::desired`).
const MAX_WINDOWS: usize = 32;
const MAX_DEADLINE_SECONDS: u64 = 86_400;

pub(super) async fn run(client: &Client, args: OsSet) -> Result<(), Failure> {
    let reboot = reboot(&args)?;
    let health = health(&args)?;
    let releases = releases(client).await?;
    let offers = choose_releases(&releases, &args.release)?;
    let (nodes, found) = resolve(client, &args.targets).await?;
    let allowed = Allowed { downgrade: args.allow_downgrade, retry: args.retry };
    let format = args.output.output;
    if args.dry_run {
        return dry_run(format, &offers, &found, allowed, &reboot);
    }
    let question = Question {
        release: name(&offers),
        nodes,
        allow_downgrade: args.allow_downgrade,
        retry: args.retry,
        reboot,
        health,
    };
    let changed: Vec<OsNode> = client.send(Method::POST, &["os", "set"], &question).await?;
    if !matches!(format, Format::Table | Format::Wide) {
        return super::show_list(format, &changed, "");
    }
    screen::print(&render::list(format, &outlook(&offers, &changed, allowed), Timestamp::now())?)?;
    for node in found.iter().filter(|node| changed.iter().all(|other| other.node != node.node)) {
        screen::note(&format!("{} ({}) is told that already: nothing has changed", node.node, host(node)));
    }
    tell_when(&question.reboot);
    if !changed.is_empty() {
        screen::note("see how far they are: cairn os status --watch");
    }
    Ok(())
}

/// Shows what would come of it. Ends as a refusal where a node would refuse: a script can ask first.
fn dry_run(
    format: Format,
    offers: &[&OsRelease],
    nodes: &[OsNode],
    allowed: Allowed,
    reboot: &RebootPolicy,
) -> Result<(), Failure> {
    let outlooks: Vec<NodeOutlook> = outlook(offers, nodes, allowed);
    screen::print(&render::list(format, &outlooks, Timestamp::now())?)?;
    tell_when(reboot);
    let refusals = outlooks.iter().filter(|node| node.outlook.is_refusal()).count();
    if refusals == 0 {
        return Ok(());
    }
    Err(Failure::refused(format!("{refusals} of {} nodes would refuse it", outlooks.len())))
}

/// The digest where one release is meant: it stays that one, whatever is pushed meanwhile. Where several have the
/// version, each node gets the one that is for it.
fn name(offers: &[&OsRelease]) -> String {
    match offers {
        [one] => one.digest.to_string(),
        several => several.first().map(|first| first.release.version.to_string()).unwrap_or_default(),
    }
}

fn tell_when(reboot: &RebootPolicy) {
    screen::note(&format!("nodes that install it restart into it {}", render::os::restarts(reboot)));
}

fn reboot(args: &OsSet) -> Result<RebootPolicy, Failure> {
    let windows = args.windows.clone();
    match (args.reboot, windows.is_empty()) {
        (None | Some(RebootArg::AtOnce), true) => Ok(RebootPolicy::AtOnce),
        (Some(RebootArg::Manual), true) => Ok(RebootPolicy::Manual),
        (Some(RebootArg::Window), true) => Err(Failure::usage("--reboot window needs a --window")
            .cure("--window 'Mon..Fri 02:00-04:00' --time-zone Europe/Berlin")),
        (Some(RebootArg::AtOnce | RebootArg::Manual), false) => {
            Err(Failure::usage("--window is only for --reboot window").cure("leave one of the two away"))
        }
        (None | Some(RebootArg::Window), false) if windows.len() > MAX_WINDOWS => {
            Err(Failure::usage(format!("{} windows are more than {MAX_WINDOWS}", windows.len())))
        }
        (None | Some(RebootArg::Window), false) => {
            let time_zone = args.time_zone.clone().unwrap_or_else(|| "UTC".into());
            Ok(RebootPolicy::Window { windows, time_zone })
        }
    }
}

fn health(args: &OsSet) -> Result<OsHealth, Failure> {
    let seconds = args.health_deadline.as_secs();
    match u32::try_from(seconds) {
        Ok(deadline_seconds) if seconds <= MAX_DEADLINE_SECONDS => {
            Ok(OsHealth { deadline_seconds, hub: !args.no_hub_check })
        }
        _ => Err(Failure::usage("--health-deadline is longer than a day").cure("--health-deadline 10m")),
    }
}
