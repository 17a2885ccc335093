//! Writing a release into a slot: by patch and by chunks, stopped and gone on with, from carriers of every kind, and with
//! faults at every write.

use std::{
    cell::Cell,
    io::{self, Read},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use cairn_model::{
    release::{Payload, Release},
    report::OsMethod,
};
use cairn_ota::{Carrier, write::WriteError};

use crate::{
    child,
    scene::{Scene, Tampering},
};

/// What may be lost when a transfer is stopped: a chunk that was not whole, and what lay around it.
const IN_FLIGHT: u64 = (64 << 10) + (16 << 10);

#[test]
fn patch_and_chunks_give_the_same_slot() {
    let scene = Scene::large();
    let mut sizes = Vec::new();
    for (release, method) in [(&scene.release, OsMethod::Patch), (&scene.chunks_only(), OsMethod::Chunks)] {
        let (machine, mut carrier) = (scene.machine(), Tampering::counting(scene));
        let progress = machine.write(release, &mut carrier).unwrap();
        scene.assert_written(&machine);
        assert_eq!(progress.method, method);
        assert_eq!((progress.written, progress.fetched), (progress.total, progress.to_fetch));
        assert_eq!(progress.total, release.root.size + release.uki.size);
        assert_eq!(progress.full, release.chunks.pack.size);
        assert_eq!(progress.fetched, carrier.carried);
        sizes.push(carrier.carried);
    }
    // 405 KiB of the new release are new, and about 100 bytes differ here and there.
    assert!(sizes[0] < 430 << 10 && sizes[1] < 700 << 10, "{sizes:?}");
}

#[test]
fn a_machine_on_which_nothing_runs_fetches_everything() {
    let scene = Scene::large();
    let (machine, mut carrier) = (scene.blank_machine(), Tampering::counting(scene));
    let progress = machine.write(&scene.release, &mut carrier).unwrap();
    scene.assert_written(&machine);
    assert_eq!(progress.method, OsMethod::Chunks);
    let Release { chunks, .. } = &scene.release;
    // The zeroes are in the slot already.
    assert!(carrier.carried > chunks.pack.size - (64 << 10));
    assert!(carrier.carried <= chunks.pack.size + chunks.index.size);
}

#[test]
fn what_is_there_already_is_not_fetched_again() {
    let scene = Scene::large();
    let machine = scene.machine();
    machine.write(&scene.chunks_only(), &mut scene.carrier()).unwrap();
    let mut carrier = Tampering::counting(scene);
    machine.write(&scene.release, &mut carrier).unwrap();
    scene.assert_written(&machine);
    assert_eq!(carrier.carried, scene.release.chunks.index.size);
}

#[test]
fn a_hash_tree_that_cannot_be_read_is_written_anew() {
    let scene = Scene::large();
    let machine = scene.machine();
    let [root, mut uki, running_root, running_tree] =
        ["slot", "slot.uki", "running", "running.verity"].map(|name| machine.open(name));
    // Every read of it fails, as on a disk that does not get well by being written.
    let tree = std::fs::OpenOptions::new().write(true).open(machine.at("slot.verity")).unwrap();
    let mut target = cairn_ota::write::Target {
        root: &root,
        tree: &tree,
        uki: &mut uki,
        running_root: &running_root,
        running_tree: &running_tree,
        running_uki: None,
        scratch: &machine.at("scratch"),
    };
    let (mut carrier, mut observe) = (scene.carrier(), |_| ());
    let result = cairn_ota::write::write(
        &scene.chunks_only(),
        &mut target,
        &mut carrier,
        u64::MAX,
        &mut observe,
        &|| false,
    );
    assert!(matches!(result, Err(WriteError::Read { .. })), "it still does not read back: {result:?}");
    let [new, _] = &scene.new;
    let made = cairn_ota::verity::hash_tree(new.as_slice()).unwrap();
    assert!(machine.read("slot")[..new.len()] == new[..], "the root was not written");
    assert!(machine.read("slot.verity")[..made.bytes.len()] == made.bytes, "the tree was not written");
}

/// Stops at each point at which it can be stopped, and goes on.
fn stopped_everywhere(release: &Release, lost: u64) {
    let scene = Scene::large();
    let asked = Cell::new(0);
    let count = |limit: u64| {
        asked.set(asked.get() + 1);
        asked.get() > limit
    };
    let mut whole = Tampering::counting(scene);
    scene.machine().write_with(release, &mut whole, u64::MAX, &mut |_| (), &|| count(u64::MAX)).unwrap();
    let points = asked.get();
    assert!(points > 20, "{points}");
    for point in 0..points {
        let (machine, mut carrier) = (scene.machine(), Tampering::counting(scene));
        asked.set(0);
        let stopped = machine.write_with(release, &mut carrier, u64::MAX, &mut |_| (), &|| count(point));
        if let Err(error) = stopped {
            assert!(matches!(error, WriteError::Stopped), "{error}");
        }
        machine.write(release, &mut carrier).unwrap();
        scene.assert_written(&machine);
        let most = whole.carried + whole.carried / 100 + lost;
        assert!(carrier.carried <= most, "at {point}: {} of {most}", carrier.carried);
    }
}

#[test]
fn stopped_anywhere_chunks_go_on_from_there() {
    stopped_everywhere(&Scene::large().chunks_only(), IN_FLIGHT);
}

#[test]
fn stopped_anywhere_a_patch_goes_on_from_there() {
    // On a busy machine a stop may fall into the index, which is looked at first: it is fetched again in whole.
    let release = &Scene::large().release;
    stopped_everywhere(release, release.chunks.index.size);
}

#[test]
fn a_carrier_that_breaks_off_is_named_and_gone_on_with() {
    let scene = Scene::large();
    for release in [&scene.release, &scene.chunks_only()] {
        let machine = scene.machine();
        let mut short = Tampering::new(scene, |_, _, bytes| {
            bytes.truncate(bytes.len() / 2);
            Ok(())
        });
        let error = machine.write(release, &mut short).unwrap_err();
        assert!(matches!(error, WriteError::Short { .. }), "{error}");
        let mut gone = Tampering::new(scene, |_, _, _| Err(io::ErrorKind::ConnectionReset.into()));
        let error = machine.write(release, &mut gone).unwrap_err();
        assert!(matches!(error, WriteError::Carrier { .. }), "{error}");
        machine.write(release, &mut scene.carrier()).unwrap();
        scene.assert_written(&machine);
    }
}

#[test]
fn rejects_bytes_that_the_release_does_not_name() {
    let scene = Scene::large();
    let (whole, chunks) = (&scene.release, scene.chunks_only());
    let blobs =
        [(&chunks, &chunks.chunks.index), (&chunks, &chunks.chunks.pack), (whole, &whole.patches[0].blob)];
    for (release, blob) in blobs {
        for garbage in [true, false] {
            let (machine, digest) = (scene.machine(), blob.digest.clone());
            let mut carrier = Tampering::new(scene, move |asked: &Payload, _, bytes: &mut Vec<u8>| {
                if asked.digest == digest && garbage {
                    bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
                } else if asked.digest == digest {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 4;
                }
                Ok(())
            });
            let error = machine.write(release, &mut carrier).unwrap_err();
            assert!(matches!(error, WriteError::Wrong { .. }), "{error}");
            machine.write(release, &mut scene.carrier()).unwrap();
            scene.assert_written(&machine);
        }
    }
}

#[test]
fn a_carrier_without_an_end_is_read_no_further_than_asked() {
    struct Endless<'s>(&'s Scene);
    impl Carrier for Endless<'_> {
        fn read(
            &mut self,
            blob: &Payload,
            offset: u64,
            length: u64,
        ) -> io::Result<Box<dyn Read + Send + '_>> {
            let mut bytes = Vec::new();
            self.0.carrier().read(blob, offset, length)?.read_to_end(&mut bytes)?;
            Ok(Box::new(io::Cursor::new(bytes).chain(io::repeat(0x55))))
        }
    }
    let scene = Scene::large();
    for release in [&scene.release, &scene.chunks_only()] {
        let machine = scene.machine();
        machine.write(release, &mut Endless(scene)).unwrap();
        scene.assert_written(&machine);
    }
}

