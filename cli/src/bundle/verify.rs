//! Whether a stick is what it should be, on a machine that has nothing but the public roots: signatures, then every byte
//! that they vouch for, then the receipt. The same verifier as on a node decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use cairn_model::{
    Digest, NodeId,
    enroll::{EnrollGrant, EnrollState},
    error::chain,
    media::{
        ARTIFACTS, DIRECTOR, ENROLL, MAX_RECEIPT_BYTES, MediaNode, PART_BYTES, RECEIPT, Receipt, grant_path,
    },
    oci::{MAX_MANIFEST_BYTES, MEDIA_TYPE_RELEASE_PATCH},
};
use cairn_trust::{
    clock::Clock,
    fetch::{Folder, FolderFetch},
    node::{Bundle, Update, Verifier},
    uptane::Artifact,
};
use jiff::Timestamp;
use serde::Deserialize;
use tempfile::TempDir;

use super::{blobs, metadata, stick::Stick};
use crate::{contents::Manifest, failure::Failure, meter::Meter};

/// Names of the roots in the folder that `cairn trust roots` writes.
pub(crate) const DIRECTOR_ROOT: &str = "director.root.json";
pub(crate) const ARTIFACTS_ROOT: &str = "artifacts.root.json";
/// Largest root.
pub(crate) const MAX_ROOT_BYTES: u64 = 512 << 10;
/// Largest grant: two roots, and a few words.
const MAX_GRANT_BYTES: u64 = 2 << 20;
/// Most nodes and blobs of one stick: who follows a receipt spends time on each.
const MAX_NODES: usize = 10_000;
const MAX_BLOBS: usize = 200_000;
/// Most faults that are listed: more say nothing new.
const MAX_FAULTS: usize = 200;

const WRITE_AGAIN: &str =
    "run `cairn usb export` to this stick again: what is sound stays, the rest is written anew";
const TAKE_AWAY: &str = "remove it, or empty the stick, then run `cairn usb export` to it again";

/// The first roots of both repositories.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub(crate) director: Vec<u8>,
    pub(crate) artifacts: Vec<u8>,
}

impl Roots {
    /// Reads the folder that `cairn trust roots` wrote.
    pub(crate) fn read(folder: &Path) -> Result<Self, Failure> {
        let cure = "make it with `cairn trust roots DIR` where a context is, and copy it here";
        let wrong = |cause: String| Failure::usage(cause).cure(cure);
        let opened = Folder::open(folder)
            .map_err(|error| wrong(format!("cannot open the roots in {}: {error}", folder.display())))?;
        let read = |name: &str| match opened.read(name, MAX_ROOT_BYTES) {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(wrong(format!("{} has no file {name}", folder.display()))),
            Err(error) => Err(wrong(format!("cannot read {}: {error}", folder.join(name).display()))),
        };
        Ok(Self { director: read(DIRECTOR_ROOT)?, artifacts: read(ARTIFACTS_ROOT)? })
    }

    /// Those that lie on the stick itself: they say whether it is whole, never whose it is.
    pub(crate) fn on_stick(folder: &Folder, receipt: &Receipt) -> Option<Self> {
        let read = |path: String| folder.read(&path, MAX_ROOT_BYTES).ok().flatten();
        let artifacts = read(format!("{ARTIFACTS}/1.root.json"))?;
        let mut nodes = receipt.nodes.iter();
        let director =
            nodes.find_map(|node| read(format!("{}/1.root.json", metadata::director(&node.node))))?;
        Some(Self { director, artifacts })
    }
}

/// What came of one node's bundle.
#[derive(Debug)]
pub(crate) struct NodeVerdict {
    pub(crate) node: NodeId,
    pub(crate) hostname: String,
    /// Its generation, where it is sound.
    pub(crate) generation: Option<u64>,
    /// When the first signature ends that it needs.
    pub(crate) until: Option<Timestamp>,
    /// Not a member yet: there is nothing to verify.
    pub(crate) pending: bool,
}

