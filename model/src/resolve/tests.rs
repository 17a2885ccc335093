//! Tests of resolving: the rules of Compose, what is refused, and what makes a replica another one.

use proptest::prelude::*;

use super::*;

const IMAGE: &str = r#"{
    "architecture": "amd64", "os": "linux",
    "config": {
        "Entrypoint": ["/entry"], "Cmd": ["serve"], "Env": ["PATH=/bin", "A=image", "broken"],
        "User": "1000", "WorkingDir": "/srv", "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}}
    },
    "rootfs": {"type": "layers", "diff_ids": []}
}"#;

fn name() -> AppName {
    "shop".parse().unwrap()
}

fn app(service: &str) -> App {
    let digest = Digest::of(b"image");
    App::parse(
        "f",
        &format!("services:\n  web:\n    image: demo/web@{digest}\n    {service}\nvolumes: {{data: {{}}}}\n"),
    )
    .unwrap()
}

fn desired(indices: &[u32]) -> DesiredApp {
    DesiredApp {
        app: Digest::of(b"app"),
        services: BTreeMap::from([("web".parse().unwrap(), indices.to_vec())]),
    }
}

fn images(config: &str) -> BTreeMap<Digest, ImageConfig> {
    BTreeMap::from([(Digest::of(b"image"), ImageConfig::parse(config.as_bytes()).unwrap())])
}

#[track_caller]
fn one(service: &str) -> ResolvedReplica {
    let replicas = resolve(&name(), &app(service), &desired(&[0]), &images(IMAGE)).unwrap();
    let [replica] = <[_; 1]>::try_from(replicas).unwrap();
    replica
}

#[test]
fn the_image_fills_in_what_the_file_leaves_out() {
    let replica = one("");
    assert_eq!(replica.args, ["/entry", "serve"]);
    assert_eq!(replica.env, ["A=image", "HOSTNAME=web", "PATH=/bin"]);
    assert_eq!(replica.user, "1000");
    assert_eq!(replica.cwd, "/srv");
    assert_eq!(replica.stop_signal, "SIGQUIT");
    assert_eq!(replica.stop_grace, Duration::from_secs(10));
    assert_eq!(replica.hostname, "web");
    assert_eq!(replica.restart, Restart::No);
    assert_eq!(replica.image, Digest::of(b"image"));
}

#[test]
fn the_file_overrides_the_image() {
    let replica = one(
        "environment: {A: file, B: b}\n    user: web\n    working_dir: /\n    stop_signal: INT\n    hostname: h",
    );
    assert_eq!(replica.env, ["A=file", "B=b", "HOSTNAME=h", "PATH=/bin"]);
    assert_eq!(
        (replica.user.as_str(), replica.cwd.as_str(), replica.stop_signal.as_str()),
        ("web", "/", "SIGINT")
    );
}

#[test]
fn command_and_entrypoint_follow_compose() {
    for (service, expected) in [
        ("command: [x]", &["/entry", "x"][..]),
        ("command: []", &["/entry"]),
        ("entrypoint: [/e]", &["/e"]),
        ("entrypoint: [/e]\n    command: [x]", &["/e", "x"]),
        ("entrypoint: []\n    command: [/x]", &["/x"]),
    ] {
        assert_eq!(one(service).args, expected, "{service}");
    }
    let result = resolve(&name(), &app("entrypoint: []"), &desired(&[0]), &images(IMAGE));
    assert_eq!(result, Err(ResolveError::NoCommand { service: "web".parse().unwrap() }));
    let result = resolve(&name(), &app(""), &desired(&[0]), &images("{}"));
    assert_eq!(result, Err(ResolveError::NoCommand { service: "web".parse().unwrap() }));
}

