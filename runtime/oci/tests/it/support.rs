//! A root file system made of busybox, workload files, and waiting.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use cairn_model::workload::{Mount, Network, OciWorkload};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Generous: a loaded CI machine must not fail a test that only waits.
const DEADLINE: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 20] = [
    "sh", "true", "false", "cat", "id", "ls", "sleep", "hostname", "env", "pwd", "touch", "mkdir", "kill",
    "echo", "ip", "grep", "dd", "mount", "unshare", "test",
];
static NEXT_ID: AtomicU32 = AtomicU32::new(0);

/// One replica with a folder for all its things.
pub struct Replica {
    pub dir: TempDir,
    pub workload: OciWorkload,
}

impl Replica {
    /// A container that runs `script` by the shell of a busybox image, without network.
    pub fn new(script: &str) -> Self {
        Self::of_command(&["/bin/sh", "-c", script])
    }

    pub fn of_command(args: &[&str]) -> Self {
        require_root();
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        busybox_root(&layer);
        let id = format!("it-{}-{}", std::process::id(), NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let workload = OciWorkload {
            id,
            run_dir: dir.path().join("run"),
            layers: vec![layer],
            writable_dir: None,
            read_only: false,
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: Vec::new(),
            cwd: "/".to_owned(),
            user: String::new(),
            hostname: "box".to_owned(),
            cap_add: Vec::new(),
            cap_drop: Vec::new(),
            mounts: Vec::new(),
            extra_hosts: Vec::new(),
            sysctls: Default::default(),
            ulimits: Vec::new(),
            network: Network::None,
            init: false,
        };
        Self { dir, workload }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bind(mut self, source: &Path, target: &str, read_only: bool) -> Self {
        self.workload.mounts.push(Mount::Bind {
            source: source.to_owned(),
            target: target.into(),
            read_only,
        });
        self
    }

    /// Everything that the runtime puts into the run folder.
    pub fn container_dir(&self) -> PathBuf {
        self.workload.run_dir.join("container")
    }

    /// `cairn-oci VERB WORKLOAD`.
    pub fn command(&self, verb: &str) -> Command {
        let file = self.path("workload.json");
        fs::write(&file, serde_json::to_vec(&self.workload).unwrap()).unwrap();
        let mut command = cairn_oci();
        command.arg(verb).arg(file).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub fn run(&self) -> Finished {
        Finished::of(self.command("run").output().unwrap())
    }

    /// Starts, and waits until `marker` (a file in the container's run folder) is there.
    pub fn start_until(&self, marker: &str) -> Started {
        let path = self.container_dir().join(marker);
        self.start_and_wait(&format!("{}", path.display()), || path.exists())
    }

    /// Starts, and waits until commands can be run inside.
    pub fn start(&self) -> Started {
        let state = self.container_dir().join("state").join(&self.workload.id).join("state.json");
        let runs = || fs::read_to_string(&state).is_ok_and(|text| text.contains("\"running\""));
        self.start_and_wait("the container to run", runs)
    }

    fn start_and_wait(&self, what: &str, mut condition: impl FnMut() -> bool) -> Started {
        let mut started = Started::new(self.command("run").stdout(Stdio::null()));
        wait_for(what, || {
            let ended = started.0.try_wait().unwrap();
            assert!(ended.is_none(), "it ended ({ended:?}) before {what}");
            condition()
        });
        started
    }

    /// Waits until the workload has made `file`.
    pub fn wait_inside(&self, file: &str) {
        wait_for(file, || self.exec(&["test", "-e", file]).code == Some(0));
    }

    pub fn exec(&self, argv: &[&str]) -> Finished {
        Finished::of(self.command("exec").arg("--").args(argv).output().unwrap())
    }

    pub fn cleanup(&self) -> Finished {
        Finished::of(self.command("cleanup").output().unwrap())
    }

    /// Fails where a process, mount, cgroup or file of the replica is left.
    pub fn assert_nothing_left(&self) {
        assert!(!self.container_dir().exists(), "{} is left", self.container_dir().display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let run_dir = self.workload.run_dir.to_str().unwrap();
        assert!(!mounts.contains(run_dir), "a mount below {run_dir} is left");
        let cgroups = cgroups_of(&self.workload.id);
        assert!(cgroups.is_empty(), "{cgroups:?} are left");
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.command("cleanup").output();
    }
}

pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The output of what must have worked.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The message of what must have been refused by the runtime.
    pub fn refused(self) -> String {
        assert_eq!(self.code, Some(125), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stderr
    }
}

/// A runtime that was started; killed where a test leaves it running.
pub struct Started(Child);

impl Started {
    pub fn new(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// The exit code of what must end now.
    pub fn ends(mut self) -> Option<i32> {
        let mut status = None;
        wait_for("the runtime to end", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn cairn_oci() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cairn-oci"))
}

pub fn busybox_root(root: &Path) {
    assert!(Path::new(BUSYBOX).exists(), "{BUSYBOX} is missing: apt-get install busybox-static");
    for folder in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nlogs:x:50:web\n").unwrap();
}

pub fn require_root() {
    assert!(nix::unistd::geteuid().is_root(), "these tests start containers: run them as root");
}

/// Waits for `condition`, and fails with `what` after the deadline.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} for {what}");
        // Not to spin on a machine where what we wait for needs the processor.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The container's cgroups in all hierarchies.
fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        found.push(entry.path().join("cairn").join(id));
        found.push(entry.path().join(format!("cairn-{id}")));
    }
    found.push(Path::new("/sys/fs/cgroup").join(format!("cairn-{id}")));
    found.retain(|path| path.exists());
    found
}
