//! Running other programs: their output to a log file while they work, and its end shown where they fail.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's log that are shown.
const TAIL: usize = 40;

/// Prints `what` as a progress line, runs `command` with its output in `target/log/<name>.log`, and prints how long it
/// took.
pub(crate) fn step(what: &str, name: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    eprint!("  {what} … ");
    let result = quiet(name, command);
    eprintln!("{} ({:.0} s)", if result.is_ok() { "ok" } else { "failed" }, start.elapsed().as_secs_f64());
    result
}

/// Like [`step`] where others run at the same time: the line is printed at the end, whole.
pub(crate) fn step_beside_others(what: &str, name: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    quiet(name, command).inspect(|()| eprintln!("  {what} … ok ({:.0} s)", start.elapsed().as_secs_f64()))
}

/// Like [`step`], without a line.
pub(crate) fn quiet(name: &str, command: &mut Command) -> Result<()> {
    let dir = crate::target().join("log");
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let path = dir.join(format!("{name}.log"));
    let log = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .current_dir(crate::root())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("failed to start {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}; the end of {}:\n{}", path.display(), tail(&path)?);
    }
    Ok(())
}

/// Runs `command` and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .current_dir(crate::root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn tail(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL)..].join("\n"))
}
