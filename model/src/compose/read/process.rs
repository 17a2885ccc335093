//! What a service says of its process.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{Restart, Ulimit, known, values},
    reader::{Field, Reader, cut},
};

pub(super) fn labels(reader: &mut Reader, field: &Field<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, value, field) in reader.pairs(field, &['=']) {
        if name.is_empty() || name.contains('=') {
            reader.refuse_value(&field, "this is no name of a label", "write `name: value`");
        } else {
            labels.insert(name, value.unwrap_or_default());
        }
    }
    labels
}

pub(super) fn environment(reader: &mut Reader, field: &Field<'_>) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for (name, value, field) in reader.pairs(field, &['=']) {
        if name.is_empty() || name.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            let cause = format!("{:?} is no name of a variable", cut(&name));
            reader.refuse_value(&field, cause, "use letters, digits and `_`");
        } else if let Some(value) = value {
            environment.insert(name, value);
        } else {
            let cause =
                format!("{:?} has no value, and nodes do not take it from anyone's shell", cut(&name));
            reader.refuse_value(&field, cause, "write its value (`\"\"` for an empty one), or remove it");
        }
    }
    environment
}

pub(super) fn user(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.full_text(field)?;
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'$'))
    };
    let valid = match text.split_once(':') {
        Some((user, group)) => part(user) && part(group),
        None => part(&text),
    };
    if !valid || text.len() > 128 {
        reader.refuse_value(
            field,
            format!("{:?} is no user", cut(&text)),
            "write \"user\" or \"user:group\"",
        );
        return None;
    }
    Some(text)
}

pub(super) fn duration(reader: &mut Reader, field: &Field<'_>) -> Option<Duration> {
    let text = reader.scalar(field)?;
    reader.ok(field, values::duration(&text), "write for example 30s, 1m30s or 500ms")
}

pub(super) fn bytes(reader: &mut Reader, field: &Field<'_>) -> Option<u64> {
    let text = reader.scalar(field)?;
    reader.ok(field, values::bytes(&text), "write for example 64m, 1.5g or 65536")
}

pub(super) fn milli_cpus(reader: &mut Reader, field: &Field<'_>) -> Option<u64> {
    let text = reader.scalar(field)?;
    reader.ok(field, values::milli_cpus(&text), "write for example 0.5 or 2")
}

pub(super) fn restart(reader: &mut Reader, field: &Field<'_>) -> Option<Restart> {
    // Read as a scalar: `no` is a text to YAML 1.2 and a boolean to older readers.
    let text = reader.scalar(field)?;
    let restart = match text.split_once(':') {
        Some(("on-failure", max)) => {
            max.parse::<u32>().ok().map(|max| Restart::OnFailure { max_retries: Some(max) })
        }
        Some(_) => None,
        None => match text.as_str() {
            "no" | "false" => Some(Restart::No),
            "always" => Some(Restart::Always),
            "on-failure" => Some(Restart::OnFailure { max_retries: None }),
            "unless-stopped" => Some(Restart::UnlessStopped),
            _ => None,
        },
    };
    if restart.is_none() {
        let cure = "write one of: no, always, on-failure, on-failure:<n>, unless-stopped";
        reader.refuse_value(field, format!("{:?} is no restart policy", cut(&text)), cure);
    }
    restart
}

pub(super) fn stop_signal(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.scalar(field)?;
    let signal = values::signal_name(&text);
    if signal.is_none() {
        reader.refuse_value(
            field,
            format!("{:?} is no signal", cut(&text)),
            "write for example SIGTERM or SIGINT",
        );
    }
    signal.map(str::to_owned)
}

/// Sorted and each once, so that their order makes no difference.
pub(super) fn capabilities(reader: &mut Reader, field: &Field<'_>) -> Vec<String> {
    let mut capabilities = Vec::new();
    for item in reader.items(field) {
        let Some(text) = reader.full_text(&item) else { continue };
        match values::capability(&text) {
            Some(name) => capabilities.push(name),
            None => {
                let cause = format!("{:?} is no capability", cut(&text));
                reader.refuse_value(&item, cause, "write for example NET_ADMIN, or ALL");
            }
        }
    }
    capabilities.sort();
    capabilities.dedup();
    capabilities
}

pub(super) fn ulimits(reader: &mut Reader, field: &Field<'_>) -> BTreeMap<String, Ulimit> {
    let mut ulimits = BTreeMap::new();
    for (name, field) in reader.all_entries(field) {
        if !values::RLIMITS.contains(&name) {
            let cause = format!("{:?} is no ulimit", cut(name));
            reader.refuse(
                field.key_at,
                &field.path,
                cause,
                format!("use one of: {}", values::RLIMITS.join(", ")),
            );
            continue;
        }
        let limit = if field.is_map() {
            let (mut soft, mut hard) = (None, None);
            for (key, field) in reader.entries(&field) {
                match key {
                    "soft" => soft = ulimit(reader, &field),
                    "hard" => hard = ulimit(reader, &field),
                    other => reader.unknown(&field, other, &known::ULIMIT),
                }
            }
            match (soft, hard) {
                (Some(soft), Some(hard)) => Ulimit { soft, hard },
                _ => {
                    reader.refuse_value(
                        &field,
                        "a ulimit needs `soft` and `hard`",
                        "write both, or one number",
                    );
                    continue;
                }
            }
        } else {
            let Some(both) = ulimit(reader, &field) else { continue };
            Ulimit { soft: both, hard: both }
        };
        if limit.soft > limit.hard {
            reader.refuse_value(
                &field,
                "the soft limit is above the hard one",
                "lower `soft` or raise `hard`",
            );
        }
        ulimits.insert(name.to_owned(), limit);
    }
    ulimits
}

fn ulimit(reader: &mut Reader, field: &Field<'_>) -> Option<u64> {
    if field.is_scalar() && reader.scalar(field)? == "-1" {
        return Some(u64::MAX);
    }
    // A limit of u64::MAX - 1 means nothing else than none to the kernel, but the largest number stays its own.
    reader.number(field, 0, i64::MAX as u64)
}

pub(super) fn sysctls(reader: &mut Reader, field: &Field<'_>) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    for (name, value, field) in reader.pairs(field, &['=']) {
        if !values::is_namespaced_sysctl(&name) {
            let cause = format!("{:?} is no kernel parameter of a container's own", cut(&name));
            let cure = "use net.*, kernel.shm*, kernel.msg*, kernel.sem or fs.mqueue.*, or set it in the node's image";
            reader.refuse_value(&field, cause, cure);
        } else if let Some(value) =
            value.filter(|value| !value.is_empty() && !value.contains(char::is_control))
        {
            sysctls.insert(name, value);
        } else {
            reader.refuse_value(&field, format!("{name} has no value"), "write one");
        }
    }
    sysctls
}
