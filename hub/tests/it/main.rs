//! The hub as it ships: the real binary on loopback, over real TLS, with nodes that really verify.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod crash;
mod deploy;
mod enrol;
mod harness;
mod node;
mod offline_keys;
mod os;
mod push;
mod reports;
mod roles;
mod start;
mod usb;
mod usb_import;
