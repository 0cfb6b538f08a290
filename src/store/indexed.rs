//! Whether resources are found by what they say: their index rows held against those that their entries make.

use super::api::Store;
use super::query::Snapshot;
use super::rows::{self, Cell, ColumnType, Stamp, TABLES, TRAILER, Table};
use super::sql::{Dialect, Sql, bind_all};
use super::{FacilityKey, IndexEntry, IndexValue, ResourceKey, TypeCode, compile};
use crate::definitions;
use sqlx::{AssertSqlSafe, Row};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Keys or ids of one statement.
const CHUNK: usize = 200;

/// A resource, and what it should be found by.
#[derive(Clone, Debug)]
pub struct Indexed {
    pub key: ResourceKey,
    pub owner: FacilityKey,
    pub patient: ResourceKey,
    pub entries: Vec<IndexEntry>,
}

impl Store {
    /// The first of these that searches would miss by something that it says, or show to others: it is unlisted, or an index row is not there or not
    /// as it should be, or a transaction is said to have begun one that is still to come, so that no page shows it. Rows that should not be there are not
    /// looked for. For lango's own work: no scope.
    pub async fn missed(&self, all: &[Indexed]) -> Result<Option<ResourceKey>, sqlx::Error> {
        let mut known: HashMap<(TypeCode, String), ResourceKey> = HashMap::new();
        let mut wanted: HashMap<TypeCode, BTreeSet<&str>> = HashMap::new();
        for entry in all.iter().flat_map(|one| &one.entries) {
            if let IndexValue::Reference { type_name, id } = entry.value.near()
                && let Some(type_code) = definitions::r4().type_code(type_name)
            {
                wanted.entry(type_code).or_default().insert(id);
            }
        }
        for (type_code, ids) in wanted {
            let ids: Vec<&str> = ids.into_iter().collect();
            for ids in ids.chunks(CHUNK) {
                let mut sql = Sql::new(self.dialect());
                sql.push("SELECT key FROM resource WHERE type = ").literal(i64::from(type_code)).push(" AND id IN (");
                sql.join(ids, ", ", |sql, id| {
                    sql.str(id);
                });
                sql.push(")");
                let keys = self.integers(sql).await?;
                known.extend(self.ids_of(&keys).await?.into_iter().map(|(key, id)| ((type_code, id), key)));
            }
        }
        // These were read before, so all that wrote them is in it.
        let snapshot = self.snapshot().await?;
        for chunk in all.chunks(CHUNK) {
            let keys: Vec<ResourceKey> = chunk.iter().map(|one| one.key).collect();
            let mut listed = Sql::new(self.dialect());
            listed.push("SELECT key FROM resource WHERE live = 1 AND created <= txn AND ");
            compile::visible(&mut listed, "txn", &snapshot);
            listed.push(" AND key IN ").push(&in_words(&keys));
            let listed: HashSet<ResourceKey> = self.integers(listed).await?.into_iter().collect();
            let mut there: HashSet<String> = HashSet::new();
            for (place, table) in TABLES.iter().enumerate() {
                there.extend(self.rows_in(place, table, &keys, &snapshot).await?);
            }
            for one in chunk {
                let stamp = Stamp { key: one.key, since: 0, owner: one.owner, patient: one.patient };
                let mut target = |type_name: &str, id: &str| known.get(&(definitions::r4().type_code(type_name)?, id.to_owned())).copied();
                let mut rows = one.entries.iter().filter_map(|entry| rows::row(entry, stamp, &mut target));
                if !listed.contains(&one.key) || rows.any(|row| !there.contains(&words(row.table, &row.cells))) {
                    return Ok(Some(one.key));
                }
            }
        }
        Ok(None)
    }

    /// The rows of one index that hold, in words that are the same of the same rows whenever they began.
    async fn rows_in(
        &self,
        place: usize,
        table: &'static Table,
        keys: &[ResourceKey],
        snapshot: &Snapshot,
    ) -> Result<Vec<String>, sqlx::Error> {
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let mut sql = Sql::new(self.dialect());
        sql.push(&format!("SELECT {} FROM {} WHERE until = 0 AND ", columns.join(", "), table.name));
        compile::visible(&mut sql, "since", snapshot);
        sql.push(" AND key IN ").push(&in_words(keys));
        let Sql { text, args, .. } = sql;
        macro_rules! read {
            ($pool:expr) => {{
                let found = bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).fetch_all($pool).await?;
                let cells = found.iter().map(|row| {
                    let cells = table.columns.iter().enumerate().map(|(at, (_, kind))| {
                        Ok(match kind {
                            ColumnType::Int => Cell::Int(row.try_get(at)?),
                            ColumnType::Real => Cell::Real(row.try_get(at)?),
                            ColumnType::Text => Cell::Text(row.try_get::<String, _>(at)?.into()),
                        })
                    });
                    Ok(words(place, &cells.collect::<Result<Vec<Cell>, sqlx::Error>>()?))
                });
                cells.collect()
            }};
        }
        match self {
            Store::Sqlite(db) => read!(&db.read),
            Store::Postgres(db) => read!(&db.pool),
        }
    }
}

/// A list of keys in brackets, of lango's own making.
fn in_words(keys: &[ResourceKey]) -> String {
    let mut sql = Sql::new(Dialect::Sqlite);
    sql.push("(0");
    for key in keys {
        sql.push(", ").literal(*key);
    }
    sql.push(")");
    sql.text
}

/// A row without the transactions that began and ended it.
fn words(table: usize, cells: &[Cell]) -> String {
    let (value, trailer) = cells.split_at(cells.len().saturating_sub(TRAILER));
    format!("{table} {value:?} {:?}", trailer.get(2..).unwrap_or_default())
}
