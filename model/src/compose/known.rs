//! The keys of the Compose Specification: which we honour where, which not yet, and what to say of the others.

/// A map of the Compose file with fixed keys.
#[derive(Debug)]
pub(super) struct Section {
    /// What it is, for people.
    what: &'static str,
    honoured: &'static [&'static str],
    /// Keys that the specification has here and we do not honour, with the cure.
    refused: &'static [(&'static str, &'static str)],
}

/// The cure where no better one is known.
const REMOVE: &str = "remove it";

impl Section {
    /// Cause and cure of refusing `key` here.
    pub(super) fn refusal(&self, key: &str) -> (String, String) {
        if let Some((_, cure)) = self.refused.iter().find(|(name, _)| *name == key) {
            return (format!("`{key}` is not supported yet"), (*cure).to_owned());
        }
        let cause = format!("`{key}` is not a key of {}", self.what);
        let names = || self.honoured.iter().copied().chain(self.refused.iter().map(|(name, _)| *name));
        let nearest =
            names().map(|name| (strsim::damerau_levenshtein(name, &key.to_lowercase()), name)).min();
        match nearest {
            Some((distance, name)) if distance <= 2 && distance < name.len() => {
                (cause, format!("did you mean `{name}`?"))
            }
            _ => (cause, format!("remove it, or write it as `x-{key}` if it is a note")),
        }
    }
}

pub(super) const TOP: Section = Section {
    what: "a Compose file",
    honoured: &["name", "services", "volumes", "version", "x-cairn"],
    refused: &[
        (
            "networks",
            "remove it: the services of an app share a network of their own and reach each other by name",
        ),
        ("configs", "put the file into the image, or the value into `environment`"),
        ("secrets", "put the secret into a named volume on the node"),
        ("include", "write the services into this file"),
        ("models", REMOVE),
    ],
};

pub(super) const SERVICE: Section = Section {
    what: "a service",
    honoured: &[
        "image",
        "platform",
        "command",
        "entrypoint",
        "environment",
        "user",
        "working_dir",
        "ports",
        "volumes",
        "tmpfs",
        "healthcheck",
        "depends_on",
        "restart",
        "stop_signal",
        "stop_grace_period",
        "cap_add",
        "cap_drop",
        "read_only",
        "ulimits",
        "sysctls",
        "init",
        "hostname",
        "extra_hosts",
        "network_mode",
        "labels",
        "deploy",
        "x-cairn",
    ],
    refused: &[
        ("annotations", "use `labels`"),
        ("attach", REMOVE),
        ("build", "build the image, push it to the hub, and name it in `image`"),
        ("blkio_config", REMOVE),
        ("cgroup", REMOVE),
        ("cgroup_parent", "remove it: each app has a systemd slice of its own"),
        ("configs", "put the file into the image, or the value into `environment`"),
        ("container_name", "remove it: containers are named after app, service and replica"),
        ("cpu_count", "use `deploy.resources.limits.cpus`"),
        ("cpu_percent", "use `deploy.resources.limits.cpus`"),
        ("cpu_period", "use `deploy.resources.limits.cpus`"),
        ("cpu_quota", "use `deploy.resources.limits.cpus`"),
        ("cpu_rt_period", REMOVE),
        ("cpu_rt_runtime", REMOVE),
        ("cpu_shares", "use `deploy.resources.limits.cpus`"),
        ("cpus", "use `deploy.resources.limits.cpus`"),
        ("cpuset", REMOVE),
        ("credential_spec", REMOVE),
        ("develop", REMOVE),
        ("device_cgroup_rules", REMOVE),
        ("devices", REMOVE),
        ("dns", REMOVE),
        ("dns_opt", REMOVE),
        ("dns_search", REMOVE),
        ("domainname", "write the whole name in `hostname`"),
        ("driver_opts", REMOVE),
        ("env_file", "write the variables into `environment`"),
        ("expose", "remove it: services of one app reach each other on every port"),
        ("extends", "write the keys out, or share them with a YAML anchor and `<<`"),
        ("external_links", REMOVE),
        ("gpus", REMOVE),
        ("group_add", REMOVE),
        ("ipc", REMOVE),
        ("isolation", REMOVE),
        ("label_file", "write the labels into `labels`"),
        ("links", "remove it: services of one app reach each other by name"),
        ("logging", "remove it: output goes to the node's journal"),
        ("mac_address", REMOVE),
        ("mem_limit", "use `deploy.resources.limits.memory`"),
        ("mem_reservation", "use `deploy.resources.reservations.memory`"),
        ("mem_swappiness", REMOVE),
        ("memswap_limit", REMOVE),
        ("models", REMOVE),
        (
            "networks",
            "remove it: the services of an app share a network of their own and reach each other by name",
        ),
        ("oom_kill_disable", REMOVE),
        ("oom_score_adj", REMOVE),
        ("pid", REMOVE),
        ("pids_limit", "use `deploy.resources.limits.pids`"),
        ("post_start", REMOVE),
        ("pre_stop", REMOVE),
        ("privileged", "remove it, and add what is needed by `cap_add`"),
        ("profiles", "keep services that are not always wanted in a file of their own"),
        ("provider", REMOVE),
        ("pull_policy", "remove it: images are named by digest, and fetched once"),
        ("pull_refresh_after", REMOVE),
        ("runtime", "use `platform: wasi/wasm` for WebAssembly"),
        ("scale", "use `deploy.replicas`"),
        ("secrets", "put the secret into a named volume on the node"),
        ("security_opt", REMOVE),
        ("shm_size", "mount a `tmpfs` volume on /dev/shm with a size"),
        ("stdin_open", REMOVE),
        ("storage_opt", REMOVE),
        ("tty", REMOVE),
        ("use_api_socket", REMOVE),
        ("userns_mode", REMOVE),
        ("uts", REMOVE),
        ("volumes_from", "name the same volume in both services"),
    ],
};

