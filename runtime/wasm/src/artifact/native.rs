//! The crate's only unsafe code: maps precompiled machine code into the process.
#![expect(unsafe_code, reason = "wasmtime cannot prove that a precompiled file is what its compiler wrote")]

use std::{fs::File, os::fd::AsRawFd, path::PathBuf};

use anyhow::Result;
use wasmtime::{Engine, Module, component::Component};

use crate::trap::plain;

/// A name under which wasmtime can open the very file that was checked.
pub(super) fn name_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Maps a module.
pub(super) fn module(engine: &Engine, name: &std::path::Path) -> Result<Module> {
    // SAFETY: `deserialize_file` runs what the file holds, so the file must come from `serialize` of the same wasmtime,
    // unchanged, and must not change while it is mapped. The caller has checked that only root or we ourselves can
    // have written it or can replace it (owner and mode of file and folder, on the open file), that its content has
    // the digest which `precompile` put there, and `precompile` never writes to a finished file: it renames a new one
    // over it. wasmtime refuses another version or configuration by itself.
    unsafe { Module::deserialize_file(engine, name) }.map_err(plain)
}

/// Maps a component.
pub(super) fn component(engine: &Engine, name: &std::path::Path) -> Result<Component> {
    // SAFETY: as in `module`.
    unsafe { Component::deserialize_file(engine, name) }.map_err(plain)
}
