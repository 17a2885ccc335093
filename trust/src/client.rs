//! Follows one TUF repository: the client workflow of the specification (section 5), over a store that fails closed.
//!
//! Verification is sigstore-tuf's `TrustedMetadataSet`, which does no I/O. The driver around it is ours, because its
//! own one gives up after 32 roots (a node may have been in a drawer for years), ignores a damaged cache, and asks for
//! the next root at every idle poll.

mod error;
mod search;

use cairn_model::id::NodeId;
use jiff::Timestamp;
use sigstore_tuf::{
    Error as TufError, Metadata, Role, Root, Snapshot, Timestamp as TimestampRole, TrustedMetadataSet,
};
use tracing::debug;

pub use error::ClientError;

use crate::{
    clock::{Clock, Freshness, signed_at},
    fetch::{Fetch, encode_segment},
    store::{ROOT, Store},
};

/// The member of a root that names its repository, so that two repositories under the same root key cannot be passed
/// off as each other. A new root must carry what the trusted one carries.
pub const REPOSITORY: &str = "x-cairn-repository";
/// The member of a director's timestamp that names the node it is for. All nodes' directors share their keys, so it is
/// checked before the timestamp is trusted: else one node's files could lock another out by their higher versions.
pub const NODE: &str = "x-cairn-node";
/// Most roots that one refresh follows: a rotation a week for twenty years. The next refresh goes on from there.
pub const MAX_ROOT_ROTATIONS: u32 = 1024;

const TIMESTAMP: &str = "timestamp.json";
const SNAPSHOT: &str = "snapshot.json";
const TARGETS: &str = "targets.json";

/// Largest files that are taken, in bytes, and how far a search goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of a root: some hundred keys.
    pub root: u64,
    /// Of a timestamp: one pin and some signatures.
    pub timestamp: u64,
    /// Of a snapshot: some ten thousand delegated roles.
    pub snapshot: u64,
    /// Of a targets file: some hundred thousand targets.
    pub targets: u64,
    /// Roles that one search for a target visits.
    pub roles: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { root: 512 << 10, timestamp: 16 << 10, snapshot: 4 << 20, targets: 32 << 20, roles: 32 }
    }
}

/// Whether a refresh has brought anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// What was trusted before is still the newest.
    Unchanged,
    /// Newer metadata is trusted and on disk.
    Changed,
}

/// The state of one repository as this machine trusts it.
#[derive(Debug)]
pub struct Client {
    store: Store,
    set: TrustedMetadataSet,
    /// A trusted snapshot that the trusted timestamp no longer pins: what it lists must not go back either.
    floor: Option<Snapshot>,
    limits: Limits,
    freshness: Freshness,
    node: Option<NodeId>,
}

type Changes = Vec<(String, Vec<u8>)>;

impl Client {
    /// Takes up what `store` holds; no clock and no network is needed for that.
    pub fn open(store: Store, limits: Limits, freshness: Freshness) -> Result<Self, ClientError> {
        let (set, floor) = load(&store)?;
        Ok(Self { store, set, floor, limits, freshness, node: None })
    }

