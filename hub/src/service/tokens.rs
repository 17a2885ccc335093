//! Tokens for nodes-to-be and for operators.

use std::collections::BTreeMap;

use cairn_model::api::{
    AccessToken, CreatedAccessToken, CreatedToken, NewAccessToken, NewToken, Role, Token,
};
use serde_json::json;

use super::{Hub, Operator};
use crate::{
    clock,
    error::{Error, Kind, Result},
    secret,
    store::{AccessTokenRow, EnrollTokenRow},
};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// An enrolment token that is baked into images lives a year at most.
const MAX_ENROLL_SECONDS: u64 = 365 * DAY;

/// An operator's token lives ten years at most: what shall live longer has no business being a bearer token.
const MAX_ACCESS_SECONDS: u64 = 3650 * DAY;

/// Longest text for people.
const MAX_TEXT: usize = 200;

impl Hub {
    /// All enrolment tokens.
    pub(crate) async fn enroll_tokens(&self) -> Result<Vec<Token>> {
        Ok(self.store.enroll_tokens().await?.iter().map(token).collect())
    }

    /// Makes an enrolment token.
    pub(crate) async fn create_enroll_token(&self, who: &Operator, new: NewToken) -> Result<CreatedToken> {
        check_text("description", &new.description)?;
        check_labels(&new.labels)?;
        let seconds = lifetime(new.expires_in_seconds, DAY, MAX_ENROLL_SECONDS)?;
        let (text, now) = (secret::random_secret("cairn_enroll"), clock::now_ms());
        let row = EnrollTokenRow {
            id: secret::random_hex(6),
            description: new.description,
            hash: secret::hash(&text),
            created_at: now,
            expires_at: now + seconds,
            reusable: new.reusable,
            auto_approve: new.auto_approve,
            labels: new.labels,
            used: 0,
        };
        let created = CreatedToken { token: token(&row), secret: text };
        let mut tx = self.store.begin().await?;
        tx.insert_enroll_token(&row).await?;
        tx.audit(now, who.change("token.create", &row.id, None, Some(json!(created.token)))).await?;
        tx.commit().await?;
        Ok(created)
    }

    /// Takes an enrolment token away.
    pub(crate) async fn delete_enroll_token(&self, who: &Operator, id: &str) -> Result<()> {
        let mut tx = self.store.begin().await?;
        let Some(row) = tx.delete_enroll_token(id).await? else {
            return Err(Error::not_found(format!("enrolment token {id:?}"), "see `cairn token ls`"));
        };
        tx.audit(clock::now_ms(), who.change("token.delete", id, Some(json!(token(&row))), None)).await?;
        Ok(tx.commit().await?)
    }

    /// All operators' tokens.
    pub(crate) async fn access_tokens(&self) -> Result<Vec<AccessToken>> {
        Ok(self.store.access_tokens().await?.iter().map(access_token).collect())
    }

    /// Makes an operator's token.
    pub(crate) async fn create_access_token(
        &self,
        who: &Operator,
        new: NewAccessToken,
    ) -> Result<CreatedAccessToken> {
        check_text("name", &new.name)?;
        if new.name.is_empty() {
            return Err(Error::new(
                Kind::Malformed,
                "name is empty; say whose token it is: the audit shows it",
            ));
        }
        let seconds = lifetime(new.expires_in_seconds, 90 * DAY, MAX_ACCESS_SECONDS)?;
        let (row, text) = new_access_token(new.name, new.role, Some(seconds));
        let created = CreatedAccessToken { token: access_token(&row), secret: text };
        let mut tx = self.store.begin().await?;
        if tx.access_token_name_taken(&row.name).await? {
            let text = format!("an access token named {:?} exists", row.name);
            return Err(Error::new(
                Kind::Conflict,
                format!("{text}; choose another name: the audit tells them apart by it"),
            ));
        }
        tx.insert_access_token(&row).await?;
        tx.audit(
            row.created_at,
            who.change("access-token.create", &row.id, None, Some(json!(created.token))),
        )
        .await?;
        tx.commit().await?;
        Ok(created)
    }

    /// Takes an operator's token away, but for the last admin's.
    pub(crate) async fn delete_access_token(&self, who: &Operator, id: &str) -> Result<()> {
        let now = clock::now_ms();
        let mut tx = self.store.begin().await?;
        let Some(row) = tx.delete_access_token(id).await? else {
            return Err(Error::not_found(format!("access token {id:?}"), "see `GET /api/v1/access-tokens`"));
        };
        if row.role == Role::Admin && tx.admins_left(now).await? == 0 {
            let text = "this is the last admin token; make another one first";
            return Err(Error::new(Kind::Conflict, text));
        }
        tx.audit(now, who.change("access-token.delete", id, Some(json!(access_token(&row))), None)).await?;
        Ok(tx.commit().await?)
    }
}

/// A new operator's token: what is kept, and the secret. `seconds` in milliseconds; for ever where absent.
pub(crate) fn new_access_token(
    name: String,
    role: Role,
    lifetime_ms: Option<i64>,
) -> (AccessTokenRow, String) {
    let (text, now) = (secret::random_secret("cairn_access"), clock::now_ms());
    let row = AccessTokenRow {
        id: secret::random_hex(6),
        name,
        role,
        hash: secret::hash(&text),
        created_at: now,
        expires_at: lifetime_ms.map(|ms| now + ms),
    };
    (row, text)
}

/// Milliseconds of life, within bounds.
fn lifetime(asked: Option<u64>, default: u64, most: u64) -> Result<i64> {
    let seconds = asked.unwrap_or(default);
    if seconds == 0 || seconds > most {
        let text = format!("expires_in_seconds is {seconds}; choose 1 to {most}");
        return Err(Error::new(Kind::Malformed, text));
    }
    Ok(seconds.cast_signed() * 1000)
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        let text = format!("{what} is longer than {MAX_TEXT} bytes or has control characters; shorten it");
        return Err(Error::new(Kind::Malformed, text));
    }
    Ok(())
}

/// Labels as operators may give them: keys of 1 to 63 of a-z, A-Z, 0-9, `.`, `_`, `-`, `/`; values likewise or empty.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let fits = |text: &str| {
        text.len() <= 63
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'))
    };
    for (key, value) in labels {
        if key.is_empty() || !fits(key) || !fits(value) {
            let text = format!(
                "label {:?} is not usable",
                format!("{key}={value}").chars().take(130).collect::<String>()
            );
            let cure = "use at most 63 of letters, digits, `.`, `_`, `-`, `/` for key and value";
            return Err(Error::new(Kind::Malformed, format!("{text}; {cure}")));
        }
    }
    if labels.len() > 64 {
        return Err(Error::new(Kind::Malformed, "more than 64 labels; use fewer"));
    }
    Ok(())
}

fn token(row: &EnrollTokenRow) -> Token {
    Token {
        id: row.id.clone(),
        description: row.description.clone(),
        created_at: clock::rfc3339(row.created_at),
        expires_at: clock::rfc3339(row.expires_at),
        reusable: row.reusable,
        auto_approve: row.auto_approve,
        labels: row.labels.clone(),
        used: row.used.cast_unsigned(),
    }
}

fn access_token(row: &AccessTokenRow) -> AccessToken {
    AccessToken {
        id: row.id.clone(),
        name: row.name.clone(),
        role: row.role,
        created_at: clock::rfc3339(row.created_at),
        expires_at: row.expires_at.map(clock::rfc3339),
    }
}
