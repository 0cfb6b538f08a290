//! People who log in: clinicians, desks, patients. Each belongs to a facility, as clients do.

use super::audit::administer;
use super::claimed::{Claimed, Code};
use super::{Access, AccessError, FOR_ANOTHER, Role, now_micros, now_seconds, on, secrets, totp};
use crate::config::Secret;
use crate::fhir::time::Micros;
use crate::store::Store;
use crate::store::sql::Sql;

/// Wrong logins in a row after which the account rests.
const FAILURES: i64 = 5;
/// How long it rests first; twice as long after each further failure.
const REST: Micros = 60 * 1_000_000;
/// At most.
const REST_MOST: Micros = 3600 * 1_000_000;
/// Shorter passwords can be guessed.
pub const SHORTEST_PASSWORD: usize = 12;
/// Longer ones only cost time.
pub const LONGEST_PASSWORD: usize = 1024;

/// One person, as they stand in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The name that they log in with.
    pub id: String,
    pub name: String,
    /// Argon2id in PHC form.
    pub password_hash: String,
    /// Shared secret of an authenticator app.
    pub totp: Option<Vec<u8>>,
    pub facility: String,
    pub roles: Vec<String>,
    /// Identifier value of their Practitioner.
    pub practitioner: Option<String>,
    /// Id of their own Patient, as apps are told it: they see its compartment and nothing else.
    pub patient: Option<String>,
    /// Other Patients that were theirs too when an operator looked last. What is linked later opens nothing by itself, since facilities write
    /// what links.
    pub linked: Vec<String>,
    /// Those for whom they act: of each the Patient that apps are told and those linked with it.
    pub acts_for: Vec<Vec<String>>,
    pub disabled: Option<Micros>,
    /// The last time step whose one-time code was used.
    pub totp_step: i64,
    /// Wrong logins since the last right one.
    pub failures: i64,
    /// The account rests until then; 0: it does not.
    pub locked_until: Micros,
    /// Counts how often everything that was given for them became worthless: with each new password, and whenever they were shut out. What they log in
    /// to carries the number, so what carries another is worth nothing, whatever the clocks of several processes say.
    pub generation: i64,
}

impl Person {
    /// A person who may log in from now on.
    pub fn new(id: &str, name: &str, facility: &str, password_hash: String) -> Person {
        Person {
            id: id.to_owned(),
            name: name.to_owned(),
            password_hash,
            totp: None,
            facility: facility.to_owned(),
            roles: Vec::new(),
            practitioner: None,
            patient: None,
            linked: Vec::new(),
            acts_for: Vec::new(),
            disabled: None,
            totp_step: 0,
            failures: 0,
            locked_until: 0,
            generation: 0,
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none()
    }

    /// Whether what was given for them in this generation is worth anything still.
    pub(super) fn honours(&self, generation: i64) -> bool {
        self.is_enabled() && self.generation == generation
    }

    /// Whether they log in for patients, and see nothing but what is in the context of one.
    pub(super) fn is_patients(&self) -> bool {
        self.patient.is_some() || !self.acts_for.is_empty()
    }

    /// The Patients that can be in context, as apps are told them; their own first.
    pub(super) fn contexts(&self) -> Vec<&str> {
        let others = self.acts_for.iter().filter_map(|patients| patients.first());
        self.patient.iter().chain(others).map(String::as_str).collect()
    }

    /// All Patients of the person whose Patient is in context; none when it is nobody's whom they may see. `picked`: by somebody who sees
    /// with their facility's eyes, and one source Patient of whom they picked.
    pub(super) fn in_context(&self, patient: &str, picked: bool) -> Vec<String> {
        if picked {
            return if self.is_patients() { Vec::new() } else { vec![patient.to_owned()] };
        }
        if self.is_own(patient) {
            return self.patient.iter().chain(&self.linked).cloned().collect();
        }
        let other = self.acts_for.iter().find(|patients| patients.first().is_some_and(|first| first == patient));
        other.cloned().unwrap_or_default()
    }

    pub(super) fn is_own(&self, patient: &str) -> bool {
        self.patient.as_deref() == Some(patient)
    }

    /// Who acts is who logged in, whatever the app signed besides; a patient asks for their own sake, and whoever acts for one for theirs.
    pub(super) fn complete(&self, claimed: &mut Claimed, patient: Option<&str>) -> Result<(), &'static str> {
        if claimed.practitioner.is_some() && claimed.practitioner != self.practitioner {
            return Err("subject_id is not the person who logged in");
        }
        claimed.practitioner.clone_from(&self.practitioner);
        if self.is_patients() {
            let own = patient.is_some_and(|patient| self.is_own(patient));
            claimed.purposes = vec![Code { system: None, code: if own { "PATRQT" } else { FOR_ANOTHER }.to_owned() }];
        }
        Ok(())
    }
}

