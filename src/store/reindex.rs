//! What indexing again needs: resources in the order of their keys, and the numbers of own search parameters.

use super::api::{Store, Stored, VERSION};
use super::sql::Sql;
use super::{ResourceKey, TypeCode};

/// The first and last number of an own search parameter; those of R4 are below.
const NUMBERS: std::ops::RangeInclusive<i64> = 2_048..=4_095;

/// A definition of an own search parameter that has a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedParameter {
    pub number: u16,
    /// The SearchParameter's id.
    pub id: String,
    /// Of what decides the values; another digest is another number.
    pub digest: String,
    /// All resources are indexed.
    pub ready: bool,
}

impl Store {
    /// Resources of a type that were not deleted, unlisted ones too, after a key. For lango's own work: no scope.
    pub async fn live_after(&self, type_code: TypeCode, after: ResourceKey, limit: u32) -> Result<Vec<Stored>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT ").push(VERSION).push(" FROM resource WHERE type = ").literal(i64::from(type_code));
        sql.push(" AND live > 0 AND key > ").int(after).push(" ORDER BY key LIMIT ").literal(i64::from(limit));
        self.versions(sql).await
    }

    /// All definitions that ever got a number.
    pub async fn numbered_parameters(&self) -> Result<Vec<NumberedParameter>, sqlx::Error> {
        const TEXT: &str = "SELECT number, id, digest, ready FROM own_parameter ORDER BY number";
        let rows: Vec<(i64, String, String, i64)> = match self {
            Store::Sqlite(db) => sqlx::query_as(TEXT).fetch_all(&db.read).await?,
            Store::Postgres(db) => sqlx::query_as(TEXT).fetch_all(&db.pool).await?,
        };
        let number = |(number, id, digest, ready): (i64, String, String, i64)| {
            Some(NumberedParameter { number: u16::try_from(number).ok()?, id, digest, ready: ready > 0 })
        };
        Ok(rows.into_iter().filter_map(number).collect())
    }

    /// Gives a definition the next free number, unless it has one. When all are given away, nothing happens.
    pub async fn number_parameter(&self, id: &str, digest: &str) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("INSERT INTO own_parameter (number, id, digest, ready) SELECT n.number, ").str(id).push(", ").str(digest);
        sql.push(", 0 FROM (SELECT coalesce(max(number) + 1, ").literal(*NUMBERS.start());
        sql.push(") AS number FROM own_parameter) n WHERE n.number <= ").literal(*NUMBERS.end()).push(" ON CONFLICT DO NOTHING");
        self.execute(sql).await.map(|_| ())
    }

    /// The values of all resources are indexed under the number.
    pub async fn parameter_ready(&self, number: u16) -> Result<(), sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("UPDATE own_parameter SET ready = 1 WHERE number = ").int(i64::from(number));
        self.execute(sql).await.map(|_| ())
    }
}
