//! What the runtimes are told and what the supervisor is asked for, from a Compose file to `workload.json`.

use std::os::unix::fs::PermissionsExt;

use cairn_model::{
    compose::App,
    desired::DesiredApp,
    id::{AppName, Digest},
    resolve::{ImageConfig, resolve},
};

use super::*;
use crate::assemble::Blob;

fn replicas(compose: &str) -> BTreeMap<String, ResolvedReplica> {
    let pin = Digest::of(b"image");
    let app = App::parse("compose.yaml", &compose.replace("PIN", pin.as_str())).unwrap();
    let name: AppName = "shop".parse().unwrap();
    let services = app.services.keys().map(|name| (name.clone(), vec![0])).collect();
    let desired = DesiredApp { app: Digest::of(b"app"), services };
    let config = ImageConfig { cmd: vec!["/bin/server".into()], ..ImageConfig::default() };
    let resolved = resolve(&name, &app, &desired, &BTreeMap::from([(pin, config)])).unwrap();
    resolved.into_iter().map(|r| (r.id.unit_name(), r)).collect()
}

fn places(dir: &Path) -> Places {
    Places {
        state_dir: dir.join("state"),
        run_dir: dir.join("run"),
        runtimes: Runtimes {
            oci: "/x/cairn-oci".into(),
            wasm: "/x/cairn-wasm".into(),
            journalctl: "/x/journalctl".into(),
            prepare_memory_bytes: 1,
        },
        network_base: Ipv4Addr::new(10, 89, 0, 0),
        trash: Trash::start(&dir.join("state")).unwrap(),
    }
}

#[test]
fn a_container_with_a_volume_a_port_and_a_neighbour() {
    let dir = tempfile::tempdir().unwrap();
    let places = places(dir.path());
    let replicas = replicas(
        "services:\n  web:\n    image: a@PIN\n    ports: ['8080:80']\n    volumes: ['data:/data']\n    \
         stop_signal: SIGINT\n    deploy:\n      resources:\n        limits:\n          memory: 64m\n  db:\n    \
         image: a@PIN\nvolumes:\n  data: {}\n",
    );
    let wanted = replicas.keys().map(|unit| (unit.clone(), "shop".to_owned())).collect();
    let slots = network::allocate(&Slots::new(), &wanted, &std::collections::BTreeSet::new()).unwrap();
    let neighbours = neighbours(places.network_base, &slots, &replicas, "shop");
    let web = &replicas["cairn-shop-web-0"];
    let prepared = Prepared::Layers(vec!["/layers/top".into(), "/layers/bottom".into()]);
    let spec = make_ready(&places, web, &Content::Oci(vec![]), prepared, &slots, &neighbours).unwrap();

    assert_eq!(spec.name, "cairn-shop-web-0");
    assert_eq!(spec.slice, "cairn-shop.slice");
    assert_eq!(spec.memory_max, Some(64 << 20));
    assert_eq!(spec.kill_signal, 2);
    assert!(spec.delegate && spec.sandbox.is_none());
    assert_eq!(spec.tag.ports, [("tcp".to_owned(), 8080)]);
    let json = places.workload_json("cairn-shop-web-0");
    assert_eq!(spec.exec_start, ["/x/cairn-oci", "run", json.to_str().unwrap()]);
    assert_eq!(spec.exec_stop_post.as_ref().unwrap()[1], "cleanup");
    assert_eq!(fs::metadata(&json).unwrap().permissions().mode() & 0o777, 0o600);

    let workload: OciWorkload = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(workload.args, ["/bin/server"]);
    assert!(workload.extra_hosts.contains(&("db".into(), "10.89.0.2".into())), "{:?}", workload.extra_hosts);
    assert!(workload.writable_dir.unwrap().is_dir());
    let Mount::Bind { source, .. } = &workload.mounts[0] else { panic!("a bind mount") };
    assert_eq!(*source, places.state_dir.join("volumes/shop/data"));
    assert!(source.is_dir());
    let Network::Bridge { netavark } = &workload.network else { panic!("a bridge") };
    assert_eq!(netavark["port_mappings"][0]["host_port"], 8080);
    assert_eq!(netavark["networks"]["cairn0"]["static_ips"][0], "10.89.0.3");
}

#[test]
fn a_component_listens_on_the_node_itself() {
    let dir = tempfile::tempdir().unwrap();
    let places = places(dir.path());
    let replicas = replicas(
        "services:\n  api:\n    image: a@PIN\n    platform: wasi/wasm\n    ports: ['127.0.0.1:8081:8080']\n    \
         volumes: ['data:/data', 'seen:/seen:ro']\nvolumes:\n  data: {}\n  seen: {}\n",
    );
    let api = &replicas["cairn-shop-api-0"];
    let content = Content::Wasm(Blob { digest: Digest::of(b"m"), size: 1 });
    let module = Prepared::Module("/wasm/m.cwasm".into());
    let spec = make_ready(&places, api, &content, module, &Slots::new(), &[]).unwrap();
    assert!(!spec.delegate && spec.exec_stop_post.is_none());
    let sandbox = spec.sandbox.unwrap();
    assert_eq!(sandbox.writable, [places.state_dir.join("volumes/shop/data")]);
    for hidden in [places.state_dir.join("keys"), places.run_dir.join("cairnd.sock"), "/run/dbus".into()] {
        assert!(sandbox.hidden.contains(&hidden), "{}", hidden.display());
    }
    let json = fs::read(places.workload_json("cairn-shop-api-0")).unwrap();
    let workload: WasmWorkload = serde_json::from_slice(&json).unwrap();
    assert_eq!(workload.listen, ["127.0.0.1:8081"]);
    assert_eq!(workload.memory_bytes, DEFAULT_WASM_MEMORY);
    assert_eq!(
        spec.memory_max,
        Some(DEFAULT_WASM_MEMORY + WASM_OVERHEAD),
        "the process is limited as its guest is"
    );
}

#[test]
fn an_image_of_the_wrong_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let replicas = replicas("services:\n  web:\n    image: a@PIN\n");
    let content = Content::Wasm(Blob { digest: Digest::of(b"m"), size: 1 });
    let module = Prepared::Module("/m".into());
    let web = &replicas["cairn-shop-web-0"];
    let error = make_ready(&places(dir.path()), web, &content, module, &Slots::new(), &[]).unwrap_err();
    assert!(matches!(error, WorkloadError::Kind { .. }), "{error}");
}
