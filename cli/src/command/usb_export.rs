//! `cairn usb export`: decide and show, ask, then write blobs, metadata and receipt in this order, and read all of it back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use cairn_model::{
    Digest, NodeId,
    api::{Node, OsNodes, TrustRoots},
    enroll::EnrollState,
    media::{
        self, Freshness, MAX_METADATA_NODES, MAX_RECEIPT_BYTES, MediaFiles, MediaNode, MediaNodes, MediaPlan,
        RECEIPT, Receipt,
    },
    oci::MAX_MANIFEST_BYTES,
};
use cairn_trust::clock::Clock;
use jiff::Timestamp;
use reqwest::Method;

use super::{node, usb};
use crate::{
    args::UsbExport,
    bundle::{
        blobs, fetch, layout, metadata,
        place::Place,
        plan::{self, Export, Fit, OnStick, Since},
        stick::Stick,
        verify::{self, Roots},
        write::{self, Limits, Writer},
    },
    client::Client,
    contents::Manifest,
    failure::Failure,
    meter::Meter,
    render::{self, text},
    screen,
};

/// How often what is desired may change while an export is written, until it gives up.
const ROUNDS: usize = 4;

pub(super) async fn run(
    connect: &impl Fn() -> Result<Client, Failure>,
    args: UsbExport,
    place: &Place,
) -> Result<(), Failure> {
    let client = connect()?;
    let stick = Arc::new(Stick::at(place)?);
    if !place.is_mount {
        screen::note(&format!(
            "{} is no mount point: this writes to the disk that it is on",
            place.folder.display()
        ));
    }
    let roots: TrustRoots = client.get(&["trust", "roots"], &[]).await?;
    let roots = Roots {
        director: roots.director.get().as_bytes().to_vec(),
        artifacts: roots.artifacts.get().as_bytes().to_vec(),
    };
    // What was mounted for this command is unmounted by it.
    let is_mount = place.is_mount && place.mount.is_none();
    let old = old_bundle(&stick, &roots, client.hub().as_str(), args.replace)?;
    if args.blank {
        return blank(&client, &stick, &roots, old.as_ref(), is_mount);
    }
    let since = args.since.as_deref().map(read_receipt).transpose()?;
    let asked = nodes_of(&client, &args).await?;
    let wanted: MediaPlan = client.send(Method::POST, &["usb", "plan"], &asked).await?;
    if wanted.nodes.is_empty() {
        return Err(Failure::not_found("no node of the fleet is meant by that").cure("cairn node ls"));
    }
    let since = match since {
        Some(receipt) => Some(since_for(&client, &wanted, receipt).await?),
        None => None,
    };
    let limits = Limits::of(&stick).map_err(stick.failed("look at", ""))?;
    let sound = BTreeSet::new();
    let mut job = Job { client, stick, roots, old, since, limits, is_mount, asked, wanted, sound };
    let export = job.decide()?;
    screen::print(&render::usb::summary(&job.wanted, &export, &job.stick.shown().to_string()))?;
    for problem in &job.wanted.problems {
        screen::note(&format!("Problem: {}", text::clean(problem)));
    }
    if job.require_room(&export)? {
        screen::note(
            "there is room only once what an earlier export left is removed: until this one is done, the stick is of no \
             use",
        );
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !screen::confirm("write this?", "look at --dry-run, then use --yes")? {
        return Err(Failure::failed("nothing was written"));
    }
    job.carry_out(export).await
}

/// The receipt of what is on the stick, once it is sure that it is this fleet's.
fn old_bundle(stick: &Stick, roots: &Roots, hub: &str, replace: bool) -> Result<Option<Receipt>, Failure> {
    let folder = stick.reader().map_err(stick.failed("open", ""))?;
    let other = |whose: String| {
        Failure::refused(format!("{} {whose}", stick.shown()))
            .cure("take another stick, or use --replace: what that export wrote is then removed")
    };
    let old = match verify::receipt(&folder) {
        Err(_) if replace => None,
        other => other?,
    };
    let Some(old) = old else {
        let index = folder
            .read(layout::INDEX, layout::MAX_INDEX_BYTES)
            .map_err(stick.failed("read", layout::INDEX))?;
        if index.is_some_and(|index| !layout::is_ours(&index)) && !replace {
            return Err(other("holds an OCI image layout that no export wrote".into()));
        }
        return Ok(None);
    };
    let lying = Roots::on_stick(&folder, &old);
    let is_other = match &lying {
        Some(lying) => lying.director != roots.director || lying.artifacts != roots.artifacts,
        None => !old.nodes.is_empty() && old.hub != hub,
    };
    if is_other && !replace {
        let hub = text::clean(&old.hub);
        return Err(other(format!(
            "is a stick of another fleet, whose hub is {hub}, or its roots are damaged: a stick is for one fleet"
        )));
    }
    Ok(Some(old))
}

/// A stick for requests to be enrolled: the receipt alone, which tells nodes that they may write there.
fn blank(
    client: &Client,
    stick: &Stick,
    roots: &Roots,
    old: Option<&Receipt>,
    is_mount: bool,
) -> Result<(), Failure> {
    if old.is_some_and(|old| !old.nodes.is_empty()) {
        return Err(Failure::refused(format!("{} carries a bundle already", stick.shown()))
            .cure("blank nodes write their requests to it as it is: --blank is for empty sticks"));
    }
    let receipt = receipt_of(client, &MediaPlan { nodes: vec![], blobs: vec![], problems: vec![] }, vec![]);
    // The receipt would make nodes look at what lies there.
    let folder = stick.reader().map_err(stick.failed("open", ""))?;
    usb::faultless(usb::strays(stick, &folder, &receipt, Some(roots)))?;
    write_receipt(stick, &receipt)?;
    screen::print(&format!("{} is ready for requests to be enrolled\n", stick.shown()))?;
    if is_mount {
        say_unmount(stick);
    }
    screen::note(
        "plug it into the blank nodes, then bring it back: cairn usb import DIR|DEVICE shows who asked",
    );
    Ok(())
}

fn say_unmount(stick: &Stick) {
    screen::note(&format!("unmount it before you pull it: umount {}", stick.shown()));
}

fn read_receipt(path: &Path) -> Result<Receipt, Failure> {
    let wrong = |cause: String| {
        Failure::usage(format!("cannot read the receipt {}: {cause}", path.display()))
            .cure(format!("name a copy of the {RECEIPT} of the stick that the nodes got"))
    };
    let size = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > MAX_RECEIPT_BYTES as u64 {
        return Err(wrong(format!("it has more than {MAX_RECEIPT_BYTES} bytes")));
    }
    let bytes = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    Receipt::parse(&bytes).map_err(|error| wrong(cairn_model::error::chain(&error)))
}

/// The nodes that are meant, as the hub is told: ids, so that a typing mistake changes nothing.
async fn nodes_of(client: &Client, args: &UsbExport) -> Result<OsNodes, Failure> {
    let mut nodes = Vec::new();
    if !args.nodes.is_empty() {
        let all: Vec<Node> = client.get(&["nodes"], &[]).await?;
        for wanted in &args.nodes {
            nodes.push(node::choose(&all, wanted)?.id.to_string());
        }
    }
    let site = args.site.as_ref().map(|site| format!("site={site}"));
    let terms: Vec<String> = args.selector.iter().cloned().chain(site).collect();
    Ok(OsNodes { nodes, selector: (!terms.is_empty()).then(|| terms.join(",")) })
}

/// What `receipt` may leave out: a node that it was not for has nothing of it.
async fn since_for(client: &Client, wanted: &MediaPlan, receipt: Receipt) -> Result<Since, Failure> {
    let mut needed = BTreeSet::new();
    let sizes: BTreeMap<&Digest, u64> = wanted.blobs.iter().map(|blob| (&blob.digest, blob.size)).collect();
    let strangers = plan::strangers(wanted, &receipt);
    for digest in strangers.iter().flat_map(|node| &node.manifests) {
        let Some(size) = sizes.get(digest).filter(|_| needed.insert(digest.clone())) else { continue };
        let bytes = client.manifest(None, digest, MAX_MANIFEST_BYTES.min(*size)).await?;
        let manifest =
            Manifest::parse(&bytes).map_err(|error| Failure::refused(format!("{digest}: {error}")))?;
        needed.extend(manifest.blobs().map(|blob| blob.digest.clone()));
    }
    Ok(Since { receipt, needed })
}

fn receipt_of(client: &Client, wanted: &MediaPlan, left_out: Vec<Digest>) -> Receipt {
    Receipt {
        schema: media::SCHEMA,
        written_at: Timestamp::now().to_string(),
        hub: client.hub().to_string(),
        nodes: wanted.nodes.clone(),
        blobs: wanted.blobs.clone(),
        left_out,
    }
}

fn write_receipt(stick: &Stick, receipt: &Receipt) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(receipt)
        .map_err(|error| Failure::failed(format!("cannot write the receipt: {error}")))?;
    stick.write(RECEIPT, &text).map_err(stick.failed("write", RECEIPT))
}

