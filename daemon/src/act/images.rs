//! The task that makes images ready: unpacks layers and precompiles components, one at a time, each in a process of its
//! own. Owns `layers/` and `wasm/`; publishes what is ready and what fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cairn_model::Digest;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    jobs::{Job, JobError, JobRunner},
    supervisor::Sandbox,
    volumes::ensure_private,
};
use crate::{
    assemble::{Blob, Content, Layer},
    backoff::{Backoff, random},
    blobs::Blobs,
    config::Runtimes,
};

/// A layer of gigabytes on a slow disk takes minutes; what takes longer hangs.
const UNPACK_DEADLINE: Duration = Duration::from_secs(1800);
/// The largest components take tens of seconds on a fast machine.
const PRECOMPILE_DEADLINE: Duration = Duration::from_secs(900);
/// First and longest pause before a failed image is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// What the task publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagesState {
    /// Can be started at once.
    pub ready: BTreeSet<Digest>,
    /// Why others are not, with a cure.
    pub failed: BTreeMap<Digest, String>,
}

/// The handle.
#[derive(Debug, Clone)]
pub struct Images {
    requests: mpsc::Sender<Request>,
    /// What is ready.
    pub state: watch::Receiver<ImagesState>,
    folders: Folders,
}

#[derive(Debug)]
enum Request {
    Prepare(Digest, Content),
    Collect(BTreeMap<Digest, Content>),
}

/// What the task is made of.
#[derive(Clone)]
pub struct Config {
    /// Where state lives.
    pub state_dir: PathBuf,
    /// Where the local socket is.
    pub run_dir: PathBuf,
    /// The programs that do the work.
    pub runtimes: Runtimes,
    /// Runs what reads outside data in little memory.
    pub unpack: Arc<dyn JobRunner>,
    /// Runs what may need much memory.
    pub precompile: Arc<dyn JobRunner>,
}

/// Where things are once they are ready.
#[derive(Debug, Clone)]
struct Folders {
    layers: PathBuf,
    wasm: PathBuf,
}

struct Retry {
    backoff: Backoff,
    not_before: Instant,
}

struct Task {
    config: Config,
    folders: Folders,
    blobs: Blobs,
    requests: mpsc::Receiver<Request>,
    state: watch::Sender<ImagesState>,
    retries: BTreeMap<Digest, Retry>,
    /// Which build of `cairn-wasm` this is: what it compiled is of use to the very same build only.
    compiler: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error("blob {0} is not on the disk; it is fetched again as soon as the hub can be reached")]
    NoBlob(Digest),
    #[error("failed to {0} {1}: {2}; check the data partition")]
    Io(&'static str, PathBuf, io::Error),
}

impl Images {
    /// Asks for an image to be made ready. One that is asked for already, or waits after a failure, is not tried twice.
    pub fn prepare(&self, image: Digest, content: Content) {
        // A full channel means that the task is busy; the reconciler asks again at its next look.
        let _ = self.requests.try_send(Request::Prepare(image, content));
    }

    /// Removes what is unpacked or compiled and not among `keep`: for a node where nothing else runs any more.
    pub fn collect(&self, keep: BTreeMap<Digest, Content>) {
        let _ = self.requests.try_send(Request::Collect(keep));
    }

    /// The unpacked layers, top-most first, as overlayfs wants them.
    pub fn layer_paths(&self, layers: &[Layer]) -> Vec<PathBuf> {
        layers.iter().rev().map(|layer| self.folders.layer(layer)).collect()
    }

    /// The precompiled component.
    pub fn module_path(&self, blob: &Blob) -> PathBuf {
        self.folders.module(blob)
    }
}

impl Folders {
    fn layer(&self, layer: &Layer) -> PathBuf {
        self.layers.join(layer.diff_id.hex())
    }

    fn module(&self, blob: &Blob) -> PathBuf {
        self.wasm.join(format!("{}.cwasm", blob.digest.hex()))
    }

    /// Says which compiler made a module.
    fn stamp(&self, blob: &Blob) -> PathBuf {
        self.wasm.join(format!("{}.compiler", blob.digest.hex()))
    }
}

/// Makes the task and its handle.
pub fn build(config: Config, blobs: Blobs, stop: CancellationToken) -> (Images, impl Future<Output = ()>) {
    let folders = Folders { layers: config.state_dir.join("layers"), wasm: config.state_dir.join("wasm") };
    let (requests, receiver) = mpsc::channel(64);
    let (state, out) = watch::channel(ImagesState::default());
    let images = Images { requests, state: out, folders: folders.clone() };
    let task =
        Task { config, folders, blobs, requests: receiver, state, retries: BTreeMap::new(), compiler: None };
    (images, task.run(stop))
}

