//! Tokens of operators and of nodes-to-be: only the SHA-256 of a secret is ever kept.

use std::collections::BTreeMap;

use cairn_model::api::Role;
use sqlx::{Row, sqlite::SqliteRow};

use super::{Result, Store, Tx, corrupt, parse_json, to_json};

/// An operator's token at rest.
#[derive(Debug, Clone)]
pub(crate) struct AccessTokenRow {
    /// Its public id.
    pub(crate) id: String,
    /// Whose it is.
    pub(crate) name: String,
    /// What it allows.
    pub(crate) role: Role,
    /// SHA-256 of the secret, hex.
    pub(crate) hash: String,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    /// Unix milliseconds; never where absent.
    pub(crate) expires_at: Option<i64>,
}

/// An enrolment token at rest.
#[derive(Debug, Clone)]
pub(crate) struct EnrollTokenRow {
    /// Its public id.
    pub(crate) id: String,
    /// For people.
    pub(crate) description: String,
    /// SHA-256 of the secret, hex.
    pub(crate) hash: String,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    /// Unix milliseconds.
    pub(crate) expires_at: i64,
    /// May enrol any number of nodes.
    pub(crate) reusable: bool,
    /// Its nodes are members at once.
    pub(crate) auto_approve: bool,
    /// Labels for its nodes.
    pub(crate) labels: BTreeMap<String, String>,
    /// How many nodes came with it.
    pub(crate) used: i64,
}

fn role_text(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

fn parse_role(text: &str) -> Result<Role> {
    match text {
        "viewer" => Ok(Role::Viewer),
        "operator" => Ok(Role::Operator),
        "admin" => Ok(Role::Admin),
        other => Err(corrupt("role", other)),
    }
}

fn access_token(row: &SqliteRow) -> Result<AccessTokenRow> {
    Ok(AccessTokenRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: parse_role(row.try_get("role")?)?,
        hash: row.try_get("hash")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

fn enroll_token(row: &SqliteRow) -> Result<EnrollTokenRow> {
    Ok(EnrollTokenRow {
        id: row.try_get("id")?,
        description: row.try_get("description")?,
        hash: row.try_get("hash")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        reusable: row.try_get("reusable")?,
        auto_approve: row.try_get("auto_approve")?,
        labels: parse_json("labels", row.try_get("labels")?)?,
        used: row.try_get("used")?,
    })
}

impl Store {
    /// The operator's token with this hash.
    pub(crate) async fn access_token_by_hash(&self, hash: &str) -> Result<Option<AccessTokenRow>> {
        let row = sqlx::query("SELECT * FROM access_token WHERE hash = $1")
            .bind(hash)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(access_token).transpose()
    }

    /// All operators' tokens, oldest first.
    pub(crate) async fn access_tokens(&self) -> Result<Vec<AccessTokenRow>> {
        let rows = sqlx::query("SELECT * FROM access_token ORDER BY created_at, id")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(access_token).collect()
    }

    /// All enrolment tokens, oldest first.
    pub(crate) async fn enroll_tokens(&self) -> Result<Vec<EnrollTokenRow>> {
        let rows = sqlx::query("SELECT * FROM enroll_token ORDER BY created_at, id")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(enroll_token).collect()
    }
}

impl Tx {
    /// Adds an operator's token.
    pub(crate) async fn insert_access_token(&mut self, token: &AccessTokenRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO access_token (id, name, role, hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&token.id)
        .bind(&token.name)
        .bind(role_text(token.role))
        .bind(&token.hash)
        .bind(token.created_at)
        .bind(token.expires_at)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// Whether an operator's token of that name exists.
    pub(crate) async fn access_token_name_taken(&mut self, name: &str) -> Result<bool> {
        let row = sqlx::query("SELECT 1 FROM access_token WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *self.0)
            .await?;
        Ok(row.is_some())
    }

    /// Takes an operator's token away and returns what it was.
    pub(crate) async fn delete_access_token(&mut self, id: &str) -> Result<Option<AccessTokenRow>> {
        let row = sqlx::query("DELETE FROM access_token WHERE id = $1 RETURNING *")
            .bind(id)
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(access_token).transpose()
    }

    /// How many operators' tokens of role admin do not expire before `at`.
    pub(crate) async fn admins_left(&mut self, at: i64) -> Result<i64> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n FROM access_token WHERE role = 'admin' AND (expires_at IS NULL OR expires_at > $1)",
        )
        .bind(at)
        .fetch_one(&mut *self.0)
        .await?;
        Ok(row.try_get("n")?)
    }

    /// Adds an enrolment token.
    pub(crate) async fn insert_enroll_token(&mut self, token: &EnrollTokenRow) -> Result<()> {
        sqlx::query(
            "INSERT INTO enroll_token
             (id, description, hash, created_at, expires_at, reusable, auto_approve, labels, used)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(&token.id)
        .bind(&token.description)
        .bind(&token.hash)
        .bind(token.created_at)
        .bind(token.expires_at)
        .bind(token.reusable)
        .bind(token.auto_approve)
        .bind(to_json(&token.labels))
        .bind(token.used)
        .execute(&mut *self.0)
        .await?;
        Ok(())
    }

    /// The enrolment token with this hash; read in the transaction that uses it up.
    pub(crate) async fn enroll_token_by_hash(&mut self, hash: &str) -> Result<Option<EnrollTokenRow>> {
        let row = sqlx::query("SELECT * FROM enroll_token WHERE hash = $1")
            .bind(hash)
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(enroll_token).transpose()
    }

    /// Counts one node more.
    pub(crate) async fn count_enroll_token_use(&mut self, id: &str) -> Result<()> {
        sqlx::query("UPDATE enroll_token SET used = used + 1 WHERE id = $1")
            .bind(id)
            .execute(&mut *self.0)
            .await?;
        Ok(())
    }

    /// Takes an enrolment token away and returns what it was.
    pub(crate) async fn delete_enroll_token(&mut self, id: &str) -> Result<Option<EnrollTokenRow>> {
        let row = sqlx::query("DELETE FROM enroll_token WHERE id = $1 RETURNING *")
            .bind(id)
            .fetch_optional(&mut *self.0)
            .await?;
        row.as_ref().map(enroll_token).transpose()
    }
}
