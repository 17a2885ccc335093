//! Gathers what the health gate decides on while a new OS is being tried: workloads, hub, commands, time.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cairn_model::{
    report::{Health, WorkloadState, WorkloadStatus},
    resolve::ReplicaId,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    command,
    gate::{self, Answer, Command, Seen, Verdict, Workload},
};
use crate::{assemble::Assembled, link::LinkStatus, status::WorkStatus};

/// Pause between two runs of a command that failed.
const COMMAND_PAUSE: Duration = Duration::from_secs(5);

/// What a trial is made of.
pub(super) struct Trial {
    expected: Vec<String>,
    hub: bool,
    deadline: Duration,
    /// What had passed of the deadline when this daemon began: an earlier one may have crashed.
    passed_before: Duration,
    begun: Instant,
    steady_since: Option<Instant>,
    commands: watch::Receiver<Vec<Command>>,
    _running: JoinSet<()>,
}

/// What to ask for.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// Units that were well before the restart.
    pub(super) expected: Vec<String>,
    /// Whether the hub must have answered.
    pub(super) hub: bool,
    /// How long it may take.
    pub(super) deadline: Duration,
    /// Commands that must end with 0: whose, and what.
    pub(super) commands: Vec<(&'static str, Vec<String>)>,
}

impl Trial {
    /// Begins, or goes on where an earlier daemon of this boot left off.
    pub(super) fn begin(terms: Terms, passed_before: Duration, begun: Instant) -> Self {
        let asked: Vec<_> = terms.commands.into_iter().filter(|(_, argv)| !argv.is_empty()).collect();
        let answers = asked.iter().map(|(whose, _)| Command { whose, answer: Answer::None }).collect();
        let (answers, commands) = watch::channel(answers);
        let answers = Arc::new(answers);
        let mut running = JoinSet::new();
        for (index, (_, argv)) in asked.into_iter().enumerate() {
            running.spawn(until_it_passes(index, argv, answers.clone()));
        }
        Self {
            expected: terms.expected,
            hub: terms.hub,
            deadline: terms.deadline,
            passed_before,
            begun,
            steady_since: None,
            commands,
            _running: running,
        }
    }

    /// Decides on how things stand now. To be asked at least once a second.
    pub(super) fn look(
        &mut self,
        desired: Option<&Assembled>,
        work: &WorkStatus,
        link: &LinkStatus,
        now: Instant,
    ) -> Verdict {
        let all: BTreeSet<&str> = match desired {
            Some(desired) => desired.replicas.keys().map(String::as_str).collect(),
            // Not even known what shall run: then everything that ran must.
            None => self.expected.iter().map(String::as_str).collect(),
        };
        let workloads = gate::counting(&self.expected, &all)
            .into_iter()
            .map(|unit| Workload { unit, ill: ill(unit, &work.workloads) })
            .collect();
        let commands = self.commands.borrow().clone();
        let mut seen = Seen {
            workloads,
            hub: self.hub.then_some(link.last_contact.is_some()),
            commands: &commands,
            steady: Duration::ZERO,
            elapsed: self.passed_before + (now - self.begun),
            deadline: self.deadline,
        };
        if gate::missing(&seen).is_empty() {
            seen.steady = now - *self.steady_since.get_or_insert(now);
        } else {
            self.steady_since = None;
        }
        gate::judge(&seen)
    }
}

async fn until_it_passes(index: usize, argv: Vec<String>, answers: Arc<watch::Sender<Vec<Command>>>) {
    loop {
        let answer = match command::run(&argv, command::TIMEOUT).await {
            Ok(()) => Answer::Passed,
            Err(how) => Answer::Failed(how),
        };
        let passed = answer == Answer::Passed;
        answers.send_modify(|commands| {
            if let Some(command) = commands.get_mut(index) {
                command.answer = answer;
            }
        });
        if passed {
            return;
        }
        sleep(COMMAND_PAUSE).await;
    }
}

/// The unit of a replica.
pub(super) fn unit_of(workload: &WorkloadStatus) -> String {
    let WorkloadStatus { app, service, replica, .. } = workload;
    ReplicaId { app: app.clone(), service: service.clone(), index: *replica }.unit_name()
}

/// Healthy, or running where nothing checks it.
pub(super) fn is_well(workload: &WorkloadStatus) -> bool {
    workload.state == WorkloadState::Running && matches!(workload.health, Health::None | Health::Healthy)
}

/// Why a unit is not well; `None` where it is.
fn ill(unit: &str, workloads: &[WorkloadStatus]) -> Option<String> {
    let Some(workload) = workloads.iter().find(|workload| unit_of(workload) == unit) else {
        return Some("it is not there yet".to_owned());
    };
    if is_well(workload) {
        return None;
    }
    let state = match (workload.state, workload.health) {
        (WorkloadState::Running, Health::Unhealthy) => "it runs, and its health check fails",
        (WorkloadState::Running, _) => "it runs, and its health check has not passed yet",
        (WorkloadState::Pending, _) => "it is not ready to start",
        (WorkloadState::Starting, _) => "it is starting",
        (WorkloadState::Completed, _) => "it has ended",
        (WorkloadState::Failed, _) => "it failed",
        (WorkloadState::Stopping, _) => "it is stopping",
    };
    Some(match &workload.detail {
        Some(detail) => format!("{state} ({detail})"),
        None => state.to_owned(),
    })
}

/// Remembers within one boot when a trial began: a daemon that crashes again and again must not put the deadline off for
/// ever. Time is the kernel's since its start.
#[derive(Debug)]
pub(super) struct Clock {
    note: PathBuf,
}

