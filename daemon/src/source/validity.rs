//! Finds the clock in a failed TLS handshake. A node whose clock is years off cannot learn the right time from its hub: the
//! hub's certificate is refused before there is any answer, and what a person must look at is the clock, not the network.

use std::{error::Error, io};

use jiff::Timestamp;
use rustls::{CertificateError, pki_types::UnixTime};

/// Words for an error whose cause is that the hub's certificate is not valid at the time that this node's clock shows.
pub(crate) fn judged_by_the_clock(error: &(dyn Error + 'static)) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = tls_error(error)? else { return None };
    let (now, valid) = match why {
        CertificateError::ExpiredContext { time, not_after } => {
            (Some(*time), format!("was valid until {}", shown(*not_after)))
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            (Some(*time), format!("is valid from {} on", shown(*not_before)))
        }
        CertificateError::Expired => (None, "has expired".to_owned()),
        CertificateError::NotValidYet => (None, "is not valid yet".to_owned()),
        // A certificate that is refused for another reason has nothing to do with the clock.
        _ => return None,
    };
    let now = now.map_or_else(|| Timestamp::now().to_string(), shown);
    Some(format!(
        "by this node's clock it is {now}, and the hub's certificate {valid}; set the clock or let NTP through, and the node \
         goes on by itself. If the clock is right, restart the hub: it makes a new certificate for itself"
    ))
}

fn shown(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| format!("{seconds} s after 1970"), |at| at.to_string())
}

fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // What an `io::Error` wraps is no `source` of it: that skips to the source of what is wrapped.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}