/// Why a person cannot be kept as given.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    #[error("a name to log in with has 1 to 128 letters, digits and the signs . _ - @")]
    Id,
    #[error("a name, a facility code, an identifier has 1 to 128 characters and no control characters")]
    Text,
    #[error("a Patient is given by its id: letters, digits, - and ., 64 at most")]
    Patient,
    #[error("{0}")]
    Role(#[from] super::UnknownRole),
    #[error("there is somebody of this name already: choose another")]
    Exists,
    #[error("there is nobody of this name: `lango user list` shows them")]
    Unknown,
    #[error("the change could not be recorded, so it was not made: {0}")]
    Unrecorded(#[from] super::audit::AuditError),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

type Row = (
    String,
    String,
    String,
    Option<Vec<u8>>,
    i64,
    String,
    String,
    Option<String>,
    Option<String>,
    i64,
    i64,
    Option<i64>,
    String,
    String,
    i64,
);

const COLUMNS: &str = "id, name, password_hash, totp, totp_step, facility, roles, practitioner, patient, failures, locked_until, disabled, linked, acts_for, generation";

fn from_row(row: Row) -> Person {
    let (
        id,
        name,
        password_hash,
        totp,
        totp_step,
        facility,
        roles,
        practitioner,
        patient,
        failures,
        locked_until,
        disabled,
        linked,
        others,
        generation,
    ) = row;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let (roles, linked) = (words(&roles), words(&linked));
    let acts_for = others.split_whitespace().map(|patients| patients.split(',').map(str::to_owned).collect()).collect();
    Person {
        id,
        name,
        password_hash,
        totp,
        facility,
        roles,
        practitioner,
        patient,
        linked,
        acts_for,
        disabled,
        totp_step,
        failures,
        locked_until,
        generation,
    }
}

/// The person of this name, disabled ones too.
pub async fn find(store: &Store, id: &str) -> Result<Option<Person>, sqlx::Error> {
    if id.contains('\0') {
        return Ok(None);
    }
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM person WHERE id = $1"));
    let row: Option<Row> = on!(store, read, pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await?);
    Ok(row.map(from_row))
}

/// Everybody, by name.
pub async fn list(store: &Store) -> Result<Vec<Person>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM person ORDER BY id"));
    let rows: Vec<Row> = on!(store, read, pool => sqlx::query_as(sql).fetch_all(pool).await?);
    Ok(rows.into_iter().map(from_row).collect())
}

/// Keeps a new person.
pub async fn add(store: &Store, person: &Person) -> Result<(), PersonError> {
    check(person)?;
    let mut sql = Sql::new(store.dialect());
    sql.push("INSERT INTO person (id, name, password_hash, totp, totp_step, facility, roles, practitioner, patient, failures, locked_until, created, linked, acts_for) VALUES (");
    sql.str(&person.id).push(", ").str(&person.name).push(", ").str(&person.password_hash).push(", ");
    or_null(&mut sql, person.totp.as_deref(), Sql::bytes);
    sql.push(", 0, ").str(&person.facility).push(", ").str(&person.roles.join(" ")).push(", ");
    or_null(&mut sql, person.practitioner.as_deref(), Sql::str);
    sql.push(", ");
    or_null(&mut sql, person.patient.as_deref(), Sql::str);
    sql.push(", 0, 0, ").int(now_micros()).push(", ").str(&person.linked.join(" ")).push(", ").str(&joined(&person.acts_for));
    sql.push(") ON CONFLICT (id) DO NOTHING");
    if administer::<PersonError>(store, sql).await? { Ok(()) } else { Err(PersonError::Exists) }
}

fn joined(acts_for: &[Vec<String>]) -> String {
    acts_for.iter().map(|patients| patients.join(",")).collect::<Vec<_>>().join(" ")
}

fn or_null<T: ?Sized>(sql: &mut Sql, value: Option<&T>, put: impl for<'s> Fn(&'s mut Sql, &T) -> &'s mut Sql) {
    match value {
        Some(value) => put(sql, value),
        None => sql.push("NULL"),
    };
}

/// Carries `UPDATE person SET` … out on this person.
async fn update(store: &Store, mut sql: Sql, id: &str) -> Result<(), PersonError> {
    sql.push(" WHERE id = ").str(id);
    if administer::<PersonError>(store, sql).await? { Ok(()) } else { Err(PersonError::Unknown) }
}

fn updating(store: &Store) -> Sql {
    let mut sql = Sql::new(store.dialect());
    sql.push("UPDATE person SET ");
    sql
}

/// Keeps what an operator changes of a person: names, facility, roles, Practitioner, those whom they act for, authenticator app. They log in anew.
pub async fn replace(store: &Store, person: &Person) -> Result<(), PersonError> {
    check(person)?;
    let mut sql = updating(store);
    sql.push("name = ").str(&person.name).push(", facility = ").str(&person.facility);
    sql.push(", roles = ").str(&person.roles.join(" ")).push(", practitioner = ");
    or_null(&mut sql, person.practitioner.as_deref(), Sql::str);
    sql.push(", acts_for = ").str(&joined(&person.acts_for)).push(", totp = ");
    or_null(&mut sql, person.totp.as_deref(), Sql::bytes);
    sql.push(", generation = generation + 1");
    update(store, sql, &person.id).await
}

