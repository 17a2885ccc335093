//! An image as it is flashed: raw or zstd, read as a stream; looked through once before anything is written, so that a
//! damaged or foreign file never costs a disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cairn_ota::{BootEntry, layout};
use sha2::{Digest, Sha256};

use super::memory::{Sparse, is_zero};
use super::table::{HEAD, Table, TableError};

/// First bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Largest window that an image may make its reader keep, as a power of two: 128 MiB.
const WINDOW: u32 = 27;

/// Bytes that are read, hashed and written at once.
pub(crate) const PIECE: usize = 4 << 20;

/// Unit of the fingerprint: blocks of zeroes are left out of it.
const BLOCK: usize = 64 * 1024;

/// Most names of a folder of the ESP that are looked at.
const MAX_ENTRIES: usize = 64;

/// Why a file cannot be flashed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be opened.
    #[error("failed to open the image {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be read to its end, or does not unpack.
    #[error("failed to read {path} at {at} bytes of the disk; copy the image again")]
    Read {
        /// Which.
        path: PathBuf,
        /// How far it went.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ends early.
    #[error("{path} is cut short: it holds {found} of {expected} bytes; copy the image again")]
    Truncated {
        /// Which.
        path: PathBuf,
        /// Bytes that are there.
        found: u64,
        /// Bytes that its own table names.
        expected: u64,
    },
    /// It holds more than its table says.
    #[error(
        "{path} goes on behind the end of its disk of {expected} bytes; give an image as `cairn-image build` wrote it"
    )]
    Trailing {
        /// Which.
        path: PathBuf,
        /// Bytes that its own table names.
        expected: u64,
    },
    /// Its table is not one of ours.
    #[error("{path} cannot be flashed")]
    Table {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: TableError,
    },
    /// Its ESP does not boot Cairn.
    #[error("{path} is no bootable Cairn image: {cause}; build it again")]
    Esp {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// An image that was looked through and found whole.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    /// Where everything is.
    pub table: Table,
    /// The ESP: what is provisioned is put in here.
    pub esp: Sparse,
    /// The OS version that it boots first.
    pub version: String,
    /// Whether slot B holds anything.
    pub(crate) second_slot_used: bool,
    /// Of everything that is not zero.
    pub(crate) fingerprint: [u8; 32],
}

impl Image {
    /// Reads the whole file. `observe` hears how many bytes of how many are done.
    pub fn inspect(path: &Path, observe: &mut dyn FnMut(u64, u64)) -> Result<Self, ImageError> {
        let mut stream = Stream::open(path)?;
        let mut head = Vec::new();
        (&mut stream.reader).take(HEAD as u64).read_to_end(&mut head).map_err(|source| ImageError::Read {
            path: path.into(),
            at: 0,
            source,
        })?;
        let table = Table::read(&head).map_err(|source| ImageError::Table { path: path.into(), source })?;
        drop(stream);
        let (partition, second) = (table.esp(), table.second_root());
        let mut esp = Sparse::new(partition.end - partition.start);
        let mut second_slot_used = false;
        let mut pieces = Stream::open(path)?.pieces(table.size);
        while let Some((at, piece)) = pieces.next()? {
            let part = |range: &std::ops::Range<u64>| overlap(range, at, piece.len());
            if let Some(within) = part(&partition) {
                esp.write_at(at + within.start as u64 - partition.start, &piece[within]);
            }
            if let Some(within) = part(&second) {
                second_slot_used |= !is_zero(&piece[within]);
            }
            observe(at + piece.len() as u64, table.size);
        }
        let fingerprint = pieces.finish()?;
        let version =
            bootable_version(&mut esp).map_err(|cause| ImageError::Esp { path: path.into(), cause })?;
        Ok(Self { path: path.into(), table, esp, version, second_slot_used, fingerprint })
    }

