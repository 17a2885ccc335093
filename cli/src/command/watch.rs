//! `--watch`: asks again and again, and draws when something has changed.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::{failure::Failure, screen};

/// How often the hub is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often ages on a terminal are brought up to date although nothing has changed, in intervals.
const REFRESH_AFTER: u32 = 10;

/// Runs until it is stopped, or the hub fails: a watcher that hides an outage is worse than none.
pub(super) async fn redraw_on_change<T, Ask, Render>(mut ask: Ask, render: Render) -> Result<(), Failure>
where
    T: Serialize,
    Ask: AsyncFnMut() -> Result<T, Failure>,
    Render: Fn(&T, Timestamp) -> Result<String, Failure>,
{
    let mut shown: Option<Vec<u8>> = None;
    let mut since_drawn = 0;
    loop {
        let answer = ask().await?;
        let document = serde_json::to_vec(&answer)
            .map_err(|error| Failure::failed(format!("cannot compare two answers: {error}")))?;
        let aged = screen::stdout_is_terminal() && since_drawn >= REFRESH_AFTER;
        if shown.as_ref() != Some(&document) || aged {
            screen::redraw(&render(&answer, Timestamp::now())?, shown.is_none())?;
            shown = Some(document);
            since_drawn = 0;
        }
        since_drawn += 1;
        tokio::time::sleep(INTERVAL).await;
    }
}
