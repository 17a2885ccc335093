//! What the node's console shows: lines for whoever stands before the machine with a screen or a serial cable. It asks the
//! local socket, and writes a line only when something changed, because serial lines are logged. It takes no input, and is
//! a program of its own: a terminal that hangs holds up nothing.

use std::{
    io::{self, Write},
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

use crate::local::request;

/// Between two looks while nothing is under way, and while an update is.
const CALM: Duration = Duration::from_secs(5);
const BUSY: Duration = Duration::from_secs(1);

/// The daemon answers within milliseconds, or is in trouble.
const ANSWER: Duration = Duration::from_secs(10);

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
        let busy = answer.is_ok_and(|status| {
            let stick = status.media.as_ref().is_some_and(|media| !media.removable);
            stick || status.os.as_ref().is_some_and(moving)
        });
        if !pause(if busy { BUSY } else { CALM }) {
            return Ok(());
        }
    }
}

fn ask(socket: &Path) -> Result<LocalStatus, AskError> {
    use io::ErrorKind::{ConnectionRefused, InvalidData, NotFound, PermissionDenied, UnexpectedEof};
    match request::send(socket, "GET", STATUS_PATH, b"", Some(ANSWER)) {
        Ok((200, text)) => serde_json::from_str(&text).map_err(|_| AskError::Content),
        Ok(_) => Err(AskError::Content),
        Err(e) => Err(match e.kind() {
            NotFound | ConnectionRefused | PermissionDenied => AskError::Connect(e),
            InvalidData | UnexpectedEof => AskError::Content,
            _ => AskError::Answer(e),
        }),
    }
}

#[cfg(test)]
mod tests;