/// What came of all.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) nodes: Vec<NodeVerdict>,
    /// Blobs that are there and sound, and their bytes.
    pub(crate) blobs: usize,
    pub(crate) bytes: u64,
    /// Blobs that nodes must have from an earlier stick.
    pub(crate) left_out: usize,
    /// What is wrong, with a cure each.
    pub(crate) faults: Vec<String>,
    /// What could not be checked.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    pub(crate) fn until(&self) -> Option<Timestamp> {
        self.nodes.iter().filter_map(|node| node.until).min()
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < MAX_FAULTS && !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }
}

/// The receipt of a stick; `None` where it has none.
pub(crate) fn receipt(folder: &Folder) -> Result<Option<Receipt>, Failure> {
    let unreadable = |cause: String| {
        Failure::refused(format!("{RECEIPT} on the stick is not readable: {cause}"))
            .cure("export to the stick again, with --replace; what is sound stays")
    };
    let bytes =
        folder.read(RECEIPT, MAX_RECEIPT_BYTES as u64).map_err(|error| unreadable(error.to_string()))?;
    let receipt =
        bytes.map(|bytes| Receipt::parse(&bytes)).transpose().map_err(|error| unreadable(chain(&error)))?;
    match &receipt {
        Some(receipt) if receipt.nodes.len() > MAX_NODES || receipt.blobs.len() > MAX_BLOBS => {
            Err(unreadable(format!("it names more than {MAX_NODES} nodes or {MAX_BLOBS} blobs")))
        }
        _ => Ok(receipt),
    }
}

/// Verifies a stick; blobs in `sound` were read back already.
pub(crate) async fn verify(
    stick: &Stick,
    folder: &Folder,
    receipt: &Receipt,
    roots: &Roots,
    clock: Clock,
    sound: &BTreeSet<Digest>,
) -> Result<Verdict, Failure> {
    let scratch = scratch()?;
    let mut verdict = Verdict { left_out: receipt.left_out.len(), ..Verdict::default() };
    check_strays(stick, folder, receipt, Some(roots), &mut verdict);
    let mut needed = BTreeMap::new();
    let mut manifests = BTreeMap::new();
    for node in &receipt.nodes {
        check_grant(folder, node, roots, &mut verdict);
        let mut one = NodeVerdict {
            node: node.node.clone(),
            hostname: node.hostname.clone(),
            generation: None,
            until: None,
            pending: node.state == EnrollState::Pending,
        };
        if !one.pending {
            match check_metadata(folder, node, roots, clock, scratch.path(), &mut verdict).await {
                Ok((bundle, until)) => {
                    let named = |(digest, artifact): (&Digest, &Artifact)| {
                        (digest.clone(), (artifact.length, artifact.name.clone()))
                    };
                    manifests.extend(bundle.artifacts.iter().map(named));
                    (one.generation, one.until) = (Some(bundle.generation), Some(until));
                }
                Err(fault) => verdict.fault(fault),
            }
        }
        verdict.nodes.push(one);
    }
    let listed = Listed::of(receipt);
    for (digest, (length, name)) in &manifests {
        closure(folder, digest, *length, name.as_deref(), &listed, &mut needed, &mut verdict);
    }
    check_blobs(folder, receipt, &needed, sound, &mut verdict);
    Ok(verdict)
}

/// A folder for what is followed. It need not outlive a power cut, and in memory the verifier's syncs cost nothing.
fn scratch() -> Result<TempDir, Failure> {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .map_err(|error| Failure::failed(format!("no temporary folder: {error}")))
}

/// What the receipt says of blobs: whether one is to be there.
struct Listed<'a> {
    all: BTreeSet<&'a Digest>,
    left_out: BTreeSet<&'a Digest>,
}

impl<'a> Listed<'a> {
    fn of(receipt: &'a Receipt) -> Self {
        Self {
            all: receipt.blobs.iter().map(|blob| &blob.digest).collect(),
            left_out: receipt.left_out.iter().collect(),
        }
    }
}

