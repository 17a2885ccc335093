//! The scenarios on the test image, as many at once as there are cores: under emulation a node takes one whole.

use std::{
    collections::VecDeque,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use cairn_tests_vm::child;
use serde_json::Value;

use super::{Tally, failures, one, tally};
use crate::{
    examples,
    image::{self, Flavour},
    process, releases,
};

/// Nodes at once, however many cores there are: each has some 800 MB of memory.
const MOST_LANES: usize = 4;

/// They take longest, so they begin first.
const LONG: [&str; 9] = [
    "power_cuts",
    "update_unhealthy_workload_falls_back",
    "update_killed_at_random",
    "corrupt_slot_falls_over",
    "stick_round_trip_outbox",
    "update_bad_boot_falls_back",
    "stick_os_update",
    "update_interrupted_resumes",
    "update_good",
];

/// `./x demo --once`, which is one more scenario: what the README promises first, on the image that users get.
const DEMO: &str = "demo";

/// What `./x soak` has time for, and `./x test` has not: together they take as long as all others. What they promise is
/// tested without a machine too, by the crates that keep it.
pub(super) const SOAK_ONLY: [&str; 5] =
    ["stick_enrolment", "stick_hostile", "stick_older_refused", "stick_pulled", "stick_unlucky"];

/// What a scenario is told by environment variables: name and value.
pub(super) type Setting = (&'static str, String);

/// Runs those whose name contains one of `names`; where none is named, all but [`SOAK_ONLY`].
pub(super) fn run(names: &[String], settings: &[Setting]) -> Result<Tally> {
    examples::build()?;
    releases::build()?;
    image::build(Flavour::Production)?;
    let mut found = binaries()?;
    found.push((DEMO.to_owned(), env::current_exe().context("this program is gone")?));
    found.retain(|(name, _)| match names {
        [] => !SOAK_ONLY.contains(&name.as_str()),
        names => names.iter().any(|part| name.contains(part)),
    });
    if names.is_empty() {
        eprintln!("  left to `./x soak`: {}", SOAK_ONLY.join(", "));
    }
    ensure!(!found.is_empty(), "no scenario is named like that; they are the files in tests-vm/tests");
    found.sort_by_key(|(name, _)| {
        (LONG.iter().position(|long| long == name).unwrap_or(LONG.len()), name.clone())
    });
    let queue = Mutex::new(VecDeque::from(found));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let lanes = thread::available_parallelism().map_or(1, usize::from).min(MOST_LANES);
    let outcomes = thread::scope(|scope| {
        let lane = || -> Vec<Result<Tally>> {
            std::iter::from_fn(next).map(|(name, binary)| scenario(&name, &binary, settings)).collect()
        };
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().filter_map(|lane| lane.join().ok()).flatten().collect::<Vec<_>>()
    });
    let mut total = Tally::default();
    for outcome in outcomes {
        let outcome = outcome?;
        total.passed += outcome.passed;
        total.failed += outcome.failed;
    }
    Ok(total)
}

/// Name and test binary of each; the harness's own tests among them.
fn binaries() -> Result<Vec<(String, PathBuf)>> {
    // The whole workspace, as the unit tests were built: by itself the package would have dependencies with other features,
    // and all of them built once more.
    let built = process::output(Command::new("cargo").args([
        "test",
        "--workspace",
        "--locked",
        "--no-run",
        "--message-format=json",
    ]))?;
    let mut found = Vec::new();
    for line in built.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line).context("cargo's message is no JSON")?;
        let (target, file) = (&message["target"], &message["executable"]);
        let ours =
            message["manifest_path"].as_str().is_some_and(|path| path.ends_with("/tests-vm/Cargo.toml"));
        let test = ours && message["profile"]["test"] == true;
        if let (true, Some(name), Some(file)) = (test, target["name"].as_str(), file.as_str()) {
            found.push((name.to_owned(), PathBuf::from(file)));
        }
    }
    Ok(found)
}

fn scenario(name: &str, binary: &Path, settings: &[Setting]) -> Result<Tally> {
    let start = Instant::now();
    let log = format!("vm-{name}");
    let demo = name == DEMO;
    let arguments: &[&str] = if demo { &["demo", "--once"] } else { &["--show-output"] };
    let status = process::quiet(
        &log,
        child::command(binary)
            .env("CAIRN_TARGET", crate::target())
            .env("RUST_BACKTRACE", "0")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .args(arguments),
    );
    let path = crate::target().join("log").join(format!("{log}.log"));
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut outcome = if demo { one(status.is_ok()) } else { tally(&text)? };
    if status.is_err() && outcome.failed == 0 {
        // It died without a closing line.
        outcome.failed = 1;
    }
    let word = if outcome.failed == 0 { "ok" } else { "FAILED" };
    eprintln!("  {name} … {word} ({:.0} s)", start.elapsed().as_secs_f64());
    if outcome.failed > 0 {
        eprintln!("{}", if demo { text } else { failures(&text) });
    }
    Ok(outcome)
}
