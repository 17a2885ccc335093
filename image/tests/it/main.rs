//! Integration tests of cairn-image: the lock, the packages folder, unpacking, and whole builds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod assembling;
mod fetching;
mod flashing;
mod locking;
mod releasing;
mod reproducing;
mod unpacking;
