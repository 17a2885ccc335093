//! The tree against hashes made by hand, in pieces of any length, and what is no superblock.

use std::io::{Seek, Write};

use super::*;

fn salted(block: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(SALT).chain_update(block).finalize().into()
}

#[test]
fn one_level_is_the_hash_of_all_leaves() {
    let data = [[1u8; BLOCK], [2; BLOCK], [3; BLOCK]].concat();
    let tree = hash_tree(data.as_slice()).unwrap();
    let mut level: Vec<u8> = data.chunks(BLOCK).flat_map(salted).collect();
    level.resize(BLOCK, 0);
    assert_eq!(tree.root_hash, hex::encode(salted(&level)));
    assert_eq!(tree.bytes[BLOCK..], level);
    assert_eq!(&tree.bytes[..8], b"verity\0\0");
    assert_eq!(tree.bytes[72..80], 3u64.to_le_bytes());
}

#[test]
fn the_highest_level_comes_first() {
    let data = vec![7u8; BLOCK * (PER_BLOCK + 1)];
    let tree = hash_tree(data.as_slice()).unwrap();
    assert_eq!(tree.bytes.len(), BLOCK * 4);
    assert_eq!(tree.bytes.len() as u64, tree_size(data.len() as u64));
    assert_eq!(tree.root_hash, hex::encode(salted(&tree.bytes[BLOCK..2 * BLOCK])));
    assert_eq!(tree.bytes[BLOCK..BLOCK + 32], salted(&tree.bytes[2 * BLOCK..3 * BLOCK]));
}

#[test]
fn a_changed_bit_changes_the_root_hash_and_odd_sizes_are_refused() {
    let mut data = vec![0u8; BLOCK * 200];
    let before = hash_tree(data.as_slice()).unwrap().root_hash;
    data[123_456] ^= 1;
    assert_ne!(hash_tree(data.as_slice()).unwrap().root_hash, before);
    assert!(matches!(hash_tree(&data[..BLOCK * 2 + 1]), Err(VerityError::Length { length: 8193 })));
    assert!(matches!(hash_tree(&data[..0]), Err(VerityError::Small)));
    assert!(matches!(hash_tree(&data[..BLOCK]), Err(VerityError::Small)));
    let mut long = TreeBuilder::new(&[0; MAX_SALT + 1], UUID);
    long.push(&data);
    assert!(matches!(long.finish(), Err(VerityError::Salt { length: 257 })));
}

#[test]
fn pieces_of_any_length_make_the_same_tree() {
    let data: Vec<u8> = (0..BLOCK * 150).map(|n| (n * 7 / 11) as u8).collect();
    let whole = hash_tree(data.as_slice()).unwrap();
    for length in [1, 7, 4095, 4096, 4097, 10_000, data.len()] {
        let mut builder = TreeBuilder::new(SALT, UUID);
        data.chunks(length).for_each(|piece| builder.push(piece));
        assert_eq!(builder.finish().unwrap(), whole, "{length}");
    }
}

#[test]
fn a_tree_names_its_root_hash_and_what_is_no_tree_names_none() {
    let tree = hash_tree(vec![9u8; BLOCK * 300].as_slice()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(identify(&file).unwrap(), None);
    file.write_all(&tree.bytes).unwrap();
    let (superblock, root_hash) = identify(&file).unwrap().unwrap();
    assert_eq!(root_hash, tree.root_hash);
    assert_eq!(superblock.data_size(), BLOCK as u64 * 300);
    assert_eq!(superblock.tree_size(), tree.bytes.len() as u64);
    for position in [0, 8, 12, 40, 64, 68, 79, 81, 84, 200, 4000] {
        let mut bytes = tree.bytes.clone();
        bytes[position] ^= 0x81;
        file.rewind().unwrap();
        file.write_all(&bytes).unwrap();
        assert_eq!(identify(&file).unwrap(), None, "{position}");
    }
}
