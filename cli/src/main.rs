//! The operator's and the technician's tool. It speaks to a hub over `/api/v1` and `/v2`, or to the daemon of the node
//! that it runs on; it must never import either of them.
//!
//! What was typed (`args`) resolves to a connection (`connection`), and each command (`command`) asks the `client` and
//! hands what came to a renderer (`render`): people's tables and machines' JSON are apart. It starts no task of its own.

mod args;
mod bundle;
mod client;
mod command;
mod config;
mod connection;
mod contents;
mod failure;
mod meter;
mod oci_layout;
mod os_outlook;
mod proposal;
mod reference;
mod render;
mod screen;
mod wasm_artifact;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    // Every TLS session of this process uses one provider; the only way to fail is that one is set already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return screen::report(&failure::Failure::failed(format!("cannot start: {error}"))),
    };
    match runtime.block_on(command::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => screen::report(&failure),
    }
}
