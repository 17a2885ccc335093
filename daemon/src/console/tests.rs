//! What appears on the console, and what does not.

use std::{io::BufRead, os::unix::net::UnixListener};

use cairn_model::{
    local::LinkState,
    media::{MediaState, MediaStatus},
    report::{OsMethod, OsProgress, OsStatus},
};

use super::*;
use crate::fixtures::{local_status, os_status};

fn machine() -> Machine {
    Machine { os: "Cairn 0.1.0".to_owned(), hostname: "pump-7".to_owned(), id: "0123".to_owned() }
}

fn status(link: LinkState, os: Option<OsStatus>) -> LocalStatus {
    LocalStatus { hub: Some("https://hub:8443/".to_owned()), link, os, ..local_status() }
}

fn os(state: OsState, written: Option<u64>, detail: Option<&str>) -> OsStatus {
    OsStatus {
        target: Some("0.2.0".parse().unwrap()),
        progress: written.map(|written| OsProgress {
            method: OsMethod::Patch,
            written,
            total: 1000,
            fetched: written,
            to_fetch: 30,
            full: 1000,
            rate: written,
        }),
        detail: detail.map(str::to_owned),
        ..os_status(state)
    }
}

/// What is written for a row of answers, and how long is waited after each.
fn shown(answers: Vec<Result<LocalStatus, AskError>>) -> (String, Vec<Duration>) {
    let mut answers = answers.into_iter().peekable();
    let mut out = Vec::new();
    let mut pauses = Vec::new();
    let left = std::cell::Cell::new(answers.len());
    let mut ask = || {
        left.set(left.get() - 1);
        answers.next().unwrap()
    };
    let mut pause = |pause| {
        pauses.push(pause);
        left.get() > 0
    };
    follow(&mut machine, &mut ask, &mut out, &mut pause).unwrap();
    (String::from_utf8(out).unwrap().replace("\r\n", "\n"), pauses)
}

fn refused() -> Result<LocalStatus, AskError> {
    Err(AskError::Connect(io::Error::from(io::ErrorKind::ConnectionRefused)))
}

#[test]
fn control_characters_of_others_never_reach_the_console() {
    let mut status =
        status(LinkState::Offline, Some(os(OsState::Failed, None, Some("\u{1b}[2Jroot\r\nlogin: "))));
    status.hub = Some(format!("https://hub/\u{7}{}", "x".repeat(9000)));
    let (text, _) = shown(vec![Ok(status)]);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.lines().all(|line| line.len() <= 400 && line != "login: "), "{text:?}");
    assert_eq!(text.lines().count(), 4);
}

#[test]
fn a_line_appears_when_something_changed_and_then_once() {
    let online = || Ok(status(LinkState::Online, Some(os(OsState::Idle, None, None))));
    let (text, pauses) = shown(vec![online(), online(), online()]);
    assert_eq!(
        text,
        "pump-7: Cairn 0.1.0, slot a, machine id 0123\n\
         This console takes no input; use the hub.\n\
         hub: https://hub:8443/ answers; this is node n-0123456789abcdef\n"
    );
    assert_eq!(pauses, [CALM; 3]);
}

#[test]
fn an_update_is_followed_in_steps() {
    let at = |state, written| {
        Ok(status(LinkState::Online, Some(os(state, written, Some("waits for its window")))))
    };
    let mut answers: Vec<_> = (0..=1000).map(|i| at(OsState::Fetching, Some(i))).collect();
    answers.extend([at(OsState::Written, None), at(OsState::Armed, None)]);
    let (text, pauses) = shown(answers);
    let lines: Vec<&str> = text.lines().skip(3).collect();
    assert_eq!(
        lines[4],
        "update: writing 0.2.0 to slot b (patch, 3 % of a full download): 40 %; power may be cut at any time"
    );
    assert_eq!(lines[11], "update: 0.2.0 stands in slot b and is verified");
    assert_eq!(lines[12], "update: 0.2.0 runs after the next restart: waits for its window");
    assert_eq!(lines.len(), 13, "{text}");
    assert!(pauses[..1000].iter().all(|pause| *pause == BUSY));
    assert_eq!(pauses.last(), Some(&CALM));
}

#[test]
fn every_end_of_an_update_has_its_words() {
    for (state, line) in [
        (OsState::Trying, "update: 0.2.0 is on trial: why"),
        (OsState::Good, "update: 0.1.0 is kept"),
        (OsState::RolledBack, "update: 0.2.0 did not do, 0.1.0 runs again: why"),
        (OsState::Refused, "update: 0.2.0 is refused: why"),
        (OsState::Failed, "update: 0.2.0 could not be written: why; it is tried again"),
    ] {
        let (text, _) = shown(vec![Ok(status(LinkState::Online, Some(os(state, None, Some("why")))))]);
        assert_eq!(text.lines().last(), Some(line));
    }
}

