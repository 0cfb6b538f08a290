//! Sessions: people who logged in to lango's own pages.
//!
//! A session is sealed into a cookie; of it the database keeps only that it was ended. Every request asks for the person anew, so who was
//! shut out, has a new password or lost the role is out at once and in every process. A session gives no right to resources: its
//! [`Caller`] has no scopes, and a role that a page may ask for.

use super::people::{self, Person};
use super::{Access, AccessError, Caller, now_seconds, parsed_roles, tickets};
use crate::config::Secret;
use serde::{Deserialize, Serialize};

/// How long a person may work without logging in again, in seconds.
const LIVES: i64 = 3600;
const COOKIE: &str = "lango 2026 sessions of people";
const FORM: &str = "lango 2026 forms of a session";

#[derive(Debug, Serialize, Deserialize)]
struct Session {
    id: String,
    person: String,
    /// The person's when they logged in ([`Person::generation`]).
    generation: i64,
    expires: i64,
}

impl Access {
    /// A session for who has just logged in: the text of a cookie.
    pub fn begin_session(&self, person: &Person) -> Result<Secret, AccessError> {
        let id = format!("session-{}", uuid::Uuid::new_v4().simple());
        let expires = now_seconds().saturating_add(LIVES);
        let session = Session { id, person: person.id.clone(), generation: person.generation, expires };
        self.seal(COOKIE, &session).map(Secret::new)
    }

    /// The person of a session, as they stand now.
    pub async fn session_caller(&self, cookie: &str) -> Result<Caller, AccessError> {
        const OVER: AccessError = AccessError::Refused("a session is over");
        let session: Session = self.unseal(COOKIE, cookie)?;
        if session.expires < now_seconds() || tickets::is_revoked(&self.store, &session.id).await? {
            return Err(OVER);
        }
        let person = people::find(&self.store, &session.person).await?.filter(|person| person.honours(session.generation)).ok_or(OVER)?;
        let owner = self.facility_key(&person.facility).await?;
        let roles = parsed_roles(&person.roles);
        Ok(Caller::of_session(person, owner, roles, session.id.into()))
    }

    /// Ends a session, in every process.
    pub async fn end_session(&self, cookie: &str) -> Result<(), AccessError> {
        let session: Session = self.unseal(COOKIE, cookie)?;
        tickets::revoke(&self.store, &session.id, session.expires.saturating_mul(1_000_000)).await
    }

    /// What a form of this browser carries, so that no other page can send it. `cookie`: what only the browser and lango know.
    pub fn form_token(&self, cookie: &str) -> Result<String, AccessError> {
        Ok(blake3::keyed_hash(&self.secret(FORM)?, cookie.as_bytes()).to_hex().to_string())
    }

    /// Whether a form carries it.
    pub fn is_form_token(&self, cookie: &str, token: &str) -> Result<bool, AccessError> {
        let expected = blake3::keyed_hash(&self.secret(FORM)?, cookie.as_bytes());
        // blake3::Hash compares in constant time.
        Ok(blake3::Hash::from_hex(token).is_ok_and(|token| token == expected))
    }
}
