//! The documents that hub, node and tools exchange, and the pure logic on them. This crate must never do I/O, read a
//! clock, or draw a random number.
//!
//! It starts no task. Every document has a `schema` number, a JSON Schema under `docs/schema/`, and a golden file a
//! version under `model/tests/golden/`.

pub mod api;
pub mod compose;
pub mod desired;
pub mod document;
pub mod enroll;
pub mod error;
pub mod facts;
pub mod id;
pub mod local;
pub mod media;
pub mod oci;
pub mod os_version;
pub mod release;
pub mod report;
pub mod resolve;
pub mod window;
pub mod workload;

pub use desired::DesiredState;
pub use document::DocumentError;
pub use facts::Facts;
pub use id::{AppName, BootId, Digest, IdError, NodeId, ServiceName};
pub use os_version::OsVersion;
pub use release::Release;
pub use report::Report;
pub use window::MaintenanceWindow;
