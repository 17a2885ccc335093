//! What the node's console shows: lines for whoever stands before the machine with a screen or a serial cable. It asks the
//! local socket, and writes a line only when something changed, because serial lines are logged. It takes no input, and is
//! a program of its own: a terminal that hangs holds up nothing.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::Context;
use cairn_model::{
    local::{LocalStatus, STATUS_PATH},
    report::OsState,
};

mod lines;

use lines::{Machine, Screen};

/// Between two looks while nothing is under way, and while an update is.
const CALM: Duration = Duration::from_secs(5);
const BUSY: Duration = Duration::from_secs(1);

/// The daemon answers within milliseconds, or is in trouble.
const ANSWER: Duration = Duration::from_secs(10);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// So many looks without an answer are not worth a line: the daemon is starting, or is being restarted.
const PATIENCE: u32 = 6;

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("failed to reach the node agent at its socket")]
    Connect(#[source] io::Error),
    #[error("the node agent does not answer")]
    Answer(#[source] io::Error),
    #[error("the node agent's answer is not understood; is it of another version?")]
    Content,
}

/// Shows the node's status for as long as the console takes it.
///
/// # Errors
/// If the console is gone.
pub fn run(socket: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut ask = || ask(socket);
    let mut pause = |pause| {
        std::thread::sleep(pause);
        true
    };
    follow(&mut Machine::of_this, &mut ask, out, &mut pause).context("failed to write to the console")
}

/// Until `pause` says that it is enough.
fn follow(
    machine: &mut dyn FnMut() -> Machine,
    ask: &mut dyn FnMut() -> Result<LocalStatus, AskError>,
    out: &mut dyn Write,
    pause: &mut dyn FnMut(Duration) -> bool,
) -> io::Result<()> {
    let mut screen = Screen::default();
    let mut silent = 0;
    loop {
        let answer = ask();
        silent = if answer.is_ok() { 0 } else { silent + 1 };
        let lines = match &answer {
            Ok(status) => screen.show(&machine(), status),
            Err(e) if silent == PATIENCE => {
                let source = std::error::Error::source(e).map(|source| format!(": {source}"));
                screen.silence(&machine(), &format!("{e}{}", source.unwrap_or_default()))
            }
            Err(_) => Vec::new(),
        };
        for line in &lines {
            // A console in raw mode needs the carriage return.
            write!(out, "{line}\r\n")?;
        }
        out.flush()?;
        let moving = |os: &cairn_model::report::OsStatus| {
            matches!(os.state, OsState::Fetching | OsState::Written | OsState::Trying)
        };
        let busy = answer.is_ok_and(|status| status.os.as_ref().is_some_and(moving));
        if !pause(if busy { BUSY } else { CALM }) {
            return Ok(());
        }
    }
}

/// One request on the local socket. By hand, because the alternative is an HTTP client with a runtime for one `GET`.
fn ask(socket: &Path) -> Result<LocalStatus, AskError> {
    let mut stream = UnixStream::connect(socket).map_err(AskError::Connect)?;
    let answer = (|| {
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        write!(stream, "GET {STATUS_PATH} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    })()
    .map_err(AskError::Answer)?;
    let split = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or(AskError::Content)?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(AskError::Content);
    }
    serde_json::from_slice(&answer[split + 4..]).map_err(|_| AskError::Content)
}

#[cfg(test)]
mod tests;
