//! The way by stick: what a bundle for some nodes needs, what is signed for it, and what comes back.

use cairn_model::api::TrustRoots;

use super::{Hub, enroll::raw_json};
use crate::error::Result;

mod import;
mod metadata;
mod plan;

impl Hub {
    /// The first roots of both repositories: what whoever verifies a stick must have from elsewhere.
    pub(crate) async fn trust_roots(&self) -> Result<TrustRoots> {
        let (director, artifacts) = self.signer.first_roots().await?;
        Ok(TrustRoots { director: raw_json(director)?, artifacts: raw_json(artifacts)? })
    }
}
