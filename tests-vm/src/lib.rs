//! The harness of the scenarios in `tests/`: boots the real image under QEMU against a real hub, and stops everything
//! that it started. It must never reach into a node or a hub by other ways than a user, a technician or an attacker has.
//!
//! One scenario is one file in `tests-vm/tests/`, found by Cargo. It needs the test image and the binaries, which
//! `./x test` builds: [`lab::Lab::new`] says so where they are missing. There is no task: QEMU and the hub are child
//! processes that live as long as the value that stands for them.

pub mod accel;
pub mod child;
pub mod crowd;
pub mod fat;
pub mod hub;
pub mod lab;
pub mod os;
pub mod qmp;
pub mod replay;
pub mod shell;
pub mod shop;
pub mod site;
pub mod stick;
pub mod vm;
pub mod wait;
pub mod writes;

pub use hub::Hub;
pub use lab::Lab;
pub use site::Site;
pub use stick::Stick;
pub use vm::{Vm, VmConfig};
