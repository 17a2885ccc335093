//! After the gate: what is desired is admitted, written, and restarted into when its policy says so.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cairn_model::{
    Digest,
    error::chain,
    report::{OsState, Severity},
};
use cairn_ota::{Admission, Carrier, FolderCarrier, Refusal, Updater};
use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    Node, Note, armed,
    carrier::{self, Patience, Sources},
    engine, token,
};
use crate::{
    assemble::WantedOs,
    backoff::{Backoff, random},
    source::MediaSource,
};

/// A look is due at least this often: windows open by the clock, which may be set.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// First and longest pause before an installation that failed is tried again.
const INSTALL_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(900));
/// With so much available memory the larger limit is taken; both are what the updater keeps to.
const ROOMY: u64 = 192 << 20;
const LARGE_LIMIT: u64 = 96 << 20;
const SMALL_LIMIT: u64 = 32 << 20;

/// What the task remembers between two looks.
#[derive(Debug)]
pub(super) struct State {
    installing: Option<Installing>,
    backoff: Backoff,
    retry_at: Instant,
    /// Of what an event was sent last: an update that goes on after a failure is not news.
    announced: Option<(Digest, u32)>,
    complained: Option<String>,
    /// Restart now, whatever the policy.
    pub(super) apply: bool,
    pub(super) restart_asked: Option<Instant>,
    /// When it was last saved what the release that stands written must live up to.
    pub(super) remembered: Option<Instant>,
    /// Where the release lies that somebody wants installed from a folder.
    pub(super) folder: Option<(Digest, PathBuf)>,
    /// A stick that was plugged in while an installation failed.
    tired: Option<Weak<MediaSource>>,
    /// Who waits until the wanted release stands written.
    pub(super) waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            installing: None,
            backoff: Backoff::new(INSTALL_RETRY.0, INSTALL_RETRY.1),
            retry_at: Instant::now(),
            announced: None,
            complained: None,
            apply: false,
            restart_asked: None,
            remembered: None,
            folder: None,
            tired: None,
            waiting: Vec::new(),
        }
    }
}

impl State {
    /// Whether the updater's thread is busy with an installation.
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// Tries at once what would wait.
    pub(super) fn hurry(&mut self) {
        self.retry_at = Instant::now();
    }

    pub(super) fn answer(&mut self, result: &Result<(), String>) {
        for reply in self.waiting.drain(..) {
            // Who asked may have left.
            let _ = reply.send(result.clone());
        }
    }
}

/// An installation that runs; dropped, it stops at its next block.
#[derive(Debug)]
struct Installing {
    about: (Digest, u32),
    stop: Arc<AtomicBool>,
    done: oneshot::Receiver<Result<(), String>>,
    serving: Option<AbortHandle>,
}

impl Drop for Installing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// How an installation ended; never where none runs.
async fn ended(installing: &mut Option<Installing>) -> Result<(), String> {
    match installing {
        Some(installing) => (&mut installing.done).await.unwrap_or_else(|_| Err(engine::Gone.to_string())),
        None => std::future::pending().await,
    }
}

impl Node {
    /// Goes on for ever.
    pub(super) async fn follow(&mut self) {
        let mut token = Some(self.machine.esp.clone());
        loop {
            if self.config.hub.borrow().is_some()
                && let Some(esp) = token.take()
            {
                // A member has no use for it any more.
                let _ = self.engine.call(move |_, _| token::forget(&esp)).await;
            }
            let again = Instant::now() + self.step().await;
            // Every arm is cancel-safe: watches keep their latest value, channels what was not received, the end of an
            // installation stays where it is until it is taken.
            tokio::select! {
                Ok(()) = self.config.desired.changed() => {}
                Ok(()) = self.config.hub.changed() => {}
                Ok(()) = self.config.stick.changed() => if self.config.stick.borrow().is_some() {
                    // It may bring what was missing.
                    self.follow.hurry();
                },
                Ok(()) = self.engine.status.changed() => self.publish(),
                result = ended(&mut self.follow.installing) => self.installed(result).await,
                request = Self::request(&mut self.requests) => self.answer(request).await,
                () = sleep_until(again) => {}
            }
        }
    }

