//! The Compose file: what is understood has one canonical form, which a node reads as the same app; what is refused is
//! refused with places in order, causes and cures, and in bounded text.
#![no_main]

use cairn_fuzz::within;
use cairn_model::compose::{App, MAX_BYTES, Problems};
use libfuzzer_sys::fuzz_target;

/// Most memory that a file takes, whatever its aliases stand for.
const MEMORY: usize = 48 << 20;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(App::from_canonical_json(data).is_err());
        return;
    };
    match within(MEMORY, || App::parse("compose.yaml", text)) {
        Ok(app) => {
            assert!(!app.services.is_empty());
            let canonical = within(MEMORY, || app.to_canonical_json());
            assert!(canonical.len() <= MAX_BYTES);
            let again = App::from_canonical_json(&canonical).expect("a node reads what the hub accepted");
            assert_eq!(app, again);
            assert_eq!(canonical, again.to_canonical_json());
        }
        Err(problems) => check(&problems),
    }
});

fn check(problems: &Problems) {
    let places: Vec<_> = problems.list.iter().map(|problem| (problem.line, problem.column)).collect();
    assert!(!places.is_empty() && places.len() <= 101, "{} problems", places.len());
    assert!(places.is_sorted(), "{problems}");
    for problem in &problems.list {
        assert!(problem.line > 0 && problem.column > 0, "{problem}");
        assert!(!problem.cause.is_empty() && !problem.cure.is_empty(), "{problem}");
        let text = problem.to_string();
        assert!(text.len() <= 4096, "a problem of {} bytes: {text:.200}", text.len());
        assert!(!text.contains(|c: char| c.is_control()), "{text:?} reaches a terminal");
    }
}