/// Follows a node's two repositories from the roots, as the node itself does.
async fn check_metadata(
    folder: &Folder,
    node: &MediaNode,
    roots: &Roots,
    clock: Clock,
    scratch: &Path,
    verdict: &mut Verdict,
) -> Result<(Bundle, Timestamp), String> {
    let who = format!("node {} ({})", node.node, node.hostname);
    let unusable = |error: &dyn std::error::Error| format!("{who}: {}", chain(error));
    // The artifacts repository is one for all: what is followed of it for the first node stands for the others.
    let store = scratch.join("director");
    if store.exists() {
        fs::remove_dir_all(&store).map_err(|error| unusable(&error))?;
    }
    Verifier::init(scratch, &roots.director, &roots.artifacts).map_err(|error| unusable(&error))?;
    let mut verifier = Verifier::open(scratch, node.node.clone()).map_err(|error| unusable(&error))?;
    let director = FolderFetch::within(folder.clone(), &metadata::director(&node.node));
    let artifacts = FolderFetch::within(folder.clone(), ARTIFACTS);
    let update = verifier.update(&director, &artifacts, clock, 0).await.map_err(|error| {
        let attack = error.attack().map(|attack| format!(" (this looks like: {})", attack.name()));
        let cure = "if the roots are those of this stick's fleet, export to it again; else it is not for you";
        format!("{}{}; {cure}", unusable(&error), attack.unwrap_or_default())
    })?;
    for note in verifier.unchecked(clock) {
        if !verdict.notes.contains(&note) {
            verdict.notes.push(note);
        }
    }
    let Update::Verified(bundle) = update else {
        return Err(format!("{who}: the stick has no generation for it; {WRITE_AGAIN}"));
    };
    if bundle.generation != node.generation {
        verdict.fault(format!(
            "{who}: the receipt speaks of generation {}, signed is {}; {WRITE_AGAIN}",
            node.generation, bundle.generation
        ));
    }
    let until = expiry(scratch).map_err(|cause| format!("{who}: {cause}"))?;
    Ok((*bundle, until))
}

/// When the first of the signatures ends that were just verified.
fn expiry(scratch: &Path) -> Result<Timestamp, String> {
    #[derive(Deserialize)]
    struct File {
        signed: Signed,
    }
    #[derive(Deserialize)]
    struct Signed {
        expires: Timestamp,
    }
    let mut first = Timestamp::MAX;
    for repository in ["director", "artifacts"] {
        for role in ["root", "timestamp", "snapshot", "targets"] {
            let bytes = fs::read(scratch.join(repository).join(format!("{role}.json")));
            let bytes = bytes.map_err(|error| format!("cannot read what was verified: {error}"))?;
            let file: File = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            first = first.min(file.signed.expires);
        }
    }
    Ok(first)
}

/// Whatever lies where nodes look and is of no member that the receipt names is a fault: a blank node reads the grant
/// under its id whatever the receipt says, and trusts from then on whom it names. Any name counts that is not a member's,
/// for a file system may find one under another spelling.
pub(crate) fn check_strays(
    stick: &Stick,
    folder: &Folder,
    receipt: &Receipt,
    roots: Option<&Roots>,
    verdict: &mut Verdict,
) {
    let members: BTreeSet<&str> = receipt
        .nodes
        .iter()
        .filter(|node| node.state == EnrollState::Approved)
        .map(|node| node.node.as_str())
        .collect();
    for (place, ending) in [(ENROLL, ".json"), (DIRECTOR, "")] {
        let entries = match stick.list(place, MAX_NODES) {
            Ok(entries) => entries.unwrap_or_default(),
            Err(error) => {
                verdict.fault(format!("{place} cannot be listed: {error}; {TAKE_AWAY}"));
                continue;
            }
        };
        let is_members = |name: &str| name.strip_suffix(ending).is_some_and(|node| members.contains(node));
        // No id begins with a dot: what does is left from a write that was cut off, or a desktop's.
        let strays = entries.iter().filter(|entry| !entry.name.starts_with('.') && !is_members(&entry.name));
        for stray in strays.take(MAX_FAULTS) {
            let path = format!("{place}/{}", stray.name);
            let others = match (place, roots) {
                (ENROLL, Some(roots)) => {
                    matches!(read_grant(folder, &path), Ok(Some(grant)) if pins_others(&grant, roots))
                }
                _ => false,
            };
            let others = if others { ", and would have the node trust other roots than these" } else { "" };
            verdict.fault(format!(
                "{path} is of no member that the receipt names{others}; do not plug this stick into a blank node: \
                 {TAKE_AWAY}"
            ));
        }
    }
}

