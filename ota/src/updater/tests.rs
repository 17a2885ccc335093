//! The pure half: which step may follow which, and what a start means.

use cairn_model::report::{OsState, Slot};
use proptest::prelude::*;

use super::state::{Attempt, Event, Finding, MAX_IGNORED_STARTS, Seen, find, next};
use super::store::{Saved, Store};

const STATES: [OsState; 9] = [
    OsState::Idle,
    OsState::Fetching,
    OsState::Written,
    OsState::Armed,
    OsState::Trying,
    OsState::Good,
    OsState::RolledBack,
    OsState::Refused,
    OsState::Failed,
];

const EVENTS: [Event; 12] = [
    Event::Begun,
    Event::Transferred,
    Event::Broke,
    Event::Refused,
    Event::EntryIn,
    Event::Disarmed,
    Event::Found,
    Event::Started,
    Event::NotStarted,
    Event::Confirmed,
    Event::Rejected,
    Event::FellBack,
];

fn attempt(state: OsState) -> Attempt {
    Attempt { state, ..Attempt::new(&"2".parse().unwrap(), "new", Slot::B, "old", "boot 1") }
}

fn seen(root_hash: &str) -> Seen<'_> {
    Seen { root_hash, boot_id: "boot 2", own: Some(None), target: None, corrupt: None }
}

#[test]
fn an_update_goes_its_way_step_by_step() {
    let way = [Event::Begun, Event::Transferred, Event::EntryIn, Event::Started, Event::Confirmed];
    let states = [OsState::Fetching, OsState::Written, OsState::Armed, OsState::Trying, OsState::Good];
    let mut state = OsState::Idle;
    for (event, expected) in way.into_iter().zip(states) {
        state = next(state, event).unwrap();
        assert_eq!(state, expected);
    }
}

#[test]
fn rejects_every_step_that_may_not_follow() {
    let trying = next(OsState::Trying, Event::Begun).unwrap_err().to_string();
    assert!(trying.contains("wait for the end"), "{trying}");
    for state in STATES {
        for event in EVENTS {
            let result = next(state, event);
            match (event, result) {
                // Nothing becomes good but what is being tried.
                (Event::Confirmed | Event::Rejected, Ok(_)) => assert_eq!(state, OsState::Trying),
                (Event::EntryIn, Ok(_)) => assert_eq!(state, OsState::Written),
                (Event::Disarmed, Ok(_)) => assert_eq!(state, OsState::Armed),
                (Event::Transferred, Ok(_)) => assert_eq!(state, OsState::Fetching),
                (Event::Begun | Event::Refused, Ok(_)) => assert_ne!(state, OsState::Trying),
                _ => {}
            }
        }
    }
}

#[test]
fn an_armed_release_that_runs_is_tried_and_never_good_at_once() {
    for own in [Some(Some((2, 1))), Some(Some((0, 3))), None] {
        let seen = Seen { own, ..seen("new") };
        assert_eq!(find(&attempt(OsState::Armed), &seen), Finding::Started, "{own:?}");
        assert_eq!(find(&attempt(OsState::Trying), &seen), Finding::Started, "{own:?}");
    }
    // Only who confirmed it took the counter away.
    assert_eq!(find(&attempt(OsState::Trying), &seen("new")), Finding::Kept);
}

#[test]
fn what_runs_on_a_counter_is_tried_whatever_was_recorded() {
    for state in STATES {
        let seen = Seen { own: Some(Some((2, 1))), ..seen("new") };
        assert_eq!(find(&attempt(state), &seen), Finding::Started, "{state:?}");
    }
    // The entry came in, and saving that failed.
    for state in [OsState::Fetching, OsState::Written, OsState::Failed] {
        let seen = Seen { target: Some(Some((3, 0))), ..seen("old") };
        assert_eq!(find(&attempt(state), &seen), Finding::Found, "{state:?}");
    }
}

