//! Apps × placement × OS → one document a node: pure, and silent where nothing changed.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{
    AppName, DesiredState, Digest, NodeId,
    desired::{self, Command, DesiredApp, DesiredOs, Policy},
};

use crate::schedule::Slot;

/// An app version as nodes shall run it.
#[derive(Debug, Clone)]
pub(crate) struct SignedApp {
    /// Digest of its artifact.
    pub(crate) digest: Digest,
    /// The manifests of its images.
    pub(crate) images: BTreeSet<Digest>,
}

/// A node's document, and every manifest that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// The document.
    pub(crate) desired: DesiredState,
    /// Manifests, for the node's director repository.
    pub(crate) needs: Vec<Digest>,
}

/// What one node is to be told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The apps that there are.
    pub(crate) apps: &'a BTreeMap<AppName, SignedApp>,
    /// Placed replicas; those of other nodes are passed over.
    pub(crate) slots: &'a BTreeSet<Slot>,
    /// The OS, signed.
    pub(crate) os: Option<&'a DesiredOs>,
    /// Open commands.
    pub(crate) commands: &'a [Command],
}

/// The document of `node` after `current`; `None` where nothing but the generation would change.
pub(crate) fn compile(
    node: &NodeId,
    current: Option<&DesiredState>,
    last_generation: u64,
    Wanted { apps, slots, os, commands }: Wanted<'_>,
) -> Option<Compiled> {
    let mut wanted: BTreeMap<AppName, DesiredApp> = BTreeMap::new();
    let mut needs: BTreeSet<Digest> = BTreeSet::new();
    for slot in slots.iter().filter(|slot| slot.node == *node) {
        let Some(app) = apps.get(&slot.app) else { continue };
        let entry = wanted
            .entry(slot.app.clone())
            .or_insert_with(|| DesiredApp { app: app.digest.clone(), services: BTreeMap::new() });
        entry.services.entry(slot.service.clone()).or_default().push(slot.replica);
        needs.insert(app.digest.clone());
        needs.extend(app.images.iter().cloned());
    }
    needs.extend(os.map(|os| os.release.clone()));
    let desired = DesiredState {
        schema: desired::SCHEMA,
        node: node.clone(),
        generation: last_generation + 1,
        apps: wanted,
        os: os.cloned(),
        commands: commands.to_vec(),
        policy: Policy::default(),
    };
    let unchanged = current.is_some_and(|current| {
        DesiredState { generation: 0, ..current.clone() } == DesiredState { generation: 0, ..desired.clone() }
    });
    (!unchanged).then(|| Compiled { desired, needs: needs.into_iter().collect() })
}

/// The replicas whose definition differs between two documents of one node: those that are to be (re)started.
pub(crate) fn touches(current: Option<&DesiredState>, next: &DesiredState, slot: &Slot) -> bool {
    let artifact = |state: &DesiredState| state.apps.get(&slot.app).map(|app| app.app.clone());
    current.and_then(artifact) != artifact(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        NodeId::of_public_key(&[1; 32])
    }

    fn app(text: &str) -> (AppName, SignedApp) {
        let images = [Digest::of(b"image")].into();
        ("web".parse().unwrap(), SignedApp { digest: Digest::of(text.as_bytes()), images })
    }

    fn slot(replica: u32) -> Slot {
        Slot { app: "web".parse().unwrap(), service: "front".parse().unwrap(), replica, node: node() }
    }

    fn wanted<'a>(apps: &'a BTreeMap<AppName, SignedApp>, slots: &'a BTreeSet<Slot>) -> Wanted<'a> {
        Wanted { apps, slots, os: None, commands: &[] }
    }

    #[test]
    fn unchanged_content_keeps_its_generation() {
        let apps = [app("v1")].into();
        let slots = [slot(0), slot(2)].into();
        let first = compile(&node(), None, 0, wanted(&apps, &slots)).unwrap();
        assert_eq!(first.desired.generation, 1);
        assert_eq!(first.desired.apps[&slot(0).app].services[&slot(0).service], vec![0, 2]);
        assert_eq!(first.needs.len(), 2, "the app and its image");
        assert_eq!(compile(&node(), Some(&first.desired), 1, wanted(&apps, &slots)), None);
        let apps = [app("v2")].into();
        let second = compile(&node(), Some(&first.desired), 1, wanted(&apps, &slots)).unwrap();
        assert_eq!(second.desired.generation, 2);
        assert!(touches(Some(&first.desired), &second.desired, &slot(0)));
    }

    #[test]
    fn a_node_without_work_gets_an_empty_first_generation() {
        let compiled = compile(&node(), None, 0, wanted(&BTreeMap::new(), &BTreeSet::new())).unwrap();
        assert_eq!((compiled.desired.generation, compiled.needs.len()), (1, 0));
    }

    #[test]
    fn an_os_is_told_with_the_manifest_that_it_needs() {
        let os = DesiredOs {
            release: Digest::of(b"release"),
            version: "2".parse().unwrap(),
            allow_downgrade: false,
            attempt: 0,
            reboot: desired::RebootPolicy::AtOnce,
            health: desired::OsHealth::default(),
        };
        let (apps, slots) = (BTreeMap::new(), BTreeSet::new());
        let with = Wanted { os: Some(&os), ..wanted(&apps, &slots) };
        let first = compile(&node(), None, 0, with).unwrap();
        assert_eq!((first.desired.os.as_ref(), first.needs), (Some(&os), vec![os.release.clone()]));
        assert_eq!(compile(&node(), Some(&first.desired), 1, with), None);
        let retried = DesiredOs { attempt: 1, ..os.clone() };
        let again = Wanted { os: Some(&retried), ..with };
        assert_eq!(compile(&node(), Some(&first.desired), 1, again).unwrap().desired.generation, 2);
    }
}
