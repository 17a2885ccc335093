//! Flashing of small images that have all parts of a real one: to files, and to targets that fail or lie.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use cairn_image::compress;
use cairn_image::flash::image::Image;
use cairn_image::flash::memory::Sparse;
use cairn_image::flash::progress::Step;
use cairn_image::flash::provision::{Provisioning, Sources};
use cairn_image::flash::target::{FileTarget, Target};
use cairn_image::flash::{FlashError, flash};
use cairn_ota::layout::{MIB, Role};
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};

const PARTS: [(Role, u64); 6] = [
    (Role::Esp, 40),
    (Role::Root, 6),
    (Role::Verity, 2),
    (Role::Root, 6),
    (Role::Verity, 2),
    (Role::Data, 9),
];

const SIZE: u64 = 67 * MIB;

/// Where the parts lie, in bytes.
fn places() -> Vec<Range<u64>> {
    let mut at = MIB;
    let place = |(_, size): &(Role, u64)| {
        at += size * MIB;
        at - size * MIB..at
    };
    PARTS.iter().map(place).collect()
}

fn esp(entry: &str) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![0; (PARTS[0].1 * MIB) as usize]);
    let options = fatfs::FormatVolumeOptions::new().fat_type(fatfs::FatType::Fat32).bytes_per_cluster(512);
    fatfs::format_volume(&mut bytes, options).unwrap();
    {
        let volume = fatfs::FileSystem::new(&mut bytes, fatfs::FsOptions::new()).unwrap();
        let root = volume.root_dir();
        for folder in ["EFI", "EFI/BOOT", "EFI/Linux", "loader"] {
            root.create_dir(folder).unwrap();
        }
        root.create_file("EFI/BOOT/BOOTX64.EFI").unwrap().write_all(b"loader").unwrap();
        root.create_file(entry).unwrap().write_all(&[9; 100_000]).unwrap();
    }
    bytes.into_inner()
}

fn partitions() -> BTreeMap<u32, Partition> {
    let entry = |(number, ((role, _), place)): (u32, (&(Role, u64), Range<u64>))| {
        let guid = role.type_uuid().parse().unwrap();
        let partition = Partition {
            part_type_guid: Type { guid, os: OperatingSystem::None },
            part_guid: format!("00000000-0000-4000-8000-00000000000{number}").parse().unwrap(),
            first_lba: place.start / 512,
            last_lba: place.end / 512 - 1,
            flags: 0,
            name: format!("part {number}"),
        };
        (number, partition)
    };
    (1..).zip(PARTS.iter().zip(places())).map(entry).collect()
}

/// A whole image, with holes in the root, and an empty second slot.
fn image_bytes(entry: &str) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; SIZE as usize]);
    gpt::mbr::ProtectiveMBR::with_lb_size((SIZE / 512 - 1) as u32).overwrite_lba0(&mut disk).unwrap();
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(disk, None)
        .unwrap();
    table.update_partitions(partitions()).unwrap();
    let mut bytes = table.write().unwrap().into_inner();
    let places = places();
    let mut put = |place: &Range<u64>, content: &[u8]| {
        bytes[place.start as usize..][..content.len()].copy_from_slice(content);
    };
    put(&places[0], &esp(entry));
    put(&places[1], &[1; 700_000]);
    put(&places[2], &[2; 70_000]);
    put(&places[5], &[5; 70_000]);
    bytes
}

struct Bench {
    folder: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), bytes: image_bytes("EFI/Linux/cairn_1.2.efi") }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.at(name), bytes).unwrap();
        self.at(name)
    }

    fn image(&self) -> Image {
        inspect(&self.write("disk.raw", &self.bytes)).unwrap()
    }

    fn compressed(&self) -> Vec<u8> {
        compress::compress(&self.write("disk.raw", &self.bytes), &self.at("disk.raw.zst")).unwrap();
        std::fs::read(self.at("disk.raw.zst")).unwrap()
    }
}

