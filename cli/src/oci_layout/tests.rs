//! Layouts as tools write them, and as they should not be.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::failure::Kind;

struct Layout(TempDir);

impl Layout {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(dir)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.0.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn image(&self, layer: &[u8]) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", b"{}");
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", layer);
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer, layer]});
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        fs::write(self.0.path().join("index.json"), index).unwrap();
    }

    fn read(&self, image: Option<&str>) -> Result<Content, Failure> {
        read(self.0.path(), image)
    }
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({REF_NAME: name});
    descriptor
}

#[test]
fn each_blob_is_sent_once_and_children_go_before_parents() {
    let layout = Layout::new();
    let children = [layout.image(b"one"), layout.image(b"two")];
    let index = json!({"schemaVersion": 2, "manifests": children}).to_string();
    let top = layout.blob(MEDIA_TYPE_INDEX, index.as_bytes());
    layout.index(&[top]);
    let content = layout.read(None).unwrap();
    assert_eq!(content.blobs.len(), 3);
    assert_eq!(content.manifests.len(), 3);
    assert_eq!(content.manifests[2].digest, Digest::of(index.as_bytes()));
}

#[test]
fn one_of_several_images_must_be_chosen() {
    let layout = Layout::new();
    layout.index(&[named(layout.image(b"one"), "1"), named(layout.image(b"two"), "2")]);
    assert!(layout.read(None).unwrap_err().cure.ends_with("1, 2"));
    assert!(layout.read(Some("3")).unwrap_err().cure.ends_with("1, 2"));
    assert_eq!(layout.read(Some("2")).unwrap().manifests.len(), 1);
}

#[test]
fn refuses_a_blob_that_is_not_what_its_name_says() {
    let layout = Layout::new();
    layout.index(&[layout.image(b"layer")]);
    fs::write(layout.0.path().join("blobs/sha256").join(Digest::of(b"layer").hex()), b"other").unwrap();
    assert_eq!(layout.read(None).unwrap_err().kind, Kind::Refused);
    fs::remove_file(layout.0.path().join("blobs/sha256").join(Digest::of(b"layer").hex())).unwrap();
    assert!(layout.read(None).unwrap_err().cause.contains("lacks a blob"));
}

#[test]
fn refuses_digests_that_are_paths_and_endless_nesting() {
    let layout = Layout::new();
    layout.index(&[json!({"mediaType": "x", "digest": "sha256:../../../../etc/passwd", "size": 1})]);
    assert!(layout.read(None).unwrap_err().cause.contains("bad digest"));

    let mut top = layout.image(b"x");
    for _ in 0..MAX_DEPTH {
        let index = json!({"schemaVersion": 2, "manifests": [top]}).to_string();
        top = layout.blob(MEDIA_TYPE_INDEX, index.as_bytes());
    }
    layout.index(&[top]);
    assert!(layout.read(None).unwrap_err().cause.contains("too deep"));
}

#[test]
fn a_folder_without_a_layout_is_a_mistake_of_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(dir.path(), None).unwrap_err().kind, Kind::Usage);
}
