//! Assembly: what is missing is named, what is signed but senseless is refused.

use super::*;

type Documents = BTreeMap<Digest, Vec<u8>>;

fn put(documents: &mut Documents, bytes: impl Into<Vec<u8>>) -> Digest {
    let bytes = bytes.into();
    let digest = Digest::of(&bytes);
    documents.insert(digest.clone(), bytes);
    digest
}

fn manifest(media_type: &str, config: (&Digest, usize), layers: &[(&str, Digest, u64)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(media_type, digest, size)| serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}))
        .collect();
    serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "config": {"mediaType": media_type, "digest": config.0, "size": config.1},
        "layers": layers,
    }))
    .unwrap()
}

fn image(documents: &mut Documents, arch: &str) -> Digest {
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": {"Cmd": ["/bin/server"]},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"tar")]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let size = config.len();
    let config = put(documents, config);
    let layer = ("application/vnd.oci.image.layer.v1.tar+gzip", Digest::of(b"blob"), 9);
    put(documents, manifest("application/vnd.oci.image.config.v1+json", (&config, size), &[layer]))
}

fn app(documents: &mut Documents, compose: &str) -> Digest {
    let app = App::parse("compose.yaml", compose).unwrap().to_canonical_json();
    let size = app.len();
    let config = put(documents, app);
    put(documents, manifest(oci::ARTIFACT_TYPE_APP, (&config, size), &[]))
}

fn web(image: &Digest) -> String {
    format!("name: shop\nservices:\n  web:\n    image: demo/web@{image}\n")
}

fn desired(app: &Digest) -> DesiredState {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "node": "n-0123456789abcdef", "generation": 3,
        "apps": {"shop": {"app": app, "services": {"web": [0]}}},
        "policy": {"poll_seconds": 60, "report_seconds": 300},
    }))
    .unwrap()
}

fn whole(desired: &DesiredState, documents: &Documents) -> Assembled {
    match assemble(desired, documents, "amd64").unwrap() {
        Assembly::Whole(whole) => *whole,
        Assembly::Missing(missing) => panic!("missing {missing:?}"),
    }
}

fn refused(desired: &DesiredState, documents: &Documents) -> String {
    chain(&assemble(desired, documents, "amd64").unwrap_err())
}

#[test]
fn names_what_is_missing_round_by_round_until_the_whole_is_there() {
    let mut all = Documents::new();
    let image = image(&mut all, "amd64");
    let app = app(&mut all, &web(&image));
    let desired = desired(&app);
    let mut have = Documents::new();
    let mut rounds = 0;
    loop {
        match assemble(&desired, &have, "amd64").unwrap() {
            Assembly::Whole(whole) => {
                assert_eq!(whole.replicas.keys().collect::<Vec<_>>(), ["cairn-shop-web-0"]);
                assert_eq!(whole.replicas["cairn-shop-web-0"].args, ["/bin/server"]);
                break;
            }
            Assembly::Missing(missing) => {
                rounds += 1;
                assert!(!missing.is_empty() && rounds < 10);
                have.extend(missing.into_iter().map(|need| (need.digest.clone(), all[&need.digest].clone())));
            }
        }
    }
    assert_eq!(rounds, 4, "app manifest, Compose file, image manifest, image config");
    assert_eq!(whole(&desired, &have), whole(&desired, &all));
}

#[test]
fn manifests_are_told_from_what_hangs_below_them() {
    let mut all = Documents::new();
    let image = image(&mut all, "amd64");
    let app = app(&mut all, &web(&image));
    let needs = |have: &Documents| match assemble(&desired(&app), have, "amd64").unwrap() {
        Assembly::Missing(missing) => missing,
        Assembly::Whole(_) => panic!("nothing is missing"),
    };
    assert!(needs(&Documents::new())[0].is_manifest);
    let have: Documents = [(app.clone(), all[&app].clone())].into();
    assert!(!needs(&have)[0].is_manifest);
}

#[test]
fn an_index_leads_to_this_nodes_platform() {
    let mut documents = Documents::new();
    let (amd64, arm64) = (image(&mut documents, "amd64"), image(&mut documents, "arm64"));
    let entry = |digest: &Digest, arch: &str| {
        serde_json::json!({"mediaType": oci::MEDIA_TYPE_MANIFEST, "digest": digest, "size": 1,
            "platform": {"os": "linux", "architecture": arch}})
    };
    let index = serde_json::json!({"manifests": [entry(&arm64, "arm64"), entry(&amd64, "amd64")]});
    let index = put(&mut documents, serde_json::to_vec(&index).unwrap());
    let shop = app(&mut documents, &web(&index));
    assert!(whole(&desired(&shop), &documents).images.contains_key(&index));

    let only = serde_json::json!({"manifests": [entry(&arm64, "arm64")]});
    let only = put(&mut documents, serde_json::to_vec(&only).unwrap());
    let shop = app(&mut documents, &web(&only));
    assert!(refused(&desired(&shop), &documents).contains("nothing for linux/amd64"));
}

