//! Values inside scalars: durations, byte sizes, CPUs, signals, capabilities, limits.

use std::time::Duration;

/// Why a text is no value of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub(super) struct ValueError {
    what: &'static str,
    text: String,
}

impl ValueError {
    fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.chars().take(80).collect() }
    }
}

/// A decimal number times `unit`, exactly; none if it is not whole, or too large for 64 bits.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.len() <= 19 && text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
        return None;
    }
    let value = format!("{whole}{fraction}").parse::<u128>().ok()?.checked_mul(unit.into())?;
    let scale = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
    if !value.is_multiple_of(scale) {
        return None;
    }
    u64::try_from(value / scale).ok()
}

/// Longest duration: a year.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration in Compose's form: `1h30m`, `1.5s`, `500ms`, `10us`.
///
/// # Errors
/// If it is not of that form, or longer than a year.
pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    let error = || ValueError::new("duration (h, m, s, ms, us; at most a year)", text);
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(error)?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
        let microseconds = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return Err(error()),
        };
        let part = scaled(number, microseconds).ok_or_else(error)?;
        total = total.checked_add(Duration::from_micros(part)).ok_or_else(error)?;
        rest = tail;
    }
    if text.is_empty() || total > MAX_DURATION { Err(error()) } else { Ok(total) }
}

/// The shortest text that [`duration`] reads as `duration`, in one unit.
pub(super) fn duration_text(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        _ if micros.is_multiple_of(1_000_000) => format!("{}s", micros / 1_000_000),
        _ if micros.is_multiple_of(1_000) => format!("{}ms", micros / 1_000),
        _ => format!("{micros}us"),
    }
}

/// A size in Docker's form, powers of 1024: `64m`, `1.5gb`, `512k`, `1024`.
///
/// # Errors
/// If it is not of that form.
pub(super) fn bytes(text: &str) -> Result<u64, ValueError> {
    let error = || ValueError::new("size in bytes (b, k, m, g, t; powers of 1024)", text);
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(error()),
    };
    // The kernel counts memory in signed 64 bits.
    scaled(number, unit).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(error)
}

/// A number of CPUs in thousandths: `0.5` is 500.
///
/// # Errors
/// If it is no number above zero, finer than a thousandth, or above 4096.
pub(super) fn milli_cpus(text: &str) -> Result<u64, ValueError> {
    let milli = scaled(text, 1000).filter(|milli| (1..=4_096_000).contains(milli));
    milli.ok_or_else(|| ValueError::new("number of CPUs (above 0, in steps of 0.001)", text))
}

/// The text that [`milli_cpus`] reads as `milli`.
pub(super) fn milli_cpus_text(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The signals that `stop_signal` may name, by Linux's numbers on every architecture that we run on.
#[rustfmt::skip]
const SIGNALS: [(&str, u32); 29] = [
    ("SIGHUP", 1), ("SIGINT", 2), ("SIGQUIT", 3), ("SIGILL", 4), ("SIGTRAP", 5), ("SIGABRT", 6), ("SIGBUS", 7),
    ("SIGFPE", 8), ("SIGKILL", 9), ("SIGUSR1", 10), ("SIGSEGV", 11), ("SIGUSR2", 12), ("SIGPIPE", 13),
    ("SIGALRM", 14), ("SIGTERM", 15), ("SIGSTKFLT", 16), ("SIGCHLD", 17), ("SIGCONT", 18), ("SIGSTOP", 19),
    ("SIGTSTP", 20), ("SIGTTIN", 21), ("SIGTTOU", 22), ("SIGURG", 23), ("SIGXCPU", 24), ("SIGXFSZ", 25),
    ("SIGVTALRM", 26), ("SIGPROF", 27), ("SIGWINCH", 28), ("SIGPWR", 30),
];

/// `SIGTERM` for `SIGTERM`, `sigterm`, `TERM` or `15`.
pub(crate) fn signal_name(text: &str) -> Option<&'static str> {
    let upper = text.to_ascii_uppercase();
    let number = text.parse::<u32>().ok();
    let found = SIGNALS.iter().find(|(name, signal)| {
        *name == upper || name.strip_prefix("SIG") == Some(&upper) || Some(*signal) == number
    });
    found.map(|(name, _)| *name)
}

/// Linux's capabilities (capabilities(7)), without `CAP_`.
#[rustfmt::skip]
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
    "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
    "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
    "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
    "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "SYSLOG", "WAKE_ALARM",
];

/// `CAP_NET_ADMIN` for `NET_ADMIN`, `cap_net_admin`; `ALL` for `all`.
pub(super) fn capability(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Some(upper);
    }
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES.contains(&short).then(|| format!("CAP_{short}"))
}

/// Linux's resource limits (getrlimit(2)), in Compose's spelling.
#[rustfmt::skip]
pub(super) const RLIMITS: [&str; 15] = [
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "sigpending", "stack",
];

/// Whether a kernel parameter belongs to a container's own namespaces.
pub(super) fn is_namespaced_sysctl(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !name.contains("..");
    let exact = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let below = |prefix: &str| name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    plain && name.len() <= 200 && (exact.contains(&name) || below("net.") || below("fs.mqueue."))
}