pub(super) const X_CAIRN_TOP: Section = Section {
    what: "the app's `x-cairn`",
    honoured: &[],
    refused: &[("parameters", REMOVE), ("rollout", REMOVE), ("ingress", REMOVE)],
};
pub(super) const X_CAIRN: Section = Section {
    what: "a service's `x-cairn`",
    honoured: &["health"],
    refused: &[("anti_affinity", "use `deploy.placement.max_replicas_per_node: 1`"), ("ingress", REMOVE)],
};
pub(super) const X_HEALTH: Section =
    Section { what: "`x-cairn.health`", honoured: &["http", "tcp"], refused: &[] };
pub(super) const X_HTTP: Section =
    Section { what: "`x-cairn.health.http`", honoured: &["port", "path"], refused: &[] };
pub(super) const X_TCP: Section = Section { what: "`x-cairn.health.tcp`", honoured: &["port"], refused: &[] };

pub(super) const VOLUME: Section = Section {
    what: "a volume",
    honoured: &["labels"],
    refused: &[
        ("driver", "remove it: a volume is a folder on the node"),
        ("driver_opts", REMOVE),
        ("external", "remove it: volumes belong to one app"),
        ("name", "remove it: a volume is named by its key, and belongs to the app"),
    ],
};

pub(super) const PORT: Section = Section {
    what: "a port",
    honoured: &["target", "published", "host_ip", "protocol", "mode"],
    refused: &[("name", REMOVE), ("app_protocol", REMOVE)],
};

pub(super) const MOUNT: Section = Section {
    what: "a mount",
    honoured: &["type", "source", "target", "read_only", "tmpfs"],
    refused: &[
        ("bind", "use a named volume"),
        ("volume", "remove it"),
        ("image", "remove it"),
        ("consistency", "remove it: it has no effect on Linux"),
    ],
};
pub(super) const MOUNT_TMPFS: Section =
    Section { what: "a mount's `tmpfs`", honoured: &["size", "mode"], refused: &[] };

pub(super) const HEALTHCHECK: Section = Section {
    what: "a health check",
    honoured: &["test", "interval", "timeout", "retries", "start_period", "disable"],
    refused: &[("start_interval", "remove it: probes run at `interval` from the start")],
};

pub(super) const DEPENDENCY: Section =
    Section { what: "a dependency", honoured: &["condition", "restart", "required"], refused: &[] };

pub(super) const ULIMIT: Section = Section { what: "a ulimit", honoured: &["soft", "hard"], refused: &[] };

pub(super) const DEPLOY: Section = Section {
    what: "`deploy`",
    honoured: &["mode", "replicas", "resources", "placement", "restart_policy"],
    refused: &[
        ("endpoint_mode", REMOVE),
        ("labels", "use the service's `labels`"),
        ("rollback_config", REMOVE),
        ("update_config", REMOVE),
    ],
};
pub(super) const RESOURCES: Section =
    Section { what: "`deploy.resources`", honoured: &["limits", "reservations"], refused: &[] };
pub(super) const LIMITS: Section =
    Section { what: "`limits`", honoured: &["cpus", "memory", "pids"], refused: &[("devices", REMOVE)] };
pub(super) const RESERVATIONS: Section = Section {
    what: "`reservations`",
    honoured: &["cpus", "memory"],
    refused: &[("devices", REMOVE), ("generic_resources", REMOVE)],
};
pub(super) const PLACEMENT: Section = Section {
    what: "`deploy.placement`",
    honoured: &["constraints", "max_replicas_per_node"],
    refused: &[("preferences", "remove it: replicas are spread over the nodes that fit")],
};
pub(super) const RESTART_POLICY: Section = Section {
    what: "`deploy.restart_policy`",
    honoured: &["condition"],
    refused: &[
        ("delay", "remove it: the pause between restarts grows by itself"),
        ("max_attempts", "use the service's `restart: on-failure:<n>`"),
        ("window", REMOVE),
    ],
};
