//! Reports, enrolment requests and tokens: who may say what, and when.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cairn_model::{
    enroll::EnrollRequest,
    facts::Facts,
    report::{Event, MAX_ENVELOPE_BYTES, Record, Report, SCHEMA, Severity},
};
use cairn_trust::{
    envelope::{
        AUDIENCE, EnvelopeError, Sequence, claimed_node, mint_node_token, sign_enroll, sign_report,
        verify_enroll, verify_node_token, verify_report,
    },
    keys::KeyPair,
};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::repository::today;

fn report(key: &KeyPair, sequence: u64) -> Report {
    Report {
        schema: SCHEMA,
        node: key.public().node_id(),
        boot: "0123456789abcdef0123456789abcdef".parse().unwrap(),
        sequence,
        time_ms: 0,
        records: vec![Record::Event(Event {
            time_ms: 0,
            severity: Severity::Info,
            reason: "test".into(),
            message: "ü\n\"".into(),
        })],
    }
}

fn request(key: &KeyPair) -> EnrollRequest {
    let facts = Facts { hostname: "edge".into(), ..Facts::default() };
    EnrollRequest { schema: 1, token: "t".into(), public_key: key.public().to_base64url(), facts }
}

/// A JWS with any header and any payload, signed by `key`.
fn forge(key: &KeyPair, header: &Value, payload: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

#[test]
fn a_report_is_believed_only_by_the_key_of_the_node_that_it_names() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let envelope = sign_report(&key, &report(&key, 1)).unwrap();
    assert_eq!(claimed_node(&envelope).unwrap(), key.public().node_id());
    assert_eq!(verify_report(&envelope, &key.public()).unwrap(), report(&key, 1));
    assert!(verify_report(&envelope, &other.public()).is_err());
    assert!(matches!(sign_report(&key, &report(&other, 1)), Err(EnvelopeError::WrongNode { .. })));
    // Signed by one node, speaking for another.
    let kid = key.public().node_id();
    let header = json!({ "alg": "EdDSA", "typ": "cairn-report+jws", "kid": kid });
    let forged = forge(&key, &header, &serde_json::to_value(report(&other, 1)).unwrap());
    assert!(matches!(verify_report(&forged, &key.public()), Err(EnvelopeError::WrongNode { .. })));
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    let key = KeyPair::generate().unwrap();
    let envelope = sign_report(&key, &report(&key, 1)).unwrap();
    for index in 0..envelope.len() {
        let mut bytes = envelope.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last character of a base64 piece may carry bits that mean nothing, but none that decode otherwise.
        if let Ok(read) = verify_report(&changed, &key.public()) {
            assert_eq!(read, report(&key, 1), "at {index}");
        }
    }
}

#[test]
fn a_replayed_dropped_or_reordered_report_is_told_from_the_next() {
    assert_eq!(Sequence::check(0, 1), Sequence::Next);
    assert_eq!(Sequence::check(7, 8), Sequence::Next);
    for replayed in [0, 1, 7] {
        assert_eq!(Sequence::check(7, replayed), Sequence::Replayed);
    }
    assert_eq!(Sequence::check(7, 9), Sequence::Gap { expected: 8 });
    assert_eq!(Sequence::check(u64::MAX, u64::MAX), Sequence::Replayed);
    assert_eq!(Sequence::check(0, u64::MAX), Sequence::Gap { expected: 1 });
}

#[test]
fn enrolment_proves_that_the_node_holds_the_key_it_names() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let envelope = sign_enroll(&key, &request(&key)).unwrap();
    let (read, public) = verify_enroll(&envelope).unwrap();
    assert_eq!((read, public), (request(&key), key.public()));
    assert!(matches!(sign_enroll(&key, &request(&other)), Err(EnvelopeError::NotOwner)));
    let kid = other.public().node_id();
    let header = json!({ "alg": "EdDSA", "typ": "cairn-enroll+jws", "kid": kid });
    let stolen = forge(&key, &header, &serde_json::to_value(request(&other)).unwrap());
    assert!(verify_enroll(&stolen).is_err());
}

