//! Tests of the Compose reader: what is honoured, what is refused, and that the canonical form is the same app.

mod canonical;
mod honoured;
mod refused;
