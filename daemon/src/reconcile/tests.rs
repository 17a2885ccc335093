//! Looks at a supervisor of the test's own: what is removed when.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use cairn_model::{
    compose::App,
    desired::{DesiredApp, DesiredState, Policy},
    resolve::{ImageConfig, ResolvedReplica, resolve},
};
use cairn_trust::keys::KeyPair;
use tokio::{sync::Notify, time::timeout};

use super::*;
use crate::{
    act::{
        images,
        jobs::ProcessJobs,
        supervisor::{SupervisorError, Tag, UnitSpec},
        trash::Trash,
    },
    assemble::{Blob, Layer},
    blobs::Blobs,
    config::Runtimes,
    notify::tests::{meals, starves},
};

const UNIT: &str = "cairn-shop-web-0";

/// Always the same answer, and none while it is told to hang; nothing that it is asked for is done.
struct Fixed {
    units: BTreeMap<String, UnitState>,
    hangs: watch::Receiver<bool>,
}

#[async_trait]
impl Supervisor for Fixed {
    async fn list(&mut self) -> Result<BTreeMap<String, UnitState>, SupervisorError> {
        // A sender that is gone tells it nothing any more.
        let _ = self.hangs.wait_for(|hangs| !hangs).await;
        Ok(self.units.clone())
    }
    async fn start(&mut self, _: &UnitSpec) -> Result<(), SupervisorError> {
        Ok(())
    }
    async fn stop(&mut self, _: &str) -> Result<(), SupervisorError> {
        Ok(())
    }
    async fn clear(&mut self, _: &str) -> Result<(), SupervisorError> {
        Ok(())
    }
    fn changes(&self) -> Arc<Notify> {
        Arc::default()
    }
    async fn shutdown(&mut self) {}
}

fn replica(image: &Digest) -> ResolvedReplica {
    let compose = format!("services:\n  web:\n    image: a@{image}\n    network_mode: host\n");
    let app = App::parse("compose.yaml", &compose).unwrap();
    let services = app.services.keys().map(|name| (name.clone(), vec![0])).collect();
    let desired = DesiredApp { app: Digest::of(b"app"), services };
    let config = ImageConfig { cmd: vec!["/bin/server".into()], ..ImageConfig::default() };
    let images = BTreeMap::from([(image.clone(), config)]);
    resolve(&"shop".parse().unwrap(), &app, &desired, &images).unwrap().remove(0)
}

fn content(of: &Digest) -> Content {
    let blob = Blob { digest: of.clone(), size: 1 };
    Content::Oci(vec![Layer { blob, media_type: "tar".into(), diff_id: of.clone() }])
}

fn runtimes() -> Runtimes {
    Runtimes { oci: "/x".into(), wasm: "/x".into(), journalctl: "/x".into(), prepare_memory_bytes: 1 }
}

/// A generation with this image alone.
fn assembled(wanted: &Digest) -> Arc<Assembled> {
    Arc::new(Assembled {
        desired: DesiredState {
            schema: 1,
            node: KeyPair::generate().unwrap().public().node_id(),
            generation: 1,
            apps: BTreeMap::new(),
            os: None,
            commands: vec![],
            policy: Policy::default(),
        },
        replicas: BTreeMap::from([(UNIT.to_owned(), replica(wanted))]),
        images: BTreeMap::from([(wanted.clone(), content(wanted))]),
        os: None,
    })
}

