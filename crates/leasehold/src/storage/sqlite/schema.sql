-- Times are microseconds of the machine's boot clock. They can be compared only within one `boot`.
--
-- `live` is the id of the liveness file that a lease or a waiter's entry is bound to; NULL for a detached lease.
-- A row of `lock` without an owner keeps the last token of its name until it is pruned.
CREATE TABLE lock (
    name       TEXT    NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL,
    owner      BLOB,
    token      INTEGER NOT NULL,
    boot       TEXT    NOT NULL,
    granted_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    live       TEXT,
    label      TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE waiter (
    name       TEXT    NOT NULL,
    ticket     INTEGER NOT NULL,
    owner      BLOB    NOT NULL,
    live       TEXT,
    boot       TEXT    NOT NULL,
    expires_us INTEGER NOT NULL,
    PRIMARY KEY (name, ticket)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX waiter_by_owner ON waiter (owner, name);

-- The value of `high_water` is the largest token of all pruned names.
CREATE TABLE meta (
    key   TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES ('high_water', 0);

PRAGMA application_id = 1279807307; -- "LHOK"
PRAGMA user_version = 1;
