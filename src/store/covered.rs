//! Whom Consents cover, and what they permit no longer when other things are said of these, or persons are told apart again.
//!
//! What a Consent permits rests on what is said of Patients and on who is linked with whom. So who changes that narrows the rules in the same transaction, and
//! who writes a Consent rests on the versions that its rules were made by ([`super::gate::Rules::rests_on`]): of the two one comes first, and what comes second knows of it.

use super::api::VERSION;
use super::sql::{Dialect, Sql, bind_all};
use super::{ParamId, ResourceKey, Store, Stored, TypeCode, gate};
use crate::fhir::time::Micros;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use std::collections::{BTreeMap, BTreeSet};

/// Keys or ids of one statement.
const CHUNK: usize = 200;

/// That a Consent permits something of a Patient.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permit {
    pub consent: ResourceKey,
    pub patient: ResourceKey,
    /// Of the Patient.
    pub id: String,
    /// Of the Patient who gave it: whom the Consent names.
    pub given_by: Option<String>,
}

type PermitRow = (ResourceKey, ResourceKey, String, Option<String>);

impl From<PermitRow> for Permit {
    fn from((consent, patient, id, given_by): PermitRow) -> Permit {
        Permit { consent, patient, id, given_by }
    }
}

/// What a unit takes away of what Consents permit.
#[derive(Clone, Debug)]
pub struct Narrowing {
    patient: TypeCode,
    /// By which a Consent names whose it is.
    names: ParamId,
    ids: Vec<Box<str>>,
    /// What the Consents that permit something of these Patients permit, and of whom; when they permit anything else by now, the unit is stale.
    permits: BTreeSet<Permit>,
    /// What they permit of a Patient no longer.
    removed: BTreeSet<(ResourceKey, ResourceKey)>,
    /// When all ends at the latest that they permit.
    ends: BTreeMap<ResourceKey, Micros>,
    /// What the same unit writes anew.
    written: BTreeSet<ResourceKey>,
}

impl Narrowing {
    pub fn permits(&self) -> &BTreeSet<Permit> {
        &self.permits
    }

    /// Leaves these Consents as they are: the same unit writes them anew.
    pub fn pass_over(&mut self, consents: BTreeSet<ResourceKey>) {
        self.written = consents;
    }

    /// The Consent permits nothing of this Patient any more; what it denies stays.
    pub fn remove(&mut self, permit: &Permit) {
        if !self.written.contains(&permit.consent) {
            self.removed.insert((permit.consent, permit.patient));
        }
    }

    /// What the Consent permits, it permits until then at most.
    pub fn end(&mut self, consent: ResourceKey, until: Micros) {
        if !self.written.contains(&consent) {
            self.ends.insert(consent, until);
        }
    }

    /// Whether everything stays permitted.
    pub(super) fn is_nothing(&self) -> bool {
        self.removed.is_empty() && self.ends.is_empty()
    }

    /// Of whom less is permitted.
    pub(super) fn patients(&self) -> impl Iterator<Item = ResourceKey> {
        let ended = self.permits.iter().filter(|permit| self.ends.contains_key(&permit.consent)).map(|permit| permit.patient);
        self.removed.iter().map(|(_, patient)| *patient).chain(ended)
    }

    pub(super) fn statements(&self, dialect: Dialect) -> Vec<Sql> {
        let patients: Vec<ResourceKey> = self.patients().collect::<BTreeSet<_>>().into_iter().collect();
        let removal = |(consent, patient): &(ResourceKey, ResourceKey)| {
            let mut sql = Sql::new(dialect);
            sql.push("DELETE FROM rule WHERE precedence IN (1, 3) AND patient = ").int(*patient).push(" AND consent = ").int(*consent);
            sql
        };
        let end = |(consent, until): (&ResourceKey, &Micros)| {
            let mut sql = Sql::new(dialect);
            sql.push("UPDATE rule SET high = ").int(*until).push(" WHERE precedence IN (1, 3) AND consent = ").int(*consent);
            sql.push(" AND high > ").int(*until);
            sql
        };
        let changed = self.removed.iter().map(removal).chain(self.ends.iter().map(end));
        gate::forget(dialect, &patients).into_iter().chain(changed).chain(gate::conclude(dialect, &patients)).collect()
    }

