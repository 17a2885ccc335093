//! The registry's index: which blobs and manifests exist, in which repositories, under which tags.

use std::collections::BTreeMap;

use cairn_model::{Digest, oci};
use sqlx::{Row, sqlite::SqliteRow};

use super::{Result, Store, Tx, parse_id, parse_json, to_json};

/// A manifest's row; its bytes are in the object store.
#[derive(Debug, Clone)]
pub(crate) struct ManifestRow {
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its media type.
    pub(crate) media_type: String,
    /// Its artifact type, or its config's media type.
    pub(crate) artifact_type: String,
    /// Its own length in bytes.
    pub(crate) size: u64,
    /// Its own length and that of all that it names.
    pub(crate) total_size: u64,
    /// What it is attached to.
    pub(crate) subject: Option<Digest>,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Unix milliseconds.
    pub(crate) pushed_at: i64,
}

/// A blob that a manifest names.
#[derive(Debug, Clone)]
pub(crate) struct BlobRow {
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its length in bytes; absent where the hub does not have it.
    pub(crate) size: Option<u64>,
    /// A repository that has it; blobs may outlive the last that does.
    pub(crate) repository: Option<String>,
}

fn manifest(row: &SqliteRow) -> Result<ManifestRow> {
    let subject: Option<String> = row.try_get("subject")?;
    Ok(ManifestRow {
        digest: parse_id("digest", row.try_get("digest")?)?,
        media_type: row.try_get("media_type")?,
        artifact_type: row.try_get("artifact_type")?,
        size: row.try_get::<i64, _>("size")?.cast_unsigned(),
        total_size: row.try_get::<i64, _>("total_size")?.cast_unsigned(),
        subject: subject.map(|t| parse_id("digest", &t)).transpose()?,
        annotations: parse_json("annotations", row.try_get("annotations")?)?,
        pushed_at: row.try_get("pushed_at")?,
    })
}

