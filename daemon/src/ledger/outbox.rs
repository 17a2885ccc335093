//! The durable outbox: reports that the hub has not acknowledged.
//!
//! A row gets its sequence number when it is first sent, not when it is written: so old status reports can be dropped
//! from a full outbox without a gap in the numbers, and a node whose ledger was lost can go on after the highest number
//! that the hub knows. Rows that have a number are dropped only when the hub has acknowledged them.

use cairn_model::Report;
use sqlx::Row;

use super::{Ledger, LedgerError, Result, doing};

/// Which reports a full outbox may drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordClass {
    /// Replaced by any later one: may be dropped.
    Status,
    /// Everything else: never dropped silently.
    Event,
}

impl RecordClass {
    fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Event => "event",
        }
    }
}

/// A report that waits, numbered.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// The report, with its sequence set.
    pub report: Report,
}

impl Ledger {
    /// Puts a report into the outbox. Its `sequence` is ignored. Beyond `max_bytes` in all, the oldest status reports
    /// without a number go first, then the oldest others; returns how many of those others were dropped.
    pub async fn push_report(&self, report: &Report, class: RecordClass, max_bytes: u64) -> Result<u64> {
        let write = || doing("write to the outbox");
        let text = serde_json::to_string(report)
            .map_err(|source| LedgerError::Content { what: "report", source })?;
        let mut tx = self.pool.begin().await.map_err(write())?;
        if class == RecordClass::Status {
            // The new status replaces those that were never sent.
            sqlx::query("DELETE FROM outbox WHERE sequence IS NULL AND class = 'status'")
                .execute(&mut *tx)
                .await
                .map_err(write())?;
        }
        sqlx::query("INSERT INTO outbox (class, report) VALUES ($1, $2)")
            .bind(class.as_str())
            .bind(text)
            .execute(&mut *tx)
            .await
            .map_err(write())?;
        let mut lost = 0;
        loop {
            let bytes: i64 = sqlx::query_scalar("SELECT COALESCE(SUM(LENGTH(report)), 0) FROM outbox")
                .fetch_one(&mut *tx)
                .await
                .map_err(write())?;
            if bytes.unsigned_abs() <= max_bytes {
                break;
            }
            let dropped: Option<String> = sqlx::query_scalar(
                "DELETE FROM outbox WHERE id = (SELECT id FROM outbox WHERE sequence IS NULL
                 ORDER BY class = 'status' DESC, id LIMIT 1) RETURNING class",
            )
            .fetch_optional(&mut *tx)
            .await
            .map_err(write())?;
            match dropped.as_deref() {
                None => break,
                Some("status") => {}
                Some(_) => lost += 1,
            }
        }
        tx.commit().await.map_err(write())?;
        Ok(lost)
    }

    /// The oldest reports, at most `max_bytes` of them but at least one, each numbered; the numbers are on disk before
    /// this returns.
    pub async fn next_reports(&self, max_bytes: usize) -> Result<Vec<OutboxRow>> {
        self.reports_after(0, max_bytes).await
    }

    /// As [`Ledger::next_reports`], of those after `sequence`: so all of them can be had page by page, while none is
    /// acknowledged yet.
    pub async fn reports_after(&self, sequence: u64, max_bytes: usize) -> Result<Vec<OutboxRow>> {
        let read = || doing("number reports");
        let mut tx = self.pool.begin().await.map_err(read())?;
        let mut next = self.next_sequence_in(&mut tx).await?;
        let rows = sqlx::query(
            "SELECT id, sequence, report FROM outbox WHERE sequence IS NULL OR sequence > $1
             ORDER BY sequence IS NULL, sequence, id LIMIT 64",
        )
        .bind(i64::try_from(sequence).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx)
        .await
        .map_err(read())?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for row in rows {
            let text: String = row.get(2);
            bytes += text.len();
            if bytes > max_bytes && !batch.is_empty() {
                break;
            }
            let mut report: Report = serde_json::from_str(&text)
                .map_err(|source| LedgerError::Content { what: "report", source })?;
            report.sequence = match row.get::<Option<i64>, _>(1) {
                Some(sequence) => sequence.unsigned_abs(),
                None => {
                    sqlx::query("UPDATE outbox SET sequence = $1 WHERE id = $2")
                        .bind(i64::try_from(next).unwrap_or(i64::MAX))
                        .bind(row.get::<i64, _>(0))
                        .execute(&mut *tx)
                        .await
                        .map_err(read())?;
                    next += 1;
                    next - 1
                }
            };
            batch.push(OutboxRow { report });
        }
        self.set_next_sequence_in(&mut tx, next).await?;
        tx.commit().await.map_err(read())?;
        Ok(batch)
    }

    /// Drops what the hub has stored: reports up to `acknowledged`, and no others.
    pub async fn acknowledge(&self, acknowledged: u64) -> Result<u64> {
        let done = sqlx::query("DELETE FROM outbox WHERE sequence IS NOT NULL AND sequence <= $1")
            .bind(i64::try_from(acknowledged).unwrap_or(i64::MAX))
            .execute(&self.pool)
            .await
            .map_err(doing("drop acknowledged reports"))?;
        Ok(done.rows_affected())
    }

    /// Takes an acknowledgement that did not come as the answer to reports, but signed with a bundle. A number that was
    /// never given here was given by a ledger that is lost: then what waits goes on after it, and nothing is dropped.
    pub async fn acknowledge_signed(&self, acknowledged: u64) -> Result<u64> {
        let mut connection = self.pool.acquire().await.map_err(doing("read the sequence"))?;
        let next = self.next_sequence_in(&mut connection).await?;
        drop(connection);
        if acknowledged >= next {
            return self.resume_sequence(acknowledged).await.map(|()| 0);
        }
        let dropped = self.acknowledge(acknowledged).await?;
        self.set_meta("sequence-known", vec![1]).await?;
        Ok(dropped)
    }

    /// Whether the node and the hub agree on the numbers: false for a ledger that never heard an acknowledgement.
    pub async fn sequence_is_known(&self) -> Result<bool> {
        Ok(self.meta("sequence-known").await?.is_some())
    }

    /// Goes on after `acknowledged`, the highest number that the hub knows: for a ledger, or a hub, that was lost and
    /// made anew. Reports that wait are numbered afresh, in their order.
    pub async fn resume_sequence(&self, acknowledged: u64) -> Result<()> {
        let write = || doing("renumber reports");
        let mut tx = self.pool.begin().await.map_err(write())?;
        // Numbered rows stand before the others; their ids keep that order.
        sqlx::query("UPDATE outbox SET sequence = NULL").execute(&mut *tx).await.map_err(write())?;
        self.set_next_sequence_in(&mut tx, acknowledged.saturating_add(1)).await?;
        sqlx::query("INSERT OR REPLACE INTO meta (key, value) VALUES ('sequence-known', x'01')")
            .execute(&mut *tx)
            .await
            .map_err(write())?;
        tx.commit().await.map_err(write())
    }

    /// How many reports wait.
    pub async fn unsent(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM outbox")
            .fetch_one(&self.pool)
            .await
            .map_err(doing("count reports"))?;
        Ok(count.unsigned_abs())
    }

    async fn next_sequence_in(&self, tx: &mut sqlx::SqliteConnection) -> Result<u64> {
        let value: Option<Vec<u8>> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'next-sequence'")
            .fetch_optional(tx)
            .await
            .map_err(doing("read the sequence"))?;
        let bytes = value.and_then(|v| <[u8; 8]>::try_from(v).ok());
        Ok(bytes.map_or(1, u64::from_le_bytes))
    }

    async fn set_next_sequence_in(&self, tx: &mut sqlx::SqliteConnection, next: u64) -> Result<()> {
        sqlx::query("INSERT OR REPLACE INTO meta (key, value) VALUES ('next-sequence', $1)")
            .bind(next.to_le_bytes().to_vec())
            .execute(tx)
            .await
            .map_err(doing("write the sequence"))
            .map(drop)
    }
}
