//! Cuts a stream where its content says (FastCDC), so that equal stretches of two streams are cut alike.

use std::io::{self, Read};

use fastcdc::v2020::{Normalization, cut, select_masks};

/// Shortest chunk in bytes, but for the last of a stream.
pub const MIN: usize = 4 << 10;

/// What most chunks have about, in bytes.
pub const AVERAGE: usize = 16 << 10;

/// Longest chunk in bytes.
pub const MAX: usize = 64 << 10;

/// What is read ahead.
const BUFFER: usize = 1 << 20;

/// The longest chunk of nothing but zeros.
pub(crate) static ZEROS: [u8; MAX] = [0; MAX];

/// Gives the chunks of a stream one after the other.
pub struct Cutter<R> {
    data: R,
    alignment: usize,
    masks: (u64, u64),
    buffer: Vec<u8>,
    /// What of the buffer is still to be given.
    ahead: std::ops::Range<usize>,
    offset: u64,
    ended: bool,
}

impl<R: Read> Cutter<R> {
    /// Of all of `data`, cut at multiples of `alignment` only.
    pub fn new(data: R, alignment: usize) -> Self {
        let masks = select_masks(AVERAGE, Normalization::Level1);
        Self { data, alignment, masks, buffer: vec![0; BUFFER], ahead: 0..0, offset: 0, ended: false }
    }

    /// The next chunk and where it begins; `None` at the end.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub fn next_chunk(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        if self.ahead.len() < MAX && !self.ended {
            self.refill()?;
        }
        if self.ahead.is_empty() {
            return Ok(None);
        }
        let bytes = &self.buffer[self.ahead.clone()];
        let length = self.length(bytes);
        let offset = self.offset;
        self.offset += length as u64;
        self.ahead.start += length;
        Ok(Some((offset, &bytes[..length])))
    }

    /// How long the chunk is that `bytes` begin with.
    fn length(&self, bytes: &[u8]) -> usize {
        // Zeros have no place to cut at; to see that they are some costs far less than to look for it.
        if bytes.len() >= MAX && bytes[..MAX] == ZEROS {
            return MAX;
        }
        let (small, large) = self.masks;
        let (_, length) = cut(bytes, MIN, AVERAGE, MAX, small, large, small << 1, large << 1);
        length.next_multiple_of(self.alignment).min(MAX).min(bytes.len())
    }

    fn refill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.ahead.clone(), 0);
        self.ahead = 0..self.ahead.len();
        while self.ahead.end < BUFFER && !self.ended {
            match self.data.read(&mut self.buffer[self.ahead.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.ahead.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