/// One export.
struct Job {
    client: Client,
    stick: Arc<Stick>,
    roots: Roots,
    /// What an earlier export says of the stick.
    old: Option<Receipt>,
    since: Option<Since>,
    limits: Limits,
    /// The stick is a file system of its own, which somebody has to unmount.
    is_mount: bool,
    asked: OsNodes,
    wanted: MediaPlan,
    /// Blobs whose bytes were read on the stick and are right.
    sound: BTreeSet<Digest>,
}

impl Job {
    fn decide(&mut self) -> Result<Export, Failure> {
        let on_stick = self.look()?;
        Ok(plan::plan(&self.wanted, &on_stick, self.old.as_ref(), self.since.as_ref()))
    }

    /// How each blob lies on the stick. What has the right size is read in full, once.
    fn look(&mut self) -> Result<BTreeMap<Digest, OnStick>, Failure> {
        let folder = self.stick.reader().map_err(self.stick.failed("open", ""))?;
        let failed = |digest: &Digest| self.stick.failed("read", &media::blob_path(digest));
        let mut found = Vec::new();
        for blob in &self.wanted.blobs {
            let there = blobs::find(&folder, &blob.digest).map_err(failed(&blob.digest))?;
            found.push((blob, there.map(|found| found.size())));
        }
        let to_read =
            found.iter().filter(|(blob, size)| *size == Some(blob.size)).map(|(blob, _)| blob.size).sum();
        let mut meter = Meter::new("checking what is there", to_read);
        let (mut states, mut sound) = (BTreeMap::new(), BTreeSet::new());
        for (blob, size) in found {
            let state = match size {
                None => {
                    let left = Writer::left(&self.stick, &blob.digest, blob.size, self.limits);
                    match left.map_err(failed(&blob.digest))? {
                        0 => OnStick::Absent,
                        left => OnStick::Begun(left),
                    }
                }
                Some(_) if self.sound.contains(&blob.digest) => OnStick::Sound,
                Some(_) => match blobs::check(&folder, &blob.digest, blob.size, self.limits.part, |bytes| {
                    meter.add(bytes)
                }) {
                    Ok(()) => OnStick::Sound,
                    Err(_) => OnStick::Damaged,
                },
            };
            if state == OnStick::Sound {
                sound.insert(blob.digest.clone());
            }
            states.insert(blob.digest.clone(), state);
        }
        self.sound.extend(sound);
        Ok(states)
    }

