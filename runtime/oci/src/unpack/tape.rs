//! Reads a tar entry by entry: ustar, GNU long names and PAX records, each bounded. Sparse files are refused. The `tar`
//! crate parses the headers; its own iterator is passed over because it reads long names and PAX records of any size
//! into memory.

use std::io::Read;

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// Longest GNU long name and its NUL.
const MAX_LONG_NAME: u64 = 4097;
/// Largest PAX record of one entry: room for the largest xattr (64 KiB) several times over.
const MAX_PAX: u64 = 1 << 20;

/// What one header, with the extensions before it, says.
pub(super) struct Entry {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Name without PAX's `SCHILY.xattr.` prefix, value.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar being read. After [`Tape::next`], the entry's content must be taken with [`Tape::content`] or is skipped.
pub(super) struct Tape<'a, R> {
    inner: &'a mut R,
    /// Content bytes of the current entry that were not read yet.
    left: u64,
    /// Bytes after the content, up to a whole block.
    padding: u64,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a, R: Read> Tape<'a, R> {
    pub(super) fn new(inner: &'a mut R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next entry, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = header.entry_size().context("failed to read an entry's size")?;
            match kind {
                EntryType::GNULongName => extensions.path = Some(self.long_name(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size)?),
                EntryType::XHeader => {
                    let records = self.small(size, MAX_PAX, "PAX record")?;
                    extensions.read_pax(&records)?;
                }
                // Global PAX headers carry comments (git) that mean nothing here.
                EntryType::XGlobalHeader => {
                    self.small(size, MAX_PAX, "global PAX record")?;
                }
                EntryType::GNUSparse => {
                    bail!("sparse files are not supported; make the layer without --sparse")
                }
                _ => {
                    let size = extensions.size.take().unwrap_or(size);
                    self.left = if kind.is_file() || kind.is_contiguous() { size } else { 0 };
                    self.padding = padding(self.left);
                    return extensions.into_entry(&header, kind, self.left).map(Some);
                }
            }
        }
    }

    /// Reads the current entry's content.
    pub(super) fn content(&mut self) -> impl Read + '_ {
        Content { tape: self }
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = Vec::with_capacity(BLOCK);
        self.inner.take(BLOCK as u64).read_to_end(&mut block).context("failed to read the layer")?;
        // Some tools leave the end marker away. That the layer is whole is for its digest to say.
        if block.is_empty() {
            return Ok(None);
        }
        if block.len() < BLOCK {
            bail!("the layer ends in the middle of a header");
        }
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, &b)| u32::from(if (148..156).contains(&i) { b' ' } else { b }))
            .sum();
        if header.cksum().ok() != Some(sum) {
            bail!("the layer is no tar, or damaged: a header's checksum is wrong");
        }
        Ok(Some(header))
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut name = self.small(size, MAX_LONG_NAME, "GNU long name")?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn small(&mut self, size: u64, max: u64, what: &str) -> Result<Vec<u8>> {
        if size > max {
            bail!("a {what} of {size} bytes is larger than {max}");
        }
        let mut data = Vec::new();
        self.inner.take(size).read_to_end(&mut data).with_context(|| format!("failed to read a {what}"))?;
        if data.len() as u64 != size {
            bail!("the layer ends in the middle of a {what}");
        }
        self.skip(padding(size))?;
        Ok(data)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = std::io::copy(&mut self.inner.take(bytes), &mut std::io::sink())
            .context("failed to read the layer")?;
        if skipped != bytes {
            bail!("the layer ends in the middle of an entry");
        }
        Ok(())
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

struct Content<'t, 'a, R> {
    tape: &'t mut Tape<'a, R>,
}

impl<R: Read> Read for Content<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.tape.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let read = self.tape.inner.read(&mut buffer[..want])?;
        if read == 0 {
            return Err(std::io::Error::other("the layer ends in the middle of a file"));
        }
        self.tape.left -= read as u64;
        Ok(read)
    }
}

impl Extensions {
    fn read_pax(&mut self, records: &[u8]) -> Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, tail) = pax_record(rest).context("a PAX record is damaged")?;
            rest = tail;
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).context("a PAX size is no number")?),
                b"uid" => self.uid = Some(number(value).context("a PAX uid is no number")?),
                b"gid" => self.gid = Some(number(value).context("a PAX gid is no number")?),
                b"mtime" => self.mtime = Some(time(value).context("a PAX mtime is no time")?),
                key if key.starts_with(b"GNU.sparse.") => {
                    bail!("sparse files are not supported; make the layer without --sparse")
                }
                key => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn into_entry(self, header: &Header, kind: EntryType, size: u64) -> Result<Entry> {
        let id = |n: u64| u32::try_from(n).context("a user or group id is out of range");
        let link = match self.link {
            Some(link) => link,
            None => header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default(),
        };
        let mtime = match self.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        };
        Ok(Entry {
            kind,
            path: self.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link,
            size,
            mode: header.mode().context("failed to read an entry's mode")? & 0o7777,
            uid: self.uid.map_or_else(|| header.uid().map_err(Into::into).and_then(id), Ok)?,
            gid: self.gid.map_or_else(|| header.gid().map_err(Into::into).and_then(id), Ok)?,
            mtime,
            xattrs: self.xattrs,
        })
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts all of it; gives key, value and what follows.
fn pax_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(12).position(|&b| b == b' ')?;
    let length: usize = number(&data[..space])?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &data[length..]))
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds: i64 = match whole.strip_prefix(b"-") {
        Some(digits) => -number::<i64>(digits)?,
        None => number(whole)?,
    };
    let mut digits = fraction.iter().copied().take_while(u8::is_ascii_digit).collect::<Vec<_>>();
    digits.resize(9, b'0');
    let nanos: u32 = number(&digits)?;
    // Before 1970, the fraction counts back; a layer's files are not that old, and whole seconds are near enough.
    Some((seconds, if seconds < 0 { 0 } else { nanos }))
}
