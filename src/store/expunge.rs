//! Removing for good: resources that were deleted, versions that are no longer current, or everything.
//!
//! A resource that is expunged leaves its name behind (a row of version 0, like one that was referred to and never sent), because others may
//! refer to it and the audit does. Of a Patient whom a Consent or the audit speaks of only the versions go: the id stays taken as that of any
//! deleted resource, since whoever got it next would get what the Consent opens, and the accounting of somebody else. Its index rows ended with the delete and are swept within a day ([`super::upkeep`]). What is evidence
//! stays: AuditEvents that lango wrote, Consents, whose versions the audit names, and lango's own Tasks, whose first version binds a token.
//!
//! No scope: this is for whoever runs lango, over all facilities.

use super::rows::TABLES;
use super::sql::{Dialect, Sql, bind_all};
use super::{Store, TypeCode};
use crate::definitions;
use crate::store::audit::AUDIT;
use sqlx::AssertSqlSafe;

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expunge {
    /// Only of this type, and of it only this id.
    pub of: Option<(TypeCode, Option<String>)>,
    /// Resources that were deleted, with all their versions.
    pub deleted: bool,
    /// Versions of the past.
    pub previous: bool,
    /// Resources and versions together, at most.
    pub limit: u32,
}

/// How much was removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expunged {
    pub resources: u64,
    pub versions: u64,
}

impl Expunged {
    pub fn total(self) -> u64 {
        self.resources.saturating_add(self.versions)
    }
}

/// Rows that one transaction removes.
const BATCH: u32 = 500;

impl Store {
    /// How much [`Store::expunge`] would remove.
    pub async fn expungeable(&self, asked: &Expunge) -> Result<Expunged, sqlx::Error> {
        let mut found = Expunged::default();
        let mut left = asked.limit;
        for (wanted, what) in [(asked.deleted, What::Deleted), (asked.deleted || asked.previous, What::Versions)] {
            if wanted {
                let mut sql = Sql::new(self.dialect());
                sql.push("SELECT count(*) FROM (");
                what.select(&mut sql, asked, left);
                sql.push(") n");
                let rows = self.integers(sql).await?.first().map_or(0, |rows| rows.unsigned_abs());
                left = left.saturating_sub(u32::try_from(rows).unwrap_or(u32::MAX));
                *what.count(&mut found) = rows;
            }
        }
        Ok(found)
    }

    /// Removes it, a few hundred rows at a time, each time whole or not at all.
    pub async fn expunge(&self, asked: &Expunge) -> Result<Expunged, sqlx::Error> {
        let mut removed = Expunged::default();
        let mut left = asked.limit;
        // Versions first: a resource whose versions are left is still known as deleted, and the next call goes on with it.
        for (wanted, what) in [(asked.deleted || asked.previous, What::Versions), (asked.deleted, What::Deleted)] {
            while wanted && left > 0 {
                let batch = left.min(BATCH);
                let rows = self.in_one(what.removal(self.dialect(), asked, batch)).await?;
                *what.count(&mut removed) += rows;
                left = left.saturating_sub(u32::try_from(rows).unwrap_or(u32::MAX));
                if rows < u64::from(batch) {
                    break;
                }
            }
        }
        Ok(removed)
    }

    /// Removes all resources with their versions and indexes, patients' rules, submissions and what is remembered of visits, in one transaction. Clients,
    /// people, jobs and the audit stay.
    pub async fn expunge_everything(&self) -> Result<Expunged, sqlx::Error> {
        let dialect = self.dialect();
        let statement = |text: String| {
            let mut sql = Sql::new(dialect);
            sql.push(&text);
            sql
        };
        let mut statements = vec![
            statement(format!("DELETE FROM history WHERE patient <> {AUDIT}")),
            statement(format!("{EMPTIED} WHERE version > 0 AND patient <> {AUDIT}")),
        ];
        statements.extend(TABLES.iter().map(|table| statement(format!("DELETE FROM {} WHERE patient <> {AUDIT}", table.name))));
        let others = ["rule", "rule_part", "verdict", "consent_place", "visit", "own_parameter", "unmapped", "submission"];
        statements.extend(others.map(|table| statement(format!("DELETE FROM {table}"))));
        let rows = self.all_in_one(statements).await?;
        let count = |place: usize| rows.get(place).copied().unwrap_or_default();
        Ok(Expunged { versions: count(0), resources: count(1) })
    }