impl Store {
    /// The length of a blob, if the hub has it.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let row = sqlx::query("SELECT size FROM blob WHERE digest = $1")
            .bind(digest.as_str())
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.map(|r| r.try_get::<i64, _>("size")).transpose()?.map(i64::cast_unsigned))
    }

    /// The length of a blob, if that repository has it.
    pub(crate) async fn repository_blob_size(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<u64>> {
        let row = sqlx::query(
            "SELECT b.size FROM repository_blob r JOIN blob b ON b.digest = r.digest
             WHERE r.repository = $1 AND r.digest = $2",
        )
        .bind(repository)
        .bind(digest.as_str())
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.map(|r| r.try_get::<i64, _>("size")).transpose()?.map(i64::cast_unsigned))
    }

    /// A manifest, in whichever repository.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Option<ManifestRow>> {
        let row = sqlx::query("SELECT * FROM manifest WHERE digest = $1")
            .bind(digest.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(manifest).transpose()
    }

    /// A manifest of that repository.
    pub(crate) async fn repository_manifest(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<ManifestRow>> {
        let row = sqlx::query(
            "SELECT m.* FROM repository_manifest r JOIN manifest m ON m.digest = r.digest
             WHERE r.repository = $1 AND r.digest = $2",
        )
        .bind(repository)
        .bind(digest.as_str())
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(manifest).transpose()
    }

    /// What a tag points at.
    pub(crate) async fn tag(&self, repository: &str, name: &str) -> Result<Option<Digest>> {
        let row = sqlx::query("SELECT digest FROM tag WHERE repository = $1 AND name = $2")
            .bind(repository)
            .bind(name)
            .fetch_optional(&self.readers)
            .await?;
        row.map(|r| parse_id("digest", r.try_get("digest")?)).transpose()
    }

    /// The tags of a repository after `last`, at most `limit`, in order.
    pub(crate) async fn tags(&self, repository: &str, last: &str, limit: u32) -> Result<Vec<String>> {
        let rows =
            sqlx::query("SELECT name FROM tag WHERE repository = $1 AND name > $2 ORDER BY name LIMIT $3")
                .bind(repository)
                .bind(last)
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(|row| Ok(row.try_get("name")?)).collect()
    }

    /// Whether anything was ever put into that repository.
    pub(crate) async fn repository_exists(&self, repository: &str) -> Result<bool> {
        let row = sqlx::query(
            "SELECT 1 FROM repository_manifest WHERE repository = $1
             UNION ALL SELECT 1 FROM repository_blob WHERE repository = $1 LIMIT 1",
        )
        .bind(repository)
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.is_some())
    }

    /// What is attached to `subject` in that repository.
    pub(crate) async fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<ManifestRow>> {
        let rows = sqlx::query(
            "SELECT m.* FROM repository_manifest r JOIN manifest m ON m.digest = r.digest
             WHERE r.repository = $1 AND m.subject = $2 ORDER BY m.pushed_at, m.digest",
        )
        .bind(repository)
        .bind(subject.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(manifest).collect()
    }

    /// Every manifest, newest first, with the names that point at it.
    pub(crate) async fn manifests(&self) -> Result<Vec<(ManifestRow, Vec<String>)>> {
        let tags = sqlx::query("SELECT repository, name, digest FROM tag ORDER BY repository, name")
            .fetch_all(&self.readers)
            .await?;
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for row in &tags {
            let name =
                format!("{}:{}", row.try_get::<String, _>("repository")?, row.try_get::<String, _>("name")?);
            names.entry(row.try_get("digest")?).or_default().push(name);
        }
        let rows = sqlx::query("SELECT * FROM manifest ORDER BY pushed_at DESC, digest")
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| {
                let manifest = manifest(row)?;
                let names = names.remove(manifest.digest.as_str()).unwrap_or_default();
                Ok((manifest, names))
            })
            .collect()
    }

    /// The `repository:tag` names that point at a manifest, and a repository that has it.
    pub(crate) async fn places(&self, digest: &Digest) -> Result<(Vec<String>, Option<String>)> {
        let tags =
            sqlx::query("SELECT repository, name FROM tag WHERE digest = $1 ORDER BY repository, name")
                .bind(digest.as_str())
                .fetch_all(&self.readers)
                .await?;
        let name = |row: &SqliteRow| {
            let (repository, name): (String, String) = (row.try_get("repository")?, row.try_get("name")?);
            Ok(format!("{repository}:{name}"))
        };
        let names = tags.iter().map(name).collect::<Result<Vec<_>>>()?;
        let row =
            sqlx::query("SELECT MIN(repository) AS repository FROM repository_manifest WHERE digest = $1")
                .bind(digest.as_str())
                .fetch_one(&self.readers)
                .await?;
        Ok((names, row.try_get("repository")?))
    }

    /// Every blob that a manifest names, by digest.
    pub(crate) async fn blobs_of(&self, manifest: &Digest) -> Result<Vec<BlobRow>> {
        let rows = sqlx::query(
            "SELECT m.blob, b.size,
                    (SELECT MIN(r.repository) FROM repository_blob r WHERE r.digest = m.blob) AS repository
             FROM manifest_blob m LEFT JOIN blob b ON b.digest = m.blob WHERE m.manifest = $1 ORDER BY m.blob",
        )
        .bind(manifest.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(BlobRow {
                    digest: parse_id("digest", row.try_get("blob")?)?,
                    size: row.try_get::<Option<i64>, _>("size")?.map(i64::cast_unsigned),
                    repository: row.try_get("repository")?,
                })
            })
            .collect()
    }

    /// Every blob and every manifest.
    pub(crate) async fn contents(&self) -> Result<Vec<Digest>> {
        let rows = sqlx::query("SELECT digest FROM blob UNION SELECT digest FROM manifest")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| parse_id("digest", row.try_get("digest")?)).collect()
    }

    /// The manifests, no indexes among them, of which it is not written down what they name.
    pub(crate) async fn manifests_without_blobs(&self) -> Result<Vec<ManifestRow>> {
        let rows = sqlx::query(
            "SELECT * FROM manifest m WHERE media_type NOT IN ($1, $2)
             AND NOT EXISTS (SELECT 1 FROM manifest_blob WHERE manifest = m.digest)",
        )
        .bind(oci::MEDIA_TYPE_INDEX)
        .bind(oci::MEDIA_TYPE_DOCKER_LIST)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(manifest).collect()
    }

    /// Whether any of `manifests` names `blob`.
    pub(crate) async fn any_names_blob(&self, manifests: &[Digest], blob: &Digest) -> Result<bool> {
        for manifest in manifests {
            let row = sqlx::query("SELECT 1 FROM manifest_blob WHERE manifest = $1 AND blob = $2")
                .bind(manifest.as_str())
                .bind(blob.as_str())
                .fetch_optional(&self.readers)
                .await?;
            if row.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many blobs there are and how long they are together.
    pub(crate) async fn blob_totals(&self) -> Result<(u64, u64)> {
        let row = sqlx::query("SELECT COUNT(*) AS n, COALESCE(SUM(size), 0) AS bytes FROM blob")
            .fetch_one(&self.readers)
            .await?;
        Ok((row.try_get::<i64, _>("n")?.cast_unsigned(), row.try_get::<i64, _>("bytes")?.cast_unsigned()))
    }
}

impl Tx {
    /// Puts a blob, which is on disk already, into a repository.
    pub(crate) async fn insert_blob(
        &mut self,
        repository: &str,
        digest: &Digest,
        size: u64,
        now_ms: i64,
    ) -> Result<()> {
        sqlx::query("INSERT INTO blob (digest, size, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(digest.as_str())
            .bind(size.cast_signed())
            .bind(now_ms)
            .execute(&mut *self.0)
            .await?;
        self.link_blob(repository, digest).await
    }

    /// Takes out of the index what came, or lost its name, before `before` and no manifest names: out of each
    /// repository what none of its own names, and out of all what none at all does.
    pub(crate) async fn forget_unnamed_blobs(&mut self, before: i64) -> Result<()> {
        sqlx::query(
            "DELETE FROM repository_blob WHERE digest IN (SELECT digest FROM blob WHERE created_at < $1)
             AND NOT EXISTS (SELECT 1 FROM repository_manifest r JOIN manifest_blob m ON m.manifest = r.digest
                             WHERE r.repository = repository_blob.repository
                             AND m.blob = repository_blob.digest)",
        )
        .bind(before)
        .execute(&mut *self.0)
        .await?;
        sqlx::query(
            "DELETE FROM blob WHERE created_at < $1
             AND NOT EXISTS (SELECT 1 FROM repository_blob r WHERE r.digest = blob.digest)
             AND NOT EXISTS (SELECT 1 FROM manifest_blob m WHERE m.blob = blob.digest)",
        )
        .bind(before)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Whether the hub has a blob, as this transaction sees it.
    pub(crate) async fn has_blob(&mut self, digest: &Digest) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM blob WHERE digest = $1")
            .bind(digest.as_str())
            .fetch_optional(&mut *self.0)
            .await?;
        Ok(row.is_some())
    }

    /// Whether any row promises content of that digest, as this transaction sees it.
    pub(crate) async fn promises(&mut self, digest: &Digest) -> Result<bool> {
        let row = sqlx::query(
            "SELECT 1 FROM blob WHERE digest = $1 UNION ALL SELECT 1 FROM manifest WHERE digest = $1",
        )
        .bind(digest.as_str())
        .fetch_optional(&mut *self.0)
        .await?;
        Ok(row.is_some())
    }

    /// Writes down that a manifest, whose row is there, names a blob.
    pub(crate) async fn insert_manifest_blob(&mut self, manifest: &Digest, blob: &Digest) -> Result<()> {
        sqlx::query("INSERT INTO manifest_blob (manifest, blob) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(manifest.as_str())
            .bind(blob.as_str())
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Puts a blob that the hub has into one repository more.
    pub(crate) async fn link_blob(&mut self, repository: &str, digest: &Digest) -> Result<()> {
        sqlx::query(
            "INSERT INTO repository_blob (repository, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(repository)
        .bind(digest.as_str())
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// As a database of the first schema is right after its migration.
    #[cfg(test)]
    pub(crate) async fn forget_what_manifests_name(&mut self) -> Result<()> {
        sqlx::query("DELETE FROM manifest_blob").execute(&mut *self.0).await?;
        Ok(())
    }

    /// Takes a blob out of a repository; says whether it was there. Its time to be wanted again begins now.
    pub(crate) async fn unlink_blob(
        &mut self,
        repository: &str,
        digest: &Digest,
        now_ms: i64,
    ) -> Result<bool> {
        sqlx::query("UPDATE blob SET created_at = $2 WHERE digest = $1")
            .bind(digest.as_str())
            .bind(now_ms)
            .execute(&mut *self.0)
            .await?;
        let done = sqlx::query("DELETE FROM repository_blob WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest.as_str())
            .execute(&mut *self.0)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Puts a manifest, whose bytes are on disk already, into a repository.
    pub(crate) async fn insert_manifest(&mut self, repository: &str, manifest: &ManifestRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO manifest
             (digest, media_type, artifact_type, size, total_size, subject, annotations, pushed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(manifest.digest.as_str())
        .bind(&manifest.media_type)
        .bind(&manifest.artifact_type)
        .bind(manifest.size.cast_signed())
        .bind(manifest.total_size.cast_signed())
        .bind(manifest.subject.as_ref().map(Digest::as_str))
        .bind(to_json(&manifest.annotations))
        .bind(manifest.pushed_at)
        .execute(&mut *self.0)
        .await?;
        sqlx::query(
            "INSERT INTO repository_manifest (repository, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(repository)
        .bind(manifest.digest.as_str())
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Points a tag at a manifest; returns what it pointed at.
    pub(crate) async fn set_tag(
        &mut self,
        repository: &str,
        name: &str,
        digest: &Digest,
    ) -> Result<Option<String>> {
        let before = sqlx::query("SELECT digest FROM tag WHERE repository = $1 AND name = $2")
            .bind(repository)
            .bind(name)
            .fetch_optional(&mut *self.0)
            .await?;
        sqlx::query(
            "INSERT INTO tag (repository, name, digest) VALUES ($1, $2, $3)
             ON CONFLICT (repository, name) DO UPDATE SET digest = excluded.digest",
        )
        .bind(repository)
        .bind(name)
        .bind(digest.as_str())
        .execute(&mut *self.0)
        .await?;
        Ok(before.map(|r| r.try_get("digest")).transpose()?)
    }

    /// Takes a tag away; says whether it was there.
    pub(crate) async fn delete_tag(&mut self, repository: &str, name: &str) -> Result<bool> {
        let done = sqlx::query("DELETE FROM tag WHERE repository = $1 AND name = $2")
            .bind(repository)
            .bind(name)
            .execute(&mut *self.0)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a manifest and its tags out of a repository; says whether it was there. The time of its blobs to be wanted
    /// again begins now.
    pub(crate) async fn delete_manifest(
        &mut self,
        repository: &str,
        digest: &Digest,
        now_ms: i64,
    ) -> Result<bool> {
        sqlx::query(
            "UPDATE blob SET created_at = $2 WHERE digest IN (SELECT blob FROM manifest_blob WHERE manifest = $1)",
        )
        .bind(digest.as_str())
        .bind(now_ms)
        .execute(&mut *self.0)
        .await?;
        sqlx::query("DELETE FROM tag WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest.as_str())
            .execute(&mut *self.0)
            .await?;
        let done = sqlx::query("DELETE FROM repository_manifest WHERE repository = $1 AND digest = $2")
            .bind(repository)
            .bind(digest.as_str())
            .execute(&mut *self.0)
            .await?;
        sqlx::query(
            "DELETE FROM manifest WHERE digest = $1
             AND NOT EXISTS (SELECT 1 FROM repository_manifest WHERE digest = $1)",
        )
        .bind(digest.as_str())
        .execute(&mut *self.0)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}
