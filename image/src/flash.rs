//! Writes an image to a disk or a file, and shows that it is there.
//!
//! [`image`] looks the whole file through before anything is written. Then: the target's table is wiped, everything is
//! written but the table, read back past the page cache, and only then the table goes in: a disk whose flashing was
//! broken off never looks like one that may be booted. [`disks`] says what must not be written to; [`provision`] puts
//! what a site needs into the ESP while it is still in memory, so that it is read back like all the rest.
//!
//! The partition table stays as the image has it, on a larger disk too: systemd-repart moves the backup and grows the
//! data partition at the first boot.

pub mod disks;
pub mod image;
pub mod memory;
pub mod progress;
pub mod provision;
pub mod table;
pub mod target;

use std::io;
use std::ops::Range;

use cairn_ota::layout::MIB;
use sha2::{Digest, Sha256};

use disks::{Refusal, check_size};
use image::{Image, ImageError, PIECE, overlap};
use memory::is_zero;
use progress::Step;
use table::Duty;
use target::Target;

/// Unit in which zeroes are looked for.
const BLOCK: usize = 64 * 1024;

/// Why a disk is not what the image is.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The target must not be written to.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The image fails.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// It is another file than the one that was checked.
    #[error("{0} changed while it was flashed; the disk is not usable: flash again")]
    Changed(String),
    /// The medium fails.
    #[error(
        "failed to write at {at} bytes; the disk is not usable: try again, and replace it if it fails again"
    )]
    Write {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The medium fails.
    #[error("failed to read back at {at} bytes; the disk is not usable: replace it")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The medium lies.
    #[error(
        "the disk gives back other bytes than were written, at {from} to {to}; it is worn out, or smaller than it says: \
         replace it"
    )]
    Different {
        /// First byte of the piece.
        from: u64,
        /// End of the piece.
        to: u64,
    },
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flashed {
    /// Bytes of the image.
    pub size: u64,
    /// Bytes that were written and read back, zeroes too.
    pub verified: u64,
    /// Bytes among them that were not zero.
    pub written: u64,
}

/// A piece that must read back as it was written.
struct Written {
    range: Range<u64>,
    hash: [u8; 32],
}

/// Hears of the step, the bytes done and all bytes.
pub type Observe<'a> = &'a mut dyn FnMut(Step, u64, u64);

/// Writes and verifies.
///
/// # Errors
/// If the target is too small, the image cannot be read any more, or the medium fails or lies.
pub fn flash(image: &Image, target: &mut dyn Target, observe: Observe<'_>) -> Result<Flashed, FlashError> {
    let size = image.table.size;
    check_size("the target", target.size(), size)?;
    wipe(target, image.table.head())?;
    let mut job = Job { image, target, pieces: Vec::new(), head: Vec::new(), written: 0 };
    job.write(observe)?;
    job.target.settle().map_err(|source| FlashError::Write { at: size, source })?;
    job.verify(observe)?;
    job.finish()
}

/// Takes away what makes the disk look like something: its table, and the backup at the end.
fn wipe(target: &mut dyn Target, head: u64) -> Result<(), FlashError> {
    let end = target.size();
    let tail = end.saturating_sub(MIB) / 4096 * 4096;
    for range in [0..head, tail..end] {
        target
            .zero_at(range.start, range.end - range.start)
            .map_err(|source| FlashError::Write { at: range.start, source })?;
    }
    target.settle().map_err(|source| FlashError::Write { at: 0, source })
}

struct Job<'a> {
    image: &'a Image,
    target: &'a mut dyn Target,
    pieces: Vec<Written>,
    /// The table, kept until the end.
    head: Vec<u8>,
    written: u64,
}

