//! The record's bytes are a format between two programs: they stand here once more, as golden.

use proptest::prelude::*;

use super::*;

const HASH: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

fn record() -> BootRecord {
    BootRecord { root_hash: HASH.into(), starts: 2, corrupt: true, bad_block: Some(0x1234) }
}

fn file(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

#[test]
fn the_golden_bytes_are_what_the_initrd_writes() {
    let golden = "434149524e425231000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
                  0200000001000000341200000000000000000000";
    let block = record().to_block().unwrap();
    assert_eq!(block.len(), SIZE);
    assert_eq!(hex::encode(&block[..60]), golden);
    assert_eq!(hex::encode(&block[60..64]), "9fffb73d");
    assert!(block[64..].iter().all(|byte| *byte == 0));
    assert_eq!(BootRecord::parse(&block), Some(record()));
}

#[test]
fn a_second_golden_of_the_initrds_own_tests() {
    let root_hash = "0123456789abcdef".repeat(4);
    let record = BootRecord { root_hash, starts: 3, corrupt: true, bad_block: Some(0x102) };
    assert_eq!(record.to_block().unwrap()[60..64], [0xa3, 0xf5, 0x3d, 0x72]);
}

#[test]
fn a_record_that_says_nothing_has_no_bad_block() {
    let block = BootRecord::new(HASH).to_block().unwrap();
    assert_eq!(block[40..48], [0; 8]);
    assert_eq!(block[48..56], [0xff; 8]);
    assert_eq!(BootRecord::parse(&block), Some(BootRecord::new(HASH)));
}

#[test]
fn a_damaged_record_and_one_about_another_root_say_nothing() {
    let good = record().to_block().unwrap();
    for at in 0..64 {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        assert_eq!(BootRecord::read(&file(&damaged), HASH), BootRecord::new(HASH), "byte {at}");
    }
    let other = HASH.replace("00", "ff");
    assert_eq!(BootRecord::read(&file(&good), &other), BootRecord::new(&other));
    for length in [0, 1, SIZE - 1] {
        assert_eq!(BootRecord::read(&file(&good[..length]), HASH), BootRecord::new(HASH), "{length} bytes");
    }
}

#[test]
fn it_is_the_last_block_of_the_partition_and_nothing_else_changes() {
    let partition = file(&vec![7; 5 * SIZE]);
    record().write(&partition).unwrap();
    let mut all = vec![0; 5 * SIZE];
    partition.read_exact_at(&mut all, 0).unwrap();
    assert!(all[..4 * SIZE].iter().all(|byte| *byte == 7));
    assert_eq!(all[4 * SIZE..], record().to_block().unwrap());
    assert_eq!(BootRecord::read(&partition, HASH), record());
    assert_eq!(BootRecord::read_any(&partition), Some(record()));
}

#[test]
fn what_cannot_hold_a_record_is_an_error_and_not_a_panic() {
    assert!(record().write(&file(&[0; 100])).is_err());
    assert!(BootRecord::new("00").write(&file(&[0; SIZE])).is_err());
    assert!(BootRecord::new("zz").to_block().is_none());
}

proptest! {
    #[test]
    fn any_record_round_trips(starts: u32, corrupt: bool, bad in prop::option::of(0..u64::MAX), hash: [u8; 32]) {
        let record = BootRecord { root_hash: hex::encode(hash), starts, corrupt, bad_block: bad };
        prop_assert_eq!(BootRecord::parse(&record.to_block().unwrap()), Some(record));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert_eq!(BootRecord::parse(&bytes), None);
    }
}
