//! `cairn os`: releases, what is set where, and how far it is.

use serde_json::{Value, json};

use crate::{
    hub::{Hub, digest, error, os_node, os_release},
    run::User,
};

/// Two nodes that run 1.1.0, one that is another machine and one that runs something newer.
fn fleet() -> (Hub, User) {
    let hub = Hub::new();
    let nodes = json!([
        os_node("n-aaaa000000000000", "aaa", json!({})),
        os_node("n-bbbb000000000000", "bbb", json!({"compatible": "other"})),
        os_node("n-cccc000000000000", "ccc", json!({"version": "1.3.0"})),
        {"node": "n-dddd000000000000", "hostname": "ddd", "online": false, "desired": null, "status": null},
    ]);
    hub.on("GET /api/v1/os/nodes", 200, nodes);
    hub.on(
        "GET /api/v1/os/releases",
        200,
        json!([os_release('c', "1.2.0", true), os_release('d', "1.1.0", true)]),
    );
    let user = User::of(&hub.url());
    (hub, user)
}

fn posts(hub: &Hub) -> usize {
    hub.asked().iter().filter(|asked| asked.what.starts_with("POST")).count()
}

#[test]
fn nothing_is_everything_unless_it_is_said() {
    let (hub, user) = fleet();
    for verb in [&["os", "set", "1.2.0"][..], &["os", "unset"], &["os", "apply"]] {
        user.run(verb).fails(2, &["--node <NODE>", "--selector <SELECTOR>", "--all"]);
        user.run(&[verb, &["--all", "--node", "aaa"]].concat()).fails(2, &["cannot be used with"]);
        for selector in ["", ",", "zone"] {
            user.run(&[verb, &["-l", selector]].concat()).fails(2, &["expected KEY=VALUE"]);
        }
        user.run(&[verb, &["--node", "aaa", "--node", "nobody"]].concat()).fails(3, &["no node nobody"]);
        user.run(&[verb, &["--node", ""]].concat()).fails(3, &["there is no node"]);
    }
    hub.on("GET /api/v1/os/nodes?selector=zone%3Dnowhere", 200, json!([]));
    user.run(&["os", "set", "1.2.0", "-l", "zone=nowhere"])
        .fails(3, &["no member of the fleet", "cairn node ls"]);
    assert_eq!(posts(&hub), 0);
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_before_anything_is_asked() {
    let (hub, user) = fleet();
    let set = ["os", "set", "1.2.0", "--node", "aaa"];
    for (more, says) in [
        (&["--reboot", "window"][..], "--reboot window needs a --window"),
        (&["--reboot", "manual", "--window", "02:00-04:00"], "--window is only for --reboot window"),
        (&["--window", "2-4"], "write it like"),
        (&["--window", "02:00-04:00", "--time-zone", "Europe/Berlln"], "no zone of that name"),
        (&["--time-zone", "Europe/Berlin"], "--window"),
        (&["--health-deadline", "2d"], "longer than a day"),
        (&["--health-deadline", "10"], "24h"),
        (&["--reboot", "now"], "at-once"),
    ] {
        user.run(&[&set, more].concat()).fails(2, &[says]);
    }
    let windows = ["--window", "02:00-04:00"].repeat(33);
    user.run(&[&set[..], &windows].concat()).fails(2, &["33 windows are more than 32"]);
    assert!(hub.asked().is_empty());
}

#[test]
fn a_release_that_is_not_there_or_not_the_only_one() {
    let (hub, user) = fleet();
    user.run(&["os", "set", "9.9", "--all"]).fails(3, &["there is no release 9.9", "cairn os ls"]);
    user.run(&["os", "show", "9.9"]).fails(3, &["there is no release 9.9", "cairn os ls"]);
    assert_eq!(posts(&hub), 0);
    let (hub, user) = twins();
    let first = format!("{} is 1.2.0 for cairn-generic-amd64", digest('c'));
    let second = format!("{} is 1.2.0 for other", digest('e'));
    user.run(&["os", "show", "1.2.0"])
        .fails(2, &[&first, &second, "1.2.0 can be 2 releases", "name its digest"]);
    assert_eq!(posts(&hub), 0);
}

/// One version for two kinds of machines.
fn twins() -> (Hub, User) {
    let hub = Hub::new();
    let mut twin = os_release('e', "1.2.0", true);
    twin["release"]["compatible"] = json!("other");
    hub.on("GET /api/v1/os/releases", 200, json!([os_release('c', "1.2.0", true), twin]));
    let nodes = json!([
        os_node("n-aaaa000000000000", "aaa", json!({})),
        os_node("n-bbbb000000000000", "bbb", json!({"compatible": "other"})),
    ]);
    hub.on("GET /api/v1/os/nodes", 200, nodes.clone());
    hub.on("POST /api/v1/os/set", 200, nodes);
    let user = User::of(&hub.url());
    (hub, user)
}

#[test]
fn one_version_for_two_kinds_of_machines_is_set_by_version() {
    let (hub, user) = twins();
    assert!(!user.run(&["os", "set", "1.2.0", "--all", "--dry-run"]).ok().contains("refuses"));
    user.run(&["os", "set", "1.2.0", "--all"]).ok();
    assert_eq!(hub.only("POST /api/v1/os/set").json()["release"], "1.2.0");
}

#[test]
fn what_the_hub_refuses_is_printed_a_line_each() {
    let (hub, user) = fleet();
    let mut refusal = error("os-refused", "1.2.0 can't be set on 2 of the nodes");
    refusal["error"]["problems"] = json!([
        "bbb: it is a other, the release is for cairn-generic-amd64; choose a release for it",
        "ccc: it runs 1.3.0; set it with --allow-downgrade\u{1b}[2J"
    ]);
    hub.on("POST /api/v1/os/set", 422, refusal);
    let ran = user.run(&["os", "set", "1.2.0", "--all"]);
    assert_eq!(
        ran.err,
        "bbb: it is a other, the release is for cairn-generic-amd64; choose a release for it\n\
         ccc: it runs 1.3.0; set it with --allow-downgrade [2J\n\
         error: 1.2.0 can't be set on 2 of the nodes\n"
    );
    assert_eq!(ran.out, "");
    ran.fails(4, &[]);
    // One problem alone is the message as well: it is said once.
    let mut refusal = error("conflict", "node aaa: no OS is set for it; set one");
    refusal["error"]["problems"] = json!(["node aaa: no OS is set for it; set one"]);
    hub.on("POST /api/v1/os/apply", 409, refusal);
    let ran = user.run(&["os", "apply", "--node", "aaa"]);
    assert_eq!(ran.err, "error: node aaa: no OS is set for it; set one\n");
    ran.fails(4, &[]);
}

#[test]
fn a_dry_run_says_what_each_node_would_do_and_changes_nothing() {
    let (hub, user) = fleet();
    let ran = user.run(&["os", "set", "1.2.0", "--all", "--dry-run"]);
    assert_eq!(
        ran.out,
        "\
NODE                 HOSTNAME   RUNS    ONLINE   OUTLOOK
n-aaaa000000000000   aaa        1.1.0   yes      fetches a patch of 7.0 MB instead of 250.2 MB
n-bbbb000000000000   bbb        1.1.0   yes      refuses: it is a other, the release is for cairn-generic-amd64; name a release that is for it (`cairn os ls`)
n-cccc000000000000   ccc        1.3.0   yes      refuses: it runs 1.3.0, which is newer; allow it with --allow-downgrade
n-dddd000000000000   ddd        -       no       refuses: it has not said which OS it runs; wait for its next report, or flash it with an appliance image
"
    );
    ran.fails(4, &["restart into it at once", "3 of 4 nodes would refuse it"]);
    let said =
        user.run(&["os", "set", "1.2.0", "--node", "ccc", "--allow-downgrade", "--dry-run", "-o", "json"]);
    let outlook: Value = serde_json::from_str(&said.ok()).unwrap();
    assert_eq!(
        outlook[0]["outlook"],
        json!({"type": "installs", "method": "chunks", "bytes": 250_200_000,
        "full": 250_200_000})
    );
    assert_eq!(posts(&hub), 0);
}

#[test]
fn what_is_set_is_told_to_the_hub_in_full() {
    let (hub, user) = fleet();
    let mut changed = os_node("n-aaaa000000000000", "aaa", json!({}));
    changed["desired"] = json!({"release": digest('c'), "version": "1.2.0"});
    hub.on("POST /api/v1/os/set", 200, json!([changed]));
    let selected = json!([os_node("n-eeee000000000000", "eee", json!({"version": "1.0.5"}))]);
    hub.on("GET /api/v1/os/nodes?selector=zone%3Da", 200, selected);
    let ran = user.run(&[
        "os",
        "set",
        "cccccccccccc",
        "--node",
        "aaa",
        "--node",
        "n-aaaa",
        "-l",
        "zone=a",
        "--allow-downgrade",
        "--retry",
        "--window",
        "Mon..Fri 22:00-04:00",
        "--window",
        "Sun 00:00-24:00",
        "--time-zone",
        "europe/berlin",
        "--health-deadline",
        "20m",
        "--no-hub-check",
    ]);
    assert_eq!(
        hub.only("POST /api/v1/os/set").json(),
        json!({"release": digest('c'), "nodes": ["n-aaaa000000000000"], "selector": "zone=a", "allow_downgrade": true,
            "retry": true, "health": {"deadline_seconds": 1200, "hub": false},
            "reboot": {"type": "window", "windows": ["Mon..Fri 22:00-04:00", "Sun 00:00-24:00"],
                "time_zone": "Europe/Berlin"}})
    );
    for said in [
        "n-eeee000000000000 (eee) is told that already: nothing has changed\n",
        "restart into it within Mon..Fri 22:00-04:00 or Sun 00:00-24:00 (Europe/Berlin)\n",
        "cairn os status --watch\n",
    ] {
        assert!(ran.err.contains(said), "no {said:?} in {ran:?}");
    }
    assert_eq!(
        ran.ok(),
        "NODE                 HOSTNAME   RUNS    ONLINE   OUTLOOK\n\
         n-aaaa000000000000   aaa        1.1.0   yes      fetches a patch of 7.0 MB instead of 250.2 MB\n"
    );
}

#[test]
fn all_is_said_as_a_selector_of_nothing_and_defaults_are_those_of_the_model() {
    let (hub, user) = fleet();
    hub.on("POST /api/v1/os/set", 200, json!([]));
    let ran = user.run(&["os", "set", "1.1.0", "--all"]);
    assert!(ran.err.contains("n-aaaa000000000000 (aaa) is told that already"), "{ran:?}");
    assert!(ran.err.contains("restart into it at once\n"), "{ran:?}");
    ran.ok();
    assert_eq!(
        hub.only("POST /api/v1/os/set").json(),
        json!({"release": digest('d'), "nodes": [], "selector": "", "allow_downgrade": false, "retry": false,
            "reboot": {"type": "at-once"}, "health": {"deadline_seconds": 600, "hub": true}})
    );
}

#[test]
fn unset_and_apply_name_the_nodes_that_they_changed() {
    let (hub, user) = fleet();
    let mut armed = os_node("n-aaaa000000000000", "aaa", json!({"state": "armed", "target": "1.2.0"}));
    hub.on("POST /api/v1/os/unset", 200, json!([armed]));
    hub.on("POST /api/v1/os/apply", 200, json!([armed]));
    armed["online"] = json!(false);
    hub.on("POST /api/v1/os/apply", 200, json!([armed]));
    hub.on("POST /api/v1/os/apply", 200, json!([]));
    assert_eq!(user.run(&["os", "unset", "--node", "aaa"]).ok(), "n-aaaa000000000000 (aaa) keeps 1.1.0\n");
    let question = json!({"nodes": ["n-aaaa000000000000"], "selector": null});
    assert_eq!(hub.only("POST /api/v1/os/unset").json(), question);
    let apply = ["os", "apply", "--node", "aaa"];
    assert_eq!(user.run(&apply).ok(), "n-aaaa000000000000 (aaa) restarts into 1.2.0\n");
    assert_eq!(user.run(&apply).ok(), "n-aaaa000000000000 (aaa) restarts into 1.2.0 once it is back\n");
    let none = user.run(&[&apply[..], &["-o", "table"]].concat());
    assert!(none.err.contains("no OS stands written there"), "{none:?}");
    assert_eq!(none.ok(), "");
    assert_eq!(user.run(&[&apply[..], &["-o", "name"]].concat()).ok(), "");
}

#[test]
fn releases_are_listed_and_shown() {
    let (_hub, user) = fleet();
    assert_eq!(
        user.run(&["os", "ls"]).ok(),
        "\
VERSION   COMPATIBLE            ARCH    SIZE       SIGNED   DESIRED   RUNNING   PUSHED
1.2.0     cairn-generic-amd64   amd64   250.2 MB   yes      2         1         3m ago
1.1.0     cairn-generic-amd64   amd64   250.2 MB   yes      2         1         3m ago
"
    );
    assert_eq!(user.run(&["os", "ls", "-o", "name"]).ok(), format!("{}\n{}\n", digest('c'), digest('d')));
    let shown = user.run(&["os", "show", "1.2.0"]).ok();
    for said in [
        "Version:          1.2.0\n",
        "Follows:          1.0.0 or newer\n",
        "Health command:   \"/usr/bin/check\" \"--all\"\n",
        "Signed:           yes\n",
        "1.1.0        7.0 MB   96.0 MB\n",
        "  Faster.\n  Safer [2J.\n",
    ] {
        assert!(shown.contains(said), "no {said:?} in {shown}");
    }
    let raw: Value = serde_json::from_str(&user.run(&["os", "show", "dddddd", "-o", "json"]).ok()).unwrap();
    assert_eq!(raw["release"]["version"], "1.1.0");
}

#[test]
fn status_shows_every_step_and_can_be_narrowed() {
    let (hub, user) = fleet();
    let mut fetching = os_node(
        "n-aaaa000000000000",
        "aaa",
        json!({"state": "fetching", "release": digest('c'), "target": "1.2.0", "progress": {"method": "patch",
            "written": 62, "total": 100, "fetched": 2, "to_fetch": 3, "full": 100, "rate": 1_200_000}}),
    );
    fetching["desired"] = json!({"release": digest('c'), "version": "1.2.0", "reboot": {"type": "manual"}});
    hub.on("GET /api/v1/os/nodes?selector=zone%3Da", 200, json!([fetching]));
    assert_eq!(
        user.run(&["os", "status", "-l", "zone=a", "-o", "wide"]).ok(),
        "\
NODE                 HOSTNAME   RUNS    SLOT   OTHER SLOT   DESIRED   STATE      PROGRESS                   METHOD   RESTARTS              DETAIL
n-aaaa000000000000   aaa        1.1.0   a      1.0.0        1.2.0     fetching   62 % 1.2 MB/s, 97 % saved   patch    on `cairn os apply`   -
"
        .replace("PROGRESS                   METHOD", "PROGRESS                    METHOD")
    );
    let mut held = os_node("n-aaaa000000000000", "aaa", json!({"detail": "said before"}));
    held["problems"] = json!(["the signature does not count any more; run `cairn artifact sign`"]);
    hub.on("GET /api/v1/os/nodes?selector=zone%3Db", 200, json!([held]));
    let said = user.run(&["os", "status", "-l", "zone=b"]).ok();
    assert!(
        said.ends_with("   the signature does not count any more; run `cairn artifact sign`\n"),
        "{said}"
    );
    let all = user.run(&["os", "status"]).ok();
    assert_eq!(all.lines().count(), 5);
    assert!(all.contains("not reported, offline"), "{all}");
    let one = user.run(&["os", "status", "--node", "ccc", "--node", "aaa", "-o", "name"]).ok();
    assert_eq!(one, "n-cccc000000000000\nn-aaaa000000000000\n");
    user.run(&["os", "status", "--node", "nobody"]).fails(3, &["no node nobody"]);
    hub.on("GET /api/v1/os/nodes?selector=zone%3Dx", 200, json!([]));
    let none = user.run(&["os", "status", "-l", "zone=x"]);
    assert!(none.err.contains("no node has these labels"), "{none:?}");
    none.ok();
}

#[test]
fn a_watched_status_ends_with_the_hub() {
    let hub = Hub::new();
    hub.on("GET /api/v1/os/nodes", 200, json!([os_node("n-aaaa000000000000", "aaa", json!({}))]));
    hub.on("GET /api/v1/os/nodes", 500, error("internal", "the store is full; make room"));
    let user = User::of(&hub.url());
    let ran = user.run(&["os", "status", "--watch", "-o", "name"]).fails(1, &["the store is full"]);
    assert_eq!(ran.out, "n-aaaa000000000000\n");
}