impl Task {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            // Cancel-safe: the channel keeps what was not received.
            let request = tokio::select! {
                request = self.requests.recv() => match request { Some(request) => request, None => return },
                () = stop.cancelled() => return,
            };
            let (image, content) = match request {
                Request::Prepare(image, content) => (image, content),
                Request::Collect(keep) => {
                    self.collect(keep).await;
                    continue;
                }
            };
            if self.state.borrow().ready.contains(&image)
                || self.retries.get(&image).is_some_and(|retry| retry.not_before > Instant::now())
            {
                continue;
            }
            // A job that is cut off is killed with its process, or ends as the unit that it is; it is idempotent.
            let prepared = tokio::select! {
                prepared = self.prepare(&content) => prepared,
                () = stop.cancelled() => return,
            };
            self.settle(image, prepared);
        }
    }

    async fn collect(&mut self, keep: BTreeMap<Digest, Content>) {
        let mut names = BTreeSet::new();
        for content in keep.values() {
            match content {
                Content::Oci(layers) => names.extend(layers.iter().map(|layer| self.folders.layer(layer))),
                Content::Wasm(blob) => names.extend([self.folders.module(blob), self.folders.stamp(blob)]),
            }
        }
        // First unsaid, then removed: nobody starts what is about to go.
        self.retries.retain(|image, _| keep.contains_key(image));
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.ready.retain(|image| keep.contains_key(image));
            state.failed.retain(|image, _| keep.contains_key(image));
            *state != before
        });
        let folders = [self.folders.layers.clone(), self.folders.wasm.clone()];
        let removed = tokio::task::spawn_blocking(move || {
            folders.iter().map(|folder| remove_others(folder, &names)).sum::<usize>()
        });
        if let Ok(removed @ 1..) = removed.await {
            tracing::info!(removed, "layers and components that nothing uses any more are removed");
        }
    }

    fn settle(&mut self, image: Digest, prepared: Result<(), PrepareError>) {
        match prepared {
            Ok(()) => {
                self.retries.remove(&image);
                self.state.send_modify(|state| {
                    state.failed.remove(&image);
                    state.ready.insert(image);
                });
            }
            Err(e) => {
                let retry = self.retries.entry(image.clone()).or_insert_with(|| Retry {
                    backoff: Backoff::new(RETRY.0, RETRY.1),
                    not_before: Instant::now(),
                });
                retry.not_before = Instant::now() + retry.backoff.after_failure(random());
                let problem = format!("image {image} cannot be made ready: {}", with_cure(&e.to_string()));
                tracing::error!("{problem}");
                self.state.send_if_modified(|state| {
                    let changed = state.failed.get(&image) != Some(&problem);
                    state.failed.insert(image, problem);
                    changed
                });
            }
        }
    }

    async fn prepare(&mut self, content: &Content) -> Result<(), PrepareError> {
        match content {
            Content::Oci(layers) => {
                for layer in layers {
                    self.unpack(layer).await?;
                }
                Ok(())
            }
            Content::Wasm(blob) => self.precompile(blob).await,
        }
    }

    async fn unpack(&self, layer: &Layer) -> Result<(), PrepareError> {
        let into = self.folders.layer(layer);
        if into.exists() {
            return Ok(());
        }
        let blob = self.blob(&layer.blob)?;
        self.ensure_folder(&self.folders.layers)?;
        let begun = Instant::now();
        let job = Job {
            name: format!("cairn-job-unpack-{}", &layer.diff_id.hex()[..16]),
            argv: vec![
                text(&self.config.runtimes.oci),
                "unpack".to_owned(),
                format!("--blob={}", text(&blob)),
                format!("--media-type={}", layer.media_type),
                format!("--diff-id={}", layer.diff_id),
                format!("--into={}", text(&into)),
            ],
            memory_max: self.config.runtimes.prepare_memory_bytes,
            deadline: UNPACK_DEADLINE,
            // Runs as a child of the daemon, within the daemon's own sandbox.
            sandbox: None,
        };
        self.config.unpack.run(&job).await?;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(diff_id = %layer.diff_id, ms, "layer unpacked");
        // The unpacked form is what runs; the blob would only take its room again.
        self.blobs.remove(&layer.blob.digest).await;
        Ok(())
    }

    async fn precompile(&mut self, blob: &Blob) -> Result<(), PrepareError> {
        let compiler = self.compiler().await?;
        let (module, stamp) = (self.folders.module(blob), self.folders.stamp(blob));
        let made_by = tokio::fs::read_to_string(&stamp).await.unwrap_or_default();
        if module.exists() && made_by == compiler {
            return Ok(());
        }
        let input = self.blob(blob)?;
        self.ensure_folder(&self.folders.wasm)?;
        let begun = Instant::now();
        let job = Job {
            name: format!("cairn-job-precompile-{}", &blob.digest.hex()[..16]),
            argv: vec![
                text(&self.config.runtimes.wasm),
                "precompile".to_owned(),
                text(&input),
                text(&module),
            ],
            memory_max: self.config.runtimes.prepare_memory_bytes,
            deadline: PRECOMPILE_DEADLINE,
            sandbox: Some(Sandbox::new(
                &self.config.state_dir,
                &self.config.run_dir,
                vec![self.folders.wasm.clone()],
            )),
        };
        self.config.precompile.run(&job).await?;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(digest = %blob.digest, ms, "component precompiled");
        // Written after the module: a power cut in between only costs compiling it again.
        tokio::fs::write(&stamp, compiler).await.map_err(|e| PrepareError::Io("write", stamp, e))
    }

    fn blob(&self, blob: &Blob) -> Result<PathBuf, PrepareError> {
        if self.blobs.contains(&blob.digest) {
            Ok(self.blobs.path(&blob.digest))
        } else {
            Err(PrepareError::NoBlob(blob.digest.clone()))
        }
    }

    fn ensure_folder(&self, folder: &Path) -> Result<(), PrepareError> {
        ensure_private(folder).map_err(|e| PrepareError::Io("make", folder.to_owned(), e))
    }

    async fn compiler(&mut self) -> Result<String, PrepareError> {
        if let Some(compiler) = &self.compiler {
            return Ok(compiler.clone());
        }
        let path = self.config.runtimes.wasm.clone();
        let hash = tokio::task::spawn_blocking({
            let path = path.clone();
            move || identity_of_program(&path)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|hash| hash)
        .map_err(|e| PrepareError::Io("read", path, e))?;
        self.compiler = Some(hash.clone());
        Ok(hash)
    }
}

