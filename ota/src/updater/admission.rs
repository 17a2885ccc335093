//! Whether a release is for this node: decided before anything is written, each refusal with its cure.

use std::io;

use cairn_model::{Digest, OsVersion, desired::DesiredOs, error::chain, release::Release, report::OsState};

use super::{UpdateError, Updater};
use crate::{
    boot::BootError,
    data_layout::{self, LayoutError},
    machine, record, verity,
};

/// Room on the ESP beside the kernel image, for folder and allocation table.
const ESP_SLACK: u64 = 256 << 10;

/// What is to be done for a release that may be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nothing: it runs.
    Runs,
    /// A restart: it is armed.
    Armed,
    /// [`Updater::install`].
    Install,
}

/// Why a release will not be had. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is for other machines.
    #[error(
        "it is for '{release}' and this node is '{node}'; build it with --compatible {node}, or choose another release"
    )]
    Compatible {
        /// What it is for.
        release: String,
        /// What the node is.
        node: String,
    },
    /// It is for another processor.
    #[error("it is for {release} and this node is {node}; choose a release for {node}")]
    Arch {
        /// What it is for.
        release: String,
        /// What the node has.
        node: String,
    },
    /// Another one has to come first.
    #[error("it can be installed from version {min} on and this node runs {running}; install {min} first")]
    TooOld {
        /// Oldest version to come from.
        min: OsVersion,
        /// What runs.
        running: OsVersion,
    },
    /// It is older than what runs.
    #[error(
        "it is version {release}, older than the running {running}; ask for it by name with --allow-downgrade"
    )]
    Downgrade {
        /// Its version.
        release: OsVersion,
        /// What runs.
        running: OsVersion,
    },
    /// Its version is taken.
    #[error("it is another build of the running version {version}; give it a version of its own")]
    SameVersion {
        /// The version.
        version: OsVersion,
    },
    /// It was tried on this node.
    #[error("it failed on this node before: {reason}; have it tried again with 'cairn os set --retry'")]
    FailedBefore {
        /// Why it failed.
        reason: String,
    },
    /// It does not know the layout of the data partition.
    #[error("it does not fit the data partition")]
    DataLayout(#[source] LayoutError),
    /// It is too large.
    #[error("its {what} has {size} bytes and there is room for {room}; {cure}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large.
        size: u64,
        /// How much room there is.
        room: u64,
        /// What to do.
        cure: &'static str,
    },
    /// First what is being tried needs a verdict.
    #[error("version {version} is being tried; wait until it is kept or given up")]
    Trying {
        /// What is being tried.
        version: OsVersion,
    },
    /// The ESP cannot be read.
    #[error("failed to look at the boot entries")]
    Boot(#[source] BootError),
    /// The other slot cannot be looked at.
    #[error("failed to look at the other slot")]
    Slot(#[source] io::Error),
}

impl Updater {
    /// Whether a release may be had, and what is to be done for it. Changes nothing.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(
        &self,
        digest: &Digest,
        release: &Release,
        wanted: &DesiredOs,
    ) -> Result<Admission, Refusal> {
        let identity = &self.machine.identity;
        if release.verity.root_hash == identity.root_hash {
            return Ok(Admission::Runs);
        }
        if let Some(attempt) = self.trying() {
            return Err(Refusal::Trying { version: attempt.version.clone() });
        }
        self.check_origin(digest, release, wanted)?;
        let armed = self.saved.attempt.as_ref().is_some_and(|attempt| {
            attempt.state == OsState::Armed && attempt.root_hash == release.verity.root_hash
        });
        let mut entries = self.boot.entries().map_err(Refusal::Boot)?;
        let in_place = entries.iter().any(|entry| {
            entry.root_hash.as_ref() == Some(&release.verity.root_hash) && entry.boot.is_bootable()
        });
        if armed && in_place {
            return Ok(Admission::Armed);
        }
        let layout = data_layout::read(self.store.folder()).map_err(Refusal::DataLayout)?;
        data_layout::plan(layout.current, release.data_layout).map_err(Refusal::DataLayout)?;
        entries.retain(|entry| entry.boot.version != identity.version);
        let removed: u64 = entries.iter().map(|entry| entry.size).sum();
        self.check_room(release, removed)?;
        Ok(Admission::Install)
    }

    /// Whether it is for this machine, and may come after what runs.
    fn check_origin(&self, digest: &Digest, release: &Release, wanted: &DesiredOs) -> Result<(), Refusal> {
        let identity = &self.machine.identity;
        let running = &identity.version;
        if release.compatible != identity.compatible {
            let (release, node) = (release.compatible.clone(), identity.compatible.clone());
            return Err(Refusal::Compatible { release, node });
        }
        if release.arch != identity.arch {
            return Err(Refusal::Arch { release: release.arch.clone(), node: identity.arch.clone() });
        }
        if let Some(min) = release.min_version.as_ref().filter(|min| running < *min) {
            return Err(Refusal::TooOld { min: min.clone(), running: running.clone() });
        }
        if release.version == *running {
            return Err(Refusal::SameVersion { version: running.clone() });
        }
        if release.version < *running && !wanted.allow_downgrade {
            return Err(Refusal::Downgrade { release: release.version.clone(), running: running.clone() });
        }
        let failure = self.saved.failure(digest, wanted.attempt).map(|failure| failure.reason.clone());
        let forgotten = || self.saved.forgotten_failure(&release.verity.root_hash, wanted.attempt);
        match failure.or_else(forgotten) {
            Some(reason) => Err(Refusal::FailedBefore { reason }),
            None => Ok(()),
        }
    }

    /// Whether root, tree and kernel image have room. `removed` bytes of the ESP become free before it is written.
    fn check_room(&self, release: &Release, removed: u64) -> Result<(), Refusal> {
        let devices = self.machine.devices(self.machine.running.other());
        let length = |path| machine::length(path).map_err(Refusal::Slot);
        let disk = "flash the machine with an image that has a larger layout";
        let record = record::SIZE as u64;
        let esp = self.boot.room().map_err(Refusal::Boot)?.saturating_add(removed);
        let needs = [
            ("root", release.root.size, length(&devices.root)?, disk),
            ("hash tree", verity::tree_size(release.root.size) + record, length(&devices.tree)?, disk),
            (
                "kernel image",
                release.uki.size.saturating_add(ESP_SLACK),
                esp,
                "remove from the ESP what is not Cairn's",
            ),
        ];
        for (what, size, room, cure) in needs {
            if size > room {
                return Err(Refusal::TooLarge { what, size, room, cure });
            }
        }
        Ok(())
    }
}

impl Refusal {
    /// The whole of it in one line, as a status shows it.
    pub fn text(&self) -> String {
        chain(self)
    }

    /// Whether another look may turn out otherwise without anybody doing anything.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Trying { .. } | Self::Boot(_) | Self::Slot(_))
    }
}

impl From<Refusal> for UpdateError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
