//! Addresses and networks: one bridge an app, one address a replica, out of the node's own /16. Which app and which
//! replica has which slot is kept in the ledger, so that addresses stay the same across reboots.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use cairn_model::{compose::Port, resolve::ResolvedReplica};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Subnets in a /16: the third octet.
const MAX_APPS: u16 = 256;
/// First and last address of a /24 that a replica may have: .1 is the bridge, .255 is for everyone.
const HOSTS: std::ops::RangeInclusive<u16> = 2..=254;

/// Why a replica has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Too many apps.
    #[error("this node has no subnet left for app {app}: {MAX_APPS} apps have one; remove some")]
    NoSubnet {
        /// The app.
        app: String,
    },
    /// Too many replicas of one app.
    #[error("the subnet of app {app} has no address left for {unit}; run fewer replicas of it on this node")]
    NoAddress {
        /// The app.
        app: String,
        /// The replica's unit.
        unit: String,
    },
}

/// Slots by `app/<name>` and `unit/<name>`, as the ledger keeps them.
pub type Slots = BTreeMap<String, u16>;

/// Gives each unit in `wanted` (by name, with its app) a slot. What has one keeps it; units in `still_there` keep theirs
/// until they are gone, so that no address is given away under a running container.
pub fn allocate(
    current: &Slots,
    wanted: &BTreeMap<String, String>,
    still_there: &BTreeSet<String>,
) -> Result<Slots, NetworkError> {
    let app_of = |unit: &str| unit.strip_prefix("cairn-")?.split('-').next().map(|app| app.replace('_', "-"));
    let apps_there: BTreeSet<String> = still_there.iter().filter_map(|unit| app_of(unit)).collect();
    let mut slots: Slots = current
        .iter()
        .filter(|(key, _)| match key.split_once('/') {
            Some(("app", app)) => apps_there.contains(app) || wanted.values().any(|w| w == app),
            Some(("unit", unit)) => still_there.contains(unit) || wanted.contains_key(unit),
            _ => false,
        })
        .map(|(key, slot)| (key.clone(), *slot))
        .collect();
    for (unit, app) in wanted {
        let app_key = format!("app/{app}");
        if !slots.contains_key(&app_key) {
            let taken = taken(&slots, |key| key.starts_with("app/"));
            let free = (0..MAX_APPS).find(|slot| !taken.contains(slot));
            let slot = free.ok_or_else(|| NetworkError::NoSubnet { app: app.clone() })?;
            slots.insert(app_key, slot);
        }
        let unit_key = format!("unit/{unit}");
        if !slots.contains_key(&unit_key) {
            let same_app = |key: &str| {
                key.strip_prefix("unit/").is_some_and(|other| app_of(other).as_deref() == Some(app.as_str()))
            };
            let taken = taken(&slots, same_app);
            let free = HOSTS.into_iter().find(|slot| !taken.contains(slot));
            let slot =
                free.ok_or_else(|| NetworkError::NoAddress { app: app.clone(), unit: unit.clone() })?;
            slots.insert(unit_key, slot);
        }
    }
    Ok(slots)
}

fn taken(slots: &Slots, which: impl Fn(&str) -> bool) -> BTreeSet<u16> {
    slots.iter().filter(|(key, _)| which(key)).map(|(_, slot)| *slot).collect()
}

/// One replica's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The app's slot: third octet, and number of its bridge.
    pub subnet: u16,
    /// The replica's address.
    pub address: Ipv4Addr,
}

/// Where a unit of an app is, if it has slots.
pub fn place(base: Ipv4Addr, slots: &Slots, app: &str, unit: &str) -> Option<Place> {
    let subnet = *slots.get(&format!("app/{app}"))?;
    let host = *slots.get(&format!("unit/{unit}"))?;
    Some(Place { subnet, address: address(base, subnet, host) })
}

fn address(base: Ipv4Addr, subnet: u16, host: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + (u32::from(subnet) << 8) + u32::from(host))
}

