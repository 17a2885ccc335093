//! What a start means, and the repair of what was cut off.

use cairn_model::report::{OsState, Slot};

use super::{
    Attempt, Startup, UpdateError, Updater, data_layout,
    state::{Event, Finding, Seen, Tries, find, next},
    store::{Saved, bounded},
};
use crate::{boot::Entry, machine::Identity, record::BootRecord};

/// What is seen of ESP and records.
#[derive(Debug)]
struct Sight {
    entries: Vec<Entry>,
    own: Option<Tries>,
    /// Root hash that the other slot's record calls corrupt, and the reason in words.
    corrupt: Option<(String, String)>,
}

impl Updater {
    pub(super) fn start(&mut self) -> Result<Startup, UpdateError> {
        data_layout::go_back(self.store.folder(), data_layout::CURRENT).map_err(UpdateError::Layout)?;
        let sight = self.see()?;
        let mut saved = self.saved.clone();
        let startup = match saved.attempt.take() {
            Some(attempt) => {
                let (attempt, startup) = self.judge(attempt, &sight, &mut saved)?;
                saved.attempt = Some(attempt);
                startup
            }
            None => Startup::Normal,
        };
        let startup = self.make_up(&sight, &mut saved, startup);
        let startup = self.note_corruption(&sight, &mut saved, startup);
        if saved != self.saved || self.note.is_some() {
            self.save(saved)?;
        }
        self.put_right(&sight)?;
        self.look()?;
        Ok(startup)
    }

    fn see(&self) -> Result<Sight, UpdateError> {
        let entries = self.entries()?;
        let identity = &self.machine.identity;
        let own = entries.iter().find(|entry| entry.boot.version == identity.version);
        let own = own.map(|entry| entry.boot.tries);
        let slot = self.machine.running.other();
        // A slot that cannot be read holds nothing: to install a release into it is the cure.
        let tree = self.machine.devices(slot).open_tree().ok();
        let corrupt = tree
            .and_then(|tree| BootRecord::read_any(&tree))
            .filter(|record| record.corrupt && record.root_hash != identity.root_hash)
            .map(|record| (record.root_hash.clone(), corruption(slot, &record)));
        Ok(Sight { entries, own, corrupt })
    }

    /// What is recorded, brought up to date with what is seen.
    fn judge(
        &self,
        mut attempt: Attempt,
        sight: &Sight,
        saved: &mut Saved,
    ) -> Result<(Attempt, Startup), UpdateError> {
        let target = sight.entries.iter().find(|entry| {
            entry.boot.version == attempt.version && entry.root_hash.as_ref() == Some(&attempt.root_hash)
        });
        let corrupt = sight.corrupt.as_ref().filter(|(hash, _)| *hash == attempt.root_hash);
        let seen = Seen {
            root_hash: &self.machine.identity.root_hash,
            boot_id: &self.machine.boot_id,
            own: sight.own,
            target: target.map(|entry| entry.boot.tries),
            corrupt: corrupt.map(|(_, reason)| reason.as_str()),
        };
        let version = attempt.version.clone();
        let (events, startup): (&[Event], Startup) = match find(&attempt, &seen) {
            Finding::Unchanged => (&[], Startup::Normal),
            Finding::Found => (&[Event::Found], Startup::Normal),
            Finding::Started => (&[Event::Started], Startup::Trying { version }),
            Finding::Kept => (&[Event::Started, Event::Confirmed], Startup::Normal),
            Finding::NotStarted => {
                attempt.ignored_starts += 1;
                (&[Event::NotStarted], Startup::Normal)
            }
            Finding::FellBack(reason) => {
                if let Some(digest) = &attempt.digest {
                    saved.failed(digest, attempt.attempt, &reason);
                }
                attempt.detail = Some(bounded(&reason));
                attempt.reported = true;
                (&[Event::FellBack], Startup::RolledBack { version, reason })
            }
            Finding::FellOver(reason) => {
                attempt.detail = Some(bounded(&reason));
                attempt.reported = true;
                (&[Event::FellBack], Startup::FellOver { version, reason })
            }
        };
        for event in events {
            attempt.state = next(attempt.state, *event).map_err(UpdateError::Step)?;
        }
        if matches!(attempt.state, OsState::Armed | OsState::Trying | OsState::Good) {
            attempt.boot_id = self.machine.boot_id.clone();
            attempt.reported = false;
        }
        let gone = attempt.state == OsState::RolledBack && seen.root_hash != attempt.root_hash;
        if gone && !attempt.reported {
            attempt.reported = true;
            let reason = attempt.detail.clone().unwrap_or_default();
            return Ok((attempt.clone(), Startup::RolledBack { version: attempt.version, reason }));
        }
        Ok((attempt, startup))
    }

