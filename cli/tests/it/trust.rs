//! TLS: the pinned CA is the only one that counts.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

use crate::run::{SECRET, User};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Answers every connection with an empty list.
fn serve(ca: &Ca, name: &str) -> (Runtime, String) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            // An answer before the question would be no HTTP.
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                question.push(byte);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
    });
    (runtime, format!("https://127.0.0.1:{port}"))
}

fn user(ca: &Ca, hub: &str) -> User {
    let user = User::new();
    user.file("token", SECRET);
    user.file("ca", ca.pem());
    user.run(&["context", "add", "test", "--hub", hub, "--ca", "ca", "--token-file", "token"]).ok();
    user
}

#[test]
fn accepts_the_pinned_ca() {
    let ca = ca();
    let (_hub, url) = serve(&ca, "127.0.0.1");
    assert_eq!(user(&ca, &url).run(&["node", "ls", "-o", "name"]).ok(), "");
}

#[test]
fn rejects_a_hub_of_another_ca() {
    let (_hub, url) = serve(&ca(), "127.0.0.1");
    user(&ca(), &url)
        .run(&["node", "ls"])
        .fails(5, &["that the pinned CA did not sign", "context add NAME --replace"]);
}

#[test]
fn rejects_a_certificate_of_another_name() {
    let ca = ca();
    let (_hub, url) = serve(&ca, "other.example");
    user(&ca, &url).run(&["node", "ls"]).fails(5, &["not for the name"]);
}

#[test]
fn rejects_a_server_without_tls() {
    let hub = crate::hub::Hub::new();
    user(&ca(), &hub.url().replace("http:", "https:")).run(&["node", "ls"]).fails(5, &["no TLS connection"]);
}