#[test]
fn a_slot_that_is_too_small_is_left_alone() {
    let scene = Scene::large();
    for (name, size, what) in
        [("slot", scene.release.root.size - 1, "root file system"), ("slot.verity", 32 << 10, "hash tree")]
    {
        let machine = scene.machine();
        machine.open(name).set_len(size).unwrap();
        let before = ["slot", "slot.verity", "slot.uki"].map(|name| machine.read(name));
        let mut carrier = Tampering::counting(scene);
        let error = machine.write(&scene.release, &mut carrier).unwrap_err();
        assert!(matches!(error, WriteError::TooLarge { what: named, .. } if named == what), "{error}");
        assert_eq!(carrier.carried, 0);
        assert!(before == ["slot", "slot.verity", "slot.uki"].map(|name| machine.read(name)));
    }
}

#[test]
fn a_patch_is_taken_only_on_what_it_starts_from_and_with_its_memory() {
    let scene = Scene::large();
    let mut other_root = scene.release.clone();
    other_root.patches[0].from_root_hash = scene.release.verity.root_hash.clone();
    let mut other_uki = scene.release.clone();
    other_uki.patches[0].from_uki = scene.release.uki.digest.clone();
    let memory = scene.release.patches[0].memory;
    for (release, limit, method) in [
        (&other_root, u64::MAX, OsMethod::Chunks),
        (&other_uki, u64::MAX, OsMethod::Chunks),
        (&scene.release, memory - 1, OsMethod::Chunks),
        (&scene.release, memory, OsMethod::Patch),
    ] {
        let machine = scene.machine();
        let mut carrier = scene.carrier();
        let progress = machine.write_with(release, &mut carrier, limit, &mut |_| (), &|| false).unwrap();
        assert_eq!(progress.method, method);
        scene.assert_written(&machine);
    }
}

