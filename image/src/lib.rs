//! Makes bootable A/B disk images from a lock of packages, OS releases of them, and flashes them. It must never run a
//! maintainer script, need root to build, or (in `build` and `release`) use the network: the same inputs give the same
//! bytes.
//!
//! It starts no task that outlives a call. The way of the data: [`lock`] names packages → [`fetch`] brings them →
//! [`deb`] unpacks them into a [`tree`] in memory → [`base`], [`users`], [`preset`] and [`modules`] do what maintainer
//! scripts would have done → [`root`] makes the erofs and [`verity`] its hash tree → [`initrd`] and [`uki`] make the
//! kernel image → [`esp`], [`data`] and [`disk`] lay out the disk, which [`compress`] packs. [`build`] is the one place
//! that knows this order; [`closure`] takes it up where a NixOS system, in place of packages, is the root. From what it leaves, [`release`](mod@release) makes an OCI artifact for nodes that run
//! already, and [`flash`](mod@flash) a disk for one that does not.

pub mod apt;
pub mod base;
pub mod build;
pub mod closure;
pub mod compress;
pub mod data;
pub mod deb;
pub mod disk;
pub mod esp;
pub mod extra;
pub mod fetch;
pub mod flash;
pub mod glob;
pub mod initrd;
pub mod lock;
pub mod modules;
pub mod preset;
pub mod release;
pub mod root;
pub mod sbom;
pub mod tools;
pub mod tree;
pub mod uki;
pub mod users;

pub use cairn_ota::verity;
