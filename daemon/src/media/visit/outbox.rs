//! What the node has to say goes onto the stick: made writable for that alone, each file written beside, synced and renamed
//! into place, and made read-only again before anybody is told to pull it. The node itself drops nothing for it: only the
//! hub's signed word does.

use std::sync::Arc;

use cairn_model::error::chain;

use super::{
    super::{
        Device, Task,
        shelf::{Put, Root, Shelf, ShelfError, in_time},
    },
    Stopped,
};
use crate::source::StickThread;

/// So many bytes of reports are in memory at once.
const PAGE_BYTES: usize = 512 << 10;

/// Why the outbox is not all on the stick; the reports wait.
#[derive(Debug, thiserror::Error)]
enum NotWritten {
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    #[error("{0}")]
    Ledger(String),
    #[error("its reports wait for the next export: the hub has not told this node yet which of them it has")]
    Unnumbered,
    #[error("the stick hangs ({0}); plug it in again")]
    Hangs(std::io::Error),
}

/// How much is there now.
#[derive(Debug, Default)]
struct Written {
    reports: u64,
    requested: bool,
}

impl Task {
    /// Writes it; an error only where the stick is gone.
    pub(super) async fn write_outbox(
        &self,
        device: &Device,
        root: Arc<Root>,
        member: bool,
    ) -> Result<(), Stopped> {
        let mounts = &self.config.mounts;
        if let Err(e) = mounts.writable(device).await {
            if !self.is_there(device) {
                return Err(Stopped::pulled());
            }
            self.say(&format!(
                "it cannot be written to (write-protected by its switch, or damaged): what this node has to say waits for \
                 another stick: {e}"
            ));
            // A unit that is half up is taken down.
            let _ = mounts.read_only(device).await;
            return Ok(());
        }
        let mut written = Written::default();
        let ended = self.fill(root, member, &mut written).await;
        let protected = mounts.read_only(device).await;
        if !self.is_there(device) {
            return Err(Stopped::pulled());
        }
        if written.requested {
            let node = self.config.outgoing.node();
            let fingerprint = &self.config.fingerprint;
            self.say(&format!(
                "the request of {node} to become a member is on it (fingerprint {fingerprint})"
            ));
        }
        if written.reports > 0 {
            self.say(&format!("{} reports of this node are on it", written.reports));
        }
        if let Err(e) = ended {
            self.say(&format!("not all that this node has to say is on it: {}", chain(&e)));
        }
        if let Err(e) = protected {
            // Unmounting is the other way to have all of it on the stick, and comes next.
            tracing::warn!("{e}");
        }
        Ok(())
    }

    async fn fill(&self, root: Arc<Root>, member: bool, written: &mut Written) -> Result<(), NotWritten> {
        let until = std::time::Instant::now() + self.config.patience.outbox;
        let node = self.config.outgoing.node();
        // One piece of work looks at the clock itself; this is for a stick that does not come back from a write.
        let thread = StickThread::start(self.config.patience.outbox + self.config.patience.step);
        let shelf = Arc::new(on(&thread, move || root.shelf(&node)).await?);
        if !member {
            let request = self.config.outgoing.enrol_request().map_err(NotWritten::Ledger)?;
            let shelf = shelf.clone();
            let put = move || {
                shelf.put_request(&request, shelf.room()?)?;
                shelf.sync()
            };
            on(&thread, put).await?;
            written.requested = true;
            return Ok(());
        }
        if !self.config.outgoing.is_numbered().await.map_err(NotWritten::Ledger)? {
            return Err(NotWritten::Unnumbered);
        }
        let (mut after, mut first) = (0, true);
        loop {
            let page = self.config.outgoing.envelopes_after(after, PAGE_BYTES).await;
            let page = page.map_err(NotWritten::Ledger)?;
            let (Some((lowest, _)), Some((highest, _))) = (page.first(), page.last()) else { return Ok(()) };
            // What is no longer in the outbox was acknowledged.
            let acknowledged = std::mem::take(&mut first).then(|| lowest.saturating_sub(1));
            after = *highest;
            let shelf = shelf.clone();
            let put = move || Ok(put_page(&shelf, acknowledged, &page, until));
            let (put, ended) = on(&thread, put).await?;
            written.reports += put;
            ended?;
        }
    }
}

/// Work on the stick, on its own thread.
async fn on<T: Send + 'static>(
    thread: &StickThread,
    work: impl FnOnce() -> Result<T, ShelfError> + Send + 'static,
) -> Result<T, NotWritten> {
    Ok(thread.run(move || Ok(work())).await.map_err(NotWritten::Hangs)??)
}

/// Oldest first; how many are there, and why not all.
fn put_page(
    shelf: &Shelf,
    acknowledged: Option<u64>,
    page: &[(u64, String)],
    until: std::time::Instant,
) -> (u64, Result<(), ShelfError>) {
    let mut count = 0;
    let mut put = || -> Result<(), ShelfError> {
        if let Some(acknowledged) = acknowledged {
            shelf.remove_request()?;
            shelf.remove_acknowledged(acknowledged, until)?;
        }
        let mut room = shelf.room()?;
        for (sequence, envelope) in page {
            in_time(until)?;
            if shelf.put_report(*sequence, envelope, room)? == Put::Written {
                room = shelf.room()?;
            }
            count += 1;
        }
        Ok(())
    };
    let ended = put();
    // What is there stays there, also where not all of it fitted.
    let synced = shelf.sync();
    (count, ended.and(synced))
}
