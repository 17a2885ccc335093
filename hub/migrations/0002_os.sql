-- Which OS each node shall run, which releases there are, and which blobs each manifest names.

CREATE TABLE manifest_blob (
    manifest TEXT NOT NULL REFERENCES manifest (digest) ON DELETE CASCADE,
    blob     TEXT NOT NULL,
    PRIMARY KEY (manifest, blob)
);
CREATE INDEX manifest_blob_by_blob ON manifest_blob (blob);

-- The manifests that are OS releases, with the document that their config blob is.
CREATE TABLE os_release (
    digest   TEXT PRIMARY KEY REFERENCES manifest (digest) ON DELETE CASCADE,
    document TEXT NOT NULL
);

-- A release that a node shall run cannot go.
CREATE TABLE os_desired (
    node            TEXT PRIMARY KEY REFERENCES node (id),
    digest          TEXT NOT NULL REFERENCES os_release (digest),
    version         TEXT NOT NULL,
    allow_downgrade BOOLEAN NOT NULL,
    attempt         BIGINT NOT NULL,
    reboot          TEXT NOT NULL,
    health          TEXT NOT NULL,
    set_at          BIGINT NOT NULL,
    set_by          TEXT NOT NULL
);
CREATE INDEX os_desired_by_digest ON os_desired (digest);

-- The highest attempt that was ever asked of a node: it outlives what is desired, or a node that remembers a failure
-- would take the next first attempt for that one.
ALTER TABLE node ADD COLUMN os_attempt BIGINT NOT NULL DEFAULT 0;
