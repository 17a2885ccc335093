//! Puts payloads together again from what would travel, and compares: a release that a node could not install must not
//! come to be.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_model::Digest;
use cairn_model::release::Payload;
use cairn_ota::chunks::{Index, Opener, Part};
use cairn_ota::patch::Applier;
use sha2::{Digest as _, Sha256};

use super::ReleaseError;
use super::payloads::{Facts, Payloads};

/// Takes a payload's bytes in order, hashes them, and hands them on.
struct Check<W> {
    out: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Check<W> {
    fn new(out: W) -> Self {
        Self { out, hasher: Sha256::new(), size: 0 }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn finish(mut self, what: &str, wanted: &Payload) -> Result<(), String> {
        self.out.flush().map_err(|error| error.to_string())?;
        let found = Payload { digest: Digest::from_sha256(&self.hasher.finalize().into()), size: self.size };
        if found == *wanted { Ok(()) } else { Err(format!("the {what} comes out as other bytes")) }
    }
}

/// Writes both payloads from their chunks.
pub(super) fn unpack(
    index: &[u8],
    pack: &File,
    facts: &Facts,
    root: &Path,
    uki: &Path,
) -> Result<(), String> {
    let create = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
    assemble(index, pack, facts, create(root)?, create(uki)?)
}

/// Puts the image together from index and pack.
pub(super) fn chunks(index: &[u8], pack: &File, facts: &Facts) -> Result<(), ReleaseError> {
    assemble(index, pack, facts, io::sink(), io::sink()).map_err(ReleaseError::Trial)
}

fn assemble<W: Write>(index: &[u8], pack: &File, facts: &Facts, root: W, uki: W) -> Result<(), String> {
    let index = Index::parse(index).map_err(|error| error.to_string())?;
    let (mut root, mut uki) = (Check::new(root), Check::new(uki));
    let mut opener = Opener::new().map_err(|error| error.to_string())?;
    let (mut packed, mut bytes) = (Vec::new(), Vec::new());
    for chunk in index.chunks() {
        packed.resize(chunk.packed_length as usize, 0);
        pack.read_exact_at(&mut packed, chunk.packed_offset).map_err(|error| format!("its pack: {error}"))?;
        opener.open(chunk, &packed, &mut bytes).map_err(|error| error.to_string())?;
        let part = match chunk.part {
            Part::Root => &mut root,
            Part::Uki => &mut uki,
        };
        part.take(&bytes).map_err(|error| error.to_string())?;
    }
    root.finish("root", &facts.root)?;
    uki.finish("kernel image", &facts.uki)
}

/// Makes the new image from the old one and a patch.
pub(super) fn patch(patch: File, old: &Payloads, new: &Facts) -> Result<(), ReleaseError> {
    let from = &old.facts.version;
    let failed = |cause: String| ReleaseError::Trial(format!("by the patch from {from}, {cause}"));
    let open = |path: &Path| File::open(path).map_err(|error| failed(format!("{}: {error}", path.display())));
    let (old_root, old_uki) = (open(&old.root)?, open(&old.uki)?);
    let mut base = |part: Part, offset: u64, bytes: &mut [u8]| match part {
        Part::Root => old_root.read_exact_at(bytes, offset),
        Part::Uki => old_uki.read_exact_at(bytes, offset),
    };
    let (mut root, mut uki) = (Check::new(io::sink()), Check::new(io::sink()));
    let mut applier = Applier::new(BufReader::new(patch)).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    while let Some(segment) = applier.next_segment().map_err(|error| failed(error.to_string()))? {
        applier.apply(&segment, &mut base, &mut bytes).map_err(|error| failed(error.to_string()))?;
        let part = match segment.part {
            Part::Root => &mut root,
            Part::Uki => &mut uki,
        };
        part.take(&bytes).map_err(|error| failed(error.to_string()))?;
    }
    root.finish("root", &new.root).map_err(failed)?;
    uki.finish("kernel image", &new.uki).map_err(failed)
}
