//! The real binary against a hub that answers what a test says.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod hub;
mod real;
mod run;

mod apps;
mod artifacts;
mod contexts;
mod errors;
mod generated;
mod local;
mod nodes;
mod os;
mod os_push;
mod signing;
mod tokens;
mod trust;
mod usb;
mod usb_broken;
mod usb_device;
mod usb_gap;
mod usb_refused;