/// Sets whose records a person sees, as they are linked now.
pub async fn set_patients(store: &Store, person: &Person) -> Result<(), PersonError> {
    check(person)?;
    let mut sql = updating(store);
    sql.push("patient = ");
    or_null(&mut sql, person.patient.as_deref(), Sql::str);
    sql.push(", linked = ").str(&person.linked.join(" ")).push(", acts_for = ").str(&joined(&person.acts_for));
    update(store, sql, &person.id).await
}

fn check(person: &Person) -> Result<(), PersonError> {
    let id = &person.id;
    if id.is_empty() || id.len() > 128 || !id.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c)) {
        return Err(PersonError::Id);
    }
    let texts = [Some(&person.name), Some(&person.facility), person.practitioner.as_ref(), person.patient.as_ref()];
    if texts.into_iter().flatten().any(|text| text.trim().is_empty() || text.len() > 128 || text.chars().any(char::is_control)) {
        return Err(PersonError::Text);
    }
    let is_id = |id: &String| (1..=64).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    if !person.patient.iter().chain(&person.linked).chain(person.acts_for.iter().flatten()).all(is_id) {
        return Err(PersonError::Patient);
    }
    for role in &person.roles {
        role.parse::<Role>()?;
    }
    Ok(())
}

/// Sets a new password, and lets a resting account log in at once. Whoever had the old one keeps nothing that they got by it.
pub async fn set_password(store: &Store, id: &str, hash: &str) -> Result<(), PersonError> {
    let mut sql = updating(store);
    sql.push("password_hash = ").str(hash).push(", failures = 0, locked_until = 0, generation = generation + 1");
    update(store, sql, id).await
}

/// Shuts a person out, with the tokens given for them, or lets them in again; they must log in anew then.
pub async fn set_disabled(store: &Store, id: &str, disabled: bool) -> Result<(), PersonError> {
    let mut sql = updating(store);
    match disabled {
        true => sql.push("disabled = ").int(now_micros()).push(", generation = generation + 1"),
        false => sql.push("disabled = NULL"),
    };
    update(store, sql, id).await
}

/// A new secret for an authenticator app, as bytes to keep and as text to type into the app.
pub fn new_totp() -> Result<(Vec<u8>, Secret), AccessError> {
    let secret = secrets::random::<{ totp::SECRET_BYTES }>()?;
    Ok((secret.to_vec(), Secret::new(totp::base32(&secret))))
}

impl Access {
    /// The person who logs in with this password and, if they have an authenticator app, its code. Who is unknown, disabled, resting
    /// or wrong in one of both is refused alike.
    pub async fn log_in(&self, id: &str, password: &Secret, code: &str) -> Result<Person, AccessError> {
        const WRONG: AccessError = AccessError::Refused("a login is wrong, or its account rests or is disabled");
        let person = find(&self.store, id).await?.filter(Person::is_enabled);
        let resting = person.as_ref().is_some_and(|person| person.locked_until > now_micros());
        let hash = person.as_ref().filter(|_| !resting).map(|person| person.password_hash.as_str());
        // Counted before it is verified, so that many at once are not more tries than one after the other.
        if let (Some(person), false) = (&person, resting) {
            self.count_failure(person).await?;
        }
        let matches = self.secrets.verify_once(hash, password).await?;
        let Some(person) = person.filter(|_| matches) else { return Err(WRONG) };
        let step = match &person.totp {
            None => person.totp_step,
            Some(secret) => totp::step_of(secret, code, now_seconds(), person.totp_step).ok_or(WRONG)?,
        };
        // Only one of two logins with one code finds the earlier step.
        const RIGHT: &str =
            "UPDATE person SET failures = 0, locked_until = 0, totp_step = $2 WHERE id = $1 AND (totp IS NULL OR totp_step < $2)";
        let store = &self.store;
        let counted = on!(store, write, pool => sqlx::query(RIGHT).bind(&person.id).bind(step).execute(pool).await?.rows_affected());
        if counted == 1 { Ok(person) } else { Err(WRONG) }
    }

    async fn count_failure(&self, person: &Person) -> Result<(), AccessError> {
        const SQL: &str = "UPDATE person SET failures = failures + 1, locked_until = CASE WHEN failures + 1 >= $2 THEN $3 ELSE locked_until END \
             WHERE id = $1";
        let beyond = person.failures.saturating_add(1).saturating_sub(FAILURES).clamp(0, 10);
        let rest = REST.saturating_mul(1 << beyond).min(REST_MOST);
        let until = now_micros().saturating_add(rest);
        let store = &self.store;
        on!(store, write, pool => sqlx::query(SQL).bind(&person.id).bind(FAILURES).bind(until).execute(pool).await.map(drop)?);
        Ok(())
    }
}
