//! The Compose file: read strictly, kept as canonical JSON (Compose Specification; design section 3).
//!
//! [`App::parse`] honours a subset of the Compose Specification and refuses everything else by name, line and column,
//! all of it at once. [`App::to_canonical_json`] writes what was understood as a Compose document again: that is what
//! gets signed, and [`App::from_canonical_json`] reads it on the node under the same rules.
//!
//! Not kept: comments, `version`, `x-*` other than `x-cairn`, and how a value was spelled (`1m` or `60s`).

mod canonical;
mod constraint;
mod health;
mod image;
mod known;
mod problem;
mod read;
mod service;
mod values;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use constraint::{Constraint, ConstraintKey};
pub use health::{HealthCheck, Probe};
pub use image::ImageRef;
pub use problem::{Problem, Problems};
pub use service::{
    Arch, Condition, Deploy, Limits, Mode, NetworkMode, Platform, Port, Protocol, Restart, Service, Tmpfs,
    Ulimit, VolumeMount,
};
pub(crate) use values::signal_name;

use crate::id::{AppName, ServiceName};

/// Largest Compose file and largest canonical form, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// A Compose file that was understood in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// `name`.
    pub name: Option<AppName>,
    /// `services`; never empty.
    pub services: BTreeMap<ServiceName, Service>,
    /// `volumes`: the named volumes that services may mount, each with its labels.
    pub volumes: BTreeMap<String, Volume>,
}

/// A named volume of an app. It outlives replicas and deploys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volume {
    /// `labels`.
    pub labels: BTreeMap<String, String>,
}

impl App {
    /// Reads a Compose file; `file` is its name, for messages only.
    ///
    /// # Errors
    /// Every problem of the file, sorted by place: unknown or unsupported keys, wrong types, bad values, clashes
    /// between services. Also if it is larger than [`MAX_BYTES`] or nested too deeply.
    pub fn parse(file: &str, yaml: &str) -> Result<Self, Problems> {
        read::app(file, yaml)
    }

    /// Reads what [`App::to_canonical_json`] wrote, under the rules of [`App::parse`] (JSON is YAML).
    ///
    /// # Errors
    /// As [`App::parse`], and if `bytes` is no UTF-8.
    pub fn from_canonical_json(bytes: &[u8]) -> Result<Self, Problems> {
        read::canonical(bytes)
    }

    /// The app as a Compose document in JSON: the same app gives the same bytes.
    pub fn to_canonical_json(&self) -> Vec<u8> {
        canonical::write(self)
    }
}
