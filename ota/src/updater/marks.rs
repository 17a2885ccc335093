//! The slots as an operator sees and marks them, with RAUC's words.

use cairn_model::{
    OsVersion,
    report::{OsState, Slot},
};

use super::{UpdateError, Updater, store::Saved};
use crate::record::BootRecord;

/// What a slot is marked as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is booted without counting its tries. The running slot's is a confirmation: whoever says so has looked. Of the
    /// other slot nobody can know that it starts, unless it is good already.
    Good,
    /// It is not booted any more.
    Bad,
    /// It is what is booted next; one that was never kept gets all its tries.
    Active,
}

/// What is known about a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Which.
    pub slot: Slot,
    /// Whether it runs.
    pub running: bool,
    /// The version that it holds, where a boot entry names its root.
    pub version: Option<OsVersion>,
    /// The root that its hash tree is for.
    pub root_hash: Option<String>,
    /// Whether the boot loader starts it: it has an entry with tries left or without counter, and is not corrupt.
    pub bootable: bool,
    /// Tries left and done; absent for one that is good, or has no entry.
    pub tries: Option<(u32, u32)>,
    /// Its entry is blessed.
    pub good: bool,
    /// The initrd found it corrupt.
    pub corrupt: bool,
}

impl Updater {
    /// Both slots, A first.
    ///
    /// # Errors
    /// If the ESP cannot be read. A slot that cannot be read holds nothing: to install a release into it is the cure.
    pub fn slots(&self) -> Result<[SlotInfo; 2], UpdateError> {
        let entries = self.entries()?;
        let info = |slot: Slot| {
            let running = slot == self.machine.running;
            let tree = self.machine.devices(slot).open_tree().ok();
            let root_hash = if running {
                Some(self.machine.identity.root_hash.clone())
            } else {
                self.machine.content(slot).unwrap_or_default()
            };
            let entry = entries.iter().find(|entry| root_hash.is_some() && entry.root_hash == root_hash);
            let record = tree.zip(root_hash.as_ref()).map(|(tree, hash)| BootRecord::read(&tree, hash));
            let corrupt = record.is_some_and(|record| record.corrupt);
            let version = entry.map(|entry| entry.boot.version.clone());
            SlotInfo {
                slot,
                running,
                version: version.or_else(|| running.then(|| self.machine.identity.version.clone())),
                bootable: entry.is_some_and(|entry| entry.boot.is_bootable()) && !corrupt,
                tries: entry.and_then(|entry| entry.boot.tries),
                good: entry.is_some_and(|entry| entry.boot.tries.is_none()),
                root_hash,
                corrupt,
            }
        };
        Ok([info(Slot::A), info(Slot::B)])
    }

    fn slot(&self, slot: Slot) -> Result<SlotInfo, UpdateError> {
        let [a, b] = self.slots()?;
        Ok(if slot == Slot::A { a } else { b })
    }

    /// Marks a slot. What is marked by hand is no update any more: its state becomes idle.
    ///
    /// # Errors
    /// If the slot holds nothing that can be booted, or the mark would leave nothing to boot, or the ESP fails.
    pub fn mark(&mut self, slot: Slot, how: Mark) -> Result<(), UpdateError> {
        let running = slot == self.machine.running;
        if running && how == Mark::Good {
            return self.confirm();
        }
        if running && how == Mark::Bad && self.trying().is_some() {
            return self.reject("an operator marked its slot bad");
        }
        let info = self.slot(slot)?;
        let version = info.version.clone().filter(|_| info.good || info.tries.is_some());
        let version = version.ok_or(UpdateError::Empty { slot })?;
        if how != Mark::Bad && info.corrupt {
            return Err(UpdateError::Empty { slot });
        }
        match how {
            Mark::Good if !info.good => return Err(UpdateError::Untried { slot }),
            Mark::Good => self.boot.bless(&version).map_err(UpdateError::Boot)?,
            Mark::Bad => {
                self.ensure_other(slot)?;
                self.take_over()?;
                self.boot.mark_bad(&version).map_err(UpdateError::Boot)?;
            }
            Mark::Active => {
                // An older one that was never kept would leave no way back: what is newer has to be set aside for it.
                let other = self.slot(slot.other())?;
                if !info.good && other.version.is_some_and(|other| other > version) {
                    return Err(UpdateError::NoWayBack {
                        why: "an older OS that was never kept cannot be made the next",
                    });
                }
                self.take_over()?;
                self.boot.make_next(&version).map_err(UpdateError::Boot)?;
            }
        }
        self.look()
    }

    /// What is recorded as armed or good is no longer what will be seen at the next start.
    fn take_over(&mut self) -> Result<(), UpdateError> {
        let over = self.saved.attempt.as_ref().is_some_and(|attempt| {
            matches!(attempt.state, OsState::Armed | OsState::Good | OsState::RolledBack)
        });
        if over { self.save(Saved { attempt: None, ..self.saved.clone() }) } else { Ok(()) }
    }

    /// There is something good to boot beside what runs; what was set aside for a trial is made so.
    pub(super) fn ensure_way_back(&self) -> Result<(), UpdateError> {
        let other = self.slot(self.machine.running.other())?;
        let aside = self.trying().is_some_and(|attempt| Some(&attempt.from) == other.root_hash.as_ref());
        if let (true, false, false, Some(version)) = (aside, other.corrupt, other.good, &other.version) {
            self.boot.bless(version).map_err(UpdateError::Boot)?;
        }
        self.ensure_other(self.machine.running)
    }

    /// The other slot is known to start: one that has tries left but was never kept may not, and then nothing would.
    fn ensure_other(&self, slot: Slot) -> Result<(), UpdateError> {
        let other = self.slot(slot.other())?;
        let why = if other.corrupt {
            "the other slot is corrupt"
        } else if !other.bootable {
            "the other slot has no boot entry with tries left"
        } else if !other.good {
            "the OS in the other slot was never kept"
        } else {
            return Ok(());
        };
        Err(UpdateError::NoWayBack { why })
    }
}