/// One look of a task whose supervisor knows the unit as made from `observed`, while `wanted` is ready and desired.
/// The layers of `old` and `wanted` are unpacked; returns which of the two are left.
async fn look(old: &Digest, observed: &Digest, wanted: &Digest, phase: Phase) -> (bool, bool) {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().to_owned();
    let layer = |image: &Digest| state_dir.join("layers").join(image.hex());
    for image in [old, wanted] {
        std::fs::create_dir_all(layer(image)).unwrap();
    }
    let runtimes = runtimes();
    let jobs = Arc::new(ProcessJobs);
    let config = images::Config {
        state_dir: state_dir.clone(),
        run_dir: dir.path().join("run"),
        runtimes: runtimes.clone(),
        unpack: jobs.clone(),
        precompile: jobs,
    };
    let (mut images, task) = images::build(config, Blobs::new(&state_dir), CancellationToken::new());
    tokio::spawn(task);
    images.prepare(wanted.clone(), content(wanted));
    let deadline = Duration::from_secs(10);
    timeout(deadline, images.state.wait_for(|s| s.ready.contains(wanted))).await.unwrap().unwrap();

    let desired = assembled(wanted);
    let tag = Tag { replica: "shop/web/0".into(), spec: replica(observed).spec_hash(), ports: vec![] };
    let state = UnitState { tag, phase, restarts: 0, detail: None };
    let (_sender, desired_out) = watch::channel(Some(desired.clone()));
    let (reporter, _records) = Reporter::channel();
    let config = Config {
        supervisor: Box::new(Fixed {
            units: BTreeMap::from([(UNIT.to_owned(), state)]),
            hangs: watch::channel(false).1,
        }),
        places: Places {
            state_dir: state_dir.clone(),
            run_dir: dir.path().join("run"),
            runtimes,
            network_base: Ipv4Addr::new(10, 89, 0, 0),
            trash: Trash::start(&state_dir).unwrap(),
        },
        desired: desired_out,
        images: images.clone(),
        ledger: Ledger::open(&state_dir.join("ledger.sqlite")).await.unwrap(),
        reporter,
    };
    let stop = CancellationToken::new();
    let (mut work, task) = build(config, stop.clone()).await;
    let first = *work.alive.borrow_and_update();
    let task = tokio::spawn(task);
    timeout(deadline, work.alive.wait_for(|at| *at != first)).await.unwrap().unwrap();
    stop.cancel();
    task.await.unwrap();
    // The images' task takes requests in their order: when this one is done, what the look asked for is.
    let marker = Digest::of(b"marker");
    images.prepare(marker.clone(), Content::Oci(vec![]));
    timeout(deadline, images.state.wait_for(|s| s.ready.contains(&marker))).await.unwrap().unwrap();
    (layer(old).exists(), layer(wanted).exists())
}

#[tokio::test]
async fn a_container_that_still_stops_keeps_its_layers() {
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    assert_eq!(look(&old, &old, &new, Phase::Stopping).await, (true, true));
}

#[tokio::test]
async fn what_nothing_runs_from_is_removed_once_all_runs_as_wanted() {
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    assert_eq!(look(&old, &new, &new, Phase::Running).await, (false, true));
}

#[tokio::test]
async fn a_look_that_hangs_leaves_the_watchdog_unfed() {
    let dir = tempfile::tempdir().unwrap();
    let (image, state_dir) = (Digest::of(b"image"), dir.path().to_owned());
    let runtimes = runtimes();
    let jobs = Arc::new(ProcessJobs);
    let config = images::Config {
        state_dir: state_dir.clone(),
        run_dir: dir.path().join("run"),
        runtimes: runtimes.clone(),
        unpack: jobs.clone(),
        precompile: jobs,
    };
    let stop = CancellationToken::new();
    let (images, _task) = images::build(config, Blobs::new(&state_dir), stop.clone());
    let (hang, hangs) = watch::channel(true);
    let (_sender, desired) = watch::channel(Some(assembled(&image)));
    let (reporter, _records) = Reporter::channel();
    let config = Config {
        supervisor: Box::new(Fixed { units: BTreeMap::new(), hangs }),
        places: Places {
            state_dir: state_dir.clone(),
            run_dir: dir.path().join("run"),
            runtimes,
            network_base: Ipv4Addr::new(10, 89, 0, 0),
            trash: Trash::start(&state_dir).unwrap(),
        },
        desired,
        images,
        ledger: Ledger::open(&state_dir.join("ledger.sqlite")).await.unwrap(),
        reporter,
    };
    let (work, task) = build(config, stop.clone()).await;
    tokio::spawn(task);
    let mut meals = meals(work.alive, stop.clone());
    assert!(starves(&mut meals).await, "the look hangs");
    hang.send_replace(false);
    timeout(Duration::from_secs(10), meals.recv()).await.expect("it looks again").unwrap();
    stop.cancel();
}