#[test]
fn an_agent_that_restarts_is_no_news_and_one_that_stays_away_is() {
    let online = || Ok(status(LinkState::Online, None));
    let (text, _) = shown(vec![online(), refused(), refused(), online()]);
    assert_eq!(text.lines().count(), 3, "{text}");
    let mut answers: Vec<_> = (0..20).map(|_| refused()).collect();
    answers.push(online());
    let (text, _) = shown(answers);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..2],
        ["pump-7: Cairn 0.1.0, machine id 0123", "This console takes no input; use the hub."]
    );
    assert!(lines[2].starts_with("node agent: failed to reach the node agent at its socket: "), "{text}");
    assert!(lines[2].ends_with("it starts again by itself, the workloads run on"), "{text}");
    assert!(lines[3].starts_with("hub: https://hub:8443/ answers"), "{text}");
    assert_eq!(lines.len(), 4);
}

#[test]
fn who_waits_for_approval_says_what_to_type() {
    let (text, _) = shown(vec![Ok(status(LinkState::Pending, None))]);
    assert!(text.contains("cairn node approve n-0123456789abcdef (fingerprint aaaa bbbb)"), "{text}");
}

/// A console that is gone ends the program, so that its unit can start it anew.
#[test]
fn a_console_that_is_gone_is_an_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut ask = || Ok(status(LinkState::Online, None));
    let error = follow(&mut machine, &mut ask, &mut Gone, &mut |_| true).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn asks_the_socket_and_believes_only_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cairnd.sock");
    assert!(matches!(ask(&socket), Err(AskError::Connect(_))));
    let listener = UnixListener::bind(&socket).unwrap();
    let good = serde_json::to_string(&status(LinkState::Online, None)).unwrap();
    let answers = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{good}", good.len()),
        "HTTP/1.1 500 Oh\r\n\r\n{}".to_owned(),
        "HTTP/1.1 200 OK\r\n\r\n{}".to_owned(),
        format!("HTTP/1.1 200 OK\r\n\r\n{}", &good[..good.len() / 2]),
        "nothing of the kind".to_owned(),
    ];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = io::BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(request.next().unwrap().unwrap(), "GET /v1/status HTTP/1.1");
            while !request.next().unwrap().unwrap().is_empty() {}
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    assert_eq!(ask(&socket).unwrap(), status(LinkState::Online, None));
    for _ in 0..4 {
        assert!(matches!(ask(&socket), Err(AskError::Content)));
    }
    server.join().unwrap();
}

fn stick(state: MediaState, removable: bool, copied: u64, messages: &[&str]) -> LocalStatus {
    let messages = messages.iter().map(|message| (*message).to_owned()).collect();
    let media = MediaStatus { device: "sdb1".to_owned(), state, removable, messages, copied, to_copy: 1000 };
    LocalStatus { media: Some(media), hub: None, ..status(LinkState::Unconfigured, None) }
}

#[test]
fn a_stick_is_followed_until_it_can_be_pulled() {
    let mut answers: Vec<_> = (0..=1000).map(|n| Ok(stick(MediaState::Copying, false, n, &[]))).collect();
    answers.insert(0, Ok(stick(MediaState::Verifying, false, 0, &[])));
    answers.push(Ok(stick(MediaState::WritingOutbox, false, 1000, &["generation 7 is applied"])));
    answers.push(Ok(stick(MediaState::Done, true, 1000, &["generation 7 is applied", "3 reports"])));
    answers.push(Ok(stick(MediaState::Done, true, 1000, &["generation 7 is applied", "3 reports"])));
    let (text, pauses) = shown(answers);
    let lines: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(lines[0], "hub: none is configured; this is node n-0123456789abcdef (fingerprint aaaa bbbb)");
    assert_eq!(lines[1], "stick sdb1: it is looked at and verified; do not pull it yet");
    assert_eq!(lines[6], "stick sdb1: what is new is copied from it: 40 %; do not pull it yet");
    let end = [
        "stick sdb1: generation 7 is applied",
        "stick sdb1: what this node has to say is written to it; do not pull it yet",
        "stick sdb1: 3 reports",
        "stick sdb1: done; it can be pulled",
    ];
    assert_eq!(lines[13..], end, "{text}");
    assert_eq!(pauses[0], BUSY);
    assert_eq!(pauses.last(), Some(&CALM));
}

#[test]
fn another_stick_says_the_same_again() {
    let done = |device: &str| {
        let mut status = stick(MediaState::Foreign, true, 0, &["left alone"]);
        status.media.as_mut().unwrap().device = device.to_owned();
        Ok(status)
    };
    let (text, _) = shown(vec![done("sdb1"), done("sdc1"), done("sdc1")]);
    let said: Vec<&str> = text.lines().filter(|line| line.ends_with("left alone")).collect();
    assert_eq!(said, ["stick sdb1: left alone", "stick sdc1: left alone"]);
}

#[test]
fn a_node_without_a_hub_is_shown_by_its_fingerprint() {
    for (state, what) in [
        (LinkState::Unconfigured, "none is configured"),
        (LinkState::Enrolling, "none, this node asks by stick to be taken in"),
        (LinkState::Offline, "none, this node is a member by stick"),
    ] {
        let (text, _) = shown(vec![Ok(LocalStatus { hub: None, ..status(state, None) })]);
        let line = format!("hub: {what}; this is node n-0123456789abcdef (fingerprint aaaa bbbb)");
        assert_eq!(text.lines().last(), Some(line.as_str()));
    }
}
