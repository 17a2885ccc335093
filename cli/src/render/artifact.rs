//! Artifacts.

use cairn_model::{api::Artifact, oci};
use jiff::Timestamp;

use super::{Column, Row, text};

/// What people call it; the media type itself where there is no word.
fn kind(artifact: &Artifact) -> String {
    match (artifact.artifact_type.as_str(), artifact.media_type.as_str()) {
        (oci::ARTIFACT_TYPE_APP, _) => "app",
        (oci::ARTIFACT_TYPE_RELEASE, _) => "OS release",
        (oci::MEDIA_TYPE_WASM_CONFIG, _) => "wasm",
        (_, oci::MEDIA_TYPE_INDEX | oci::MEDIA_TYPE_DOCKER_LIST) => "index",
        (
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json",
            _,
        ) => "image",
        (other, _) => other,
    }
    .into()
}

impl Row for Artifact {
    const COLUMNS: &'static [Column] = &[
        Column::always("DIGEST"),
        Column::always("KIND"),
        Column::always("NAMES"),
        Column::always("SIZE"),
        Column::always("SIGNED"),
        Column::always("PUSHED"),
        Column::wide("FULL DIGEST"),
        Column::wide("MEDIA TYPE"),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            text::short_digest(&self.digest),
            kind(self),
            self.names.join(","),
            text::size(self.size),
            text::yes_no(self.signed),
            text::age(&self.pushed_at, now),
            self.digest.to_string(),
            self.media_type.clone(),
        ]
    }

    fn name(&self) -> String {
        self.digest.to_string()
    }
}