impl Clock {
    /// With its note below `run_dir`, which does not outlive the boot.
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { note: run_dir.join("os-trial") }
    }

    /// How long the trial of the root with this hash has run; begins it where it has not begun in this boot.
    pub(super) fn passed(&self, root_hash: &str) -> Duration {
        let now = uptime();
        let text = fs::read_to_string(&self.note).unwrap_or_default();
        let begun = text.split_once(' ').filter(|(of, _)| *of == root_hash);
        if let Some(begun) = begun.and_then(|(_, seconds)| seconds.trim().parse::<u64>().ok()) {
            return now.saturating_sub(Duration::from_secs(begun));
        }
        // Lost, it costs time only.
        if let Err(e) = fs::write(&self.note, format!("{root_hash} {}", now.as_secs())) {
            tracing::warn!("the begin of the trial is not noted: {e}");
        }
        Duration::ZERO
    }
}

fn uptime() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    time.map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(state: WorkloadState, health: Health, detail: Option<&str>) -> WorkloadStatus {
        WorkloadStatus {
            app: "my-shop".parse().unwrap(),
            service: "web".parse().unwrap(),
            replica: 0,
            image: cairn_model::Digest::of(b"image"),
            state,
            health,
            restarts: 0,
            detail: detail.map(str::to_owned),
        }
    }

    #[test]
    fn well_is_healthy_or_running_unchecked() {
        use Health::{Healthy, None, Starting, Unhealthy};
        use WorkloadState::{Completed, Failed, Pending, Running};
        for (state, health, expected) in [
            (Running, None, true),
            (Running, Healthy, true),
            (Running, Starting, false),
            (Running, Unhealthy, false),
            (Pending, None, false),
            (Completed, None, false),
            (Failed, None, false),
        ] {
            let workload = workload(state, health, Option::None);
            assert_eq!(is_well(&workload), expected, "{state:?} {health:?}");
            assert_eq!(ill("cairn-my_shop-web-0", &[workload]).is_none(), expected);
        }
        assert!(ill("cairn-other-web-0", &[]).is_some(), "what is not there is not well");
        let failed = workload(Failed, None, Some("exited with code 3"));
        assert!(ill("cairn-my_shop-web-0", &[failed]).unwrap().contains("exited with code 3"));
    }

    #[test]
    fn a_daemon_that_comes_back_goes_on_with_the_same_trial() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        assert_eq!(Clock::new(dir.path()).passed(&one), Duration::ZERO);
        let begun = uptime().as_secs().saturating_sub(100);
        fs::write(dir.path().join("os-trial"), format!("{one} {begun}")).unwrap();
        assert!(Clock::new(dir.path()).passed(&one) >= Duration::from_secs(99));
        assert_eq!(Clock::new(dir.path()).passed(&two), Duration::ZERO, "another trial is another one");
        fs::write(dir.path().join("os-trial"), "torn").unwrap();
        assert_eq!(Clock::new(dir.path()).passed(&one), Duration::ZERO);
    }

    fn link(answered: bool) -> LinkStatus {
        LinkStatus {
            state: cairn_model::local::LinkState::Offline,
            problem: None,
            refusal: None,
            last_contact: answered.then(jiff::Timestamp::now),
            hub: None,
        }
    }

    fn terms(expected: &[&str], commands: Vec<(&'static str, Vec<String>)>) -> Terms {
        let expected = expected.iter().map(|unit| (*unit).to_owned()).collect();
        Terms { expected, hub: true, deadline: Duration::from_secs(60), commands }
    }

    #[tokio::test]
    async fn is_kept_once_everything_has_held_for_a_moment() {
        let begun = Instant::now();
        let mut trial = Trial::begin(terms(&["cairn-my_shop-web-0"], vec![]), Duration::ZERO, begun);
        let none = WorkStatus::default();
        let well = WorkStatus {
            workloads: vec![workload(WorkloadState::Running, Health::Healthy, None)],
            ..WorkStatus::default()
        };
        let half = gate::STEADY / 2;
        for (at, work) in [(0, &none), (1, &well), (2, &none), (3, &well), (4, &well)] {
            let verdict = trial.look(None, work, &link(true), begun + half * at);
            assert!(matches!(verdict, Verdict::Wait(_)), "{at}: {verdict:?}");
        }
        assert_eq!(trial.look(None, &well, &link(true), begun + half * 5), Verdict::Keep);
    }

    #[tokio::test]
    async fn a_deadline_that_passed_under_an_earlier_daemon_has_passed() {
        let now = Instant::now();
        let mut trial = Trial::begin(terms(&[], vec![]), Duration::from_secs(60), now);
        let verdict = trial.look(None, &WorkStatus::default(), &link(false), now);
        assert!(matches!(verdict, Verdict::Reject(_)), "{verdict:?}");
    }

    #[tokio::test]
    async fn commands_are_asked_until_they_pass() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("test -e {}/ok || {{ echo not yet; exit 7; }}", dir.path().display());
        let argv = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        let now = Instant::now();
        let mut trial = Trial::begin(terms(&[], vec![("its command", argv)]), Duration::ZERO, now);
        let mut commands = trial.commands.clone();
        let failed = |commands: &Vec<Command>| matches!(&commands[0].answer, Answer::Failed(_));
        commands.wait_for(failed).await.unwrap();
        let verdict = trial.look(None, &WorkStatus::default(), &link(true), now);
        assert!(matches!(&verdict, Verdict::Wait(text) if text.contains("not yet")), "{verdict:?}");
        fs::write(dir.path().join("ok"), "").unwrap();
        commands.wait_for(|commands| commands[0].answer == Answer::Passed).await.unwrap();
    }
}
