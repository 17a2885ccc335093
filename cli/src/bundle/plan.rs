//! What an export does, decided before anything is written: what goes onto the stick, what is there, what may be left out,
//! what nobody needs any more, and whether there is room. Pure.

use std::collections::{BTreeMap, BTreeSet};

use cairn_model::{
    Digest, NodeId,
    media::{MediaBlob, MediaNode, MediaPlan, Receipt},
};

use super::stick::Room;

/// Room for metadata and for what nodes send back, whatever is on the stick.
const RESERVE: u64 = 8 << 20;
/// And so much a node: its metadata, and a few days of reports.
const RESERVE_PER_NODE: u64 = 256 << 10;

/// How a blob that is needed lies on the stick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnStick {
    /// Whole, and its bytes were checked.
    Sound,
    /// It has the name and other bytes.
    Damaged,
    /// So many bytes of it, from an export that was cut off.
    Begun(u64),
    Absent,
}

/// What nodes have already, from `--since`.
#[derive(Debug, Clone)]
pub(crate) struct Since {
    pub(crate) receipt: Receipt,
    /// What nodes need that the receipt was not for: left out it may not be.
    pub(crate) needed: BTreeSet<Digest>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Export {
    /// To be written, as the hub has it.
    pub(crate) write: Vec<MediaBlob>,
    /// Bytes that are still to be written.
    pub(crate) to_write: u64,
    /// On the stick already, checked.
    pub(crate) there: Vec<MediaBlob>,
    /// On the stick with other bytes; they are among those to be written.
    pub(crate) damaged: usize,
    /// Not on the stick, because the nodes have it.
    pub(crate) left_out: Vec<MediaBlob>,
    /// On the stick from an earlier export, and needed no more.
    pub(crate) superseded: Vec<MediaBlob>,
    /// Nodes that the stick was for, and is for no more.
    pub(crate) gone: Vec<MediaNode>,
}

/// Whether it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Yes,
    /// Once what is superseded is gone: then the stick is of no use until the export is done.
    OnceRemoved,
    /// So many bytes are missing.
    No(u64),
}

/// Decides; `on_stick` has every blob of `wanted` that is not absent.
pub(crate) fn plan(
    wanted: &MediaPlan,
    on_stick: &BTreeMap<Digest, OnStick>,
    old: Option<&Receipt>,
    since: Option<&Since>,
) -> Export {
    let mut export = Export::default();
    let brought: BTreeSet<&Digest> = since
        .iter()
        .flat_map(|since| since.receipt.blobs.iter().filter(|blob| !since.needed.contains(&blob.digest)))
        .map(|blob| &blob.digest)
        .collect();
    for blob in &wanted.blobs {
        let state = on_stick.get(&blob.digest).copied().unwrap_or(OnStick::Absent);
        let begun = match state {
            OnStick::Sound => {
                export.there.push(blob.clone());
                continue;
            }
            OnStick::Damaged => {
                export.damaged += 1;
                0
            }
            OnStick::Begun(begun) => begun.min(blob.size),
            OnStick::Absent => 0,
        };
        if brought.contains(&blob.digest) && state != OnStick::Damaged {
            export.left_out.push(blob.clone());
            continue;
        }
        export.to_write += blob.size - begun;
        export.write.push(blob.clone());
    }
    if let Some(old) = old {
        let needed: BTreeSet<&Digest> = wanted.blobs.iter().map(|blob| &blob.digest).collect();
        let absent: BTreeSet<&Digest> = old.left_out.iter().collect();
        let unneeded = |digest: &Digest| !needed.contains(digest) && !absent.contains(digest);
        export.superseded = old.blobs.iter().filter(|blob| unneeded(&blob.digest)).cloned().collect();
        let nodes: BTreeSet<&NodeId> = wanted.nodes.iter().map(|node| &node.node).collect();
        export.gone = old.nodes.iter().filter(|node| !nodes.contains(&node.node)).cloned().collect();
    }
    export
}

/// Whether `export` fits into `room`, with enough left for `nodes` nodes to write to.
pub(crate) fn fit(export: &Export, nodes: usize, room: Room) -> Fit {
    let blocks = |bytes: u64| bytes.div_ceil(room.block).saturating_mul(room.block);
    // What is begun of a blob is counted by the byte: a block too many for each is nothing.
    let slack = room.block.saturating_mul(2 * export.write.len() as u64);
    let reserve = RESERVE.saturating_add(RESERVE_PER_NODE.saturating_mul(nodes as u64));
    let needed = blocks(export.to_write).saturating_add(slack).saturating_add(reserve);
    let freed = bytes(&export.superseded);
    match needed {
        needed if needed <= room.free => Fit::Yes,
        needed if needed <= room.free.saturating_add(freed) => Fit::OnceRemoved,
        needed => Fit::No(needed - room.free - freed),
    }
}

/// The size of some blobs.
pub(crate) fn bytes(blobs: &[MediaBlob]) -> u64 {
    blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add)
}

