//! Times as the hub keeps them: Unix milliseconds inside, RFC 3339 in UTC outside.

use jiff::Timestamp;

/// Now.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// `ms` for people; a time out of range reads as the epoch.
pub(crate) fn rfc3339(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.0}")
}
