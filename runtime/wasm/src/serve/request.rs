//! One request: a slot, an instance, a deadline, a response.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Incoming},
    header,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use wasmtime::Store;
use wasmtime_wasi_http::{
    Error, WasiBody, WasiHttpView,
    p2::bindings::{
        ProxyPre,
        http::types::{ErrorCode, Scheme},
    },
};

use crate::{
    engine::{Tick, Ticker},
    guest::{Grants, P2Guest, Stdin},
    outgoing::Outgoing,
    trap::{Ending, ending},
};

/// Guests at once. Each may take as much memory as the workload's limit says, though few do: the unit's own limit
/// guards the node.
const MAX_GUESTS: usize = 128;
/// How long a request waits for a slot before the client is told to come back.
const SLOT_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest request body. It is streamed, so this bounds the guest's work and not our memory.
const MAX_BODY_BYTES: usize = 256 << 20;
/// Where a workload sets no limit, a guest yields all the same, so that others get their turn.
const TICKS_PER_TURN: u64 = 1;

/// What all requests share.
pub(super) struct Server {
    linked: ProxyPre<P2Guest>,
    ticker: Ticker,
    outgoing: Outgoing,
    request_timeout: Option<Duration>,
    grants: Grants,
    slots: Arc<Semaphore>,
    guests: TaskTracker,
}

/// Why a request got no response from the guest.
#[derive(Debug)]
enum Refusal {
    Malformed(String),
    TooLarge,
    Busy,
    TimedOut(Duration),
    Failed(String),
}

/// How a guest's run ended.
enum Outcome {
    Returned,
    Trapped(String),
    TimedOut(Duration),
}

impl Server {
    pub(super) fn new(
        linked: ProxyPre<P2Guest>,
        ticker: Ticker,
        outgoing: Outgoing,
        request_timeout: Option<Duration>,
        grants: Grants,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_GUESTS));
        Self { linked, ticker, outgoing, request_timeout, grants, slots, guests: TaskTracker::new() }
    }

    /// Resolves when every guest has ended.
    pub(super) async fn drained(&self) {
        self.guests.close();
        self.guests.wait().await;
    }

    /// The response of a fresh guest, or ours where it has none.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<WasiBody>, Infallible> {
        Ok(match self.ask(request).await {
            Ok(response) => response,
            Err(refusal) => {
                if let Refusal::Failed(cause) = &refusal {
                    eprintln!("cairn-wasm: a request failed: {cause}");
                }
                refusal.response()
            }
        })
    }

    async fn ask(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<WasiBody>, Refusal> {
        let begun = Instant::now();
        if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
            return Err(Refusal::TooLarge);
        }
        let slot = match timeout(SLOT_TIMEOUT, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) | Err(_) => return Err(Refusal::Busy),
        };
        let (sender, receiver) = oneshot::channel();
        let mut guest = self.guest(request, sender)?;
        guest.keep = Some((slot, self.ticker.hold()));
        let server = Arc::clone(&self);
        let run = AbortOnDropHandle::new(self.guests.spawn(async move { server.run(guest, begun).await }));
        match receiver.await {
            Ok(Ok(response)) => {
                // The guest may still be writing the body. It ends with its deadline, or when the client has gone.
                drop(tokio::spawn(log_end(run)));
                Ok(response)
            }
            Ok(Err(code)) => Err(Refusal::Failed(format!("the guest answered with an error: {code:?}"))),
            Err(_) => Err(match run.await {
                Ok(Outcome::Returned) => Refusal::Failed("the guest returned without a response".to_owned()),
                Ok(Outcome::Trapped(cause)) => Refusal::Failed(cause),
                Ok(Outcome::TimedOut(limit)) => Refusal::TimedOut(limit),
                Err(error) => Refusal::Failed(format!("the guest's task ended: {error}")),
            }),
        }
    }

    fn guest(&self, request: Request<Incoming>, sender: Sender) -> Result<Guest, Refusal> {
        let state = self
            .grants
            .p2(Stdin::Empty, self.outgoing.clone())
            .map_err(|error| Refusal::Failed(format!("{error:#}")))?;
        let mut store = Store::new(self.linked.engine(), state);
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(TICKS_PER_TURN);
        store.epoch_deadline_async_yield_and_update(TICKS_PER_TURN);
        let request = request.map(|body| Limited::new(body, MAX_BODY_BYTES).map_err(body_error));
        let http = &mut store.data_mut().http();
        let request = http
            .new_incoming_request(Scheme::Http, request)
            .map_err(|error| Refusal::Malformed(error.to_string()))?;
        let response =
            http.new_response_outparam(sender).map_err(|error| Refusal::Failed(error.to_string()))?;
        Ok(Guest { store, request, response, keep: None })
    }

    async fn run(&self, mut guest: Guest, begun: Instant) -> Outcome {
        let call = async {
            let proxy = self.linked.instantiate_async(&mut guest.store).await?;
            proxy
                .wasi_http_incoming_handler()
                .call_handle(&mut guest.store, guest.request, guest.response)
                .await
        };
        // A guest that computes yields at each tick, so dropping `call` at the deadline stops it wherever it is.
        let result = match self.request_timeout {
            None => call.await,
            Some(limit) => match tokio::time::timeout_at(begun + limit, call).await {
                Ok(result) => result,
                Err(_) => return Outcome::TimedOut(limit),
            },
        };
        match result.as_ref().map_err(ending) {
            Ok(()) | Err(Ending::Exit(0)) => Outcome::Returned,
            Err(Ending::Exit(code)) => Outcome::Trapped(format!("the guest exited with code {code}")),
            Err(Ending::Trap(cause)) => Outcome::Trapped(cause),
        }
    }
}

type Sender = oneshot::Sender<Result<Response<WasiBody>, ErrorCode>>;

/// A guest ready to run.
struct Guest {
    store: Store<P2Guest>,
    request: wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostIncomingRequest>,
    response: wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostResponseOutparam>,
    keep: Option<(OwnedSemaphorePermit, Tick)>,
}

async fn log_end(run: AbortOnDropHandle<Outcome>) {
    match run.await {
        Ok(Outcome::Returned) | Err(_) => {}
        Ok(Outcome::Trapped(cause)) => eprintln!("cairn-wasm: a response was cut off: {cause}"),
        Ok(Outcome::TimedOut(limit)) => {
            eprintln!("cairn-wasm: a response was cut off after {} ms", limit.as_millis());
        }
    }
}

fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    if error.is::<LengthLimitError>() {
        return Error::HttpRequestBodySize(Some(MAX_BODY_BYTES as u64));
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => Error::Hyper(*error),
        Err(error) => Error::InternalError(Some(error.to_string())),
    }
}

impl Refusal {
    fn response(&self) -> Response<WasiBody> {
        let (status, text) = match self {
            Self::Malformed(cause) => (StatusCode::BAD_REQUEST, format!("bad request: {cause}\n")),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request body is larger than {MAX_BODY_BYTES} bytes\n"),
            ),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "all instances are busy; try again\n".to_owned()),
            Self::TimedOut(limit) => (
                StatusCode::GATEWAY_TIMEOUT,
                format!("the component did not answer within {} ms\n", limit.as_millis()),
            ),
            // The cause is the operator's, in the log, and not the client's.
            Self::Failed(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the component failed; its log says why\n".to_owned())
            }
        };
        let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
        if matches!(self, Self::Busy) {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}
