//! The task that carries out one-off requests of the desired state: each id at most once, ever; none after its time.

use std::{path::PathBuf, process::Stdio, sync::Arc};

use cairn_model::{
    desired::{Command, CommandKind},
    error::chain,
    id::{AppName, ServiceName},
    report::CommandOutput,
};
use jiff::Timestamp;
use tokio::{io::AsyncReadExt, process, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    assemble::Assembled,
    ledger::{Ledger, LedgerError},
    os::Os,
    report::Reporter,
};

#[cfg(test)]
mod tests;

/// Most lines of a log that a node sends, whatever is asked for.
const MAX_LINES: u32 = 10_000;
/// Most bytes of output that a command may give in all.
const MAX_OUTPUT_BYTES: usize = 4 << 20;
/// Largest piece: well below the hub's limit for an envelope, JSON escapes included.
const CHUNK_BYTES: usize = 64 << 10;
/// Exit code of a command that could not be started.
const NOT_STARTED: i32 = 127;

/// What to do with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out now.
    Run,
    /// Its time is over.
    Late,
    /// It was carried out, or tried, before.
    Done,
}

/// Decides, and remembers before anything happens: at most once is what is promised.
pub async fn judge(ledger: &Ledger, command: &Command, now: Timestamp) -> Result<Verdict, LedgerError> {
    if now.as_second() > command.not_after {
        return Ok(Verdict::Late);
    }
    Ok(if ledger.claim_command(&command.id, now.as_second()).await? { Verdict::Run } else { Verdict::Done })
}

/// Runs until `stop` is cancelled: looks at the commands of every new generation.
pub async fn run(
    journalctl: PathBuf,
    os: Os,
    ledger: Ledger,
    mut desired: watch::Receiver<Option<Arc<Assembled>>>,
    reporter: Reporter,
    stop: CancellationToken,
) {
    loop {
        let current = desired.borrow_and_update().clone();
        for command in current.iter().flat_map(|assembled| &assembled.desired.commands) {
            match judge(&ledger, command, Timestamp::now()).await {
                Ok(Verdict::Run) => {
                    tracing::info!(id = command.id, "carrying out a command");
                    // Cut off by the end of the daemon, it is not tried again.
                    tokio::select! {
                        () = carry_out(&journalctl, &os, command, &reporter) => {}
                        () = stop.cancelled() => return,
                    }
                }
                Ok(Verdict::Late) => tracing::debug!(id = command.id, "a command's time is over"),
                Ok(Verdict::Done) => {}
                Err(e) => tracing::error!(id = command.id, "a command is not carried out: {}", chain(&e)),
            }
        }
        // Both arms are cancel-safe: a watch keeps its latest value, a token has no state to lose.
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

async fn carry_out(journalctl: &std::path::Path, os: &Os, command: &Command, reporter: &Reporter) {
    let CommandKind::Logs { app, service, lines } = &command.kind else {
        let (text, code) = match os.apply().await {
            Ok(()) => ("restarts into the OS that stands written".to_owned(), 0),
            Err(refusal) => (refusal, 1),
        };
        for piece in pieces(&command.id, &text, code) {
            reporter.output(piece).await;
        }
        return;
    };
    let mut child = process::Command::new(journalctl);
    child.args(logs_args(app, service.as_ref(), *lines));
    let (text, code) = output_of(child).await;
    for piece in pieces(&command.id, &text, code) {
        reporter.output(piece).await;
    }
}

/// The arguments for `journalctl`; every name is a validated label, and nothing goes through a shell.
fn logs_args(app: &AppName, service: Option<&ServiceName>, lines: u32) -> Vec<String> {
    let mut args = vec![
        "--no-pager".to_owned(),
        "--quiet".to_owned(),
        "--output=short-iso".to_owned(),
        format!("--lines={}", lines.min(MAX_LINES)),
        format!("CAIRN_APP={app}"),
    ];
    args.extend(service.map(|service| format!("CAIRN_SERVICE={service}")));
    args
}

/// Standard output, bounded, and the exit code.
async fn output_of(mut command: process::Command) -> (String, i32) {
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) => return (format!("journalctl cannot be started: {e}"), NOT_STARTED),
    };
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let mut bounded = stdout.take(MAX_OUTPUT_BYTES as u64);
        if let Err(e) = bounded.read_to_end(&mut bytes).await {
            return (format!("the output of journalctl cannot be read: {e}"), NOT_STARTED);
        }
    }
    if bytes.len() >= MAX_OUTPUT_BYTES {
        let _ = child.start_kill();
    }
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(0);
    (String::from_utf8_lossy(&bytes).into_owned(), code)
}

/// Cuts the text at character boundaries; the last piece carries the exit code.
fn pieces(command: &str, mut text: &str, code: i32) -> Vec<CommandOutput> {
    let mut out = Vec::new();
    loop {
        let cut = text.floor_char_boundary(CHUNK_BYTES.min(text.len()));
        let (piece, rest) = text.split_at(cut);
        out.push(CommandOutput {
            command: command.to_owned(),
            chunk: u32::try_from(out.len()).unwrap_or(u32::MAX),
            text: piece.to_owned(),
            exit_code: rest.is_empty().then_some(code),
        });
        if rest.is_empty() {
            return out;
        }
        text = rest;
    }
}
