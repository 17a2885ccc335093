//! The director repositories: one root for all, and for each node a tiny repository of its own.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cairn_model::{
    desired::TARGET_NAME,
    id::{Digest, NodeId},
    media::Freshness,
};
use jiff::Timestamp;
use serde_json::Value;
use tough::schema::{Metafile, Root, Snapshot, Targets, Timestamp as TimestampRole};

use super::{
    AHEAD, Exported, HubKeys, Lifetimes, SIGNED_UNDER, SPEC_VERSION, SignError, TargetEntry, decoded, expiry,
    export::{Ends, outlives},
    make_snapshot, make_timestamp, past_half, pin,
    root::{FirstKeys, RoleName, check_root, first_root, parse_root, require_key},
    seal,
    shelf::{Shelf, is_versioned},
    target, target_name, version,
};
use crate::{client::NODE, clock::SIGNED_AT, uptane::ACKNOWLEDGED};

/// All nodes' director repositories below one folder: `N.root.json`, and `<node>/` with the rest.
#[derive(Debug)]
pub struct Director {
    shelf: Shelf,
    lifetimes: Lifetimes,
    /// The newest root; the lock also makes signings of one process follow each other.
    root: Mutex<(Vec<u8>, Root)>,
}

/// What is published of one node.
struct Published {
    timestamp_version: u64,
    snapshot_version: u64,
    timestamp: TimestampRole,
}

