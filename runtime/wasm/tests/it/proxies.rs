//! `wasi:http` components behind the server: answers, deadlines, faults, the end.

use std::{
    fs,
    io::{Read, Write},
};

use serde_json::json;

use crate::bed::{Bed, assert_refused, program, read_response, stderr};

const OK: &str = include_str!("guests/ok.wat");

/// A handler with the given core instructions as its body.
fn handler(body: &str) -> String {
    format!(
        r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
          (export "incoming-request" (type (sub resource)))
          (export "response-outparam" (type (sub resource)))))
        (alias export $types "incoming-request" (type $request))
        (alias export $types "response-outparam" (type $outparam))
        (core module $m (memory 1) (func $handle (export "handle") (param i32 i32) {body}))
        (core instance $i (instantiate $m))
        (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
          (canon lift (core func $i "handle")))
        (instance $h (export "handle" (func $handle)))
        (export "wasi:http/incoming-handler@0.2.0" (instance $h)))"#
    )
}

#[test]
fn answers_requests_and_ends_on_sigterm() {
    let bed = Bed::new();
    assert_eq!(bed.precompile(OK), "http-proxy");
    let server = bed.serve(|_| {});
    for _ in 0..3 {
        let response = server.get("/");
        assert_eq!(response.status, 200, "{}", response.text);
        assert!(response.text.contains("x-guest: wat"), "{}", response.text);
    }
    let output = server.stop();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn an_infinite_loop_is_stopped_at_the_request_timeout() {
    let bed = Bed::new();
    bed.precompile(&handler("(loop (br 0))"));
    let server = bed.serve(|workload| workload["request_timeout_ms"] = json!(200));
    let response = server.get("/");
    assert_eq!(response.status, 504, "{}", response.text);
    assert!(response.text.contains("within 200 ms"), "{}", response.text);
    // And again: nothing is left of the first one.
    assert_eq!(server.get("/").status, 504);
}

#[test]
fn computing_guests_do_not_starve_the_others() {
    let bed = Bed::new();
    bed.precompile(&handler("(loop (br 0))"));
    let server = bed.serve(|workload| workload["request_timeout_ms"] = json!(1000));
    // More than there are threads: all have their deadline at the same time, and all keep it.
    let mut streams: Vec<_> = (0..16).map(|_| server.connect()).collect();
    let begun = std::time::Instant::now();
    for stream in &mut streams {
        write!(stream, "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    }
    for stream in &mut streams {
        assert_eq!(read_response(stream).status, 504);
    }
    // One after the other would take 16 s / threads ≥ 4 s even with four of them.
    assert!(begun.elapsed().as_secs() < 4, "{:?}", begun.elapsed());
}

#[test]
fn a_fault_is_logged_and_the_next_request_is_served() {
    let bed = Bed::new();
    bed.precompile(&handler("unreachable"));
    let server = bed.serve(|_| {});
    for _ in 0..2 {
        let response = server.get("/");
        assert_eq!(response.status, 500);
        assert!(!response.text.contains("unreachable"), "the cause is for the log: {}", response.text);
    }
    let log = stderr(&server.stop());
    assert!(log.contains("a request failed: the guest aborted") && log.contains("in handle"), "{log}");
}

#[test]
fn memory_limit_fails_the_request_only() {
    let bed = Bed::new();
    bed.precompile(&handler("(loop (drop (memory.grow (i32.const 16))) (br 0))"));
    let server = bed.serve(|_| {});
    assert_eq!(server.get("/").status, 500);
    assert_eq!(server.get("/").status, 500);
    assert!(stderr(&server.stop()).contains("limit of 16777216"));
}

#[test]
fn no_response_is_an_error() {
    let bed = Bed::new();
    bed.precompile(&handler(""));
    let server = bed.serve(|_| {});
    assert_eq!(server.get("/").status, 500);
    assert!(stderr(&server.stop()).contains("without a response"));
}

#[test]
fn bad_requests_are_refused() {
    let bed = Bed::new();
    bed.precompile(OK);
    let server = bed.serve(|_| {});
    let ask = |head: &str| {
        let mut stream = server.connect();
        stream.write_all(head.as_bytes()).unwrap();
        read_response(&mut stream).status
    };
    assert_eq!(ask("nonsense\r\n\r\n"), 400);
    assert_eq!(ask("GET / HTTP/1.1\r\nconnection: close\r\n\r\n"), 400);
    assert_eq!(ask(&format!("GET /{} HTTP/1.1\r\nhost: t\r\n\r\n", "a".repeat(100_000))), 414);
    assert_eq!(ask(&format!("GET / HTTP/1.1\r\nhost: t\r\n{}\r\n", "a: b\r\n".repeat(1000))), 431);
    assert_eq!(ask("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 99999999999\r\n\r\n"), 413);
    assert_eq!(ask("GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n"), 200);
}

#[test]
fn sigterm_lets_running_requests_finish() {
    let bed = Bed::new();
    bed.precompile(&handler("(loop (br 0))"));
    let server = bed.serve(|workload| workload["request_timeout_ms"] = json!(1500));
    let mut stream = server.connect();
    write!(stream, "GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    // A second connection's refusal proves that the first one's request has been taken: they are accepted in order.
    let mut probe = server.connect();
    write!(probe, "GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(read_response(&mut probe).status, 400);
    let address = server.address;
    server.terminate();
    assert_eq!(server.notified(), "STOPPING=1");
    assert_eq!(read_response(&mut stream).status, 504);
    let output = server.end();
    assert_eq!(output.status.code(), Some(0));
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_kept_connection_does_not_hold_up_the_end() {
    let bed = Bed::new();
    bed.precompile(OK);
    let server = bed.serve(|_| {});
    let mut stream = server.connect();
    write!(stream, "GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let begun = std::time::Instant::now();
    assert_eq!(server.stop().status.code(), Some(0));
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn a_taken_port_is_named() {
    let bed = Bed::new();
    bed.precompile(OK);
    let server = bed.serve(|_| {});
    let other = bed.workload(|workload| workload["listen"] = json!([server.address.to_string()]));
    let output = program().arg("run").arg(other).output().unwrap();
    assert_refused(&output, 125, &[&server.address.to_string(), "taken by another"]);
}

#[test]
fn a_server_needs_a_port() {
    let bed = Bed::new();
    bed.precompile(OK);
    assert_refused(&bed.run(|_| {}), 125, &["add `ports`"]);
}

#[test]
fn runs_without_privileges() {
    let bed = Bed::new();
    bed.precompile(OK);
    let server = bed.serve(|_| {});
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    for line in ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "no {line} in {status}");
    }
}

/// The demo's own guest, where `CAIRN_GUESTS` names the folder that `./x` built it into.
#[test]
fn serves_the_demo_guest() {
    let Some(folder) = std::env::var_os("CAIRN_GUESTS") else { return };
    let bed = Bed::new();
    let wasm = fs::read(std::path::Path::new(&folder).join("hello-http.wasm")).unwrap();
    let output = bed.try_precompile(&wasm);
    assert!(output.status.success(), "{}", stderr(&output));
    let server = bed.serve(|workload| workload["request_timeout_ms"] = json!(500));
    assert!(server.get("/healthz").text.ends_with("ok\n\r\n0\r\n\r\n"));
    let page = server.get("/a?b&c");
    assert!(page.text.contains("Hello from a WebAssembly component on Cairn"), "{}", page.text);
    // The connection's own headers are not the guest's business, and these two were all.
    assert!(page.text.contains("<code>/a?b&amp;c</code> with 0 request headers"), "{}", page.text);
    for (path, status) in [("/loop", 504), ("/grow", 500), ("/abort", 500), ("/healthz", 200)] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
}
