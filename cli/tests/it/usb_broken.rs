//! Exports that are cut off: by the network, by a kill, by a full or write-protected stick. Run again, they go on.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    unistd::geteuid,
};

use crate::{
    real::{RealHub, blob, noise, receipt, wait_until},
    run::User,
};

const LAYER: usize = 12 << 20;

/// Passes bytes on to a hub, and from it no more than a budget; then every connection breaks, or stands still.
struct Wire {
    url: String,
    stands_still: Arc<AtomicBool>,
    /// Bytes that may still come from the hub.
    budget: Arc<AtomicU64>,
    /// Bytes that came.
    passed: Arc<AtomicU64>,
}

impl Wire {
    fn to(hub: &RealHub) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (budget, passed) = (Arc::new(AtomicU64::new(u64::MAX / 2)), Arc::new(AtomicU64::new(0)));
        let stands_still = Arc::new(AtomicBool::new(false));
        let (address, left, came) = (hub.address(), Arc::clone(&budget), Arc::clone(&passed));
        let stands = Arc::clone(&stands_still);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if left.load(Ordering::SeqCst) == 0 {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&address) else { continue };
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(up, down, |_| true));
                let (left, came, stands) = (Arc::clone(&left), Arc::clone(&came), Arc::clone(&stands));
                thread::spawn(move || {
                    pass(server, client, |count| {
                        while stands.load(Ordering::SeqCst) && left.load(Ordering::SeqCst) <= count {
                            thread::yield_now();
                        }
                        came.fetch_add(count, Ordering::SeqCst);
                        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |l| {
                            Some(l.saturating_sub(count))
                        })
                        .is_ok_and(|before| before > count)
                    });
                });
            }
        });
        Self { url, stands_still, budget, passed }
    }

    fn allow(&self, bytes: u64) {
        self.budget.store(bytes, Ordering::SeqCst);
        self.passed.store(0, Ordering::SeqCst);
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, may: impl Fn(u64) -> bool) {
    let mut piece = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        if !may(count as u64) || to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}

#[test]
fn a_hub_that_goes_away_in_the_middle_costs_nothing_that_came() {
    let hub = RealHub::start();
    let edge = hub.member("edge1");
    let layer = hub.deploy("web", &noise(LAYER, 1));
    let wire = Wire::to(&hub);
    let far = User::new();
    hub.add_context(&far, &wire.url);
    let stick = tempfile::tempdir().unwrap();
    let dir = stick.path().to_str().unwrap();
    let export = || far.run(&["usb", "export", dir, "--node", "edge1", "--yes"]);
    wire.allow(LAYER as u64 / 2);
    export().fails(5, &["blobs are on the stick", "run this again: it goes on where it stopped"]);
    assert!(!stick.path().join("cairn-bundle.json").exists(), "no receipt before the end");
    assert!(!blob(stick.path(), &layer).exists());
    wire.allow(u64::MAX / 2);
    let out = export().ok();
    assert!(out.contains("good until"), "{out}");
    assert!(wire.passed() < LAYER as u64 * 3 / 4, "{} came again", wire.passed());
    assert_eq!(fs::read(blob(stick.path(), &layer)).unwrap(), noise(LAYER, 1));
    hub.run(&["usb", "verify", dir]).ok();
    // What a stick that was pulled tore is seen by its digest, and fetched anew.
    let layer = hub.deploy("api", &noise(LAYER, 2));
    wire.allow(LAYER as u64 / 2);
    export().fails(5, &["it goes on"]);
    let begun = stick.path().join(format!("blobs/sha256/.{}.partial", layer.hex()));
    let mut torn = fs::read(&begun).unwrap();
    torn[1000..2000].fill(0);
    fs::write(&begun, torn).unwrap();
    wire.allow(u64::MAX / 2);
    export().ok();
    assert_eq!(fs::read(blob(stick.path(), &layer)).unwrap(), noise(LAYER, 2));
    // Nor does it lose what came from nodes: the stick keeps it.
    edge.report(stick.path(), 1);
    wire.allow(0);
    far.run(&["usb", "import", dir]).fails(5, &["import again", "not stored twice"]);
    wire.allow(u64::MAX / 2);
    assert!(far.run(&["usb", "import", dir]).ok().contains("edge1      1     0       1"));
}

#[test]
fn what_is_deployed_meanwhile_is_on_the_stick_and_what_it_replaces_is_not() {
    let hub = RealHub::start();
    hub.member("edge1");
    let old = hub.deploy("web", &noise(LAYER, 30));
    let wire = Wire::to(&hub);
    let far = User::new();
    hub.add_context(&far, &wire.url);
    let stick = tempfile::tempdir().unwrap();
    let dir = stick.path().to_str().unwrap();
    wire.stands_still.store(true, Ordering::SeqCst);
    wire.allow(4 << 20);
    let args = ["usb", "export", dir, "--node", "edge1", "--yes"];
    let child = far.command(&args).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let begun = stick.path().join(format!("blobs/sha256/.{}.partial", old.hex()));
    wait_until(|| fs::metadata(&begun).is_ok_and(|begun| begun.len() > 1 << 20));
    let new = hub.deploy("web", b"newer");
    wire.allow(u64::MAX / 2);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(blob(stick.path(), &new).exists() && !blob(stick.path(), &old).exists());
    assert_eq!(receipt(stick.path())["nodes"][0]["generation"], 3);
    hub.run(&["usb", "verify", dir]).ok();
}