    /// An entry with a counter that nothing is remembered about, because the state was lost or an operator re-armed it:
    /// what runs on one is being tried, what stands beside it is armed. Never good: nobody has seen it be well.
    fn make_up(&self, sight: &Sight, saved: &mut Saved, startup: Startup) -> Startup {
        let identity = &self.machine.identity;
        let recorded = saved.attempt.as_ref().map(|attempt| attempt.root_hash.clone());
        let made = |version, root_hash: &str, slot, state| Attempt {
            state,
            ..Attempt::new(version, root_hash, slot, &identity.root_hash, &self.machine.boot_id)
        };
        let ran_before = saved.attempt.as_ref().is_some_and(|attempt| attempt.from == identity.root_hash);
        if matches!(sight.own, Some(Some(_))) && recorded.as_ref() != Some(&identity.root_hash) && !ran_before
        {
            let (version, running) = (&identity.version, self.machine.running);
            saved.attempt = Some(made(version, &identity.root_hash, running, OsState::Trying));
            return match startup {
                Startup::Normal => Startup::Trying { version: version.clone() },
                told => told,
            };
        }
        let armed = sight.entries.iter().find(|entry| {
            matches!(entry.boot.tries, Some((left, _)) if left > 0) && entry.boot.version != identity.version
        });
        if let (None, Some(entry)) = (&saved.attempt, armed)
            && let Some(root_hash) = &entry.root_hash
        {
            let slot = self.machine.running.other();
            saved.attempt = Some(made(&entry.boot.version, root_hash, slot, OsState::Armed));
        }
        if let (None, true, Some((entry, root_hash, done))) =
            (&saved.attempt, saved.is_new(), given_up(sight, identity))
        {
            let detail =
                Some(format!("no boot of it was completed in {done} tries, and what else is known was lost"));
            let attempt =
                made(&entry.boot.version, root_hash, self.machine.running.other(), OsState::RolledBack);
            saved.attempt = Some(Attempt { detail, reported: true, ..attempt });
        }
        startup
    }

    /// A corrupt slot that nothing recorded is about is told once.
    fn note_corruption(&self, sight: &Sight, saved: &mut Saved, startup: Startup) -> Startup {
        let Some((hash, reason)) = &sight.corrupt else { return startup };
        if saved.fell_over.as_ref() == Some(hash) {
            return startup;
        }
        let entry = sight.entries.iter().find(|entry| entry.root_hash.as_ref() == Some(hash));
        saved.fell_over = Some(hash.clone());
        match (startup, entry) {
            (Startup::Normal, Some(entry)) => {
                Startup::FellOver { version: entry.boot.version.clone(), reason: reason.clone() }
            }
            (startup, _) => startup,
        }
    }

    /// Makes the ESP say what was decided.
    fn put_right(&self, sight: &Sight) -> Result<(), UpdateError> {
        let Some(attempt) = &self.saved.attempt else { return self.sweep() };
        let identity = &self.machine.identity;
        let runs = attempt.root_hash == identity.root_hash;
        let boot = &self.boot;
        match attempt.state {
            OsState::Armed if attempt.version < identity.version => {
                boot.make_next(&attempt.version).map_err(UpdateError::Boot)?;
            }
            OsState::RolledBack | OsState::Failed | OsState::Refused if !runs => {
                // What was set aside for an older version to be tried is what runs again.
                let set_aside = attempt.from == identity.root_hash && matches!(sight.own, Some(Some(_)));
                if set_aside {
                    boot.bless(&identity.version).map_err(UpdateError::Boot)?;
                }
                let given_up = sight.entries.iter().find(|entry| {
                    entry.root_hash.as_ref() == Some(&attempt.root_hash) && entry.boot.is_bootable()
                });
                if let (OsState::RolledBack, Some(entry)) = (attempt.state, given_up) {
                    boot.mark_bad(&entry.boot.version).map_err(UpdateError::Boot)?;
                }
            }
            _ => {}
        }
        self.sweep()
    }

    /// A kernel image that was put together before the start is never gone on with: the power cut may have torn its
    /// chain of clusters, and a FAT that finds such a chain becomes read-only.
    pub(super) fn sweep(&self) -> Result<(), UpdateError> {
        self.boot.sweep(None).map_err(UpdateError::Boot)
    }
}

/// An entry beside what runs that has no tries left although its slot is not known to be corrupt, its root, and its tries.
fn given_up<'a>(sight: &'a Sight, identity: &Identity) -> Option<(&'a Entry, &'a str, u32)> {
    sight.entries.iter().find_map(|entry| {
        let (root_hash, tries) = entry.root_hash.as_deref().zip(entry.boot.tries)?;
        let corrupt = sight.corrupt.as_ref().is_some_and(|(hash, _)| hash == root_hash);
        let (0, done) = tries else { return None };
        (entry.boot.version != identity.version && !corrupt).then_some((entry, root_hash, done))
    })
}

fn corruption(slot: Slot, record: &BootRecord) -> String {
    let slot = slot.as_str();
    match record.bad_block {
        Some(block) => {
            format!("slot {slot} is corrupt from block {block} on; install a release to write it anew")
        }
        None => format!("slot {slot} is corrupt; install a release to write it anew"),
    }
}
