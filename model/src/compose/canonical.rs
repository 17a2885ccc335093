//! An app as canonical JSON: a Compose document in one spelling, with defaults left out and keys sorted.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    App, Condition, Constraint, Deploy, HealthCheck, Limits, Mode, NetworkMode, Platform, Port, Probe,
    Restart, Service, Tmpfs, Ulimit, VolumeMount, values,
};

/// A JSON value whose maps are sorted whatever features serde_json is built with.
#[derive(Serialize)]
#[serde(untagged)]
enum Json {
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Map(Map),
}

type Map = BTreeMap<String, Json>;

/// See [`App::to_canonical_json`].
pub(super) fn write(app: &App) -> Vec<u8> {
    let mut top = Map::new();
    if let Some(name) = &app.name {
        top.insert("name".into(), text(name.as_str()));
    }
    let services =
        app.services.iter().map(|(name, service)| (name.to_string(), Json::Map(write_service(service))));
    top.insert("services".into(), Json::Map(services.collect()));
    let volumes = app.volumes.iter().map(|(name, volume)| {
        let mut map = Map::new();
        put_texts_by_name(&mut map, "labels", &volume.labels);
        (name.clone(), Json::Map(map))
    });
    put_map(&mut top, "volumes", volumes.collect());
    // Texts, numbers and maps with text keys always serialise.
    serde_json::to_vec(&top).unwrap_or_default()
}

/// A text with `$` doubled: Compose takes a single one for a variable.
fn text(text: &str) -> Json {
    Json::Text(text.replace('$', "$$"))
}

fn texts(list: &[String]) -> Json {
    Json::List(list.iter().map(|item| text(item)).collect())
}

fn put_map(map: &mut Map, key: &str, value: Map) {
    if !value.is_empty() {
        map.insert(key.to_owned(), Json::Map(value));
    }
}

fn put_list(map: &mut Map, key: &str, value: Vec<Json>) {
    if !value.is_empty() {
        map.insert(key.to_owned(), Json::List(value));
    }
}

fn put_text(map: &mut Map, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), text(value));
    }
}

fn put_flag(map: &mut Map, key: &str, value: bool) {
    if value {
        map.insert(key.to_owned(), Json::Bool(true));
    }
}

fn put_texts_by_name(map: &mut Map, key: &str, value: &BTreeMap<String, String>) {
    put_map(map, key, value.iter().map(|(name, value)| (name.clone(), text(value))).collect());
}

fn duration(value: Duration) -> Json {
    Json::Text(values::duration_text(value))
}

fn write_service(service: &Service) -> Map {
    let mut map = Map::new();
    put_text(&mut map, "image", Some(&service.image.to_string()));
    let platform = match service.platform {
        Platform::Oci { arch: None } => None,
        Platform::Oci { arch: Some(arch) } => Some(format!("linux/{}", arch.as_str())),
        Platform::Wasm => Some("wasi/wasm".to_owned()),
    };
    put_text(&mut map, "platform", platform.as_deref());
    for (key, words) in [("command", &service.command), ("entrypoint", &service.entrypoint)] {
        if let Some(words) = words {
            map.insert(key.to_owned(), texts(words));
        }
    }
    put_texts_by_name(&mut map, "environment", &service.environment);
    put_text(&mut map, "user", service.user.as_deref());
    put_text(&mut map, "working_dir", service.working_dir.as_deref());
    put_list(&mut map, "ports", service.ports.iter().map(port).collect());
    let volumes = service.volumes.iter().map(volume).chain(service.tmpfs.iter().map(tmpfs));
    put_list(&mut map, "volumes", volumes.collect());
    if let Some(check) = &service.healthcheck {
        write_health(&mut map, check);
    }
    let depends_on =
        service.depends_on.iter().map(|(name, condition)| (name.to_string(), dependency(*condition)));
    put_map(&mut map, "depends_on", depends_on.collect());
    put_text(&mut map, "restart", restart(service.restart).as_deref());
    put_text(&mut map, "stop_signal", service.stop_signal.as_deref());
    if let Some(grace) = service.stop_grace_period {
        map.insert("stop_grace_period".into(), duration(grace));
    }
    put_list(&mut map, "cap_add", service.cap_add.iter().map(|name| text(name)).collect());
    put_list(&mut map, "cap_drop", service.cap_drop.iter().map(|name| text(name)).collect());
    put_flag(&mut map, "read_only", service.read_only);
    put_flag(&mut map, "init", service.init);
    put_map(
        &mut map,
        "ulimits",
        service.ulimits.iter().map(|(name, limit)| (name.clone(), ulimit(*limit))).collect(),
    );
    put_texts_by_name(&mut map, "sysctls", &service.sysctls);
    put_text(&mut map, "hostname", service.hostname.as_deref());
    let hosts = service.extra_hosts.iter().map(|(name, address)| text(&format!("{name}={address}")));
    put_list(&mut map, "extra_hosts", hosts.collect());
    let network_mode = match service.network_mode {
        NetworkMode::Bridge => None,
        NetworkMode::Host => Some("host"),
        NetworkMode::None => Some("none"),
    };
    put_text(&mut map, "network_mode", network_mode);
    put_texts_by_name(&mut map, "labels", &service.labels);
    put_map(&mut map, "deploy", deploy(&service.deploy));
    map
}

