//! The program as cairnd runs it, against the real kernel. Needs root, overlayfs, and the static busybox.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cleanup;
mod exec;
mod hand_over;
mod isolation;
mod network;
mod run;
mod support;
mod unpack;