#[test]
fn where_the_running_slot_is_not_what_its_tree_says_chunks_do() {
    let scene = Scene::large();
    let machine = scene.machine();
    machine.open("running").write_all_at(&[0x5a; 5000], 1_000_000).unwrap();
    let progress = machine.write(&scene.release, &mut scene.carrier()).unwrap();
    assert_eq!(progress.method, OsMethod::Chunks);
    scene.assert_written(&machine);
}

#[test]
fn a_source_that_changes_after_the_look_is_not_copied_from() {
    let scene = Scene::large();
    let machine = scene.machine();
    let (running, pack) = (machine.open("running"), scene.release.chunks.pack.digest.clone());
    let mut carrier = Tampering::new(scene, move |blob: &Payload, _, _: &mut Vec<u8>| {
        if blob.digest == pack { running.write_all_at(&vec![0x77; 3 << 20], 0) } else { Ok(()) }
    });
    machine.write(&scene.chunks_only(), &mut carrier).unwrap();
    scene.assert_written(&machine);
}

#[test]
fn a_device_that_holds_something_else_is_seen_and_repaired_by_the_next_try() {
    let scene = Scene::large();
    for (name, offset) in [("slot", scene.release.root.size - 5), ("slot.uki", 77)] {
        let machine = scene.machine();
        let file = machine.open(name);
        let mut damage = |progress: cairn_model::report::OsProgress| {
            if progress.written == progress.total {
                file.write_all_at(&[0x42; 3], offset).unwrap();
            }
        };
        let release = scene.chunks_only();
        let done = machine.write_with(&release, &mut scene.carrier(), u64::MAX, &mut damage, &|| false);
        assert!(matches!(done, Err(WriteError::Verify { .. })), "{done:?}");
        let mut carrier = Tampering::counting(scene);
        machine.write(&release, &mut carrier).unwrap();
        scene.assert_written(&machine);
        assert!(carrier.carried < 200 << 10, "{}", carrier.carried);
    }
}

/// The fault points that writing a release passes.
const POINTS: [&str; 7] =
    ["slot-write", "slot-sync", "uki-write", "uki-sync", "tree-write", "tree-sync", "patch-write"];

#[test]
fn an_error_at_any_write_is_named_and_the_next_try_succeeds() {
    if child::alone("write::an_error_at_any_write_is_named_and_the_next_try_succeeds") {
        return;
    }
    let scene = Scene::large();
    let mut injected = 0;
    for release in [&scene.release, &scene.chunks_only()] {
        for (point, code) in POINTS.into_iter().flat_map(|point| [(point, 28), (point, 5)]) {
            for after in 0.. {
                let machine = scene.machine();
                fail::cfg(point, &format!("{after}*off->1*return({code})->off")).unwrap();
                let outcome = machine.write(release, &mut scene.carrier());
                fail::remove(point);
                match outcome {
                    Ok(progress) => {
                        // Either all writes were made, or it was the patch's file: then chunks do without.
                        scene.assert_written(&machine);
                        if progress.method == OsMethod::Patch || release.patches.is_empty() {
                            break;
                        }
                        assert_eq!(point, "patch-write");
                    }
                    Err(WriteError::Write { source, .. }) => {
                        assert_eq!(source.raw_os_error(), Some(code));
                        machine.write(release, &mut scene.carrier()).unwrap();
                        scene.assert_written(&machine);
                    }
                    Err(error) => panic!("{point}: {error}"),
                }
                injected += 1;
            }
        }
    }
    assert!(injected > 40, "{injected}");
}

#[test]
fn killed_at_any_write_the_next_try_succeeds() {
    if child::alone("write::killed_at_any_write_the_next_try_succeeds") {
        return;
    }
    let scene = Scene::large();
    let mut killed = 0;
    for release in [&scene.release, &scene.chunks_only()] {
        for point in POINTS {
            for after in 0.. {
                let machine = scene.machine();
                fail::cfg(point, &format!("{after}*off->1*panic->off")).unwrap();
                let outcome = catch_unwind(AssertUnwindSafe(|| machine.write(release, &mut scene.carrier())));
                fail::remove(point);
                if outcome.is_ok_and(|written| written.is_ok()) {
                    break;
                }
                killed += 1;
                machine.write(release, &mut scene.carrier()).unwrap();
                scene.assert_written(&machine);
            }
        }
    }
    assert!(killed > 20, "{killed}");
}
