//! Outgoing HTTP of a guest: sent where the workload grants network, refused in plain words where it does not.
//!
//! `wasmtime-wasi-http` has a sender of its own, passed over because it brings a second TLS provider (ring) and its own
//! list of roots, where a node has one: the system's.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use http_body_util::BodyExt;
use hyper::{Request, Response, Uri, body::Incoming, client::conn::http1, http::uri::Scheme};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, io::TokioIo};

/// What a guest that sets no timeout gets: the value of wasmtime's own sender.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

type Finished = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Finished), Error>;

/// What all guests of a workload share for outgoing requests.
#[derive(Clone)]
pub(crate) struct Outgoing {
    shared: Arc<Shared>,
}

struct Shared {
    granted: bool,
    told: AtomicBool,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Outgoing {
    /// `granted`: requests are sent, else refused.
    pub(crate) fn new(granted: bool) -> Self {
        Self { shared: Arc::new(Shared { granted, told: AtomicBool::new(false), tls: OnceLock::new() }) }
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Finished,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let shared = Arc::clone(&self.shared);
        Box::new(async move {
            if !shared.granted {
                shared.tell(request.uri());
                return Err(Error::HttpRequestDenied);
            }
            send(&shared, request, options.unwrap_or_default()).await
        })
    }
}

impl Shared {
    /// Once a process: a guest that retries must not fill the journal.
    fn tell(&self, uri: &Uri) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let host = uri.authority().map_or("?", |authority| authority.as_str());
            eprintln!(
                "cairn-wasm: refused an outgoing request to {host}; the service has no network, set its `network_mode` to host"
            );
        }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Error> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            eprintln!("cairn-wasm: the system has no CA certificates, so no https request can be sent");
            return Err(Error::TlsCertificateError);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| Error::ConfigurationError)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

async fn send(shared: &Shared, mut request: Request<WasiBody>, options: RequestOptions) -> Sent {
    let uri = request.uri();
    let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?.to_owned();
    let tls = uri.scheme() == Some(&Scheme::HTTPS);
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    // What goes over the wire is the path alone: the authority is in the Host header.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;

    let connect_timeout = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let first_byte = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
    let (sender, connection) = timeout(connect_timeout, async {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.map_err(Error::Connect)?;
        if tls {
            let name = ServerName::try_from(bare.to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
            let stream = TlsConnector::from(shared.tls()?).connect(name, stream).await.map_err(Error::Tls)?;
            handshake(stream).await
        } else {
            handshake(stream).await
        }
    })
    .await
    .map_err(|_| Error::ConnectionTimeout)??;
    let response = deliver(sender, request, first_byte).await?;
    let finished: Finished = Box::new(async move {
        match connection.await {
            Ok(result) => result.map_err(Error::Hyper),
            Err(_) => Err(Error::ConnectionTerminated),
        }
    });
    Ok((response.map(|body| body.map_err(Error::Hyper).boxed_unsync()), finished))
}

type Sender = http1::SendRequest<WasiBody>;
type Connection = AbortOnDropHandle<Result<(), hyper::Error>>;

async fn handshake<S>(stream: S) -> Result<(Sender, Connection), Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    Ok((sender, AbortOnDropHandle::new(tokio::spawn(connection))))
}

async fn deliver(
    mut sender: Sender,
    request: Request<WasiBody>,
    first_byte: Duration,
) -> Result<Response<Incoming>, Error> {
    match timeout(first_byte, sender.send_request(request)).await {
        Ok(result) => result.map_err(Error::Hyper),
        Err(_) => Err(Error::ConnectionReadTimeout),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn request(uri: &str) -> Request<WasiBody> {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Request::get(uri).header("host", "example").body(body).unwrap()
    }

    async fn sent(mut outgoing: Outgoing, uri: &str) -> Sent {
        Box::into_pin(outgoing.send_request(request(uri), None, Box::new(async { Ok(()) }))).await
    }

    #[tokio::test]
    async fn refuses_without_network() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        assert!(matches!(sent(Outgoing::new(false), &uri).await, Err(Error::HttpRequestDenied)));
    }

    #[tokio::test]
    async fn sends_the_path_and_gets_the_body() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/path?query", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
            String::from_utf8(head).unwrap()
        });
        let (response, finished) = sent(Outgoing::new(true), &uri).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        assert!(Box::into_pin(finished).await.is_ok());
        assert!(server.await.unwrap().starts_with("GET /path?query HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn says_that_nothing_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(sent(Outgoing::new(true), &uri).await, Err(Error::Connect(_))));
    }
}
