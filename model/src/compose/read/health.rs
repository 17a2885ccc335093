//! A service's health check, from `healthcheck` and `x-cairn.health` together.

use std::time::Duration;

use super::{
    super::{HealthCheck, Probe, known},
    process,
    reader::{Field, Reader, cut},
};

/// Probes more often than this would only cost.
const SHORTEST: Duration = Duration::from_millis(100);

/// The two places, as they are found.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub(super) compose: Option<Field<'a>>,
    pub(super) x_cairn: Option<Field<'a>>,
}

/// What `healthcheck.test` says.
enum Test {
    Absent,
    None,
    Exec(Vec<String>),
    Bad,
}

impl Draft<'_> {
    /// The health check of the service at `service`.
    pub(super) fn finish(self, reader: &mut Reader, service: &Field<'_>) -> Option<HealthCheck> {
        let network = self.x_cairn.as_ref().map(|field| network_probe(reader, field));
        let mut check = HealthCheck::new(Probe::Tcp { port: 0 });
        let (test, disabled) = match &self.compose {
            Some(field) => compose(reader, field, &mut check),
            None => (Test::Absent, false),
        };
        let at = self.compose.as_ref().unwrap_or(service);
        check.probe = match (test, network) {
            (Test::Exec(_), Some(_)) => {
                let cause = "there is a `test` here and an `x-cairn.health` too";
                reader.refuse(at.key_at, &at.path, cause, "keep one of them");
                return None;
            }
            (Test::None, _) | (Test::Bad, _) => return None,
            _ if disabled => return None,
            (Test::Exec(args), None) => Probe::Exec { args },
            (Test::Absent, Some(probe)) => probe?,
            (Test::Absent, None) => {
                if let Some(field) = &self.compose {
                    let cure = "write `test: [CMD, …]`, or `x-cairn: {health: {http: {port: …}}}`; images bring none";
                    reader.refuse(field.key_at, &field.path, "the health check has no `test`", cure);
                }
                return None;
            }
        };
        Some(check)
    }
}

fn compose(reader: &mut Reader, field: &Field<'_>, check: &mut HealthCheck) -> (Test, bool) {
    let mut test = Test::Absent;
    let mut disabled = false;
    for (key, field) in reader.entries(field) {
        match key {
            "test" => test = read_test(reader, &field),
            "disable" => disabled = reader.boolean(&field).unwrap_or_default(),
            "interval" => check.interval = pace(reader, &field).unwrap_or(check.interval),
            "timeout" => check.timeout = pace(reader, &field).unwrap_or(check.timeout),
            "start_period" => {
                check.start_period = process::duration(reader, &field).unwrap_or(check.start_period)
            }
            "retries" => check.retries = reader.number32(&field, 1, 1000).unwrap_or(check.retries),
            other => reader.unknown(&field, other, &known::HEALTHCHECK),
        }
    }
    (test, disabled)
}

fn pace(reader: &mut Reader, field: &Field<'_>) -> Option<Duration> {
    let duration = process::duration(reader, field)?;
    if duration < SHORTEST {
        reader.refuse_value(field, "this is shorter than 100ms", "use at least 100ms");
        return None;
    }
    Some(duration)
}

fn read_test(reader: &mut Reader, field: &Field<'_>) -> Test {
    const CURE: &str = "write [CMD, program, argument…], [CMD-SHELL, \"command\"] or [NONE]";
    // The shell is the container's own: this is what Compose says `CMD-SHELL` is.
    let shell = |command: String| Test::Exec(vec!["/bin/sh".to_owned(), "-c".to_owned(), command]);
    if !field.is_list() {
        return reader.full_text(field).map_or(Test::Bad, shell);
    }
    let items = reader.items(field);
    let words = reader.texts(field);
    if words.len() < items.len() {
        return Test::Bad;
    }
    match words.split_first() {
        Some((word, [])) if word == "NONE" => Test::None,
        Some((word, args)) if word == "CMD" && args.first().is_some_and(|program| !program.is_empty()) => {
            Test::Exec(args.to_vec())
        }
        Some((word, [command])) if word == "CMD-SHELL" && !command.is_empty() => shell(command.clone()),
        first => {
            let first = first.map_or("", |(word, _)| word);
            reader.refuse_value(
                field,
                format!("this test cannot be run (it starts with {:?})", cut(first)),
                CURE,
            );
            Test::Bad
        }
    }
}

fn network_probe(reader: &mut Reader, field: &Field<'_>) -> Option<Probe> {
    let mut probes = Vec::new();
    for (key, field) in reader.entries(field) {
        let (section, is_http) = match key {
            "http" => (&known::X_HTTP, true),
            "tcp" => (&known::X_TCP, false),
            other => {
                reader.unknown(&field, other, &known::X_HEALTH);
                continue;
            }
        };
        let (mut port, mut path) = (None, Some("/".to_owned()));
        let entries = reader.entries(&field);
        for (key, field) in &entries {
            match *key {
                "port" => port = reader.port(field),
                "path" if is_http => path = http_path(reader, field),
                other => reader.unknown(field, other, section),
            }
        }
        if field.is_map() && !entries.iter().any(|(key, _)| *key == "port") {
            reader.refuse_value(&field, "the probe has no `port`", "write the port inside as `port`");
        }
        probes.push(match (port, path) {
            (Some(port), Some(path)) if is_http => Some(Probe::Http { port, path }),
            (Some(port), _) if !is_http => Some(Probe::Tcp { port }),
            _ => None,
        });
    }
    if probes.len() > 1 || (probes.is_empty() && field.is_map()) {
        let cause = "`x-cairn.health` needs exactly one of `http` and `tcp`";
        reader.refuse_value(field, cause, "write one, for example `http: {port: 8080, path: /healthz}`");
        return None;
    }
    probes.pop().flatten()
}

/// A request target that cannot end the request line.
fn http_path(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let path = reader.full_text(field)?;
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    if !path.starts_with('/') || path.len() > 1000 || !path.bytes().all(plain) {
        let cause = format!("{:?} is no path of a URL", cut(&path));
        reader.refuse_value(field, cause, "start it with `/`, and percent-encode what is not plain ASCII");
        return None;
    }
    Some(path)
}