impl Director {
    /// Makes the first root in `folder` where there is none yet, and opens it.
    pub fn init(
        folder: &Path,
        keys: &HubKeys,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<Self, SignError> {
        let shelf = Shelf { folder: folder.to_owned() };
        if shelf.newest_root()?.is_none() {
            let first = FirstKeys {
                root: keys.require_root()?,
                targets: keys.director_targets.public(),
                snapshot: keys.director_snapshot.public(),
                timestamp: keys.director_timestamp.public(),
            };
            let root = first_root("director", &first, expiry(now, lifetimes.root)?)?;
            shelf.put(&[("1.root.json".into(), &root)])?;
        }
        Self::open(folder, lifetimes)
    }

    /// Opens what [`Director::init`] made.
    pub fn open(folder: &Path, lifetimes: Lifetimes) -> Result<Self, SignError> {
        let shelf = Shelf { folder: folder.to_owned() };
        let (_, bytes) =
            shelf.newest_root()?.ok_or_else(|| SignError::NotInitialised { folder: folder.to_owned() })?;
        let root = parse_root(&bytes)?;
        Ok(Self { shelf, lifetimes, root: Mutex::new((bytes, root)) })
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, Root)> {
        // Files are whole at every instant, so a panic of another thread leaves nothing half done.
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest root.
    pub fn root_json(&self) -> Vec<u8> {
        self.lock().0.clone()
    }

    /// The first root, which a node pins.
    pub fn first_root(&self) -> Result<Vec<u8>, SignError> {
        self.shelf.required("1.root.json")
    }

    /// Takes the next root, signed by the operators. Nodes' files are signed anew as the nodes ask.
    pub fn accept_root(&self, new: &[u8]) -> Result<(), SignError> {
        let mut root = self.lock();
        check_root(Some(&root.0), new)?;
        let parsed = parse_root(new)?;
        self.shelf.put(&[(format!("{}.root.json", parsed.version), new)])?;
        *root = (new.to_vec(), parsed);
        Ok(())
    }

    /// Publishes what shall run on `node`: its desired state and every artifact that it needs.
    pub fn publish(
        &self,
        keys: &HubKeys,
        node: &NodeId,
        generation: u64,
        desired_state: &[u8],
        artifacts: &[TargetEntry],
        now: Timestamp,
    ) -> Result<(), SignError> {
        let root = self.lock();
        let shelf = self.shelf_of(node);
        let digest = Digest::of(desired_state);
        let published = published(&shelf)?;
        let mut facts = HashMap::from([
            ("node".to_owned(), Value::from(node.as_str())),
            ("generation".to_owned(), Value::from(generation)),
        ]);
        // A new wish takes nothing back of what the node was told to have arrived. Were the old targets damaged, the node
        // would only keep its reports until the next stick.
        let told = published.as_ref().and_then(|published| published.targets(&shelf).ok());
        facts
            .extend(told.as_ref().and_then(acknowledged).map(|fact| (ACKNOWLEDGED.to_owned(), fact.clone())));
        let mut targets =
            Targets::new(SPEC_VERSION.into(), version(1)?, expiry(now, self.lifetimes.targets)?);
        targets.delegations = None;
        let wish = target(desired_state.len() as u64, decoded(digest.hex())?, facts);
        targets.targets.insert(target_name(TARGET_NAME)?, wish);
        for entry in artifacts {
            let (name, target) = entry.to_target(false)?;
            targets.targets.insert(name, target);
        }
        let document = format!("{}.{TARGET_NAME}", digest.hex());
        shelf.put(&[(format!("targets/{document}"), desired_state)])?;
        let signing = Signing { root: &root.1, keys, node, shelf: &shelf, lifetimes: self.lifetimes, now };
        signing.sign_all(published.as_ref(), targets)?;
        shelf.prune_documents("targets", &document);
        Ok(())
    }

    /// Signs the files of `node` for the way by stick: to hold as long as `freshness` says, and to tell the node that its
    /// reports up to the sequence `acknowledged` have arrived. They are its newest from now on, also for a node that comes
    /// back to the network.
    ///
    /// # Errors
    /// [`SignError::NoSuchFile`] where nothing was ever published for the node.
    pub fn export(
        &self,
        keys: &HubKeys,
        node: &NodeId,
        acknowledged: u64,
        freshness: Freshness,
        now: Timestamp,
    ) -> Result<Exported, SignError> {
        let root = self.lock();
        let shelf = self.shelf_of(node);
        let nothing = || SignError::NoSuchFile { name: "timestamp.json".to_owned() };
        let published = published(&shelf)?.ok_or_else(nothing)?;
        let mut targets = published.targets(&shelf)?;
        let wish = targets.targets.get_mut(&target_name(TARGET_NAME)?).ok_or_else(|| SignError::Damaged {
            path: shelf.path("targets.json"),
            what: format!("it lists no {TARGET_NAME}"),
        })?;
        wish.custom.insert(ACKNOWLEDGED.to_owned(), acknowledged.into());
        let document = format!("targets/{}.{TARGET_NAME}", hex::encode(&wish.hashes.sha256));
        let mut files = vec![(document.clone(), shelf.required(&document)?)];
        let lifetimes = self.lifetimes.lasting(freshness, now);
        let signing = Signing { root: &root.1, keys, node, shelf: &shelf, lifetimes, now };
        files.extend(signing.sign_all(Some(&published), targets)?);
        let ends = Ends {
            root: root.1.expires,
            targets: expiry(now, lifetimes.targets)?,
            snapshot: expiry(now, lifetimes.snapshot)?,
            timestamp: expiry(now, lifetimes.timestamp)?,
        };
        Exported::new(&self.shelf, files, &ends)
    }

    /// The content of a file below `/tuf/director/<node>/`, the timestamp signed anew where it is time to.
    pub fn file(
        &self,
        keys: &HubKeys,
        node: &NodeId,
        name: &str,
        now: Timestamp,
    ) -> Result<Vec<u8>, SignError> {
        let no_such = || SignError::NoSuchFile { name: name.chars().take(120).collect() };
        let shelf = self.shelf_of(node);
        if is_versioned(name, &["root.json"]) {
            return self.shelf.read(name)?.ok_or_else(no_such);
        }
        if name == "timestamp.json" {
            let root = self.lock();
            let lifetimes = self.lifetimes;
            Signing { root: &root.1, keys, node, shelf: &shelf, lifetimes, now }.renew_if_due()?;
            return shelf.read(name)?.ok_or_else(no_such);
        }
        let is_wish = name
            .strip_prefix("targets/")
            .and_then(|name| name.strip_suffix(TARGET_NAME)?.strip_suffix('.'))
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if !is_wish && !is_versioned(name, &["targets.json", "snapshot.json"]) {
            return Err(no_such());
        }
        shelf.read(name)?.ok_or_else(no_such)
    }

    fn shelf_of(&self, node: &NodeId) -> Shelf {
        Shelf { folder: self.shelf.folder.join(node.as_str()) }
    }
}

impl Published {
    fn targets(&self, shelf: &Shelf) -> Result<Targets, SignError> {
        let name = format!("{}.targets.json", self.snapshot_version);
        shelf.parse(&name, &shelf.required(&name)?)
    }
}

/// What the signed `targets` tell the node to have arrived.
fn acknowledged(targets: &Targets) -> Option<&Value> {
    targets.targets.get(&target_name(TARGET_NAME).ok()?)?.custom.get(ACKNOWLEDGED)
}

fn published(shelf: &Shelf) -> Result<Option<Published>, SignError> {
    const NAME: &str = "timestamp.json";
    let Some(bytes) = shelf.read(NAME)? else { return Ok(None) };
    let timestamp: TimestampRole = shelf.parse(NAME, &bytes)?;
    let pin = timestamp.meta.get("snapshot.json");
    let damaged = || SignError::Damaged { path: shelf.path(NAME), what: "it pins no snapshot".into() };
    let snapshot_version = pin.ok_or_else(damaged)?.version.get();
    Ok(Some(Published { timestamp_version: timestamp.version.get(), snapshot_version, timestamp }))
}

/// What signing one node's files needs.
struct Signing<'a> {
    root: &'a Root,
    keys: &'a HubKeys,
    node: &'a NodeId,
    shelf: &'a Shelf,
    lifetimes: Lifetimes,
    now: Timestamp,
}

impl Signing<'_> {
    /// Signs targets, snapshot and timestamp with the next versions, and puts them in place. Targets and snapshot always
    /// have the same one.
    fn sign_all(
        &self,
        published: Option<&Published>,
        mut targets: Targets,
    ) -> Result<[(String, Vec<u8>); 3], SignError> {
        require_key(self.root, RoleName::Targets, "director targets", &self.keys.director_targets)?;
        require_key(self.root, RoleName::Snapshot, "director snapshot", &self.keys.director_snapshot)?;
        let number = published.map_or(0, |p| p.snapshot_version).saturating_add(1);
        targets.version = version(number)?;
        targets.expires = expiry(self.now, self.lifetimes.targets)?;
        let targets_file = seal(targets, &[&self.keys.director_targets])?;
        let pinned = (version(number)?, &targets_file[..]);
        let snapshot = make_snapshot(version(number)?, pinned, self.lifetimes, self.now)?;
        let snapshot_file = seal(snapshot, &[&self.keys.director_snapshot])?;
        let previous = published.map_or(0, |p| p.timestamp_version);
        let timestamp = self.sign_timestamp(previous, pin(version(number)?, &snapshot_file)?)?;
        let files = [
            (format!("{number}.targets.json"), targets_file),
            (format!("{number}.snapshot.json"), snapshot_file),
            ("timestamp.json".to_owned(), timestamp),
        ];
        self.shelf.put(&files)?;
        self.shelf.prune("targets.json", number);
        self.shelf.prune("snapshot.json", number);
        Ok(files)
    }

