//! The one wasmtime configuration, and the ticker that lets the host in while a guest computes. Code compiled under
//! one configuration loads under no other, so there is exactly one place that makes it.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use wasmtime::{Config, Engine};

use crate::trap::plain;

/// How long a computing guest may keep a thread for itself: short enough for fairness and for deadlines that people
/// set in tenths of seconds, long enough that switching costs nothing.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// The engine that both `precompile` and `run` use.
pub(crate) fn engine() -> Result<Engine> {
    let mut config = Config::new();
    config.epoch_interruption(true);
    Engine::new(&config).map_err(plain).context("failed to set up wasmtime")
}

/// Advances the engine's epoch while at least one [`Tick`] is held; without any it sleeps, so that an idle server
/// wakes no CPU.
#[derive(Clone)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

struct Shared {
    holders: Mutex<usize>,
    wake: Condvar,
}

/// Held while a guest may run.
pub(crate) struct Tick {
    shared: Arc<Shared>,
}

impl Ticker {
    /// Starts the thread. It is not joined: it ends with the process.
    pub(crate) fn start(engine: &Engine) -> Result<Self> {
        let shared = Arc::new(Shared { holders: Mutex::new(0), wake: Condvar::new() });
        let engine = engine.weak();
        let seen = Arc::clone(&shared);
        thread::Builder::new()
            .name("ticker".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                loop {
                    seen.wait_for_holder();
                    thread::sleep(TICK);
                    let Some(engine) = engine.upgrade() else { return };
                    engine.increment_epoch();
                }
            })
            .context("failed to start the ticker thread")?;
        Ok(Self { shared })
    }

    /// Keeps the epoch advancing until the returned value is dropped.
    pub(crate) fn hold(&self) -> Tick {
        *self.shared.holders() += 1;
        self.shared.wake.notify_one();
        Tick { shared: Arc::clone(&self.shared) }
    }
}

impl Shared {
    // A panic elsewhere cannot leave a plain counter half changed, so a poisoned lock is still good.
    fn holders(&self) -> MutexGuard<'_, usize> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_holder(&self) {
        let mut holders = self.holders();
        while *holders == 0 {
            holders = self.wake.wait(holders).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        *self.shared.holders() -= 1;
    }
}
