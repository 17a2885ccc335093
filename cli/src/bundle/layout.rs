//! `oci-layout` and `index.json`: what makes the blobs on a stick an OCI image layout, which skopeo, podman and crane read.

use std::collections::BTreeMap;

use cairn_model::{media::MediaBlob, oci::MEDIA_TYPE_INDEX};
use serde_json::{Value, json};

pub(crate) const OCI_LAYOUT: &str = "oci-layout";
pub(crate) const INDEX: &str = "index.json";
/// Largest index that is looked at.
pub(crate) const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The annotation by which skopeo and others find an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of an index that an export wrote.
const WRITTEN_BY: &str = "dev.cairn.bundle";

/// The content of `oci-layout`.
pub(crate) fn oci_layout() -> Vec<u8> {
    json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()
}

/// The index of the manifests among `blobs`, all of which are on the stick: one entry a name, or one without.
pub(crate) fn index<'a>(blobs: impl Iterator<Item = &'a MediaBlob>) -> Vec<u8> {
    let mut manifests = Vec::new();
    for blob in blobs {
        let Some(media_type) = &blob.media_type else { continue };
        let entry = json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size});
        if blob.names.is_empty() {
            manifests.push(entry);
            continue;
        }
        for name in &blob.names {
            let mut named = entry.clone();
            named["annotations"] = json!({REF_NAME: name});
            manifests.push(named);
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": manifests,
        "annotations": {WRITTEN_BY: "1"}});
    index.to_string().into_bytes()
}

/// Whether an export wrote this index: another layout is not overwritten.
pub(crate) fn is_ours(index: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Index {
        #[serde(default)]
        annotations: BTreeMap<String, Value>,
    }
    serde_json::from_slice::<Index>(index).is_ok_and(|index| index.annotations.contains_key(WRITTEN_BY))
}

#[cfg(test)]
mod tests {
    use cairn_model::Digest;

    use super::*;

    #[test]
    fn each_name_of_a_manifest_is_an_entry_and_blobs_are_none() {
        let blob = |text: &str, media_type: Option<&str>, names: &[&str]| MediaBlob {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
            media_type: media_type.map(str::to_owned),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            repository: "r".into(),
        };
        let blobs =
            [blob("layer", None, &[]), blob("m", Some("t"), &["a:1", "a:2"]), blob("n", Some("t"), &[])];
        let bytes = index(blobs.iter());
        assert!(is_ours(&bytes));
        let index: Value = serde_json::from_slice(&bytes).unwrap();
        let names: Vec<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["annotations"][REF_NAME].as_str())
            .collect();
        assert_eq!(names, [Some("a:1"), Some("a:2"), None]);
        assert!(!is_ours(br#"{"schemaVersion":2,"manifests":[]}"#) && !is_ours(b"[]") && !is_ours(b""));
    }
}
