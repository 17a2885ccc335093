//! A node whose data partition is full, on a real file system of its own that is filled to the last block.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use cairn_model::{NodeId, local::LinkState};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statvfs::statvfs,
};

use super::hub::{Hub, Node, running, says};

/// A file system in memory, in a mount namespace of this thread and of what it starts.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mib: u32) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "mounting needs root: run these tests as root");
        fs::create_dir_all(at).unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let options = format!("size={mib}M,mode=0700");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(at.to_owned())
    }

    fn grows_to(&self, mib: u32) {
        let options = format!("size={mib}M");
        mount(Some("tmpfs"), &self.0, Some("tmpfs"), MsFlags::MS_REMOUNT, Some(options.as_str())).unwrap();
    }

    fn free(&self) -> u64 {
        statvfs(&self.0).unwrap().blocks_available()
    }

    /// To the last block.
    fn fill(&self) {
        let mut ballast = File::create(self.0.join("ballast")).unwrap();
        for piece in [1 << 20, 4096] {
            while ballast.write_all(&vec![0; piece]).is_ok() {}
        }
        assert_eq!(self.free(), 0, "it is full");
    }

    /// What became free meanwhile is taken too.
    fn refill(&self) {
        let mut ballast = File::options().append(true).open(self.0.join("ballast")).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    fn is_freed(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

const FULL: &[&str] = &["the data partition is full", "remove apps", "use a larger disk"];

/// A member that runs one workload, with 96 MiB for its state.
fn at_work() -> (Hub, Node, Disk, NodeId) {
    let hub = Hub::start("token");
    let mut node = Node::new(&hub, "token");
    let disk = Disk::mount(&node.state(), 96);
    node.start();
    let id = node.status().node;
    hub.publish(&id, &[("api", "1")]);
    node.until("the workload runs", |status| running(status) == 1 && status.link == LinkState::Online);
    (hub, node, disk, id)
}

#[test]
fn a_full_disk_stops_nothing_that_runs_survives_restarts_and_is_got_over_by_itself() {
    let (hub, mut node, disk, id) = at_work();
    node.until("the outbox is empty", |status| status.unsent_reports == 0);
    let (processes, told) = (node.runs(), hub.told().len());

    disk.fill();
    hub.publish(&id, &[("api", "1"), ("more", "2")]);
    // That it is full, and what could not be done for that: both with a cure.
    let status = node.until("it is said", |status| {
        says(status, FULL) && says(status, &["the hub's bundle is not taken", "space"])
    });
    assert_eq!((status.generation, running(&status)), (1, 1), "{status:?}");
    node.until_journal(&["a report waits in memory", "has room"]);
    node.still_runs(&processes);

    // What the ledger says runs again on a disk without a free block: after an orderly end, and after a power cut.
    node.stop();
    for dies in [true, false] {
        disk.refill();
        node.start();
        let status = node.until("it starts", |status| {
            running(status) == 1 && says(status, FULL) && says(status, &["the hub's bundle is not taken"])
        });
        assert_eq!(status.generation, 1);
        if dies {
            node.dies();
        }
    }

    disk.is_freed();
    let status = node.until("all is well", |status| running(status) == 2 && status.problems.is_empty());
    assert_eq!(status.generation, 2);
    node.until("what waited in memory is reported", |status| status.unsent_reports == 0);
    assert!(hub.told()[told..].iter().any(|reason| reason == "bundle-not-applied"), "{:?}", hub.told());
}

#[test]
fn what_is_unpacked_into_too_little_room_is_said_and_made_ready_once_there_is_more() {
    let (hub, mut node, disk, id) = at_work();
    let processes = node.runs();
    // There is room for the blob, which is three bytes long, and none for what becomes of it.
    hub.publish(&id, &[("api", "1"), ("big", "120")]);
    let words = ["cannot be made ready", "No space left on device", "use a larger disk"];
    let told = |status: &cairn_model::local::LocalStatus| {
        let details = status.workloads.iter().filter_map(|workload| workload.detail.as_deref());
        details.chain(status.problems.iter().map(String::as_str)).any(|d| words.iter().all(|w| d.contains(w)))
    };
    let status = node.until("it is said", told);
    assert_eq!((status.generation, running(&status)), (2, 1), "{status:?}");
    node.still_runs(&processes);
    let module = format!("wasm/{}.cwasm", cairn_model::Digest::of(b"120").hex());
    assert!(!node.state().join(module).exists(), "nothing half-done under its name");
    disk.grows_to(300);
    node.until("there is room", |status| running(status) == 2 && status.problems.is_empty());
    assert_eq!(node.runs()[..1], processes);
}

#[test]
fn a_first_start_without_room_says_so_and_the_next_one_with_room_works() {
    let hub = Hub::start("token");
    let mut node = Node::new(&hub, "token");
    let disk = Disk::mount(&node.state(), 8);
    disk.fill();
    node.start();
    node.fails();
    let journal = node.journal();
    assert!(journal.contains("No space left on device") || journal.contains("is full"), "{journal}");
    assert!(journal.contains("free space") || journal.contains("has room"), "{journal}");
    assert!(!journal.contains("damaged"), "a full disk is no torn file: {journal}");
    disk.is_freed();
    node.start();
    node.until("it has joined", |status| status.link == LinkState::Online);
}
