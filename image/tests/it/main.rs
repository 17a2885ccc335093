//! Integration tests of cairn-image: the lock, the packages folder, unpacking, and whole builds.

mod fetching;
mod locking;
mod reproducing;
mod unpacking;
