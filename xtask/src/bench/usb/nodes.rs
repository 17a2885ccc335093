//! Nodes that exist only as enrolment requests: real keys and signatures, made by openssl, so that no code of ours checks
//! itself.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cairn_tests_vm::{Hub, site, vm::run};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Bytes of an Ed25519 key, which end its DER form.
const KEY_BYTES: usize = 32;

/// Makes `count` nodes that are members of the hub's fleet: their requests come by stick.
pub(super) fn enrol(dir: &Path, hub: &Hub, count: usize) -> Result<()> {
    let folder = dir.join("requests");
    site::export(hub, &folder, &[])?;
    let mut ids = Vec::new();
    for number in 0..count {
        let (id, envelope) = request(dir, number)?;
        let outbox = folder.join("outbox").join(&id);
        fs::create_dir_all(&outbox)?;
        fs::write(outbox.join("enroll.jws"), envelope)?;
        ids.push(id);
    }
    let imported = site::import(hub, &folder)?;
    let enrolled = imported["enrolled"].as_array().map_or(0, Vec::len);
    ensure!(enrolled == count, "{enrolled} of {count} requests were taken: {imported}");
    for id in ids {
        hub.cairn(&["node", "approve", &id])?;
    }
    Ok(())
}

/// A node's id and its signed request.
fn request(dir: &Path, number: usize) -> Result<(String, String)> {
    let (key, text) = (dir.join("node.der"), dir.join("node.request"));
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(args);
        command
    };
    run(openssl(&["genpkey", "-algorithm", "ed25519", "-outform", "DER", "-out"]).arg(&key))?;
    let public =
        openssl(&["pkey", "-inform", "DER", "-pubout", "-outform", "DER", "-in"]).arg(&key).output()?.stdout;
    let public = public.last_chunk::<KEY_BYTES>().context("openssl made no public key")?;
    let id = format!("n-{}", &hex::encode(Sha256::digest(public))[..16]);
    let header = json!({ "alg": "EdDSA", "typ": "cairn-enroll+jws", "kid": id });
    let facts = json!({
        "schema": 1, "hostname": format!("paper-{number}"), "arch": "amd64", "kernel": "6.12", "os": "cairn",
        "os_version": "0.1.0", "daemon_version": "0.1.0", "cpus": 4, "memory_bytes": 4_u64 << 30,
        "data_bytes": 64_u64 << 30, "runtimes": ["oci", "wasm"],
    });
    let payload =
        json!({ "schema": 1, "token": "", "public_key": URL_SAFE_NO_PAD.encode(public), "facts": facts });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(payload.to_string())
    );
    fs::write(&text, &signed)?;
    let signature = openssl(&["pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey"])
        .arg(&key)
        .arg("-in")
        .arg(&text)
        .output()?
        .stdout;
    ensure!(signature.len() == 2 * KEY_BYTES, "openssl made no signature");
    Ok((id, format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
}