#[test]
fn no_kind_of_envelope_passes_for_another() {
    let key = KeyPair::generate().unwrap();
    let public = key.public();
    let report = sign_report(&key, &report(&key, 1)).unwrap();
    let enrol = sign_enroll(&key, &request(&key)).unwrap();
    let token = mint_node_token(&key, today()).unwrap();
    for wrong in [&enrol, &token] {
        assert!(verify_report(wrong, &public).is_err());
    }
    for wrong in [&report, &enrol] {
        assert!(verify_node_token(wrong, &public, today()).is_err());
    }
    for wrong in [&report, &token] {
        assert!(verify_enroll(wrong).is_err());
    }
    // Nor does the right content under the type of another kind.
    let claims = json!({ "iss": public.node_id(), "sub": public.node_id(), "aud": AUDIENCE,
        "iat": today().as_second(), "exp": today().as_second() + 60 });
    let header = json!({ "alg": "EdDSA", "typ": "cairn-report+jws", "kid": public.node_id() });
    let token = forge(&key, &header, &claims);
    assert!(matches!(verify_node_token(&token, &public, today()), Err(EnvelopeError::WrongType { .. })));
}

#[test]
fn a_token_holds_for_minutes_and_for_this_hub() {
    let key = KeyPair::generate().unwrap();
    let (public, node) = (key.public(), key.public().node_id());
    let token = mint_node_token(&key, today()).unwrap();
    let at = |seconds| today() + SignedDuration::from_secs(seconds);
    for good in [0, -29, 239, 269] {
        assert_eq!(verify_node_token(&token, &public, at(good)).unwrap(), node, "{good}");
    }
    for bad in [-31, 271, 86_400, -86_400] {
        let refused = verify_node_token(&token, &public, at(bad));
        assert!(matches!(refused, Err(EnvelopeError::Time { .. })), "{bad}");
    }
    let other = KeyPair::generate().unwrap();
    assert!(verify_node_token(&token, &other.public(), today()).is_err());

    let now = today().as_second();
    let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": node });
    let good = json!({ "iss": node, "sub": node, "aud": AUDIENCE, "iat": now, "exp": now + 300 });
    verify_node_token(&forge(&key, &header, &good), &public, today()).unwrap();
    let stranger = other.public().node_id();
    for (claim, value) in [
        ("aud", json!("other-hub")),
        ("aud", json!(null)),
        ("iss", json!(stranger)),
        ("sub", json!(stranger)),
        ("exp", json!(now + 301)),
        ("exp", json!(i64::MAX)),
        ("exp", json!(null)),
        ("iat", json!(i64::MIN)),
        ("iat", json!(now + 3600)),
    ] {
        let mut claims = good.clone();
        claims[claim] = value;
        let refused = verify_node_token(&forge(&key, &header, &claims), &public, today());
        assert!(refused.is_err(), "{claim}: {claims}");
    }
}

#[test]
fn only_eddsa_is_taken() {
    let key = KeyPair::generate().unwrap();
    let (public, node) = (key.public(), key.public().node_id());
    let now = today().as_second();
    let claims = json!({ "iss": node, "sub": node, "aud": AUDIENCE, "iat": now, "exp": now + 60 });
    for algorithm in ["none", "HS256", "ES256", "RS256", "eddsa", ""] {
        let token = forge(&key, &json!({ "alg": algorithm, "typ": "JWT", "kid": node }), &claims);
        assert!(verify_node_token(&token, &public, today()).is_err(), "{algorithm}");
        let unsigned = token.rsplit_once('.').unwrap().0.to_owned() + ".";
        assert!(verify_node_token(&unsigned, &public, today()).is_err(), "{algorithm}");
    }
    // HMAC with the public key as its secret, the classic confusion.
    let header = json!({ "alg": "HS256", "typ": "JWT", "kid": node });
    let message = [&header, &claims].map(|v| URL_SAFE_NO_PAD.encode(v.to_string())).join(".");
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert!(verify_node_token(&token, &public, today()).is_err());
}

#[test]
fn envelopes_are_bounded() {
    let key = KeyPair::generate().unwrap();
    let mut large = report(&key, 1);
    let record = large.records[0].clone();
    large.records = vec![record; 20_000];
    assert!(matches!(sign_report(&key, &large), Err(EnvelopeError::TooLarge { .. })));
    let huge = "a".repeat(MAX_ENVELOPE_BYTES + 1);
    assert!(matches!(verify_report(&huge, &key.public()), Err(EnvelopeError::TooLarge { .. })));
    assert!(matches!(verify_enroll(&huge), Err(EnvelopeError::TooLarge { .. })));
    assert!(matches!(claimed_node(&huge), Err(EnvelopeError::TooLarge { .. })));
    assert!(matches!(verify_node_token(&huge, &key.public(), today()), Err(EnvelopeError::TooLarge { .. })));
}
