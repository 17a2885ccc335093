//! What a service says of ports, names, the network, and the services before it.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    super::{Condition, NetworkMode, Port, Protocol, known},
    Clashes,
    reader::{Field, Reader, cut},
};
use crate::id::ServiceName;

const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

pub(super) fn ports(
    reader: &mut Reader,
    field: &Field<'_>,
    service: Option<&ServiceName>,
    clashes: &mut Clashes,
) -> Vec<Port> {
    let mut ports = Vec::new();
    for item in reader.items(field) {
        let port = if item.is_map() { long_port(reader, &item) } else { short_port(reader, &item) };
        let Some(port) = port else { continue };
        clashes.port(service, port, &item);
        ports.push(port);
    }
    // Order means nothing: the same set is the same app.
    ports.sort();
    ports
}

/// `[host_ip:]published:target[/protocol]`.
fn short_port(reader: &mut Reader, field: &Field<'_>) -> Option<Port> {
    const CURE: &str = "write \"<port of the node>:<port inside>\", with \"/udp\" if it is UDP";
    let text = reader.scalar(field)?;
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => {
            reader.refuse_value(
                field,
                format!("{:?} has no protocol that is supported", cut(&text)),
                "use tcp or udp",
            );
            return None;
        }
        None => (text.as_str(), Protocol::Tcp),
    };
    let Some((rest, target)) = ports.rsplit_once(':') else {
        let cause = format!("{:?} does not say which port of the node", cut(&text));
        reader.refuse_value(field, cause, CURE);
        return None;
    };
    let (host_ip, published) = match rest.rsplit_once(':') {
        Some((ip, published)) => (Some(ip), published),
        None => (None, rest),
    };
    if [published, target].iter().any(|port| port.contains('-')) {
        reader.refuse_value(field, "ranges of ports are not supported yet", "write one line for each port");
        return None;
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let host_ip = match host_ip {
        Some(ip) => Some(address(reader, field, ip)?),
        None => None,
    };
    let (Some(published), Some(target)) = (number(published), number(target)) else {
        reader.refuse_value(field, format!("{:?} has no port from 1 to 65535", cut(&text)), CURE);
        return None;
    };
    Some(Port { host_ip, published, target, protocol })
}

fn address(reader: &mut Reader, field: &Field<'_>, text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = plain.parse().ok();
    if address.is_none() {
        let cause = format!("{:?} is no IP address", cut(text));
        reader.refuse_value(field, cause, "write for example 127.0.0.1 or [::1]");
    }
    address
}

fn long_port(reader: &mut Reader, field: &Field<'_>) -> Option<Port> {
    let (mut target, mut published, mut host_ip, mut protocol) = (None, None, None, Protocol::Tcp);
    let mut complete = (false, false);
    for (key, field) in reader.entries(field) {
        match key {
            "target" => (target, complete.0) = (reader.port(&field), true),
            "published" => {
                complete.1 = true;
                let range = field.is_scalar() && reader.scalar(&field).is_some_and(|text| text.contains('-'));
                if range {
                    reader.refuse_value(
                        &field,
                        "ranges of ports are not supported yet",
                        "write one entry for each port",
                    );
                } else {
                    published = reader.port(&field);
                }
            }
            "host_ip" => {
                if let Some(text) = reader.full_text(&field) {
                    host_ip = address(reader, &field, &text);
                }
            }
            "protocol" => protocol = reader.choice(&field, &PROTOCOLS).unwrap_or(protocol),
            "mode" => {
                reader.choice(&field, &[("host", ())]);
            }
            other => reader.unknown(&field, other, &known::PORT),
        }
    }
    if complete != (true, true) {
        let cause = "a port needs `target` and `published`";
        reader.refuse_value(
            field,
            cause,
            "write the port inside as `target`, that of the node as `published`",
        );
    }
    Some(Port { host_ip, published: published?, target: target?, protocol })
}

