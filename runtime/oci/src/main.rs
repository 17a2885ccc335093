//! Starts one container through libcontainer and gets out of the way.

fn main() {}