impl Job<'_> {
    /// Everything but the table.
    fn write(&mut self, observe: Observe<'_>) -> Result<(), FlashError> {
        let image = self.image;
        let (size, esp) = (image.table.size, image.table.esp());
        let regions = image.table.regions(image.second_slot_used);
        let mut pieces = image.pieces()?;
        observe(Step::Writing, 0, size);
        while let Some((at, piece)) = pieces.next()? {
            let length = piece.len();
            if let Some(within) = overlap(&esp, at, length) {
                image.esp.read_at(at + within.start as u64 - esp.start, &mut piece[within]);
            }
            for (range, duty) in &regions {
                let Some(within) = overlap(range, at, length) else { continue };
                let start = at + within.start as u64;
                match duty {
                    Duty::Table => self.head.extend_from_slice(&piece[within]),
                    Duty::Exact => self.put(start, &piece[within], true)?,
                    Duty::Free => self.put(start, &piece[within], false)?,
                }
            }
            observe(Step::Writing, at + length as u64, size);
        }
        if pieces.finish()? != image.fingerprint {
            return Err(FlashError::Changed(image.path().display().to_string()));
        }
        Ok(())
    }

    /// Writes what is not zero, and makes sure of the zeroes where they count.
    fn put(&mut self, start: u64, bytes: &[u8], exact: bool) -> Result<(), FlashError> {
        let mut done = 0;
        while done < bytes.len() {
            let zero = is_zero(&bytes[done..(done + BLOCK).min(bytes.len())]);
            let mut end = done;
            while end < bytes.len() && is_zero(&bytes[end..(end + BLOCK).min(bytes.len())]) == zero {
                end = (end + BLOCK).min(bytes.len());
            }
            let at = start + done as u64;
            let run = &bytes[done..end];
            let outcome = match (zero, exact) {
                (false, _) => {
                    self.written += run.len() as u64;
                    self.target.write_at(at, run)
                }
                (true, true) => self.target.zero_at(at, run.len() as u64),
                (true, false) => Ok(()),
            };
            outcome.map_err(|source| FlashError::Write { at, source })?;
            if !exact && !zero {
                self.expect(at, run);
            }
            done = end;
        }
        if exact {
            self.expect(start, bytes);
        }
        Ok(())
    }

    fn expect(&mut self, start: u64, bytes: &[u8]) {
        let range = start..start + bytes.len() as u64;
        self.pieces.push(Written { range, hash: Sha256::digest(bytes).into() });
    }

    /// Compares every piece with what the medium gives back.
    fn verify(&mut self, observe: Observe<'_>) -> Result<(), FlashError> {
        let total = self.pieces.iter().map(|piece| piece.range.end - piece.range.start).sum();
        let (mut done, mut buffer) = (0, vec![0; PIECE]);
        observe(Step::Verifying, 0, total);
        for Written { range, hash } in &self.pieces {
            let bytes = &mut buffer[..(range.end - range.start) as usize];
            // What the medium does not give must not look like what was read before it.
            bytes.fill(0xff);
            let outcome = self.target.read_at(range.start, bytes);
            outcome.map_err(|source| FlashError::Read { at: range.start, source })?;
            if <[u8; 32]>::from(Sha256::digest(&*bytes)) != *hash {
                return Err(FlashError::Different { from: range.start, to: range.end });
            }
            done += range.end - range.start;
            observe(Step::Verifying, done, total);
        }
        Ok(())
    }

    /// The table, as the last act, and read back too.
    fn finish(self) -> Result<Flashed, FlashError> {
        let Self { image, target, pieces, head, written } = self;
        let failed = |source| FlashError::Write { at: 0, source };
        target.write_at(0, &head).map_err(failed)?;
        target.settle().map_err(failed)?;
        let mut back = vec![0; head.len()];
        target.read_at(0, &mut back).map_err(|source| FlashError::Read { at: 0, source })?;
        if back != head {
            return Err(FlashError::Different { from: 0, to: head.len() as u64 });
        }
        let count = |range: &Range<u64>| range.end - range.start;
        let verified = pieces.iter().map(|piece| count(&piece.range)).sum::<u64>() + head.len() as u64;
        let written = written + head.len() as u64;
        Ok(Flashed { size: image.table.size, verified, written })
    }
}