#[test]
fn a_stick_that_fills_up_while_it_is_written_is_gone_on_with_once_there_is_room() {
    let Some(disk) = Disk::new(32 << 20) else { return };
    let hub = RealHub::start();
    hub.member("edge1");
    let layer = hub.deploy("web", &noise(LAYER, 20));
    let wire = Wire::to(&hub);
    let far = User::new();
    hub.add_context(&far, &wire.url);
    let dir = disk.path().to_str().unwrap();
    let args = ["usb", "export", dir, "--node", "edge1", "--yes"];
    wire.stands_still.store(true, Ordering::SeqCst);
    wire.allow(4 << 20);
    let child = far.command(&args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let begun = disk.path().join(format!("blobs/sha256/.{}.partial", layer.hex()));
    wait_until(|| fs::metadata(&begun).is_ok_and(|begun| begun.len() > 1 << 20));
    let filler = disk.path().join("filler");
    assert!(fs::write(&filler, noise(32 << 20, 21)).is_err(), "the disk is full");
    wire.allow(u64::MAX / 2);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("make room on the stick"), "{said}");
    assert!(!disk.path().join("cairn-bundle.json").exists());
    fs::remove_file(&filler).unwrap();
    wire.allow(u64::MAX / 2);
    far.run(&args).ok();
    assert!(wire.passed() < LAYER as u64, "{} came again", wire.passed());
    hub.run(&["usb", "verify", dir]).ok();
}

#[test]
fn a_kill_at_any_stage_is_gone_on_from_and_touches_no_outbox() {
    let hub = RealHub::start();
    let edge = hub.member("edge1");
    let stick = tempfile::tempdir().unwrap();
    let dir = stick.path().to_str().unwrap();
    edge.report(stick.path(), 1);
    let args = ["usb", "export", dir, "--node", "edge1", "--yes"];
    let exists = |name: &str| stick.path().join(name).exists();
    for round in 0..6 {
        let layer = hub.deploy("web", &noise(LAYER, round + 2));
        // Killed when this is there: the first bytes of a blob, a whole one, the index, the first metadata.
        let hex = layer.hex().to_owned();
        let stages: [Box<dyn Fn() -> bool>; 3] = [
            Box::new(|| exists("blobs/sha256")),
            Box::new(|| exists(&format!("blobs/sha256/.{hex}.partial"))),
            Box::new(|| exists(&format!("blobs/sha256/{hex}"))),
        ];
        for stage in &stages {
            let mut child = hub.user.command(&args).stdout(Stdio::null()).spawn().unwrap();
            wait_until(|| stage() || child.try_wait().unwrap().is_some());
            let _ = child.kill();
            child.wait().unwrap();
        }
        hub.run(&args).ok();
        hub.run(&["usb", "verify", dir]).ok();
        let left: Vec<_> = fs::read_dir(stick.path().join("blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(exists(&format!("outbox/{}/{:020}.jws", edge.id, 1)));
}

/// A small disk of its own, where the test may mount one.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let none: Option<&str> = None;
        let mounted = geteuid().is_root()
            && mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
                .is_ok();
        if !mounted {
            eprintln!("no disk can be mounted here ({none:?}): nothing tried");
            return None;
        }
        Some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write_protect(&self, flags: MsFlags) {
        let none: Option<&str> = None;
        mount(none, self.path(), none, MsFlags::MS_REMOUNT | flags, none).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_stick_without_room_is_refused_before_the_first_byte() {
    let Some(disk) = Disk::new(16 << 20) else { return };
    let hub = RealHub::start();
    hub.member("edge1");
    let layer = hub.deploy("web", &noise(LAYER, 8));
    let dir = disk.path().to_str().unwrap();
    let export = || hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]);
    export().fails(1, &["has no room", "are missing", "larger one"]);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0, "nothing is written");
    // Room that is there only once the earlier export goes.
    let hub_of_less = hub.deploy("web", &noise(5 << 20, 9));
    export().ok();
    let next = hub.deploy("web", &noise(6 << 20, 10));
    let ran = export();
    assert!(ran.err.contains("the stick is of no use"), "{ran:?}");
    ran.ok();
    assert!(!blob(disk.path(), &hub_of_less).exists() && blob(disk.path(), &next).exists());
    assert!(!blob(disk.path(), &layer).exists());
    hub.run(&["usb", "verify", dir]).ok();
}

#[test]
fn a_write_protected_stick_is_said_and_still_verified() {
    let Some(disk) = Disk::new(64 << 20) else { return };
    let hub = RealHub::start();
    hub.member("edge1");
    hub.deploy("web", b"a layer");
    let dir = disk.path().to_str().unwrap();
    let export = || hub.run(&["usb", "export", dir, "--node", "edge1", "--yes"]);
    export().ok();
    disk.write_protect(MsFlags::MS_RDONLY);
    export().fails(1, &["write-protected", "remount,rw"]);
    hub.run(&["usb", "verify", dir]).ok();
    hub.run(&["usb", "import", dir]).ok();
    disk.write_protect(MsFlags::empty());
    export().ok();
}
