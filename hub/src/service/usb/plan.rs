//! What a bundle for some nodes needs: what each of them may read, and nothing else. Only the nodes asked for are looked
//! at, so that a site's stick costs the same in a large fleet.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{
    AppName, DesiredState, Digest,
    api::OsNodes,
    desired::DesiredOs,
    enroll::EnrollState,
    media::{Freshness, MediaBlob, MediaNode, MediaPlan},
    report::OsState,
};

use super::super::{
    Hub,
    choice::{Among, about},
    os::unsigned_problem,
};
use crate::{
    error::{Error, Result},
    registry::ANY_REPOSITORY,
    store::{AppVersion, BlobRow, DesiredRow, NodeRow, NodeState},
};

/// What is gathered over the nodes.
#[derive(Default)]
struct Gathered {
    nodes: Vec<MediaNode>,
    /// Every manifest that any of them needs.
    needs: BTreeSet<Digest>,
    /// Every app that any of them runs.
    apps: BTreeSet<AppName>,
    problems: Vec<String>,
}

impl Hub {
    /// What a bundle for the nodes that `asked` means needs, and what will not work as asked.
    pub(crate) async fn usb_plan(&self, asked: &OsNodes) -> Result<MediaPlan> {
        let mut gathered = Gathered::default();
        for row in self.chosen(asked, Among::All).await? {
            self.gather(&row, &mut gathered).await?;
        }
        let Gathered { nodes, needs, apps, mut problems } = gathered;
        let blobs = self.blobs(&needs, &mut problems).await?;
        if nodes.iter().any(|node| node.state == EnrollState::Approved) {
            problems.extend(self.unsigned_apps(&apps).await?);
        }
        Ok(MediaPlan { nodes, blobs, problems })
    }

    async fn gather(&self, row: &NodeRow, gathered: &mut Gathered) -> Result<()> {
        let mut node = MediaNode {
            node: row.id.clone(),
            hostname: row.facts.hostname.clone(),
            state: EnrollState::Pending,
            generation: 0,
            manifests: Vec::new(),
            acknowledged: row.acknowledged,
            freshness: row.freshness,
        };
        if row.state == NodeState::Approved {
            node.state = EnrollState::Approved;
            match self.store.desired_of(&row.id).await? {
                Some((desired, published)) => {
                    self.gather_desired(row, &desired, published, gathered).await?;
                    node.generation = desired.generation;
                    node.manifests = desired.needs;
                }
                None => gathered.problems.push(about(row, &not_signed(0))),
            }
        } else {
            let text = format!(
                "it waits for approval and gets nothing by this stick; run `cairn node approve {}`, then export again",
                row.id
            );
            gathered.problems.push(about(row, &text));
        }
        gathered.nodes.push(node);
        Ok(())
    }

    async fn gather_desired(
        &self,
        row: &NodeRow,
        desired: &DesiredRow,
        published: u64,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let state: DesiredState = serde_json::from_str(&desired.document)
            .map_err(|e| Error::internal("the hub could not read what it desired of a node", e))?;
        gathered.needs.extend(desired.needs.iter().cloned());
        gathered.apps.extend(state.apps.into_keys());
        if published < desired.generation {
            gathered.problems.push(about(row, &not_signed(published)));
        }
        let Some(os) = self.store.os_row(&row.id).await?.map(|row| row.desired) else { return Ok(()) };
        if !self.signer.is_signed(&os.release) {
            gathered.problems.push(about(row, &unsigned_problem(&os)));
        } else if os.health.hub
            && row.freshness == Freshness::Connected
            && !runs(row, &os)
            && !self.is_online(row)
        {
            gathered.problems.push(about(row, &waits_for_the_hub(row, &os)));
        }
        Ok(())
    }

    /// The manifests and every blob that they name, each once.
    async fn blobs(&self, needs: &BTreeSet<Digest>, problems: &mut Vec<String>) -> Result<Vec<MediaBlob>> {
        let mut blobs: BTreeMap<Digest, MediaBlob> = BTreeMap::new();
        let held = |repository: Option<String>| repository.unwrap_or_else(|| ANY_REPOSITORY.to_owned());
        for digest in needs {
            let Some(row) = self.store.manifest(digest).await? else {
                problems.push(format!("manifest {digest} is not in the hub any more; push it again"));
                continue;
            };
            let (names, repository) = self.store.places(digest).await?;
            if !self.signer.is_signed(digest) {
                let name = names.first().map_or("no name", String::as_str);
                problems.push(format!(
                    "manifest {digest} ({name}) is not signed by an operator, nodes refuse it; run `cairn artifact sign`"
                ));
            }
            for blob in self.store.blobs_of(digest).await? {
                let Some(size) = blob.size else {
                    problems.push(format!(
                        "blob {}, which manifest {digest} names, is not in the hub; push it again",
                        blob.digest
                    ));
                    continue;
                };
                let BlobRow { digest, repository, .. } = blob;
                let repository = held(repository);
                let blob = MediaBlob { digest, size, media_type: None, names: Vec::new(), repository };
                // What is a manifest too is told as one.
                blobs.entry(blob.digest.clone()).or_insert(blob);
            }
            let manifest = MediaBlob {
                digest: row.digest,
                size: row.size,
                media_type: Some(row.media_type),
                names,
                repository: held(repository),
            };
            blobs.insert(digest.clone(), manifest);
        }
        Ok(blobs.into_values().collect())
    }

    /// The apps whose newest version these nodes do not get for want of a signature: those that they run an older
    /// version of, and those that no node runs yet, which may be for them.
    async fn unsigned_apps(&self, running: &BTreeSet<AppName>) -> Result<Vec<String>> {
        let is_signed =
            |version: &AppVersion| version.manifests().all(|digest| self.signer.is_signed(digest));
        let mut problems = Vec::new();
        for latest in self.store.latest_versions().await?.into_iter().filter(|latest| !is_signed(latest)) {
            let version = format!("version {} of app {}", latest.number, latest.app);
            let text = if running.contains(&latest.app) {
                "the stick carries the one before"
            } else if self.store.versions_of(&latest.app).await?.iter().any(is_signed) {
                continue;
            } else {
                "no node gets it"
            };
            problems.push(format!(
                "{version} waits for an operator's signature, {text}; run `cairn artifact sign`, then export again"
            ));
        }
        Ok(problems)
    }
}

fn not_signed(published: u64) -> String {
    let instead = match published {
        0 => "the stick has nothing for it".to_owned(),
        older => format!("the stick carries generation {older}"),
    };
    format!("what is desired of it is not signed, {instead}; see the hub's log, then export again")
}

/// Whether the node says that it runs this OS and keeps it.
fn runs(node: &NodeRow, desired: &DesiredOs) -> bool {
    let os = node.status.as_ref().and_then(|status| status.os.as_ref());
    os.is_some_and(|os| os.version == desired.version && os.state != OsState::Trying)
}

/// The node would take the OS from the stick, try it, find no hub, and go back.
fn waits_for_the_hub(node: &NodeRow, os: &DesiredOs) -> String {
    format!(
        "it keeps OS {0} only if the hub answers it within {1} seconds, and it is not online: without a network it goes \
         back; run `cairn os set {0} --node {2} --no-hub-check`, then export again",
        os.version, os.health.deadline_seconds, node.id
    )
}
