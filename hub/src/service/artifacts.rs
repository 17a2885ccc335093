//! The manifests in the hub, and the operators' signature on them where their key is not here.

use cairn_model::api::{Artifact, AuditRow};
use serde_json::json;

use super::{Hub, Operator};
use crate::{
    clock,
    error::{Error, Kind, Result},
};

impl Hub {
    /// Every manifest, newest first.
    pub(crate) async fn artifacts(&self) -> Result<Vec<Artifact>> {
        let rows = self.store.manifests().await?;
        Ok(rows
            .into_iter()
            .map(|(row, names)| Artifact {
                signed: self.signer.is_signed(&row.digest),
                digest: row.digest,
                media_type: row.media_type,
                artifact_type: row.artifact_type,
                names,
                size: row.total_size,
                pushed_at: clock::rfc3339(row.pushed_at),
            })
            .collect())
    }

    /// The targets metadata that would make every manifest a target, for an operator to sign; where all are, but the
    /// signature is past half of its life, the same targets again.
    pub(crate) async fn unsigned_targets(&self) -> Result<Vec<u8>> {
        let entries = self.registry.unsigned_entries().await?;
        if entries.is_empty() && !self.signer.awaits_renewal() {
            return Err(Error::new(Kind::NotFound, "every artifact is signed; there is nothing to do"));
        }
        Ok(self.signer.unsigned_targets(entries).await?)
    }

    /// Takes targets metadata that operators signed, and gives nodes what waited for it.
    pub(crate) async fn accept_signed_targets(
        &self,
        who: &Operator,
        signed: Vec<u8>,
    ) -> Result<Vec<Artifact>> {
        let before: Vec<_> =
            self.artifacts().await?.into_iter().filter(|a| !a.signed).map(|a| a.digest).collect();
        self.signer.accept_targets(signed).await?;
        let newly: Vec<_> = before.into_iter().filter(|digest| self.signer.is_signed(digest)).collect();
        let mut tx = self.store.begin().await?;
        let change = who.change("artifact.sign", "artifacts", None, Some(json!({ "signed": newly })));
        tx.audit(clock::now_ms(), change).await?;
        tx.commit().await?;
        self.fleet.converge().await?;
        self.artifacts().await
    }

    /// The newest changes, newest first.
    pub(crate) async fn audit_rows(&self, limit: u32) -> Result<Vec<AuditRow>> {
        Ok(self.store.audit_rows(limit).await?)
    }
}
