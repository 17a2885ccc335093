//! What is refused, with place, cause and cure.

use super::super::App;

/// Wraps the lines of one service `web` with an image.
pub(super) fn service(lines: &str) -> String {
    let mut file = String::from("services:\n  web:\n    image: demo/web:1\n");
    for line in lines.lines() {
        file.push_str(&format!("    {line}\n"));
    }
    file
}

fn lines(yaml: &str) -> Vec<String> {
    match App::parse("compose.yaml", yaml) {
        Ok(app) => panic!("accepted: {app:?}"),
        Err(problems) => problems.lines().collect(),
    }
}

/// Each of `expected` is, in order, the whole line of one problem.
#[track_caller]
fn check(yaml: &str, expected: &[&str]) {
    assert_eq!(lines(yaml), expected, "\n{yaml}");
}

/// The one problem of a service of these lines has this place and contains each of these.
#[track_caller]
fn check_service(yaml: &str, place: &str, parts: &[&str]) {
    let lines = lines(&service(yaml));
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with(&format!("compose.yaml:{place}: ")), "{}", lines[0]);
    for part in parts {
        assert!(lines[0].contains(part), "{:?} is not in {}", part, lines[0]);
    }
}

#[test]
fn every_problem_of_a_file_is_told_at_once_by_line() {
    check(
        "nam: x\nservices:\n  web:\n    imag: demo/web\n    ports:\n      - 80\n  db:\n    image: docker.io/library/postgres\n    privileged: true\nnetworks: {}\n",
        &[
            "compose.yaml:1:1: nam: `nam` is not a key of a Compose file; did you mean `name`?",
            "compose.yaml:3:3: services.web: the service has no `image`; push an image to the hub, and name it in `image`",
            "compose.yaml:4:5: services.web.imag: `imag` is not a key of a service; did you mean `image`?",
            "compose.yaml:6:9: services.web.ports[0]: \"80\" does not say which port of the node; write \"<port of the node>:<port inside>\", with \"/udp\" if it is UDP",
            "compose.yaml:8:12: services.db.image: \"docker.io\" is on another registry; copy the image to the hub (`skopeo copy`), and name it without `docker.io/`: nodes fetch from their hub only",
            "compose.yaml:9:5: services.db.privileged: `privileged` is not supported yet; remove it, and add what is needed by `cap_add`",
            "compose.yaml:10:1: networks: `networks` is not supported yet; remove it: the services of an app share a network of their own and reach each other by name",
        ],
    );
}

#[test]
fn unknown_keys_are_refused_in_every_map() {
    for (yaml, place, parts) in [
        ("foo: 1", "4:5", &["`foo` is not a key of a service", "`x-foo`"][..]),
        ("build: .", "4:5", &["`build` is not supported yet", "push it to the hub"]),
        ("x-cairn: {helth: {}}", "4:15", &["did you mean `health`?"]),
        ("x-cairn: {health: {http: {port: 1, pat: /}}}", "4:40", &["did you mean `path`?"]),
        ("x-cairn: {health: {tcp: {port: 1, path: /}}}", "4:39", &["`path` is not a key"]),
        ("deploy:\n  replica: 2", "5:7", &["services.web.deploy.replica:", "did you mean `replicas`?"]),
        ("deploy:\n  update_config: {}", "5:7", &["`update_config` is not supported yet"]),
        ("deploy:\n  resources:\n    limit: {}", "6:9", &["did you mean `limits`?"]),
        ("deploy:\n  resources:\n    limits:\n      mem: 1g", "7:11", &["`mem` is not a key of `limits`"]),
        (
            "deploy:\n  resources:\n    reservations:\n      pids: 1",
            "7:11",
            &["`pids` is not a key of `reservations`"],
        ),
        ("deploy: {placement: {preferences: []}}", "4:26", &["`preferences` is not supported yet"]),
        ("deploy: {restart_policy: {delay: 5s}}", "4:31", &["`delay` is not supported yet"]),
        ("healthcheck:\n  test: [CMD, /ok]\n  intervall: 5s", "6:7", &["did you mean `interval`?"]),
        ("ports:\n  - {target: 80, published: 80, protocoll: tcp}", "5:37", &["did you mean `protocol`?"]),
        ("volumes:\n  - {type: tmpfs, target: /x, bind: {}}", "5:35", &["`bind` is not supported yet"]),
        (
            "volumes:\n  - {type: tmpfs, target: /x, tmpfs: {uid: 1}}",
            "5:43",
            &["`uid` is not a key of a mount's `tmpfs`"],
        ),
        ("ulimits: {nofile: {soft: 1, hard: 2, max: 3}}", "4:42", &["`max` is not a key of a ulimit"]),
        (
            "depends_on: {web: {condition: service_started, x: 1}}",
            "4:52",
            &["`x` is not a key of a dependency"],
        ),
    ] {
        if yaml.starts_with("depends_on") {
            // Also depends on itself.
            assert!(lines(&service(yaml)).iter().any(|line| line.contains(parts[0])), "{yaml}");
        } else {
            check_service(yaml, place, parts);
        }
    }
    check(
        "services: {web: {image: a}}\nvolumes:\n  data:\n    driver: nfs\n",
        &[
            "compose.yaml:4:5: volumes.data.driver: `driver` is not supported yet; remove it: a volume is a folder on the node",
        ],
    );
    check(
        "services: {web: {image: a}}\nx-cairn: {rollout: {}}\n",
        &["compose.yaml:2:11: x-cairn.rollout: `rollout` is not supported yet; remove it"],
    );
}

