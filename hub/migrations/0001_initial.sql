-- The hub's first schema. Portable SQL only: PostgreSQL shall read the same statements. Times are Unix milliseconds;
-- documents are JSON text; digests are in their text form.

CREATE TABLE access_token (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

CREATE TABLE enroll_token (
    id           TEXT PRIMARY KEY,
    description  TEXT NOT NULL,
    hash         TEXT NOT NULL UNIQUE,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    reusable     BOOLEAN NOT NULL,
    auto_approve BOOLEAN NOT NULL,
    labels       TEXT NOT NULL,
    used         BIGINT NOT NULL
);

-- A removed node keeps its row (state 'removed'): its generation and its report sequence never go back, even if the
-- same key enrols again.
CREATE TABLE node (
    id           TEXT PRIMARY KEY,
    public_key   TEXT NOT NULL,
    state        TEXT NOT NULL,
    labels       TEXT NOT NULL,
    facts        TEXT NOT NULL,
    enrolled_at  BIGINT NOT NULL,
    last_seen    BIGINT,
    acknowledged BIGINT NOT NULL,
    status       TEXT,
    -- What shall run there, as signed: the bytes and the manifests that they need. `published` trails `generation`
    -- until the signed files are on disk.
    generation   BIGINT NOT NULL,
    published    BIGINT NOT NULL,
    desired      TEXT,
    needs        TEXT NOT NULL
);

CREATE TABLE event (
    node     TEXT NOT NULL REFERENCES node (id),
    sequence BIGINT NOT NULL,
    position BIGINT NOT NULL,
    time     BIGINT NOT NULL,
    severity TEXT NOT NULL,
    reason   TEXT NOT NULL,
    message  TEXT NOT NULL,
    PRIMARY KEY (node, sequence, position)
);

CREATE TABLE command (
    id        TEXT PRIMARY KEY,
    request   TEXT NOT NULL,
    node      TEXT NOT NULL,
    kind      TEXT NOT NULL,
    not_after BIGINT NOT NULL,
    complete  BOOLEAN NOT NULL
);
CREATE INDEX command_by_request ON command (request);
CREATE INDEX command_open ON command (complete, not_after);

CREATE TABLE command_output (
    command TEXT NOT NULL REFERENCES command (id),
    chunk   BIGINT NOT NULL,
    text    TEXT NOT NULL,
    last    BOOLEAN NOT NULL,
    PRIMARY KEY (command, chunk)
);

CREATE TABLE app (
    name     TEXT PRIMARY KEY,
    -- What the scheduler last said: replicas without a place, and why.
    unplaced BIGINT NOT NULL,
    problems TEXT NOT NULL
);

CREATE TABLE app_version (
    app         TEXT NOT NULL REFERENCES app (name),
    number      BIGINT NOT NULL,
    digest      TEXT NOT NULL,
    document    TEXT NOT NULL,
    images      TEXT NOT NULL,
    deployed_at BIGINT NOT NULL,
    deployed_by TEXT NOT NULL,
    PRIMARY KEY (app, number)
);

-- `since` is the node's generation from which on the replica is as it is now: a status of an older one says nothing
-- about it.
CREATE TABLE placement (
    app     TEXT NOT NULL,
    service TEXT NOT NULL,
    replica BIGINT NOT NULL,
    node    TEXT NOT NULL,
    since   BIGINT NOT NULL,
    PRIMARY KEY (app, service, node, replica)
);

CREATE TABLE blob (
    digest     TEXT PRIMARY KEY,
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE manifest (
    digest        TEXT PRIMARY KEY,
    media_type    TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    size          BIGINT NOT NULL,
    total_size    BIGINT NOT NULL,
    subject       TEXT,
    annotations   TEXT NOT NULL,
    pushed_at     BIGINT NOT NULL
);
CREATE INDEX manifest_by_subject ON manifest (subject);

CREATE TABLE repository_blob (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (repository, digest)
);

CREATE TABLE repository_manifest (
    repository TEXT NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (repository, digest)
);

CREATE TABLE tag (
    repository TEXT NOT NULL,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    PRIMARY KEY (repository, name)
);
CREATE INDEX tag_by_digest ON tag (digest);

CREATE TABLE audit (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    time         BIGINT NOT NULL,
    actor        TEXT NOT NULL,
    origin       TEXT NOT NULL,
    action       TEXT NOT NULL,
    subject      TEXT NOT NULL,
    before_state TEXT,
    after_state  TEXT
);

CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;

CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit is append-only');
END;
