//! Names of replicas: unit, container, slice.

use std::fmt;

use crate::id::{AppName, ServiceName};

/// One replica of a service of an app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// Its app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
    /// Its index among the service's replicas.
    pub index: u32,
}

impl ReplicaId {
    /// `cairn-<app>-<service>-<n>`, at most 98 of `[a-z0-9_-]`: the container's id, and with `.service` the unit's name.
    ///
    /// Hyphens inside the two names are written as `_`, which their grammar lacks: so app `a-b` with service `c` and
    /// app `a` with service `b-c` stay apart.
    pub fn unit_name(&self) -> String {
        format!("cairn-{}-{}-{}", escape(self.app.as_str()), escape(self.service.as_str()), self.index)
    }

    /// The replica whose [`ReplicaId::unit_name`] is `name`, with or without `.service` after it.
    pub fn parse_unit_name(name: &str) -> Option<Self> {
        let plain = name.strip_suffix(".service").unwrap_or(name);
        let mut parts = plain.strip_prefix("cairn-")?.split('-');
        let (app, service, index) = (parts.next()?, parts.next()?, parts.next()?);
        let id = Self {
            app: app.replace('_', "-").parse().ok()?,
            service: service.replace('_', "-").parse().ok()?,
            index: index.parse().ok()?,
        };
        // Also refuses what only looks alike: a fourth part, `+1`, `007`.
        (id.unit_name() == plain).then_some(id)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.app, self.service, self.index)
    }
}

/// The slice of all replicas of `app`: `cairn-<app>.slice`, with `_` for hyphens inside the name: systemd takes each
/// hyphen in a slice's name for one level of the tree, and app `a-b` is no part of app `a`.
pub fn slice_name(app: &AppName) -> String {
    format!("cairn-{}.slice", escape(app.as_str()))
}

fn escape(label: &str) -> String {
    label.replace('-', "_")
}
