//! How far a long piece of work is, in one line that a person sees: a bar, bytes, speed, and how long it may take.

use std::time::{Duration, Instant};

use crate::{render::text, screen::Progress};

/// How often the line is drawn at most.
const TICK: Duration = Duration::from_millis(100);
/// Cells of the bar.
const BAR: u64 = 24;

/// Bytes of a known sum, on their way.
pub(crate) struct Meter {
    progress: Progress,
    title: String,
    total: u64,
    done: u64,
    /// What was there at the beginning says nothing about speed.
    first: Option<u64>,
    began: Instant,
    drawn: Option<Instant>,
}

impl Meter {
    pub(crate) fn new(title: impl Into<String>, total: u64) -> Self {
        let (progress, title) = (Progress::new(), title.into());
        Self { progress, title, total, done: 0, first: None, began: Instant::now(), drawn: None }
    }

    /// So many bytes more.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.set(self.done.saturating_add(bytes));
    }

    /// So many bytes in all.
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        let first = *self.first.get_or_insert(done);
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < TICK) {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = line(&self.title, done, self.total, done.saturating_sub(first), self.began.elapsed());
        self.progress.line(&line);
    }
}

fn line(title: &str, done: u64, total: u64, moved: u64, elapsed: Duration) -> String {
    let share = BAR.saturating_mul(done.min(total)).checked_div(total).unwrap_or(BAR);
    let bar: String = (0..BAR).map(|cell| if cell < share { '#' } else { '-' }).collect();
    let seconds = elapsed.as_secs_f64();
    let mut line = format!("{title} [{bar}] {} of {}", text::size(done.min(total)), text::size(total));
    // A speed of the first moments is a guess.
    if seconds >= 1.0 && moved > 0 {
        let speed = (moved as f64 / seconds) as u64;
        let left = total.saturating_sub(done) / speed.max(1);
        line += &format!(", {}/s, {} left", text::size(speed), text::seconds(left));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long() {
        let check = |done, total, moved, seconds| line("x", done, total, moved, Duration::from_secs(seconds));
        assert_eq!(
            check(500, 1000, 100, 10),
            "x [############------------] 500 B of 1.0 kB, 10 B/s, 50s left"
        );
        assert_eq!(check(0, 1000, 0, 10), "x [------------------------] 0 B of 1.0 kB");
        assert_eq!(check(9, 0, 0, 0), "x [########################] 0 B of 0 B");
        assert!(check(u64::MAX, u64::MAX, u64::MAX, 1).contains("0s left"));
    }
}