#[test]
fn limits_and_mounts_are_in_the_executors_units() {
    let replica = one(
        "volumes: [\"data:/b:ro\", {type: tmpfs, target: /a}]\n    ulimits: {nofile: 5}\n    deploy: {resources: {limits: {cpus: 0.5, memory: 64m, pids: 9}}}",
    );
    let limits =
        ResolvedLimits { memory_bytes: Some(64 << 20), cpu_quota_usec_per_sec: Some(500_000), pids: Some(9) };
    assert_eq!(replica.limits, limits);
    assert_eq!(replica.ulimits, [("RLIMIT_NOFILE".to_owned(), 5, 5)]);
    assert_eq!(
        replica.mounts,
        [
            ResolvedMount::Volume { volume: "data".to_owned(), target: "/b".to_owned(), read_only: true },
            ResolvedMount::Tmpfs { target: "/a".to_owned(), size_bytes: None, mode: None },
        ]
    );
}

#[test]
fn wasm_needs_no_image_config_and_no_network() {
    let resolve =
        |service: &str| resolve(&name(), &app(service), &desired(&[3]), &BTreeMap::new()).unwrap().remove(0);
    let replica = resolve("platform: wasi/wasm\n    command: [--hi]\n    environment: {A: 1}");
    assert_eq!(replica.kind, Kind::Wasm);
    assert_eq!(replica.args, ["web", "--hi"]);
    assert_eq!(replica.env, ["A=1"]);
    assert_eq!(replica.network, NetworkMode::None);
    assert_eq!(replica.id.index, 3);
    assert_eq!(resolve("platform: wasi/wasm\n    network_mode: host").network, NetworkMode::Host);
}

#[test]
fn what_does_not_fit_is_refused() {
    let service = || "web".parse().unwrap();
    let check = |app: &App, desired: &DesiredApp, images: &BTreeMap<_, _>, error: ResolveError| {
        assert_eq!(resolve(&name(), app, desired, images), Err(error));
    };
    let images = images(IMAGE);
    check(&app(""), &desired(&[1, 1]), &images, ResolveError::ReplicaTwice { service: service(), index: 1 });
    check(
        &app("ports: [\"80:80\"]"),
        &desired(&[0, 1]),
        &images,
        ResolveError::PortTwice { service: service(), port: 80 },
    );
    check(
        &app(""),
        &desired(&[0]),
        &BTreeMap::new(),
        ResolveError::NoImageConfig { service: service(), image: Digest::of(b"image") },
    );
    let mut unknown = desired(&[0]);
    unknown.services.insert("zzz".parse().unwrap(), vec![0]);
    let error = ResolveError::UnknownService { app: name(), service: "zzz".parse().unwrap() };
    check(&app(""), &unknown, &images, error);
    let tagged = App::parse("f", "services: {web: {image: \"demo/web:1\"}}").unwrap();
    let error = ResolveError::NotPinned { service: service(), image: "demo/web:1".to_owned() };
    check(&tagged, &desired(&[0]), &images, error);
    let mut other = app("");
    other.name = Some("other".parse().unwrap());
    let error = ResolveError::OtherApp { wanted: name(), actual: "other".parse().unwrap() };
    check(&other, &desired(&[0]), &images, error);
}

