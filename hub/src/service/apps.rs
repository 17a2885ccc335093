//! Apps: from a Compose file to a pinned, signed artifact, and how its replicas stand.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_model::{
    AppName, Digest, NodeId,
    api::{AppStatus, AppSummary, Deploy, Replica},
    compose::App,
    oci,
    report::WorkloadStatus,
};
use serde_json::json;

use super::{Hub, Operator};
use crate::{
    clock,
    error::{Error, Kind, Result},
    registry::Reference,
    store::{AppRow, AppVersion, NodeRow, PlacedReplica},
};

mod pin;

/// The OCI empty descriptor's content and media type.
const EMPTY_JSON: &[u8] = b"{}";
const MEDIA_TYPE_EMPTY: &str = "application/vnd.oci.empty.v1+json";

impl Hub {
    /// Takes a Compose file: parsed, pinned, made an artifact, stored, placed, signed for its nodes, in that order. A
    /// crash in between leaves the app as it was, or deployed and to be signed at the next start.
    pub(crate) async fn deploy(&self, who: &Operator, name: AppName, deploy: &Deploy) -> Result<AppSummary> {
        let mut app = App::parse(&deploy.file, &deploy.compose).map_err(|problems| {
            Error::new(
                Kind::ComposeRefused,
                format!("{} is refused; mend what the problems name", deploy.file),
            )
            .with_problems(problems.lines().collect())
        })?;
        app.name = Some(name.clone());
        let images = self.pin_images(&name, &mut app, deploy).await?;
        let document = app.to_canonical_json();
        let digest = self.put_app_artifact(&name, &document).await?;
        let document = String::from_utf8(document).map_err(|e| Error::internal("the app is not UTF-8", e))?;

        let now = clock::now_ms();
        let mut tx = self.store.begin().await?;
        let before = tx.latest_version(&name).await?;
        if before.as_ref().is_none_or(|before| before.digest != digest) {
            let version = AppVersion {
                app: name.clone(),
                number: before.as_ref().map_or(1, |before| before.number + 1),
                digest: digest.clone(),
                document,
                images,
                deployed_at: now,
                deployed_by: who.name.clone(),
            };
            tx.insert_version(&version).await?;
            tx.set_tag(&repository(&name), &version.number.to_string(), &digest).await?;
            let after = json!({"digest": digest, "images": version.images, "version": version.number});
            let before = before.map(|b| json!({"digest": b.digest, "images": b.images, "version": b.number}));
            tx.audit(now, who.change("app.deploy", name.as_str(), before, Some(after))).await?;
            tx.commit().await?;
        } else {
            drop(tx);
        }
        tracing::info!(app = %name, %digest, by = who.name, "app deployed");
        let converged = self.fleet.converge().await;
        let mut summary = self.app_status(&name).await?.summary;
        match converged {
            Err(error) if error.kind == Kind::NotSigned => summary.problems.push(error.message),
            converged => converged?,
        }
        Ok(summary)
    }

