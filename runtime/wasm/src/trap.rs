//! wasmtime's errors in plain words. Its own `Debug` form is a page of hexadecimal addresses; an operator needs the
//! cause, the function, and what to do.

use anyhow::anyhow;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// How many frames of the guest's stack are worth a log line.
const FRAMES: usize = 5;

/// The whole chain of a wasmtime error as one line.
pub(crate) fn plain(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{}", one_line(&error))
}

/// Why a guest ended, other than by returning.
pub(crate) enum Ending {
    /// It called `exit` with this code.
    Exit(i32),
    /// It was stopped, for this reason.
    Trap(String),
}

/// Tells an exit from a trap.
pub(crate) fn ending(error: &wasmtime::Error) -> Ending {
    match error.downcast_ref::<I32Exit>() {
        Some(exit) => Ending::Exit(exit.0),
        None => Ending::Trap(cause(error)),
    }
}

fn cause(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) => {
            "the guest aborted (an `unreachable` instruction: often a failed assertion or allocation)"
                .to_owned()
        }
        Some(Trap::StackOverflow) => "the guest's stack overflowed: it recurses too deeply".to_owned(),
        Some(trap) => format!("the guest trapped: {trap}"),
        None => error.root_cause().to_string(),
    };
    if let Some(frames) = frames(error) {
        text.push_str(&format!("; in {frames}"));
    }
    text
}

fn frames(error: &wasmtime::Error) -> Option<String> {
    let backtrace = error.downcast_ref::<WasmBacktrace>()?;
    let names: Vec<&str> =
        backtrace.frames().iter().filter_map(|frame| frame.func_name()).take(FRAMES).collect();
    (!names.is_empty()).then(|| names.join(" < "))
}

fn one_line(error: &wasmtime::Error) -> String {
    let parts: Vec<String> =
        error.chain().map(|part| part.to_string().split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    parts.join(": ")
}
