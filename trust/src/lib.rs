//! TUF, verified and signed, and signed envelopes; must never act on what it verifies.
