//! What an attacker can make, and what becomes of it: each test's name is a property that must hold.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod clock;
mod delegations;
mod envelopes;
mod export;
mod fleet;
mod garbage;
mod hostile_stick;
mod metadata;
mod repository;
mod signing;
mod source;
mod state;
mod stick;
mod transport;
mod uptane;
