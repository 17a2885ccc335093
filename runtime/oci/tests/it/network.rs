//! The dealings with netavark, by a stand-in that records what it is asked; the real one is in the VM scenarios.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use cairn_model::workload::Network;
use serde_json::json;

use crate::support::{Finished, Replica};

const ANSWER: &str = r#"{"app":{"dns_search_domains":["dns.cairn"],"dns_server_ips":["10.88.7.1"],"interfaces":
{"eth0":{"mac_address":"x","subnets":[{"gateway":"10.88.7.1","ipnet":"10.88.7.2/24"}]}}}}"#;

/// A replica on a bridge, and the stand-in netavark: it fails at `setup` where `fails` is set.
fn replica(script: &str, fails: bool) -> (Replica, PathBuf) {
    let mut replica = Replica::new(script);
    replica.workload.network =
        Network::Bridge { netavark: json!({"container_id": "abc", "networks": {"app": {}}}) };
    replica.workload.extra_hosts = vec![("node".to_owned(), "host-gateway".to_owned())];
    let tool = replica.path("netavark");
    let log = replica.path("log");
    let answer = if fails {
        r#"echo '{"error":"no such bridge"}'; exit 1"#.to_owned()
    } else {
        format!("cat <<'E'\n{ANSWER}\nE")
    };
    // $4 is the verb: --config DIR [--aardvark-binary PATH] VERB NAMESPACE
    let text = format!(
        "#!/bin/sh\nfor a; do last=$a; done\necho \"$* $(cat) $(test -s \"$last\" || stat -f -c %T \"$last\")\" >> {}\n\
         case \"$*\" in *' setup '*) {answer}\n;; esac\n",
        log.display()
    );
    fs::write(&tool, text).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    (replica, log)
}

fn run(replica: &Replica, verb: &str) -> Finished {
    let mut command = replica.command(verb);
    command
        .arg("--netavark")
        .arg(replica.path("netavark"))
        .arg("--netavark-state")
        .arg(replica.path("state"));
    Finished::of(command.output().unwrap())
}

#[test]
fn netavark_gets_the_same_input_for_setup_and_teardown() {
    let (replica, log) = replica("cat /etc/hosts /etc/resolv.conf", false);
    let output = run(&replica, "run").ok();
    for line in ["10.88.7.2\tbox", "10.88.7.1\tnode", "search dns.cairn", "nameserver 10.88.7.1"] {
        assert!(output.lines().any(|l| l == line), "{line:?} is missing in {output}");
    }
    let log = fs::read_to_string(log).unwrap();
    let calls: Vec<_> = log.lines().collect();
    assert_eq!(calls.len(), 2, "{log}");
    for (call, verb) in calls.iter().zip(["setup", "teardown"]) {
        assert!(call.contains(&format!(" {verb} ")) && call.contains(r#"{"container_id":"abc""#), "{call}");
        assert!(call.ends_with("nsfs"), "the namespace was not there: {call}");
    }
    replica.assert_nothing_left();
}

#[test]
fn failed_setup_says_netavarks_reason_and_leaves_nothing() {
    let (replica, log) = replica("true", true);
    let error = run(&replica, "run").refused();
    assert!(error.contains("netavark setup failed: no such bridge"), "{error}");
    assert!(
        fs::read_to_string(log).unwrap().contains(" teardown "),
        "what setup half made was not torn down"
    );
    replica.assert_nothing_left();
}
