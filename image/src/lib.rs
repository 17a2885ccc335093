//! Makes bootable A/B disk images from a lock of packages. It must never run a maintainer script, need root, or (in
//! `build`) use the network: the same inputs give the same bytes.
//!
//! It starts no task that outlives a call. The way of the data: [`lock`] names packages → [`fetch`] brings them →
//! [`deb`] unpacks them into a [`tree`] in memory → [`base`], [`users`], [`preset`] and [`modules`] do what maintainer
//! scripts would have done → [`root`] makes the erofs and [`verity`] its hash tree → [`initrd`] and [`uki`] make the
//! kernel image → [`esp`], [`data`] and [`disk`] lay out the disk. [`build`] is the one place that knows this order.

pub mod apt;
pub mod base;
pub mod build;
pub mod compress;
pub mod data;
pub mod deb;
pub mod disk;
pub mod esp;
pub mod fetch;
pub mod flash;
pub mod glob;
pub mod initrd;
pub mod lock;
pub mod modules;
pub mod preset;
pub mod root;
pub mod sbom;
pub mod tools;
pub mod tree;
pub mod uki;
pub mod users;

pub use cairn_ota::verity;
