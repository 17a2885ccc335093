//! Gives up what the process no longer needs once its files are open and its ports are bound. The unit's sandbox is
//! the daemon's work; this is the part that only the process itself can time right.

use anyhow::{Context, Result};
use caps::CapSet;
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

/// No way back: no new privileges, no capabilities, no core dumps, not traceable by others. Capabilities belong to a
/// thread, so this must come before the first thread is started.
pub(crate) fn shed() -> Result<()> {
    prctl::set_no_new_privs().context("failed to set no_new_privs")?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).with_context(|| format!("failed to drop the {set:?} capabilities"))?;
    }
    prctl::set_dumpable(false).context("failed to forbid dumps")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("failed to forbid core files")
}
