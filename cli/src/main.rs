//! The operator's and the technician's tool.

fn main() {}
