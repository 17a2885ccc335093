//! The artifacts repository: what is genuine, shared by all nodes. Its targets may be signed elsewhere.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cairn_model::{id::Digest, media::Freshness};
use jiff::{SignedDuration, Timestamp};
use sigstore_tuf::{Metadata, TrustedMetadataSet};
use tough::schema::{Root, Snapshot, Targets, Timestamp as TimestampRole};

use super::{
    Exported, HubKeys, Lifetimes, SPEC_VERSION, SignError, TargetEntry,
    director::{is_due, is_of_another_root},
    expiry,
    export::{Ends, outlives},
    make_snapshot, make_timestamp, past_half, pin,
    root::{FirstKeys, RoleName, check_root, first_root, parse_root, require_key},
    seal,
    shelf::{Shelf, is_versioned},
    target_name, version,
};
use crate::client::{ClientError, Limits};

/// By how much less than asked a snapshot may hold on a stick. The nodes of a large fleet are exported in batches, and
/// only so many versions are kept for clients that are in the middle of an update.
const SHARED_FOR: SignedDuration = SignedDuration::from_hours(1);

/// The artifacts repository in one folder.
#[derive(Debug)]
pub struct Artifacts {
    shelf: Shelf,
    lifetimes: Lifetimes,
    state: Mutex<State>,
}

/// What is published now. Held in memory, so that a push does not read it again.
#[derive(Debug)]
struct State {
    root_file: Vec<u8>,
    root: Root,
    targets: Targets,
    targets_file: Vec<u8>,
    snapshot: Snapshot,
    snapshot_file: Vec<u8>,
    timestamp: TimestampRole,
}

/// What of the roles below the root is to be signed, and for how long. The timestamp always is.
struct Renewal {
    targets: bool,
    snapshot: bool,
    lifetimes: Lifetimes,
}