fn inspect(path: &Path) -> Result<Image, String> {
    Image::inspect(path, &mut |_, _| {}).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    })
}

fn run(image: &Image, target: &mut dyn Target) -> Result<cairn_image::flash::Flashed, FlashError> {
    flash(image, target, &mut |_, _, _| {})
}

#[test]
fn an_image_comes_through_whole_whether_raw_or_compressed() {
    let bench = Bench::new();
    bench.compressed();
    for name in ["disk.raw", "disk.raw.zst"] {
        let image = if name == "disk.raw" { bench.image() } else { inspect(&bench.at(name)).unwrap() };
        assert_eq!((image.version.as_str(), image.table.size), ("1.2", SIZE));
        let target = bench.at(&format!("{name}.target"));
        let mut steps = Vec::new();
        let flashed =
            flash(&image, &mut FileTarget::file(&target, SIZE).unwrap(), &mut |step, done, total| {
                assert!(done <= total);
                if steps.last() != Some(&step) {
                    steps.push(step);
                }
            });
        let flashed = flashed.unwrap();
        assert_eq!(steps, [Step::Writing, Step::Verifying]);
        assert_eq!(flashed.size, SIZE);
        assert!(flashed.written < 4 * MIB && flashed.verified > 50 * MIB, "{flashed:?}");
        assert!(std::fs::read(&target).unwrap() == bench.bytes, "{name}");
        let used = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&target).unwrap()) * 512;
        assert!(used < 8 * MIB, "zeroes stayed holes: {used}");
    }
}

#[test]
fn nothing_of_a_used_disk_shines_through_where_it_counts() {
    let bench = Bench::new();
    let image = bench.image();
    let disk = SIZE + 5 * MIB;
    let target = bench.write("disk", &vec![0xee; disk as usize]);
    run(&image, &mut FileTarget::file(&target, 1).unwrap()).unwrap();
    let flashed = std::fs::read(&target).unwrap();
    assert_eq!(flashed.len() as u64, disk, "a disk keeps its size");
    let places = places();
    // Of slot B's root only the beginning is looked at before it is written; all else is as in the image.
    let unread = places[3].start + MIB..places[3].end;
    for (at, (found, wanted)) in flashed.chunks(4096).zip(bench.bytes.chunks(4096)).enumerate() {
        let at = at as u64 * 4096;
        assert!(found == wanted || unread.contains(&at), "differs at {at}");
    }
    assert!(flashed[unread.start as usize..unread.end as usize].iter().all(|byte| *byte == 0xee));
    assert!(flashed[(disk - MIB) as usize..].iter().all(|byte| *byte == 0), "no old backup table is left");
    let table = gpt::GptConfig::new().open(&target).unwrap();
    assert_eq!(table.partitions().len(), 6);
}

#[test]
fn a_slot_b_with_content_is_written_with_its_zeroes() {
    let mut bench = Bench::new();
    let place = places()[3].clone();
    bench.bytes[place.end as usize - 1] = 7;
    let image = bench.image();
    let target = bench.write("disk", &vec![0xee; SIZE as usize]);
    run(&image, &mut FileTarget::file(&target, 1).unwrap()).unwrap();
    let flashed = std::fs::read(&target).unwrap();
    let range = place.start as usize..place.end as usize;
    assert!(flashed[range.clone()] == bench.bytes[range]);
}

