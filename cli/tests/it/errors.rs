//! Each mistake: its exit code, its cause, its cure.

use serde_json::json;

use crate::{
    hub::{Hub, error},
    run::User,
};

#[test]
fn a_hub_that_is_not_there() {
    let user = User::of("http://127.0.0.1:1");
    user.run(&["node", "ls"])
        .fails(5, &["cannot reach the hub at http://127.0.0.1:1/", "is cairn-hub running"]);
}

#[test]
fn a_token_that_counts_no_more_and_one_that_may_not() {
    let hub = Hub::new();
    let user = User::of(&hub.url());
    let env = [("CAIRN_TOKEN", "expired")];
    user.run_with(&["node", "ls"], &env)
        .fails(6, &["does not accept the token of CAIRN_TOKEN: unknown token", "cairn access-token create"]);
    hub.on("GET /api/v1/access-tokens", 403, error("forbidden", "role operator is not admin"));
    user.run(&["access-token", "ls"])
        .fails(6, &["token of context test does not allow this: role operator", "--role"]);
}

#[test]
fn answers_of_something_else_than_a_hub() {
    let hub = Hub::new();
    hub.on_with("GET /api/v1/nodes", 502, &[], "<html>bad gateway</html>".into());
    hub.on_with("GET /api/v1/apps", 200, &[], "<html>welcome</html>".into());
    hub.on("GET /api/v1/tokens", 200, json!({"not": "a list"}));
    let user = User::of(&hub.url());
    user.run(&["node", "ls"]).fails(1, &["502", "is a proxy in between?"]);
    user.run(&["app", "ls"]).fails(1, &["not what this version expects"]);
    user.run(&["token", "ls"]).fails(1, &["use a cairn of the hub's version"]);
}

#[test]
fn a_hub_that_fails() {
    let hub = Hub::new();
    hub.on("GET /api/v1/nodes", 500, error("internal", "the store is full; make room"));
    let user = User::of(&hub.url());
    user.run(&["node", "ls"]).fails(1, &["the store is full; make room", "log"]);
}

#[test]
fn an_empty_list_says_what_to_do_next() {
    let hub = Hub::new();
    for what in ["nodes", "tokens", "apps", "artifacts"] {
        hub.on(&format!("GET /api/v1/{what}"), 200, json!([]));
    }
    let user = User::of(&hub.url());
    for (noun, next) in [
        ("node", "cairn token create"),
        ("token", "cairn token create"),
        ("app", "cairn app deploy"),
        ("artifact", "cairn artifact push"),
    ] {
        let ran = user.run(&[noun, "ls"]);
        assert!(ran.err.contains(next), "{ran:?}");
        assert_eq!(user.run(&[noun, "ls", "-o", "json"]).ok(), "[]\n");
    }
}

#[test]
fn no_home_and_no_environment() {
    let user = User::new();
    let output = user.command(&["node", "ls"]).env_remove("XDG_CONFIG_HOME").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("neither XDG_CONFIG_HOME nor HOME"));
}
