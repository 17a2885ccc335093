//! From what a unit shall be to the properties of `StartTransientUnit` (names and types as in systemd's
//! `dbus-service.c`, `dbus-execute.c`, `dbus-cgroup.c`, `dbus-kill.c`).

use std::time::Duration;

use zbus::zvariant::{Structure, Value};

use super::{
    super::{
        jobs::Job,
        supervisor::{Sandbox, UnitSpec},
    },
    Restart, remains_after_exit,
};

/// A command line as `a(sasb)`: path, argv, whether a failure is ignored.
type ExecLines = Vec<(String, Vec<String>, bool)>;

/// First pause of systemd's own restart; it grows in [`RESTART_STEPS`] steps to [`RESTART_MAX`].
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(60);
const RESTART_STEPS: u32 = 7;
/// systemd gives each command after the stop as long as the stop itself: the cleanup must at least come so far as to ask
/// for more (`EXTEND_TIMEOUT_USEC`), or ports and networks of the dead container stay behind.
const LEAST_STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A container starts in tens of milliseconds; what takes longer than this hangs.
const START_TIMEOUT: Duration = Duration::from_secs(60);

fn usec(duration: Duration) -> Value<'static> {
    Value::from(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn exec(argv: &[String]) -> Value<'static> {
    let program = argv.first().cloned().unwrap_or_default();
    let lines: ExecLines = vec![(program, argv.to_vec(), false)];
    Value::from(lines)
}

/// The properties of a workload's unit.
pub(super) fn of_workload(spec: &UnitSpec) -> Vec<(&'static str, Value<'static>)> {
    let extra: Vec<Vec<u8>> = vec![
        format!("CAIRN_APP={}", spec.app).into_bytes(),
        format!("CAIRN_SERVICE={}", spec.service).into_bytes(),
    ];
    let mut properties = vec![
        ("Description", Value::from(spec.tag.describe())),
        ("Slice", Value::from(spec.slice.clone())),
        ("Type", Value::from("notify")),
        ("NotifyAccess", Value::from("all")),
        ("ExecStart", exec(&spec.exec_start)),
        ("TimeoutStartUSec", usec(START_TIMEOUT)),
        ("TimeoutStopUSec", usec(spec.stop_timeout.max(LEAST_STOP_TIMEOUT))),
        ("KillMode", Value::from("mixed")),
        ("KillSignal", Value::from(spec.kill_signal)),
        ("DevicePolicy", Value::from("closed")),
        // As a container engine would have it: the kernel kills one process, the unit decides what that means.
        ("OOMPolicy", Value::from("continue")),
        ("SyslogIdentifier", Value::from(format!("{}/{}", spec.app, spec.service))),
        ("LogExtraFields", Value::from(extra)),
        ("StandardOutput", Value::from("journal")),
        ("StandardError", Value::from("journal")),
        // Collected once inactive; a failed unit stays, so that its exit code can be read by a daemon that was away.
        ("CollectMode", Value::from("inactive")),
        ("RemainAfterExit", Value::from(remains_after_exit(spec.restart))),
    ];
    if let Some(argv) = &spec.exec_stop_post {
        properties.push(("ExecStopPost", exec(argv)));
    }
    if spec.delegate {
        properties.push(("Delegate", Value::from(true)));
    }
    let limits = [
        ("MemoryMax", spec.memory_max),
        ("CPUQuotaPerSecUSec", spec.cpu_quota_usec),
        ("TasksMax", spec.tasks_max),
    ];
    properties.extend(limits.into_iter().filter_map(|(name, limit)| Some((name, Value::from(limit?)))));
    if spec.memory_max.is_some() {
        // A limit that spills into swap is none.
        properties.push(("MemorySwapMax", Value::from(0u64)));
    }
    properties.extend(restart(spec.restart));
    properties.extend(spec.sandbox.iter().flat_map(sandbox));
    properties
}

/// Capabilities that a program in a sandbox keeps: it listens on low ports, and reads and writes volumes whoever owns
/// what is in them. Numbers as in `linux/capability.h`.
const SANDBOX_CAPABILITIES: u64 = (1 << 1/* CAP_DAC_OVERRIDE */) | (1 << 10/* CAP_NET_BIND_SERVICE */);

/// A native program that runs or compiles what came from outside, should that break out of it. `MemoryDenyWriteExecute=`
/// is not among these: machine code is what it is about.
fn sandbox(sandbox: &Sandbox) -> Vec<(&'static str, Value<'static>)> {
    // `-`: what is not there need not be hidden.
    let hidden: Vec<String> = sandbox.hidden.iter().map(|path| format!("-{}", path.display())).collect();
    let writable: Vec<String> = sandbox.writable.iter().map(|path| path.display().to_string()).collect();
    let families: Vec<String> = ["AF_UNIX", "AF_INET", "AF_INET6"].map(str::to_owned).to_vec();
    let mut properties = vec![
        ("ProtectSystem", Value::from("strict")),
        ("ProtectHome", Value::from("yes")),
        ("InaccessiblePaths", Value::from(hidden)),
        ("ReadWritePaths", Value::from(writable)),
        // The namespaces that it may make, as CLONE_NEW* flags: none. `RestrictNamespaces=yes` in a unit file comes to
        // this very 0 (config_parse_restrict_namespaces in systemd's load-fragment.c), and `systemd-run -p` sends it.
        ("RestrictNamespaces", Value::from(0u64)),
        // True: these and no others.
        ("RestrictAddressFamilies", Value::from(Structure::from((true, families)))),
        ("CapabilityBoundingSet", Value::from(SANDBOX_CAPABILITIES)),
    ];
    let switches = [
        "NoNewPrivileges",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectClock",
        "LockPersonality",
        "RestrictSUIDSGID",
    ];
    properties.extend(switches.map(|name| (name, Value::from(true))));
    properties
}

