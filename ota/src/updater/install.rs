//! From a release to an armed boot entry.

use std::fs;

use cairn_model::{
    Digest,
    desired::DesiredOs,
    error::chain,
    release::Release,
    report::{OsProgress, OsState, OsStatus},
};
use fail::fail_point;

use super::{
    Admission, UpdateError, Updater, data_layout,
    state::{Event, next},
    store::Saved,
};
use crate::{
    Carrier,
    record::BootRecord,
    write::{self, Target, WriteError},
};

impl Updater {
    /// Brings a release into the other slot and arms it. May be stopped, killed and called again at any time, and goes on
    /// from there; returns at once where the release runs or is armed.
    ///
    /// # Errors
    /// If the release is refused, cannot be fetched or written, or `stop` said so. What runs can still be booted then.
    #[expect(
        clippy::too_many_arguments,
        reason = "what is installed, from where, within what limits, and who looks on"
    )]
    pub fn install(
        &mut self,
        digest: &Digest,
        release: &Release,
        wanted: &DesiredOs,
        carrier: &mut dyn Carrier,
        memory_limit: u64,
        observe: &mut dyn FnMut(OsStatus),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), UpdateError> {
        if self.admit(digest, release, wanted)? != Admission::Install {
            return Ok(());
        }
        self.begin(digest, release, wanted)?;
        observe(self.status());
        let done = self
            .make_ready(release)
            .and_then(|()| self.transfer(release, carrier, memory_limit, observe, stop))
            .and_then(|()| self.arm(release, observe));
        match done {
            Ok(()) => {
                observe(self.status());
                Ok(())
            }
            Err(UpdateError::Stopped) => Err(UpdateError::Stopped),
            Err(error) => {
                let spoilt = match &error {
                    UpdateError::Write(error) => error.is_of_kernel_image(),
                    error => matches!(error, UpdateError::Boot(_)),
                };
                if spoilt {
                    let _ = self.sweep();
                }
                // If that cannot be saved either, the first error is the one to tell.
                let _ = self.step(Event::Broke, Some(&chain(&error)));
                observe(self.status());
                Err(error)
            }
        }
    }

    fn begin(&mut self, digest: &Digest, release: &Release, wanted: &DesiredOs) -> Result<(), UpdateError> {
        let before = self.saved.attempt.as_ref().map_or(OsState::Idle, |attempt| attempt.state);
        let state = next(before, Event::Begun).map_err(UpdateError::Step)?;
        let attempt = self.attempt_at(release, state).wanted(digest, wanted, &release.health_command);
        self.progress = None;
        self.note = None;
        self.save(Saved { attempt: Some(attempt), ..self.saved.clone() })
    }

    /// Makes sure of the way back, and then that nothing boots the slot that is about to be written.
    fn make_ready(&mut self, release: &Release) -> Result<(), UpdateError> {
        let entries = self.ensure_own_entry()?;
        let running = &self.machine.identity.version;
        for entry in entries.iter().filter(|entry| entry.boot.version != *running) {
            self.boot.remove(&entry.boot.version).map_err(UpdateError::Boot)?;
        }
        self.boot.sweep(Some(&release.version)).map_err(UpdateError::Boot)?;
        self.other = None;
        // The OS that could read the data of older layouts is about to go.
        data_layout::forget(self.store.folder(), data_layout::MIGRATIONS).map_err(UpdateError::Layout)?;
        let slot = self.machine.running.other();
        let failed = |source| UpdateError::Device { what: "reset the boot record of", slot, source };
        fail_point!("ota::record-reset", |_| Err(failed(std::io::Error::other("a fault point"))));
        let tree = self.machine.devices(slot).open_tree_to_write().map_err(failed)?;
        BootRecord::new(&release.verity.root_hash).write(&tree).map_err(failed)?;
        fail_point!("ota::record-was-reset", |_| Err(failed(std::io::Error::other("a fault point"))));
        Ok(())
    }

    fn transfer(
        &mut self,
        release: &Release,
        carrier: &mut dyn Carrier,
        memory_limit: u64,
        observe: &mut dyn FnMut(OsStatus),
        stop: &dyn Fn() -> bool,
    ) -> Result<(), UpdateError> {
        let slot = self.machine.running.other();
        let open = |slot| move |source| UpdateError::Device { what: "open", slot, source };
        let (root, tree) = self.machine.devices(slot).open_to_write().map_err(open(slot))?;
        let running = self.machine.devices(slot.other());
        let running_root = running.open_root().map_err(open(slot.other()))?;
        let running_tree = running.open_tree().map_err(open(slot.other()))?;
        let own = self
            .entries()?
            .into_iter()
            .find(|entry| entry.root_hash.as_ref() == Some(&self.machine.identity.root_hash));
        let mut uki = self.boot.staged(&release.version).map_err(UpdateError::Boot)?;
        let scratch = self.store.folder().join("scratch");
        let mut target = Target {
            root: &root,
            tree: &tree,
            uki: &mut uki,
            running_root: &running_root,
            running_tree: &running_tree,
            running_uki: own.as_ref().map(|entry| entry.path.as_path()),
            scratch: &scratch,
        };
        let status = self.status();
        let mut report = |progress: OsProgress| {
            observe(OsStatus { progress: Some(progress), ..status.clone() });
        };
        let progress = write::write(release, &mut target, carrier, memory_limit, &mut report, stop).map_err(
            |error| match error {
                WriteError::Stopped => UpdateError::Stopped,
                error => UpdateError::Write(error),
            },
        )?;
        self.progress = Some(progress);
        let _ = fs::remove_dir_all(&scratch);
        let mut saved = self.saved.clone();
        if let Some(attempt) = &mut saved.attempt {
            attempt.progress = Some(progress);
        }
        self.step_from(saved, Event::Transferred, None)
    }

    /// The last act: the loader gets to know of it.
    fn arm(&mut self, release: &Release, observe: &mut dyn FnMut(OsStatus)) -> Result<(), UpdateError> {
        observe(self.status());
        let (version, root_hash) = (&release.version, &release.verity.root_hash);
        self.boot.install_as_last_act(version, &release.uki, root_hash).map_err(UpdateError::Boot)?;
        if *version < self.machine.identity.version {
            self.boot.make_next(version).map_err(UpdateError::Boot)?;
        }
        self.step(Event::EntryIn, None)?;
        self.look()
    }
}
