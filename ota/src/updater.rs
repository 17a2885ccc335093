//! Updates as a state machine: `Idle → Fetching → Written → Armed → Trying → Good | RolledBack`, beside `Refused` and
//! `Failed`. Each step is on the disk before the next begins, and all of them may be cut off and repeated: what counts is
//! what is seen on ESP and slots, `state.json` only says why.
//!
//! Which step follows which, and what a start of the machine means, is pure (`state`). The order of the steps that destroy
//! something keeps one bootable entry with its slot whole at every instant:
//! 1. the running OS's entry is made sure of (blessed where it still has a counter);
//! 2. all other entries are removed from the ESP, and only then
//! 3. the other slot is written: its boot record, its root, its hash tree; the kernel image under a name that the loader
//!    does not see;
//! 4. when all of it has been read back, the kernel image gets its name.

use std::{io, path::Path};

use cairn_model::{
    Digest, OsVersion,
    desired::OsHealth,
    error::chain,
    release::Release,
    report::{OsProgress, OsState, OsStatus, Slot},
};

use crate::{
    boot::{BootControl, BootError, Entry, SystemdBoot},
    data_layout::{self, LayoutError},
    machine::{Machine, MachineError},
    record::BootRecord,
    write::WriteError,
};

mod admission;
mod armed;
mod install;
mod marks;
mod startup;
mod state;
mod store;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Refusal};
pub use marks::{Mark, SlotInfo};
pub use state::{Attempt, IllegalStep};
pub(crate) use store::write_durably;

use state::{Event, next};
use store::{Saved, Store, bounded};

/// Most units whose health is expected after a restart.
pub const MAX_EXPECTATIONS: usize = 1024;

/// What a start of the machine turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// Nothing to tell.
    Normal,
    /// A new OS runs: [`Updater::confirm`] or [`Updater::reject`] it.
    Trying {
        /// Its version.
        version: OsVersion,
    },
    /// A new OS was tried and given up. Told once.
    RolledBack {
        /// Its version.
        version: OsVersion,
        /// Why.
        reason: String,
    },
    /// An OS that had been good was given up. Told once.
    FellOver {
        /// Its version.
        version: OsVersion,
        /// Why.
        reason: String,
    },
}

