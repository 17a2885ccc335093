//! The layout of the data partition has a version, in the file `layout` of the updater's folder: the layout in use, then
//! those whose data still lies whole beside it, as numbers in one line (`1`, later `2 1`).
//!
//! **The way back.** An OS changes the layout only once it is kept ([`migrate`], called by `confirm`), so a trial that
//! fails finds its data as it was. A migration only adds: it makes the new layout's data beside the old, which stays.
//! So an older OS that starts later, because the newer one turned out corrupt, finds its own layout among those that are
//! whole and goes back to it ([`go_back`]); what was written since then is not in it. The old data is removed
//! ([`forget`]) when the older OS's slot is overwritten, for then nothing can start that reads it.
//!
//! **Power cuts.** The file is replaced by rename, after a migration and before a removal. A migration that is cut off
//! runs again and must begin with removing what it left behind; a removal that is cut off is gone on with by the next one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cairn_model::release::DataLayout;
use fail::fail_point;

use crate::updater::write_durably;

#[cfg(test)]
mod tests;

/// The layout that this build works with.
pub const CURRENT: u32 = 1;

/// All changes of layout, in order; none so far.
pub const MIGRATIONS: &[Migration] = &[];

/// Longest file that is read; some thousand layouts.
const MAX_BYTES: usize = 16 << 10;

/// A change of layout. Both functions get the folder above the updater's (`/var/lib/cairn`).
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The layout that it makes, from the one before.
    pub to: u32,
    /// Makes it beside the old. May run more than once.
    pub run: fn(&Path) -> io::Result<()>,
    /// Removes what only the old layout needs. May run more than once.
    pub forget: fn(&Path) -> io::Result<()>,
}

/// What lies on the data partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The layout in use.
    pub current: u32,
    /// Older ones whose data lies whole beside it.
    pub kept: Vec<u32>,
}

/// Why the layout does not fit.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A release cannot work with what is there.
    #[error(
        "it works with layouts {min} to {max} of the data partition, and this node's has {current}; \
         take a release in between first"
    )]
    Outside {
        /// What is there.
        current: u32,
        /// The oldest that the release can work with.
        min: u32,
        /// The newest.
        max: u32,
    },
    /// What runs cannot work with what is there.
    #[error(
        "the data partition has layout {current}, which this OS does not know; install a newer one, or flash the \
         machine again"
    )]
    Newer {
        /// What is there.
        current: u32,
    },
    /// The file is none.
    #[error("{path} does not name a layout; write the number of the layout into it, {CURRENT} for this OS")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Reading, writing or migrating failed.
    #[error("failed to {what} layout {layout} of the data partition")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With which layout.
        layout: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads the version; a data partition without one is of the first layout.
///
/// # Errors
/// If the file cannot be read or names no layout.
pub fn read(folder: &Path) -> Result<Layout, LayoutError> {
    let path = folder.join("layout");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Layout { current: 1, kept: Vec::new() });
        }
        Err(source) => return Err(LayoutError::Failed { what: "read", layout: 0, source }),
    };
    let malformed = || LayoutError::Malformed { path: path.clone() };
    let text = str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_BYTES).ok_or_else(malformed)?;
    let numbers: Option<Vec<u32>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    match numbers.as_deref() {
        Some([current, kept @ ..]) if *current > 0 && kept.iter().all(|old| old < current) => {
            Ok(Layout { current: *current, kept: kept.to_vec() })
        }
        _ => Err(malformed()),
    }
}

/// Whether a release can work with a layout.
///
/// # Errors
/// [`LayoutError::Outside`] if not.
pub fn plan(current: u32, release: DataLayout) -> Result<(), LayoutError> {
    let DataLayout { min, max } = release;
    if (min..=max).contains(&current) { Ok(()) } else { Err(LayoutError::Outside { current, min, max }) }
}

/// Brings the layout to the newest that `migrations` make. Nothing happens where it has that already.
///
/// # Errors
/// If a migration fails; what it had done before stays, and it goes on there the next time.
pub fn migrate(folder: &Path, migrations: &[Migration]) -> Result<(), LayoutError> {
    let mut layout = read(folder)?;
    for migration in migrations {
        if migration.to != layout.current + 1 {
            continue;
        }
        (migration.run)(above(folder)).map_err(failed("migrate to", migration.to))?;
        fail_point!("ota::layout-migrated", |_| Err(struck("migrate to", migration.to)));
        layout.kept.insert(0, layout.current);
        layout.current = migration.to;
        write(folder, &layout)?;
    }
    Ok(())
}

/// Makes the layout in use one that an OS of layout `known` works with: a newer OS may have run in between.
///
/// # Errors
/// [`LayoutError::Newer`] where that layout's data is no longer there.
pub fn go_back(folder: &Path, known: u32) -> Result<(), LayoutError> {
    let layout = read(folder)?;
    if layout.current <= known {
        return Ok(());
    }
    if !layout.kept.contains(&known) {
        return Err(LayoutError::Newer { current: layout.current });
    }
    let kept = layout.kept.into_iter().filter(|old| *old < known).collect();
    write(folder, &Layout { current: known, kept })
}

/// Removes what only older layouts need: nothing can start any more that reads them.
///
/// # Errors
/// If that fails; it goes on the next time that something is removed.
pub fn forget(folder: &Path, migrations: &[Migration]) -> Result<(), LayoutError> {
    let layout = read(folder)?;
    if !layout.kept.is_empty() {
        // First the file: what is half removed must not count as whole.
        write(folder, &Layout { current: layout.current, kept: Vec::new() })?;
    }
    // Also those that are not kept any more: an earlier removal of them may have been cut off.
    for migration in migrations.iter().filter(|migration| migration.to <= layout.current) {
        fail_point!("ota::layout-forget", |_| Err(struck("forget", migration.to - 1)));
        (migration.forget)(above(folder)).map_err(failed("forget", migration.to - 1))?;
    }
    Ok(())
}

fn above(folder: &Path) -> &Path {
    folder.parent().unwrap_or(folder)
}

fn failed(what: &'static str, layout: u32) -> impl FnOnce(io::Error) -> LayoutError {
    move |source| LayoutError::Failed { what, layout, source }
}

/// What a fault point says.
fn struck(what: &'static str, layout: u32) -> LayoutError {
    failed(what, layout)(io::Error::other("a fault point"))
}

fn write(folder: &Path, layout: &Layout) -> Result<(), LayoutError> {
    let numbers: Vec<String> =
        std::iter::once(layout.current).chain(layout.kept.iter().copied()).map(|n| n.to_string()).collect();
    let text = format!("{}\n", numbers.join(" "));
    write_durably(&folder.join("layout"), text.as_bytes()).map_err(failed("record", layout.current))
}
