//! How far it is, how fast, and how long it will take: from bytes and times that the caller brings.

use std::time::Duration;

use super::disks::decimal;

/// Shorter than this, a rate says nothing.
const WARM_UP: Duration = Duration::from_secs(1);

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The image is looked through.
    Checking,
    /// It is written.
    Writing,
    /// What was written is read back.
    Verifying,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Checking => "checking",
            Self::Writing => "writing",
            Self::Verifying => "verifying",
        }
    }
}

/// Turns progress into lines for a person.
#[derive(Debug, Default)]
pub struct Meter {
    step: Option<(Step, Duration)>,
}

impl Meter {
    /// A line about `done` of `total` bytes at `now`, a time since any fixed moment. A new step begins a new measure.
    pub fn line(&mut self, step: Step, done: u64, total: u64, now: Duration) -> String {
        let begun = match self.step {
            Some((current, begun)) if current == step => begun,
            _ => now,
        };
        self.step = Some((step, begun));
        let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
        let mut line = format!("{:<9} {percent:>3} %  {} of {}", step.name(), decimal(done), decimal(total));
        let elapsed = now.saturating_sub(begun);
        if elapsed >= WARM_UP && done > 0 {
            let rate = done as f64 / elapsed.as_secs_f64();
            let left = total.saturating_sub(done) as f64 / rate;
            line += &format!("  {}/s", decimal(rate as u64));
            if done < total {
                line += &format!("  {} left", clock(left as u64));
            }
        }
        line
    }
}

/// Minutes and seconds.
fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_rate_and_time_left_once_they_mean_something() {
        let mut meter = Meter::default();
        let mut line = |step, done, seconds| {
            meter.line(step, done, 200_000_000, Duration::from_millis((seconds * 1000.0) as u64))
        };
        assert_eq!(line(Step::Writing, 0, 5.0), "writing     0 %  0 B of 200.0 MB");
        assert_eq!(line(Step::Writing, 1_000_000, 5.5), "writing     0 %  1.0 MB of 200.0 MB");
        assert_eq!(
            line(Step::Writing, 20_000_000, 7.0),
            "writing    10 %  20.0 MB of 200.0 MB  10.0 MB/s  0:18 left"
        );
        assert_eq!(
            line(Step::Writing, 200_000_000, 25.0),
            "writing   100 %  200.0 MB of 200.0 MB  10.0 MB/s"
        );
        assert_eq!(line(Step::Verifying, 5, 26.0), "verifying   0 %  5 B of 200.0 MB");
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert!(Meter::default().line(Step::Writing, 0, 0, Duration::ZERO).contains("100 %"));
    }
}
