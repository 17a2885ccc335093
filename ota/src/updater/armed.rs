//! What still changes while a release is armed: which workloads are expected to be well in it, on what terms it is tried,
//! and whether it is wanted at all.

use cairn_model::{Digest, desired::DesiredOs, release::Release, report::OsState};

use super::{Attempt, IllegalStep, MAX_EXPECTATIONS, UpdateError, Updater, state::Event, store::Saved};
use crate::boot::Entry;

impl Updater {
    /// While a release is armed: which units are healthy, and must be again after the restart, and whether what the hub
    /// says is verified, and must be again. Kept for the next start only; nothing happens where no release is armed.
    ///
    /// # Errors
    /// If there are over [`MAX_EXPECTATIONS`], or they cannot be saved.
    pub fn expect_healthy(&mut self, units: &[String], hub_verified: bool) -> Result<(), UpdateError> {
        if units.len() > MAX_EXPECTATIONS {
            return Err(UpdateError::TooMany { count: units.len() });
        }
        let Some(attempt) = self.armed() else { return Ok(()) };
        self.save_changed(Attempt { expectations: units.to_vec(), hub_verified, ..attempt.clone() })
    }

    /// The units that were healthy before the restart into what is being tried.
    pub fn expectations(&self) -> &[String] {
        self.trying().map_or(&[], |attempt| &attempt.expectations)
    }

    /// The terms of a release that is armed are these now; nothing happens where another or none is armed.
    ///
    /// # Errors
    /// If they cannot be saved.
    pub fn retarget(
        &mut self,
        digest: &Digest,
        release: &Release,
        wanted: &DesiredOs,
    ) -> Result<(), UpdateError> {
        match self.armed().filter(|attempt| attempt.root_hash == release.verity.root_hash) {
            Some(attempt) => {
                self.save_changed(attempt.clone().wanted(digest, wanted, &release.health_command))
            }
            None => Ok(()),
        }
    }

    /// What is written or armed is not booted any more: it is not wanted. The way back is made sure of first, so that one
    /// entry can be booted at every instant; cut off, it is armed again at the next start, and to be disarmed again.
    ///
    /// # Errors
    /// If nothing is written or armed, the running OS has no entry, or ESP or state fail.
    pub fn disarm(&mut self) -> Result<(), UpdateError> {
        let attempt = self.saved.attempt.clone();
        let state = attempt.as_ref().map_or(OsState::Idle, |attempt| attempt.state);
        let (Some(attempt), OsState::Armed | OsState::Written) = (attempt, state) else {
            return Err(UpdateError::Step(IllegalStep { state, event: Event::Disarmed }));
        };
        self.ensure_own_entry()?;
        // A power cut from here on is no failure of a release that nobody has tried.
        if state == OsState::Armed {
            self.step(Event::Disarmed, None)?;
        }
        self.boot.remove(&attempt.version).map_err(UpdateError::Boot)?;
        self.progress = None;
        self.save(Saved { attempt: None, ..self.saved.clone() })?;
        self.look()
    }

    /// The running OS's entry is blessed, also where it was set aside for another; all entries are given back.
    pub(super) fn ensure_own_entry(&self) -> Result<Vec<Entry>, UpdateError> {
        let identity = &self.machine.identity;
        let entries = self.entries()?;
        let own = entries.iter().find(|entry| {
            entry.boot.version == identity.version && entry.root_hash.as_ref() == Some(&identity.root_hash)
        });
        let own = own.ok_or_else(|| UpdateError::NoOwnEntry { version: identity.version.clone() })?;
        if own.boot.tries.is_some() || !own.twins.is_empty() {
            self.boot.bless(&identity.version).map_err(UpdateError::Boot)?;
        }
        Ok(entries)
    }

    fn armed(&self) -> Option<&Attempt> {
        self.saved.attempt.as_ref().filter(|attempt| attempt.state == OsState::Armed)
    }

    fn save_changed(&mut self, attempt: Attempt) -> Result<(), UpdateError> {
        if self.saved.attempt.as_ref() == Some(&attempt) {
            return Ok(());
        }
        self.save(Saved { attempt: Some(attempt), ..self.saved.clone() })
    }
}
