//! `cairn artifact sign`: shows what an operator is about to call genuine, and signs that.

use crate::{args::ArtifactSign, client::Client, failure::Failure};

pub(super) async fn run(_client: &Client, _args: ArtifactSign) -> Result<(), Failure> {
    Err(Failure::failed("not built in yet"))
}
