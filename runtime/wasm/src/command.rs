//! Runs a command to its end: on the main thread, without a deadline, with the exit code that it chose. A signal ends
//! it as it would end any program, since nothing here handles one.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tokio::runtime;
use wasmtime::{Engine, Module, Store, component::Component};
use wasmtime_wasi::p2::bindings::CommandPre;

use crate::{
    guest::Stdin,
    link,
    outgoing::Outgoing,
    privileges,
    trap::{Ending, ending, plain},
    workload::Workload,
};

/// Exit code of a trapped guest: what a shell shows for a process that aborted (128 + SIGABRT).
const EXIT_TRAPPED: u8 = 134;
/// No command has a deadline; half the range is 2900 million years of ticks.
const NO_DEADLINE: u64 = u64::MAX / 2;

/// Runs a preview 1 module.
pub(crate) fn run_p1(engine: &Engine, module: &Module, workload: Workload) -> Result<ExitCode> {
    refuse_listen(&workload)?;
    let linked = link::module(engine, module)?;
    let mut store = Store::new(engine, workload.grants.p1()?);
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(NO_DEADLINE);
    privileges::shed()?;
    runtime()?.block_on(async {
        let instance = match linked.instantiate_async(&mut store).await {
            Ok(instance) => instance,
            Err(error) => return Ok(exit_code(&error)),
        };
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(plain)?;
        notify_started()?;
        Ok(match start.call_async(&mut store, ()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit_code(&error),
        })
    })
}

/// Runs a preview 2 component.
pub(crate) fn run_p2(engine: &Engine, component: &Component, workload: Workload) -> Result<ExitCode> {
    refuse_listen(&workload)?;
    let linked = CommandPre::new(link::component(engine, component)?).map_err(plain)?;
    let outgoing = Outgoing::new(workload.grants.network);
    let mut store = Store::new(engine, workload.grants.p2(Stdin::Inherit, outgoing)?);
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(NO_DEADLINE);
    privileges::shed()?;
    runtime()?.block_on(async {
        let command = match linked.instantiate_async(&mut store).await {
            Ok(command) => command,
            Err(error) => return Ok(exit_code(&error)),
        };
        notify_started()?;
        Ok(match command.wasi_cli_run().call_run(&mut store).await {
            Ok(Ok(())) => ExitCode::SUCCESS,
            Ok(Err(())) => ExitCode::FAILURE,
            Err(error) => exit_code(&error),
        })
    })
}

fn refuse_listen(workload: &Workload) -> Result<()> {
    ensure!(
        workload.listen.is_empty(),
        "this is a command, which serves no port; remove `ports` or build it for wasi:http"
    );
    Ok(())
}

fn runtime() -> Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_all().build().context("failed to start the async runtime")
}

fn notify_started() -> Result<()> {
    sd_notify::notify(&[sd_notify::NotifyState::Ready])
        .context("failed to tell systemd that the command started")
}

fn exit_code(error: &wasmtime::Error) -> ExitCode {
    match ending(error) {
        // As the kernel does it: a parent sees the low eight bits.
        Ending::Exit(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        Ending::Trap(cause) => {
            eprintln!("cairn-wasm: {cause}");
            ExitCode::from(EXIT_TRAPPED)
        }
    }
}