    /// Its pieces once more.
    pub(crate) fn pieces(&self) -> Result<Pieces, ImageError> {
        Ok(Stream::open(&self.path)?.pieces(self.table.size))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Which part of a piece that begins at `at` lies in a range of the disk.
pub(crate) fn overlap(
    range: &std::ops::Range<u64>,
    at: u64,
    length: usize,
) -> Option<std::ops::Range<usize>> {
    let (start, end) = (range.start.max(at), range.end.min(at + length as u64));
    (start < end).then(|| (start - at) as usize..(end - at) as usize)
}

/// An opened image, unpacked on the way.
struct Stream {
    path: PathBuf,
    reader: Box<dyn Read>,
}

impl Stream {
    fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Open { path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("it is not a file; an image is read twice")));
        }
        let mut magic = Vec::new();
        (&mut file).take(ZSTD.len() as u64).read_to_end(&mut magic).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let reader: Box<dyn Read> = if magic == ZSTD {
            let mut decoder = zstd::Decoder::new(file).map_err(failed)?;
            decoder.window_log_max(WINDOW).map_err(failed)?;
            Box::new(decoder)
        } else {
            Box::new(BufReader::new(file))
        };
        Ok(Self { path: path.into(), reader })
    }

    fn pieces(self, size: u64) -> Pieces {
        Pieces { stream: self, size, at: 0, buffer: vec![0; PIECE], hasher: Sha256::new() }
    }
}

/// Goes through an image once, in pieces of [`PIECE`] bytes but for the last.
pub(crate) struct Pieces {
    stream: Stream,
    size: u64,
    at: u64,
    buffer: Vec<u8>,
    hasher: Sha256,
}

impl Pieces {
    /// The next piece with its place on the disk; the caller may change it.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &mut [u8])>, ImageError> {
        let wanted = usize::try_from(self.size - self.at).map_or(PIECE, |left| left.min(PIECE));
        let mut filled = 0;
        while filled < wanted {
            let count = match self.stream.reader.read(&mut self.buffer[filled..wanted]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let (path, at) = (self.stream.path.clone(), self.at + filled as u64);
                    return Err(ImageError::Read { path, at, source });
                }
            };
            if count == 0 {
                let (path, found) = (self.stream.path.clone(), self.at + filled as u64);
                return Err(ImageError::Truncated { path, found, expected: self.size });
            }
            filled += count;
        }
        let (at, piece) = (self.at, &mut self.buffer[..wanted]);
        for (index, block) in piece.chunks(BLOCK).enumerate().filter(|(_, block)| !is_zero(block)) {
            self.hasher.update((at + (index * BLOCK) as u64).to_le_bytes());
            self.hasher.update(block);
        }
        self.at += wanted as u64;
        Ok((wanted > 0).then_some((at, piece)))
    }

    /// What was read, in one hash. Reads on to the end of the stream: that is where a checksum stands.
    pub(crate) fn finish(mut self) -> Result<[u8; 32], ImageError> {
        let (path, at) = (self.stream.path.clone(), self.at);
        match self.stream.reader.read(&mut [0]) {
            Ok(0) => Ok(self.hasher.finalize().into()),
            Ok(_) => Err(ImageError::Trailing { path, expected: self.size }),
            Err(source) => Err(ImageError::Read { path, at, source }),
        }
    }
}

/// The newest version that the boot loader would start.
fn bootable_version(esp: &mut Sparse) -> Result<String, String> {
    let volume =
        esp.volume().map_err(|error| format!("its first partition is no FAT file system ({error})"))?;
    let root = volume.root_dir();
    root.open_file("EFI/BOOT/BOOTX64.EFI").map_err(|_| "it has no boot loader".to_owned())?;
    let folder = root.open_dir(layout::ENTRY_FOLDER).map_err(|_| "it has no boot entries".to_owned())?;
    let names = folder.iter().take(MAX_ENTRIES).filter_map(Result::ok).map(|entry| entry.file_name());
    let entries = names.filter_map(|name| name.parse::<BootEntry>().ok());
    let newest = entries.filter(BootEntry::is_bootable).map(|entry| entry.version).max();
    newest.map(|version| version.to_string()).ok_or_else(|| "it has no boot entry of Cairn".to_owned())
}
