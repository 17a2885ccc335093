//! One service: which key is read by what.

use super::{
    super::{
        HealthCheck, ImageRef, Platform, Restart, Service,
        image::ImageRefError,
        known,
        service::{Arch, Deploy, NetworkMode},
    },
    Clashes, deploy, health, mounts, network, process,
    reader::{Field, Reader},
    wasm,
};
use crate::id::ServiceName;

/// What the keys of a service say, before it is known whether they fit together.
#[derive(Default)]
struct Draft<'a> {
    image: Option<ImageRef>,
    platform: Option<Platform>,
    healthcheck: health::Draft<'a>,
    restart: Option<Restart>,
    deploy: deploy::Draft<'a>,
    mounts: mounts::Mounts,
}

/// Reads a service; `name` is absent where it is not valid.
pub(super) fn read(
    reader: &mut Reader,
    field: &Field<'_>,
    name: Option<&ServiceName>,
    clashes: &mut Clashes,
) -> Option<Service> {
    let mut draft = Draft::default();
    let mut service = blank();
    let entries = reader.entries(field);
    for (key, field) in &entries {
        if !read_basics(reader, key, field, &mut draft, &mut service)
            && !read_process(reader, key, field, &mut service)
            && !read_connections(reader, key, field, name, clashes, &mut draft, &mut service)
        {
            reader.unknown(field, key, &known::SERVICE);
        }
    }
    if field.is_map() && !entries.iter().any(|(key, _)| *key == "image") {
        let cause = "the service has no `image`";
        reader.refuse(field.key_at, &field.path, cause, "push an image to the hub, and name it in `image`");
    }
    service.platform = draft.platform.unwrap_or(Platform::Oci { arch: None });
    if service.platform == Platform::Wasm {
        wasm::refuse_what_makes_no_sense(reader, &entries);
    } else {
        network::refuse_ports_without_network(reader, &entries, service.network_mode);
    }
    service.healthcheck = draft.healthcheck.finish(reader, field);
    (service.deploy, service.restart) = draft.deploy.finish(reader, draft.restart);
    draft.mounts.finish(reader, name, clashes, &mut service);
    service.image = draft.image?;
    Some(service)
}

fn blank() -> Service {
    Service {
        image: ImageRef { repository: String::new(), tag: None, digest: None },
        platform: Platform::Oci { arch: None },
        command: None,
        entrypoint: None,
        environment: Default::default(),
        user: None,
        working_dir: None,
        ports: Vec::new(),
        volumes: Vec::new(),
        tmpfs: Vec::new(),
        healthcheck: None::<HealthCheck>,
        depends_on: Default::default(),
        restart: Restart::No,
        stop_signal: None,
        stop_grace_period: None,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        read_only: false,
        ulimits: Default::default(),
        sysctls: Default::default(),
        init: false,
        hostname: None,
        extra_hosts: Vec::new(),
        network_mode: NetworkMode::Bridge,
        labels: Default::default(),
        deploy: Deploy::default(),
    }
}

/// What it is. False if `key` is none of these.
fn read_basics<'a>(
    reader: &mut Reader,
    key: &str,
    field: &Field<'a>,
    draft: &mut Draft<'a>,
    service: &mut Service,
) -> bool {
    match key {
        "image" => draft.image = image(reader, field),
        "platform" => {
            let choices = [
                ("linux/amd64", Platform::Oci { arch: Some(Arch::Amd64) }),
                ("linux/arm64", Platform::Oci { arch: Some(Arch::Arm64) }),
                ("wasi/wasm", Platform::Wasm),
            ];
            draft.platform = reader.choice(field, &choices);
        }
        "labels" => service.labels = process::labels(reader, field),
        "healthcheck" => draft.healthcheck.compose = Some(field.clone()),
        "x-cairn" => {
            for (key, field) in reader.entries(field) {
                match key {
                    "health" => draft.healthcheck.x_cairn = Some(field),
                    other => reader.unknown(&field, other, &known::X_CAIRN),
                }
            }
        }
        "restart" => draft.restart = process::restart(reader, field),
        "deploy" => draft.deploy = deploy::read(reader, field),
        _ => return false,
    }
    true
}

/// How its process is. False if `key` is none of these.
fn read_process(reader: &mut Reader, key: &str, field: &Field<'_>, service: &mut Service) -> bool {
    match key {
        "command" => service.command = reader.command_line(field),
        "entrypoint" => service.entrypoint = reader.command_line(field),
        "environment" => service.environment = process::environment(reader, field),
        "user" => service.user = process::user(reader, field),
        "working_dir" => service.working_dir = mounts::absolute_path(reader, field),
        "stop_signal" => service.stop_signal = process::stop_signal(reader, field),
        "stop_grace_period" => service.stop_grace_period = process::duration(reader, field),
        "cap_add" => service.cap_add = process::capabilities(reader, field),
        "cap_drop" => service.cap_drop = process::capabilities(reader, field),
        "ulimits" => service.ulimits = process::ulimits(reader, field),
        "sysctls" => service.sysctls = process::sysctls(reader, field),
        "init" => service.init = reader.boolean(field).unwrap_or_default(),
        "read_only" => service.read_only = reader.boolean(field).unwrap_or_default(),
        _ => return false,
    }
    true
}

/// What it is connected to. False if `key` is none of these.
fn read_connections<'a>(
    reader: &mut Reader,
    key: &str,
    field: &Field<'a>,
    name: Option<&ServiceName>,
    clashes: &mut Clashes,
    draft: &mut Draft<'a>,
    service: &mut Service,
) -> bool {
    match key {
        "ports" => service.ports = network::ports(reader, field, name, clashes),
        "hostname" => service.hostname = network::hostname(reader, field),
        "extra_hosts" => service.extra_hosts = network::extra_hosts(reader, field),
        "network_mode" => service.network_mode = network::mode(reader, field),
        "volumes" => draft.mounts.read_volumes(reader, field),
        "tmpfs" => draft.mounts.read_tmpfs(reader, field),
        "depends_on" => service.depends_on = network::depends_on(reader, field, name, clashes),
        _ => return false,
    }
    true
}

fn image(reader: &mut Reader, field: &Field<'_>) -> Option<ImageRef> {
    let text = reader.full_text(field)?;
    match text.parse::<ImageRef>() {
        Ok(image) => Some(image),
        Err(error) => {
            let cure = match &error {
                ImageRefError::RegistryHost(host) => format!(
                    "copy the image to the hub (`skopeo copy`), and name it without `{host}/`: nodes fetch from their hub only"
                ),
                _ => "write `name:tag` or `name@sha256:…`".to_owned(),
            };
            reader.refuse_value(field, error.to_string(), cure);
            None
        }
    }
}
