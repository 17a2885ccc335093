//! Scenarios on the real image under QEMU, and their harness.