#[test]
fn wrong_types_are_refused() {
    for (yaml, place, parts) in [
        ("command: {a: b}", "4:14", &["this is a map, not a text"][..]),
        ("command: [sleep, 5]", "4:22", &["this is a number, not a text", "put it in quotes: \"5\""]),
        ("environment: 5", "4:18", &["this is a number, not a map or a list"]),
        ("environment: {A: [b]}", "4:22", &["this is a list, not a text"]),
        ("user: 1000", "4:11", &["put it in quotes: \"1000\""]),
        ("init: 1", "4:11", &["this is a number, not true or false"]),
        ("ports: 80:80", "4:12", &["this is a text, not a list"]),
        ("ports:", "4:10", &["this is empty, not a list", "remove the key"]),
        ("deploy: []", "4:13", &["this is a list, not a map"]),
        ("deploy: {replicas: many}", "4:24", &["\"many\" is no whole number from 0 to 10000"]),
        ("deploy: {replicas: -1}", "4:24", &["\"-1\" is no whole number"]),
        ("deploy: {replicas: 1.5}", "4:24", &["\"1.5\" is no whole number"]),
        ("labels: [[a]]", "4:14", &["this is a list, not a text"]),
    ] {
        check_service(yaml, place, parts);
    }
    check("[]", &["compose.yaml:1:1: this is a list, not a map; write a map"]);
    check("services: 5\n", &["compose.yaml:1:11: services: this is a number, not a map; write a map"]);
    check(
        "services: {}\n",
        &["compose.yaml:1:11: services: there is no service here; write at least one, with an image"],
    );
    check(
        "name: web\n",
        &["compose.yaml:1:1: the file has no `services`; write at least one service with an image"],
    );
    check("", &["compose.yaml:1:1: the file is empty; write `services:` with at least one service"]);
}

/// Each of these services has one problem, which contains these parts.
fn check_table(table: &[(&str, &[&str])]) {
    for (yaml, parts) in table {
        let yaml = service(yaml);
        let lines = lines(&yaml);
        assert_eq!(lines.len(), 1, "{yaml}{lines:#?}");
        for part in *parts {
            assert!(lines[0].contains(part), "{part:?} is not in {}", lines[0]);
        }
    }
}

