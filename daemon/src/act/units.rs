//! Workloads as transient units of systemd, over D-Bus: they outlive the daemon, log to the journal, and are limited
//! and reaped by the kernel's own means.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use zbus::{
    MatchRule, MessageStream,
    message::Type,
    zvariant::{OwnedObjectPath, Value},
};

use super::{
    jobs::{Job, JobError, JobRunner},
    supervisor::{RestartMachine, Supervisor, SupervisorError, Tag, UnitSpec, UnitState},
};
use crate::plan::{Phase, Restart};

mod bus;
mod properties;

use bus::{ListedUnit, ManagerProxy, ServiceProxy};

/// Longest that one D-Bus call may take: systemd answers within milliseconds, and a hung bus must not hang the daemon.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);

/// systemd as the supervisor.
#[derive(Debug)]
pub struct Units {
    bus: zbus::Connection,
    manager: ManagerProxy<'static>,
    changes: Arc<Notify>,
}

impl Units {
    /// Connects to the system bus and subscribes to what happens to units. A task of its own turns signals into rings
    /// of [`Supervisor::changes`] until `stop` is cancelled.
    pub async fn connect(stop: CancellationToken) -> zbus::Result<Self> {
        let bus = zbus::connection::Builder::system()?.method_timeout(CALL_TIMEOUT).build().await?;
        let manager =
            ManagerProxy::builder(&bus).cache_properties(zbus::proxy::CacheProperties::No).build().await?;
        manager.subscribe().await?;
        let changes = Arc::new(Notify::new());
        let signals = unit_signals(&bus).await?;
        tokio::spawn(ring(signals, changes.clone(), stop));
        Ok(Self { bus, manager, changes })
    }

    /// A second handle for one-off jobs, for a task of its own.
    pub fn jobs(&self) -> UnitJobs {
        UnitJobs { manager: self.manager.clone() }
    }

    async fn state_of(&self, listed: ListedUnit) -> Option<(String, UnitState)> {
        let tag = Tag::parse(&listed.description)?;
        let name = listed.name.strip_suffix(".service")?.to_owned();
        let phase = phase_of(&listed.active_state, &listed.sub_state)?;
        let mut state = UnitState { tag, phase, restarts: 0, detail: None };
        // A unit that goes away in between answers with an error: then what the list said must do.
        let service = ServiceProxy::builder(&self.bus)
            .path(listed.path)
            .ok()?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .ok()?;
        state.restarts = service.n_restarts().await.unwrap_or(0);
        let waits = listed.sub_state.starts_with("auto-restart");
        if phase != Phase::Running && (waits || phase != Phase::Starting) {
            let code = service.exec_main_code().await.unwrap_or(0);
            let status = service.exec_main_status().await.unwrap_or(0);
            let result = service.result().await.unwrap_or_default();
            state.detail = Some(describe_end(code, status, &result, waits));
        }
        Some((name, state))
    }
}

/// Signals that concern units of ours: changed properties, units that come and go, jobs that end.
async fn unit_signals(bus: &zbus::Connection) -> zbus::Result<Vec<MessageStream>> {
    let properties = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.systemd1")?
        .interface("org.freedesktop.DBus.Properties")?
        .member("PropertiesChanged")?
        .path_namespace("/org/freedesktop/systemd1/unit")?
        .build();
    let mut rules = vec![properties];
    for member in ["JobRemoved", "UnitRemoved"] {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender("org.freedesktop.systemd1")?
            .interface("org.freedesktop.systemd1.Manager")?
            .member(member)?
            .build();
        rules.push(rule);
    }
    let mut streams = Vec::new();
    for rule in rules {
        streams.push(MessageStream::for_match_rule(rule, bus, Some(64)).await?);
    }
    Ok(streams)
}