    pub(super) async fn holds_sqlite(&self, connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
        let mut found = BTreeSet::new();
        for Sql { text, args, .. } in permits_of(Dialect::Sqlite, self.patient, self.names, &self.ids) {
            found.extend(
                bind_all!(sqlx::query_as::<_, PermitRow>(AssertSqlSafe(text)), args)
                    .fetch_all(&mut *connection)
                    .await?
                    .into_iter()
                    .map(Permit::from),
            );
        }
        Ok(found == self.permits)
    }

    /// While the Patients are held: who permits anything of them waits.
    pub(super) async fn holds_postgres(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let mut found = BTreeSet::new();
        for Sql { text, args, .. } in permits_of(Dialect::Postgres, self.patient, self.names, &self.ids) {
            let rows = bind_all!(sqlx::query_as::<_, PermitRow>(AssertSqlSafe(text)).persistent(false), args);
            found.extend(rows.fetch_all(&mut *connection).await?.into_iter().map(Permit::from));
        }
        Ok(found == self.permits)
    }
}

/// What the Consents that permit something of these Patients permit, and of whom.
fn permits_of(dialect: Dialect, patient: TypeCode, names: ParamId, ids: &[Box<str>]) -> Vec<Sql> {
    let of_some = |chunk: &[Box<str>]| {
        let mut sql = Sql::new(dialect);
        sql.push("SELECT DISTINCT n.consent, n.patient, q.id, g.id AS given_by FROM rule n JOIN resource q ON q.key = n.patient ");
        sql.push("LEFT JOIN reference x ON x.key = n.consent AND x.until = 0 AND x.param = ").literal(i64::from(names));
        sql.push(" LEFT JOIN resource g ON g.key = x.target WHERE n.precedence IN (1, 3) AND n.consent IN (");
        sql.push("SELECT m.consent FROM resource p JOIN rule m ON m.patient = p.key WHERE p.type = ").literal(i64::from(patient));
        sql.push(" AND m.precedence IN (1, 3) AND p.id IN (");
        sql.join(chunk, ", ", |sql, id| {
            sql.str(id);
        });
        sql.push("))");
        sql
    };
    ids.chunks(CHUNK).map(of_some).collect()
}

impl Store {
    /// A narrowing of what is permitted of these Patients, which takes away nothing yet. `names`: the parameter by which a Consent names whose it is.
    pub async fn narrowing(&self, patient: TypeCode, names: ParamId, ids: Vec<Box<str>>) -> Result<Narrowing, sqlx::Error> {
        let mut permits = BTreeSet::new();
        for Sql { text, args, .. } in permits_of(self.dialect(), patient, names, &ids) {
            let rows: Vec<PermitRow> = match self {
                Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
                Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            };
            permits.extend(rows.into_iter().map(Permit::from));
        }
        Ok(Narrowing { patient, names, ids, permits, removed: BTreeSet::new(), ends: BTreeMap::new(), written: BTreeSet::new() })
    }

    /// The Consents of these permits.
    pub async fn permitting(&self, permits: &BTreeSet<Permit>) -> Result<Vec<Stored>, sqlx::Error> {
        let keys: Vec<ResourceKey> = permits.iter().map(|permit| permit.consent).collect::<BTreeSet<_>>().into_iter().collect();
        let mut consents = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let mut sql = Sql::new(self.dialect());
            sql.push("SELECT ").push(VERSION).push(" FROM resource WHERE live > 0 AND key IN (");
            sql.join(chunk, ", ", |sql, key| {
                sql.literal(*key);
            });
            sql.push(")");
            consents.extend(self.versions(sql).await?);
        }
        Ok(consents)
    }
}