#[test]
fn bad_values_are_refused() {
    check_table(&[
        ("platform: linux/386", &["\"linux/386\" is not supported here", "wasi/wasm"]),
        ("environment: [A]", &["\"A\" has no value"]),
        ("environment: {A: }", &["\"A\" has no value"]),
        ("environment: [A=1, A=2]", &["\"A\" is here twice"]),
        ("environment: {A: $HOME}", &["variables ($NAME, ${NAME}) are not supported", "`$$`"]),
        ("command: \"sh -c 'x\"", &["cannot be split into words"]),
        ("user: \"a b\"", &["is no user"]),
        ("working_dir: tmp", &["is no absolute path"]),
        ("working_dir: /a/../b", &["is no absolute path"]),
        ("ports: [\"0:80\"]", &["has no port from 1 to 65535"]),
        ("ports: [\"70000:80\"]", &["has no port from 1 to 65535"]),
        ("ports: [\"+80:80\"]", &["has no port from 1 to 65535"]),
        ("ports: [\"80-81:80-81\"]", &["ranges of ports are not supported yet"]),
        ("ports: [\"80:80/sctp\"]", &["use tcp or udp"]),
        ("ports: [\"localhost:80:80\"]", &["\"localhost\" is no IP address"]),
        ("ports: [{target: 80}]", &["a port needs `target` and `published`"]),
        ("ports: [{target: 80, published: 1-2}]", &["ranges of ports are not supported yet"]),
        ("ports: [{target: 80, published: 80, mode: ingress}]", &["\"ingress\" is not supported here"]),
    ]);
}

#[test]
fn bad_mounts_are_refused() {
    check_table(&[
        ("volumes: [\"/etc:/etc\"]", &["bind mounts are not supported yet", "named volume"]),
        ("volumes: [\"./x:/etc\"]", &["bind mounts are not supported yet"]),
        ("volumes: [/data]", &["volumes without a name are not supported yet"]),
        ("volumes: [\"data:/data\"]", &["there is no volume \"data\"", "`volumes: {data: {}}`"]),
        ("volumes: [\"data:/data:z\"]", &["the mount option \"z\" is not supported yet"]),
        (
            "volumes: [{type: bind, source: /a, target: /b}]",
            &["mounts of type \"bind\" are not supported yet"],
        ),
        ("volumes: [{type: volume, target: /b}]", &["this volume has no name"]),
        ("volumes: [{target: /b}]", &["a mount needs a `type`"]),
        ("volumes: [{type: tmpfs, target: /x, tmpfs: {mode: 1777}}]", &["put it in quotes: \"1777\""]),
        ("tmpfs: /run:mode=888", &["is no set of permission bits"]),
        ("tmpfs: /run:noexec", &["the mount option \"noexec\" is not supported yet"]),
        ("tmpfs: [/run, /run/]", &["\"/run\" is mounted twice"]),
        ("tmpfs: /", &["this would hide the whole image"]),
    ]);
}

#[test]
fn bad_health_checks_are_refused() {
    check_table(&[
        ("healthcheck: {interval: 5s}", &["the health check has no `test`"]),
        ("healthcheck: {test: [curl]}", &["this test cannot be run"]),
        ("healthcheck: {test: []}", &["this test cannot be run"]),
        ("healthcheck: {test: [CMD, a], interval: 5}", &["\"5\" is no duration"]),
        ("healthcheck: {test: [CMD, a], interval: 1ms}", &["this is shorter than 100ms"]),
        ("healthcheck: {test: [CMD, a], retries: 0}", &["is no whole number from 1 to 1000"]),
        ("healthcheck: {test: [CMD, a]}\nx-cairn: {health: {tcp: {port: 1}}}", &["keep one of them"]),
        ("x-cairn: {health: {}}", &["needs exactly one of `http` and `tcp`"]),
        ("x-cairn: {health: {tcp: {port: 1}, http: {port: 1}}}", &["needs exactly one of"]),
        ("x-cairn: {health: {http: {path: /}}}", &["the probe has no `port`"]),
        ("x-cairn: {health: {http: {port: 1, path: \"/ HTTP/1.0\"}}}", &["is no path of a URL"]),
    ]);
}

