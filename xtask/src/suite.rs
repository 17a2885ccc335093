//! `./x test`: everything that CI runs, stage by stage; the last line counts what passed.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Instant, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use regex::Regex;

use crate::{
    examples,
    image::{self, Flavour},
    process, programs, setup, tidy,
};

mod nix;
mod scenarios;

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// The house style that a program can hold.
    Tidy,
    /// rustfmt.
    Fmt,
    /// clippy, warnings denied.
    Clippy,
    /// Every crate's own tests.
    Unit,
    /// The TUF repositories, read by python-tuf.
    Trust,
    /// The flake: what evaluates without nixpkgs, and the image, built in the sandbox.
    Nix,
    /// Two builds of the image, compared byte by byte.
    Image,
    /// The scenarios on booted nodes, and the demo.
    Vm,
}

/// What a stage brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// What `./x soak` asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct Soak {
    /// Only scenarios whose names contain one of these.
    names: Vec<String>,
    /// Disks to rebuild from the recording of an update.
    #[arg(long, default_value_t = 100_000)]
    cuts: u64,
    /// Times that a node is killed at a random instant of an update.
    #[arg(long, default_value_t = 50)]
    kills: u64,
    /// Times that a stick is pulled at a random instant of a visit.
    #[arg(long, default_value_t = 30)]
    pulls: u64,
    /// What chance begins with; by the clock where absent.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs scenarios, with more of what chance decides than CI has time for.
pub(crate) fn soak(mut soak: Soak) -> Result<bool> {
    setup::ensure(setup::Need::Test)?;
    if soak.names.is_empty() {
        let by_chance = ["power_cuts", "update_killed_at_random"];
        soak.names = by_chance.into_iter().chain(scenarios::SOAK_ONLY).map(str::to_owned).collect();
    }
    let by_clock = || UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
    let seed = soak.seed.unwrap_or_else(by_clock);
    println!("seed {seed}");
    let settings = [
        ("CAIRN_POWER_CUTS", soak.cuts),
        ("CAIRN_KILLS", soak.kills),
        ("CAIRN_PULLS", soak.pulls),
        ("CAIRN_SEED", seed),
    ];
    let tally = scenarios::run(&soak.names, &settings.map(|(name, value)| (name, value.to_string())))?;
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(tally.failed == 0)
}

/// Runs `stages`, or all; `false` where anything failed.
pub(crate) fn run(stages: &[Stage]) -> Result<bool> {
    setup::ensure(setup::Need::Test)?;
    let stages = if stages.is_empty() { Stage::value_variants() } else { stages };
    let mut total = Tally::default();
    for stage in stages {
        let name = format!("{stage:?}").to_lowercase();
        let start = Instant::now();
        eprintln!("== {name}");
        let tally = stage.run().unwrap_or_else(|error| {
            eprintln!("{error:#}");
            Tally { passed: 0, failed: 1 }
        });
        let seconds = start.elapsed().as_secs();
        eprintln!("== {name}: {} passed, {} failed ({seconds} s)", tally.passed, tally.failed);
        total.passed += tally.passed;
        total.failed += tally.failed;
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

impl Stage {
    fn run(self) -> Result<Tally> {
        match self {
            Stage::Tidy => {
                let complaints = tidy::check(false)?;
                complaints.iter().for_each(|c| eprintln!("{c}"));
                Ok(one(complaints.is_empty()))
            }
            Stage::Fmt => tool("fmt", Command::new("cargo").args(["fmt", "--all", "--check"])),
            Stage::Clippy => tool(
                "clippy",
                Command::new("cargo").args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--locked",
                    "--",
                    "-D",
                    "warnings",
                ]),
            ),
            Stage::Unit => unit(),
            Stage::Trust => python_tuf(),
            Stage::Nix => nix::run(),
            Stage::Image => reproducible_image(),
            Stage::Vm => scenarios::run(&[], &[]),
        }
    }
}

fn one(passed: bool) -> Tally {
    Tally { passed: passed.into(), failed: (!passed).into() }
}