/// netavark's input for one replica. The ids are hashes: netavark names interfaces and chains after their beginnings.
pub fn netavark(base: Ipv4Addr, place: &Place, replica: &ResolvedReplica) -> Value {
    let bridge = format!("cairn{}", place.subnet);
    let subnet = format!("{}/24", address(base, place.subnet, 0));
    let hash = |text: &str| hex::encode(Sha256::digest(text.as_bytes()));
    let mut networks = serde_json::Map::new();
    let aliases = [replica.id.service.as_str()];
    let options = json!({"interface_name": "eth0", "static_ips": [place.address], "aliases": aliases});
    networks.insert(bridge.clone(), options);
    let mut info = serde_json::Map::new();
    info.insert(
        bridge.clone(),
        json!({
            "name": bridge,
            "id": hash(&format!("network {}", replica.id.app)),
            "driver": "bridge",
            "network_interface": bridge,
            "subnets": [{"subnet": subnet, "gateway": address(base, place.subnet, 1)}],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
            // Bridges of different apps do not forward to each other.
            "options": {"isolate": "true"},
        }),
    );
    json!({
        "container_id": hash(&replica.id.unit_name()),
        "container_name": replica.id.unit_name(),
        "networks": networks,
        "network_info": info,
        "port_mappings": replica.ports.iter().map(port_mapping).collect::<Vec<_>>(),
    })
}

fn port_mapping(port: &Port) -> Value {
    json!({
        "host_ip": port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        "host_port": port.published,
        "container_port": port.target,
        "protocol": port.protocol.as_str(),
        "range": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 0);

    fn units(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(unit, app)| ((*unit).to_owned(), (*app).to_owned())).collect()
    }

    #[test]
    fn each_app_has_a_subnet_and_each_replica_an_address() {
        let wanted = units(&[("cairn-a-x-0", "a"), ("cairn-a-x-1", "a"), ("cairn-b_c-x-0", "b-c")]);
        let slots = allocate(&Slots::new(), &wanted, &BTreeSet::new()).unwrap();
        let at = |app: &str, unit: &str| place(BASE, &slots, app, unit).unwrap().address.to_string();
        assert_eq!(at("a", "cairn-a-x-0"), "10.89.0.2");
        assert_eq!(at("a", "cairn-a-x-1"), "10.89.0.3");
        assert_eq!(at("b-c", "cairn-b_c-x-0"), "10.89.1.2");
    }

    #[test]
    fn slots_are_kept_and_given_back_only_when_the_unit_is_gone() {
        let first = allocate(&Slots::new(), &units(&[("cairn-a-x-0", "a")]), &BTreeSet::new()).unwrap();
        let wanted = units(&[("cairn-a-w-0", "a")]);
        let there = BTreeSet::from(["cairn-a-x-0".to_owned()]);
        let during = allocate(&first, &wanted, &there).unwrap();
        assert_eq!(during["unit/cairn-a-x-0"], 2);
        assert_eq!(during["unit/cairn-a-w-0"], 3, "the old one still has its address");
        let after = allocate(&during, &wanted, &BTreeSet::new()).unwrap();
        assert!(!after.contains_key("unit/cairn-a-x-0"));
        assert_eq!(after["unit/cairn-a-w-0"], 3);
        assert!(allocate(&after, &BTreeMap::new(), &BTreeSet::new()).unwrap().is_empty());
    }

    #[test]
    fn a_full_subnet_is_refused_by_name() {
        let names: Vec<String> = (0..254).map(|i| format!("cairn-a-x-{i}")).collect();
        let many: BTreeMap<_, _> = names.iter().map(|n| (n.clone(), "a".to_owned())).collect();
        let error = allocate(&Slots::new(), &many, &BTreeSet::new()).unwrap_err();
        assert!(matches!(error, NetworkError::NoAddress { .. }), "{error}");
    }
}