#[test]
fn bad_policies_and_limits_are_refused() {
    check_table(&[
        ("restart: sometimes", &["\"sometimes\" is no restart policy"]),
        (
            "restart: always\ndeploy: {restart_policy: {condition: none}}",
            &["the service's `restart` says otherwise"],
        ),
        ("stop_signal: SIGFOO", &["\"SIGFOO\" is no signal"]),
        ("stop_grace_period: forever", &["\"forever\" is no duration"]),
        ("stop_grace_period: 99999999999999999999h", &["is no duration"]),
        ("cap_add: [FOO]", &["\"FOO\" is no capability"]),
        ("ulimits: {files: 1}", &["\"files\" is no ulimit"]),
        ("ulimits: {nofile: {soft: 5, hard: 2}}", &["the soft limit is above the hard one"]),
        ("ulimits: {nofile: {soft: 5}}", &["a ulimit needs `soft` and `hard`"]),
        ("sysctls: {vm.swappiness: 1}", &["is no kernel parameter of a container's own"]),
        ("sysctls: {net.ipv4/../../../x: 1}", &["is no kernel parameter of a container's own"]),
        ("hostname: a_b!", &["is no host name"]),
        ("extra_hosts: [\"a=host-gateway\"]", &["`host-gateway` is not supported yet"]),
        ("extra_hosts: [\"a=b\"]", &["\"b\" is no IP address"]),
        ("network_mode: service:db", &["\"service:db\" is not supported here"]),
        ("network_mode: host\nports: [\"80:80\"]", &["`network_mode: bridge` only"]),
        ("deploy: {mode: global, replicas: 2}", &["one replica on every node"]),
        ("deploy: {resources: {limits: {cpus: 0}}}", &["\"0\" is no number of CPUs"]),
        ("deploy: {resources: {limits: {memory: 64}}}", &["this is less than 1 MiB"]),
        ("deploy: {resources: {limits: {memory: 64q}}}", &["\"64q\" is no size in bytes"]),
        ("deploy: {resources: {limits: {memory: 1g}, reservations: {memory: 2g}}}", &["more is reserved"]),
        ("deploy: {placement: {constraints: [zone=berlin]}}", &["has neither == nor !="]),
        ("deploy: {placement: {constraints: [node.role==manager]}}", &["looks at \"node.role\""]),
    ]);
}

#[test]
fn services_that_clash_are_refused() {
    let two = |first: &str, second: &str| {
        format!("services:\n  a:\n    image: a\n    {first}\n  b:\n    image: b\n    {second}\n")
    };
    check(
        &two("ports: [\"80:1\"]", "ports: [\"127.0.0.1:80:2\"]"),
        &[
            "compose.yaml:7:13: services.b.ports[0]: port 80/tcp of the node is published already by services.a.ports[0] (line 4); publish another port",
        ],
    );
    assert!(App::parse("f", &two("ports: [\"80:1\"]", "ports: [\"80:2/udp\"]")).is_ok());
    assert!(App::parse("f", &two("ports: [\"127.0.0.1:80:1\"]", "ports: [\"127.0.0.2:80:2\"]")).is_ok());
    check(
        &two("depends_on: [b]", "depends_on: [a]"),
        &[
            "compose.yaml:4:18: services.a.depends_on[0]: these services wait for each other: a → b → a; remove one of the dependencies",
        ],
    );
    check(
        &two("depends_on: [a]", ""),
        &[
            "compose.yaml:4:18: services.a.depends_on[0]: these services wait for each other: a → a; remove one of the dependencies",
        ],
    );
    check(
        &two("depends_on: [bb]", ""),
        &[
            "compose.yaml:4:18: services.a.depends_on[0]: there is no service \"bb\" in this file; did you mean `b`?",
        ],
    );
    check(
        &two("depends_on: {b: {condition: service_healthy}}", ""),
        &[
            "compose.yaml:4:18: services.a.depends_on.b: b has no health check, so it never gets healthy; give it one, or use `condition: service_started`",
        ],
    );
}

#[test]
fn what_is_refused_is_there_for_others_all_the_same() {
    let yaml = "services:\n  a: {image: a, depends_on: [b, c], volumes: [\"d:/d\"]}\n  b: {image: b, foo: 1}\nvolumes: {d: {driver: x}}\n";
    let lines = lines(yaml);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[0].contains("there is no service \"c\""), "{lines:#?}");
}

#[test]
fn a_long_cycle_is_named_once() {
    let mut yaml = String::from("services:\n");
    for (name, next) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")] {
        yaml.push_str(&format!("  {name}: {{image: x, depends_on: [{next}]}}\n"));
    }
    let lines = lines(&yaml);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("b → c → d → b"), "{}", lines[0]);
}