/// A job's own words name the cause; where that is the disk, they cannot know what a node does about it.
fn with_cure(problem: &str) -> String {
    let is_full = problem.contains("No space left on device");
    let cure = if is_full { "; remove apps or volumes, or use a larger disk: it is tried again" } else { "" };
    format!("{problem}{cure}")
}

/// How the name of something begins that is about to be removed.
const GONE: &str = ".gone-";

/// Removes what is in `folder` and not in `keep`; what cannot be removed costs room only, and the next time tries again.
/// A name that is there stands for something whole, so each is renamed first, and the new names are on the disk before
/// anything goes: a power cut in between leaves a `.gone-…`, never half a layer.
fn remove_others(folder: &Path, keep: &BTreeSet<PathBuf>) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    // All are listed before the first is renamed: a folder that changes may be listed twice.
    let others: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !keep.contains(path))
        .filter_map(|path| set_aside(folder, path))
        .collect();
    if others.is_empty() || std::fs::File::open(folder).and_then(|folder| folder.sync_all()).is_err() {
        return 0;
    }
    others
        .iter()
        .filter(|path| {
            let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
            if is_folder { std::fs::remove_dir_all(path).is_ok() } else { std::fs::remove_file(path).is_ok() }
        })
        .count()
}

/// The name under which something may be removed piece by piece.
fn set_aside(folder: &Path, path: PathBuf) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    if name.starts_with(GONE) {
        return Some(path);
    }
    let gone = folder.join(format!("{GONE}{name}"));
    if gone.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        // Left of an earlier time, and in the way of the rename.
        std::fs::remove_dir_all(&gone).ok()?;
    }
    std::fs::rename(&path, &gone).ok()?;
    Some(gone)
}

/// Tells one build of a program from another without reading all of it (at boot, on a slow disk, that is seconds): its
/// size, time, and both ends, where headers and build id are. What it guards is not trust but staleness: a component
/// that another build compiled is refused by `cairn-wasm` itself.
fn identity_of_program(path: &Path) -> io::Result<String> {
    const END_BYTES: u64 = 128 << 10;
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    let mut hash = Sha256::new();
    hash.update(metadata.len().to_le_bytes());
    hash.update(metadata.mtime().to_le_bytes());
    io::copy(&mut (&mut file).take(END_BYTES), &mut hash)?;
    file.seek(io::SeekFrom::Start(metadata.len().saturating_sub(END_BYTES)))?;
    io::copy(&mut file.take(END_BYTES), &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