    /// Takes only timestamps that were signed for `node`: for director repositories.
    pub fn bound_to(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    /// The trusted root.
    pub fn root(&self) -> &Root {
        self.set.root()
    }

    /// When the hub last signed a timestamp that is trusted here, by its own word.
    pub fn last_good(&self) -> Option<Timestamp> {
        self.set.timestamp().and_then(|timestamp| signed_at(&timestamp.extra))
    }

    /// The targets that the top-level role lists, once the repository is complete.
    pub fn targets(&self) -> Option<&sigstore_tuf::Targets> {
        self.set.targets_role("targets")
    }

    /// As [`Client::refresh`], but asks for nothing more where the timestamp is, byte for byte, the trusted one: a
    /// single request. Whoever could hide a new root behind an old timestamp could hide it from `refresh` as well.
    pub async fn poll(&mut self, fetch: &dyn Fetch, clock: Clock) -> Result<Refreshed, ClientError> {
        let bytes = self.fetch_timestamp(fetch).await?;
        let same = self.store.file(TIMESTAMP) == Some(&bytes[..]);
        if same && self.check_fresh(self.deadline(clock)).is_ok() {
            return Ok(Refreshed::Unchanged);
        }
        self.run(fetch, clock, Some(bytes)).await
    }

    /// The whole client workflow: roots, timestamp, snapshot, targets. What was verified is on disk when this returns,
    /// also where a later step has failed.
    pub async fn refresh(&mut self, fetch: &dyn Fetch, clock: Clock) -> Result<Refreshed, ClientError> {
        self.run(fetch, clock, None).await
    }

    async fn run(
        &mut self,
        fetch: &dyn Fetch,
        clock: Clock,
        timestamp: Option<Vec<u8>>,
    ) -> Result<Refreshed, ClientError> {
        let mut changes = Changes::new();
        let result = self.follow(fetch, clock, timestamp, &mut changes).await;
        self.keep(&changes)?;
        result.map_err(|error| error.by_clock(clock.believed(self.last_good())))?;
        Ok(if changes.is_empty() { Refreshed::Unchanged } else { Refreshed::Changed })
    }

    /// Writes what was verified. Where that fails, memory goes back to what the disk holds.
    fn keep(&mut self, changes: &Changes) -> Result<(), ClientError> {
        if let Err(error) = self.store.commit(changes) {
            (self.set, self.floor) = load(&self.store)?;
            return Err(error.into());
        }
        Ok(())
    }

    async fn follow(
        &mut self,
        fetch: &dyn Fetch,
        clock: Clock,
        timestamp: Option<Vec<u8>>,
        changes: &mut Changes,
    ) -> Result<(), ClientError> {
        self.follow_roots(fetch, changes).await?;
        // The last good time is left out here: it may come from a hub whose clock was wrong, and the next timestamp
        // may take it back.
        let early = self.freshness.deadline(clock.believed(None));
        self.set.check_root_expired(early).map_err(ClientError::refused("root"))?;
        let timestamp = match timestamp {
            Some(bytes) => bytes,
            None => self.fetch_timestamp(fetch).await?,
        };
        self.take_timestamp(timestamp, clock, changes)?;
        let now = self.deadline(clock);
        self.set.check_root_expired(now).map_err(ClientError::refused("root"))?;
        self.follow_snapshot(fetch, now, changes).await?;
        self.follow_targets(fetch, now, changes).await?;
        self.check_fresh(now)
    }

    fn deadline(&self, clock: Clock) -> Timestamp {
        self.freshness.deadline(clock.believed(self.last_good()))
    }

    async fn fetch_timestamp(&self, fetch: &dyn Fetch) -> Result<Vec<u8>, ClientError> {
        required(fetch, TIMESTAMP, self.limits.timestamp).await
    }

    async fn follow_roots(&mut self, fetch: &dyn Fetch, changes: &mut Changes) -> Result<(), ClientError> {
        let mut newest = None;
        for _ in 0..MAX_ROOT_ROTATIONS {
            let path = format!("{}.root.json", self.set.root().version.saturating_add(1));
            let result = match fetch.fetch(&path, self.limits.root).await {
                Ok(None) => {
                    self.root_followed(newest, changes);
                    return Ok(());
                }
                Ok(Some(bytes)) => self.take_root(&bytes).map(|()| newest = Some(bytes.to_vec())),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = result {
                self.root_followed(newest, changes);
                return Err(error);
            }
        }
        self.root_followed(newest, changes);
        Err(ClientError::TooManyRoots { limit: MAX_ROOT_ROTATIONS })
    }

    fn take_root(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let name = |root: &Root| root.extra.get(REPOSITORY).cloned();
        let candidate = Metadata::<Root>::from_slice(bytes).map_err(ClientError::refused("root"))?;
        if name(candidate.signed()) != name(self.set.root()) {
            return Err(ClientError::WrongRepository);
        }
        self.set.update_root(bytes).map_err(ClientError::refused("root"))?;
        debug!(version = self.set.root().version, "trusts a new root");
        Ok(())
    }

    /// A new root drops what stood on the old one; what its keys still verify is taken up again. What they don't is
    /// forgotten: that is how a repository recovers from stolen keys that had signed a huge version number.
    fn root_followed(&mut self, newest: Option<Vec<u8>>, changes: &mut Changes) {
        if let Some(bytes) = newest {
            self.floor = seed(&mut self.set, &self.store);
            changes.push((ROOT.to_owned(), bytes));
        }
    }

    fn take_timestamp(
        &mut self,
        bytes: Vec<u8>,
        clock: Clock,
        changes: &mut Changes,
    ) -> Result<(), ClientError> {
        let refused = ClientError::refused("timestamp");
        let candidate = Metadata::<TimestampRole>::from_slice(&bytes).map_err(&refused)?;
        if let Some(node) = &self.node {
            let found = candidate.signed().extra.get(NODE).and_then(|name| name.as_str());
            if found != Some(node.as_str()) {
                let found = found.unwrap_or("no node").chars().take(80).collect();
                return Err(ClientError::WrongNode { found });
            }
        }
        // Its own word for when it was signed can only make it look older to itself.
        let now = self.freshness.deadline(clock.believed(signed_at(&candidate.signed().extra)));
        match self.set.update_timestamp(&bytes, now) {
            Ok(()) => changes.push((TIMESTAMP.to_owned(), bytes)),
            Err(TufError::EqualVersion { .. }) => debug!("timestamp unchanged"),
            Err(error) => return Err(refused(error)),
        }
        self.set.check_timestamp_expired(self.deadline(clock)).map_err(&refused)
    }

    async fn follow_snapshot(
        &mut self,
        fetch: &dyn Fetch,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Result<(), ClientError> {
        let refused = ClientError::refused("snapshot");
        let pin = self.set.timestamp().and_then(|timestamp| timestamp.snapshot_meta());
        let (version, length) = pin
            .map(|pin| (pin.version, pin.length))
            .ok_or_else(|| refused(TufError::Malformed("timestamp pins no snapshot".into())))?;
        if self.set.snapshot().is_some_and(|known| known.version == version && !known.is_expired(now)) {
            return Ok(());
        }
        let limit = length.map_or(self.limits.snapshot, |length| length.min(self.limits.snapshot));
        let path = self.versioned(version, SNAPSHOT);
        let bytes = required(fetch, &path, limit).await?;
        if let Some(floor) = &self.floor {
            check_floor(floor, &bytes).map_err(&refused)?;
        }
        self.set.update_snapshot(&bytes, now).map_err(&refused)?;
        self.floor = None;
        changes.push((SNAPSHOT.to_owned(), bytes));
        Ok(())
    }

    async fn follow_targets(
        &mut self,
        fetch: &dyn Fetch,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Result<(), ClientError> {
        let refused = ClientError::refused("targets");
        self.set.check_snapshot_expired(now).map_err(ClientError::refused("snapshot"))?;
        let pinned =
            self.set.snapshot().and_then(|snapshot| snapshot.meta.get(TARGETS)).map(|pin| pin.version);
        let known = self.set.targets_role("targets");
        if known.is_some_and(|known| Some(known.version) == pinned && !known.is_expired(now)) {
            return Ok(());
        }
        // An own copy that a changed root or snapshot has put out of memory may still be the right one.
        if let Some(bytes) = self.store.file(TARGETS)
            && self.set.update_targets(bytes, now).is_ok()
        {
            return Ok(());
        }
        let bytes = self.fetch_role(fetch, "targets").await?;
        self.set.update_targets(&bytes, now).map_err(refused)?;
        changes.push((TARGETS.to_owned(), bytes));
        Ok(())
    }

    /// Fetches the metadata of a targets role in the version that the snapshot pins.
    async fn fetch_role(&self, fetch: &dyn Fetch, role: &str) -> Result<Vec<u8>, ClientError> {
        let pin = self.set.snapshot().and_then(|snapshot| snapshot.meta.get(&format!("{role}.json")));
        let (version, length) = pin.map(|pin| (pin.version, pin.length)).ok_or_else(|| {
            ClientError::refused(role)(TufError::Malformed("the snapshot does not pin it".into()))
        })?;
        let limit = length.map_or(self.limits.targets, |length| length.min(self.limits.targets));
        let path = self.versioned(version, &format!("{}.json", encode_segment(role)));
        required(fetch, &path, limit).await
    }

    fn versioned(&self, version: u64, name: &str) -> String {
        if self.set.root().consistent_snapshot { format!("{version}.{name}") } else { name.to_owned() }
    }

    /// That all four roles are there, belong together, and have not expired.
    fn check_fresh(&self, now: Timestamp) -> Result<(), ClientError> {
        let set = &self.set;
        set.check_root_expired(now).map_err(ClientError::refused("root"))?;
        set.check_timestamp_expired(now).map_err(ClientError::refused("timestamp"))?;
        set.check_snapshot_expired(now).map_err(ClientError::refused("snapshot"))?;
        let (Some(timestamp), Some(snapshot), Some(targets)) =
            (set.timestamp(), set.snapshot(), set.targets_role("targets"))
        else {
            return Err(ClientError::Incomplete);
        };
        if targets.is_expired(now) {
            let expired = TufError::Expired { role: "targets".into(), expires: targets.expires };
            return Err(ClientError::refused("targets")(expired));
        }
        let together = timestamp.snapshot_meta().map(|pin| pin.version) == Some(snapshot.version)
            && snapshot.meta.get(TARGETS).map(|pin| pin.version) == Some(targets.version);
        if together { Ok(()) } else { Err(ClientError::Incomplete) }
    }
}

/// What the store holds, verified from its root.
fn load(store: &Store) -> Result<(TrustedMetadataSet, Option<Snapshot>), ClientError> {
    let root = store.file(ROOT).unwrap_or_default();
    let mut set = TrustedMetadataSet::from_root(root).map_err(ClientError::refused("root"))?;
    let floor = seed(&mut set, store);
    Ok((set, floor))
}

/// Takes up what the store holds below the root. Expiry is not asked here: old metadata still says how far nobody may
/// go back. The files are whole (the store sees to that), so that what does not verify was signed by keys that the root
/// has dropped, or is pinned no longer.
fn seed(set: &mut TrustedMetadataSet, store: &Store) -> Option<Snapshot> {
    if let Some(bytes) = store.file(TIMESTAMP) {
        set.update_timestamp(bytes, Timestamp::MIN).ok()?;
    }
    let snapshot = store.file(SNAPSHOT)?;
    if set.update_snapshot(snapshot, Timestamp::MIN).is_err() {
        let candidate = Metadata::<Snapshot>::from_slice(snapshot).ok()?;
        let role = set.root().role("snapshot")?;
        candidate.verify_threshold(&set.root().keys, role, "snapshot").ok()?;
        return Some(candidate.into_signed());
    }
    if let Some(targets) = store.file(TARGETS) {
        // Not trusted by this alone: it is used only while pinned and unexpired.
        let _ = set.update_targets(targets, Timestamp::MIN);
    }
    None
}

/// That no role of `floor` has gone or gone back in the snapshot `bytes`.
fn check_floor(floor: &Snapshot, bytes: &[u8]) -> Result<(), TufError> {
    let candidate = Metadata::<Snapshot>::from_slice(bytes)?;
    for (name, trusted) in &floor.meta {
        let new = candidate.signed().meta.get(name).map_or(0, |pin| pin.version);
        if new < trusted.version {
            let role = format!("{name} (via snapshot)");
            return Err(TufError::Rollback { role, trusted: trusted.version, new });
        }
    }
    Ok(())
}

async fn required(fetch: &dyn Fetch, path: &str, limit: u64) -> Result<Vec<u8>, ClientError> {
    match fetch.fetch(path, limit).await? {
        Some(bytes) => Ok(bytes.to_vec()),
        None => Err(ClientError::Absent { path: path.to_owned() }),
    }
}
