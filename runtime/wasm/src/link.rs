//! Connects a guest's imports to the host's functions; what is missing is named before anything runs.

use anyhow::{Context, Result, bail};
use wasmtime::{Engine, InstancePre, Linker, Module, component};

use crate::{
    guest::{P1Guest, P2Guest},
    kind::list,
    trap::plain,
};

/// The one module of host functions that a preview 1 guest finds.
const P1: &str = "wasi_snapshot_preview1";
/// The packages that a preview 2 guest finds.
const P2: [&str; 7] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:http/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// Links a module.
pub(crate) fn module(engine: &Engine, module: &Module) -> Result<InstancePre<P1Guest>> {
    let unknown: Vec<String> = module
        .imports()
        .filter(|import| import.module() != P1)
        .map(|import| format!("`{}` from `{}`", import.name(), import.module()))
        .collect();
    refuse("module", &unknown, "WASI preview 1")?;
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |guest: &mut P1Guest| &mut guest.wasi)
        .map_err(plain)?;
    linker.instantiate_pre(module).map_err(plain).context("the module asks for what Cairn does not have")
}

/// Links a component.
pub(crate) fn component(
    engine: &Engine,
    component: &component::Component,
) -> Result<component::InstancePre<P2Guest>> {
    let ty = component.component_type();
    let unknown: Vec<String> = ty
        .imports(engine)
        .filter(|(name, _)| !P2.iter().any(|package| name.starts_with(package)))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    refuse("component", &unknown, "WASI 0.2 and wasi:http 0.2")?;
    let mut linker = component::Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(plain)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).map_err(plain)?;
    linker
        .instantiate_pre(component)
        .map_err(plain)
        .context("the component asks for what Cairn does not have")
}

fn refuse(what: &str, unknown: &[String], known: &str) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = unknown.iter().map(String::as_str).collect();
    bail!("the {what} imports {}, which Cairn does not provide; build it for {known} only", list(&names))
}
