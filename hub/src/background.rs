//! What is done now and then: the fleet's second look, uploads and blobs that were left, what presence has in memory.

use std::time::{Duration, Instant};

use cairn_model::error::chain;
use tokio::time::MissedTickBehavior;

use crate::{clock, service::SharedHub};

/// A look even where nobody asked: commands end by time, and a failed look is tried again.
const LOOK: Duration = Duration::from_secs(60);

/// How much of "last seen" a crash may cost.
const SAVE_PRESENCE: Duration = Duration::from_secs(15);

/// How often left-overs are looked for.
const CLEAN: Duration = Duration::from_secs(3600);

/// Commands and their output are kept for so long after their end, in seconds.
const KEEP_COMMANDS: i64 = 7 * 24 * 3600;

/// Runs until the hub shall stop; writes presence down once more then.
pub(crate) async fn run(hub: SharedHub) {
    let ticker = |period| {
        let mut ticker = tokio::time::interval(period);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    };
    let (mut look, mut save, mut clean) = (ticker(LOOK), ticker(SAVE_PRESENCE), ticker(CLEAN));
    loop {
        tokio::select! {
            // All are cancel-safe: a tick that is not taken comes at the next turn.
            () = hub.shutdown.cancelled() => break,
            _ = look.tick() => hub.fleet.request(),
            _ = save.tick() => save_presence(&hub).await,
            _ = clean.tick() => clean_up(&hub).await,
        }
    }
    save_presence(&hub).await;
}

async fn save_presence(hub: &SharedHub) {
    hub.fleet.forget_gone_waiters();
    let unsaved = hub.presence.take_unsaved();
    if unsaved.is_empty() {
        return;
    }
    if let Err(error) = hub.store.save_last_seen(&unsaved).await {
        tracing::warn!("failed to write down when nodes were last heard of: {error}");
    }
}

async fn clean_up(hub: &SharedHub) {
    let dropped = hub.registry.uploads.drop_abandoned(Instant::now()).await;
    if dropped > 0 {
        tracing::info!(dropped, "dropped uploads that nobody went on with");
    }
    match hub.registry.sweep(clock::now_ms()).await {
        Ok(0) => {}
        Ok(swept) => tracing::info!(swept, "removed files that nobody names"),
        Err(error) => tracing::warn!("failed to give space back: {}", chain(&error)),
    }
    if let Err(error) = forget_old_commands(hub).await {
        tracing::warn!("failed to forget old commands: {error}");
    }
}

async fn forget_old_commands(hub: &SharedHub) -> crate::store::Result<()> {
    let mut tx = hub.store.begin().await?;
    tx.delete_commands_before(clock::now_ms() / 1000 - KEEP_COMMANDS).await?;
    tx.commit().await
}
