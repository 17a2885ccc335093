//! Builds the demo's guests from source: the container image and the wasm components of `examples/`.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::process;

/// Where they are.
pub(crate) fn dir() -> PathBuf {
    crate::target().join("examples")
}

/// Builds what is missing or older than its source.
pub(crate) fn build() -> Result<()> {
    std::fs::create_dir_all(dir())?;
    for (name, output) in [
        ("hello-http", "hello-http.wasm"),
        ("hello-command", "hello-command.wasm"),
        ("web-server", "web-server"),
    ] {
        process::step(
            &format!("building examples/{name}"),
            &format!("example-{name}"),
            Command::new(format!("examples/{name}/build.sh"))
                .arg(dir().join(output))
                .env("CAIRN_CACHE", crate::target().join("guests")),
        )?;
    }
    Ok(())
}
