//! Workloads as plain child processes, for developers' machines without systemd and for tests. They end with the daemon,
//! and nothing limits them: an appliance never uses this.

use std::{
    collections::BTreeMap, os::unix::process::ExitStatusExt, process::Stdio, sync::Arc, time::Duration,
};

use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::{Notify, mpsc},
    time::timeout,
};

use super::supervisor::{Supervisor, SupervisorError, UnitSpec, UnitState};
use crate::plan::Phase;

/// How long everything together may take to stop when the daemon ends, and how long of that before it is killed.
const SHUTDOWN: Duration = Duration::from_secs(10);
const SHUTDOWN_GRACE: Duration = Duration::from_secs(4);

/// What the task of one process says of its end.
#[derive(Debug)]
struct Ended {
    unit: String,
    success: bool,
    detail: String,
}

#[derive(Debug)]
struct Running {
    state: UnitState,
    kill_signal: i32,
    pid: Option<i32>,
    /// Dropped to kill at once; its task then reaps.
    stop: mpsc::Sender<Duration>,
    stop_timeout: Duration,
}

/// Child processes as the supervisor.
#[derive(Debug)]
pub struct Processes {
    units: BTreeMap<String, Running>,
    changes: Arc<Notify>,
    ended: mpsc::Receiver<Ended>,
    report_end: mpsc::Sender<Ended>,
}

impl Default for Processes {
    fn default() -> Self {
        let (report_end, ended) = mpsc::channel(64);
        Self { units: BTreeMap::new(), changes: Arc::new(Notify::new()), ended, report_end }
    }
}

impl Processes {
    fn take_ends(&mut self) {
        while let Ok(end) = self.ended.try_recv() {
            self.settle(end);
        }
    }

    fn settle(&mut self, end: Ended) {
        let Some(unit) = self.units.get_mut(&end.unit) else { return };
        if unit.state.phase == Phase::Stopping {
            self.units.remove(&end.unit);
            return;
        }
        unit.state.phase = if end.success { Phase::Completed } else { Phase::Failed };
        unit.state.detail = Some(end.detail);
        unit.pid = None;
    }
}

fn command(argv: &[String]) -> Option<Command> {
    let (program, args) = argv.split_first()?;
    let mut command = Command::new(program);
    // Without NOTIFY_SOCKET the runtimes stay in the foreground until the workload ends.
    command.args(args).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET").kill_on_drop(true);
    Some(command)
}

/// Waits for the end of a process, or kills it when it is told to and does not end in time; then cleans up after it.
async fn mind(
    unit: String,
    mut child: Child,
    stop_post: Option<Vec<String>>,
    mut stop: mpsc::Receiver<Duration>,
    report_end: mpsc::Sender<Ended>,
    changes: Arc<Notify>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        grace = stop.recv() => {
            let waited = timeout(grace.unwrap_or_default(), child.wait()).await;
            match waited {
                Ok(status) => status,
                Err(_) => {
                    let _ = child.start_kill();
                    child.wait().await
                }
            }
        }
    };
    if let Some(mut post) = stop_post.as_deref().and_then(command) {
        let _ = post.status().await;
    }
    let (success, detail) = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => (code == 0, format!("exited with code {code}")),
            (None, signal) => (false, format!("ended by signal {}", signal.unwrap_or(0))),
        },
        Err(e) => (false, format!("lost: {e}")),
    };
    let _ = report_end.send(Ended { unit, success, detail }).await;
    changes.notify_one();
}

#[async_trait]
impl Supervisor for Processes {
    async fn list(&mut self) -> Result<BTreeMap<String, UnitState>, SupervisorError> {
        self.take_ends();
        Ok(self.units.iter().map(|(name, unit)| (name.clone(), unit.state.clone())).collect())
    }