#[test]
fn provisioning_is_on_the_esp_and_was_read_back() {
    let bench = Bench::new();
    let mut image = bench.image();
    let token = bench.write("token", b"cet_secret\n");
    let sources = Sources { hub: Some("https://hub:1".into()), token: Some(token), ..Sources::default() };
    Provisioning::read(&sources).unwrap().write(&mut image.esp).unwrap();
    let target = bench.at("target");
    run(&image, &mut FileTarget::file(&target, SIZE).unwrap()).unwrap();
    let place = places()[0].clone();
    let mut file = File::open(&target).unwrap();
    file.seek(SeekFrom::Start(place.start)).unwrap();
    let mut content = Vec::new();
    file.take(place.end - place.start).read_to_end(&mut content).unwrap();
    let mut esp = Cursor::new(content);
    let volume = fatfs::FileSystem::new(&mut esp, fatfs::FsOptions::new()).unwrap();
    let read = |path: &str| {
        let mut content = Vec::new();
        volume.root_dir().open_file(path).unwrap().read_to_end(&mut content).unwrap();
        content
    };
    assert_eq!(read("loader/credentials/cairn.enroll-token.cred"), b"cet_secret");
    assert_eq!(read("loader/credentials/cairn.hub.cred"), b"https://hub:1");
    assert_eq!(read("EFI/Linux/cairn_1.2.efi"), [9; 100_000]);
    assert!(
        std::fs::read(bench.at("disk.raw")).unwrap() == bench.bytes,
        "the image file has no secret in it"
    );
}

#[test]
fn rejects_damaged_and_foreign_files_before_anything_is_written() {
    let bench = Bench::new();
    let packed = bench.compressed();
    let raw = &bench.bytes;
    let changed = |at: usize, byte: u8| {
        let mut bytes = raw.clone();
        bytes[at] ^= byte;
        bytes
    };
    let mut flipped = packed.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut checksum = packed.clone();
    *checksum.last_mut().unwrap() ^= 1;
    let mut foreign = image_bytes("EFI/Linux/other.efi");
    let no_esp = {
        let mut bytes = raw.clone();
        bytes[places()[0].start as usize..][..4096].fill(0);
        bytes
    };
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "empty"),
        ("gzip", vec![0x1f, 0x8b, 8, 0], "gunzip"),
        ("xz", b"\xfd7zXZ\0...".to_vec(), "unxz"),
        ("zip", b"PK\x03\x04".to_vec(), "zip archive"),
        ("qcow2", b"QFI\xfb".to_vec(), "qemu-img convert"),
        ("text", vec![b'x'; 100_000], "no Cairn disk image"),
        ("raw cut short", raw[..raw.len() - 4096].to_vec(), "cut short"),
        ("raw cut in its table", raw[..1000].to_vec(), "damaged"),
        ("raw with more", [raw.as_slice(), &[0]].concat(), "goes on behind the end"),
        ("header", changed(512 + 40, 1), "checksum"),
        ("entries", changed(1024 + 3, 1), "checksum"),
        ("many entries", changed(512 + 82, 1), "damaged"),
        ("zst cut short", packed[..packed.len() / 2].to_vec(), "failed to read"),
        ("zst without checksum", packed[..packed.len() - 2].to_vec(), "failed to read"),
        ("zst flipped", flipped, ""),
        ("zst checksum", checksum, "failed to read"),
        ("no entry of ours", std::mem::take(&mut foreign), "no boot entry"),
        ("no file system", no_esp, "no bootable Cairn image"),
    ];
    for (name, bytes, expected) in table {
        let said = inspect(&bench.write("bad", &bytes)).unwrap_err();
        assert!(said.contains(expected), "{name}: {said}");
    }
    assert!(inspect(&bench.at("none")).unwrap_err().contains("failed to open"));
    assert!(inspect(bench.folder.path()).unwrap_err().contains("not a file"));
}

/// A medium in memory that can fail or lie.
struct Medium {
    bytes: Sparse,
    size: u64,
    fails_at: Option<u64>,
    /// Writes behind this place come out at the beginning: a stick that says that it is larger than it is.
    wraps_at: Option<u64>,
    flips: Option<u64>,
}

impl Medium {
    fn new(size: u64) -> Self {
        Self { bytes: Sparse::new(size), size, fails_at: None, wraps_at: None, flips: None }
    }

    fn place(&self, offset: u64) -> u64 {
        self.wraps_at.map_or(offset, |at| offset % at)
    }

