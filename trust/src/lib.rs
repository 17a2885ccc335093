//! TUF, verified and signed, and signed envelopes; must never act on what it verifies.
//!
//! A node uses [`node::Verifier`]: two [`client::Client`]s (director and artifacts), each over a [`store::Store`] that
//! fails closed, brought together by the pure checks of [`uptane`]. A hub and an operator use [`sign`] (feature
//! `sign`). Both use [`keys`] and [`envelope`]. The crate starts no task and opens no socket of its own: bytes come in
//! through [`fetch::Fetch`], time comes in as an argument.

pub mod attack;
pub mod client;
pub mod clock;
pub mod envelope;
pub mod fetch;
pub mod keys;
pub mod node;
#[cfg(feature = "sign")]
pub mod sign;
pub mod store;
pub mod target;
pub mod uptane;

mod durable;
