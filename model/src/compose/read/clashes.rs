//! What can only be judged when all services are read: dependencies, ports, volumes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{Condition, Port, Service},
    Place,
    reader::{Field, Reader, cut},
};
use crate::id::ServiceName;

/// What services say of each other, with places. Services with a bad name are left out: they are refused already.
#[derive(Default)]
pub(super) struct Clashes {
    /// Also those that are refused for another reason: they are there all the same.
    pub(super) services: BTreeSet<ServiceName>,
    pub(super) volumes: BTreeSet<String>,
    dependencies: Vec<Dependency>,
    ports: Vec<(Port, Place, String)>,
    mounts: Vec<(String, Place, String)>,
}

struct Dependency {
    of: ServiceName,
    on: ServiceName,
    condition: Condition,
    at: Place,
    path: String,
}

impl Clashes {
    pub(super) fn dependency(
        &mut self,
        of: Option<&ServiceName>,
        on: &ServiceName,
        condition: Condition,
        field: &Field<'_>,
    ) {
        let Some(of) = of.cloned() else { return };
        let path = field.path.clone();
        self.dependencies.push(Dependency { of, on: on.clone(), condition, at: field.key_at, path });
    }

    pub(super) fn port(&mut self, of: Option<&ServiceName>, port: Port, field: &Field<'_>) {
        if of.is_some() {
            self.ports.push((port, field.at(), field.path.clone()));
        }
    }

    pub(super) fn mount(&mut self, of: Option<&ServiceName>, volume: &str, at: Place, path: &str) {
        if of.is_some() {
            self.mounts.push((volume.to_owned(), at, path.to_owned()));
        }
    }

    /// Refuses what does not fit together. `services` lacks those that could not be read.
    pub(super) fn check(&self, reader: &mut Reader, services: &BTreeMap<ServiceName, Service>) {
        for (volume, at, path) in &self.mounts {
            if !self.volumes.contains(volume) {
                let cause = format!("there is no volume {volume:?} in this file");
                reader.refuse(
                    *at,
                    path,
                    cause,
                    format!("write `volumes: {{{volume}: {{}}}}` at the top level"),
                );
            }
        }
        self.check_ports(reader);
        for Dependency { on, condition, at, path, .. } in &self.dependencies {
            if !self.services.contains(on) {
                let cause = format!("there is no service {:?} in this file", cut(on.as_str()));
                reader.refuse(*at, path, cause, self.suggestion(on));
            } else if *condition == Condition::ServiceHealthy
                && services.get(on).is_some_and(|service| service.healthcheck.is_none())
            {
                let cause = format!("{on} has no health check, so it never gets healthy");
                reader.refuse(*at, path, cause, "give it one, or use `condition: service_started`");
            }
        }
        self.check_cycles(reader);
    }

    fn check_ports(&self, reader: &mut Reader) {
        let mut by_number: BTreeMap<u16, Vec<&(Port, Place, String)>> = BTreeMap::new();
        for entry in &self.ports {
            let (port, at, path) = entry;
            let same = by_number.entry(port.published).or_default();
            if let Some((_, first_at, first)) = same.iter().find(|(other, ..)| other.clashes_with(port)) {
                let cause = format!(
                    "port {}/{} of the node is published already by {first} (line {})",
                    port.published,
                    port.protocol.as_str(),
                    first_at.line
                );
                reader.refuse(*at, path, cause, "publish another port");
            }
            same.push(entry);
        }
    }

    fn suggestion(&self, name: &ServiceName) -> String {
        let distance = |other: &&ServiceName| strsim::damerau_levenshtein(other.as_str(), name.as_str());
        match self.services.iter().min_by_key(distance) {
            Some(nearest) if distance(&nearest) <= 2 => format!("did you mean `{nearest}`?"),
            _ => "name a service of this file, or remove the dependency".to_owned(),
        }
    }

    /// Names each cycle once, at the dependency of its first service in the file.
    fn check_cycles(&self, reader: &mut Reader) {
        let mut edges: BTreeMap<&ServiceName, Vec<&Dependency>> = BTreeMap::new();
        for dependency in &self.dependencies {
            edges.entry(&dependency.of).or_default().push(dependency);
        }
        let mut done = BTreeSet::new();
        for dependency in &self.dependencies {
            // One search a service, not one a dependency.
            if !done.insert(dependency.of.clone()) {
                continue;
            }
            if let Some(cycle) = cycle_through(&dependency.of, &edges) {
                let first = cycle.first().unwrap_or(&dependency);
                let names = cycle.iter().map(|edge| edge.of.as_str()).chain([first.of.as_str()]);
                let cause =
                    format!("these services wait for each other: {}", names.collect::<Vec<_>>().join(" → "));
                reader.refuse(first.at, &first.path, cause, "remove one of the dependencies");
                done.extend(cycle.iter().map(|edge| edge.of.clone()));
            }
        }
    }
}

/// The dependencies of a shortest cycle through `start`, breadth first: no recursion, every service once.
fn cycle_through<'a>(
    start: &ServiceName,
    edges: &BTreeMap<&ServiceName, Vec<&'a Dependency>>,
) -> Option<Vec<&'a Dependency>> {
    let mut reached_by: BTreeMap<&ServiceName, &'a Dependency> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(service) = queue.pop_front() {
        for &edge in edges.get(service).into_iter().flatten() {
            if edge.on == *start {
                let mut cycle = vec![edge];
                let mut current = service;
                while let Some(before) = reached_by.get(current).filter(|_| current != start) {
                    cycle.push(before);
                    current = &before.of;
                }
                cycle.reverse();
                return Some(cycle);
            }
            if !reached_by.contains_key(&edge.on) {
                reached_by.insert(&edge.on, edge);
                queue.push_back(&edge.on);
            }
        }
    }
    None
}
