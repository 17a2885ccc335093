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
    link: watch::Receiver<LinkStatus>,
    work: watch::Receiver<WorkStatus>,
    stop: CancellationToken,
) {
    let keeper = Keeper { watchdog: sd_notify::watchdog_enabled(), hangs_after: HANGS_AFTER, tell };
    keeper.run(alive, link, work, stop).await;
}

/// Who feeds the watchdog.
struct Keeper<T> {
    /// After how long without food systemd acts; none where it does not.
    watchdog: Option<Duration>,
    hangs_after: Duration,
    tell: T,
}

impl<T: Fn(&[NotifyState<'_>])> Keeper<T> {
    async fn run(
        self,
        alive: watch::Receiver<Instant>,
        mut link: watch::Receiver<LinkStatus>,
        mut work: watch::Receiver<WorkStatus>,
        stop: CancellationToken,
    ) {
        let mut tick = interval(self.watchdog.map_or(STATUS_INTERVAL, |limit| limit / 3));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every arm is cancel-safe: a tick that is missed comes again, watches keep their latest value.
            tokio::select! {
                _ = tick.tick() => {
                    if alive.borrow().elapsed() > self.hangs_after {
                        tracing::error!("the reconciler hangs; leaving the restart to the watchdog");
                    } else if self.watchdog.is_some() {
                        (self.tell)(&[NotifyState::Watchdog]);
                    }
                    continue;
                }
                Ok(()) = link.changed() => {}
                Ok(()) = work.changed() => {}
                () = stop.cancelled() => return,
            }
            let line = status_line(&link.borrow_and_update(), &work.borrow_and_update());
            (self.tell)(&[NotifyState::Status(&line)]);
        }
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

#[cfg(test)]
pub(crate) mod tests {
    use cairn_model::local::LinkState;
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    /// Feeds a watchdog of 60 ms while `alive` is younger than 300 ms; each meal is a message.
    pub(crate) fn meals(
        alive: watch::Receiver<Instant>,
        stop: CancellationToken,
    ) -> mpsc::UnboundedReceiver<()> {
        let (told, meals) = mpsc::unbounded_channel();
        let link = LinkStatus::new(LinkState::Unconfigured);
        let tell = move |state: &[NotifyState<'_>]| {
            if state.iter().any(|said| matches!(said, NotifyState::Watchdog)) {
                let _ = told.send(());
            }
        };
        let watchdog = Some(Duration::from_millis(60));
        let keeper = Keeper { watchdog, hangs_after: Duration::from_millis(300), tell };
        let (link, work) = (watch::channel(link).1, watch::channel(WorkStatus::default()).1);
        tokio::spawn(keeper.run(alive, link, work, stop));
        meals
    }

    /// Whether there are none for much longer than the time between two of them.
    pub(crate) async fn starves(meals: &mut mpsc::UnboundedReceiver<()>) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if timeout(Duration::from_secs(1), meals.recv()).await.is_err() {
                return true;
            }
        }
        false
    }

    #[tokio::test]
    async fn the_watchdog_is_fed_while_the_reconciler_looks_and_no_longer() {
        let stop = CancellationToken::new();
        let (looks, alive) = watch::channel(Instant::now());
        let mut meals = meals(alive, stop.clone());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            looks.send_replace(Instant::now());
            timeout(Duration::from_secs(5), meals.recv()).await.expect("it is fed").unwrap();
        }
        assert!(starves(&mut meals).await, "nobody looks any more");
        looks.send_replace(Instant::now());
        timeout(Duration::from_secs(5), meals.recv()).await.expect("it is fed again").unwrap();
        stop.cancel();
    }
}