    async fn in_one(&self, statement: Sql) -> Result<u64, sqlx::Error> {
        Ok(self.all_in_one(vec![statement]).await?.first().copied().unwrap_or_default())
    }

    /// Carries out the statements together; how many rows each one changed. The transaction gets a number, by which writers that
    /// remember where resources stand learn that they must look again.
    async fn all_in_one(&self, statements: Vec<Sql>) -> Result<Vec<u64>, sqlx::Error> {
        let mut changed = Vec::with_capacity(statements.len());
        match self {
            Store::Sqlite(db) => {
                let mut transaction = db.write.begin_with("BEGIN IMMEDIATE").await?;
                for Sql { text, args, .. } in statements {
                    changed.push(bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *transaction).await?.rows_affected());
                }
                sqlx::query("UPDATE counter SET txn = txn + 1 WHERE id = 1").execute(&mut *transaction).await?;
                transaction.commit().await?;
            }
            Store::Postgres(db) => {
                let mut transaction = db.pool.begin().await?;
                for Sql { text, args, .. } in statements {
                    let query = bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args);
                    changed.push(query.execute(&mut *transaction).await?.rows_affected());
                }
                transaction.commit().await?;
            }
        }
        Ok(changed)
    }
}

/// Makes a row what it is before anything was received.
const EMPTIED: &str = "UPDATE resource SET version = 0, live = 0, updated = 0, created = 0, txn = 0, owner = 0, patient = 0, class = 0, \
                       low = 0, high = 0, posted = 0, patched = 0, body = NULL";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Rows of `resource`.
    Deleted,
    /// Rows of `history`.
    Versions,
}

impl What {
    fn count(self, of: &mut Expunged) -> &mut u64 {
        match self {
            What::Deleted => &mut of.resources,
            What::Versions => &mut of.versions,
        }
    }

    fn removal(self, dialect: Dialect, asked: &Expunge, most: u32) -> Sql {
        let mut sql = Sql::new(dialect);
        match self {
            // What came to life again meanwhile, or has versions left, is looked at again in the statement itself.
            What::Deleted => sql.push(EMPTIED).push(" WHERE live = 0 AND version > 0 AND key IN ("),
            What::Versions => sql.push("DELETE FROM history WHERE (key, version) IN ("),
        };
        self.select(&mut sql, asked, most);
        sql.push(")");
        sql
    }

    /// `SELECT key` or `SELECT key, version` of at most `most` rows.
    fn select(self, sql: &mut Sql, asked: &Expunge, most: u32) {
        match self {
            What::Deleted => sql.push("SELECT r.key FROM resource r WHERE r.live = 0 AND r.version > 0"),
            What::Versions => sql.push("SELECT h.key, h.version FROM history h JOIN resource r ON r.key = h.key WHERE 1 = 1"),
        };
        if self == What::Versions && !asked.previous {
            // All versions go of what was deleted, and of nothing else.
            sql.push(" AND r.live = 0 AND r.version > 0");
        }
        if let Some((type_code, id)) = &asked.of {
            sql.push(" AND r.type = ").literal(i64::from(*type_code));
            if let Some(id) = id {
                sql.push(" AND r.id = ").str(id);
            }
        }
        let r4 = definitions::r4();
        let code = |name: &str| r4.type_code(name).map_or(-1, i64::from);
        sql.push(" AND r.patient <> ").literal(AUDIT).push(" AND r.type <> ").literal(code("Consent"));
        sql.push(" AND NOT (r.owner = 0 AND r.type = ").literal(code("Task")).push(")");
        if self == What::Deleted {
            sql.push(" AND NOT (r.type = ").literal(code("Patient"));
            sql.push(" AND (EXISTS (SELECT 1 FROM rule u WHERE u.patient = r.key) OR EXISTS (SELECT 1 FROM audit_about a WHERE a.patient = r.key)))");
        }
        if self == What::Versions {
            sql.push(" AND h.patient <> ").literal(AUDIT);
        }
        sql.push(if self == What::Versions { " ORDER BY h.key, h.version LIMIT " } else { " ORDER BY r.key LIMIT " });
        sql.literal(i64::from(most));
    }
}
