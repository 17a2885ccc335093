//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::Read,
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Result, bail};
use cairn_model::workload::{Network, OciWorkload};
use serde_json::Value;

use crate::layout::Layout;

/// Largest resolv.conf of the node that is read.
const MAX_RESOLV_BYTES: u64 = 64 << 10;
/// What Compose calls the node as seen from a container.
const HOST_GATEWAY: &str = "host-gateway";

/// Writes the files. `answer` is netavark's, where it was called.
pub(crate) fn write(workload: &OciWorkload, layout: &Layout, answer: Option<&Value>) -> Result<()> {
    let save = |name: &str, text: String| {
        fs::write(layout.etc(name), text)
            .with_context(|| format!("failed to write the container's /etc/{name}"))
    };
    save("hostname", format!("{}\n", workload.hostname))?;
    save("hosts", hosts(workload, answer)?)?;
    save("resolv.conf", resolv_conf(workload, answer))
}

fn hosts(workload: &OciWorkload, answer: Option<&Value>) -> Result<String> {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let mut line = |address: &str, name: &str| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{address}\t{name}");
    };
    let addresses = subnets(answer, "ipnet");
    for address in &addresses {
        line(address.split('/').next().unwrap_or(address), &workload.hostname);
    }
    if addresses.is_empty() {
        line("127.0.1.1", &workload.hostname);
    }
    for (name, address) in &workload.extra_hosts {
        if name.is_empty()
            || name.len() > 253
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#')
        {
            bail!("extra host {name:?} is not a host name");
        }
        if address == HOST_GATEWAY {
            for gateway in subnets(answer, "gateway") {
                line(&gateway, name);
            }
            continue;
        }
        let parsed: IpAddr = address
            .parse()
            .ok()
            .with_context(|| format!("extra host {name}: {address:?} is not an address"))?;
        line(&parsed.to_string(), name);
    }
    Ok(text)
}

/// Field `field` of every subnet of every interface in netavark's answer.
fn subnets(answer: Option<&Value>, field: &str) -> Vec<String> {
    let networks = answer.and_then(Value::as_object).into_iter().flat_map(|networks| networks.values());
    let interfaces = networks.filter_map(|n| n.get("interfaces")?.as_object()).flat_map(|i| i.values());
    let subnets = interfaces.filter_map(|i| i.get("subnets")?.as_array()).flatten();
    subnets.filter_map(|s| s.get(field)?.as_str().map(str::to_owned)).collect()
}

fn resolv_conf(workload: &OciWorkload, answer: Option<&Value>) -> String {
    let list = |field: &str| -> Vec<String> {
        let networks = answer.and_then(Value::as_object).into_iter().flat_map(|networks| networks.values());
        let values = networks.filter_map(|n| n.get(field)?.as_array()).flatten();
        values.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let servers: BTreeSet<String> = list("dns_server_ips").into_iter().collect();
    if servers.is_empty() {
        let own_network = workload.network != Network::Host;
        return of_node(own_network);
    }
    let mut text = String::new();
    let domains = list("dns_search_domains");
    if !domains.is_empty() {
        let _ = writeln!(text, "search {}", domains.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// The node's own resolv.conf. A server on loopback (systemd-resolved's stub) is not reachable from another network
/// namespace: then the servers that it asks itself.
fn of_node(own_network: bool) -> String {
    let node = read("/etc/resolv.conf");
    if !own_network {
        return node;
    }
    let usable = |text: &str| {
        let is_loopback = |line: &str| {
            let address =
                line.trim().strip_prefix("nameserver").map(str::trim).and_then(|a| a.parse::<IpAddr>().ok());
            address.is_some_and(|address| address.is_loopback())
        };
        text.lines().filter(|line| !is_loopback(line)).fold(String::new(), |text, line| text + line + "\n")
    };
    let text = usable(&node);
    if text.lines().any(|line| line.starts_with("nameserver")) {
        return text;
    }
    usable(&read("/run/systemd/resolve/resolv.conf"))
}

fn read(path: impl AsRef<Path>) -> String {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MAX_RESOLV_BYTES).read_to_string(&mut text)) {
        Ok(_) => text,
        // A node without a resolver: its containers have none either.
        Err(_) => String::new(),
    }
}