/// Why an update did not go on.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The machine is not known.
    #[error("failed to find out how this machine is laid out")]
    Machine(#[source] MachineError),
    /// Boot entries cannot be read or changed.
    #[error("failed to change what is booted")]
    Boot(#[source] BootError),
    /// The release will not be had. Nothing was written.
    #[error("the release is refused")]
    Refused(#[source] Refusal),
    /// It did not get into the slot.
    #[error("failed to write the release into the other slot")]
    Write(#[source] WriteError),
    /// It was told to stop; the next call goes on.
    #[error("the update was stopped; it goes on from there")]
    Stopped,
    /// The layout of the data partition does not fit.
    #[error("failed to work with the layout of the data partition")]
    Layout(#[source] LayoutError),
    /// The state could not be saved.
    #[error("failed to save {path}; make room on the data partition")]
    Save {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A slot could not be read or written.
    #[error("failed to {what} slot {}", slot.as_str())]
    Device {
        /// What was tried.
        what: &'static str,
        /// Which slot.
        slot: Slot,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The step cannot follow.
    #[error("the update is in no state for that")]
    Step(#[source] IllegalStep),
    /// There would be nothing left to boot.
    #[error("nothing else can be booted: {why}; install a release into the other slot first")]
    NoWayBack {
        /// How it shows.
        why: &'static str,
    },
    /// The running OS has no entry to come back to.
    #[error(
        "the running version {version} has no boot entry to come back to; write its kernel image to EFI/Linux on the ESP, \
         or flash the machine again"
    )]
    NoOwnEntry {
        /// Which.
        version: OsVersion,
    },
    /// A slot holds nothing that could be marked so.
    #[error("slot {} holds no whole OS; install a release into it", slot.as_str())]
    Empty {
        /// Which.
        slot: Slot,
    },
    /// Nobody has seen it start.
    #[error("slot {} was never kept, and may not start; make it active first, and restart into it", slot.as_str())]
    Untried {
        /// Which.
        slot: Slot,
    },
    /// More was given than is kept.
    #[error("{count} units are expected to be healthy; at most {MAX_EXPECTATIONS} can be")]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// Drives the updates of one machine. One at a time: whoever has it, has the slots.
#[derive(Debug)]
pub struct Updater {
    machine: Machine,
    boot: Box<dyn BootControl>,
    store: Store,
    saved: Saved,
    progress: Option<OsProgress>,
    /// What the other slot holds, where it can be booted.
    other: Option<OsVersion>,
    /// Why the state file was made anew, if it was.
    note: Option<String>,
}

impl Updater {
    /// Compares what is remembered in `state_dir` with what is seen, and puts right what was cut off.
    ///
    /// # Errors
    /// If ESP or slots cannot be read, or the state not be written. A state file that is torn or gone is no error.
    pub fn open(machine: Machine, state_dir: &Path) -> Result<(Self, Startup), UpdateError> {
        let boot = SystemdBoot::new(&machine.esp, &machine.identity.version);
        Self::open_with(machine, Box::new(boot), state_dir)
    }

    /// The same with another boot control.
    ///
    /// # Errors
    /// As [`Updater::open`].
    pub fn open_with(
        machine: Machine,
        boot: Box<dyn BootControl>,
        state_dir: &Path,
    ) -> Result<(Self, Startup), UpdateError> {
        let save = |source| UpdateError::Save { path: state_dir.to_owned(), source };
        let store = Store::open(state_dir).map_err(save)?;
        let (saved, note) = match store.read() {
            Ok(saved) => (saved, None),
            Err(why) => (Saved::default(), Some(format!("state.json was made anew: {why}"))),
        };
        let mut updater = Self { machine, boot, store, saved, progress: None, other: None, note };
        let startup = updater.start()?;
        Ok((updater, startup))
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// How the OS stands.
    pub fn status(&self) -> OsStatus {
        let attempt = self.saved.attempt.as_ref();
        OsStatus {
            version: self.machine.identity.version.clone(),
            compatible: self.machine.identity.compatible.clone(),
            slot: self.machine.running,
            other: self.other.clone(),
            state: attempt.map_or(OsState::Idle, |attempt| attempt.state),
            release: attempt.and_then(|attempt| attempt.digest.clone()),
            target: attempt.map(|attempt| attempt.version.clone()),
            progress: self.progress.or_else(|| attempt.and_then(|attempt| attempt.progress)),
            detail: attempt.and_then(|attempt| attempt.detail.clone()).or_else(|| self.note.clone()),
        }
    }

    /// What is being tried.
    pub fn trying(&self) -> Option<&Attempt> {
        self.saved.attempt.as_ref().filter(|attempt| {
            attempt.state == OsState::Trying && attempt.root_hash == self.machine.identity.root_hash
        })
    }

    /// What must hold before what is being tried is kept.
    pub fn health(&self) -> Option<&OsHealth> {
        self.trying().map(|attempt| &attempt.health)
    }

    /// The boot is complete, and what is being tried is kept. Also to be called once an ordinary boot is complete: the
    /// boot record is what tells the initrd. Before it does, all of the root that runs is read: a block that goes bad later
    /// is proven at the next start only while the record says that a boot was not completed. The layout of the data
    /// partition is changed here and nowhere else.
    ///
    /// # Errors
    /// If what runs is damaged: then nothing is kept. If the ESP, the boot record, the state, or the data partition fails;
    /// to be called again then.
    pub fn confirm(&mut self) -> Result<(), UpdateError> {
        let slot = self.machine.running;
        let failed = |source| UpdateError::Device { what: "reset the boot record of", slot, source };
        let tree = self.machine.devices(slot).open_tree().map_err(failed)?;
        let record = BootRecord::read(&tree, &self.machine.identity.root_hash);
        if record.starts > 0 {
            let damaged =
                |error| UpdateError::Device { what: "read all of", slot, source: io::Error::other(error) };
            self.machine.scan().map_err(damaged)?;
        }
        if let Some(attempt) = self.trying().cloned() {
            self.boot.bless(&attempt.version).map_err(UpdateError::Boot)?;
            let mut saved = self.saved.clone();
            saved.failures.retain(|failure| Some(&failure.digest) != attempt.digest.as_ref());
            self.step_from(saved, Event::Confirmed, None)?;
        }
        if record.starts > 0 {
            let tree = self.machine.devices(slot).open_tree_to_write().map_err(failed)?;
            BootRecord { starts: 0, ..record }.write(&tree).map_err(failed)?;
        }
        data_layout::migrate(self.store.folder(), data_layout::MIGRATIONS).map_err(UpdateError::Layout)?;
        self.look()
    }

    /// What is being tried is given up: remembered with the reason, and not booted again. The caller restarts the machine.
    ///
    /// # Errors
    /// If nothing is being tried; [`UpdateError::NoWayBack`] if nothing else could be booted: then nothing is changed, and
    /// a restart would help nobody; or if ESP or state fail.
    pub fn reject(&mut self, reason: &str) -> Result<(), UpdateError> {
        let Some(attempt) = self.trying().cloned() else {
            let state = self.status().state;
            return Err(UpdateError::Step(IllegalStep { state, event: Event::Rejected }));
        };
        self.ensure_way_back()?;
        let mut saved = self.saved.clone();
        if let Some(digest) = &attempt.digest {
            saved.failed(digest, attempt.attempt, reason);
        }
        self.step_from(saved, Event::Rejected, Some(reason))?;
        self.boot.mark_bad(&attempt.version).map_err(UpdateError::Boot)
    }

    /// Records that a release will not be had, for the status; [`Updater::admit`] itself changes nothing.
    ///
    /// # Errors
    /// If a release is armed or being tried, or the state cannot be saved.
    pub fn refuse(
        &mut self,
        digest: &Digest,
        release: &Release,
        refusal: &Refusal,
    ) -> Result<(), UpdateError> {
        let detail = chain(refusal);
        let mut attempt = self.attempt_at(release, OsState::Idle);
        attempt.digest = Some(digest.clone());
        let unchanged = self.saved.attempt.as_ref().is_some_and(|old| {
            old.state == OsState::Refused
                && old.digest == attempt.digest
                && old.detail.as_ref() == Some(&detail)
        });
        if unchanged {
            return Ok(());
        }
        attempt.state = self.saved.attempt.as_ref().map_or(OsState::Idle, |old| old.state);
        let saved = Saved { attempt: Some(attempt), ..self.saved.clone() };
        self.step_from(saved, Event::Refused, Some(&detail))
    }

    fn attempt_at(&self, release: &Release, state: OsState) -> Attempt {
        let Machine { running, identity, boot_id, .. } = &self.machine;
        let slot = running.other();
        let (version, root_hash) = (&release.version, &release.verity.root_hash);
        Attempt { state, ..Attempt::new(version, root_hash, slot, &identity.root_hash, boot_id) }
    }

    /// One step of what is recorded, saved before it counts.
    fn step(&mut self, event: Event, detail: Option<&str>) -> Result<(), UpdateError> {
        self.step_from(self.saved.clone(), event, detail)
    }

    fn step_from(&mut self, mut saved: Saved, event: Event, detail: Option<&str>) -> Result<(), UpdateError> {
        let Some(attempt) = &mut saved.attempt else {
            return Err(UpdateError::Step(IllegalStep { state: OsState::Idle, event }));
        };
        attempt.state = next(attempt.state, event).map_err(UpdateError::Step)?;
        attempt.detail = detail.map(bounded);
        self.save(saved)
    }

    fn save(&mut self, saved: Saved) -> Result<(), UpdateError> {
        let path = self.store.path();
        self.store.write(&saved).map_err(|source| UpdateError::Save { path, source })?;
        self.saved = saved;
        Ok(())
    }

    fn entries(&self) -> Result<Vec<Entry>, UpdateError> {
        self.boot.entries().map_err(UpdateError::Boot)
    }

    /// Looks again what the other slot holds.
    fn look(&mut self) -> Result<(), UpdateError> {
        let [a, b] = self.slots()?;
        let other = if self.machine.running == Slot::A { b } else { a };
        self.other = other.version.filter(|_| other.bootable);
        Ok(())
    }
}