impl Artifacts {
    /// Makes an empty repository in `folder` where there is none yet, and opens it.
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
                targets: keys.require_artifacts_targets()?.public(),
                snapshot: keys.artifacts_snapshot.public(),
                timestamp: keys.artifacts_timestamp.public(),
            };
            let root = first_root("artifacts", &first, expiry(now, lifetimes.root)?)?;
            shelf.put(&[("1.root.json".into(), &root)])?;
        }
        // Also after a power cut between the root and the rest.
        if shelf.read("timestamp.json")?.is_none() {
            let root = parse_root(&shelf.required("1.root.json")?)?;
            let mut targets = Targets::new(SPEC_VERSION.into(), version(1)?, expiry(now, lifetimes.targets)?);
            targets.delegations = None;
            let key = keys.require_artifacts_targets()?;
            require_key(&root, RoleName::Targets, "artifacts targets", key)?;
            let targets_file = seal(targets, &[key])?;
            let signer = Signer { root: &root, keys, lifetimes, now };
            signer.publish(&shelf, (1, &targets_file), 0, 0)?;
        }
        Self::open(folder, lifetimes)
    }

    /// Opens what [`Artifacts::init`] made.
    pub fn open(folder: &Path, lifetimes: Lifetimes) -> Result<Self, SignError> {
        let shelf = Shelf { folder: folder.to_owned() };
        let state = load(&shelf)?;
        Ok(Self { shelf, lifetimes, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced as a whole, after its files; a panic of another thread leaves the old one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest root.
    pub fn root_json(&self) -> Vec<u8> {
        self.lock().root_file.clone()
    }

    /// The first root, which a node pins.
    pub fn first_root(&self) -> Result<Vec<u8>, SignError> {
        self.shelf.required("1.root.json")
    }

    /// Whether the artifact is a signed target.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.entry(digest).is_some()
    }

    /// The signed target of this digest.
    pub fn entry(&self, digest: &Digest) -> Option<TargetEntry> {
        let name = target_name(&digest.target_name()).ok()?;
        let state = self.lock();
        TargetEntry::of_target(&name, state.targets.targets.get(&name)?)
    }

    /// Every signed target, by digest.
    pub fn entries(&self) -> Vec<TargetEntry> {
        let state = self.lock();
        let targets = state.targets.targets.iter();
        let mut entries: Vec<_> =
            targets.filter_map(|(name, target)| TargetEntry::of_target(name, target)).collect();
        entries.sort_by(|a, b| a.digest.cmp(&b.digest));
        entries
    }

    /// Makes `entries` genuine, by the artifacts targets key that is on this machine. What is there already, unchanged,
    /// costs nothing.
    pub fn add(&self, keys: &HubKeys, entries: &[TargetEntry], now: Timestamp) -> Result<(), SignError> {
        let mut state = self.lock();
        let Some(targets) = self.extended(&state, entries, now)? else { return Ok(()) };
        let key = keys.require_artifacts_targets()?;
        require_key(&state.root, RoleName::Targets, "artifacts targets", key)?;
        let file = seal(targets, &[key])?;
        require_room(&file)?;
        self.publish(&mut state, keys, &file, self.lifetimes, now)
    }

    /// The targets as they would be with `entries`, for the operators to sign where their key is kept.
    pub fn unsigned_targets(&self, entries: &[TargetEntry], now: Timestamp) -> Result<Vec<u8>, SignError> {
        let state = self.lock();
        let targets = self.extended(&state, entries, now)?;
        let targets = match targets {
            Some(targets) => targets,
            None => next_targets(&state, self.lifetimes, now)?,
        };
        seal(targets, &[])
    }

    /// Whether the targets are past half of their life: time for the operators to sign them again, even if nothing is
    /// new, where their key is not here.
    pub fn targets_due(&self, now: Timestamp) -> bool {
        past_half(self.lock().targets.expires, self.lifetimes.targets, now)
    }

    /// Publishes targets that were signed elsewhere, if the root's targets role has signed them and they come next.
    pub fn accept_targets(&self, keys: &HubKeys, signed: &[u8], now: Timestamp) -> Result<(), SignError> {
        require_room(signed)?;
        let mut state = self.lock();
        let refused = |error| SignError::Refused(ClientError::refused("targets")(error));
        let candidate = Metadata::<sigstore_tuf::Targets>::from_slice(signed).map_err(refused)?;
        let set = TrustedMetadataSet::from_root(&state.root_file).map_err(refused)?;
        let unknown = || refused(sigstore_tuf::Error::UnknownRole("targets".into()));
        let role = set.root().role("targets").ok_or_else(unknown)?;
        candidate.verify_threshold(&set.root().keys, role, "targets").map_err(refused)?;
        let (found, expected) = (candidate.signed().version, state.targets.version.get().saturating_add(1));
        if found != expected {
            return Err(SignError::WrongVersion { found, expected });
        }
        if candidate.signed().expires <= now {
            let expires = candidate.signed().expires;
            return Err(refused(sigstore_tuf::Error::Expired { role: "targets".into(), expires }));
        }
        self.publish(&mut state, keys, signed, self.lifetimes, now)
    }

    /// Takes the next root, signed by the operators, and signs anew what the hub's keys sign. Where the targets key has
    /// changed, let new targets follow at once.
    pub fn accept_root(&self, keys: &HubKeys, new: &[u8], now: Timestamp) -> Result<(), SignError> {
        let mut state = self.lock();
        check_root(Some(&state.root_file), new)?;
        let root = parse_root(new)?;
        self.shelf.put(&[(format!("{}.root.json", root.version), new)])?;
        state.root_file = new.to_vec();
        state.root = root;
        self.renew_if_due(&mut state, keys, now)
    }

    /// The content of a file below `/tuf/artifacts/`, the timestamp signed anew where it is time to.
    pub fn file(&self, keys: &HubKeys, name: &str, now: Timestamp) -> Result<Vec<u8>, SignError> {
        let no_such = || SignError::NoSuchFile { name: name.chars().take(120).collect() };
        if name == "timestamp.json" {
            // Read before another thread can put one there that was signed for a stick.
            let mut state = self.lock();
            self.renew_if_due(&mut state, keys, now)?;
            return self.shelf.read(name)?.ok_or_else(no_such);
        }
        if !is_versioned(name, &["root.json", "targets.json", "snapshot.json"]) {
            return Err(no_such());
        }
        self.shelf.read(name)?.ok_or_else(no_such)
    }

    /// Signs the repository for the way by stick, to hold as long as `freshness` says: the longest of the nodes that the
    /// stick is for. [`Artifacts::file`] signs it anew before it serves it, so that nodes on the network keep to the usual
    /// life. Targets that would end earlier are signed anew only if their key is here: see [`Exported::ends_first`].
    pub fn export(
        &self,
        keys: &HubKeys,
        freshness: Freshness,
        now: Timestamp,
    ) -> Result<Exported, SignError> {
        let mut state = self.lock();
        let lifetimes = self.lifetimes.lasting(freshness, now).with_lasting_targets(now);
        let until = expiry(now, lifetimes.timestamp)?;
        let rotated = is_of_another_root(&state.timestamp, &state.root);
        let renewal = Renewal {
            targets: rotated || state.targets.expires < until,
            snapshot: rotated || until.duration_since(state.snapshot.expires) > SHARED_FOR,
            lifetimes,
        };
        self.renew(&mut state, keys, &renewal, now)?;
        let files = vec![
            (format!("{}.targets.json", state.targets.version), state.targets_file.clone()),
            (format!("{}.snapshot.json", state.snapshot.version), state.snapshot_file.clone()),
            ("timestamp.json".to_owned(), self.shelf.required("timestamp.json")?),
        ];
        let ends = Ends {
            root: state.root.expires,
            targets: state.targets.expires,
            snapshot: state.snapshot.expires,
            timestamp: state.timestamp.expires,
        };
        Exported::new(&self.shelf, files, &ends)
    }

    /// The next targets with `entries`; `None` where all are there already.
    fn extended(
        &self,
        state: &State,
        entries: &[TargetEntry],
        now: Timestamp,
    ) -> Result<Option<Targets>, SignError> {
        let new: Vec<_> = entries.iter().map(|entry| entry.to_target(true)).collect::<Result<_, _>>()?;
        if new.iter().all(|(name, target)| state.targets.targets.get(name) == Some(target)) {
            return Ok(None);
        }
        let mut targets = next_targets(state, self.lifetimes, now)?;
        targets.targets.extend(new);
        Ok(Some(targets))
    }

    fn publish(
        &self,
        state: &mut State,
        keys: &HubKeys,
        targets: &[u8],
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<(), SignError> {
        let signer = Signer { root: &state.root, keys, lifetimes, now };
        let parsed: Targets = self.shelf.parse("targets.json", targets)?;
        let pinned = (parsed.version.get(), targets);
        let (snapshot, timestamp) = (state.snapshot.version.get(), state.timestamp.version.get());
        let signed = signer.publish(&self.shelf, pinned, snapshot, timestamp)?;
        state.targets = parsed;
        state.targets_file = targets.to_vec();
        state.snapshot = self.shelf.parse("snapshot.json", &signed.snapshot_file)?;
        state.snapshot_file = signed.snapshot_file;
        state.timestamp = self.shelf.parse("timestamp.json", &signed.timestamp_file)?;
        Ok(())
    }

    fn renew_if_due(&self, state: &mut State, keys: &HubKeys, now: Timestamp) -> Result<(), SignError> {
        if !is_due(&state.timestamp, &state.root, self.lifetimes, now) {
            return Ok(());
        }
        let rotated = is_of_another_root(&state.timestamp, &state.root);
        let (targets, snapshot, lifetimes) = (state.targets.expires, state.snapshot.expires, self.lifetimes);
        let renewal = Renewal {
            targets: rotated || past_half(targets, lifetimes.targets, now),
            snapshot: rotated
                || past_half(snapshot, lifetimes.snapshot, now)
                || outlives(snapshot, lifetimes.snapshot, now),
            lifetimes,
        };
        self.renew(state, keys, &renewal, now)
    }

    fn renew(
        &self,
        state: &mut State,
        keys: &HubKeys,
        due: &Renewal,
        now: Timestamp,
    ) -> Result<(), SignError> {
        // The operators' key signs here only where it is here; elsewhere they are asked in time by their own tool.
        if let Some(key) = keys.artifacts_targets.as_ref().filter(|_| due.targets)
            && require_key(&state.root, RoleName::Targets, "artifacts targets", key).is_ok()
        {
            let file = seal(next_targets(state, due.lifetimes, now)?, &[key])?;
            return self.publish(state, keys, &file, due.lifetimes, now);
        }
        if due.snapshot {
            let file = state.targets_file.clone();
            return self.publish(state, keys, &file, due.lifetimes, now);
        }
        let signer = Signer { root: &state.root, keys, lifetimes: due.lifetimes, now };
        let snapshot = (state.snapshot.version.get(), &state.snapshot_file[..]);
        let file = signer.timestamp(snapshot, state.timestamp.version.get())?;
        self.shelf.put(&[("timestamp.json".into(), &file)])?;
        state.timestamp = self.shelf.parse("timestamp.json", &file)?;
        Ok(())
    }
}

fn next_targets(state: &State, lifetimes: Lifetimes, now: Timestamp) -> Result<Targets, SignError> {
    let mut targets = state.targets.clone();
    targets.version = version(targets.version.get().saturating_add(1))?;
    targets.expires = expiry(now, lifetimes.targets)?;
    Ok(targets)
}

/// Refuses targets that are so large that nodes refuse them, or soon would: room is left to sign them anew.
fn require_room(targets: &[u8]) -> Result<(), SignError> {
    let limit = Limits::default().targets / 16 * 15;
    if targets.len() as u64 > limit { Err(SignError::Full { limit }) } else { Ok(()) }
}

/// What was written beside the targets.
struct SignedFiles {
    snapshot_file: Vec<u8>,
    timestamp_file: Vec<u8>,
}

/// What signing snapshot and timestamp needs.
struct Signer<'a> {
    root: &'a Root,
    keys: &'a HubKeys,
    lifetimes: Lifetimes,
    now: Timestamp,
}

impl Signer<'_> {
    /// Signs the snapshot and timestamp that follow the given versions, and writes all three files.
    fn publish(
        &self,
        shelf: &Shelf,
        (targets_version, targets): (u64, &[u8]),
        snapshot: u64,
        timestamp: u64,
    ) -> Result<SignedFiles, SignError> {
        require_key(self.root, RoleName::Snapshot, "artifacts snapshot", &self.keys.artifacts_snapshot)?;
        let number = snapshot.saturating_add(1);
        let role =
            make_snapshot(version(number)?, (version(targets_version)?, targets), self.lifetimes, self.now)?;
        let snapshot_file = seal(role, &[&self.keys.artifacts_snapshot])?;
        let timestamp_file = self.timestamp((number, &snapshot_file), timestamp)?;
        shelf.put(&[
            (format!("{targets_version}.targets.json"), targets),
            (format!("{number}.snapshot.json"), &snapshot_file),
            ("timestamp.json".into(), &timestamp_file),
        ])?;
        shelf.prune("targets.json", targets_version);
        shelf.prune("snapshot.json", number);
        Ok(SignedFiles { snapshot_file, timestamp_file })
    }

    fn timestamp(&self, (number, snapshot): (u64, &[u8]), previous: u64) -> Result<Vec<u8>, SignError> {
        require_key(self.root, RoleName::Timestamp, "artifacts timestamp", &self.keys.artifacts_timestamp)?;
        let pin = pin(version(number)?, snapshot)?;
        let next = version(previous.saturating_add(1))?;
        let role = make_timestamp(next, pin, self.root.version.get(), self.lifetimes, self.now)?;
        seal(role, &[&self.keys.artifacts_timestamp])
    }
}