    fn sign_timestamp(&self, previous: u64, snapshot: Metafile) -> Result<Vec<u8>, SignError> {
        let key = &self.keys.director_timestamp;
        require_key(self.root, RoleName::Timestamp, "director timestamp", key)?;
        let number = version(previous.saturating_add(1))?;
        let root = self.root.version.get();
        let mut timestamp = make_timestamp(number, snapshot, root, self.lifetimes, self.now)?;
        // All nodes' directors share their keys. Without the name, one node's files could be put before another, which
        // would trust their higher versions and then take its own files for a rollback.
        timestamp._extra.insert(NODE.into(), self.node.as_str().into());
        seal(timestamp, &[key])
    }

    fn renew_if_due(&self) -> Result<(), SignError> {
        let Some(published) = published(self.shelf)? else { return Ok(()) };
        if !is_due(&published.timestamp, self.root, self.lifetimes, self.now) {
            return Ok(());
        }
        let number = published.snapshot_version;
        let snapshot_name = format!("{number}.snapshot.json");
        let snapshot_file = self.shelf.required(&snapshot_name)?;
        let snapshot: Snapshot = self.shelf.parse(&snapshot_name, &snapshot_file)?;
        let targets = published.targets(self.shelf)?;
        if is_of_another_root(&published.timestamp, self.root)
            || past_half(snapshot.expires, self.lifetimes.snapshot, self.now)
            || past_half(targets.expires, self.lifetimes.targets, self.now)
            || outlives(snapshot.expires, self.lifetimes.snapshot, self.now)
        {
            return self.sign_all(Some(&published), targets).map(drop);
        }
        let pin = pin(version(number)?, &snapshot_file)?;
        let timestamp = self.sign_timestamp(published.timestamp_version, pin)?;
        self.shelf.put(&[("timestamp.json".into(), &timestamp)])
    }
}

/// Whether a timestamp is to be signed again before it is served: past half of its life, signed for a stick, ahead of a
/// clock that was set back, or under an older root.
pub(super) fn is_due(timestamp: &TimestampRole, root: &Root, lifetimes: Lifetimes, now: Timestamp) -> bool {
    let signed_at = timestamp._extra.get(SIGNED_AT).and_then(Value::as_str);
    let ahead = signed_at
        .and_then(|text| text.parse::<Timestamp>().ok())
        .is_none_or(|signed_at| signed_at.duration_since(now) > AHEAD);
    ahead
        || past_half(timestamp.expires, lifetimes.timestamp, now)
        || outlives(timestamp.expires, lifetimes.timestamp, now)
        || is_of_another_root(timestamp, root)
}

/// Whether a timestamp was signed under another root than the newest.
pub(super) fn is_of_another_root(timestamp: &TimestampRole, root: &Root) -> bool {
    timestamp._extra.get(SIGNED_UNDER).and_then(Value::as_u64) != Some(root.version.get())
}