fn tool(name: &str, command: &mut Command) -> Result<Tally> {
    process::quiet(name, command).map(|()| one(true))
}

fn unit() -> Result<Tally> {
    examples::build()?;
    programs::build()?;
    let lock = image::packages()?;
    let mut command = Command::new("cargo");
    command
        .args(["test", "--workspace", "--exclude", "cairn-tests-vm", "--locked", "--no-fail-fast"])
        .env("CAIRN_GUESTS", examples::dir());
    // The image's own test builds from the committed lock: it needs just those packages, not newer ones.
    if lock.starts_with(crate::root().join("image")) {
        command.env("CAIRN_TEST_PACKAGES", image::debs());
    }
    cargo_test("unit", &mut command)
}

/// Runs `cargo test`, shows a line a test binary as it goes, and all of what it said where a test failed.
fn cargo_test(name: &str, command: &mut Command) -> Result<Tally> {
    let log = crate::target().join("log").join(format!("{name}.log"));
    let status = process::quiet(name, command.env("RUST_BACKTRACE", "0"));
    let text = fs::read_to_string(&log).with_context(|| format!("failed to read {}", log.display()))?;
    let tally = tally(&text)?;
    if let Err(error) = status {
        eprintln!("{}", failures(&text));
        if tally.failed == 0 {
            // A test binary that did not build or died has no line of its own.
            return Err(error);
        }
    }
    if tally.passed + tally.failed == 0 {
        bail!("{name}: no test ran");
    }
    Ok(tally)
}

/// Adds up libtest's closing lines.
fn tally(text: &str) -> Result<Tally> {
    let line = Regex::new(r"(?m)^test result: \w+\. (\d+) passed; (\d+) failed;")?;
    let mut tally = Tally::default();
    for found in line.captures_iter(text) {
        tally.passed += found[1].parse::<u64>()?;
        tally.failed += found[2].parse::<u64>()?;
    }
    Ok(tally)
}

/// What libtest prints between `failures:` and the closing line, of every binary.
fn failures(text: &str) -> String {
    let mut shown = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "failures:" => inside = true,
            l if l.starts_with("test result:") => inside = false,
            _ => {}
        }
        if inside {
            shown.push(line);
        }
    }
    shown.join("\n")
}

/// A virtual environment with the Python packages that the tests compare with.
fn python() -> Result<PathBuf> {
    let venv = crate::target().join("python");
    let python = venv.join("bin/python");
    if !python.exists() {
        process::step(
            "making a Python environment",
            "venv",
            Command::new("python3").args(["-m", "venv"]).arg(&venv),
        )?;
    }
    process::step(
        "installing python-tuf",
        "pip",
        Command::new(&python).args(["-m", "pip", "install", "-q", "tuf==7.0.0", "securesystemslib[crypto]"]),
    )?;
    Ok(python)
}

fn python_tuf() -> Result<Tally> {
    let python = python()?;
    programs::build()?;
    let fixture = programs::dir().join("cairn-tuf-fixture");
    tool("python-tuf", Command::new(python).arg("trust/tests/python_tuf_reads.py").arg(fixture))
}

/// Builds the image once more from the same inputs, elsewhere, and compares every file.
fn reproducible_image() -> Result<Tally> {
    image::build(Flavour::Production)?;
    let again = crate::target().join("reproducible");
    if again.exists() {
        fs::remove_dir_all(&again)?;
    }
    image::assemble(Flavour::Production, &image::packages()?, &again)?;
    tool("reproducible", Command::new("diff").arg("-r").arg(image::dir(Flavour::Production)).arg(&again))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "running 2 tests\ntest a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nboom\n\n\
                       test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\n\
                       test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n";

    #[test]
    fn adds_up_the_closing_lines() {
        assert_eq!(tally(LOG).unwrap(), Tally { passed: 4, failed: 1 });
    }

    #[test]
    fn shows_what_failed_and_nothing_else() {
        let shown = failures(LOG);
        assert!(shown.contains("boom") && !shown.contains("running"), "{shown}");
    }
}
