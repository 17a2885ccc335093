//! Measures what `./x bench` prints for WebAssembly: the parts of a start with a precompiled component, each against
//! compiling it first.

use std::{
    fs::{self, DirBuilder},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::DirBuilderExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cairn_model::workload::WasmWorkload;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, header};
use serde::Serialize;
use tokio::{runtime, sync::oneshot};
use wasmtime::{Engine, Store};
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
    precompile::{DEFAULT_MAX_BYTES, compile_file},
    trap::plain,
};

/// A server that is not up by then will never be.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// One line of the table; times in milliseconds.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    figure: f64,
    baseline: f64,
    against: &'static str,
}

/// What one round took.
struct Round {
    compile: Duration,
    load: Duration,
    instantiate: Duration,
    request: Duration,
    process: Duration,
}

/// Measures and prints.
pub(crate) fn bench(component: &Path, rounds: usize) -> Result<ExitCode> {
    let scratch = Scratch::new()?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let engine = engine::engine()?;
    let rounds = (0..rounds.max(1))
        .map(|_| round(component, &scratch, &engine, &runtime))
        .collect::<Result<Vec<_>>>()?;
    let median = |time: fn(&Round) -> Duration| {
        let mut times: Vec<Duration> = rounds.iter().map(time).collect();
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1000.0
    };
    let compile = median(|round| round.compile);
    let row = |what, figure| Row { what, figure, baseline: compile + figure, against: "compiling" };
    let rows = [
        row("component: checked, mapped and linked", median(|round| round.load)),
        row("component: fresh instance", median(|round| round.instantiate)),
        row("component: fresh instance to whole response", median(|round| round.request)),
        row("component: process start to first HTTP 200", median(|round| round.process)),
    ];
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(ExitCode::SUCCESS)
}

fn round(component: &Path, scratch: &Scratch, engine: &Engine, runtime: &runtime::Runtime) -> Result<Round> {
    let compiled = scratch.path("guest.cwasm");
    let (_, compile) = timed(|| compile_file(engine, component, &compiled, DEFAULT_MAX_BYTES))?;
    let (linked, load) = timed(|| match artifact::load(engine, &compiled)? {
        Artifact::HttpProxy(component) => ProxyPre::new(link::component(engine, &component)?).map_err(plain),
        Artifact::P1Command(_) | Artifact::P2Command(_) => {
            bail!("only a wasi:http component can be measured")
        }
    })?;
    let (instantiate, request) = runtime.block_on(request(&linked))?;
    let process = serve(scratch, &compiled)?;
    Ok(Round { compile, load, instantiate, request, process })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    work().map(|value| (value, begun.elapsed()))
}

/// Time until the instance stood, and until the response had been read.
async fn request(linked: &ProxyPre<P2Guest>) -> Result<(Duration, Duration)> {
    let grants = Grants {
        args: vec!["bench".to_owned()],
        env: Vec::new(),
        preopens: Vec::new(),
        memory_bytes: usize::MAX,
        network: false,
    };
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

/// Starts this very program as a unit would, and waits as systemd and a client would.
fn serve(scratch: &Scratch, compiled: &Path) -> Result<Duration> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let workload = WasmWorkload {
        id: "bench".to_owned(),
        module: compiled.to_owned(),
        args: Vec::new(),
        env: Vec::new(),
        preopens: Vec::new(),
        listen: vec![address.to_string()],
        memory_bytes: 0,
        request_timeout_ms: 0,
        network: false,
    };
    let file = scratch.path("workload.json");
    fs::write(&file, serde_json::to_vec(&workload)?)?;
    let socket = scratch.path("notify");
    // Left over from the round before.
    let _ = fs::remove_file(&socket);
    let notify = UnixDatagram::bind(&socket)?;
    notify.set_read_timeout(Some(START_DEADLINE))?;
    let begun = Instant::now();
    let _child = Running(
        Command::new(std::env::current_exe()?)
            .arg("run")
            .arg(&file)
            .env("NOTIFY_SOCKET", &socket)
            .spawn()
            .context("failed to start the server")?,
    );
    notify.recv(&mut [0; 64]).context("the server did not come up")?;
    get(address)?;
    Ok(begun.elapsed())
}

fn get(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address).context("failed to connect")?;
    stream.set_read_timeout(Some(START_DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    ensure!(response.starts_with(b"HTTP/1.1 200 "), "the component did not answer with 200");
    Ok(())
}

/// A process that does not outlive its measurement.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder that only we can write, as artifacts need it.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("cairn-wasm-bench.{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("failed to make {}", folder.display()))?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder left in /tmp is no reason to fail a measurement.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