    /// Refuses before the first byte where there is no room; true where what is superseded has to go first.
    fn require_room(&self, export: &Export) -> Result<bool, Failure> {
        let room = self.stick.room().map_err(self.stick.failed("look at", ""))?;
        match plan::fit(export, self.wanted.nodes.len(), room) {
            Fit::Yes => Ok(false),
            Fit::OnceRemoved => Ok(true),
            Fit::No(missing) => Err(Failure::failed(format!(
                "{} has no room: {} are missing, {} are free, {} are to be written and some room is kept for what nodes \
                 write",
                self.stick.shown(),
                text::size(missing),
                text::size(room.free),
                text::size(export.to_write)
            ))
            .cure("make room on the stick, take a larger one, name fewer nodes, or leave out with --since what they have")),
        }
    }

    async fn carry_out(mut self, mut export: Export) -> Result<(), Failure> {
        let mut freed = 0;
        let mut rounds = 0;
        let mut written = BTreeSet::new();
        let files = loop {
            if self.require_room(&export)? {
                freed += self.remove(usb::digests(&export.superseded))?;
            }
            fetch::fetch_all(&self.client, &self.stick, &export.write, self.limits).await?;
            written.extend(usb::digests(&export.write));
            let files = self.metadata().await?;
            // What was desired may have changed while blobs were written. What is signed now is for what is asked now.
            let now: MediaPlan = self.client.send(Method::POST, &["usb", "plan"], &self.asked).await?;
            let settled = plan::is_same(&self.wanted, &now);
            self.wanted = now;
            if settled {
                break files;
            }
            rounds += 1;
            if rounds == ROUNDS {
                return Err(Failure::timeout(
                    "what these nodes shall run changes faster than it can be written",
                )
                .cure("run this again when nobody deploys: what is on the stick stays"));
            }
            export = self.decide()?;
        };
        self.write_rest(&files, &export)?;
        freed += self.remove(usb::digests(&export.superseded))?;
        // Written for what was desired a moment ago: no receipt will ever list it.
        self.remove(
            written.into_iter().filter(|digest| self.wanted.blobs.iter().all(|b| b.digest != *digest)),
        )?;
        write::remove_unfinished(&self.stick).map_err(self.stick.failed("tidy", write::BLOBS))?;
        let left_out = usb::digests(&export.left_out);
        let receipt = receipt_of(&self.client, &self.wanted, left_out);
        write_receipt(&self.stick, &receipt)?;
        self.read_back(&receipt, &files, freed).await
    }

