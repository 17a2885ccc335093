//! One-off jobs that make artifacts ready: unpacking a layer, precompiling a component. Never in the daemon's process:
//! they read outside data, and may need much memory.

use std::{process::Stdio, time::Duration};

use async_trait::async_trait;
use tokio::{io::AsyncReadExt, process::Command};

use super::supervisor::{RestartMachine, Sandbox, SupervisorError};

/// Most of a failed job's standard error that goes into its error.
const MAX_STDERR_BYTES: u64 = 2 << 10;

/// A program to run to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Unique among the jobs that run; a unit name without `.service`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Memory limit in bytes, where the runner has the means: units do, plain processes don't.
    pub memory_max: u64,
    /// How long it may take.
    pub deadline: Duration,
    /// What it may see of the node, where the runner has the means.
    pub sandbox: Option<Sandbox>,
}

/// Why a job is not done.
#[derive(Debug, thiserror::Error)]
#[error("{job} failed: {cause}")]
pub struct JobError {
    /// Which.
    pub job: String,
    /// Why.
    pub cause: String,
}

/// Runs jobs.
#[async_trait]
pub trait JobRunner: Send + Sync {
    /// Runs one to its end.
    async fn run(&self, job: &Job) -> Result<(), JobError>;
}

/// Jobs as plain child processes, killed when the daemon ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessJobs;

#[async_trait]
impl RestartMachine for ProcessJobs {
    /// Refused: a developer's machine is not restarted by a daemon under test.
    async fn restart_machine(&self) -> Result<(), SupervisorError> {
        let cause = "the supervisor is 'processes'; restart the machine by hand";
        Err(SupervisorError::new("restart", "the machine", cause))
    }
}

#[async_trait]
impl JobRunner for ProcessJobs {
    async fn run(&self, job: &Job) -> Result<(), JobError> {
        let fail = |cause: String| JobError { job: job.name.clone(), cause };
        let (program, args) = job.argv.split_first().ok_or_else(|| fail("no command line".to_owned()))?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_remove("NOTIFY_SOCKET")
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| fail(format!("cannot start {program}: {e}")))?;
        let mut stderr = child.stderr.take();
        let run = async {
            let mut text = Vec::new();
            if let Some(pipe) = &mut stderr {
                let _ = pipe.take(MAX_STDERR_BYTES).read_to_end(&mut text).await;
                // What is beyond is read and dropped, so that the job does not block on a full pipe.
                let _ = tokio::io::copy(pipe, &mut tokio::io::sink()).await;
            }
            (child.wait().await, text)
        };
        let (status, text) = tokio::time::timeout(job.deadline, run)
            .await
            .map_err(|_| fail(format!("not done within {} s", job.deadline.as_secs())))?;
        let status = status.map_err(|e| fail(e.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&text);
        Err(fail(format!("{status}: {}", text.trim())))
    }
}
