//! Signed envelopes between node and hub: reports and enrolment requests as compact JWS, node requests as short JWTs.
//!
//! One algorithm, EdDSA, is written into every verification; a kind of envelope is told by its `typ`, so that one can
//! never be passed off as another. `kid` is the node's id, which is derived from its key.

use cairn_model::{
    enroll::EnrollRequest,
    id::NodeId,
    report::{MAX_ENVELOPE_BYTES, Report},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, TokenData, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::keys::{KeyError, KeyPair, PublicKey};

/// The audience of a node's request token.
pub const AUDIENCE: &str = "cairn-hub";
/// Longest life of a node's request token, in seconds.
pub const MAX_TOKEN_LIFE_SECONDS: i64 = 300;
/// How far the clocks of node and hub may be apart, in seconds.
pub const LEEWAY_SECONDS: i64 = 30;
/// Life of the tokens made here: under the limit by more than the leeway.
const TOKEN_LIFE_SECONDS: i64 = 240;
/// Largest node token: a header, five short claims and a signature.
const MAX_TOKEN_BYTES: usize = 2048;
/// Largest enrolment request: facts are a few KiB.
const MAX_ENROLL_BYTES: usize = 256 << 10;

const TYPE_TOKEN: &str = "JWT";
const TYPE_REPORT: &str = "cairn-report+jws";
const TYPE_ENROLL: &str = "cairn-enroll+jws";

/// Why an envelope was not made or not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// It is larger than its kind may be.
    #[error("envelope of {length} bytes is over the limit of {limit}; send fewer records in one")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// It is no compact JWS by EdDSA, its signature is not by the expected key, or its payload has another shape.
    #[error(
        "envelope is not signed by the expected key, or is not of the expected form; a node whose key was replaced must enrol again"
    )]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// It is an envelope of another kind.
    #[error("envelope has type {found:?} where {expected:?} is needed")]
    WrongType {
        /// Its `typ`.
        found: Option<String>,
        /// The one that was needed.
        expected: &'static str,
    },
    /// Its `kid` is missing or is not a node id.
    #[error("envelope does not name its node; its kid must be a node id")]
    NoNode,
    /// It speaks for another node than the one whose key signed it.
    #[error("envelope speaks for another node than {signer}, whose key signed it")]
    WrongNode {
        /// The node that signed.
        signer: NodeId,
    },
    /// The enrolment request names another key than the one that signed it.
    #[error("enrolment request is not signed by the key that it names")]
    NotOwner,
    /// The key in the enrolment request is not one.
    #[error("enrolment request names no usable key")]
    Key(#[from] KeyError),
    /// The token is expired, not yet valid, or lives too long.
    #[error("token is outside its time ({reason}); check the clocks of node and hub")]
    Time {
        /// Which bound it breaks.
        reason: &'static str,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: i64,
    exp: i64,
}

/// Signs a report as the node that holds `key`.
pub fn sign_report(key: &KeyPair, report: &Report) -> Result<String, EnvelopeError> {
    if report.node != key.public().node_id() {
        return Err(EnvelopeError::WrongNode { signer: key.public().node_id() });
    }
    let envelope = seal(key, TYPE_REPORT, report)?;
    bounded(&envelope, MAX_ENVELOPE_BYTES)?;
    Ok(envelope)
}

/// Verifies a report that the node with the key `public` is said to have sent.
pub fn verify_report(envelope: &str, public: &PublicKey) -> Result<Report, EnvelopeError> {
    bounded(envelope, MAX_ENVELOPE_BYTES)?;
    let report: Report = open(envelope, TYPE_REPORT, public)?;
    if report.node != public.node_id() {
        return Err(EnvelopeError::WrongNode { signer: public.node_id() });
    }
    Ok(report)
}

/// Signs an enrolment request with the key that it names.
pub fn sign_enroll(key: &KeyPair, request: &EnrollRequest) -> Result<String, EnvelopeError> {
    if PublicKey::from_base64url(&request.public_key)? != key.public() {
        return Err(EnvelopeError::NotOwner);
    }
    let envelope = seal(key, TYPE_ENROLL, request)?;
    bounded(&envelope, MAX_ENROLL_BYTES)?;
    Ok(envelope)
}

/// Verifies that an enrolment request was signed by the key that it names, and returns both. Whether its token is good
/// is the caller's question.
pub fn verify_enroll(envelope: &str) -> Result<(EnrollRequest, PublicKey), EnvelopeError> {
    bounded(envelope, MAX_ENROLL_BYTES)?;
    // The payload is read before it is verified, only to learn which key it claims; then it is verified by that key.
    let claimed: EnrollRequest =
        jsonwebtoken::dangerous::insecure_decode_claims(envelope).map_err(EnvelopeError::Invalid)?;
    let public = PublicKey::from_base64url(&claimed.public_key)?;
    let request: EnrollRequest = open(envelope, TYPE_ENROLL, &public)?;
    Ok((request, public))
}

/// Makes a token for one or a few requests of the node that holds `key`.
pub fn mint_node_token(key: &KeyPair, now: Timestamp) -> Result<String, EnvelopeError> {
    let node = key.public().node_id().to_string();
    let iat = now.as_second();
    let claims =
        Claims { iss: node.clone(), sub: node, aud: AUDIENCE.into(), iat, exp: iat + TOKEN_LIFE_SECONDS };
    seal(key, TYPE_TOKEN, &claims)
}

/// The node that a token or an envelope says it is from. Not verified: good for nothing but to look up the key to
/// verify it with.
pub fn claimed_node(envelope: &str) -> Result<NodeId, EnvelopeError> {
    bounded(envelope, MAX_ENVELOPE_BYTES)?;
    let header = jsonwebtoken::decode_header(envelope).map_err(EnvelopeError::Invalid)?;
    header.kid.and_then(|kid| kid.parse().ok()).ok_or(EnvelopeError::NoNode)
}

/// Verifies a token that the node with the key `public` is said to have made.
pub fn verify_node_token(token: &str, public: &PublicKey, now: Timestamp) -> Result<NodeId, EnvelopeError> {
    bounded(token, MAX_TOKEN_BYTES)?;
    let claims: Claims = open(token, TYPE_TOKEN, public)?;
    let node = public.node_id();
    if claims.iss != node.as_str() || claims.sub != node.as_str() {
        return Err(EnvelopeError::WrongNode { signer: node });
    }
    let now = now.as_second();
    if claims.aud != AUDIENCE {
        return Err(EnvelopeError::WrongType { found: Some(claims.aud), expected: AUDIENCE });
    }
    if claims.exp.saturating_add(LEEWAY_SECONDS) <= now {
        return Err(EnvelopeError::Time { reason: "expired" });
    }
    if claims.iat > now.saturating_add(LEEWAY_SECONDS) {
        return Err(EnvelopeError::Time { reason: "made in the future" });
    }
    if claims.exp.saturating_sub(claims.iat) > MAX_TOKEN_LIFE_SECONDS {
        return Err(EnvelopeError::Time { reason: "lives longer than five minutes" });
    }
    Ok(node)
}

/// What a hub that has stored reports up to one sequence does with another: the guard against replayed, dropped and
/// reordered reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// The one that follows: store it.
    Next,
    /// One that is stored already: acknowledge it again, store nothing.
    Replayed,
    /// One that leaves out others: refuse it, the node sends again from `expected`.
    Gap {
        /// The sequence that must come next.
        expected: u64,
    },
}

