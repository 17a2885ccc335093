//! The initrd's only program: mounts the verified root of the right slot, or the other one.

fn main() {}