fn load(shelf: &Shelf) -> Result<State, SignError> {
    let not_initialised = || SignError::NotInitialised { folder: shelf.folder.clone() };
    let (_, root_file) = shelf.newest_root()?.ok_or_else(not_initialised)?;
    let root = parse_root(&root_file)?;
    let timestamp_file = shelf.read("timestamp.json")?.ok_or_else(not_initialised)?;
    let timestamp: TimestampRole = shelf.parse("timestamp.json", &timestamp_file)?;
    let pinned = |meta: Option<&tough::schema::Metafile>, name: &str| {
        let damaged = || SignError::Damaged { path: shelf.path(name), what: "it pins nothing".into() };
        meta.map(|meta| meta.version.get()).ok_or_else(damaged)
    };
    let number = pinned(timestamp.meta.get("snapshot.json"), "timestamp.json")?;
    let name = format!("{number}.snapshot.json");
    let snapshot_file = shelf.required(&name)?;
    let snapshot: Snapshot = shelf.parse(&name, &snapshot_file)?;
    let name = format!("{}.targets.json", pinned(snapshot.meta.get("targets.json"), &name)?);
    let targets_file = shelf.required(&name)?;
    let targets: Targets = shelf.parse(&name, &targets_file)?;
    Ok(State { root_file, root, targets, targets_file, snapshot, snapshot_file, timestamp })
}