impl Sequence {
    /// Judges `sequence` when every report up to `highest_stored` (0 for none) is stored.
    pub fn check(highest_stored: u64, sequence: u64) -> Self {
        if sequence <= highest_stored {
            Self::Replayed
        } else if highest_stored.checked_add(1) == Some(sequence) {
            Self::Next
        } else {
            Self::Gap { expected: highest_stored.saturating_add(1) }
        }
    }
}

fn bounded(text: &str, limit: usize) -> Result<(), EnvelopeError> {
    if text.len() > limit { Err(EnvelopeError::TooLarge { length: text.len(), limit }) } else { Ok(()) }
}

fn seal<T: Serialize>(key: &KeyPair, typ: &str, payload: &T) -> Result<String, EnvelopeError> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(typ.to_owned());
    header.kid = Some(key.public().node_id().to_string());
    let signer = EncodingKey::from_ed_der(&key.to_pkcs8()?);
    jsonwebtoken::encode(&header, payload, &signer).map_err(EnvelopeError::Invalid)
}

fn open<T: DeserializeOwned>(
    envelope: &str,
    typ: &'static str,
    public: &PublicKey,
) -> Result<T, EnvelopeError> {
    // Times and audience are claims of tokens only, and are checked there against a time that is an argument.
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let key = DecodingKey::from_ed_der(public.as_bytes());
    let TokenData { header, claims } =
        jsonwebtoken::decode(envelope, &key, &validation).map_err(EnvelopeError::Invalid)?;
    if header.typ.as_deref() != Some(typ) {
        return Err(EnvelopeError::WrongType { found: header.typ, expected: typ });
    }
    let kid: NodeId = header.kid.and_then(|kid| kid.parse().ok()).ok_or(EnvelopeError::NoNode)?;
    if kid != public.node_id() {
        return Err(EnvelopeError::WrongNode { signer: public.node_id() });
    }
    Ok(claims)
}
