//! The images task with a job runner of the test's own: once, retried after a failure, collected when left over.

use std::sync::Mutex;

use async_trait::async_trait;
use tokio::time::timeout;

use super::*;

/// Makes what it is asked for, or fails; remembers every job.
#[derive(Default)]
struct Jobs {
    done: Mutex<Vec<Vec<String>>>,
    fails: bool,
}

#[async_trait]
impl JobRunner for Jobs {
    async fn run(&self, job: &Job) -> Result<(), JobError> {
        self.done.lock().unwrap().push(job.argv.clone());
        if self.fails {
            return Err(JobError { job: job.name.clone(), cause: "disk full".to_owned() });
        }
        let into = job.argv.iter().find_map(|arg| arg.strip_prefix("--into="));
        match into {
            Some(folder) => std::fs::create_dir_all(folder).unwrap(),
            None => std::fs::write(job.argv.last().unwrap(), "compiled").unwrap(),
        }
        Ok(())
    }
}

struct Setup {
    dir: tempfile::TempDir,
    jobs: Arc<Jobs>,
    images: Images,
    stop: CancellationToken,
}

fn setup(fails: bool) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().to_owned();
    let blobs = Blobs::new(&state_dir);
    std::fs::create_dir_all(state_dir.join("blobs/sha256")).unwrap();
    for bytes in [b"l1", b"wm"] {
        std::fs::write(blobs.path(&Digest::of(bytes)), bytes).unwrap();
    }
    let compiler = state_dir.join("cairn-wasm");
    std::fs::write(&compiler, "the compiler").unwrap();
    let jobs = Arc::new(Jobs { fails, ..Jobs::default() });
    let runtimes = Runtimes {
        oci: "/x/cairn-oci".into(),
        wasm: compiler,
        journalctl: "/x".into(),
        prepare_memory_bytes: 1,
    };
    let run_dir = state_dir.join("run");
    let config = Config { state_dir, run_dir, runtimes, unpack: jobs.clone(), precompile: jobs.clone() };
    let stop = CancellationToken::new();
    let (images, task) = build(config, blobs, stop.clone());
    tokio::spawn(task);
    Setup { dir, jobs, images, stop }
}

fn oci(blob: &[u8], tar: &[u8]) -> Content {
    let blob = Blob { digest: Digest::of(blob), size: 2 };
    Content::Oci(vec![Layer { blob, media_type: "tar".into(), diff_id: Digest::of(tar) }])
}

fn wasm() -> Content {
    Content::Wasm(Blob { digest: Digest::of(b"wm"), size: 2 })
}

async fn until(images: &mut Images, what: impl Fn(&ImagesState) -> bool) -> ImagesState {
    timeout(Duration::from_secs(10), images.state.wait_for(what)).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn makes_an_image_ready_once() {
    let mut setup = setup(false);
    let image = Digest::of(b"image");
    for _ in 0..3 {
        setup.images.prepare(image.clone(), oci(b"l1", b"t1"));
    }
    setup.images.prepare(Digest::of(b"component"), wasm());
    until(&mut setup.images, |state| state.ready.len() == 2).await;
    let done = setup.jobs.done.lock().unwrap().clone();
    assert_eq!(done.len(), 2, "{done:?}");
    assert_eq!(done[0][..2], ["/x/cairn-oci", "unpack"]);
    assert!(
        !setup.dir.path().join("blobs/sha256").join(Digest::of(b"l1").hex()).exists(),
        "unpacked: not kept twice"
    );
    assert!(
        setup.dir.path().join("blobs/sha256").join(Digest::of(b"wm").hex()).exists(),
        "another compiler may come"
    );
    setup.stop.cancel();
}

#[tokio::test]
async fn says_what_fails_and_does_not_hammer() {
    let mut setup = setup(true);
    let image = Digest::of(b"image");
    for _ in 0..5 {
        setup.images.prepare(image.clone(), oci(b"l1", b"t1"));
    }
    let missing = Digest::of(b"elsewhere");
    setup.images.prepare(missing.clone(), oci(b"l2", b"t2"));
    let state = until(&mut setup.images, |state| state.failed.len() == 2).await;
    assert!(state.failed[&image].contains("disk full"), "{state:?}");
    assert!(state.failed[&missing].contains("is not on the disk"), "{state:?}");
    assert_eq!(setup.jobs.done.lock().unwrap().len(), 1, "the others wait for the pause to end");
}

#[tokio::test]
async fn a_component_is_compiled_anew_for_another_compiler() {
    let mut setup = setup(false);
    let stamp = setup.dir.path().join("wasm").join(format!("{}.compiler", Digest::of(b"wm").hex()));
    let module = stamp.with_extension("cwasm");
    std::fs::create_dir_all(stamp.parent().unwrap()).unwrap();
    std::fs::write(&module, "by an older one").unwrap();
    std::fs::write(&stamp, "0123").unwrap();
    setup.images.prepare(Digest::of(b"component"), wasm());
    until(&mut setup.images, |state| !state.ready.is_empty()).await;
    assert_eq!(std::fs::read_to_string(&module).unwrap(), "compiled");
}

#[tokio::test]
async fn removes_what_is_left_over() {
    let mut setup = setup(false);
    let (image, component) = (Digest::of(b"image"), Digest::of(b"component"));
    setup.images.prepare(image.clone(), oci(b"l1", b"t1"));
    setup.images.prepare(component.clone(), wasm());
    until(&mut setup.images, |state| state.ready.len() == 2).await;
    setup.images.collect(BTreeMap::from([(component.clone(), wasm())]));
    until(&mut setup.images, |state| !state.ready.contains(&image)).await;
    // The next request is taken when the removal is over.
    setup.images.prepare(Digest::of(b"again"), wasm());
    until(&mut setup.images, |state| state.ready.len() == 2).await;
    assert!(!setup.dir.path().join("layers").join(Digest::of(b"t1").hex()).exists());
    assert!(setup.images.module_path(&Blob { digest: Digest::of(b"wm"), size: 2 }).exists());
}

#[test]
fn a_removal_that_was_cut_off_is_ended_and_never_half_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["kept", "old", ".gone-old", ".gone-older"] {
        std::fs::create_dir_all(at(folder).join("etc")).unwrap();
        std::fs::write(at(folder).join("etc/file"), "x").unwrap();
    }
    std::fs::write(at("m.cwasm"), "x").unwrap();
    // What is set aside is whole under its new name, and its old name is free at once.
    assert_eq!(set_aside(dir.path(), at("old")), Some(at(".gone-old")));
    assert!(!at("old").exists() && at(".gone-old/etc/file").exists());

    assert_eq!(remove_others(dir.path(), &BTreeSet::from([at("kept")])), 3);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"]);
    assert!(at("kept/etc/file").exists());
}
