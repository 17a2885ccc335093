//! Tells how far the work is, and asks whether it shall stop.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use cairn_model::{
    release::Release,
    report::{OsMethod, OsProgress},
};

use super::WriteError;

/// Work, in bytes, after which progress is told and `stop` is asked.
const STEP: u64 = 256 << 10;

/// Time after which that is done however little work it was.
const PAUSE: Duration = Duration::from_millis(200);

/// What the rate is over.
const RATE_OVER: Duration = Duration::from_secs(4);

/// Counts what is done.
pub(super) struct Watch<'a> {
    observe: &'a mut dyn FnMut(OsProgress),
    stop: &'a dyn Fn() -> bool,
    progress: OsProgress,
    /// Work since progress was told.
    untold: u64,
    told: Instant,
    /// When how much had been fetched, over the last seconds.
    samples: VecDeque<(Instant, u64)>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        release: &Release,
        observe: &'a mut dyn FnMut(OsProgress),
        stop: &'a dyn Fn() -> bool,
    ) -> Self {
        let progress = OsProgress {
            method: OsMethod::Chunks,
            written: 0,
            total: release.root.size + release.uki.size,
            fetched: 0,
            to_fetch: 0,
            full: release.chunks.pack.size,
            rate: 0,
        };
        let now = Instant::now();
        Self { observe, stop, progress, untold: 0, told: now, samples: VecDeque::from([(now, 0)]) }
    }

    /// A way was chosen, and takes this much to fetch.
    pub(super) fn begin(&mut self, method: OsMethod, to_fetch: u64) {
        self.progress.method = method;
        self.progress.written = 0;
        self.progress.to_fetch = self.progress.fetched + to_fetch;
    }

    /// So many bytes were fetched.
    pub(super) fn fetched(&mut self, bytes: u64) -> Result<(), WriteError> {
        self.progress.fetched += bytes;
        self.progress.to_fetch = self.progress.to_fetch.max(self.progress.fetched);
        self.worked(bytes)
    }

    /// So many bytes more stand in the slot as they should.
    pub(super) fn written(&mut self, bytes: u64) -> Result<(), WriteError> {
        self.progress.written += bytes;
        self.worked(bytes)
    }

    /// So many bytes were read, hashed or the like.
    pub(super) fn worked(&mut self, bytes: u64) -> Result<(), WriteError> {
        self.untold += bytes;
        let now = Instant::now();
        if self.untold < STEP && now.duration_since(self.told) < PAUSE {
            return Ok(());
        }
        self.tell(now);
        if (self.stop)() { Err(WriteError::Stopped) } else { Ok(()) }
    }

    /// Tells that, before any of it is read back.
    pub(super) fn all_is_written(&mut self) {
        self.tell(Instant::now());
    }

    /// Tells the end.
    pub(super) fn end(&mut self) -> OsProgress {
        self.tell(Instant::now());
        self.progress
    }

    fn tell(&mut self, now: Instant) {
        (self.untold, self.told) = (0, now);
        self.samples.push_back((now, self.progress.fetched));
        while self.samples.len() > 2 && now.duration_since(self.samples[1].0) > RATE_OVER {
            self.samples.pop_front();
        }
        if let Some((since, fetched)) = self.samples.front() {
            let millis = now.duration_since(*since).as_millis().max(1);
            let rate = u128::from(self.progress.fetched - fetched) * 1000 / millis;
            self.progress.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        }
        (self.observe)(self.progress);
    }
}
