//! `./x fuzz`: feeds what reads bytes from outside with bytes that coverage leads to new paths (`fuzz/`). Instrumented by
//! flags that the stable compiler has, and built into a folder of its own.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::process;

/// What `-Zsanitizer` would switch on, without a sanitizer: our crates forbid unsafe code.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// The whole process may take 256 MiB, one input 5 seconds and 16 KiB.
const LIMITS: &[&str] = &["-rss_limit_mb=256", "-timeout=5", "-max_len=16384"];

/// What `./x fuzz` asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// What to fuzz, by the names of the files in fuzz/src/bin; everything where none is named.
    targets: Vec<String>,
    /// How long each; 0 only replays what is kept.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// What a run of one target brought, as libFuzzer counts it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    /// Edges that were reached, of those in the program and all that is linked into it.
    edges: u64,
    rss_mib: u64,
}

/// Replays what was found before, then fuzzes; `false` where anything was found.
pub(crate) fn run(fuzz: &Fuzz) -> Result<bool> {
    let known = targets()?;
    if let Some(unknown) = fuzz.targets.iter().find(|target| !known.contains(*target)) {
        bail!("there is no fuzz target {unknown:?}; there are: {}", Vec::from_iter(known).join(", "));
    }
    let wanted = if fuzz.targets.is_empty() { known } else { fuzz.targets.iter().cloned().collect() };
    build(&wanted)?;
    let mut sound = true;
    for target in &wanted {
        let result = replay(target).and_then(|count| match fuzz.seconds {
            0 => Ok(format!("{count} inputs replayed")),
            seconds => explore(target, seconds).map(|figures| {
                let Figures { executions, edges, rss_mib } = figures;
                format!("{count} inputs replayed, {executions} more, {edges} edges, {rss_mib} MiB")
            }),
        });
        match result {
            Ok(text) => println!("{target}: {text}"),
            Err(error) => {
                println!("{target}: {error:#}");
                sound = false;
            }
        }
    }
    Ok(sound)
}

fn folder() -> PathBuf {
    crate::root().join("fuzz")
}

/// The names of all targets.
fn targets() -> Result<BTreeSet<String>> {
    let sources = folder().join("src/bin");
    Ok(files(&sources)?.iter().filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())).collect())
}

/// The files in a folder, in order; none where there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let failed = || format!("failed to list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(failed)? {
        files.push(entry.with_context(failed)?.path());
    }
    files.sort();
    Ok(files)
}