/// The nodes of `wanted` that `since` was not for: nobody has brought them anything.
pub(crate) fn strangers<'a>(wanted: &'a MediaPlan, since: &Receipt) -> Vec<&'a MediaNode> {
    let served: BTreeSet<&NodeId> =
        since.nodes.iter().filter(|node| node.generation > 0).map(|node| &node.node).collect();
    wanted.nodes.iter().filter(|node| !served.contains(&node.node)).collect()
}

/// Whether two plans lead to the same bundle: what the hub signs between them is then for both.
pub(crate) fn is_same(one: &MediaPlan, other: &MediaPlan) -> bool {
    let bundle = |plan: &MediaPlan| -> Vec<_> {
        plan.nodes.iter().map(|n| (n.node.clone(), n.generation, n.manifests.clone(), n.state)).collect()
    };
    bundle(one) == bundle(other)
}

#[cfg(test)]
mod tests {
    use cairn_model::{enroll::EnrollState, media::Freshness};

    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn blob(name: &str, size: u64) -> MediaBlob {
        MediaBlob { digest: digest(name), size, media_type: None, names: Vec::new(), repository: "r".into() }
    }

    fn node(id: &str, generation: u64) -> MediaNode {
        MediaNode {
            node: id.parse().unwrap(),
            hostname: id.into(),
            state: EnrollState::Approved,
            generation,
            manifests: Vec::new(),
            acknowledged: 0,
            freshness: Freshness::AIR_GAPPED,
        }
    }

    fn wanted() -> MediaPlan {
        MediaPlan {
            nodes: vec![node("n-aaaa000000000000", 3), node("n-bbbb000000000000", 1)],
            blobs: ["new", "there", "torn", "half", "brought"].map(|name| blob(name, 100)).into(),
            problems: Vec::new(),
        }
    }

    fn receipt(nodes: Vec<MediaNode>, blobs: &[&str], left_out: &[&str]) -> Receipt {
        Receipt {
            schema: 1,
            written_at: String::new(),
            hub: String::new(),
            nodes,
            blobs: blobs.iter().map(|name| blob(name, 100)).collect(),
            left_out: left_out.iter().map(|name| digest(name)).collect(),
        }
    }

    fn names(blobs: &[MediaBlob]) -> Vec<&'static str> {
        let all = ["new", "there", "torn", "half", "brought", "old", "never"];
        all.into_iter().filter(|name| blobs.iter().any(|blob| blob.digest == digest(name))).collect()
    }

    #[test]
    fn each_blob_is_written_kept_or_left_out_and_what_nobody_needs_goes() {
        let on_stick = BTreeMap::from([
            (digest("there"), OnStick::Sound),
            (digest("torn"), OnStick::Damaged),
            (digest("half"), OnStick::Begun(40)),
        ]);
        let old = receipt(
            vec![node("n-aaaa000000000000", 2), node("n-cccc000000000000", 2)],
            &["there", "old", "never"],
            &["never"],
        );
        let mut since = Since {
            receipt: receipt(Vec::new(), &["brought", "torn", "there"], &[]),
            needed: BTreeSet::new(),
        };
        let export = plan(&wanted(), &on_stick, Some(&old), Some(&since));
        assert_eq!(names(&export.write), ["new", "torn", "half"]);
        assert_eq!((export.to_write, export.damaged), (100 + 100 + 60, 1));
        assert_eq!(names(&export.there), ["there"]);
        assert_eq!(names(&export.left_out), ["brought"]);
        assert_eq!(names(&export.superseded), ["old"], "what never was on the stick is not removed from it");
        assert_eq!(export.gone.len(), 1);
        // A node that the earlier stick was not for needs it all the same.
        since.needed.insert(digest("brought"));
        assert_eq!(names(&plan(&wanted(), &on_stick, None, Some(&since)).left_out), [""; 0]);
    }

    #[test]
    fn room_is_counted_before_the_first_byte() {
        let mut export = plan(&wanted(), &BTreeMap::new(), None, None);
        let needed = 4096 + 2 * 5 * 4096 + RESERVE + RESERVE_PER_NODE;
        let check = |export: &Export, free| fit(export, 1, Room { free, block: 4096 });
        assert_eq!(check(&export, needed), Fit::Yes);
        assert_eq!(check(&export, needed - 1), Fit::No(1));
        export.superseded = vec![blob("old", 10)];
        assert_eq!(check(&export, needed - 10), Fit::OnceRemoved);
        assert_eq!(check(&export, needed - 11), Fit::No(1));
        export.to_write = u64::MAX;
        assert!(matches!(check(&export, 0), Fit::No(_)), "no sum overflows");
    }

    #[test]
    fn a_node_that_was_served_before_is_no_stranger() {
        let since = receipt(vec![node("n-aaaa000000000000", 2), node("n-bbbb000000000000", 0)], &[], &[]);
        let wanted = wanted();
        let found: Vec<_> = strangers(&wanted, &since).into_iter().map(|node| node.node.as_str()).collect();
        assert_eq!(found, ["n-bbbb000000000000"]);
        let mut later = wanted.clone();
        assert!(is_same(&wanted, &later));
        later.nodes[0].generation += 1;
        assert!(!is_same(&wanted, &later));
    }
}
