//! What is good for one use, kept as digests: codes of the authorization endpoint and refresh tokens. And what was taken back.

use super::{AccessError, now_micros, on, secrets};
use crate::config::Secret;
use crate::fhir::time::Micros;
use crate::store::Store;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const SECOND: Micros = 1_000_000;
/// A code is exchanged at once.
const CODE_LIVES: Micros = 60 * SECOND;
/// A grant ends this long after the login, however often it is refreshed.
pub(super) const GRANT_LIVES: Micros = 30 * 24 * 3600 * SECOND;

/// The two kinds of ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Code,
    Refresh,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Code => "code",
            Kind::Refresh => "refresh",
        }
    }
}

/// What a person granted to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub grant: String,
    pub client: String,
    pub person: String,
    pub scopes: String,
    pub redirect_uri: String,
    pub challenge: String,
    /// The Patient in context.
    pub patient: Option<String>,
    /// Whether the person picked that one, and it is not their own.
    pub picked: bool,
    /// Of OpenID Connect, as the app gave it.
    pub nonce: Option<String>,
    /// When the person logged in, in seconds since 1970.
    pub logged_in: i64,
    /// The person's when they logged in ([`Person::generation`](super::people::Person::generation)).
    pub generation: i64,
    pub expires: Micros,
}

impl Ticket {
    /// When it was given.
    pub fn given(&self, kind: Kind) -> Micros {
        self.expires.saturating_sub(if kind == Kind::Code { CODE_LIVES } else { GRANT_LIVES })
    }

    /// Keeps the ticket; the answer is the only copy of the code or token.
    pub async fn keep(&self, store: &Store, kind: Kind) -> Result<Secret, AccessError> {
        const FORGET: &str = "DELETE FROM grant_ticket WHERE expires < $1";
        const SQL: &str = "INSERT INTO grant_ticket (digest, kind, grant_id, client, person, scopes, redirect_uri, challenge, expires, used, \
             patient, nonce, logged_in, picked, generation) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $14)";
        let secret = Secret::new(URL_SAFE_NO_PAD.encode(secrets::random::<32>()?));
        let expires = if kind == Kind::Code { now_micros().saturating_add(CODE_LIVES) } else { self.expires };
        let digest = digest(&secret);
        on!(store, write, pool => {
            sqlx::query(FORGET).bind(now_micros().saturating_sub(CODE_LIVES)).execute(pool).await?;
            sqlx::query(SQL)
                .bind(digest.as_slice())
                .bind(kind.as_str())
                .bind(&self.grant)
                .bind(&self.client)
                .bind(&self.person)
                .bind(&self.scopes)
                .bind(&self.redirect_uri)
                .bind(&self.challenge)
                .bind(expires)
                .bind(&self.patient)
                .bind(&self.nonce)
                .bind(self.logged_in)
                .bind(i64::from(self.picked))
                .bind(self.generation)
                .execute(pool)
                .await?;
        });
        Ok(secret)
    }
}

type Row = (String, String, String, String, String, String, i64, Option<String>, Option<String>, i64, i64, i64);

/// The ticket, whose one use this is. A second use by its client means that it was stolen, here or there: the whole grant ends.
pub(super) async fn redeem(store: &Store, kind: Kind, secret: &Secret, client: &str) -> Result<Ticket, AccessError> {
    const USE: &str = "UPDATE grant_ticket SET used = $2 WHERE digest = $1 AND kind = $3 AND client = $4 AND used = 0 AND expires > $2";
    const READ: &str = "SELECT grant_id, client, person, scopes, redirect_uri, challenge, expires, patient, nonce, logged_in, picked, generation FROM grant_ticket \
         WHERE digest = $1 AND kind = $2 AND client = $3";
    let digest = digest(secret);
    let used = on!(store, write, pool => sqlx::query(USE)
        .bind(digest.as_slice())
        .bind(now_micros())
        .bind(kind.as_str())
        .bind(client)
        .execute(pool)
        .await?
        .rows_affected());
    // From the writer's side, which has seen the use.
    let row: Option<Row> = on!(store, write, pool => sqlx::query_as(READ)
        .bind(digest.as_slice())
        .bind(kind.as_str())
        .bind(client)
        .fetch_optional(pool)
        .await?);
    let Some((grant, client, person, scopes, redirect_uri, challenge, expires, patient, nonce, logged_in, picked, generation)) = row else {
        return Err(AccessError::Refused("a code or refresh token is unknown"));
    };
    if used != 1 {
        end_grant(store, &grant).await?;
        return Err(AccessError::Refused("a code or refresh token was used before, or has expired"));
    }
    let picked = picked != 0;
    Ok(Ticket { grant, client, person, scopes, redirect_uri, challenge, patient, picked, nonce, logged_in, generation, expires })
}

/// The scopes of a refresh token of this client's that was not used yet, without using it.
pub(super) async fn refreshable(store: &Store, secret: &Secret, client: &str) -> Result<Option<String>, AccessError> {
    const SQL: &str = "SELECT scopes FROM grant_ticket WHERE digest = $1 AND kind = 'refresh' AND client = $2 AND used = 0";
    let digest = digest(secret);
    let row: Option<(String,)> =
        on!(store, write, pool => sqlx::query_as(SQL).bind(digest.as_slice()).bind(client).fetch_optional(pool).await?);
    Ok(row.map(|(scopes,)| scopes))
}

/// The grant of a refresh token that belongs to this client, used or not.
pub(super) async fn grant_of(store: &Store, secret: &Secret, client: &str) -> Result<Option<String>, AccessError> {
    const SQL: &str = "SELECT grant_id FROM grant_ticket WHERE digest = $1 AND kind = 'refresh' AND client = $2";
    let digest = digest(secret);
    let row: Option<(String,)> =
        on!(store, read, pool => sqlx::query_as(SQL).bind(digest.as_slice()).bind(client).fetch_optional(pool).await?);
    Ok(row.map(|(grant,)| grant))
}

/// Ends a grant: its refresh tokens and the access tokens that it gave, at once and in every process.
pub(super) async fn end_grant(store: &Store, grant: &str) -> Result<(), AccessError> {
    revoke(store, grant, now_micros().saturating_add(GRANT_LIVES)).await
}

/// Whether a token or a grant was taken back.
pub(super) async fn is_revoked(store: &Store, id: &str) -> Result<bool, AccessError> {
    const SQL: &str = "SELECT count(*) FROM revoked WHERE id = $1";
    let (count,): (i64,) = on!(store, read, pool => sqlx::query_as(SQL).bind(id).fetch_one(pool).await?);
    Ok(count > 0)
}

/// Takes a token (by its `jti`) or a grant back. `expires`: when it would have ended by itself, so that it can be forgotten.
pub(super) async fn revoke(store: &Store, id: &str, expires: Micros) -> Result<(), AccessError> {
    const FORGET: &str = "DELETE FROM revoked WHERE expires < $1";
    const SQL: &str = "INSERT INTO revoked (id, expires) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING";
    on!(store, write, pool => {
        sqlx::query(FORGET).bind(now_micros()).execute(pool).await?;
        sqlx::query(SQL).bind(id).bind(expires).execute(pool).await?;
    });
    Ok(())
}

fn digest(secret: &Secret) -> [u8; 32] {
    *blake3::hash(secret.expose().as_bytes()).as_bytes()
}
