//! `cairn context`, and which hub is meant.

use serde_json::json;

use crate::{
    hub::Hub,
    run::{SECRET, User, mode},
};

const CA: &str = include_str!("ca.pem");

#[test]
fn config_and_tokens_are_readable_by_their_owner_alone() {
    let user = User::new();
    user.file("t", SECRET);
    user.file("ca", CA);
    user.run(&["context", "add", "a", "--hub", "https://hub.example:1", "--ca", "ca", "--token-file", "t"])
        .ok();
    assert_eq!(mode(&user.config("")), 0o700);
    for file in ["config.toml", "tokens/a", "ca/a.pem"] {
        assert_eq!(mode(&user.config(file)), 0o600, "{file}");
    }
    assert!(!std::fs::read_to_string(user.config("config.toml")).unwrap().contains(SECRET));
}

#[test]
fn the_first_context_is_the_current_one_until_another_is_used() {
    let user = User::of("http://127.0.0.1:1");
    let add = ["context", "add", "b", "--hub", "http://127.0.0.1:2", "--token-stdin"];
    user.run_stdin(&add, SECRET).ok();
    let expected =
        "CURRENT   NAME   HUB\n-         b      http://127.0.0.1:2/\n*         test   http://127.0.0.1:1/\n";
    assert_eq!(user.run(&["context", "ls"]).ok(), expected);
    user.run(&["context", "use", "b"]).ok();
    let listed: serde_json::Value =
        serde_json::from_str(&user.run(&["context", "ls", "-o", "json"]).ok()).unwrap();
    assert_eq!(listed[0], json!({"name": "b", "hub": "http://127.0.0.1:2/", "current": true}));
    user.run_stdin(&add, SECRET).fails(2, &["there is a context b already", "--replace"]);
    user.run(&["context", "rm", "b"]).ok();
    assert!(!user.config("tokens/b").exists());
    user.run(&["context", "use", "b"]).fails(3, &["no context b"]);
    user.run(&["node", "ls"]).fails(2, &["no context yet", "context add"]);
}

#[test]
fn refuses_hubs_that_can_be_listened_to_or_not_be_known() {
    let user = User::new();
    user.file("t", SECRET);
    let add = |hub: &str| user.run(&["context", "add", "a", "--hub", hub, "--token-file", "t"]);
    add("http://hub.example").fails(2, &["http is only for loopback addresses"]);
    add("https://hub.example").fails(2, &["which CA", "--ca FILE"]);
    add("hub.example").fails(2, &["https://hub.example:8443"]);
    assert!(!user.config("config.toml").exists());
}

#[test]
fn refuses_files_that_are_no_ca_or_no_token() {
    let user = User::new();
    user.file("t", SECRET);
    user.file("none", "hello");
    user.file("key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    user.file("two", "one two");
    user.file("empty", "\n");
    let add = |ca: &str, token: &str| {
        user.run(&["context", "add", "a", "--hub", "https://h", "--ca", ca, "--token-file", token])
    };
    add("none", "t").fails(2, &["no PEM block", "BEGIN CERTIFICATE"]);
    add("key", "t").fails(2, &["private key"]);
    add("gone", "t").fails(2, &["there is no file gone"]);
    user.file("ca", CA);
    add("ca", "two").fails(2, &["does not hold an access token alone"]);
    add("ca", "empty").fails(2, &["it is empty"]);
    add("ca", "gone").fails(2, &["no file gone"]);
    user.run(&["context", "add", "a", "--hub", "https://h", "--ca", "ca"]).fails(2, &["--token-file"]);
    user.run(&["context", "add", "../a", "--hub", "https://h", "--ca", "ca", "--token-file", "t"])
        .fails(2, &[]);
}

#[test]
fn refuses_a_token_that_others_can_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let user = User::of("http://127.0.0.1:1");
    std::fs::set_permissions(user.config("tokens/test"), std::fs::Permissions::from_mode(0o644)).unwrap();
    user.run(&["node", "ls"]).fails(2, &["others can read", "chmod 600"]);
    std::fs::remove_file(user.config("tokens/test")).unwrap();
    user.run(&["node", "ls"]).fails(2, &["is gone", "--replace"]);
}

#[test]
fn the_environment_stands_over_the_current_context_but_not_over_a_named_one() {
    let named = Hub::new();
    let other = Hub::new();
    for hub in [&named, &other] {
        hub.on("GET /api/v1/nodes", 200, json!([]));
    }
    let user = User::of(&named.url());
    let env = [("CAIRN_HUB", other.url()), ("CAIRN_TOKEN", SECRET.to_owned())];
    let env: Vec<(&str, &str)> = env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    user.run_with(&["node", "ls"], &env).ok();
    assert_eq!((named.asked().len(), other.asked().len()), (0, 1));
    user.run_with(&["--context", "test", "node", "ls"], &env).ok();
    assert_eq!((named.asked().len(), other.asked().len()), (1, 1));
    // A context's token is not for a hub that the environment names.
    user.run_with(&["node", "ls"], &env[..1]).fails(2, &["no access token", "CAIRN_TOKEN_FILE"]);
    assert_eq!(other.asked().len(), 1);
    user.run_with(&["node", "ls"], &[("CAIRN_HUB", "https://h"), ("CAIRN_TOKEN", "x")])
        .fails(2, &["CAIRN_CA"]);
    user.run(&["--context", "nope", "node", "ls"]).fails(2, &["no context nope", "known: test"]);
}

#[test]
fn a_broken_config_is_named_with_its_cure() {
    let user = User::of("http://127.0.0.1:1");
    std::fs::write(user.config("config.toml"), "current = 7").unwrap();
    user.run(&["node", "ls"]).fails(2, &["config.toml is not readable", "mend it"]);
}
