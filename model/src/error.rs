//! How an error is told in one line.

use std::{error::Error, fmt::Write as _, iter};

/// An error and all its causes on one line, joined by `": "`. A cause that was said already is left out: some libraries
/// write it in their own message too.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    for cause in iter::successors(error.source(), |&cause| cause.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            // Writing to a `String` cannot fail.
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn each_cause_is_said_once() {
        let table: [(&[&str], &str); 6] = [
            (&["no hub"], "no hub"),
            (&["no hub", "connection refused"], "no hub: connection refused"),
            (&["no report", "no hub", "timed out"], "no report: no hub: timed out"),
            (&["no hub: timed out", "timed out"], "no hub: timed out"),
            (
                &["no report", "no hub: timed out", "timed out", "errno 110"],
                "no report: no hub: timed out: errno 110",
            ),
            (&["no hub", ""], "no hub"),
        ];
        for (texts, expected) in table {
            let wrap = |source, text: &&'static str| Some(Box::new(Link { text, source }));
            let error = texts.iter().rev().fold(None, wrap).unwrap();
            assert_eq!(chain(&*error), expected);
        }
    }
}
