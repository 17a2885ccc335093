//! Commands: once, in time, bounded, and never through a shell.

use super::*;

fn logs(id: &str, not_after: i64) -> Command {
    let kind = CommandKind::Logs { app: "shop".parse().unwrap(), service: None, lines: 10 };
    Command { id: id.to_owned(), not_after, kind }
}

#[tokio::test]
async fn carries_out_each_command_once_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.sqlite");
    let ledger = Ledger::open(&path).await.unwrap();
    let now = Timestamp::from_second(100).unwrap();
    assert_eq!(judge(&ledger, &logs("a", 100), now).await.unwrap(), Verdict::Run);
    assert_eq!(judge(&ledger, &logs("a", 100), now).await.unwrap(), Verdict::Done);
    ledger.close().await;
    let ledger = Ledger::open(&path).await.unwrap();
    assert_eq!(judge(&ledger, &logs("a", 100), now).await.unwrap(), Verdict::Done, "also after a restart");
}

#[tokio::test]
async fn refuses_a_command_whose_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&dir.path().join("ledger.sqlite")).await.unwrap();
    let late = Timestamp::from_second(101).unwrap();
    assert_eq!(judge(&ledger, &logs("a", 100), late).await.unwrap(), Verdict::Late);
}

#[test]
fn output_is_cut_between_characters_and_its_end_is_marked() {
    let text = "ä".repeat(CHUNK_BYTES);
    let pieces = pieces("c", &text, 3);
    assert!(pieces.iter().all(|p| p.text.len() <= CHUNK_BYTES));
    assert_eq!(pieces.iter().map(|p| p.text.as_str()).collect::<String>(), text);
    let codes: Vec<_> = pieces.iter().map(|p| p.exit_code).collect();
    assert_eq!(codes.last(), Some(&Some(3)));
    assert!(codes[..codes.len() - 1].iter().all(Option::is_none));
    assert_eq!(super::pieces("c", "", 0).len(), 1, "an empty output has an end too");
}

#[test]
fn asks_the_journal_by_argv_and_caps_the_lines() {
    let args = logs_args(&"shop".parse().unwrap(), Some(&"web".parse().unwrap()), u32::MAX);
    assert!(args.contains(&"--lines=10000".to_owned()));
    assert!(args.contains(&"CAIRN_APP=shop".to_owned()) && args.contains(&"CAIRN_SERVICE=web".to_owned()));
}

#[tokio::test]
async fn output_is_bounded() {
    let mut endless = process::Command::new("/bin/sh");
    endless.args(["-c", "yes"]);
    let (text, _) = output_of(endless).await;
    assert_eq!(text.len(), MAX_OUTPUT_BYTES);
    let (text, code) = output_of(process::Command::new("/nonexistent")).await;
    assert_eq!(code, NOT_STARTED);
    assert!(text.contains("cannot be started"));
}
