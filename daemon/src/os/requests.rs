//! What is asked from outside: over D-Bus, on the local socket, by a command of the hub's. None of it can make the node
//! run what both repositories have not agreed on: only the release that the applied generation desires is installed.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use cairn_model::{
    Digest,
    error::chain,
    report::{OsState, Slot},
};
use cairn_ota::{Mark, SlotInfo};
use serde::Deserialize;

use super::Node;
use crate::{
    assemble::WantedOs,
    bus::port::{Inspected, Mark as AskedMark, OsRequest, SlotView, Source},
};

/// Largest `index.json` of a folder that is read.
const MAX_INDEX_BYTES: u64 = 1 << 20;

impl Node {
    /// Answers one request. An installation is answered when it has ended.
    pub(super) async fn answer(&mut self, request: OsRequest) {
        // Who asked may have left: an answer that nobody takes is none.
        match request {
            OsRequest::Install { source, digest, reply } => {
                match self.asked(&source, digest.as_ref()).await {
                    Ok((wanted, folder)) => {
                        self.follow.waiting.push(reply);
                        self.follow.folder = folder.map(|folder| (wanted.digest.clone(), folder));
                        self.follow.hurry();
                    }
                    Err(why) => drop(reply.send(Err(why))),
                }
            }
            OsRequest::Inspect { source, reply } => {
                let asked = self.asked(&source, None).await;
                let told = |(wanted, _): (Arc<WantedOs>, _)| Inspected {
                    digest: wanted.digest.clone(),
                    release: wanted.release.clone(),
                };
                let _ = reply.send(asked.map(told));
            }
            OsRequest::Slots { reply } => {
                let _ = reply.send(self.slots());
            }
            OsRequest::Primary { reply } => {
                let _ = reply.send(self.primary());
            }
            OsRequest::Mark { slot, how, reply } => {
                let _ = reply.send(self.mark(slot, how).await);
            }
            OsRequest::Apply { reply } => {
                let _ = reply.send(self.apply());
            }
        }
    }

    /// The desired release, where it is the one that is asked for; and the folder that it shall come from.
    async fn asked(
        &self,
        source: &Source,
        digest: Option<&Digest>,
    ) -> Result<(Arc<WantedOs>, Option<PathBuf>), String> {
        let wanted = self.config.desired.borrow().as_ref().and_then(|a| a.os.clone());
        let wanted = wanted.ok_or(
            "the hub desires no OS for this node, and nothing else is installed; run `cairn os set` first",
        )?;
        let version = &wanted.release.version;
        let other = || {
            format!(
                "the hub desires OS {version} for this node, and only that is installed; run `cairn os set` first"
            )
        };
        let (fits, folder) = match source {
            Source::Digest(asked) => (*asked == wanted.digest, None),
            Source::Version(asked) => (asked == version, None),
            Source::Folder(folder) => {
                (holds(folder.clone(), wanted.digest.clone()).await?, Some(folder.clone()))
            }
        };
        if !fits || digest.is_some_and(|digest| *digest != wanted.digest) {
            return Err(other());
        }
        Ok((wanted, folder))
    }

    fn slots(&self) -> Result<[SlotView; 2], String> {
        let slots = self.engine.slots.borrow().clone();
        let slots = slots.ok_or("the slots cannot be read; see the journal of cairnd")?;
        Ok(slots.map(|slot| self.view(slot)))
    }

    fn view(&self, slot: SlotInfo) -> SlotView {
        SlotView {
            slot: slot.slot,
            device: self.machine.devices(slot.slot).root.clone(),
            version: slot.version,
            bootable: slot.bootable,
            tries_left: slot.tries.map(|(left, _)| left),
            running: slot.running,
            corrupt: slot.corrupt,
        }
    }

    /// The newest that the loader may start; with none left it takes the newest of all.
    fn primary(&self) -> Result<Slot, String> {
        let slots = self.slots()?;
        let newest = |bootable: bool| {
            let of = slots.iter().filter(|slot| slot.bootable || !bootable);
            of.max_by(|a, b| a.version.cmp(&b.version)).map(|slot| slot.slot)
        };
        newest(true).or_else(|| newest(false)).ok_or_else(|| "no slot holds an OS".to_owned())
    }

    async fn mark(&mut self, slot: Slot, how: AskedMark) -> Result<(), String> {
        if self.follow.is_installing() {
            return Err("an installation runs; mark the slot when it has ended".to_owned());
        }
        if self.state() == Some(OsState::Trying) {
            return Err("a new OS is being tried, and its checks decide; mark the slot when `cairn os status` says that \
                        it is kept or given up"
                .to_owned());
        }
        let how = match how {
            AskedMark::Good => Mark::Good,
            AskedMark::Bad => Mark::Bad,
            AskedMark::Active => Mark::Active,
        };
        let marked = self.engine.call(move |updater, _| updater.mark(slot, how)).await;
        self.publish();
        match marked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(chain(&e)),
            Err(gone) => Err(gone.to_string()),
        }
    }

    /// The next look restarts.
    fn apply(&mut self) -> Result<(), String> {
        if self.follow.is_installing() {
            return Err("the OS is still being written; ask again when it stands written".to_owned());
        }
        let stands = {
            let status = self.engine.status.borrow();
            status
                .as_ref()
                .filter(|status| status.state == OsState::Armed)
                .map(|status| status.release.clone())
        };
        let stands = stands.ok_or("no OS stands written that could be restarted into; `cairn os set` one")?;
        let desired = self.config.desired.borrow();
        if desired.as_ref().and_then(|a| a.os.as_ref()).map(|os| &os.digest) != stands.as_ref() {
            return Err(
                "the OS that stands written is not the one that is desired; look at `cairn os status`, \
                        and ask again when that one stands written"
                    .to_owned(),
            );
        }
        drop(desired);
        self.follow.apply = true;
        Ok(())
    }

    fn state(&self) -> Option<OsState> {
        self.engine.status.borrow().as_ref().map(|status| status.state)
    }
}

/// Whether the OCI layout in a folder holds that manifest. What it holds is judged by digest when it is read.
async fn holds(folder: PathBuf, digest: Digest) -> Result<bool, String> {
    let looked = tokio::task::spawn_blocking(move || read_index(&folder).map(|index| (index, folder)));
    let (index, folder) = looked.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let index: Index = serde_json::from_slice(&index)
        .map_err(|e| format!("index.json in {} is no OCI index: {e}", folder.display()))?;
    Ok(index.manifests.iter().any(|manifest| manifest.digest == digest))
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Manifest>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    digest: Digest,
}

fn read_index(folder: &Path) -> io::Result<Vec<u8>> {
    let path = folder.join("index.json");
    let named = |e: io::Error| io::Error::new(e.kind(), format!("failed to read {}: {e}", path.display()));
    let mut bytes = Vec::new();
    File::open(&path).and_then(|file| file.take(MAX_INDEX_BYTES).read_to_end(&mut bytes)).map_err(named)?;
    Ok(bytes)
}
