//! Media types and limits of the OCI artifacts that Cairn reads and writes (OCI Image Spec 1.1).

/// An OCI image manifest.
pub const MEDIA_TYPE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const MEDIA_TYPE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's manifest, schema 2: pushed by older clients; read like an OCI one.
pub const MEDIA_TYPE_DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list: read like an OCI index.
pub const MEDIA_TYPE_DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Artifact type of an app: a manifest whose config blob is the app's canonical JSON and that has the empty layer.
pub const ARTIFACT_TYPE_APP: &str = "application/vnd.cairn.app.v1+json";
/// Artifact type of an OS release: its config blob is a [`crate::Release`], its layers are what that document names.
pub const ARTIFACT_TYPE_RELEASE: &str = "application/vnd.cairn.release.v1+json";
/// Config media type of an OS release.
pub const MEDIA_TYPE_RELEASE_CONFIG: &str = "application/vnd.cairn.release.config.v1+json";
/// Layer of an OS release: the table of its chunks (`cairn_ota::chunks`).
pub const MEDIA_TYPE_RELEASE_INDEX: &str = "application/vnd.cairn.release.index.v1";
/// Layer of an OS release: all its chunks, each compressed by itself, one after the other.
pub const MEDIA_TYPE_RELEASE_PACK: &str = "application/vnd.cairn.release.pack.v1";
/// Layer of an OS release: a patch from one earlier release (`cairn_ota::patch`).
pub const MEDIA_TYPE_RELEASE_PATCH: &str = "application/vnd.cairn.release.patch.v1";
/// Artifact type and config media type of a wasm artifact (CNCF TAG Runtime's "Wasm OCI Artifact" layout).
pub const MEDIA_TYPE_WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// The one layer of a wasm artifact: the module or component itself.
pub const MEDIA_TYPE_WASM_LAYER: &str = "application/wasm";

/// Largest manifest, in bytes (the distribution spec asks registries for at least 4 MiB).
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