    /// One look; says when the next one is due at the latest.
    async fn step(&mut self) -> Duration {
        let wanted = self.config.desired.borrow_and_update().as_ref().and_then(|a| a.os.clone());
        if let Some(installing) = &self.follow.installing {
            let same = wanted.as_ref().is_some_and(|wanted| about(wanted) == installing.about);
            if !same {
                // Its end comes, and with it the next look.
                installing.stop.store(true, Ordering::Relaxed);
            }
            return LOOK_INTERVAL;
        }
        let Some(wanted) = wanted else {
            let problem = self.nothing_is_wanted().await;
            self.set_note(problem.map_or_else(Note::default, Note::detail));
            self.follow.answer(&Err("no OS is desired any more; `cairn os set` it".to_owned()));
            return LOOK_INTERVAL;
        };
        let asked = wanted.clone();
        let admitted = self.engine.call(move |updater, _| admit(updater, &asked)).await;
        // Who asked for the restart asked for what stood written then.
        self.follow.apply &= match &admitted {
            Ok(Ok(admission)) => *admission == Admission::Armed,
            Ok(Err(refused)) => refused.passes,
            Err(_) => true,
        };
        match admitted {
            Ok(Ok(Admission::Runs)) => {
                let told = self.engine.status.borrow().as_ref().and_then(|status| status.release.clone());
                // It came by another way than an update: by flashing, or as another build of the same root.
                let by_update = told.as_ref() == Some(&wanted.digest);
                let kept = Note { state: Some(OsState::Good), about: Some(named(&wanted)), detail: None };
                self.set_note(if by_update { Note::default() } else { kept });
                self.follow.answer(&Ok(()));
                LOOK_INTERVAL
            }
            Ok(Ok(Admission::Armed)) => self.armed(&wanted).await,
            Ok(Ok(Admission::Install)) => self.install(&wanted).await,
            Ok(Err(refused)) => {
                self.refuse(&wanted, refused).await;
                LOOK_INTERVAL
            }
            Err(gone) => {
                self.set_note(Note::detail(gone.to_string()));
                LOOK_INTERVAL
            }
        }
    }

    async fn refuse(&mut self, wanted: &WantedOs, Refused { why, told, passes }: Refused) {
        let about = Some(named(wanted));
        let refused = Note { state: Some(OsState::Refused), about, detail: Some(why.clone()) };
        self.set_note(match &told {
            _ if passes => Note::detail(why.clone()),
            // How it failed here is the better thing to show than that it failed.
            Some(OsState::RolledBack) => Note::default(),
            _ => refused,
        });
        if told.is_none() && !passes {
            let message = format!("OS {} is refused: {why}", wanted.release.version);
            self.complain(Severity::Error, "os-refused", message).await;
        }
        self.follow.answer(&Err(why));
    }

    /// Says it once.
    pub(super) async fn complain(&mut self, severity: Severity, reason: &str, message: String) {
        if self.follow.complained.as_ref() != Some(&message) {
            tracing::warn!("{message}");
            self.follow.complained = Some(message.clone());
            self.config.reporter.event(severity, reason, message).await;
        }
    }

