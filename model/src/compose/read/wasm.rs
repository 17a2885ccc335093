//! What a WebAssembly service cannot have.

use super::reader::{Field, Reader};

/// Keys that make no sense for a component, and what to do instead.
const SENSELESS: [(&str, &str); 13] = [
    ("cap_add", "remove it: a component has no capabilities but those it is given"),
    ("cap_drop", "remove it: a component has no capabilities but those it is given"),
    ("entrypoint", "write the arguments into `command`"),
    ("extra_hosts", "remove it"),
    ("hostname", "remove it: a component sees no host name"),
    ("init", "remove it: a component has no processes"),
    ("read_only", "remove it: a component sees only the volumes that it mounts"),
    ("stop_signal", "remove it: a component gets no signals"),
    ("sysctls", "remove it"),
    ("tmpfs", "use a named volume"),
    ("ulimits", "use `deploy.resources.limits`"),
    ("user", "remove it: a component has no user"),
    ("working_dir", "remove it: mount volumes where the component looks for them"),
];

/// Refuses keys of a service with `platform: wasi/wasm` which would have no effect.
pub(super) fn refuse_what_makes_no_sense(reader: &mut Reader, entries: &[(&str, Field<'_>)]) {
    const CAUSE: &str = "makes no sense with `platform: wasi/wasm`";
    for (key, field) in entries {
        match *key {
            "healthcheck" => {
                for (key, field) in reader.quiet_entries(field) {
                    if key == "test" {
                        let cure =
                            "use `x-cairn: {health: {http: {port: …}}}`: there is no shell in a component";
                        reader.refuse(field.key_at, &field.path, format!("`test` {CAUSE}"), cure);
                    }
                }
            }
            "network_mode" => {
                if reader.quiet_text(field) == Some("bridge") {
                    let cure = "use `host` to let it open connections; without, it may only be connected to";
                    reader.refuse_value(field, format!("`bridge` {CAUSE}"), cure);
                }
            }
            "deploy" => {
                let resources = reader.quiet_entries(field).into_iter().find(|(key, _)| *key == "resources");
                let limits = resources.and_then(|(_, field)| {
                    reader.quiet_entries(&field).into_iter().find(|(key, _)| *key == "limits")
                });
                let pids = limits.and_then(|(_, field)| {
                    reader.quiet_entries(&field).into_iter().find(|(key, _)| *key == "pids")
                });
                if let Some((_, field)) = pids {
                    let cure = "remove it: a component has no processes";
                    reader.refuse(field.key_at, &field.path, format!("`pids` {CAUSE}"), cure);
                }
            }
            "volumes" => {
                for item in reader.quiet_items(field) {
                    let kind = reader.quiet_entries(&item).into_iter().find(|(key, _)| *key == "type");
                    if let Some((_, kind)) = kind.filter(|(_, kind)| reader.quiet_text(kind) == Some("tmpfs"))
                    {
                        reader.refuse_value(&kind, format!("a tmpfs {CAUSE}"), "use a named volume");
                    }
                }
            }
            _ => {
                if let Some((_, cure)) = SENSELESS.iter().find(|(name, _)| name == key) {
                    reader.refuse(field.key_at, &field.path, format!("`{key}` {CAUSE}"), *cure);
                }
            }
        }
    }
}
