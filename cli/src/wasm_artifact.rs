//! A .wasm file as an OCI artifact, in the layout of the CNCF's wasm working group: one config, one layer.

use std::{fs, io::Read as _, path::Path};

use bytes::Bytes;
use cairn_model::{
    Digest,
    oci::{MEDIA_TYPE_MANIFEST, MEDIA_TYPE_WASM_CONFIG, MEDIA_TYPE_WASM_LAYER},
};
use serde_json::json;
use wasmparser::{Encoding, Parser, Payload};

use crate::{
    client::registry::{Blob, Content, Manifest, Source},
    failure::Failure,
};

/// Largest file that is pushed.
const MAX_WASM_BYTES: u64 = 512 << 20;
/// The same file gives the same digest wherever and whenever it is pushed: no clock is asked.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What the outside of a module or component says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outside {
    component: bool,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// What is to be pushed of a .wasm file.
pub(crate) fn read(path: &Path) -> Result<Content, Failure> {
    let fail = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut wasm = Vec::new();
    fs::File::open(path).map_err(fail)?.take(MAX_WASM_BYTES + 1).read_to_end(&mut wasm).map_err(fail)?;
    if wasm.len() as u64 > MAX_WASM_BYTES {
        return Err(Failure::refused(format!("{} is larger than {MAX_WASM_BYTES} bytes", path.display())));
    }
    let outside = inspect(&wasm).map_err(|cause| {
        Failure::refused(format!("{} is no WebAssembly module or component: {cause}", path.display()))
            .cure("name the binary (.wasm), not its text form, or the folder of an OCI image layout")
    })?;
    Ok(content(wasm, &outside))
}

fn content(wasm: Vec<u8>, outside: &Outside) -> Content {
    let layer = Digest::of(&wasm);
    let mut config = json!({
        "created": CREATED,
        "architecture": "wasm",
        "os": if outside.component { "wasip2" } else { "wasip1" },
        "layerDigests": [&layer],
    });
    if outside.component {
        config["component"] =
            json!({ "exports": outside.exports, "imports": outside.imports, "target": null });
    }
    let config = config.to_string().into_bytes();
    let config_digest = Digest::of(&config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE_MANIFEST,
        "config": { "mediaType": MEDIA_TYPE_WASM_CONFIG, "digest": &config_digest, "size": config.len() },
        "layers": [{ "mediaType": MEDIA_TYPE_WASM_LAYER, "digest": &layer, "size": wasm.len() }],
    })
    .to_string()
    .into_bytes();
    let blob = |digest: Digest, bytes: Vec<u8>| Blob {
        digest,
        size: bytes.len() as u64,
        source: Source::Memory(Bytes::from(bytes)),
    };
    Content {
        blobs: vec![blob(config_digest, config), blob(layer, wasm)],
        manifests: vec![Manifest {
            digest: Digest::of(&manifest),
            media_type: MEDIA_TYPE_MANIFEST.into(),
            bytes: manifest,
        }],
    }
}

/// Reads the outermost level only; what is inside is for the runtime to judge.
fn inspect(wasm: &[u8]) -> Result<Outside, String> {
    let mut outside = Outside::default();
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(|error| error.message().to_owned())? {
            Payload::Version { encoding, .. } if depth == 0 => {
                outside.component = encoding == Encoding::Component;
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    outside.imports.push(import.map_err(|e| e.message().to_owned())?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    outside.exports.push(export.map_err(|e| e.message().to_owned())?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn modules_and_components_are_told_apart() {
        assert!(!inspect(MODULE).unwrap().component);
        assert!(inspect(COMPONENT).unwrap().component);
        for bad in [b"".as_slice(), b"(module)", b"\x7fELF", &MODULE[..6]] {
            assert!(inspect(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_same_file_is_the_same_artifact() {
        let digest = || content(MODULE.to_vec(), &inspect(MODULE).unwrap()).manifests.remove(0).digest;
        assert_eq!(digest(), digest());
    }

    #[test]
    fn the_config_names_its_layer() {
        let content = content(COMPONENT.to_vec(), &inspect(COMPONENT).unwrap());
        let Source::Memory(config) = &content.blobs[0].source else { panic!("config is in memory") };
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        assert_eq!(config["architecture"], "wasm");
        assert_eq!(config["os"], "wasip2");
        assert_eq!(config["layerDigests"][0], Digest::of(COMPONENT).as_str());
        assert!(config["component"]["imports"].as_array().unwrap().is_empty());
        let manifest: serde_json::Value = serde_json::from_slice(&content.manifests[0].bytes).unwrap();
        assert_eq!(manifest["config"]["digest"], content.blobs[0].digest.as_str());
        assert_eq!(manifest["layers"][0]["digest"], content.blobs[1].digest.as_str());
    }
}
