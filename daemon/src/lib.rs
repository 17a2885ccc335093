//! The node daemon: pulls what its hub wants, verifies it, and makes it so. It must never execute what was not verified,
//! and never hold a workload in its own process.
//!
//! Data flows one way; each long-lived task owns its state, and they share nothing but channels:
//!
//! | task | owns | takes | gives |
//! |---|---|---|---|
//! | [`link`] | enrolment, TUF verifier, puller | – | `watch` link status, hub client, generation to run |
//! | [`act::images`] | `layers/`, `wasm/` | `mpsc` images to make ready | `watch` what is ready, what fails |
//! | [`reconcile`] | supervisor, probes, failures | `watch` generation, images; `Notify` units; `mpsc` verdicts | `watch` work status |
//! | [`probe`] (one a replica) | one health check | – | `mpsc` verdicts |
//! | [`os`] | when the OS is written, tried, kept | `watch` generation, work and link status; `mpsc` requests | `watch` OS status; verdict on a new OS |
//! | `os::engine` (a thread) | the updater: slots, boot entries | closures | `watch` OS status, slots |
//! | `os::carrier` (one an installation) | – | `mpsc` ranges that the thread wants | `mpsc` pieces, three ahead |
//! | [`media`] | the stick that is plugged in | `mpsc` sticks from [`local`], `watch` OS and work status | `mpsc` visits to [`link`]; `watch` the stick, its status |
//! | [`bus`] | the names on the system bus | D-Bus calls, all `watch`es | `mpsc` requests to [`os`] |
//! | [`status`] | – | `watch` link, work and OS status | `watch` node status |
//! | [`report`] | the sending side of the outbox | `mpsc` records, `watch` node status, hub client | `watch` reports that wait |
//! | [`commands`] | – | `watch` generation | `mpsc` records, requests to [`os`] |
//! | [`local`] | the unix socket | all `watch`es | HTTP, `mpsc` requests to [`os`] |
//! | [`notify`] | – | `watch` work, link | `sd_notify` |
//! | `act::trash` (a thread) | `trash/` | `mpsc` rings | – |
//! | `act::units` signals | a D-Bus stream | systemd's signals | `Notify` |
//!
//! The [`ledger`] is one SQLite connection behind a cheap handle; [`plan`], [`assemble`] and [`status`] are pure.

pub mod act;
pub mod assemble;
pub mod backoff;
pub mod blobs;
pub mod bus;
pub mod commands;
pub mod config;
pub mod console;
pub mod identity;
pub mod ledger;
pub mod link;
pub mod local;
pub mod logging;
pub mod media;
pub mod notify;
pub mod os;
pub mod plan;
pub mod probe;
pub mod pull;
pub mod reconcile;
pub mod report;
pub mod source;
pub mod status;

mod daemon;
#[cfg(test)]
mod fixtures;

pub use daemon::run;
