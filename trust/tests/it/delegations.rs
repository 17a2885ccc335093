//! What a delegated role can and cannot do to others.

use cairn_trust::client::ClientError;

use crate::repository::{Repository, at, day, today};

fn two_delegates() -> Repository {
    let mut repository = Repository::new();
    repository.delegate("targets", "good", &["good/*"]);
    repository.delegate("targets", "bad", &["bad/*"]);
    repository.source.files.clear();
    repository.add_target("targets", "first", b"first");
    repository.add_target("good", "good/a", b"a");
    repository.add_target("bad", "bad/b", b"b");
    repository
}

/// Finds each name with one client, and says of each whether it was found.
async fn find(repository: &Repository, names: &[&str]) -> Vec<Result<bool, ClientError>> {
    let mut node = repository.client();
    node.refresh(repository).await.unwrap();
    let mut found = Vec::new();
    for name in names {
        let info = node.client.find(&repository.source, name, at(today())).await;
        found.push(info.map(|info| info.is_some()));
    }
    found
}

#[tokio::test]
async fn delegates_are_loaded_only_when_searched() {
    let mut repository = two_delegates();
    repository.publish();
    let mut node = repository.client();
    node.refresh(&repository).await.unwrap();
    repository.source.take_log();
    assert!(node.client.find(&repository.source, "good/a", at(today())).await.unwrap().is_some());
    let log: Vec<_> = repository.source.take_log().into_iter().map(|(path, _)| path).collect();
    assert_eq!(log, ["1.good.json"]);
    // And, once verified, from disk.
    node.reopen();
    assert!(node.client.find(&repository.source, "good/a", at(today())).await.unwrap().is_some());
    assert!(repository.source.take_log().is_empty());
}

#[tokio::test]
async fn one_bad_delegate_blocks_only_its_own_targets() {
    for damage in ["forged", "expired", "missing", "garbage", "too large"] {
        let mut repository = two_delegates();
        match damage {
            "forged" => repository.role("bad").signers = vec!["stranger"],
            "expired" => repository.role("bad").expires = day(-1),
            _ => {}
        }
        repository.publish();
        match damage {
            "missing" => drop(repository.source.files.remove("1.bad.json")),
            "garbage" => repository.source.put("1.bad.json", b"{"),
            "too large" => repository.source.put("1.bad.json", vec![b' '; 64 << 20]),
            _ => {}
        }
        let found = find(&repository, &["bad/b", "good/a", "first", "bad/b"]).await;
        assert!(found[0].is_err() && found[3].is_err(), "{damage}: {found:?}");
        assert!(matches!(found[1..3], [Ok(true), Ok(true)]), "{damage}: {found:?}");
    }
}

#[tokio::test]
async fn a_delegate_cannot_speak_for_targets_outside_its_paths() {
    let mut repository = two_delegates();
    // It lists what was delegated to another, and what its glob seems to reach across a separator.
    for name in ["good/x", "bad/deep/er", "BAD/b", "first2", "bad"] {
        repository.add_target("bad", name, b"evil");
    }
    repository.publish();
    let names = ["bad/b", "good/x", "bad/deep/er", "BAD/b", "first2", "bad"];
    let found = find(&repository, &names).await;
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, [true, false, false, false, false, false]);
}

#[tokio::test]
async fn globs_do_not_reach_further_than_a_segment() {
    let cases = [
        ("*", "a", true),
        ("*", "a/b", false),
        ("**", "a/b", false),
        ("a/*/c", "a/b/c", true),
        ("a/*/c", "a/b/b/c", false),
        ("a?c", "a/c", false),
        ("a?c", "abc", true),
        ("[!x]", "/", false),
        ("{a,b}", "a", false),
        ("a*", "a/../b", false),
    ];
    for (pattern, name, reaches) in cases {
        let mut repository = Repository::new();
        repository.delegate("targets", "role", &[pattern]);
        repository.add_target("role", name, b"x");
        repository.publish();
        let found = find(&repository, &[name]).await.remove(0).unwrap();
        assert_eq!(found, reaches, "{pattern} {name}");
    }
}

#[tokio::test]
async fn a_search_ends_where_delegations_turn_in_circles_or_never_end() {
    let mut repository = Repository::new();
    repository.delegate("targets", "a", &["*"]);
    repository.delegate("a", "b", &["*"]);
    let delegations = repository.role("targets").body["delegations"].clone();
    repository.role("b").body["delegations"] = delegations;
    repository.publish();
    assert!(!find(&repository, &["none"]).await.remove(0).unwrap());

    let mut repository = Repository::new();
    let mut above = "targets".to_owned();
    for depth in 0..40 {
        let role = format!("role{depth}");
        repository.delegate(&above, &role, &["*"]);
        above = role;
    }
    repository.publish();
    assert!(matches!(find(&repository, &["none"]).await.remove(0), Err(ClientError::TooManyRoles { .. })));
}

#[tokio::test]
async fn a_delegation_cannot_take_the_name_of_a_top_level_role() {
    let mut repository = Repository::new();
    repository.delegate("targets", "x", &["*"]);
    repository.role("targets").body["delegations"]["roles"][0]["name"] = "timestamp".into();
    repository.roles.remove("x");
    repository.publish();
    let before = repository.source.files["timestamp.json"].clone();
    let mut node = repository.client();
    node.refresh(&repository).await.unwrap();
    assert!(node.client.find(&repository.source, "none", at(today())).await.unwrap().is_none());
    assert_eq!(std::fs::read(node.folder.path().join("timestamp.json")).unwrap(), before);
}