    /// Signed for these nodes now. Those whose metadata holds longest come last: the artifacts' metadata, which all share,
    /// is signed with each request, and the last one stands.
    async fn metadata(&self) -> Result<MediaFiles, Failure> {
        let mut nodes: Vec<&MediaNode> = self.wanted.nodes.iter().collect();
        nodes.sort_by_key(|node| match node.freshness {
            Freshness::Connected => 0,
            Freshness::Days(days) => days,
            Freshness::Unlimited => u32::MAX,
        });
        let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.node.clone()).collect();
        let mut all: Option<MediaFiles> = None;
        for some in nodes.chunks(MAX_METADATA_NODES) {
            let some = MediaNodes { nodes: some.iter().map(|node| node.node.clone()).collect() };
            let files: MediaFiles = self.client.send(Method::POST, &["usb", "metadata"], &some).await?;
            all = Some(match all {
                None => files,
                Some(mut all) => {
                    all.files.retain(|path, _| !path.starts_with(media::ARTIFACTS));
                    all.files.extend(files.files);
                    all.problems.extend(files.problems);
                    all.problems.dedup();
                    all
                }
            });
        }
        let all = all.ok_or_else(|| Failure::not_found("no node is meant"))?;
        metadata::check(&all.files, &ids)?;
        Ok(all)
    }

    /// The layout's index, then the metadata, then away with what it replaces.
    fn write_rest(&self, files: &MediaFiles, export: &Export) -> Result<(), Failure> {
        let absent: BTreeSet<&Digest> = export.left_out.iter().map(|blob| &blob.digest).collect();
        let there = self.wanted.blobs.iter().filter(|blob| !absent.contains(&blob.digest));
        for (path, bytes) in
            [(layout::OCI_LAYOUT, layout::oci_layout()), (layout::INDEX, layout::index(there))]
        {
            self.stick.write(path, &bytes).map_err(self.stick.failed("write", path))?;
        }
        metadata::write(&self.stick, &files.files)?;
        metadata::prune(&self.stick, &files.files)
    }

    /// Removes blobs that nobody needs; how many bytes that gives back.
    fn remove(&self, unneeded: impl IntoIterator<Item = Digest>) -> Result<u64, Failure> {
        let mut freed = 0;
        for digest in unneeded {
            let failed = self.stick.failed("remove", &media::blob_path(&digest));
            freed += write::remove(&self.stick, &digest).map_err(failed)?;
        }
        Ok(freed)
    }

    async fn read_back(&self, receipt: &Receipt, files: &MediaFiles, freed: u64) -> Result<(), Failure> {
        let folder = self.stick.reader().map_err(self.stick.failed("open", ""))?;
        for (path, text) in &files.files {
            let read = folder.read(path, text.len() as u64).map_err(self.stick.failed("read", path))?;
            if read.as_deref() != Some(text.as_bytes()) {
                return Err(Failure::refused(format!("{path} on the stick is not what was written"))
                    .cure("the stick loses data: take another one"));
            }
        }
        let verdict =
            verify::verify(&self.stick, &folder, receipt, &self.roots, Clock::system_only(), &self.sound)
                .await?;
        // Below the summary of what was about to be written.
        screen::print(&format!("\n{}", render::usb::verdict(&verdict, receipt, Timestamp::now())))?;
        if freed > 0 {
            screen::note(&format!(
                "{} of earlier exports were removed: nobody needs them",
                text::size(freed)
            ));
        }
        for problem in &files.problems {
            screen::note(&format!("Problem: {}", text::clean(problem)));
        }
        usb::faultless(verdict)?;
        let waiting = receipt.nodes.iter().filter(|node| node.state == EnrollState::Pending).count();
        if waiting > 0 {
            screen::note(&format!(
                "{waiting} of the nodes wait for `cairn node approve` and get nothing yet"
            ));
        }
        if self.is_mount {
            say_unmount(&self.stick);
        }
        Ok(())
    }
}
