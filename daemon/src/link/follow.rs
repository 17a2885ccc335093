//! Following the hub: pull, wait for news, pull again.

use std::{convert::Infallible, sync::Arc, time::Duration};

use cairn_model::{error::chain, local::LinkState, report::Severity};
use tokio::time::{Instant, sleep};

use super::{RETRY, Task};
use crate::{
    assemble::Assembled,
    backoff::{Backoff, random},
    pull::{PullError, Puller},
    source::{HubClient, Source, judged_by_the_clock},
};

/// A clock that is off by more than this is reported.
const MAX_SKEW_SECONDS: i64 = 120;

impl Task {
    /// Follows the hub for ever.
    pub(super) async fn keep_up(&self, client: &HubClient, puller: &mut Puller) -> Infallible {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut hinted = self.applied();
        loop {
            let refreshed = Instant::now();
            match self.pull(client, puller).await {
                // A hint that leads to nothing must not make a busy loop.
                Ok(()) if hinted > self.applied() => sleep(backoff.after_failure(random())).await,
                Ok(()) => backoff.reset(),
                Err(e) => {
                    self.explain(&e).await;
                    sleep(backoff.after_failure(random())).await;
                    continue;
                }
            }
            hinted = self.news(client, refreshed, &mut backoff).await;
        }
    }

    /// One look at the hub, whole or not at all.
    pub(super) async fn pull(&self, client: &HubClient, puller: &mut Puller) -> Result<(), PullError> {
        let begun = Instant::now();
        let newer = puller.pull(client, self.clock(), self.applied()).await?;
        self.believed(client.skew_seconds());
        self.heard_last(true).await;
        match newer {
            Some(newer) => self.apply(newer, begun, "").await,
            None => self.replenish(client, puller).await?,
        }
        self.say(LinkState::Online, clock_problem(client.skew_seconds()));
        self.set_refusal(None);
        Ok(())
    }

    /// Remembers who was believed last, the hub itself or a stick: by that an older stick is told from an attack.
    pub(super) async fn heard_last(&self, hub: bool) {
        if let Err(e) = self.ledger.set_hub_was_heard_last(hub).await {
            tracing::error!("{}", chain(&e));
        }
    }

    /// From now on this generation is to run.
    pub(super) async fn apply(&self, newer: Arc<Assembled>, begun: Instant, how: &str) {
        let generation = newer.desired.generation;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(generation, replicas = newer.replicas.len(), ms, "generation applied{how}");
        self.desired.send_replace(Some(newer));
        let message = format!("generation {generation} is verified, complete and stored{how}");
        self.reporter.event(Severity::Info, "generation-applied", message).await;
    }

    /// Something may have been lost from the disk since: have it back before it is needed.
    pub(super) async fn replenish(&self, source: &dyn Source, puller: &Puller) -> Result<(), PullError> {
        let current = self.desired.borrow().clone();
        match current {
            Some(current) => puller.ensure_blobs(source, &current).await,
            None => Ok(()),
        }
    }

    fn set_refusal(&self, refusal: Option<String>) -> bool {
        self.status.send_if_modified(|status| {
            let changed = status.refusal != refusal;
            status.refusal = refusal;
            changed
        })
    }

    /// Says what went wrong: a hub that is not reached is the link's problem, a bundle that is not believed is an event.
    pub(super) async fn explain(&self, error: &PullError) {
        if error.is_transport() {
            let text = judged_by_the_clock(error).unwrap_or_else(|| chain(error));
            self.say(LinkState::Offline, Some(text));
            return;
        }
        let text = chain(error);
        self.heard();
        self.say(LinkState::Online, None);
        let attack = error.attack();
        let refusal = match &attack {
            Some(attack) => format!("the hub's bundle is refused (it may be an attack: {attack}): {text}"),
            None => format!("the hub's bundle is not taken: {text}"),
        };
        if self.set_refusal(Some(refusal.clone())) {
            tracing::error!("{refusal}");
            let reason = if attack.is_some() { "bundle-refused" } else { "bundle-not-applied" };
            self.reporter.event(Severity::Error, reason, refusal).await;
        }
    }

    /// Returns when it is time to look again, with the generation that the hub hints at.
    async fn news(&self, client: &HubClient, refreshed: Instant, backoff: &mut Backoff) -> u64 {
        loop {
            let poll = self.poll_interval();
            match client.wait(self.applied()).await {
                Ok(Some(hint)) => {
                    self.heard();
                    return hint.generation;
                }
                Ok(None) => {
                    self.heard();
                    if refreshed.elapsed() >= poll {
                        return 0;
                    }
                }
                Err(e) if e.is_answer() && !e.is_passing() => {
                    // No long poll here (a proxy, an older hub): poll by the clock.
                    tracing::warn!("the long poll does not work, polling instead: {e}");
                    sleep(poll.mul_f64(0.75 + random() / 2.0)).await;
                    return 0;
                }
                Err(e) => {
                    self.say(LinkState::Offline, Some(e.to_string()));
                    sleep(backoff.after_failure(random())).await;
                    return 0;
                }
            }
        }
    }

    fn poll_interval(&self) -> Duration {
        let seconds = self.desired.borrow().as_ref().map_or(60, |a| a.desired.policy.poll_seconds);
        Duration::from_secs(u64::from(seconds.clamp(5, 86_400)))
    }
}

fn clock_problem(skew_seconds: i64) -> Option<String> {
    (skew_seconds.abs() > MAX_SKEW_SECONDS).then(|| {
        let (by, way) = (skew_seconds.unsigned_abs(), if skew_seconds > 0 { "behind" } else { "ahead" });
        format!("this node's clock is {by} s {way} of the hub's; set it or let NTP through")
    })
}