/// Rings for every signal about a unit whose name starts with `cairn-`. systemd escapes `-` in paths as `_2d`.
async fn ring(signals: Vec<MessageStream>, changes: Arc<Notify>, stop: CancellationToken) {
    let mut signals = futures_util::stream::select_all(signals);
    loop {
        // Both arms are cancel-safe: a stream's next keeps its messages, a token has no state to lose.
        let message = tokio::select! {
            message = signals.next() => message,
            () = stop.cancelled() => return,
        };
        let Some(message) = message else { return };
        let Ok(message) = message else { continue };
        let path_is_ours =
            message.header().path().is_some_and(|p| p.starts_with("/org/freedesktop/systemd1/unit/cairn_2d"));
        let names_ours =
            || match message.body().deserialize::<(u32, zbus::zvariant::ObjectPath<'_>, &str, &str)>() {
                Ok((_, _, unit, _)) => unit.starts_with("cairn-"),
                Err(_) => message
                    .body()
                    .deserialize::<(&str, zbus::zvariant::ObjectPath<'_>)>()
                    .is_ok_and(|(unit, _)| unit.starts_with("cairn-")),
            };
        if path_is_ours || names_ours() {
            changes.notify_one();
        }
    }
}

fn phase_of(active: &str, sub: &str) -> Option<Phase> {
    match (active, sub) {
        ("active", "exited") => Some(Phase::Completed),
        ("active" | "reloading" | "refreshing", _) => Some(Phase::Running),
        ("activating" | "maintenance", _) => Some(Phase::Starting),
        // An inactive unit is about to be collected; until then its name is not free.
        ("deactivating" | "inactive", _) => Some(Phase::Stopping),
        ("failed", _) => Some(Phase::Failed),
        _ => None,
    }
}

/// `CLD_*` of `waitid` and the status that goes with it, in words.
fn describe_end(code: i32, status: i32, result: &str, waits: bool) -> String {
    let end = match code {
        1 => format!("exited with code {status}"),
        2 | 3 => {
            let signal = nix::sys::signal::Signal::try_from(status)
                .map_or("a signal", nix::sys::signal::Signal::as_str);
            format!("ended by {signal}")
        }
        _ => "did not start".to_owned(),
    };
    let why = match result {
        "" | "success" | "exit-code" | "signal" => String::new(),
        other => format!(" ({other})"),
    };
    let next = if waits { "; starts again after a pause" } else { "" };
    format!("{end}{why}{next}")
}

#[async_trait]
impl Supervisor for Units {
    async fn list(&mut self) -> Result<BTreeMap<String, UnitState>, SupervisorError> {
        let listed = self
            .manager
            .list_units_by_patterns(&[], &["cairn-*.service"])
            .await
            .map_err(|e| SupervisorError::new("list", "cairn-*.service", e))?;
        let states = join_all(listed.into_iter().map(|unit| self.state_of(unit))).await;
        Ok(states.into_iter().flatten().collect())
    }

    async fn start(&mut self, spec: &UnitSpec) -> Result<(), SupervisorError> {
        let name = format!("{}.service", spec.name);
        let properties = properties::of_workload(spec);
        self.manager
            .start_transient_unit(&name, "fail", &properties, &[])
            .await
            .map(drop)
            .map_err(|e| SupervisorError::new("start", &name, e))
    }

    async fn stop(&mut self, unit: &str) -> Result<(), SupervisorError> {
        let name = format!("{unit}.service");
        self.manager
            .stop_unit(&name, "replace")
            .await
            .map(drop)
            .map_err(|e| SupervisorError::new("stop", &name, e))
    }

    async fn clear(&mut self, unit: &str) -> Result<(), SupervisorError> {
        let name = format!("{unit}.service");
        // A completed unit is still active (`RemainAfterExit=`), a failed one holds its name until it is reset: either
        // call may find that there is nothing to do.
        let stopped = self.manager.stop_unit(&name, "replace").await;
        let reset = self.manager.reset_failed_unit(&name).await;
        match (stopped, reset) {
            (Err(stop), Err(_)) => Err(SupervisorError::new("clear", &name, stop)),
            _ => Ok(()),
        }
    }

    fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    async fn shutdown(&mut self) {}
}

/// One-off jobs as transient units with a memory limit, and the restart of the machine.
#[derive(Debug, Clone)]
pub struct UnitJobs {
    manager: ManagerProxy<'static>,
}

/// How systemd's work on a unit ended.
enum Ended {
    /// With this result.
    Result(String),
    /// Not in time.
    Late,
}

impl UnitJobs {
    /// Starts a unit that is installed, and waits until it is up.
    ///
    /// # Errors
    /// If it does not come up, or not in time.
    pub async fn start(&self, unit: &str, deadline: Duration) -> Result<(), SupervisorError> {
        let asked = self.ended(self.manager.start_unit(unit, "replace"), deadline).await;
        Self::done("start", unit, asked)
    }

    /// Stops a unit, and waits until it is down.
    ///
    /// # Errors
    /// If it does not go down in time.
    pub async fn stop(&self, unit: &str, deadline: Duration) -> Result<(), SupervisorError> {
        let asked = self.ended(self.manager.stop_unit(unit, "replace"), deadline).await;
        Self::done("stop", unit, asked)
    }

    fn done(action: &'static str, unit: &str, asked: Result<Ended, String>) -> Result<(), SupervisorError> {
        let fail = |cause: String| Err(SupervisorError::new(action, unit, cause));
        match asked {
            Ok(Ended::Result(result)) if result == "done" => Ok(()),
            Ok(Ended::Result(result)) => fail(format!("ended with {result}; see `journalctl -u {unit}`")),
            Ok(Ended::Late) => fail("it takes too long".to_owned()),
            Err(cause) => fail(cause),
        }
    }

    /// Has systemd do something with a unit, and waits for the end of that.
    async fn ended(
        &self,
        request: impl Future<Output = zbus::Result<OwnedObjectPath>>,
        deadline: Duration,
    ) -> Result<Ended, String> {
        // Taken before the call: a job that ends at once must not be missed.
        let mut removed = self.manager.receive_job_removed().await.map_err(|e| e.to_string())?;
        let path = request.await.map_err(|e| e.to_string())?;
        let ended = async {
            while let Some(signal) = removed.next().await {
                let Ok(args) = signal.args() else { continue };
                if args.job().as_str() == path.as_str() {
                    return Ok(Ended::Result(args.result().to_string()));
                }
            }
            Err("the connection to the system bus was lost".to_owned())
        };
        tokio::time::timeout(deadline, ended).await.unwrap_or(Ok(Ended::Late))
    }
}

#[async_trait]
impl JobRunner for UnitJobs {
    async fn run(&self, job: &Job) -> Result<(), JobError> {
        let name = format!("{}.service", job.name);
        let fail = |cause: String| JobError { job: job.name.clone(), cause };
        let properties: Vec<(&str, Value<'_>)> = properties::of_job(job);
        let started = self.manager.start_transient_unit(&name, "fail", &properties, &[]);
        match self.ended(started, job.deadline).await.map_err(fail)? {
            Ended::Result(result) if result == "done" => Ok(()),
            Ended::Result(result) => Err(fail(format!("ended with {result}; see `journalctl -u {name}`"))),
            Ended::Late => {
                let _ = self.manager.stop_unit(&name, "replace").await;
                Err(fail(format!("not done within {} s", job.deadline.as_secs())))
            }
        }
    }
}

#[async_trait]
impl RestartMachine for UnitJobs {
    /// As `systemctl reboot` does it. The manager's own `Reboot()` would not stop services in order first.
    async fn restart_machine(&self) -> Result<(), SupervisorError> {
        self.manager
            .start_unit("reboot.target", "replace-irreversibly")
            .await
            .map(drop)
            .map_err(|e| SupervisorError::new("start", "reboot.target", e))
    }
}

/// Whether a unit of this policy stays `active (exited)` after a clean end, so that its completion can be seen later,
/// by a daemon that was not there. With `Always` systemd starts it again instead.
fn remains_after_exit(restart: Restart) -> bool {
    matches!(restart, Restart::No | Restart::OnFailure { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_systemds_states() {
        for (active, sub, expected) in [
            ("active", "running", Some(Phase::Running)),
            ("active", "exited", Some(Phase::Completed)),
            ("activating", "start", Some(Phase::Starting)),
            ("activating", "auto-restart", Some(Phase::Starting)),
            ("deactivating", "stop-post", Some(Phase::Stopping)),
            ("inactive", "dead", Some(Phase::Stopping)),
            ("failed", "failed", Some(Phase::Failed)),
            ("unheard-of", "", None),
        ] {
            assert_eq!(phase_of(active, sub), expected, "{active} {sub}");
        }
    }

    #[test]
    fn ends_are_described_for_people() {
        assert_eq!(describe_end(1, 3, "exit-code", false), "exited with code 3");
        assert_eq!(describe_end(2, 9, "signal", true), "ended by SIGKILL; starts again after a pause");
        assert_eq!(describe_end(0, 0, "timeout", false), "did not start (timeout)");
    }
}