#[test]
fn wasm_services_refuse_what_makes_no_sense() {
    for key in [
        "cap_add: [ALL]",
        "user: root",
        "init: true",
        "entrypoint: x",
        "tmpfs: /x",
        "hostname: a",
        "working_dir: /x",
    ] {
        let line = &lines(&service(&format!("platform: wasi/wasm\n{key}")))[0];
        assert!(
            line.contains("5:5: ") && line.contains("makes no sense with `platform: wasi/wasm`; "),
            "{line}"
        );
    }
    for nested in [
        "healthcheck: {test: [CMD, a]}",
        "network_mode: bridge",
        "deploy: {resources: {limits: {pids: 5}}}",
        "volumes: [{type: tmpfs, target: /x}]",
    ] {
        let line = &lines(&service(&format!("platform: wasi/wasm\n{nested}")))[0];
        assert!(line.contains("makes no sense with `platform: wasi/wasm`; "), "{line}");
    }
}

#[test]
fn what_yaml_could_hide_is_refused() {
    check(
        "services:\n  web:\n    image: a\n    image: b\n",
        &["compose.yaml:4:5: image: this key is here twice, first at line 3; keep one of them"],
    );
    check(
        "services: {web: {image: !!str a}}\n",
        &["compose.yaml:1:25: the YAML tag \"tag:yaml.org,2002:str\" is not supported; remove it"],
    );
    check(
        "services: {web: {image: a}}\n---\nservices: {evil: {image: b}}\n",
        &[
            "compose.yaml:2:1: a second YAML document starts here; keep one document, or deploy each from a file of its own",
        ],
    );
    assert!(lines("services: {web: {image: \"a\\0b\"}}\n")[0].contains("NUL"));
    assert!(lines("services:\n  web: {image: [}\n")[0].contains("this is no YAML"));
    assert!(lines("services:\n  ? [a]\n  : {image: a}\n").concat().contains("a key of a map must be a text"));
}

#[test]
fn what_would_cost_without_bound_is_refused() {
    let deep = |open: &str, count: usize| format!("x-a: {}", open.repeat(count));
    for bomb in
        [deep("[", 100), deep("{a: ", 100), deep("- ", 100_000), format!("x-a:\n{}", "? ".repeat(100_000))]
    {
        assert!(!lines(&bomb).is_empty());
    }
    assert!(lines(&deep("[", 100))[0].contains("nested more than 32 deep"));
    let mut laughs = String::from("x-0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("x-{level}: &a{level} [{aliases}]\n"));
    }
    assert!(lines(&laughs)[0].contains("aliases"), "{}", lines(&laughs)[0]);
    assert!(lines("x-a: &a [*a]\n")[0].contains("contains itself"));
    assert!(lines(&" ".repeat((1 << 20) + 1))[0].contains("larger than 1 MiB"));
    let many = (0..101).map(|n| format!("  s{n}: {{image: a}}\n")).collect::<String>();
    assert!(lines(&format!("services:\n{many}"))[0].contains("more than 100 services"));
    let garbage = (0..5000).map(|n| format!("k{n}: 1\n")).collect::<String>();
    assert_eq!(lines(&garbage).len(), 100);
}

#[test]
fn a_file_that_only_fits_before_it_is_written_out_is_refused() {
    let value = "$$".repeat(300_000);
    let yaml = format!("x-v: &v \"{value}\"\nservices: {{web: {{image: a, labels: {{a: *v, b: *v}}}}}}\n");
    assert!(lines(&yaml)[0].contains("1 MiB"), "{}", lines(&yaml)[0]);
}

#[test]
fn what_a_terminal_would_act_on_is_escaped() {
    // Found by fuzzing.
    let yaml = "services: {web: {image: a, \"\\e[2Jport\": 1, \"a\\u202eb\": 1, \"x-\\n\": 1, größe: 1}}\n";
    let told = lines(yaml).join("\n");
    for shown in ["`\\u{1b}[2Jport`", "`a\\u{202e}b`", "`größe`"] {
        assert!(told.contains(shown), "{told}");
    }
    assert!(!told.contains(['\u{1b}', '\u{202e}']), "{told}");
}