    async fn install(&mut self, wanted: &Arc<WantedOs>) -> Duration {
        if let Some(pause) = self.follow.retry_at.checked_duration_since(Instant::now())
            && !pause.is_zero()
        {
            return pause.min(LOOK_INTERVAL);
        }
        self.set_note(Note::default());
        let version = wanted.release.version.clone();
        if self.follow.announced.as_ref() != Some(&about(wanted)) {
            self.follow.announced = Some(about(wanted));
            tracing::info!(%version, "an OS is desired and goes into the other slot");
            let message = format!("OS {version} goes into the other slot");
            self.config.reporter.event(Severity::Info, "os-update-started", message).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let folder = self.follow.folder.clone().filter(|(digest, _)| *digest == wanted.digest);
        let (mut carrier, serving): (Box<dyn Carrier>, _) = match folder {
            Some((_, folder)) => (Box::new(FolderCarrier::new(&folder)), None),
            None => {
                let (stick, hub) = (self.config.stick.clone(), self.config.hub.clone());
                let sources = Sources { stick, hub, tired: self.follow.tired.clone() };
                let (carrier, serving) = carrier::build(sources, Patience::default(), stop.clone());
                (Box::new(carrier), Some(tokio::spawn(serving).abort_handle()))
            }
        };
        let (what, memory, stopped) = (wanted.clone(), memory_limit(), stop.clone());
        let done = self.engine.begin(move |updater, publish| {
            let WantedOs { digest, release, wanted } = &*what;
            let mut observe = |status| publish.status(status);
            let stop = || stopped.load(Ordering::Relaxed);
            updater
                .install(digest, release, wanted, &mut *carrier, memory, &mut observe, &stop)
                .map_err(|e| chain(&e))
        });
        self.follow.installing = Some(Installing { about: about(wanted), stop, done, serving });
        LOOK_INTERVAL
    }

    async fn installed(&mut self, result: Result<(), String>) {
        let Some(installing) = self.follow.installing.take() else { return };
        let stopped = installing.stop.load(Ordering::Relaxed);
        drop(installing);
        self.publish();
        let wanted = self.config.desired.borrow().as_ref().and_then(|a| a.os.clone());
        match (result, wanted) {
            (Ok(()), Some(wanted)) => {
                self.follow.backoff.reset();
                (self.follow.complained, self.follow.folder) = (None, None);
                self.follow.remembered = None;
                let message = format!("OS {} stands written and verified", wanted.release.version);
                tracing::info!("{message}");
                self.config.reporter.event(Severity::Info, "os-update-written", message).await;
            }
            (Err(why), Some(wanted)) if !stopped => {
                let pause = self.follow.backoff.after_failure(random());
                self.follow.retry_at = Instant::now() + pause;
                self.follow.folder = None;
                // Perhaps by its fault: the hub is asked first then, where there is one.
                self.follow.tired = self.config.stick.borrow().as_ref().map(Arc::downgrade);
                self.set_note(Note {
                    state: Some(OsState::Failed),
                    about: Some(named(&wanted)),
                    detail: Some(format!("{why}; it is tried again by itself")),
                });
                let message = format!("OS {} is not written yet: {why}", wanted.release.version);
                self.complain(Severity::Warning, "os-update-failed", message).await;
                self.follow.answer(&Err(why));
            }
            // Something else is wanted now.
            (result, _) => {
                self.follow.hurry();
                self.follow.answer(&result);
            }
        }
    }
}

/// A refusal, and whether an earlier daemon has told of it: in which state the updater remembers that release.
struct Refused {
    why: String,
    told: Option<OsState>,
    passes: bool,
}

/// On the updater's thread.
fn admit(
    updater: &mut Updater,
    WantedOs { digest, release, wanted }: &WantedOs,
) -> Result<Admission, Refused> {
    let admitted = updater.admit(digest, release, wanted);
    let upkeep = match &admitted {
        // What is asked of it may have changed since it was armed.
        Ok(Admission::Armed) => updater.retarget(digest, release, wanted).map_err(|e| chain(&e)),
        Ok(Admission::Install) => armed::take_back(updater, false).map_err(|e| armed::not_taken_back(&e)),
        Err(refusal) if refusal.may_pass() => Ok(()),
        Ok(Admission::Runs) | Err(_) => {
            armed::take_back(updater, true).map_err(|e| armed::not_taken_back(&e))
        }
    };
    if let Err(why) = upkeep {
        return Err(Refused { why, told: None, passes: true });
    }
    let refusal = match admitted {
        Ok(admission) => return Ok(admission),
        Err(refusal) => refusal,
    };
    let (why, passes) = (refusal.text(), refusal.may_pass());
    let before = updater.status();
    let same = before.release.as_ref() == Some(digest);
    let failed = matches!(refusal, Refusal::FailedBefore { .. });
    let told = match before.state {
        OsState::RolledBack if same && failed => Some(OsState::RolledBack),
        OsState::Refused if same && before.detail.as_ref() == Some(&why) => Some(OsState::Refused),
        _ => None,
    };
    if told.is_none() && !passes {
        // What cannot be remembered is told once more after a restart.
        if let Err(e) = updater.refuse(digest, release, &refusal) {
            tracing::debug!("a refusal is not remembered: {}", chain(&e));
        }
    }
    Err(Refused { why, told, passes })
}

fn about(wanted: &WantedOs) -> (Digest, u32) {
    (wanted.digest.clone(), wanted.wanted.attempt)
}

fn named(wanted: &WantedOs) -> (Digest, cairn_model::OsVersion) {
    (wanted.digest.clone(), wanted.release.version.clone())
}

/// What the updater may take, by what the machine has left.
fn memory_limit() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if available(&text) >= ROOMY { LARGE_LIMIT } else { SMALL_LIMIT }
}

/// `MemAvailable` in bytes; 0 where it is not told.
fn available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_told_is_none() {
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:     2048 kB\n"), 2 << 20);
        for text in ["", "MemAvailable: x kB", "MemFree: 5 kB"] {
            assert_eq!(available(text), 0, "{text}");
        }
    }
}