#[test]
fn image_configs_are_bounded_and_checked() {
    assert!(ImageConfig::parse(&vec![b' '; (4 << 20) + 1]).is_err());
    assert!(ImageConfig::parse(br#"{"config":{"Cmd":"sh"}}"#).is_err());
    assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#).is_err());
    assert!(ImageConfig::parse(br#"{"config":null,"rootfs":null,"x":1}"#).is_ok());
    assert!(ImageConfig::parse(br#"{"config":{"Cmd":null,"Env":null}}"#).is_ok());
}

#[test]
fn the_hash_changes_with_what_runs_and_with_nothing_else() {
    let base = one("").spec_hash();
    for (service, same) in [
        ("x-cairn: {health: {tcp: {port: 80}}}", true),
        ("labels: {a: b}", true),
        ("restart: \"no\"", true),
        ("environment: {A: image}", true),
        ("deploy: {replicas: 5, placement: {constraints: [node.labels.a==b]}}", true),
        ("restart: always", false),
        ("command: [x]", false),
        ("environment: {B: b}", false),
        ("user: web", false),
        ("read_only: true", false),
        ("ports: [\"80:80\"]", false),
        ("volumes: [\"data:/data\"]", false),
        ("tmpfs: /x", false),
        ("cap_drop: [ALL]", false),
        ("init: true", false),
        ("hostname: x", false),
        ("network_mode: host", false),
        ("stop_grace_period: 11s", false),
        ("extra_hosts: [\"a=192.0.2.1\"]", false),
        ("sysctls: {net.core.somaxconn: 9}", false),
        ("ulimits: {core: 0}", false),
        ("deploy: {resources: {limits: {memory: 64m}}}", false),
    ] {
        assert_eq!(one(service).spec_hash() == base, same, "{service}");
    }
}

/// What runs must not be replaced by an update of the daemon: this hash may never change.
#[test]
fn the_hash_is_the_same_in_every_version() {
    let hash = one("").spec_hash();
    assert_eq!(hash.as_str(), "sha256:deb43444db1a571c5a32c7628227c7355c529e13d475a66df9c20e04120166b1");
}

#[test]
fn unit_names_tell_replicas_apart() {
    let id = |app: &str, service: &str, index| ReplicaId {
        app: app.parse().unwrap(),
        service: service.parse().unwrap(),
        index,
    };
    assert_eq!(id("shop", "web", 0).unit_name(), "cairn-shop-web-0");
    assert_eq!(id("a-b", "c", 1).unit_name(), "cairn-a_b-c-1");
    assert_ne!(id("a-b", "c", 1).unit_name(), id("a", "b-c", 1).unit_name());
    assert_eq!(slice_name(&"a-b".parse().unwrap()), "cairn-a_b.slice");
    let longest = id(&"a".repeat(40), &"b".repeat(40), u32::MAX).unit_name();
    assert!(longest.len() <= 100, "{}", longest.len());
    assert_eq!(ReplicaId::parse_unit_name("cairn-a_b-c-1.service"), Some(id("a-b", "c", 1)));
    for foreign in [
        "",
        "cairn-a-b",
        "cairn-a-b-c",
        "cairn-a-b-1-2",
        "cairn-a-b-+1",
        "cairn-a-b-01",
        "cairn--b-1",
        "x-a-b-1",
        "cairn-a-b-1.slice",
        "cairn-A-b-1",
        "cairn-a-b-99999999999",
    ] {
        assert_eq!(ReplicaId::parse_unit_name(foreign), None, "{foreign}");
    }
}

proptest! {
    #[test]
    fn unit_names_round_trip(app in "[a-z]([a-z0-9-]{0,38}[a-z0-9])?", service in "[a-z]([a-z0-9-]{0,38}[a-z0-9])?", index: u32) {
        let id = ReplicaId { app: app.parse().unwrap(), service: service.parse().unwrap(), index };
        prop_assert_eq!(ReplicaId::parse_unit_name(&id.unit_name()), Some(id.clone()));
        prop_assert!(id.unit_name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')));
    }

    #[test]
    fn resolving_is_deterministic(indices in prop::collection::btree_set(0_u32..50, 0..6)) {
        let indices: Vec<u32> = indices.into_iter().collect();
        let mut shuffled = indices.clone();
        shuffled.reverse();
        let app = app("command: [x]");
        let resolve = |indices: &[u32]| resolve(&name(), &app, &desired(indices), &images(IMAGE)).unwrap();
        let (a, b) = (resolve(&indices), resolve(&shuffled));
        prop_assert_eq!(a.iter().map(ResolvedReplica::spec_hash).collect::<Vec<_>>(), b.iter().map(ResolvedReplica::spec_hash).collect::<Vec<_>>());
        prop_assert_eq!(a.iter().map(|replica| replica.id.index).collect::<Vec<_>>(), indices);
        prop_assert_eq!(a, b);
    }

    #[test]
    fn the_node_resolves_what_the_hub_resolves(value in "\\PC{0,20}", grace in 0_u64..10_000_000) {
        let mut app = app("environment: {V: x}");
        let service = app.services.values_mut().next().unwrap();
        service.environment.insert("V".to_owned(), value);
        service.stop_grace_period = Some(Duration::from_micros(grace));
        let on_the_node = App::from_canonical_json(&app.to_canonical_json()).unwrap();
        let resolve = |app: &App| resolve(&name(), app, &desired(&[0]), &images(IMAGE)).unwrap();
        prop_assert_eq!(resolve(&app), resolve(&on_the_node));
    }
}