fn build(targets: &BTreeSet<String>) -> Result<()> {
    ensure!(
        process::output(Command::new("c++").arg("--version")).is_ok(),
        "there is no C++ compiler, which libFuzzer needs; install one first: apt-get install g++"
    );
    lock()?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    // With the target named, Cargo gives the flags to what is fuzzed alone, and not to build scripts.
    cargo.args(["--target", &host()?, "--target-dir"]).arg(crate::target().join("fuzz"));
    for target in targets {
        cargo.args(["--bin", target]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    process::step("building the fuzz targets", "fuzz-build", &mut cargo)
}

/// What is fuzzed has the dependencies of what ships: Cargo takes the versions of this lock, and leaves out or adds only
/// what differs between the workspaces. A copy that is newer than the root's stays: with it Cargo needs no network.
fn lock() -> Result<()> {
    let (from, to) = (crate::root().join("Cargo.lock"), folder().join("Cargo.lock"));
    let written = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
    if written(&to) <= written(&from) {
        fs::copy(&from, &to).with_context(|| format!("failed to write {}", to.display()))?;
    }
    Ok(())
}

fn host() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say for which host it is")?.to_owned())
}

fn program(target: &str) -> Result<Command> {
    let mut command = Command::new(crate::target().join("fuzz").join(host()?).join("release").join(target));
    command.args(LIMITS).current_dir(crate::root());
    Ok(command)
}

/// Runs a target on its seeds and on what was found before, and says how many these are.
fn replay(target: &str) -> Result<usize> {
    let mut inputs = files(&folder().join("seeds").join(target))?;
    ensure!(!inputs.is_empty(), "there are no seeds in fuzz/seeds/{target}; put a small sound input there");
    inputs.extend(files(&folder().join("regressions").join(target))?);
    let name = format!("fuzz-{target}-replay");
    if process::quiet(&name, program(target)?.args(&inputs)).is_err() {
        let path = crate::target().join("log").join(name).with_extension("log");
        let log = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let log = String::from_utf8_lossy(&log);
        let input = log.lines().rev().find_map(|line| line.strip_prefix("Running: "));
        bail!("fails on {}; {} says why: {}", input.unwrap_or("its seeds"), path.display(), finding(&log));
    }
    Ok(inputs.len())
}

/// Fuzzes a target; what is found stays in `fuzz/regressions`.
fn explore(target: &str, seconds: u64) -> Result<Figures> {
    let corpus = crate::target().join("fuzz/corpus").join(target);
    let regressions = folder().join("regressions").join(target);
    for folder in [&corpus, &regressions] {
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    let before = files(&regressions)?.len();
    let mut command = program(target)?;
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", regressions.display()));
    let dictionary = folder().join("dictionaries").join(format!("{target}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    command.arg(corpus).arg(folder().join("seeds").join(target));
    let path = crate::target().join(format!("log/fuzz-{target}.log"));
    let log = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status().with_context(|| format!("failed to start the fuzz target {target}"))?;
    let log = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
    let found = files(&regressions)?.len() > before;
    ensure!(
        status.success() && !found,
        "found something, which is kept in fuzz/regressions/{target}; {} says what: {}",
        path.display(),
        finding(&String::from_utf8_lossy(&log))
    );
    Ok(figures(&String::from_utf8_lossy(&log)))
}

/// Why a run ended: the panic, or libFuzzer's own verdict.
fn finding(log: &str) -> String {
    let mut lines = log.lines();
    let panic = lines.find(|line| line.contains("panicked at")).map(|_| lines.next().unwrap_or_default());
    let verdict = || log.lines().find(|line| line.contains("ERROR: libFuzzer"));
    panic.or_else(verdict).unwrap_or("it ended badly").chars().take(200).collect()
}

fn figures(log: &str) -> Figures {
    let after = |line: &str, word: &str| {
        let rest = line.split_once(word)?.1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let last = |word: &str| log.lines().rev().find_map(|line| after(line, word)).unwrap_or_default();
    Figures {
        executions: last("stat::number_of_executed_units:"),
        edges: last(" cov:"),
        rss_mib: last("stat::peak_rss_mb:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_and_every_folder_a_target() {
        let targets = targets().unwrap();
        assert!(targets.len() > 10);
        for target in &targets {
            assert!(!files(&folder().join("seeds").join(target)).unwrap().is_empty(), "{target}");
        }
        for kind in ["seeds", "regressions", "dictionaries"] {
            for file in files(&folder().join(kind)).unwrap() {
                let name = file.file_stem().unwrap().to_str().unwrap();
                assert!(targets.contains(name), "{kind}/{name} belongs to no target");
            }
        }
    }

    #[test]
    fn an_unknown_target_is_refused_before_anything_is_built() {
        let error = run(&Fuzz { targets: vec!["nothing".to_owned()], seconds: 0 }).unwrap_err().to_string();
        assert!(error.contains("\"nothing\"") && error.contains("release"), "{error}");
    }

    #[test]
    fn the_end_of_a_log_is_understood() {
        let log = "#2\tINITED cov: 8 ft: 9\n#277106\tDONE   cov: 315 ft: 1816 corp: 342/12309b\n\
                   stat::number_of_executed_units: 277106\nstat::peak_rss_mb:              28\n";
        assert_eq!(figures(log), Figures { executions: 277_106, edges: 315, rss_mib: 28 });
        assert_eq!(figures(""), Figures::default());
        let panic = "x\nthread '<unnamed>' panicked at src/bin/gpt.rs:1:2:\n3 is not 4\nstack";
        assert_eq!(finding(panic), "3 is not 4");
        assert_eq!(finding("==1== ERROR: libFuzzer: timeout\n"), "==1== ERROR: libFuzzer: timeout");
    }
}