    fn head(&mut self) -> Vec<u8> {
        let mut head = vec![0; MIB as usize];
        self.bytes.seek(SeekFrom::Start(0)).unwrap();
        self.bytes.read_exact(&mut head).unwrap();
        head
    }
}

impl Target for Medium {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.fails_at.is_some_and(|at| (offset..offset + bytes.len() as u64).contains(&at)) {
            return Err(io::Error::other("medium error"));
        }
        let place = self.place(offset);
        self.bytes.seek(SeekFrom::Start(place))?;
        self.bytes.write_all(bytes)
    }

    fn zero_at(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let place = self.place(offset);
        self.bytes.seek(SeekFrom::Start(place))?;
        self.bytes.write_all(&vec![0; length as usize])
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let place = self.place(offset);
        self.bytes.seek(SeekFrom::Start(place))?;
        self.bytes.read_exact(bytes)?;
        if let Some(at) = self.flips.filter(|at| (offset..offset + bytes.len() as u64).contains(at)) {
            bytes[(at - offset) as usize] ^= 0x10;
        }
        Ok(())
    }
}

#[test]
fn a_disk_that_gives_back_other_bytes_is_found_out_and_left_unbootable() {
    let bench = Bench::new();
    let image = bench.image();
    let places = places();
    // In the ESP, in zeroes of the root, in the data, in the backup table, and in the table itself.
    for at in [places[0].start + 5000, places[1].end - 1, places[5].start + 3, SIZE - 100, 512 + 30] {
        let mut medium = Medium { flips: Some(at), ..Medium::new(SIZE) };
        let error = run(&image, &mut medium).unwrap_err();
        let FlashError::Different { from, to } = &error else { panic!("{error}") };
        assert!((*from..*to).contains(&at), "{at}: {error}");
        assert!(error.to_string().contains("replace it"));
        assert_eq!(medium.head().iter().all(|byte| *byte == 0), at > MIB, "the table goes in last");
    }
    let mut small = Medium { wraps_at: Some(20 * MIB), ..Medium::new(SIZE) };
    assert!(matches!(run(&image, &mut small), Err(FlashError::Different { .. })));
}

#[test]
fn a_disk_that_fails_is_left_unbootable_and_says_so() {
    let bench = Bench::new();
    let image = bench.image();
    for at in [places()[0].start, places()[5].start] {
        let mut medium = Medium { fails_at: Some(at), ..Medium::new(SIZE) };
        medium.bytes.write_all(&bench.bytes[..MIB as usize]).unwrap();
        let error = run(&image, &mut medium).unwrap_err();
        assert!(
            matches!(error, FlashError::Write { .. }) && error.to_string().contains("not usable"),
            "{error}"
        );
        assert!(medium.head().iter().all(|byte| *byte == 0));
    }
}

#[test]
fn refuses_a_target_that_is_too_small_untouched() {
    let bench = Bench::new();
    let image = bench.image();
    let target = bench.write("small", &vec![7; SIZE as usize - 512]);
    let error = run(&image, &mut FileTarget::file(&target, SIZE).unwrap()).unwrap_err().to_string();
    assert!(error.contains("too small"), "{error}");
    assert!(std::fs::read(&target).unwrap().iter().all(|byte| *byte == 7));
    assert!(FileTarget::file(bench.folder.path(), 1).is_err(), "a folder is no disk");
    assert!(FileTarget::device(&target, SIZE).is_err(), "a file is no device");
}

#[test]
fn an_image_that_changes_while_it_is_flashed_is_noticed() {
    let bench = Bench::new();
    let image = bench.image();
    let mut bytes = bench.bytes.clone();
    bytes[places()[1].start as usize] ^= 1;
    bench.write("disk.raw", &bytes);
    let mut medium = Medium::new(SIZE);
    assert!(matches!(run(&image, &mut medium), Err(FlashError::Changed(_))));
    assert!(medium.head().iter().all(|byte| *byte == 0));
}
