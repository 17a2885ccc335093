//! A service's health check: Compose's `healthcheck`, and the probes over the network that Compose lacks.

use std::time::Duration;

/// `healthcheck`, with Compose's defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is done.
    pub probe: Probe,
    /// `interval` between the end of one probe and the start of the next; 30 s where absent.
    pub interval: Duration,
    /// `timeout` of one probe; 30 s where absent.
    pub timeout: Duration,
    /// `retries`: so many failures in a row make it unhealthy; 3 where absent.
    pub retries: u32,
    /// `start_period` in which failures do not count; none where absent.
    pub start_period: Duration,
}

impl HealthCheck {
    /// `probe` at Compose's default pace.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
        }
    }
}

/// How health is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `test`: a program inside the container; healthy is exit code 0. `CMD-SHELL` is `/bin/sh -c …` of the container.
    Exec {
        /// Its command line; never empty.
        args: Vec<String>,
    },
    /// `x-cairn.health.http`: `GET http://<replica>:<port><path>`; healthy is any status from 200 to 399.
    Http {
        /// The port inside.
        port: u16,
        /// Path and query; starts with `/`.
        path: String,
    },
    /// `x-cairn.health.tcp`: a connection to `<replica>:<port>` that is accepted.
    Tcp {
        /// The port inside.
        port: u16,
    },
}
