//! Runs the real program against guests written as WebAssembly text: nothing is mocked, nothing but Cargo is needed.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should panic")]

mod artifacts;
mod bed;
mod commands;
mod proxies;
