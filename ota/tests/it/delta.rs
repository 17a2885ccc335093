//! Ten thousand releases with one bit that is not as it was signed: none is accepted.

use std::os::unix::fs::FileExt;

use cairn_model::release::Payload;
use cairn_ota::write::WriteError;

use crate::{
    noise::noise,
    scene::{Scene, Tampering},
};

/// Numbers below `limit`, always the same.
fn numbers(seed: u64, count: usize) -> impl Iterator<Item = usize> {
    let bytes = noise(seed, count * 4);
    (0..count).map(move |n| bytes[n * 4..n * 4 + 4].iter().fold(0, |sum, b| sum << 8 | usize::from(*b)))
}

#[test]
fn rejects_ten_thousand_flipped_bits() {
    let scene = Scene::small();
    let (chunks, patch) = (&scene.release.chunks, &scene.release.patches[0].blob);
    let (mut refused, mut tried) = (0, 0);
    for (seed, count, blob) in [(21, 2500, &chunks.index), (22, 5000, &chunks.pack), (23, 2600, patch)] {
        let release = if blob == patch { scene.release.clone() } else { scene.chunks_only() };
        // Where nothing is there to start from, every byte of the pack is fetched.
        let fresh = || if blob == patch { scene.machine() } else { scene.blank_machine() };
        let mut machine = fresh();
        for number in numbers(seed, count) {
            let (digest, at, bit) = (blob.digest.clone(), (number / 8) as u64 % blob.size, number % 8);
            let mut carrier = Tampering::new(scene, move |asked: &Payload, offset, bytes: &mut Vec<u8>| {
                let inside = at.checked_sub(offset).filter(|at| *at < bytes.len() as u64);
                if let Some(at) = inside.filter(|_| asked.digest == digest) {
                    bytes[at as usize] ^= 1 << bit;
                }
                Ok(())
            });
            tried += 1;
            match machine.write(&release, &mut carrier) {
                Err(WriteError::Wrong { .. }) => refused += 1,
                Err(error) => panic!("byte {at} of {}: {error}", blob.digest),
                // The chunk came before this try, or the bit means nothing to the decompressor.
                Ok(_) => scene.assert_written(&machine),
            }
            machine = fresh();
        }
    }
    assert!(tried >= 10_000);
    // What the format of a compressed frame leaves open changes no byte of what comes out.
    assert!(refused * 100 >= tried * 99, "{refused} of {tried}");
}

#[test]
fn a_thousand_flipped_bits_of_what_an_earlier_try_left_are_repaired() {
    let scene = Scene::small();
    let machine = scene.machine();
    machine.write(&scene.release, &mut scene.carrier()).unwrap();
    for number in numbers(31, 1000) {
        let (name, size) = match number % 3 {
            0 => ("slot", scene.release.root.size),
            1 => ("slot.uki", scene.release.uki.size),
            _ => ("slot.verity", 8192),
        };
        let (at, file, mut byte) = ((number / 24) as u64 % size, machine.open(name), [0]);
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << (number / 3 % 8)], at).unwrap();
        machine.write(&scene.release, &mut scene.carrier()).unwrap();
        scene.assert_written(&machine);
    }
}
