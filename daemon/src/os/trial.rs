//! Gathers what the health gate decides on while a new OS is being tried: workloads, hub, commands, time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cairn_model::{
    Digest,
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
    gate::{self, Answer, Command, Contact, Seen, Verdict, Workload},
};
use crate::{assemble::Assembled, link::LinkStatus, status::WorkStatus};

/// Pause between two runs of a command that failed.
const COMMAND_PAUSE: Duration = Duration::from_secs(5);

/// What a trial is made of.
pub(super) struct Trial {
    expected: Vec<String>,
    hub: Option<Contact>,
    /// The app that each expected unit was of when it was first seen: one that was changed meanwhile says nothing about
    /// the OS.
    apps: BTreeMap<String, Digest>,
    /// How often each expected unit had been restarted at the last look, and since when that has not grown where it has.
    restarts: BTreeMap<String, (u32, Option<Instant>)>,
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
    /// What is asked of the hub.
    pub(super) hub: Option<Contact>,
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
            apps: BTreeMap::new(),
            restarts: BTreeMap::new(),
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
        let units = self.counting(desired);
        let workloads: Vec<Workload<'_>> = units
            .iter()
            .map(|unit| {
                let status = work.workloads.iter().find(|workload| unit_of(workload) == *unit);
                let ill = ill(status).or_else(|| self.restarted(unit, status?, now));
                Workload { unit, ill }
            })
            .collect();
        let unchecked = |workload: &WorkloadStatus| {
            workload.state == WorkloadState::Running
                && workload.health == Health::None
                && units.contains(&unit_of(workload))
        };
        let must_hold = match work.workloads.iter().any(unchecked) {
            true => gate::UNCHECKED,
            false => gate::STEADY,
        };
        let commands = self.commands.borrow().clone();
        let mut seen = Seen {
            workloads,
            hub: self.hub.and_then(|contact| contact.missing(link)),
            commands: &commands,
            steady: Duration::ZERO,
            must_hold,
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

    /// The expected units that count: still wanted, and of the same app as at first.
    fn counting(&mut self, desired: Option<&Assembled>) -> Vec<String> {
        let Some(desired) = desired else {
            // Not even known what shall run: then everything that ran must.
            return self.expected.clone();
        };
        let wanted: BTreeSet<&str> = desired.replicas.keys().map(String::as_str).collect();
        let counting = gate::counting(&self.expected, &wanted).into_iter().filter(|unit| {
            let app = desired.replicas.get(*unit).map(|replica| &replica.id.app);
            let Some(app) = app.and_then(|app| desired.desired.apps.get(app)) else { return true };
            *self.apps.entry((*unit).to_owned()).or_insert_with(|| app.app.clone()) == app.app
        });
        counting.map(str::to_owned).collect()
    }

    /// Where nothing checks a unit: that it was restarted, until it has run for long enough since.
    fn restarted(&mut self, unit: &str, status: &WorkloadStatus, now: Instant) -> Option<String> {
        let (restarts, since) =
            self.restarts.entry(unit.to_owned()).or_insert_with(|| (status.restarts, None));
        if status.restarts > *restarts {
            *since = Some(now);
        }
        *restarts = status.restarts;
        let runs = (*since).map(|since| now - since)?;
        let judged = status.state == WorkloadState::Running && status.health == Health::None;
        (judged && runs < gate::UNCHECKED).then(|| {
            format!("it was restarted {restarts} times, and runs for only {} s since", runs.as_secs())
        })
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

/// Why a unit is not well; `None` where it is.
fn ill(workload: Option<&WorkloadStatus>) -> Option<String> {
    let Some(workload) = workload else {
        return Some("it is not there yet".to_owned());
    };
    if workload.is_well() {
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
            image: Digest::of(b"image"),
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
            (Completed, None, true),
            (Failed, None, false),
        ] {
            let workload = workload(state, health, Option::None);
            assert_eq!(ill(Some(&workload)).is_none(), expected, "{state:?} {health:?}");
        }
        assert!(ill(Option::None).is_some(), "what is not there is not well");
        let failed = workload(Failed, None, Some("exited with code 3"));
        assert!(ill(Some(&failed)).unwrap().contains("exited with code 3"));
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
        let last_contact = answered.then(jiff::Timestamp::now);
        LinkStatus { last_contact, ..LinkStatus::new(cairn_model::local::LinkState::Offline) }
    }

    fn terms(expected: &[&str], commands: Vec<(&'static str, Vec<String>)>) -> Terms {
        let expected = expected.iter().map(|unit| (*unit).to_owned()).collect();
        Terms { expected, hub: Some(Contact::Answered), deadline: Duration::from_secs(60), commands }
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

    fn working(workload: WorkloadStatus) -> WorkStatus {
        WorkStatus { workloads: vec![workload], ..WorkStatus::default() }
    }

    #[tokio::test]
    async fn rejects_an_os_that_hears_the_hub_and_does_not_believe_it() {
        let begun = Instant::now();
        let asked = Terms { hub: Some(Contact::Verified), ..terms(&[], vec![]) };
        let mut trial = Trial::begin(asked, Duration::ZERO, begun);
        let mut look = |link: &LinkStatus, at: u64| {
            trial.look(None, &WorkStatus::default(), link, begun + Duration::from_secs(at))
        };
        assert!(matches!(look(&link(true), 1), Verdict::Wait(_)));
        assert!(matches!(look(&link(true), 30), Verdict::Wait(_)));
        let verdict = look(&link(true), 60);
        assert!(matches!(&verdict, Verdict::Reject(why) if why.contains("not verified")), "{verdict:?}");
        let verified = LinkStatus { verified: Some(begun), ..link(true) };
        assert_eq!(look(&verified, 60), Verdict::Keep);
    }

    #[tokio::test]
    async fn what_nothing_checks_must_run_for_long_without_a_restart() {
        let begun = Instant::now();
        let mut trial = Trial::begin(terms(&["cairn-my_shop-web-0"], vec![]), Duration::ZERO, begun);
        let mut look = |restarts: u32, at: u64| {
            let running = WorkloadStatus { restarts, ..workload(WorkloadState::Running, Health::None, None) };
            trial.look(None, &working(running), &link(true), begun + Duration::from_secs(at))
        };
        assert!(matches!(look(2, 1), Verdict::Wait(_)));
        assert!(matches!(look(2, 30), Verdict::Wait(_)), "5 s are not enough");
        let verdict = look(3, 31);
        assert!(matches!(&verdict, Verdict::Wait(why) if why.contains("restarted")), "{verdict:?}");
        assert!(matches!(look(3, 59), Verdict::Wait(_)));
        assert!(
            matches!(look(3, 60), Verdict::Reject(_)),
            "it runs at the deadline, and ends again and again"
        );
        let mut trial = Trial::begin(terms(&["cairn-my_shop-web-0"], vec![]), Duration::ZERO, begun);
        let running = working(workload(WorkloadState::Running, Health::None, None));
        assert!(matches!(trial.look(None, &running, &link(true), begun), Verdict::Wait(_)));
        let later = begun + gate::UNCHECKED;
        assert_eq!(trial.look(None, &running, &link(true), later), Verdict::Keep);
    }

    /// What the hub desires: the shop's web, of an app with this digest.
    fn desired(app: &str) -> Assembled {
        use cairn_model::{compose::App, desired::DesiredApp, resolve};
        let image = Digest::of(b"image");
        let compose = format!("services:\n  web:\n    image: a@{image}\n    network_mode: host\n");
        let parsed = App::parse("compose.yaml", &compose).unwrap();
        let services = parsed.services.keys().map(|name| (name.clone(), vec![0])).collect();
        let (name, wanted) = ("my-shop", DesiredApp { app: Digest::of(app.as_bytes()), services });
        let config = resolve::ImageConfig { cmd: vec!["/server".into()], ..resolve::ImageConfig::default() };
        let images = BTreeMap::from([(image, config)]);
        let replicas = resolve::resolve(&name.parse().unwrap(), &parsed, &wanted, &images).unwrap();
        let node = cairn_trust::keys::KeyPair::generate().unwrap().public().node_id();
        Assembled {
            desired: cairn_model::DesiredState {
                schema: 1,
                node,
                generation: 1,
                apps: BTreeMap::from([(name.parse().unwrap(), wanted)]),
                os: None,
                commands: vec![],
                policy: cairn_model::desired::Policy::default(),
            },
            replicas: replicas.into_iter().map(|replica| (replica.id.unit_name(), replica)).collect(),
            images: BTreeMap::new(),
            os: None,
        }
    }

    #[tokio::test]
    async fn an_app_that_was_changed_meanwhile_does_not_condemn_the_os() {
        let begun = Instant::now();
        let mut trial = Trial::begin(terms(&["cairn-my_shop-web-0"], vec![]), Duration::ZERO, begun);
        let failed = working(workload(WorkloadState::Failed, Health::None, None));
        let (first, second) = (desired("first"), desired("second"));
        let mut look = |desired: &Assembled, at: u64| {
            trial.look(Some(desired), &failed, &link(true), begun + Duration::from_secs(at))
        };
        let verdict = look(&first, 1);
        assert!(matches!(&verdict, Verdict::Wait(why) if why.contains("it failed")), "{verdict:?}");
        let verdict = look(&second, 2);
        assert!(matches!(&verdict, Verdict::Wait(why) if why.contains("all checks hold")), "{verdict:?}");
        assert_eq!(look(&second, 60), Verdict::Keep);
        assert!(matches!(look(&first, 60), Verdict::Reject(_)), "the app that it began with counts");
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
