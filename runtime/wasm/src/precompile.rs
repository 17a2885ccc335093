//! Turns a component or module into machine code for this node. Compiling takes much memory and time, so the daemon
//! runs this as a process of its own, under a limit.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use wasmtime::{Engine, Module, component::Component};

use crate::{artifact::Seal, engine::engine, kind::Kind, link, trap::plain};

/// Larger than any component seen in the field (an embedded JavaScript engine makes 13 MB), small enough to read.
pub(crate) const DEFAULT_MAX_BYTES: u64 = 256 << 20;

/// The line that tells the daemon what it has.
#[derive(Debug, Serialize)]
struct Line {
    kind: Kind,
}

/// Compiles `input` into `output`.
pub(crate) fn precompile(
    input: &Path,
    output: &Path,
    kind_file: Option<&Path>,
    max_bytes: u64,
) -> Result<ExitCode> {
    let kind = compile_file(&engine()?, input, output, max_bytes)?;
    let line = serde_json::to_string(&Line { kind })?;
    if let Some(path) = kind_file {
        write_durably(path, &[line.as_bytes(), b"\n"])?;
    }
    writeln!(std::io::stdout(), "{line}").context("failed to print the kind")?;
    Ok(ExitCode::SUCCESS)
}

/// Compiles, seals and writes.
pub(crate) fn compile_file(engine: &Engine, input: &Path, output: &Path, max_bytes: u64) -> Result<Kind> {
    let wasm = read(input, max_bytes)?;
    let (kind, code) =
        compile(engine, &wasm).with_context(|| format!("failed to compile {}", input.display()))?;
    drop(wasm);
    write_durably(output, &[&code, &Seal::of(&code).to_bytes()])?;
    Ok(kind)
}

fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let what = || format!("failed to read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .with_context(what)?
        .take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(what)?;
    ensure!(
        bytes.len() as u64 <= max_bytes,
        "{} is larger than {max_bytes} bytes; strip it, or raise --max-bytes",
        path.display()
    );
    Ok(bytes)
}

fn compile(engine: &Engine, wasm: &[u8]) -> Result<(Kind, Vec<u8>)> {
    match wasm {
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            let module = Module::from_binary(engine, wasm).map_err(plain)?;
            let kind = Kind::of_module(&module)?;
            link::module(engine, &module)?;
            Ok((kind, module.serialize().map_err(plain)?))
        }
        [b'\0', b'a', b's', b'm', _, 0, 1, 0, ..] => {
            let component = Component::from_binary(engine, wasm).map_err(plain)?;
            let kind = Kind::of_component(&component, engine)?;
            link::component(engine, &component)?;
            Ok((kind, component.serialize().map_err(plain)?))
        }
        [b'(', ..] => bail!("this is WebAssembly text; convert it with `wasm-tools parse` first"),
        _ => bail!("this is not WebAssembly: its first bytes are not those of a module or component"),
    }
}

/// Either the whole new file is there after this, or what was there before.
fn write_durably(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let what = || format!("failed to write {}", path.display());
    let temporary = beside(path)?;
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        folder_of(path).and_then(File::open)?.sync_all()
    })();
    if result.is_err() {
        // Best effort: the error that matters is the first one, and the name is not taken for an artifact.
        let _ = fs::remove_file(&temporary);
    }
    result.with_context(what)
}

fn folder_of(path: &Path) -> std::io::Result<PathBuf> {
    fs::canonicalize(match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    })
}

fn beside(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else { bail!("{} names no file", path.display()) };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}