    /// Puts the app's document into the hub's own registry.
    async fn put_app_artifact(&self, name: &AppName, document: &[u8]) -> Result<Digest> {
        let repository = repository(name);
        let config = self.registry.put_blob(&repository, Bytes::copy_from_slice(document)).await?;
        let empty = self.registry.put_blob(&repository, Bytes::from_static(EMPTY_JSON)).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": oci::MEDIA_TYPE_MANIFEST,
            "artifactType": oci::ARTIFACT_TYPE_APP,
            "config": {"mediaType": oci::ARTIFACT_TYPE_APP, "digest": config, "size": document.len()},
            "layers": [{"mediaType": MEDIA_TYPE_EMPTY, "digest": empty, "size": EMPTY_JSON.len()}],
        });
        let bytes = Bytes::from(manifest.to_string());
        let tag = Reference::Tag("latest".to_owned());
        let put = self.registry.put_manifest(&repository, &tag, oci::MEDIA_TYPE_MANIFEST, bytes, None).await;
        Ok(put?.0)
    }

    /// Takes an app away; its nodes stop it.
    pub(crate) async fn remove_app(&self, who: &Operator, name: &AppName) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let before = tx.latest_version(name).await?.ok_or_else(|| missing(name))?;
        tx.delete_app(name).await?;
        let before = json!({"digest": before.digest, "images": before.images, "version": before.number});
        tx.audit(clock::now_ms(), who.change("app.delete", name.as_str(), Some(before), None)).await?;
        tx.commit().await?;
        self.fleet.converge().await
    }

    /// All apps.
    pub(crate) async fn list_apps(&self) -> Result<Vec<AppSummary>> {
        let view = self.app_view().await?;
        Ok(view.versions.keys().filter_map(|name| self.status_of(&view, name)).map(|s| s.summary).collect())
    }

    /// One app with every replica.
    pub(crate) async fn app_status(&self, name: &AppName) -> Result<AppStatus> {
        let view = self.app_view().await?;
        self.status_of(&view, name).ok_or_else(|| missing(name))
    }

    async fn app_view(&self) -> Result<View> {
        let nodes = self.store.nodes().await?;
        Ok(View {
            versions: self.store.app_versions().await?,
            rows: self.store.app_rows().await?,
            placements: self.store.placements().await?,
            nodes: nodes.into_iter().map(|node| (node.id.clone(), node)).collect(),
        })
    }

    fn status_of(&self, view: &View, name: &AppName) -> Option<AppStatus> {
        let versions = view.versions.get(name)?;
        let latest = versions.first()?;
        let row = view.rows.get(name);
        let signed = versions.iter().find(|v| v.manifests().all(|digest| self.signer.is_signed(digest)));
        let placed: Vec<&PlacedReplica> = view.placements.iter().filter(|p| p.app == *name).collect();
        let ready = placed.iter().filter(|p| signed.is_some_and(|v| view.is_ready(p, v))).count();
        let mut problems = row.map(|row| row.problems.clone()).unwrap_or_default();
        if signed.is_none_or(|signed| signed.number != latest.number) {
            problems.push(unsigned_problem(latest, signed));
        }
        let unplaced = row.map_or(0, |row| row.unplaced);
        let summary = AppSummary {
            name: name.clone(),
            digest: latest.digest.clone(),
            services: latest.images.clone(),
            deployed_at: clock::rfc3339(latest.deployed_at),
            deployed_by: latest.deployed_by.clone(),
            desired: u32::try_from(placed.len()).unwrap_or(u32::MAX).saturating_add(unplaced),
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            problems,
        };
        Some(AppStatus { summary, replicas: placed.iter().map(|placed| view.replica(placed)).collect() })
    }
}

/// Everything that is shown of apps, read once.
struct View {
    versions: BTreeMap<AppName, Vec<AppVersion>>,
    rows: BTreeMap<AppName, AppRow>,
    placements: Vec<PlacedReplica>,
    nodes: BTreeMap<NodeId, NodeRow>,
}

impl View {
    fn workload(&self, placed: &PlacedReplica) -> Option<&WorkloadStatus> {
        let status = self.nodes.get(&placed.node)?.status.as_ref()?;
        status
            .workloads
            .iter()
            .find(|w| w.app == placed.app && w.service == placed.service && w.replica == placed.replica)
    }

    /// Runs as it is wanted now: the node has applied the generation that brought it, and it is well.
    fn is_ready(&self, placed: &PlacedReplica, version: &AppVersion) -> bool {
        let applied =
            self.nodes.get(&placed.node).and_then(|node| node.status.as_ref()).map_or(0, |s| s.generation);
        let Some(workload) = self.workload(placed) else { return false };
        workload.is_well()
            && applied >= placed.since
            && version.images.get(&placed.service) == Some(&workload.image)
    }

    fn replica(&self, placed: &PlacedReplica) -> Replica {
        Replica {
            node: placed.node.clone(),
            hostname: self
                .nodes
                .get(&placed.node)
                .map(|node| node.facts.hostname.clone())
                .unwrap_or_default(),
            service: placed.service.clone(),
            replica: placed.replica,
            status: self.workload(placed).cloned(),
        }
    }
}

fn unsigned_problem(latest: &AppVersion, signed: Option<&AppVersion>) -> String {
    let now = match signed {
        Some(signed) => format!("nodes keep version {}", signed.number),
        None => "no node gets it".to_owned(),
    };
    format!(
        "version {} waits for an operator's signature on the app or its images, {now}; run `cairn artifact sign`",
        latest.number
    )
}

/// The repository of an app's artifacts in the hub's own registry.
fn repository(name: &AppName) -> String {
    format!("apps/{name}")
}

fn missing(name: &AppName) -> Error {
    Error::not_found(format!("app {name}"), "see `cairn app ls`")
}