fn restart(policy: Restart) -> Vec<(&'static str, Value<'static>)> {
    let (word, limit) = match policy {
        Restart::No => return vec![("Restart", Value::from("no"))],
        Restart::OnFailure { max } => ("on-failure", max),
        Restart::Always => ("always", None),
    };
    let mut properties = vec![
        ("Restart", Value::from(word)),
        ("RestartUSec", usec(RESTART_FIRST)),
        ("RestartMaxDelayUSec", usec(RESTART_MAX)),
        ("RestartSteps", Value::from(RESTART_STEPS)),
    ];
    match limit {
        // The first start counts too.
        Some(max) => properties.extend([
            ("StartLimitIntervalUSec", Value::from(u64::MAX)),
            ("StartLimitBurst", Value::from(max.saturating_add(1))),
        ]),
        None => properties.push(("StartLimitIntervalUSec", Value::from(0u64))),
    }
    properties
}

/// The properties of a one-off job's unit.
pub(super) fn of_job(job: &Job) -> Vec<(&'static str, Value<'static>)> {
    let mut properties = vec![
        ("Description", Value::from(format!("Cairn job {}", job.name))),
        ("Slice", Value::from("cairn.slice")),
        ("Type", Value::from("oneshot")),
        ("ExecStart", exec(&job.argv)),
        ("TimeoutStartUSec", usec(job.deadline)),
        ("MemoryMax", Value::from(job.memory_max)),
        ("MemorySwapMax", Value::from(0u64)),
        ("TasksMax", Value::from(64u64)),
        ("DevicePolicy", Value::from("closed")),
        ("PrivateNetwork", Value::from(true)),
        ("CPUWeight", Value::from(20u64)),
        ("SyslogIdentifier", Value::from(job.name.clone())),
        ("CollectMode", Value::from("inactive-or-failed")),
    ];
    match &job.sandbox {
        Some(walls) => properties.extend(sandbox(walls)),
        None => properties.push(("NoNewPrivileges", Value::from(true))),
    }
    properties
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;

    fn job(sandbox: Option<Sandbox>) -> Job {
        let argv = vec!["/x/cairn-wasm".to_owned()];
        Job { name: "cairn-job-x".into(), argv, memory_max: 1, deadline: Duration::from_secs(1), sandbox }
    }

    #[test]
    fn a_sandbox_is_said_once_in_systemds_types() {
        let walls = Sandbox::new(Path::new("/s"), Path::new("/r"), vec!["/s/wasm".into()]);
        let properties = of_job(&job(Some(walls)));
        let by_name: BTreeMap<_, _> = properties.iter().map(|(name, value)| (*name, value)).collect();
        assert_eq!(by_name.len(), properties.len(), "none is said twice");
        for (name, signature) in [
            ("ProtectSystem", "s"),
            ("ProtectHome", "s"),
            ("InaccessiblePaths", "as"),
            ("ReadWritePaths", "as"),
            ("RestrictNamespaces", "t"),
            ("RestrictAddressFamilies", "(bas)"),
            ("CapabilityBoundingSet", "t"),
            ("NoNewPrivileges", "b"),
            ("PrivateDevices", "b"),
            ("RestrictSUIDSGID", "b"),
            ("DevicePolicy", "s"),
        ] {
            assert_eq!(by_name[name].value_signature().to_string(), signature, "{name}");
        }
        assert_eq!(*by_name["CapabilityBoundingSet"], Value::from(0x402u64));
        let hidden: Vec<String> = by_name["InaccessiblePaths"].try_clone().unwrap().try_into().unwrap();
        for path in ["-/s/keys", "-/s/ledger.sqlite-wal", "-/r/cairnd.sock", "-/run/dbus"] {
            assert!(hidden.iter().any(|h| h == path), "{path}");
        }
        assert!(!hidden.iter().any(|h| h == "-/s/wasm" || h == "-/s/blobs" || h.contains("notify")));
    }

    #[test]
    fn every_jobs_unit_is_limited_in_memory_and_may_not_swap() {
        let walls = Sandbox::new(Path::new("/s"), Path::new("/r"), vec![]);
        for sandbox in [None, Some(walls)] {
            let properties = of_job(&Job { memory_max: 384 << 20, ..job(sandbox) });
            let value = |wanted| properties.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
            assert_eq!(value("MemoryMax"), Some(&Value::from(384u64 << 20)));
            assert_eq!(value("MemorySwapMax"), Some(&Value::from(0u64)), "swap would be a way around");
        }
    }

    #[test]
    fn a_job_without_a_sandbox_gains_no_privileges_either() {
        let properties = of_job(&job(None));
        assert!(
            properties.iter().any(|(name, value)| *name == "NoNewPrivileges" && *value == Value::from(true))
        );
        assert!(!properties.iter().any(|(name, _)| *name == "PrivateDevices"));
    }
}
