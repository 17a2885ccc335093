//! The compressed blob as a bounded, hashed stream of tar bytes.

use std::io::{self, BufRead, Read};

use anyhow::{Context, Result, bail};
use cairn_model::id::Digest;
use sha2::{Digest as _, Sha256};

/// Largest window that a zstd frame may ask for, as a power of two: 128 MiB, what the zstd tool accepts by default.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) fn of_media_type(media_type: &str) -> Result<Self> {
        Ok(match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Self::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Self::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Self::Zstd,
            other => bail!(
                "media type {other:?} is no image layer that we read; use an OCI tar, tar+gzip or tar+zstd"
            ),
        })
    }

    pub(super) fn decoder<'a>(self, blob: impl BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::None => Box::new(blob),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)
                    .context("failed to start the zstd decoder")?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).context("failed to bound the zstd window")?;
                Box::new(decoder)
            }
        })
    }
}

/// Counts and hashes what passes; fails when more passes than allowed, which is what stops a decompression bomb.
pub(super) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    left: u64,
    limit: u64,
}

impl<R: Read> HashingReader<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Sha256::new(), left: limit, limit }
    }

    /// Reads what follows the tar's end marker, and gives the digest of the whole stream.
    pub(super) fn finish(mut self) -> Result<Digest> {
        io::copy(&mut self, &mut io::sink()).context("failed to read the end of the layer")?;
        Ok(Digest::from_sha256(&self.hash.finalize().into()))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!(
                "the layer unpacks to more than {} bytes; raise --max-bytes if the image is really that large",
                self.limit
            ))
        })?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
