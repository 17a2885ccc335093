//! Makes bootable A/B disk images from a lock of packages, without root, chroot or network.

fn main() {}
