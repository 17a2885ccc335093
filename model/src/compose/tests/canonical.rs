//! The canonical form: the same app again, read by others too.

use proptest::prelude::*;

use super::super::{App, Platform, Restart};

const FULL: &str = include_str!("../../../tests/golden/compose.full.yaml");

#[track_caller]
fn check_round_trip(app: &App) {
    let json = app.to_canonical_json();
    let again = App::from_canonical_json(&json).unwrap_or_else(|problems| {
        panic!("{problems}\n{}", String::from_utf8_lossy(&json));
    });
    assert_eq!(&again, app);
    assert_eq!(again.to_canonical_json(), json);
}

#[test]
fn canonical_json_is_the_same_app() {
    let app = App::parse("compose.full.yaml", FULL).unwrap();
    check_round_trip(&app);
    insta::assert_json_snapshot!(
        serde_json::from_slice::<serde_json::Value>(&app.to_canonical_json()).unwrap()
    );
}

#[test]
fn spelling_makes_no_difference() {
    let a = "services:\n  web:\n    image: a\n    command: sleep 60\n    healthcheck: {test: x, interval: 60s}\n    ports: [\"2:2\", \"1:1\"]\n";
    let b = "# a note\nversion: '3'\nx-note: {}\nservices: {web: {ports: [{target: 1, published: 1}, \"2:2/tcp\"], image: a, command: [sleep, '60'], healthcheck: {interval: 1m, test: [CMD-SHELL, x]}}}";
    let json = |yaml| App::parse("f", yaml).unwrap().to_canonical_json();
    assert_eq!(json(a), json(b));
}

/// An independent reader takes the canonical form for a Compose file, and finds the same in it.
#[test]
fn another_reader_understands_canonical_json() {
    let mut app = App::parse("compose.full.yaml", FULL).unwrap();
    // The specification has `on-failure:<n>`, any platform, and modes in octal; that reader has not.
    app.services.get_mut(&"db".parse().unwrap()).unwrap().restart = Restart::Always;
    app.services.get_mut(&"hello".parse().unwrap()).unwrap().platform = Platform::Oci { arch: None };
    app.services
        .get_mut(&"web".parse().unwrap())
        .unwrap()
        .tmpfs
        .iter_mut()
        .for_each(|tmpfs| tmpfs.mode = None);
    let compose: compose_spec::Compose = serde_json::from_slice(&app.to_canonical_json()).unwrap();
    compose.validate_all().unwrap();
    assert_eq!(compose.services.len(), app.services.len());
    for (name, theirs) in &compose.services {
        let ours = &app.services[&name.as_str().parse().unwrap()];
        assert_eq!(theirs.image.as_ref().unwrap().as_str(), ours.image.to_string());
    }
}

#[test]
fn garbage_is_refused_not_believed() {
    for garbage in [
        &b"\xff"[..],
        b"",
        b"{}",
        b"null",
        b"{\"services\":{\"a\":{}}}",
        b"{\"services\":{\"a\":{\"image\":\"x\",\"foo\":1}}}",
    ] {
        assert!(App::from_canonical_json(garbage).is_err());
    }
}

/// Texts that are awkward in YAML, JSON and Compose.
fn awkward() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,12}",
        "\\PC{1,8}",
        Just("$".to_owned()),
        Just("${A}".to_owned()),
        Just("<<".to_owned()),
        Just("true".to_owned()),
        Just("\n\t\u{85}\u{2028}\u{feff}".to_owned()),
        Just("\u{1}\u{7f}\u{ffff}".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn parse_never_panics_on_text(text in "\\PC{0,200}") {
        let _ = App::parse("f", &text);
    }

    #[test]
    fn parse_never_panics_on_yaml_like_text(text in "([ \\-?:,\\[\\]{}#&*!|>'\"%@`\n\ta0~$<]|services:|image: a|\n  ){0,80}") {
        let _ = App::parse("f", &text);
    }

    #[test]
    fn parse_never_panics_on_mutated_files(at in 0..FULL.len(), cut in 0_usize..40, insert in "[ \\-?:,\\[\\]{}#&*!|>'\"%a0~$<\n]{0,4}") {
        let mut text = FULL.to_owned();
        let start = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let end = (start..text.len()).find(|end| *end >= start + cut && text.is_char_boundary(*end)).unwrap_or(text.len());
        text.replace_range(start..end, &insert);
        if let Ok(app) = App::parse("f", &text) {
            check_round_trip(&app);
        }
    }

    #[test]
    fn canonical_json_round_trips(command in prop::collection::vec(awkward(), 0..4), value in awkward(), label in awkward(), milli in 1_u64..10_000, micros in 100_000_u64..10_000_000) {
        let mut app = App::parse("f", FULL).unwrap();
        let service = app.services.values_mut().next().unwrap();
        service.command = Some(command);
        service.environment.insert("A".to_owned(), value.clone());
        service.labels.insert(label.replace('=', ""), value);
        service.labels.remove("");
        service.deploy.limits.milli_cpus = Some(milli);
        service.deploy.reservations.milli_cpus = None;
        service.stop_grace_period = Some(std::time::Duration::from_micros(micros));
        check_round_trip(&app);
    }
}
