//! The node daemon: pull, verify, plan, act, observe, report.

fn main() {}
