//! Tells systemd how the daemon is: ready, in a line of status, and alive. The watchdog is fed only while the reconciler
//! looks, so that a daemon that hangs is started again; its workloads don't notice.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{link::LinkStatus, status::WorkStatus};

/// Longer than any look may take: a D-Bus call has 25 s.
const HANGS_AFTER: Duration = Duration::from_secs(150);
/// How often the line of status is looked at where no watchdog is set.
const STATUS_INTERVAL: Duration = Duration::from_secs(20);

/// The daemon is up.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("systemd is not told: {e}");
    }
}

/// Runs until `stop` is cancelled.
pub async fn run(
    alive: watch::Receiver<Instant>,
    mut link: watch::Receiver<LinkStatus>,
    mut work: watch::Receiver<WorkStatus>,
    stop: CancellationToken,
) {
    let watchdog = sd_notify::watchdog_enabled();
    let mut tick = interval(watchdog.map_or(STATUS_INTERVAL, |limit| limit / 3));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Every arm is cancel-safe: a tick that is missed comes again, watches keep their latest value.
        tokio::select! {
            _ = tick.tick() => {
                if alive.borrow().elapsed() > HANGS_AFTER {
                    tracing::error!("the reconciler hangs; leaving the restart to the watchdog");
                } else if watchdog.is_some() {
                    tell(&[NotifyState::Watchdog]);
                }
                continue;
            }
            Ok(()) = link.changed() => {}
            Ok(()) = work.changed() => {}
            () = stop.cancelled() => return,
        }
        let line = status_line(&link.borrow_and_update(), &work.borrow_and_update());
        tell(&[NotifyState::Status(&line)]);
    }
}

fn status_line(link: &LinkStatus, work: &WorkStatus) -> String {
    use cairn_model::report::WorkloadState::Running;
    let running = work.workloads.iter().filter(|w| w.state == Running).count();
    let problems =
        work.problems.len() + usize::from(link.problem.is_some()) + usize::from(link.refusal.is_some());
    format!(
        "{:?}; generation {}; {running} of {} workloads run; {problems} problems",
        link.state,
        work.generation,
        work.workloads.len()
    )
}
