//! What a guest may see and use: made anew from the same grants for every instance.

use std::path::PathBuf;

use anyhow::{Context, Result};
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView, p1::WasiP1Ctx};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{outgoing::Outgoing, trap::plain};

/// Elements of all tables together: eight bytes each, so 8 MB, far above what a compiler emits.
const MAX_TABLE_ELEMENTS: usize = 1 << 20;

/// What the workload grants.
#[derive(Debug)]
pub(crate) struct Grants {
    /// With the program's name first.
    pub(crate) args: Vec<String>,
    /// Environment, in order.
    pub(crate) env: Vec<(String, String)>,
    /// Folders.
    pub(crate) preopens: Vec<Preopen>,
    /// Limit of all linear memories of one instance together.
    pub(crate) memory_bytes: usize,
    /// May open outgoing connections.
    pub(crate) network: bool,
}

/// A folder that a guest may open files in.
#[derive(Debug)]
pub(crate) struct Preopen {
    /// On the node.
    pub(crate) host: PathBuf,
    /// As the guest sees it.
    pub(crate) guest: String,
    /// Nothing in it can be changed.
    pub(crate) read_only: bool,
}

/// Whose standard input it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdin {
    /// The process's own.
    Inherit,
    /// Empty: many instances cannot share one.
    Empty,
}

impl Grants {
    /// Opens the folders and builds one guest's WASI context.
    pub(crate) fn wasi(&self, stdin: Stdin) -> Result<WasiCtxBuilder> {
        let mut builder = WasiCtxBuilder::new();
        builder.inherit_stdout().inherit_stderr().args(&self.args).envs(&self.env);
        if stdin == Stdin::Inherit {
            builder.inherit_stdin();
        }
        if self.network {
            builder.inherit_network().allow_ip_name_lookup(true);
        } else {
            builder.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        }
        for preopen in &self.preopens {
            let perms = if preopen.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            builder.preopened_dir(&preopen.host, &preopen.guest, perms).map_err(plain).with_context(
                || format!("failed to open folder {} for {}", preopen.host.display(), preopen.guest),
            )?;
        }
        Ok(builder)
    }

    /// State of a preview 1 module.
    pub(crate) fn p1(&self) -> Result<P1Guest> {
        let wasi = self.wasi(Stdin::Inherit)?.allow_blocking_current_thread(true).build_p1();
        Ok(P1Guest { wasi, limits: Limits::new(self.memory_bytes) })
    }

    /// State of a preview 2 component.
    pub(crate) fn p2(&self, stdin: Stdin, outgoing: Outgoing) -> Result<P2Guest> {
        Ok(P2Guest {
            wasi: self.wasi(stdin)?.build(),
            http: WasiHttpCtx::new(),
            outgoing,
            table: ResourceTable::new(),
            limits: Limits::new(self.memory_bytes),
        })
    }
}

/// State of a preview 1 module.
pub(crate) struct P1Guest {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) limits: Limits,
}

/// State of a preview 2 component.
pub(crate) struct P2Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    table: ResourceTable,
    pub(crate) limits: Limits,
}

impl WasiView for P2Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for P2Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outgoing }
    }
}

/// Counts memory over all memories of a guest (wasmtime's own `StoreLimits` looks at each alone), and traps instead of
/// letting the growth fail, so that the log names the limit and not some abort that came of it.
#[derive(Debug)]
pub(crate) struct Limits {
    max_bytes: usize,
    bytes: usize,
    elements: usize,
}

impl Limits {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, elements: 0 }
    }
}

/// Why growth was refused.
#[derive(Debug, thiserror::Error)]
enum LimitError {
    #[error(
        "the guest needs {wanted} bytes of memory, over its limit of {limit}; raise deploy.resources.limits.memory"
    )]
    Memory { wanted: usize, limit: usize },
    #[error("the guest's tables grew past {MAX_TABLE_ELEMENTS} elements; it is faulty or hostile")]
    Tables,
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.max_bytes {
            return Err(LimitError::Memory { wanted, limit: self.max_bytes }.into());
        }
        self.bytes = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.elements.saturating_add(desired.saturating_sub(current));
        if wanted > MAX_TABLE_ELEMENTS {
            return Err(LimitError::Tables.into());
        }
        self.elements = wanted;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_all_memories_together() {
        let mut limits = Limits::new(100);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        let error = limits.memory_growing(0, 60, None).unwrap_err().to_string();
        assert!(error.contains("needs 120 bytes") && error.contains("limit of 100"), "{error}");
        assert!(limits.memory_growing(60, 100, None).unwrap());
    }

    #[test]
    fn growth_past_the_modules_own_maximum_just_fails() {
        let mut limits = Limits::new(100);
        assert!(!limits.memory_growing(0, 60, Some(50)).unwrap());
        assert!(limits.memory_growing(0, 100, None).unwrap());
    }
}
