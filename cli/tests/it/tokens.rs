//! `cairn token` and `cairn access-token`.

use serde_json::{Value, json};

use crate::{
    hub::{Hub, ago},
    run::User,
};

fn token() -> Value {
    json!({"id": "t-1", "description": "shelf 4", "created_at": ago(130), "expires_at": ago(-86_400 * 3 - 60),
        "reusable": true, "auto_approve": false, "labels": {"zone": "a"}, "used": 2})
}

#[test]
fn stdout_is_the_secret_alone() {
    let hub = Hub::new();
    hub.on("POST /api/v1/tokens", 200, json!({"token": token(), "secret": "enr_x"}));
    let user = User::of(&hub.url());
    let ran = user.run(&[
        "token",
        "create",
        "--expires",
        "3d",
        "--reusable",
        "--auto-approve",
        "-l",
        "zone=a",
        "--description",
        "shelf 4",
    ]);
    assert!(ran.err.contains("cairn.enroll-token") && !ran.err.contains("enr_x"), "{ran:?}");
    assert_eq!(ran.ok(), "enr_x\n");
    assert_eq!(
        hub.only("POST /api/v1/tokens").json(),
        json!({"description": "shelf 4", "expires_in_seconds": 259_200, "reusable": true, "auto_approve": true,
            "labels": {"zone": "a"}})
    );
    let named = user.run(&["token", "create", "-o", "name"]);
    assert_eq!((named.err.as_str(), named.out.as_str()), ("", "enr_x\n"));
    let all: Value = serde_json::from_str(&user.run(&["token", "create", "-o", "json"]).ok()).unwrap();
    assert_eq!(all["token"]["id"], "t-1");
    user.run(&["token", "create", "--expires", "24"]).fails(2, &["24h"]);
}

#[test]
fn tokens_are_listed_without_secrets() {
    let hub = Hub::new();
    hub.on("GET /api/v1/tokens", 200, json!([token()]));
    hub.on("DELETE /api/v1/tokens/t-1", 204, Value::Null);
    let user = User::of(&hub.url());
    assert_eq!(
        user.run(&["token", "ls"]).ok(),
        "ID    EXPIRES   USED   REUSABLE   AUTO-APPROVE   LABELS   DESCRIPTION\n\
         t-1   in 3d     2      yes        no             zone=a   shelf 4\n"
    );
    assert_eq!(user.run(&["token", "rm", "t-1"]).ok(), "t-1 is removed\n");
    // What is typed is one path segment, whatever is in it.
    user.run(&["token", "rm", "../nodes/x"]).fails(3, &["DELETE /api/v1/tokens/..%2Fnodes%2Fx"]);
}

#[test]
fn access_tokens_are_made_and_listed() {
    let hub = Hub::new();
    let token =
        json!({"id": "a-1", "name": "eva", "role": "operator", "created_at": ago(1), "expires_at": null});
    hub.on("POST /api/v1/access-tokens", 200, json!({"token": token, "secret": "acc_x"}));
    hub.on("GET /api/v1/access-tokens", 200, json!([token]));
    let user = User::of(&hub.url());
    assert_eq!(user.run(&["access-token", "create", "eva", "--role", "operator"]).ok(), "acc_x\n");
    assert_eq!(
        hub.only("POST /api/v1/access-tokens").json(),
        json!({"name": "eva", "role": "operator", "expires_in_seconds": 7_776_000})
    );
    assert_eq!(
        user.run(&["access-token", "ls"]).ok(),
        "ID    NAME   ROLE       EXPIRES\na-1   eva    operator   never\n"
    );
    user.run(&["access-token", "create", "eva", "--role", "root"]).fails(2, &["viewer, operator, admin"]);
}
