//! The hub: turns what operators ask for into one signed bundle per node.

fn main() {}
