//! What is honoured, and what becomes of it.

use std::{collections::BTreeMap, time::Duration};

use super::{super::*, refused::service};
use crate::{
    facts::Facts,
    id::{Digest, NodeId},
};

#[track_caller]
fn parse(yaml: &str) -> App {
    match App::parse("compose.yaml", yaml) {
        Ok(app) => app,
        Err(problems) => panic!("{problems}\n{yaml}"),
    }
}

#[track_caller]
fn web(lines: &str) -> Service {
    parse(&service(lines)).services.into_values().next().unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_whole_file_is_read() {
    let app = parse(include_str!("../../../tests/golden/compose.full.yaml"));
    insta::assert_debug_snapshot!(app);
}

#[test]
fn command_lines_are_split_but_never_given_to_a_shell() {
    assert_eq!(
        web("command: sh -c 'echo \"a b\"; id'").command,
        Some(words(&["sh", "-c", "echo \"a b\"; id"]))
    );
    assert_eq!(web("command: [a, \"b c\"]").command, Some(words(&["a", "b c"])));
    assert_eq!(web("command: []").command, Some(vec![]));
    assert_eq!(web("entrypoint: \"\"").entrypoint, Some(vec![]));
    assert_eq!(web("").command, None);
    assert_eq!(web("command: echo $$HOME").command, Some(words(&["echo", "$HOME"])));
}

#[test]
fn environment_is_a_map_or_a_list() {
    let expected = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "x=y".to_owned())]);
    assert_eq!(web("environment: {A: 1, B: x=y}").environment, expected);
    assert_eq!(web("environment: [A=1, B=x=y]").environment, expected);
    assert_eq!(web("environment: {A: \"\"}").environment["A"], "");
    assert_eq!(web("environment: {A: true}").environment["A"], "true");
    assert_eq!(web("environment: {A: 1.50}").environment["A"], "1.50");
}

#[test]
fn ports_have_two_forms() {
    let check = |lines: &str, expected: (Option<&str>, u16, u16, Protocol)| {
        let (host_ip, published, target, protocol) = expected;
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        assert_eq!(web(lines).ports, [Port { host_ip, published, target, protocol }]);
    };
    check("ports: [\"8080:80\"]", (None, 8080, 80, Protocol::Tcp));
    check("ports: [8080:80]", (None, 8080, 80, Protocol::Tcp));
    check("ports: [\"127.0.0.1:53:53/udp\"]", (Some("127.0.0.1"), 53, 53, Protocol::Udp));
    check("ports: [\"[::1]:80:80\"]", (Some("::1"), 80, 80, Protocol::Tcp));
    check("ports: [{target: 80, published: \"8080\"}]", (None, 8080, 80, Protocol::Tcp));
    check(
        "ports: [{target: 80, published: 81, host_ip: 10.0.0.1, protocol: udp, mode: host}]",
        (Some("10.0.0.1"), 81, 80, Protocol::Udp),
    );
}

#[test]
fn health_checks_have_many_forms() {
    let shell = |command: &str| Probe::Exec { args: words(&["/bin/sh", "-c", command]) };
    let probe = |lines: &str| web(lines).healthcheck.map(|check| check.probe);
    assert_eq!(probe("healthcheck: {test: curl -f x || exit 1}"), Some(shell("curl -f x || exit 1")));
    assert_eq!(
        probe("healthcheck: {test: [CMD-SHELL, true]}".replace("true", "\"true\"").as_str()),
        Some(shell("true"))
    );
    assert_eq!(
        probe("healthcheck: {test: [CMD, /ok, -v]}"),
        Some(Probe::Exec { args: words(&["/ok", "-v"]) })
    );
    assert_eq!(probe("healthcheck: {test: [NONE]}"), None);
    assert_eq!(probe("healthcheck: {disable: true}"), None);
    assert_eq!(probe("x-cairn: {health: {tcp: {port: 5432}}}"), Some(Probe::Tcp { port: 5432 }));
    let check = web(
        "healthcheck: {interval: 1m30s, timeout: 1.5s, retries: 5, start_period: 500ms}\nx-cairn: {health: {http: {port: 80, path: /ok?x=1}}}",
    );
    assert_eq!(
        check.healthcheck,
        Some(HealthCheck {
            probe: Probe::Http { port: 80, path: "/ok?x=1".to_owned() },
            interval: Duration::from_secs(90),
            timeout: Duration::from_millis(1500),
            retries: 5,
            start_period: Duration::from_millis(500),
        })
    );
}

