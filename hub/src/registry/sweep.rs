//! Giving back the space of what nobody names, also while others push.
//!
//! There is one writing transaction at a time. Whoever promises content puts its file in place and its row down within
//! one; whoever removes a file looks, within one, that no row promises it. So neither meets the other half-way.

use std::collections::HashSet;

use cairn_model::Digest;
use futures_util::StreamExt;
use object_store::{ObjectStoreExt, path::Path as Key};

use super::{Manifest, Registry, Result};

#[cfg(test)]
mod tests;

/// A blob that lost its last name may be wanted again: a push that skips it, because it was there, may be under way.
const KEEP_UNNAMED_MS: i64 = 24 * 3_600_000;

impl Registry {
    /// Writes down what manifests name of which it is not: those that an earlier version of this program took.
    pub(crate) async fn note_named_blobs(&self) -> Result<()> {
        for row in self.store.manifests_without_blobs().await? {
            let read = self.manifest_bytes(&row.digest).await.map_err(|e| e.to_string());
            let manifest = match read.and_then(|bytes| Manifest::parse(&row.media_type, &bytes)) {
                Ok(manifest) => manifest,
                Err(cause) => {
                    tracing::warn!(digest = %row.digest, "a manifest is damaged, push it again: {cause}");
                    continue;
                }
            };
            let mut tx = self.store.begin().await?;
            for blob in &manifest.blobs {
                tx.insert_manifest_blob(&row.digest, &blob.digest).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Forgets blobs that no manifest names any more, and removes files that no row promises: those of such blobs, and
    /// what a crash left. `now` is in Unix milliseconds.
    pub(crate) async fn sweep(&self, now: i64) -> Result<usize> {
        if let Some(damaged) = self.store.manifests_without_blobs().await?.first() {
            // It may name anything.
            tracing::warn!(digest = %damaged.digest, "no space is given back, a manifest is damaged; push it again");
            return Ok(0);
        }
        let mut tx = self.store.begin().await?;
        tx.forget_unnamed_blobs(now - KEEP_UNNAMED_MS).await?;
        tx.commit().await?;
        let promised: HashSet<Digest> = self.store.contents().await?.into_iter().collect();
        let mut swept = 0;
        let mut files = self.objects.list(Some(&Key::from("blobs/sha256")));
        while let Some(file) = files.next().await {
            let location = file?.location;
            let digest = location.filename().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if digest.as_ref().is_some_and(|digest| promised.contains(digest)) {
                continue;
            }
            let mut tx = self.store.begin().await?;
            // It may have come since the look above.
            let promised = match &digest {
                Some(digest) => tx.promises(digest).await?,
                None => false,
            };
            if !promised {
                self.objects.delete(&location).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
