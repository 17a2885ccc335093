//! A release that stands written: what it has to live up to is kept up to date, it is taken back where it is not wanted
//! any more, and the restart comes when its policy says so.

use std::time::Duration;

use cairn_model::{
    desired::{DesiredOs, RebootPolicy},
    error::chain,
    report::{OsState, Severity},
};
use cairn_ota::{UpdateError, Updater};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Node, Note, RESTART_AGAIN,
    follow::LOOK_INTERVAL,
    trial,
    window::{self, Opening},
};
use crate::{assemble::WantedOs, link::LinkStatus};

/// What a new OS has to live up to is saved at most this often: a little less than the pause between two looks.
const REMEMBER_EVERY: Duration = Duration::from_secs(25);
/// What the hub says must be verified in the new OS where it was within so long before.
const VERIFIED_LATELY: Duration = Duration::from_secs(6 * 3600);
/// A window is kept by a clock that is off by less than this.
const MAX_SKEW_SECONDS: u64 = 60;

impl Node {
    /// It stands written: restart when the policy says so.
    pub(super) async fn armed(&mut self, wanted: &WantedOs) -> Duration {
        self.follow.answer(&Ok(()));
        // The next restart may be a power cut: what must be well then is on the disk before.
        self.keep_up_expectations().await;
        let waits = if self.follow.apply { None } else { self.waits(&wanted.wanted) };
        match waits {
            None => self.restart_now().await,
            Some((again, text)) => {
                self.set_note(Note::detail(text));
                again
            }
        }
    }

    /// What the restart waits for, and when to look again.
    fn waits(&self, wanted: &DesiredOs) -> Option<(Duration, String)> {
        let (windows, time_zone) = match &wanted.reboot {
            RebootPolicy::AtOnce => return None,
            RebootPolicy::Manual => return Some((LOOK_INTERVAL, "waits for `cairn os apply`".to_owned())),
            RebootPolicy::Window { windows, time_zone } => (windows, time_zone),
        };
        if !self.is_clock_set(wanted.health.hub) {
            let text =
                "waits for its maintenance window; the clock is not set yet: let NTP or the hub through";
            return Some((LOOK_INTERVAL, text.to_owned()));
        }
        let now = Timestamp::now();
        match window::opening(windows, time_zone, now) {
            Ok(Opening::Open) => None,
            Ok(Opening::At(at)) => {
                let until = u64::try_from(at.duration_since(now).as_secs()).unwrap_or(0);
                let text = format!("waits for its maintenance window, which opens at {at}");
                Some((Duration::from_secs(until.max(1)).min(LOOK_INTERVAL), text))
            }
            Err(why) => Some((LOOK_INTERVAL, format!("no maintenance window: {why}"))),
        }
    }

    /// By NTP, or by a hub whose time was seen to be the same. Where no hub is to be asked, by policy or for want of one, by
    /// the people who see to the node, unless a hub was heard all the same and it is wrong.
    fn is_clock_set(&self, asks_hub: bool) -> bool {
        let by_hub = {
            let link = self.config.link.borrow();
            let is_same = link.skew_seconds.unsigned_abs() < MAX_SKEW_SECONDS;
            match link.verified {
                Some(_) => is_same,
                None => !(asks_hub && self.config.has_hub),
            }
        };
        // What systemd-timesyncd leaves once it has set the clock in this boot.
        let by_ntp = || self.config.root.join("run/systemd/timesync/synchronized").exists();
        by_hub || by_ntp()
    }

    async fn keep_up_expectations(&mut self) {
        let work = self.config.work.borrow().generation;
        let desired = self.config.desired.borrow().as_ref().map(|desired| desired.desired.generation);
        let due = self.follow.remembered.is_none_or(|at| at.elapsed() >= REMEMBER_EVERY);
        // Before the reconciler has looked, nothing is well, and what was remembered is better than that.
        if due && desired == Some(work) {
            self.follow.remembered = Some(Instant::now());
            if let Err(problem) = self.remember().await {
                tracing::warn!("what runs well cannot be remembered: {problem}");
            }
        }
    }

    /// Which workloads are well, and whether the hub is.
    async fn remember(&self) -> Result<(), String> {
        let well: Vec<String> = {
            let work = self.config.work.borrow();
            work.workloads.iter().filter(|w| w.is_well()).map(trial::unit_of).collect()
        };
        let hub = is_verified(&self.config.link.borrow());
        match self.engine.call(move |updater, _| updater.expect_healthy(&well, hub)).await {
            Ok(saved) => saved.map_err(|e| chain(&e)),
            Err(gone) => Err(gone.to_string()),
        }
    }

    /// Restarts into the other slot: which workloads are well is remembered first, then the node is told.
    async fn restart_now(&mut self) -> Duration {
        if let Some(asked) = self.follow.restart_asked
            && let Some(left) = RESTART_AGAIN.checked_sub(asked.elapsed())
        {
            return left.min(LOOK_INTERVAL);
        }
        if let Err(problem) = self.remember().await {
            self.set_note(Note::detail(format!("what runs well cannot be remembered: {problem}")));
            return LOOK_INTERVAL;
        }
        self.follow.restart_asked = Some(Instant::now());
        self.set_note(Note::detail("restarts now"));
        let message = "restarts into the OS that stands written".to_owned();
        tracing::info!("{message}");
        self.config.reporter.event_stored(Severity::Info, "os-restarting", message).await;
        if let Err(e) = self.config.restart.restart_machine().await {
            self.follow.apply = false;
            self.set_note(Note::detail(format!("{e}; restart the node by hand")));
            self.complain(Severity::Error, "os-not-restarted", e.to_string()).await;
        }
        RESTART_AGAIN
    }

    /// No OS is desired: what stands written all the same is taken back. Says what is in the way.
    pub(super) async fn nothing_is_wanted(&mut self) -> Option<String> {
        self.follow.apply = false;
        // A node that does not know what is desired takes nothing back.
        self.config.desired.borrow().as_ref()?;
        let state = self.engine.status.borrow().as_ref().map(|status| status.state)?;
        if !matches!(state, OsState::Armed | OsState::Written) {
            return None;
        }
        match self.engine.call(|updater, _| take_back(updater, true)).await {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(not_taken_back(&e)),
            Err(gone) => Some(gone.to_string()),
        }
    }
}

/// On the updater's thread: what is armed must not be what the next power cut boots. With `written` also what is not
/// armed yet.
pub(super) fn take_back(updater: &mut Updater, written: bool) -> Result<(), UpdateError> {
    let status = updater.status();
    match status.state {
        OsState::Armed => {}
        OsState::Written if written => {}
        _ => return Ok(()),
    }
    tracing::info!(version = ?status.target, "an OS that stands written is not wanted any more");
    updater.disarm()
}

/// For the status.
pub(super) fn not_taken_back(error: &UpdateError) -> String {
    format!("the OS that stands written is not wanted any more, and cannot be taken back: {}", chain(error))
}

/// What the hub says is verified, and no refusal stands that the new OS would only inherit.
fn is_verified(link: &LinkStatus) -> bool {
    link.refusal.is_none() && link.verified.is_some_and(|at| at.elapsed() < VERIFIED_LATELY)
}
