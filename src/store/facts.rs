//! Facts: rows of index values for measures, in one pass over the indexes and without reading a body.
//!
//! Each column's parameter is read once into memory, keyed by resource (a sequential scan of one stretch of one index), and
//! the base search's keys are then looked up hop by hop. So the cost grows with the rows that the parameters have, not with
//! the number of joins, and is the same on both databases.

use super::api::{Fact, FactQuery, FactValue, Store};
use super::query::Kind;
use super::sql::{Sql, bind_all};
use super::{FacilityKey, ParamId, ResourceKey, compile};
use crate::fhir::Interval;
use futures_util::TryStreamExt;
use sqlx::AssertSqlSafe;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What a leaf parameter says of each resource.
enum Leaf {
    Tokens(HashMap<ResourceKey, Vec<(i64, std::sync::Arc<str>)>>),
    Dates(HashMap<ResourceKey, Interval>),
    Reals(HashMap<ResourceKey, f64>),
    Texts(HashMap<ResourceKey, String>),
    Keys(HashMap<ResourceKey, ResourceKey>),
}

impl Store {
    /// Feeds every fact of `query` to `each`, in one pass.
    pub async fn facts(&self, query: &FactQuery, each: &mut (dyn FnMut(Fact) + Send)) -> Result<(), sqlx::Error> {
        let mut hops: HashMap<ParamId, HashMap<ResourceKey, ResourceKey>> = HashMap::new();
        let mut leaves: HashMap<(ParamId, Kind), Leaf> = HashMap::new();
        for column in &query.columns {
            for hop in &column.hops {
                if !hops.contains_key(hop) {
                    hops.insert(*hop, self.targets(*hop, query.followed.as_deref()).await?);
                }
            }
            if let Entry::Vacant(place) = leaves.entry((column.leaf, column.kind)) {
                place.insert(self.leaf(column.leaf, column.kind).await?);
            }
        }
        let mut sql = compile::keys(self.dialect(), &query.base);
        sql.text = format!("SELECT key, owner FROM resource WHERE key IN ({}) ORDER BY key", sql.text);
        let mut emit = |(key, owner): (i64, i64)| {
            let values = query.columns.iter().map(|column| {
                let end = column.hops.iter().try_fold(key, |at, hop| hops.get(hop)?.get(&at).copied());
                let leaf = leaves.get(&(column.leaf, column.kind));
                end.zip(leaf).map_or(FactValue::Missing, |(end, leaf)| leaf.value(end))
            });
            each(Fact { key, owner, values: values.collect() });
        };
        let Sql { text, args, .. } = sql;
        match self {
            Store::Sqlite(db) => {
                let mut rows = bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch(&db.read);
                while let Some(row) = rows.try_next().await? {
                    emit(row);
                }
            }
            Store::Postgres(db) => {
                let mut rows = bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch(&db.pool);
                while let Some(row) = rows.try_next().await? {
                    emit(row);
                }
            }
        }
        Ok(())
    }

    /// Where a parameter's references lead, as far as one of `owners` contributed that.
    async fn targets(&self, param: ParamId, owners: Option<&[FacilityKey]>) -> Result<HashMap<ResourceKey, ResourceKey>, sqlx::Error> {
        let Some(owners) = owners else { return Ok(self.column::<i64>("reference", "target", param).await?.into_iter().collect()) };
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT x.key, x.target FROM reference x JOIN resource t ON t.key = x.target WHERE x.until = 0 AND x.param = ");
        sql.literal(i64::from(param)).push(" AND t.owner IN (-1");
        for owner in owners {
            sql.push(", ").int(*owner);
        }
        sql.push(")");
        let Sql { text, args, .. } = sql;
        let rows: Vec<(ResourceKey, ResourceKey)> = match self {
            Store::Sqlite(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?,
            Store::Postgres(db) => bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.pool).await?,
        };
        Ok(rows.into_iter().collect())
    }

