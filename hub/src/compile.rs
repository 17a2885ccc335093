//! Apps × placement → one document a node: pure, and silent where nothing changed.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{
    AppName, DesiredState, Digest, NodeId,
    desired::{self, Command, DesiredApp, Policy},
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

/// The document of `node` after `current`; `None` where nothing but the generation would change.
pub(crate) fn compile(
    node: &NodeId,
    current: Option<&DesiredState>,
    last_generation: u64,
    apps: &BTreeMap<AppName, SignedApp>,
    slots: &BTreeSet<Slot>,
    commands: &[Command],
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
    let desired = DesiredState {
        schema: desired::SCHEMA,
        node: node.clone(),
        generation: last_generation + 1,
        apps: wanted,
        os: None,
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

    #[test]
    fn unchanged_content_keeps_its_generation() {
        let apps = [app("v1")].into();
        let slots = [slot(0), slot(2)].into();
        let first = compile(&node(), None, 0, &apps, &slots, &[]).unwrap();
        assert_eq!(first.desired.generation, 1);
        assert_eq!(first.desired.apps[&slot(0).app].services[&slot(0).service], vec![0, 2]);
        assert_eq!(first.needs.len(), 2, "the app and its image");
        assert_eq!(compile(&node(), Some(&first.desired), 1, &apps, &slots, &[]), None);
        let second = compile(&node(), Some(&first.desired), 1, &[app("v2")].into(), &slots, &[]).unwrap();
        assert_eq!(second.desired.generation, 2);
        assert!(touches(Some(&first.desired), &second.desired, &slot(0)));
    }

    #[test]
    fn a_node_without_work_gets_an_empty_first_generation() {
        let compiled = compile(&node(), None, 0, &BTreeMap::new(), &BTreeSet::new(), &[]).unwrap();
        assert_eq!((compiled.desired.generation, compiled.needs.len()), (1, 0));
    }
}