fn port(port: &Port) -> Json {
    let mut map = Map::new();
    put_text(&mut map, "host_ip", port.host_ip.map(|ip| ip.to_string()).as_deref());
    // A text, as the specification has it.
    put_text(&mut map, "published", Some(&port.published.to_string()));
    map.insert("target".into(), Json::Number(port.target.into()));
    put_text(&mut map, "protocol", Some(port.protocol.as_str()));
    Json::Map(map)
}

fn volume(mount: &VolumeMount) -> Json {
    let mut map = Map::new();
    put_text(&mut map, "type", Some("volume"));
    put_text(&mut map, "source", Some(&mount.volume));
    put_text(&mut map, "target", Some(&mount.target));
    put_flag(&mut map, "read_only", mount.read_only);
    Json::Map(map)
}

fn tmpfs(mount: &Tmpfs) -> Json {
    let mut options = Map::new();
    if let Some(size) = mount.size_bytes {
        options.insert("size".into(), Json::Number(size));
    }
    put_text(&mut options, "mode", mount.mode.map(|mode| format!("{mode:o}")).as_deref());
    let mut map = Map::new();
    put_text(&mut map, "type", Some("tmpfs"));
    put_text(&mut map, "target", Some(&mount.target));
    put_map(&mut map, "tmpfs", options);
    Json::Map(map)
}

fn write_health(service: &mut Map, check: &HealthCheck) {
    let mut map = Map::new();
    let mut probe = Map::new();
    match &check.probe {
        Probe::Exec { args } => {
            let words = [text("CMD")].into_iter().chain(args.iter().map(|arg| text(arg)));
            map.insert("test".into(), Json::List(words.collect()));
        }
        Probe::Http { port, path } => {
            let http =
                Map::from([("port".into(), Json::Number((*port).into())), ("path".into(), text(path))]);
            put_map(&mut probe, "http", http);
        }
        Probe::Tcp { port } => {
            put_map(&mut probe, "tcp", Map::from([("port".into(), Json::Number((*port).into()))]));
        }
    }
    map.insert("interval".into(), duration(check.interval));
    map.insert("timeout".into(), duration(check.timeout));
    map.insert("retries".into(), Json::Number(check.retries.into()));
    map.insert("start_period".into(), duration(check.start_period));
    put_map(service, "healthcheck", map);
    if !probe.is_empty() {
        put_map(service, "x-cairn", Map::from([("health".into(), Json::Map(probe))]));
    }
}

fn dependency(condition: Condition) -> Json {
    let condition = match condition {
        Condition::ServiceStarted => "service_started",
        Condition::ServiceHealthy => "service_healthy",
        Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
    };
    Json::Map(Map::from([("condition".into(), text(condition))]))
}

fn restart(restart: Restart) -> Option<String> {
    match restart {
        Restart::No => None,
        Restart::Always => Some("always".to_owned()),
        Restart::OnFailure { max_retries: None } => Some("on-failure".to_owned()),
        Restart::OnFailure { max_retries: Some(max) } => Some(format!("on-failure:{max}")),
        Restart::UnlessStopped => Some("unless-stopped".to_owned()),
    }
}

fn ulimit(limit: Ulimit) -> Json {
    let number =
        |value: u64| if value == u64::MAX { Json::Text("-1".to_owned()) } else { Json::Number(value) };
    Json::Map(Map::from([("soft".into(), number(limit.soft)), ("hard".into(), number(limit.hard))]))
}

fn deploy(deploy: &Deploy) -> Map {
    let mut map = Map::new();
    match deploy.mode {
        Mode::Global => put_text(&mut map, "mode", Some("global")),
        Mode::Replicated { replicas: 1 } => {}
        Mode::Replicated { replicas } => {
            map.insert("replicas".into(), Json::Number(replicas.into()));
        }
    }
    let mut resources = Map::new();
    put_map(&mut resources, "limits", limits(&deploy.limits));
    put_map(&mut resources, "reservations", limits(&deploy.reservations));
    put_map(&mut map, "resources", resources);
    let mut placement = Map::new();
    let constraints = deploy.constraints.iter().map(|constraint: &Constraint| text(&constraint.to_string()));
    put_list(&mut placement, "constraints", constraints.collect());
    if let Some(max) = deploy.max_replicas_per_node {
        placement.insert("max_replicas_per_node".into(), Json::Number(max.into()));
    }
    put_map(&mut map, "placement", placement);
    map
}

fn limits(limits: &Limits) -> Map {
    let mut map = Map::new();
    put_text(&mut map, "cpus", limits.milli_cpus.map(values::milli_cpus_text).as_deref());
    // A text with its unit, as the specification has it.
    put_text(&mut map, "memory", limits.memory_bytes.map(|bytes| format!("{bytes}b")).as_deref());
    if let Some(pids) = limits.pids {
        map.insert("pids".into(), Json::Number(pids));
    }
    map
}
