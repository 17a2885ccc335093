//! `deploy`: where and how often a service runs, and what it may use.

use super::{
    super::{
        Deploy, Mode, Restart,
        constraint::Constraint,
        known::{self, Section},
        service::Limits,
    },
    process,
    reader::{Field, Reader},
};

/// Most replicas of a service: a bound on what a typo costs.
const MAX_REPLICAS: u32 = 10_000;

/// `deploy` before it is known whether its keys fit together.
#[derive(Default)]
pub(super) struct Draft<'a> {
    deploy: Deploy,
    global: bool,
    replicas: Option<(u32, Field<'a>)>,
    restart: Option<(Restart, Field<'a>)>,
}

pub(super) fn read<'a>(reader: &mut Reader, field: &Field<'a>) -> Draft<'a> {
    let mut draft = Draft::default();
    for (key, field) in reader.entries(field) {
        match key {
            "mode" => {
                draft.global = reader.choice(&field, &[("replicated", false), ("global", true)]) == Some(true)
            }
            "replicas" => {
                let replicas = reader.number32(&field, 0, MAX_REPLICAS);
                draft.replicas = replicas.map(|replicas| (replicas, field));
            }
            "resources" => resources(reader, &field, &mut draft.deploy),
            "placement" => placement(reader, &field, &mut draft.deploy),
            "restart_policy" => draft.restart = restart_policy(reader, &field),
            other => reader.unknown(&field, other, &known::DEPLOY),
        }
    }
    draft
}

impl Draft<'_> {
    /// `deploy`, and the restart policy of the two places that can set one; `restart` is the service's own.
    pub(super) fn finish(mut self, reader: &mut Reader, restart: Option<Restart>) -> (Deploy, Restart) {
        match (&self.replicas, self.global) {
            (Some((_, field)), true) => {
                let cause = "`mode: global` runs one replica on every node that fits";
                reader.refuse(
                    field.key_at,
                    &field.path,
                    cause,
                    "remove `replicas`, or use `mode: replicated`",
                );
            }
            (_, true) => self.deploy.mode = Mode::Global,
            (Some((replicas, _)), false) => self.deploy.mode = Mode::Replicated { replicas: *replicas },
            (None, false) => {}
        }
        if let (Some((policy, field)), Some(restart)) = (&self.restart, restart)
            && *policy != restart
        {
            let cause = "the service's `restart` says otherwise";
            reader.refuse(field.key_at, &field.path, cause, "keep one of the two");
        }
        let restart = restart.or(self.restart.map(|(policy, _)| policy)).unwrap_or_default();
        (self.deploy, restart)
    }
}

fn resources(reader: &mut Reader, field: &Field<'_>, deploy: &mut Deploy) {
    let entries = reader.entries(field);
    let mut reserved_at = None;
    for (key, field) in &entries {
        match *key {
            "limits" => deploy.limits = limits(reader, field, &known::LIMITS),
            "reservations" => {
                deploy.reservations = limits(reader, field, &known::RESERVATIONS);
                reserved_at = Some(field);
            }
            other => reader.unknown(field, other, &known::RESOURCES),
        }
    }
    let above = |reserved: Option<u64>, limit: Option<u64>| reserved.zip(limit).is_some_and(|(r, l)| r > l);
    let (reserved, limit) = (deploy.reservations, deploy.limits);
    if let Some(field) = reserved_at
        && (above(reserved.memory_bytes, limit.memory_bytes) || above(reserved.milli_cpus, limit.milli_cpus))
    {
        reader.refuse(field.key_at, &field.path, "more is reserved than `limits` allows", "raise the limit");
    }
}

fn limits(reader: &mut Reader, field: &Field<'_>, section: &Section) -> Limits {
    /// The least that a process can start with; less is a slip of the unit.
    const MIN_MEMORY: u64 = 1 << 20;
    let mut limits = Limits::default();
    for (key, field) in reader.entries(field) {
        match key {
            "cpus" => limits.milli_cpus = process::milli_cpus(reader, &field),
            "memory" => {
                limits.memory_bytes = process::bytes(reader, &field);
                if limits.memory_bytes.is_some_and(|bytes| bytes < MIN_MEMORY) {
                    reader.refuse_value(&field, "this is less than 1 MiB", "write the unit: 64m is 64 MiB");
                }
            }
            // Reservations have no pids in the specification: the same rule that refuses it refuses it by name.
            "pids" if std::ptr::eq(section, &known::LIMITS) => {
                limits.pids = reader.number(&field, 1, 4_194_304)
            }
            other => reader.unknown(&field, other, section),
        }
    }
    limits
}

fn placement(reader: &mut Reader, field: &Field<'_>, deploy: &mut Deploy) {
    const CURE: &str =
        "write `node.labels.<name>==<value>`, or != ; also node.id, node.hostname, node.platform.arch";
    for (key, field) in reader.entries(field) {
        match key {
            "constraints" => {
                for item in reader.items(&field) {
                    if let Some(text) = reader.full_text(&item) {
                        let parsed =
                            text.parse::<Constraint>().map_err(|error| format!("the constraint {error}"));
                        deploy.constraints.extend(reader.ok(&item, parsed, CURE));
                    }
                }
            }
            "max_replicas_per_node" => {
                // Compose writes 0 for no limit.
                deploy.max_replicas_per_node =
                    reader.number32(&field, 0, MAX_REPLICAS).filter(|max| *max > 0);
            }
            other => reader.unknown(&field, other, &known::PLACEMENT),
        }
    }
}

fn restart_policy<'a>(reader: &mut Reader, field: &Field<'a>) -> Option<(Restart, Field<'a>)> {
    let conditions = [
        ("none", Restart::No),
        ("on-failure", Restart::OnFailure { max_retries: None }),
        ("any", Restart::Always),
    ];
    // Compose's default condition.
    let mut policy = Some(Restart::Always);
    for (key, field) in reader.entries(field) {
        match key {
            "condition" => policy = reader.choice(&field, &conditions),
            other => reader.unknown(&field, other, &known::RESTART_POLICY),
        }
    }
    policy.map(|policy| (policy, field.clone()))
}