    async fn start(&mut self, spec: &UnitSpec) -> Result<(), SupervisorError> {
        let fail = |cause: String| SupervisorError::new("start", &spec.name, cause);
        let mut command = command(&spec.exec_start).ok_or_else(|| fail("no command line".to_owned()))?;
        let child = command.spawn().map_err(|e| fail(e.to_string()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let (stop, stopped) = mpsc::channel(1);
        let (report_end, changes) = (self.report_end.clone(), self.changes.clone());
        let post = spec.exec_stop_post.clone();
        tokio::spawn(mind(spec.name.clone(), child, post, stopped, report_end, changes));
        let state = UnitState { tag: spec.tag.clone(), phase: Phase::Running, restarts: 0, detail: None };
        let (kill_signal, stop_timeout) = (spec.kill_signal, spec.stop_timeout);
        self.units.insert(spec.name.clone(), Running { state, kill_signal, pid, stop, stop_timeout });
        self.changes.notify_one();
        Ok(())
    }

    async fn stop(&mut self, unit: &str) -> Result<(), SupervisorError> {
        self.take_ends();
        let Some(running) = self.units.get_mut(unit) else { return Ok(()) };
        let (Some(pid), Ok(signal)) = (running.pid, Signal::try_from(running.kill_signal)) else {
            self.units.remove(unit);
            return Ok(());
        };
        running.state.phase = Phase::Stopping;
        // A process that has just ended is as good as stopped.
        let _ = kill(Pid::from_raw(pid), signal);
        let _ = running.stop.try_send(running.stop_timeout);
        Ok(())
    }

    async fn clear(&mut self, unit: &str) -> Result<(), SupervisorError> {
        self.take_ends();
        if self
            .units
            .get(unit)
            .is_some_and(|unit| matches!(unit.state.phase, Phase::Completed | Phase::Failed))
        {
            self.units.remove(unit);
            self.changes.notify_one();
        }
        Ok(())
    }

    fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    async fn shutdown(&mut self) {
        let names: Vec<String> = self.units.keys().cloned().collect();
        for name in &names {
            if let Some(unit) = self.units.get_mut(name) {
                unit.stop_timeout = unit.stop_timeout.min(SHUTDOWN_GRACE);
            }
            let _ = self.stop(name).await;
        }
        let all_gone = async {
            while !self.units.is_empty() {
                let Some(end) = self.ended.recv().await else { return };
                self.settle(end);
            }
        };
        let _ = timeout(SHUTDOWN, all_gone).await;
    }
}

#[cfg(test)]
mod tests {
    use cairn_model::Digest;

    use super::{super::supervisor::Tag, *};
    use crate::plan::Restart;

    fn spec(argv: &[&str]) -> UnitSpec {
        UnitSpec {
            name: "cairn-a-b-0".into(),
            tag: Tag { replica: "a/b/0".into(), spec: Digest::of(b"x"), ports: vec![] },
            app: "a".into(),
            slice: "cairn-a.slice".into(),
            service: "b".into(),
            exec_start: argv.iter().map(|a| (*a).to_owned()).collect(),
            exec_stop_post: None,
            restart: Restart::No,
            memory_max: None,
            cpu_quota_usec: None,
            tasks_max: None,
            kill_signal: Signal::SIGTERM as i32,
            stop_timeout: Duration::from_secs(5),
            delegate: false,
            sandbox: None,
        }
    }

    async fn phase(processes: &mut Processes, until: Option<Phase>) -> Option<UnitState> {
        let changes = processes.changes();
        timeout(Duration::from_secs(10), async {
            loop {
                let seen = processes.list().await.unwrap().remove("cairn-a-b-0");
                if seen.as_ref().map(|s| s.phase) == until {
                    return seen;
                }
                changes.notified().await;
            }
        })
        .await
        .expect("the phase is reached in time")
    }

    #[tokio::test]
    async fn sees_exit_codes_and_frees_the_name() {
        let mut processes = Processes::default();
        processes.start(&spec(&["/bin/sh", "-c", "exit 3"])).await.unwrap();
        let failed = phase(&mut processes, Some(Phase::Failed)).await.unwrap();
        assert_eq!(failed.detail.as_deref(), Some("exited with code 3"));
        processes.clear("cairn-a-b-0").await.unwrap();
        assert!(processes.list().await.unwrap().is_empty());
        processes.start(&spec(&["/bin/true"])).await.unwrap();
        phase(&mut processes, Some(Phase::Completed)).await.unwrap();
    }

    #[tokio::test]
    async fn stops_by_signal_and_ends_all_with_the_daemon() {
        let mut processes = Processes::default();
        processes.start(&spec(&["/bin/sleep", "1000"])).await.unwrap();
        processes.stop("cairn-a-b-0").await.unwrap();
        phase(&mut processes, None).await;
        processes.start(&spec(&["/bin/sleep", "1000"])).await.unwrap();
        processes.shutdown().await;
        assert!(processes.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_an_error() {
        let error = Processes::default().start(&spec(&["/nonexistent"])).await.unwrap_err();
        assert!(error.to_string().contains("failed to start cairn-a-b-0"), "{error}");
    }
}