#[test]
fn refuses_what_was_signed_but_makes_no_sense() {
    let mut documents = Documents::new();
    let image_digest = image(&mut documents, "arm64");
    let shop = app(&mut documents, &web(&image_digest));
    assert!(refused(&desired(&shop), &documents).contains("is for arm64, this node is amd64"));

    let garbage = put(&mut documents, b"garbage".to_vec());
    assert!(refused(&desired(&garbage), &documents).contains("is no app manifest"));

    let no_app = image(&mut documents, "amd64");
    assert!(refused(&desired(&no_app), &documents).contains("artifact type"));

    let config = put(&mut documents, br#"{"services":{"web":{"imagee":"x"}}}"#.to_vec());
    let bad_compose = put(&mut documents, manifest(oci::ARTIFACT_TYPE_APP, (&config, 31), &[]));
    assert!(refused(&desired(&bad_compose), &documents).contains("Compose file of app shop is refused"));

    let huge = put(&mut documents, manifest(oci::ARTIFACT_TYPE_APP, (&Digest::of(b"?"), 5 << 20), &[]));
    assert!(refused(&desired(&huge), &documents).contains("more than"));
}

#[test]
fn rejects_another_apps_artifact() {
    let mut documents = Documents::new();
    let image = image(&mut documents, "amd64");
    let other = app(&mut documents, &web(&image).replace("name: shop", "name: other"));
    assert!(refused(&desired(&other), &documents).contains("its artifact says that it is other"));
}

#[test]
fn a_wasm_artifact_has_exactly_one_module() {
    let mut documents = Documents::new();
    let config = put(&mut documents, b"{}".to_vec());
    let module = (oci::MEDIA_TYPE_WASM_LAYER, Digest::of(b"module"), 6);
    let one = put(
        &mut documents,
        manifest(oci::MEDIA_TYPE_WASM_CONFIG, (&config, 2), std::slice::from_ref(&module)),
    );
    let compose = |digest: &Digest| web(digest) + "    platform: wasi/wasm\n";
    let shop = app(&mut documents, &compose(&one));
    let content = whole(&desired(&shop), &documents).images.remove(&one).unwrap();
    assert_eq!(content, Content::Wasm(Blob { digest: Digest::of(b"module"), size: 6 }));

    let two =
        put(&mut documents, manifest(oci::MEDIA_TYPE_WASM_CONFIG, (&config, 2), &[module.clone(), module]));
    let shop = app(&mut documents, &compose(&two));
    assert!(refused(&desired(&shop), &documents).contains("exactly one layer"));
}

/// A release, its manifest, and a desired state that wants it.
fn release(
    documents: &mut Documents,
    change: impl FnOnce(&mut serde_json::Value, &mut serde_json::Value),
) -> DesiredState {
    let payload = |what: &str| serde_json::json!({"digest": Digest::of(what.as_bytes()), "size": 4096});
    let mut release = serde_json::json!({
        "schema": 1, "version": "2", "compatible": "box", "arch": "amd64", "name": "Test", "built": 0,
        "data_layout": {"min": 1, "max": 1}, "root": payload("root"), "uki": payload("uki"),
        "verity": {"root_hash": "0".repeat(64), "salt": "00", "uuid": "0".repeat(32)},
        "chunks": {"index": payload("index"), "pack": payload("pack")},
    });
    let layer = |what: &str| serde_json::json!({"mediaType": "x", "digest": Digest::of(what.as_bytes()), "size": 4096});
    let mut manifest = serde_json::json!({
        "schemaVersion": 2, "artifactType": oci::ARTIFACT_TYPE_RELEASE, "layers": [layer("index"), layer("pack")],
        "config": {"mediaType": oci::MEDIA_TYPE_RELEASE_CONFIG},
    });
    change(&mut release, &mut manifest);
    let release = serde_json::to_vec(&release).unwrap();
    manifest["config"]["size"] = release.len().into();
    manifest["config"]["digest"] = serde_json::to_value(put(documents, release)).unwrap();
    let digest = put(documents, serde_json::to_vec(&manifest).unwrap());
    let mut desired = desired(&digest);
    desired.apps.clear();
    desired.os =
        Some(serde_json::from_value(serde_json::json!({"release": digest, "version": "2"})).unwrap());
    desired
}

#[test]
fn a_desired_os_is_read_with_its_release_and_its_blobs_are_not_asked_for() {
    let mut documents = Documents::new();
    let desired = release(&mut documents, |_, _| {});
    let os = whole(&desired, &documents).os.unwrap();
    assert_eq!(os.release.version.to_string(), "2");
    assert_eq!(Some(&os.wanted), desired.os.as_ref());
    let Ok(Assembly::Missing(missing)) = assemble(&desired, &Documents::new(), "amd64") else {
        panic!("whole")
    };
    assert!(missing.len() == 1 && missing[0].is_manifest, "{missing:?}");
}

#[test]
fn rejects_a_release_that_is_none() {
    type Change = fn(&mut serde_json::Value, &mut serde_json::Value);
    let cases: [(&str, Change); 5] = [
        ("artifact type", |_, manifest| manifest["artifactType"] = oci::ARTIFACT_TYPE_APP.into()),
        ("its config's", |_, manifest| manifest["config"]["mediaType"] = "text/plain".into()),
        ("has no layer", |_, manifest| manifest["layers"] = serde_json::json!([])),
        ("has no layer", |release, _| release["chunks"]["pack"]["size"] = 4097.into()),
        ("root_hash", |release, _| release["verity"]["root_hash"] = "XYZ".into()),
    ];
    for (part, change) in cases {
        let mut documents = Documents::new();
        let desired = release(&mut documents, change);
        let message = refused(&desired, &documents);
        assert!(message.contains(part) && message.contains("cairn-image release"), "{part}: {message}");
    }
}
