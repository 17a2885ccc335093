//! `cairn app deploy`: hands a Compose file to the hub, and waits where that is wanted until it runs everywhere.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use cairn_model::{
    AppName,
    api::{AppStatus, AppSummary, Deploy, Node},
    compose::App,
};
use reqwest::Method;

use crate::{args::AppDeploy, client::Client, config::read_text, failure::Failure, screen::Progress};

const INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    args: AppDeploy,
) -> Result<(), Failure> {
    let compose = read_text(&args.file, "Compose file")?;
    let app = check(&args.file, &compose)?;
    let name = match args.name.or(app.name) {
        Some(name) => name,
        None => name_of_folder(&args.file)?,
    };
    let file = args.file.file_name().unwrap_or(args.file.as_os_str()).to_string_lossy().into_owned();
    let client = connect()?;
    let deploy = Deploy { file, compose };
    let summary: AppSummary = client.send(Method::PUT, &["apps", name.as_str()], &deploy).await?;
    if !args.wait {
        super::show_one(args.output.output, &summary)?;
        return Ok(());
    }
    let status = wait(&client, &name, Instant::now() + args.timeout).await?;
    super::show_one(args.output.output, &status)
}

/// The file as this version understands it: a mistake in it is found before anything is sent.
fn check(file: &Path, compose: &str) -> Result<App, Failure> {
    App::parse(&file.display().to_string(), compose).map_err(|problems| {
        Failure::refused(format!("{} is not accepted", file.display()))
            .cure("mend these lines; where a newer hub knows better, use its version of cairn")
            .problems(problems.lines().collect())
    })
}

/// The name of the folder that the file is in, as Compose has it.
fn name_of_folder(file: &Path) -> Result<AppName, Failure> {
    let folder = file
        .canonicalize()
        .ok()
        .and_then(|path| Some(path.parent()?.file_name()?.to_string_lossy().to_lowercase()))
        .unwrap_or_default();
    folder.parse().map_err(|error| {
        Failure::usage(format!("the app has no name: no `name:` in the file, and its folder: {error}"))
            .cure("give it with --name")
    })
}

/// Until every replica is ready *and* every node of them has applied the generation that the hub wants there: before
/// that, what runs may still be what ran.
async fn wait(client: &Client, name: &AppName, deadline: Instant) -> Result<AppStatus, Failure> {
    let mut progress = Progress::new();
    loop {
        let status: AppStatus = client.get(&["apps", name.as_str()], &[]).await?;
        let nodes: Vec<Node> = client.get(&["nodes"], &[]).await?;
        let Some(missing) = missing(&status, &nodes) else { return Ok(status) };
        if Instant::now() >= deadline {
            progress.clear();
            return Err(timed_out(name, &status, &missing));
        }
        progress
            .line(&format!("{name}: {}/{} ready; {missing}", status.summary.ready, status.summary.desired));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is still waited for; nothing once all is as it should be.
fn missing(status: &AppStatus, nodes: &[Node]) -> Option<String> {
    // What waits for a signature or a place is not in the replicas: they may all be of the version before.
    if let Some(problem) = status.summary.problems.first() {
        return Some(problem.clone());
    }
    if status.replicas.is_empty() {
        return Some("no replica is placed on any node".into());
    }
    for replica in &status.replicas {
        let place = format!("{} on {}", replica.service, replica.hostname);
        let node = nodes.iter().find(|node| node.id == replica.node);
        let applied = node.and_then(|node| Some(node.status.as_ref()?.generation >= node.desired_generation));
        if applied != Some(true) {
            return Some(format!("{} has not applied it yet", replica.hostname));
        }
        let Some(workload) = &replica.status else { return Some(format!("{place} is not reported yet")) };
        if !workload.is_well() {
            return Some(format!("{place} is not ready"));
        }
    }
    None
}

fn timed_out(name: &AppName, status: &AppStatus, missing: &str) -> Failure {
    let mut problems: Vec<_> = status.summary.problems.iter().skip(1).cloned().collect();
    for replica in &status.replicas {
        if let Some(detail) = replica.status.as_ref().and_then(|status| status.detail.as_ref()) {
            problems.push(format!("{} on {}: {detail}", replica.service, replica.hostname));
        }
    }
    let counts = format!("{} of {} ready", status.summary.ready, status.summary.desired);
    Failure::timeout(format!("{name} is deployed, but not running everywhere yet ({counts}): {missing}"))
        .cure(format!("cairn app status {name} --watch; cairn app logs {name}"))
        .problems(problems)
}