/// A container with the node's network, or with none, has nothing to publish.
pub(super) fn refuse_ports_without_network(
    reader: &mut Reader,
    entries: &[(&str, Field<'_>)],
    mode: NetworkMode,
) {
    let cure = match mode {
        NetworkMode::Bridge => return,
        NetworkMode::Host => {
            "remove `ports`: with `network_mode: host` the program listens on the node itself"
        }
        NetworkMode::None => "remove `ports` or `network_mode: none`",
    };
    if let Some((_, field)) = entries.iter().find(|(key, field)| *key == "ports" && field.is_list()) {
        reader.refuse(
            field.key_at,
            &field.path,
            "ports can be published with `network_mode: bridge` only",
            cure,
        );
    }
}

pub(super) fn mode(reader: &mut Reader, field: &Field<'_>) -> NetworkMode {
    let choices = [("bridge", NetworkMode::Bridge), ("host", NetworkMode::Host), ("none", NetworkMode::None)];
    reader.choice(field, &choices).unwrap_or_default()
}

/// RFC 1123; a whole domain name is allowed, and the kernel takes 64 bytes.
fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.split('.').all(label)
}

pub(super) fn hostname(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.full_text(field)?;
    if text.len() > 64 || !is_hostname(&text) {
        let cause = format!("{:?} is no host name", cut(&text));
        reader.refuse_value(field, cause, "use at most 64 letters, digits, inner hyphens and dots");
        return None;
    }
    Some(text)
}

/// `name=address`, `name:address`, or a map; sorted, for their order means nothing.
pub(super) fn extra_hosts(reader: &mut Reader, field: &Field<'_>) -> Vec<(String, IpAddr)> {
    const CURE: &str = "write \"name=192.0.2.1\"";
    let mut hosts = Vec::new();
    for (name, value, field) in reader.pairs(field, &['=', ':']) {
        if name.len() > 253 || !is_hostname(&name) {
            reader.refuse_value(&field, format!("{:?} is no host name", cut(&name)), CURE);
        } else if value.as_deref() == Some("host-gateway") {
            reader.refuse_value(&field, "`host-gateway` is not supported yet", "write the node's address");
        } else if let Some(value) = value {
            hosts.extend(address(reader, &field, &value).map(|address| (name, address)));
        } else {
            reader.refuse_value(&field, format!("{name:?} has no address"), CURE);
        }
    }
    hosts.sort();
    hosts
}

pub(super) fn depends_on(
    reader: &mut Reader,
    field: &Field<'_>,
    service: Option<&ServiceName>,
    clashes: &mut Clashes,
) -> BTreeMap<ServiceName, Condition> {
    let mut all = BTreeMap::new();
    let mut add = |reader: &mut Reader, field: &Field<'_>, text: &str, condition: Condition| match text
        .parse::<ServiceName>(
    ) {
        Ok(name) => {
            clashes.dependency(service, &name, condition, field);
            if all.insert(name, condition).is_some() {
                reader.refuse_value(field, format!("{text:?} is here twice"), "keep one of them");
            }
        }
        Err(error) => {
            reader.refuse(field.key_at, &field.path, error.to_string(), "name a service of this file")
        }
    };
    if field.is_map() {
        for (name, field) in reader.all_entries(field) {
            let condition = dependency(reader, &field);
            add(reader, &field, name, condition);
        }
    } else {
        for item in reader.items(field) {
            if let Some(name) = reader.text(&item) {
                add(reader, &item, &name, Condition::ServiceStarted);
            }
        }
    }
    all
}

fn dependency(reader: &mut Reader, field: &Field<'_>) -> Condition {
    const CONDITIONS: [(&str, Condition); 3] = [
        ("service_started", Condition::ServiceStarted),
        ("service_healthy", Condition::ServiceHealthy),
        ("service_completed_successfully", Condition::ServiceCompletedSuccessfully),
    ];
    let mut condition = Condition::ServiceStarted;
    let entries = reader.entries(field);
    for (key, field) in &entries {
        match *key {
            "condition" => condition = reader.choice(field, &CONDITIONS).unwrap_or(condition),
            "restart" if reader.boolean(field) == Some(true) => {
                reader.refuse_value(
                    field,
                    "restarting along with a dependency is not supported yet",
                    "remove it",
                );
            }
            "required" if reader.boolean(field) == Some(false) => {
                reader.refuse_value(
                    field,
                    "optional dependencies are not supported yet",
                    "remove the dependency",
                );
            }
            "restart" | "required" => {}
            other => reader.unknown(field, other, &known::DEPENDENCY),
        }
    }
    if field.is_map() && !entries.iter().any(|(key, _)| *key == "condition") {
        reader.refuse_value(field, "a dependency needs a `condition`", "write `condition: service_started`");
    }
    condition
}