#[test]
fn what_the_loader_gave_up_is_rolled_back_with_the_reason() {
    let check = |target, corrupt, needle: &str| {
        let seen = Seen { target, corrupt, ..seen("old") };
        for state in [OsState::Armed, OsState::Trying] {
            match find(&attempt(state), &seen) {
                Finding::FellBack(reason) => assert!(reason.contains(needle), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    };
    check(Some(Some((0, 3))), None, "no boot was completed in 3 tries");
    check(Some(Some((1, 2))), Some("slot b is corrupt"), "slot b is corrupt");
    check(None, None, "entry is gone");
}

#[test]
fn a_restart_of_the_daemon_is_no_restart_of_the_machine() {
    let same = Seen { boot_id: "boot 1", target: Some(Some((3, 0))), ..seen("old") };
    assert_eq!(find(&attempt(OsState::Armed), &same), Finding::Unchanged);
}

#[test]
fn a_loader_that_never_tries_it_is_not_waited_for_forever() {
    let seen = Seen { target: Some(Some((3, 0))), ..seen("old") };
    let mut armed = attempt(OsState::Armed);
    for _ in 1..MAX_IGNORED_STARTS {
        assert_eq!(find(&armed, &seen), Finding::NotStarted);
        armed.ignored_starts += 1;
    }
    assert!(matches!(find(&armed, &seen), Finding::FellBack(_)));
}

#[test]
fn what_was_good_and_does_not_run_fell_over() {
    let corrupt = Seen { corrupt: Some("slot b is corrupt"), ..seen("old") };
    assert_eq!(find(&attempt(OsState::Good), &corrupt), Finding::FellOver("slot b is corrupt".into()));
    assert!(matches!(find(&attempt(OsState::Good), &seen("old")), Finding::FellOver(_)));
    assert_eq!(find(&attempt(OsState::Good), &seen("new")), Finding::Unchanged);
}

#[test]
fn a_state_file_of_a_newer_os_is_read_and_a_torn_one_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.read(), Ok(Saved::default()));
    store.write(&Saved { attempt: Some(attempt(OsState::Armed)), ..Saved::default() }).unwrap();
    let text = std::fs::read_to_string(store.path()).unwrap();
    std::fs::write(store.path(), text.replacen('{', "{ \"new_field\": [1],", 1)).unwrap();
    assert_eq!(store.read().unwrap().attempt, Some(attempt(OsState::Armed)));
    for length in 0..text.trim_end().len() {
        std::fs::write(store.path(), &text[..length]).unwrap();
        assert!(store.read().is_err(), "cut at {length}");
    }
    std::fs::write(store.path(), text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    assert_eq!(store.read(), Err("its schema is 2".into()));
    std::fs::write(store.path(), vec![b' '; 2 << 20]).unwrap();
    assert!(store.read().is_err());
}

#[test]
fn what_a_newer_os_recorded_is_read_by_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let put = |text: &str| std::fs::write(store.path(), text).unwrap();
    // As little as can be, and as much as is not known here.
    put(r#"{"schema":1,"attempt":{"version":"2","root_hash":"new","slot":"b","state":"armed",
        "health":{"deadline_seconds":7,"units":["x"]},"progress":{"method":"rays"},"more":1},
        "failures":[{"digest":"?"}],"fell_over":"h"}"#);
    let saved = store.read().unwrap();
    let read = saved.attempt.unwrap();
    assert_eq!((read.state, read.health.deadline_seconds, read.health.hub), (OsState::Armed, 7, true));
    assert_eq!((read.attempt, read.digest, read.progress), (0, None, None));
    assert_eq!((saved.failures.len(), saved.fell_over.as_deref()), (0, Some("h")));
    // A state that is not known here is none, and nothing else is lost by it.
    let digest = cairn_model::Digest::of(b"x");
    put(&format!(
        r#"{{"schema":1,"attempt":{{"version":"2","root_hash":"n","slot":"b","state":"new"}},
        "failures":[{{"digest":"{digest}","reason":"unwell"}}]}}"#
    ));
    let saved = store.read().unwrap();
    assert_eq!(saved.attempt, None);
    assert_eq!(saved.failure(&digest, 0).unwrap().reason, "unwell");
    put(r#"{"schema":1,"attempt":{"version":"2","root_hash":"n","slot":"b","state":"armed","health":7}}"#);
    assert_eq!(store.read().unwrap().attempt.unwrap().health, cairn_model::desired::OsHealth::default());
}

#[test]
fn the_state_is_for_root_only_and_failures_are_bounded() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut saved = Saved::default();
    for number in 0..100 {
        let digest = cairn_model::Digest::of(format!("{number}").as_bytes());
        saved.failed(&digest, number, &"é".repeat(10_000));
    }
    store.write(&saved).unwrap();
    let metadata = std::fs::metadata(store.path()).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let read = store.read().unwrap();
    assert_eq!(read.failures.len(), 32);
    assert_eq!(read.failures[0].attempt, 99);
    assert_eq!(read.failures[0].reason.chars().count(), 4096);
    let digest = &read.failures[0].digest;
    assert!(read.failure(digest, 99).is_some() && read.failure(digest, 100).is_none());
}

proptest! {
    /// Whatever happens, in whatever order: an illegal step is an error and changes nothing, and nothing is good that was
    /// not tried just before.
    #[test]
    fn no_sequence_of_events_makes_an_untried_release_good(events in prop::collection::vec(0..EVENTS.len(), 0..60)) {
        let mut state = OsState::Idle;
        let mut tried = false;
        for event in events {
            let event = EVENTS[event];
            let Ok(after) = next(state, event) else { continue };
            if after == OsState::Good && state != OsState::Good {
                prop_assert!(tried && state == OsState::Trying);
            }
            tried = after == OsState::Trying;
            state = after;
        }
    }

    /// Whatever is recorded and seen: the events that follow from it are legal, so that a start never fails on them.
    #[test]
    fn whatever_is_seen_leads_to_a_legal_step(
        state in 0..STATES.len(), runs: bool, own in tries(), target in tries(), corrupt: bool, same_boot: bool,
        ignored in 0u32..5,
    ) {
        let attempt = Attempt { ignored_starts: ignored, ..attempt(STATES[state]) };
        let seen = Seen {
            root_hash: if runs { "new" } else { "old" },
            boot_id: if same_boot { "boot 1" } else { "boot 2" },
            own,
            target,
            corrupt: corrupt.then_some("corrupt"),
        };
        let events: &[Event] = match find(&attempt, &seen) {
            Finding::Unchanged => &[],
            Finding::Found => &[Event::Found],
            Finding::Started => &[Event::Started],
            Finding::Kept => &[Event::Started, Event::Confirmed],
            Finding::NotStarted => &[Event::NotStarted],
            Finding::FellBack(_) | Finding::FellOver(_) => &[Event::FellBack],
        };
        let mut state = attempt.state;
        for event in events {
            state = next(state, *event).unwrap();
        }
        if state == OsState::Good {
            prop_assert!(attempt.state == OsState::Good || own == Some(None), "an entry with a counter is not good");
        }
    }
}

fn tries() -> impl Strategy<Value = Option<Option<(u32, u32)>>> {
    prop::option::of(prop::option::of((0u32..4, 0u32..4)))
}
