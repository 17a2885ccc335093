//! Where a replica's things lie below its run folder, and the reading of its workload file.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cairn_model::workload::OciWorkload;
use rustix::{fs::FlockOperation, io::Errno};

/// Largest workload file: thousands of environment variables and mounts fit.
const MAX_WORKLOAD_BYTES: u64 = 4 << 20;

/// Paths below `<run_dir>/container`, the one folder that is ours: removing it removes every trace.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    base: PathBuf,
}

impl Layout {
    pub(crate) fn of(workload: &OciWorkload) -> Self {
        Self { base: workload.run_dir.join("container") }
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// OCI bundle: `config.json`.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.base.join("bundle")
    }

    /// Where the root file system is mounted; seen mounted only inside the container's own mount namespace.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.base.join("rootfs")
    }

    /// libcontainer's state, a folder a container.
    pub(crate) fn state(&self) -> PathBuf {
        self.base.join("state")
    }

    /// The network namespace, kept alive by a bind mount.
    pub(crate) fn netns(&self) -> PathBuf {
        self.base.join("netns")
    }

    /// Generated `/etc` files, `name` being one of theirs.
    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.base.join("etc").join(name)
    }

    /// Where bind mounts are staged before libcontainer mounts them.
    pub(crate) fn binds(&self) -> PathBuf {
        self.base.join("binds")
    }

    /// Mount point of the tmpfs for containers without a writable folder.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.base.join("scratch")
    }

    /// The container's cgroup path, written before the cgroup is made, so that a cleanup finds it.
    pub(crate) fn cgroup_note(&self) -> PathBuf {
        self.base.join("cgroup")
    }

    /// Made before netavark is first called: where it exists, a cleanup must call teardown.
    pub(crate) fn network_note(&self) -> PathBuf {
        self.base.join("network")
    }

    fn lock_file(&self) -> PathBuf {
        self.base.join("lock")
    }

    /// Makes the folders; `base` must not exist. The lock is held until it is dropped here *and* in every process that
    /// libcontainer cloned from this one, which is when they have become the workload or died.
    pub(crate) fn create(&self) -> Result<File> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        for dir in [
            self.base.clone(),
            self.bundle(),
            self.rootfs(),
            self.state(),
            self.base.join("etc"),
            self.binds(),
            self.scratch(),
        ] {
            builder.create(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        }
        let lock = File::create_new(self.lock_file()).context("failed to make the lock file")?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .context("failed to lock the container's folder")?;
        Ok(lock)
    }

    /// Takes the lock if nobody has it: `Ok(None)` where somebody does.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>> {
        let file = match File::open(self.lock_file()) {
            Ok(file) => file,
            // Killed before it was made: nothing else was made either.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Lock { _file: None })),
            Err(error) => return Err(error).context("failed to open the lock file"),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: Some(file) })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).context("failed to lock the container's folder"),
        }
    }
}

/// Nobody else changes the container's folder while this lives.
pub(crate) struct Lock {
    _file: Option<File>,
}

/// Reads and checks a workload file.
pub(crate) fn load(path: &Path) -> Result<OciWorkload> {
    let context = || format!("failed to read workload {}", path.display());
    let mut text = Vec::new();
    File::open(path)
        .with_context(context)?
        .take(MAX_WORKLOAD_BYTES + 1)
        .read_to_end(&mut text)
        .with_context(context)?;
    if text.len() as u64 > MAX_WORKLOAD_BYTES {
        bail!("workload {} is larger than {MAX_WORKLOAD_BYTES} bytes", path.display());
    }
    let workload: OciWorkload = serde_json::from_slice(&text).with_context(context)?;
    check(&workload).with_context(context)?;
    Ok(workload)
}

fn check(workload: &OciWorkload) -> Result<()> {
    let id = &workload.id;
    if id.is_empty()
        || id.len() > 100
        || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    {
        bail!("id {id:?} is not 1 to 100 of a-z, 0-9, hyphens and underscores");
    }
    if !workload.run_dir.is_absolute() {
        bail!("run_dir {} is not absolute", workload.run_dir.display());
    }
    if workload.args.is_empty() {
        bail!("args is empty: the service has no command; set command or entrypoint");
    }
    if workload.layers.is_empty() {
        bail!("layers is empty: the image has no content");
    }
    if let Some(text) = workload.args.iter().chain(&workload.env).find(|text| text.contains('\0')) {
        bail!("{:?} has a NUL byte", text.chars().take(80).collect::<String>());
    }
    let name = &workload.hostname;
    if name.is_empty()
        || name.len() > 64
        || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    {
        bail!("hostname {name:?} is not 1 to 64 letters, digits, hyphens and dots");
    }
    if !Path::new(&workload.cwd).is_absolute() {
        bail!("cwd {:?} is not absolute", workload.cwd);
    }
    if let Some(entry) = workload.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        // The value could be a secret: only the name is shown.
        bail!("env has an entry {:?} that is not NAME=value", entry.split('=').next().unwrap_or_default());
    }
    Ok(())
}