/// Reads a grant; `None` where there is none.
fn read_grant(folder: &Folder, path: &str) -> Result<Option<EnrollGrant>, String> {
    let bytes =
        folder.read(path, MAX_GRANT_BYTES).map_err(|error| format!("{path}: {error}; {WRITE_AGAIN}"))?;
    let grant = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    grant.map_err(|_| format!("{path} is no grant; {WRITE_AGAIN}"))
}

/// Whether a grant has the node trust other roots than these.
fn pins_others(grant: &EnrollGrant, roots: &Roots) -> bool {
    let is = |root: &Option<Box<serde_json::value::RawValue>>, expected: &[u8]| {
        root.as_ref().is_none_or(|root| root.get().as_bytes() == expected)
    };
    !is(&grant.director_root, &roots.director) || !is(&grant.artifacts_root, &roots.artifacts)
}

/// A grant makes a node pin roots: others than these would hand it to another fleet.
fn check_grant(folder: &Folder, node: &MediaNode, roots: &Roots, verdict: &mut Verdict) {
    let path = grant_path(&node.node);
    let grant = match read_grant(folder, &path) {
        Ok(Some(grant)) => grant,
        Ok(None) => return,
        Err(fault) => return verdict.fault(fault),
    };
    if grant.node != node.node {
        verdict.fault(format!("{path} is for {}; {WRITE_AGAIN}", grant.node));
    }
    if pins_others(&grant, roots) {
        verdict.fault(format!(
            "{path} would have the node trust other roots than these; do not plug this stick into a blank node: \
             {WRITE_AGAIN}"
        ));
    }
}

/// Adds what a signed manifest needs to `needed`: itself, and every blob that it names.
fn closure(
    folder: &Folder,
    digest: &Digest,
    length: u64,
    name: Option<&str>,
    listed: &Listed<'_>,
    needed: &mut BTreeMap<Digest, (u64, String)>,
    verdict: &mut Verdict,
) {
    let what = name.map_or_else(|| format!("manifest {digest}"), |name| format!("{name} ({digest})"));
    needed.insert(digest.clone(), (length, what.clone()));
    // Whoever reads it was told to have it from an earlier stick, and what it names with it.
    if listed.left_out.contains(digest) && matches!(blobs::find(folder, digest), Ok(None)) {
        return;
    }
    let bytes = match blobs::read(folder, digest, length.min(MAX_MANIFEST_BYTES)) {
        Ok(bytes) => bytes,
        // Said once, with the blobs.
        Err(_) => return,
    };
    let manifest = match Manifest::parse(&bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            return verdict.fault(format!("{what}: {error}; push it again, then export to the stick again"));
        }
    };
    for blob in manifest.blobs() {
        // A node that runs something else than the release a patch is from has no use for it.
        let optional = blob.media_type == MEDIA_TYPE_RELEASE_PATCH && !listed.all.contains(&blob.digest);
        if !optional {
            needed.entry(blob.digest.clone()).or_insert_with(|| (blob.size, format!("a blob of {what}")));
        }
    }
}

/// Reads every blob that is signed for or listed, from the medium.
fn check_blobs(
    folder: &Folder,
    receipt: &Receipt,
    needed: &BTreeMap<Digest, (u64, String)>,
    sound: &BTreeSet<Digest>,
    verdict: &mut Verdict,
) {
    let left_out: BTreeSet<&Digest> = receipt.left_out.iter().collect();
    let mut all = needed.clone();
    for blob in &receipt.blobs {
        all.entry(blob.digest.clone()).or_insert_with(|| (blob.size, "a blob that the receipt lists".into()));
    }
    let total = all.iter().filter(|(digest, _)| !sound.contains(digest)).map(|(_, (size, _))| size);
    let mut meter = Meter::new("reading back", total.fold(0, |sum: u64, size| sum.saturating_add(*size)));
    for (digest, (size, what)) in &all {
        let checked = match sound.contains(digest) {
            true => Ok(()),
            false => blobs::check(folder, digest, *size, PART_BYTES, |bytes| meter.add(bytes)),
        };
        match checked {
            Ok(()) => {
                verdict.blobs += 1;
                verdict.bytes = verdict.bytes.saturating_add(*size);
            }
            Err(blobs::Fault::Missing) if left_out.contains(digest) => {}
            Err(fault) => verdict.fault(format!("{digest}, {what}: {fault}; {WRITE_AGAIN}")),
        }
    }
}