#[test]
fn restart_has_two_places() {
    assert_eq!(web("").restart, Restart::No);
    assert_eq!(web("restart: no").restart, Restart::No);
    assert_eq!(web("restart: \"no\"").restart, Restart::No);
    assert_eq!(web("restart: on-failure:3").restart, Restart::OnFailure { max_retries: Some(3) });
    assert_eq!(web("deploy: {restart_policy: {condition: any}}").restart, Restart::Always);
    assert_eq!(web("deploy: {restart_policy: {}}").restart, Restart::Always);
    assert_eq!(web("restart: always\ndeploy: {restart_policy: {condition: any}}").restart, Restart::Always);
}

#[test]
fn names_are_normalised() {
    assert_eq!(web("stop_signal: int").stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(web("stop_signal: 9").stop_signal.as_deref(), Some("SIGKILL"));
    assert_eq!(web("cap_add: [net_admin, CAP_CHOWN, NET_ADMIN]").cap_add, ["CAP_CHOWN", "CAP_NET_ADMIN"]);
    assert_eq!(web("platform: linux/arm64").platform, Platform::Oci { arch: Some(Arch::Arm64) });
    assert_eq!(web("platform: wasi/wasm").platform, Platform::Wasm);
    assert_eq!(
        web("deploy: {resources: {limits: {memory: 1.5gb, cpus: \"0.25\"}}}").deploy.limits,
        Limits { memory_bytes: Some(3 << 29), milli_cpus: Some(250), pids: None }
    );
    assert_eq!(
        web("tmpfs: /run:size=64m,mode=755").tmpfs,
        [Tmpfs { target: "/run".to_owned(), size_bytes: Some(64 << 20), mode: Some(0o755) }]
    );
    assert_eq!(web("ulimits: {nofile: -1}").ulimits["nofile"], Ulimit { soft: u64::MAX, hard: u64::MAX });
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let app = parse(
        "x-base: &base\n  restart: always\n  environment: &env {A: 1}\nservices:\n  a: {<<: *base, image: a}\n  b: {<<: [*base], image: b, restart: no, environment: {<<: *env, B: 2}}\n",
    );
    let service = |name: &str| &app.services[&name.parse().unwrap()];
    assert_eq!(service("a").restart, Restart::Always);
    assert_eq!(service("b").restart, Restart::No);
    assert_eq!(service("b").environment.len(), 2);
}

#[test]
fn image_names_are_relative_to_the_hub() {
    let hex = "a".repeat(64);
    for good in [
        "web",
        "demo/web",
        "demo/web:1.0-rc_1",
        &format!("demo/a__b/c---d@sha256:{hex}"),
        &format!("web:1@sha256:{hex}"),
    ] {
        let image: ImageRef = good.parse().unwrap();
        assert_eq!(image.to_string(), good);
    }
    for bad in [
        "",
        "Demo",
        "a//b",
        "/a",
        "a/",
        "a..b",
        "a___b",
        "a_",
        "web:",
        "web:-x",
        "web@sha256:0",
        "localhost/web",
        "r.example/web",
        "r:5000/web",
        "a b",
        "https://x/y",
    ] {
        assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
    }
    let mut service = web("");
    service.pin(Digest::of(b"x"));
    assert_eq!(service.image.to_string(), format!("demo/web@{}", Digest::of(b"x")));
}

#[test]
fn constraints_are_swarms() {
    let node: NodeId = "n-0123456789abcdef".parse().unwrap();
    let labels = BTreeMap::from([("zone".to_owned(), "berlin".to_owned())]);
    let facts = Facts { hostname: "edge-1".to_owned(), arch: "amd64".to_owned(), ..Facts::default() };
    for (text, expected) in [
        ("node.labels.zone==berlin", true),
        ("node.labels.zone == berlin", true),
        ("node.labels.zone!=berlin", false),
        ("node.labels.zone!=paris", true),
        ("node.labels.rack==1", false),
        ("node.labels.rack!=1", true),
        ("node.hostname==edge-1", true),
        ("node.id!=n-0123456789abcdef", false),
        ("node.platform.arch==x86_64", true),
        ("node.arch==arm64", false),
    ] {
        let constraint: Constraint = text.parse().unwrap();
        assert_eq!(constraint.matches(&node, &labels, &facts), expected, "{text}");
        assert_eq!(constraint.to_string().parse(), Ok(constraint));
    }
}
