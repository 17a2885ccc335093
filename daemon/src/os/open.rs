//! Opens the updater, for as long as it takes: an ESP may be slow and a disk fail for a while, and neither is a reason to
//! go without updates, or to give up a new OS at once.

use std::{path::Path, time::Duration};

use cairn_ota::{Machine, Startup};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Node, Outputs, RETRY,
    engine::{self, Engine, Find, Opened},
};
use crate::bus::port::OsRequest;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Pause between two tries.
    pub(super) retry: Duration,
    /// After so long whoever waits for a verdict on a new OS is told that there is none. It goes on all the same.
    pub(super) verdict: Duration,
}

impl Default for Patience {
    /// The terms of the trial cannot be read, so that its deadline is the usual one.
    fn default() -> Self {
        let seconds = cairn_model::desired::OsHealth::default().deadline_seconds;
        Self { retry: RETRY, verdict: Duration::from_secs(u64::from(seconds)) }
    }
}

/// Opens it; `None` where the disk is none of ours. Meanwhile requests are refused with the cause.
pub(super) async fn open(
    find: &Find,
    state_dir: &Path,
    patience: Patience,
    out: &Outputs,
    requests: &mut [mpsc::Receiver<OsRequest>; 2],
) -> Option<(Engine, Startup, Box<Machine>)> {
    let begun = Instant::now();
    let mut failed = false;
    loop {
        let opened = match Engine::start(find.clone(), state_dir.to_owned()) {
            Ok((engine, opened)) => {
                opened.await.map(|opened| (engine, opened)).map_err(|_| engine::Gone.to_string())
            }
            Err(e) => Err(e.to_string()),
        };
        let cause = match opened {
            Ok((engine, Opened::Ready { startup, machine })) => {
                if failed {
                    out.problem.send_replace(None);
                    out.verdict.send_replace(None);
                }
                return Some((engine, startup, machine));
            }
            Ok((_, Opened::NotAnAppliance)) => return None,
            Ok((_, Opened::Failed(cause))) | Err(cause) => cause,
        };
        failed = true;
        let problem = format!("the OS cannot be updated, trying again: {cause}");
        tracing::error!("{problem}");
        out.problem.send_replace(Some(problem.clone()));
        if begun.elapsed() >= patience.verdict {
            out.verdict.send_replace(Some(Err(cause)));
        }
        let again = Instant::now() + patience.retry;
        loop {
            // Both arms are cancel-safe: a channel keeps what was not received.
            tokio::select! {
                () = sleep_until(again) => break,
                request = Node::request(requests) => refuse(request, &problem),
            }
        }
    }
}

fn refuse(request: OsRequest, why: &str) {
    let why = why.to_owned();
    // Who asked may have left: an answer that nobody takes is none.
    match request {
        OsRequest::Install { reply, .. } | OsRequest::Mark { reply, .. } | OsRequest::Apply { reply } => {
            let _ = reply.send(Err(why));
        }
        OsRequest::Inspect { reply, .. } => drop(reply.send(Err(why))),
        OsRequest::Slots { reply } => drop(reply.send(Err(why))),
        OsRequest::Primary { reply } => drop(reply.send(Err(why))),
    }
}
