//! Runs a health command: an argument list from the signed release or the node's own configuration, never a shell's
//! line, and never from the hub. A child of the daemon inside the daemon's own sandbox, with an environment of its own,
//! bounded in time and output.

use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{io::AsyncReadExt, process::Command};

/// How long it may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);
/// Most of its output that is kept: its end.
const MAX_OUTPUT_BYTES: usize = 2 << 10;
/// Where it finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs it to its end; `Err` says how it ended otherwise than with 0, with the last lines of its output.
pub(super) async fn run(argv: &[String], timeout: Duration) -> Result<(), String> {
    let Some((program, args)) = argv.split_first() else { return Ok(()) };
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs([("PATH", PATH), ("LANG", "C.UTF-8")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{program} cannot be started: {e}"))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    // What it started goes with it: left behind in the background, it would hold the pipes open.
    let end_group = || group.map(|group| killpg(group, Signal::SIGKILL));
    let ended = async {
        let wait = async {
            let status = child.wait().await;
            end_group();
            status
        };
        let (status, ..) =
            tokio::join!(wait, keep_end(&mut out, &mut said), keep_end(&mut err, &mut complained));
        status
    };
    let ended = tokio::time::timeout(timeout, ended).await;
    if ended.is_err() {
        end_group();
    }
    let how = match ended {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(e)) => format!("it is lost: {e}"),
        Err(_) => format!("not done within {} s", timeout.as_secs()),
    };
    said.extend(complained);
    Err(match last_lines(&said) {
        lines if lines.is_empty() => format!("{program}: {how}"),
        lines => format!("{program}: {how}: {lines}"),
    })
}

/// Reads all of it, so that the program never blocks on a full pipe, and keeps the end.
async fn keep_end(from: &mut Option<impl AsyncReadExt + Unpin>, end: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        end.extend_from_slice(&buffer[..n]);
        let surplus = end.len().saturating_sub(MAX_OUTPUT_BYTES);
        end.drain(..surplus);
    }
}

/// The last lines on one line, without control characters.
fn last_lines(output: &[u8]) -> String {
    const LINES: usize = 5;
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    last.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, timeout: Duration) -> Result<(), String> {
        run(&["/bin/sh", "-c", script].map(str::to_owned), timeout).await
    }

    #[tokio::test]
    async fn says_how_it_ended_and_its_last_lines() {
        assert_eq!(run(&[], TIMEOUT).await, Ok(()), "no command is no check");
        assert_eq!(sh("exit 0", TIMEOUT).await, Ok(()));
        assert_eq!(sh("sleep 1000 & exit 0", TIMEOUT).await, Ok(()), "what it leaves behind is ended");
        let error = sh("seq 1 1000; echo 'no route' >&2; exit 3", TIMEOUT).await.unwrap_err();
        assert!(
            error.contains("exit status: 3") && error.contains("1000") && error.contains("no route"),
            "{error}"
        );
        assert!(error.len() < 300 && !error.contains("990"), "{error}");
        let error = run(&["/nonexistent".to_owned()], TIMEOUT).await.unwrap_err();
        assert!(error.contains("cannot be started"), "{error}");
    }

    #[tokio::test]
    async fn one_that_hangs_or_never_stops_talking_is_ended() {
        for script in ["sleep 1000", "yes", "sleep 1000 & wait"] {
            let error = sh(script, Duration::from_millis(300)).await.unwrap_err();
            assert!(error.contains("not done within"), "{script}: {error}");
            assert!(error.len() < MAX_OUTPUT_BYTES, "{script}");
        }
    }

    #[tokio::test]
    async fn it_gets_nothing_of_the_daemons_environment() {
        // Cargo sets this one for the test itself.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        let error = sh("echo \"[$CARGO_MANIFEST_DIR]\"; exit 1", TIMEOUT).await.unwrap_err();
        assert!(error.contains("[]"), "{error}");
    }
}
