//! The crate as others use it: whole releases into slots of plain files, with power cuts and faults.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod armed;
mod bed;
mod boot;
mod child;
mod delta;
mod faults;
mod layout;
#[path = "../../src/noise.rs"]
mod noise;
mod random;
mod scene;
mod updater;
mod worn;
mod write;
