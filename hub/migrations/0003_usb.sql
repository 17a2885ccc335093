-- How long metadata for a node holds, and on which way it was last heard of: nodes may be visited by stick alone.

ALTER TABLE node ADD COLUMN freshness TEXT NOT NULL DEFAULT '"connected"';

-- 'network' or 'stick'; absent for never. `reported_at` is when the newest report that came by stick was made, by the
-- node's clock; absent for a node of which only its enrolment came by stick.
ALTER TABLE node ADD COLUMN heard_by TEXT;
ALTER TABLE node ADD COLUMN reported_at BIGINT;
UPDATE node SET heard_by = 'network' WHERE last_seen IS NOT NULL;

-- A plan asks of each blob which repository has it.
CREATE INDEX repository_blob_by_digest ON repository_blob (digest);
CREATE INDEX repository_manifest_by_digest ON repository_manifest (digest);
