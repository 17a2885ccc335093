//! The terminal: the one place that writes to stdout and stderr.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use crate::{
    failure::{Failure, Kind},
    render::text::clean,
};

/// Clears the terminal and puts the cursor home, so that a watched table is drawn in place.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Writes to stdout. A reader that went away (`cairn node ls | head -1`) ends the program quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}

/// A line for people beside the answer: on stderr, so that a pipe gets the answer alone.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Whether a person sees stdout.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Prints `text` in place of what a watch printed before; in a pipe, after it.
pub(crate) fn redraw(text: &str, first: bool) -> Result<(), Failure> {
    match (stdout_is_terminal(), first) {
        (true, _) => print(&format!("{CLEAR}{text}")),
        (false, true) => print(text),
        (false, false) => print(&format!("\n{text}")),
    }
}

/// Prints why the command failed, and gives the exit code. What came from outside can't move the cursor.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    for problem in &failure.problems {
        note(&clean(problem));
    }
    note(&format!("error: {}", clean(&failure.cause)));
    if !failure.cure.is_empty() {
        note(&format!("  try: {}", failure.cure));
    }
    exit_code(failure.kind)
}

fn exit_code(kind: Kind) -> ExitCode {
    ExitCode::from(kind as u8)
}

/// Asks a question that a `y` answers; `unattended` is what to type where nobody is there to answer.
pub(crate) fn confirm(question: &str, unattended: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("nobody is here to ask: {question}")).cure(unattended));
    }
    note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A line on stderr that is overwritten as work goes on; silent where nobody watches.
pub(crate) struct Progress {
    shown: bool,
    width: usize,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: io::stderr().is_terminal(), width: 0 }
    }

    pub(crate) fn line(&mut self, text: &str) {
        if !self.shown {
            return;
        }
        let width = text.chars().count();
        eprint!("\r{text}{}", " ".repeat(self.width.saturating_sub(width)));
        let _ = io::stderr().flush();
        self.width = width;
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown && self.width > 0 {
            eprint!("\r{}\r", " ".repeat(self.width));
            let _ = io::stderr().flush();
            self.width = 0;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
