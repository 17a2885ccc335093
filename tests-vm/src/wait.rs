//! Waiting for a condition, with a deadline: the only way in which anything here waits.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long the harness rests between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(200);

/// Calls `look` until it returns a value, at most for `deadline`. An error of `look` is "not yet": the last one is in
/// the error that is returned when time is up.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut last = None;
    loop {
        match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = Some(error),
        }
        if start.elapsed() >= deadline {
            let seconds = deadline.as_secs();
            match last {
                Some(error) => return Err(error.context(format!("waited {seconds} s in vain for {what}"))),
                None => bail!("waited {seconds} s in vain for {what}"),
            }
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_last_error() {
        let error =
            until("pigs to fly", Duration::ZERO, || -> Result<Option<()>> { bail!("no wings") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "waited 0 s in vain for pigs to fly: no wings");
    }

    #[test]
    fn returns_what_was_found() {
        let mut tries = 0;
        let found = until("the third try", Duration::from_secs(5), || {
            tries += 1;
            Ok((tries == 3).then_some(tries))
        });
        assert_eq!(found.unwrap(), 3);
    }
}