    async fn leaf(&self, param: ParamId, kind: Kind) -> Result<Leaf, sqlx::Error> {
        Ok(match kind {
            Kind::Token => {
                let mut codes: HashMap<String, std::sync::Arc<str>> = HashMap::new();
                let mut tokens: HashMap<ResourceKey, Vec<(i64, std::sync::Arc<str>)>> = HashMap::new();
                for (key, (code, system)) in self.column_pair(param).await? {
                    let code = codes.entry(code).or_insert_with_key(|code| code.as_str().into()).clone();
                    tokens.entry(key).or_default().push((system, code));
                }
                Leaf::Tokens(tokens)
            }
            Kind::Date => {
                let mut dates: HashMap<ResourceKey, Interval> = HashMap::new();
                let lows = self.column::<i64>("date", "low", param).await?;
                let highs: HashMap<ResourceKey, i64> = self.column::<i64>("date", "high", param).await?.into_iter().rev().collect();
                for (key, low) in lows {
                    let high = highs.get(&key).copied().unwrap_or(low);
                    let interval = Interval { low, high };
                    dates.entry(key).and_modify(|known| *known = (*known).min(interval)).or_insert(interval);
                }
                Leaf::Dates(dates)
            }
            Kind::Number | Kind::Quantity => {
                let table = if kind == Kind::Number { "number" } else { "quantity" };
                let mut reals = HashMap::new();
                for (key, value) in self.column::<f64>(table, "value", param).await? {
                    reals.entry(key).and_modify(|known: &mut f64| *known = known.min(value)).or_insert(value);
                }
                Leaf::Reals(reals)
            }
            Kind::Reference => Leaf::Keys(self.targets(param, None).await?),
            Kind::String | Kind::Uri | Kind::Composite => {
                let (table, column) = match kind {
                    Kind::String => ("string", "folded"),
                    Kind::Uri => ("uri", "uri"),
                    _ => ("composite", "code1"),
                };
                let mut texts: HashMap<ResourceKey, String> = HashMap::new();
                for (key, text) in self.column::<String>(table, column, param).await? {
                    texts.entry(key).and_modify(|known| *known = known.clone().min(text.clone())).or_insert(text);
                }
                Leaf::Texts(texts)
            }
        })
    }

    /// (resource, value) of every row of one parameter, in index order.
    async fn column<T>(&self, table: &'static str, column: &'static str, param: ParamId) -> Result<Vec<(ResourceKey, T)>, sqlx::Error>
    where
        T: Send
            + Unpin
            + for<'r> sqlx::Decode<'r, sqlx::Sqlite>
            + sqlx::Type<sqlx::Sqlite>
            + for<'r> sqlx::Decode<'r, sqlx::Postgres>
            + sqlx::Type<sqlx::Postgres>,
    {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key, ").push(column).push(" FROM ").push(table).push(" WHERE until = 0 AND param = ").literal(i64::from(param));
        let text = sql.text;
        match self {
            Store::Sqlite(db) => sqlx::query_as(AssertSqlSafe(text)).fetch_all(&db.read).await,
            Store::Postgres(db) => sqlx::query_as(AssertSqlSafe(text)).fetch_all(&db.pool).await,
        }
    }

    async fn column_pair(&self, param: ParamId) -> Result<Vec<(ResourceKey, (String, i64))>, sqlx::Error> {
        let mut sql = Sql::new(self.dialect());
        sql.push("SELECT key, code, system FROM token WHERE until = 0 AND param = ").literal(i64::from(param));
        let text = sql.text;
        let rows: Vec<(i64, String, i64)> = match self {
            Store::Sqlite(db) => sqlx::query_as(AssertSqlSafe(text)).fetch_all(&db.read).await?,
            Store::Postgres(db) => sqlx::query_as(AssertSqlSafe(text)).fetch_all(&db.pool).await?,
        };
        Ok(rows.into_iter().map(|(key, code, system)| (key, (code, system))).collect())
    }
}

impl Leaf {
    fn value(&self, key: ResourceKey) -> FactValue {
        match self {
            Leaf::Tokens(tokens) => tokens.get(&key).map_or(FactValue::Missing, |list| {
                FactValue::Tokens(list.iter().map(|(system, code)| (*system, code.to_string())).collect())
            }),
            Leaf::Dates(dates) => dates.get(&key).map_or(FactValue::Missing, |date| FactValue::Date(*date)),
            Leaf::Reals(reals) => reals.get(&key).map_or(FactValue::Missing, |value| FactValue::Real(*value)),
            Leaf::Texts(texts) => texts.get(&key).map_or(FactValue::Missing, |text| FactValue::Text(text.clone())),
            Leaf::Keys(keys) => keys.get(&key).map_or(FactValue::Missing, |target| FactValue::Key(*target)),
        }
    }
}
