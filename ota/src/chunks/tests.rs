//! Packing and opening, the bounds of the index, and garbage.

use proptest::prelude::*;

use super::*;
use crate::noise::noise;

fn packed(root: &[u8], uki: &[u8]) -> (Index, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let paths = [dir.path().join("root"), dir.path().join("uki")];
    std::fs::write(&paths[0], root).unwrap();
    std::fs::write(&paths[1], uki).unwrap();
    let mut bytes = Vec::new();
    let index = pack(&paths[0], &paths[1], 3, &mut bytes).unwrap();
    (index, bytes)
}

fn unpacked(index: &Index, pack: &[u8], part: Part) -> Vec<u8> {
    let (mut opener, mut all, mut out) = (Opener::new().unwrap(), Vec::new(), Vec::new());
    for chunk in index.chunks().iter().filter(|c| c.part == part) {
        assert_eq!(chunk.offset, all.len() as u64);
        let end = chunk.packed_offset + u64::from(chunk.packed_length);
        opener.open(chunk, &pack[chunk.packed_offset as usize..end as usize], &mut out).unwrap();
        all.extend(&out);
    }
    all
}

#[test]
fn what_is_packed_comes_out_again_and_is_stored_once() {
    let block = noise(1, 72 * 4096);
    let root = [&block[..], &vec![0; 100 * 4096], &block, &noise(2, 32_768 + 4096)].concat();
    let uki = [b"MZ", &block[..]].concat();
    let (index, pack) = packed(&root, &uki);
    assert_eq!((index.size(Part::Root), index.size(Part::Uki)), (root.len() as u64, uki.len() as u64));
    assert_eq!(index.pack_size(), pack.len() as u64);
    assert!(pack.len() < 2 * block.len() + 150_000, "{}", pack.len());
    assert_eq!(unpacked(&index, &pack, Part::Root), root);
    assert_eq!(unpacked(&index, &pack, Part::Uki), uki);
    let of_root: Vec<_> = index.chunks().iter().filter(|c| c.part == Part::Root).collect();
    assert!(of_root.iter().all(|c| c.offset % 4096 == 0));
    assert_eq!(Index::parse(&index.to_bytes()), Ok(index));
}

#[test]
fn an_insertion_changes_few_chunks() {
    let old = noise(3, 2 << 20);
    let new = [&old[..700 << 10], &noise(4, 8192), &old[700 << 10..]].concat();
    let (before, _) = packed(&old, b"uki");
    let (after, _) = packed(&new, b"uki");
    let known: Vec<_> = before.chunks().iter().map(|c| c.digest).collect();
    let missing: u32 = after.chunks().iter().filter(|c| !known.contains(&c.digest)).map(|c| c.length).sum();
    assert!(missing < 3 * MAX as u32, "{missing}");
}

#[test]
fn rejects_a_chunk_with_other_bytes() {
    let (index, pack) = packed(&vec![7; 40_960], &noise(5, 9000));
    let (mut opener, mut out) = (Opener::new().unwrap(), Vec::new());
    for chunk in index.chunks() {
        let (start, end) =
            (chunk.packed_offset as usize, chunk.packed_offset as usize + chunk.packed_length as usize);
        assert_eq!(opener.open(chunk, &pack[start..end - 1], &mut out), Err(DamagedChunk));
        for at in start..end {
            let mut bytes = pack[start..end].to_vec();
            bytes[at - start] ^= 1 << (at % 8);
            // A bit of the frame's header that means nothing may differ: what comes out is then the same.
            if opener.open(chunk, &bytes, &mut out).is_ok() {
                assert_eq!(Sha256::digest(&out)[..], chunk.digest);
            } else {
                assert!(out.is_empty());
            }
        }
    }
}

#[test]
fn refuses_an_index_beyond_its_bounds() {
    let head = |root: u64, uki: u64| {
        let mut bytes = b"CAIRNIX1".to_vec();
        bytes.extend(leb(root));
        bytes.extend(leb(uki));
        bytes
    };
    let chunk = |length: u64, packed: u64| [leb(0), leb(length), leb(packed), vec![1; 32]].concat();
    assert!(Index::parse(&[head(1, 1), chunk(5, 4), leb(1)].concat()).is_ok());
    let bad = [
        (b"CAIRNIX2\0\0".to_vec(), "another word"),
        (head(1 << 20, 0), "too many"),
        (head(1 << 17, 1 << 17), "more chunks than it has"),
        (head(1, 0), "more chunks than it has"),
        ([head(1, 0), chunk(0, 0)].concat(), "no bytes"),
        ([head(1, 0), chunk(MAX as u64 + 1, 1)].concat(), "too many"),
        ([head(1, 0), chunk(5, 6)].concat(), "larger packed"),
        ([head(1, 0), leb(1)].concat(), "does not come before"),
        ([head(2, 0), chunk(5, 4), leb(2)].concat(), "does not come before"),
        ([head(1, 0), chunk(5, 4)[..20].to_vec()].concat(), "cut off"),
        ([head(1, 0), chunk(5, 4), leb(0)].concat(), "follows its end"),
        ([head(1, 0), vec![0x80, 0, 5, 4]].concat(), "shortest form"),
        ([head(1, 0), vec![0xff; 6]].concat(), "too large"),
        (vec![0; MAX_INDEX_BYTES + 1], "too large"),
    ];
    for (bytes, cause) in bad {
        let error = Index::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(cause), "{error} is not about {cause}");
    }
}

/// LEB128 of a number.
fn leb(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = number;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 + 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

proptest! {
    #[test]
    fn garbage_is_refused_or_means_itself(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
        if magic {
            bytes.splice(..0, *b"CAIRNIX1");
        }
        if let Ok(index) = Index::parse(&bytes) {
            let again = Index::parse(&index.to_bytes()).unwrap();
            prop_assert_eq!(again, index);
        }
    }

    #[test]
    fn a_flipped_bit_of_an_index_is_seen_or_changes_it(at in 0usize..4000, bit in 0u32..8) {
        let (index, _) = packed(&noise(6, 200_704), &noise(7, 60_000));
        let mut bytes = index.to_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(Index::parse(&bytes), Ok(index));
    }
}

#[test]
fn zeros_are_cut_as_everything_else_is() {
    let masks = fastcdc::v2020::select_masks(AVERAGE, fastcdc::v2020::Normalization::Level1);
    let (small, large) = masks;
    let (_, cut) = fastcdc::v2020::cut(&ZEROS, MIN, AVERAGE, MAX, small, large, small << 1, large << 1);
    assert_eq!(cut, MAX, "they are not looked at for a place to cut");
    let bytes = [vec![0; 3 * MAX], noise(7, 100_000)].concat();
    let mut cutter = Cutter::new(&bytes[..], 4096);
    for number in 0..3 {
        let (offset, chunk) = cutter.next_chunk().unwrap().unwrap();
        assert_eq!((offset, chunk.len()), (number * MAX as u64, MAX));
    }
}
