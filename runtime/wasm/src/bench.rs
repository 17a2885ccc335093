//! Measures the parts of a start, in one process and without a network: what `./x bench` prints for WebAssembly.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, header};
use serde::Serialize;
use tokio::{runtime, sync::oneshot};
use wasmtime::Store;
use wasmtime_wasi_http::{
    Error, WasiHttpView,
    p2::bindings::{ProxyPre, http::types::Scheme},
};

use crate::{
    artifact::{self, Artifact},
    engine,
    guest::{Grants, P2Guest, Stdin},
    link,
    outgoing::Outgoing,
    trap::plain,
};

#[derive(Serialize)]
struct Figures {
    engine_us: u128,
    load_us: u128,
    link_us: u128,
    first_instantiate_us: u128,
    first_request_us: u128,
    median_instantiate_us: u128,
    median_request_us: u128,
    rss_anon_kib: u64,
}

pub(crate) fn bench(path: &Path, rounds: usize) -> Result<ExitCode> {
    let (engine, engine_time) = timed(engine::engine)?;
    let (artifact, load_time) = timed(|| artifact::load(&engine, path))?;
    let Artifact::HttpProxy(component) = artifact else {
        bail!("only a wasi:http component can be measured")
    };
    let (linked, link_time) =
        timed(|| link::component(&engine, &component).and_then(|pre| ProxyPre::new(pre).map_err(plain)))?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let grants = Grants {
        args: vec!["bench".to_owned()],
        env: Vec::new(),
        preopens: Vec::new(),
        memory_bytes: 256 << 20,
        network: false,
    };
    let mut times = Vec::new();
    for _ in 0..rounds.max(1) {
        times.push(runtime.block_on(request(&linked, &grants))?);
    }
    let first = times[0];
    let figures = Figures {
        engine_us: engine_time.as_micros(),
        load_us: load_time.as_micros(),
        link_us: link_time.as_micros(),
        first_instantiate_us: first.0.as_micros(),
        first_request_us: first.1.as_micros(),
        median_instantiate_us: median(times.iter().map(|time| time.0)).as_micros(),
        median_request_us: median(times.iter().map(|time| time.1)).as_micros(),
        rss_anon_kib: rss_anon()?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(ExitCode::SUCCESS)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    work().map(|value| (value, begun.elapsed()))
}

/// Time until the instance stood, and until the response had been read.
async fn request(linked: &ProxyPre<P2Guest>, grants: &Grants) -> Result<(Duration, Duration)> {
    let begun = Instant::now();
    let mut store = Store::new(linked.engine(), grants.p2(Stdin::Empty, Outgoing::new(false))?);
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(u64::MAX / 2);
    let request = Request::get("/").header(header::HOST, "bench").body(Empty::new().map_err(never))?;
    let (sender, receiver) = oneshot::channel();
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request).map_err(plain)?;
    let response = store.data_mut().http().new_response_outparam(sender).map_err(plain)?;
    let proxy = linked.instantiate_async(&mut store).await.map_err(plain)?;
    let instantiated = begun.elapsed();
    let guest = tokio::spawn(async move {
        proxy.wasi_http_incoming_handler().call_handle(&mut store, request, response).await
    });
    let response = receiver.await.context("the component gave no response")?;
    let response =
        response.map_err(|code| anyhow::anyhow!("the component answered with an error: {code:?}"))?;
    response.into_body().collect().await.context("failed to read the response")?;
    guest.await?.map_err(plain)?;
    Ok((instantiated, begun.elapsed()))
}

fn never(never: std::convert::Infallible) -> Error {
    match never {}
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times[times.len() / 2]
}

fn rss_anon() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    line.split_whitespace().next().context("no number")?.parse().context("RssAnon is no number")
}
