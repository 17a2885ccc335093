//! Maintenance windows: each is open for as many minutes of a week as it says, and written it reads as the same.
#![no_main]

use cairn_fuzz::refusal;
use cairn_model::MaintenanceWindow;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let window: MaintenanceWindow = match text.parse() {
        Ok(window) => window,
        Err(error) => return refusal(&error),
    };
    assert_eq!(window.to_string().parse(), Ok(window));
    assert!((1..=1440).contains(&window.minutes()));
    let begins: Vec<u8> = (0..7).filter(|day| window.begins_on(*day)).collect();
    assert!(!begins.is_empty() && (7..=u8::MAX).all(|day| !window.begins_on(day)));
    let open = (0..7).flat_map(|day| (0..1440).map(move |minute| (day, minute)));
    let minutes = open.filter(|(day, minute)| window.contains(*day, *minute)).count();
    // Windows of neighbouring days never meet: none is longer than a day.
    assert_eq!(minutes, begins.len() * usize::from(window.minutes()));
    for day in begins {
        assert!(window.contains(day, window.begin()));
    }
});
