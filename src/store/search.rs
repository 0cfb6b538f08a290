//! Searches carried out: which filter drives, which way the order is made, and the rows of a page.

use super::by_value::VALUES;
use super::compile::{self, Choice, Plan};
use super::query::{Snapshot, SortBy, SortValue};
use super::sql::{Sql, bind_all};
use super::{Cursor, Explanation, Page, Query, ResourceKey, SortKey, Store, Stored};
use sqlx::{AssertSqlSafe, Row as _};
use std::collections::{HashMap, HashSet};

impl Store {
    /// One page of at most `limit` rows.
    pub async fn search(&self, query: &Query, limit: u32, cursor: Option<&Cursor>) -> Result<Page, sqlx::Error> {
        let seen = cursor.map(|cursor| &cursor.snapshot);
        let (mut found, moment) = self.found(query, seen, cursor, limit.saturating_add(1), true).await?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let snapshot = cursor.map(|cursor| cursor.snapshot.clone()).or(moment);
        // What matched is what is shown: a version that came since may say anything.
        let rows = match &snapshot {
            Some(snapshot) => self.fetch_as_of(&keys_of(&found), snapshot, &query.scope).await?,
            None => Vec::new(),
        };
        let next = match (found.last(), snapshot) {
            (Some((key, values)), Some(snapshot)) if more => Some(Cursor { snapshot, after: values.clone(), after_key: *key }),
            _ => None,
        };
        Ok(page_of(&query.sort, &found, rows, next))
    }

    /// The first `limit` matches after `cursor`, as `seen` saw them. `alone`: they are no part of a merged page, so they may come in the order
    /// that suits them best, and a first page tells the moment that was seen.
    async fn found(
        &self,
        query: &Query,
        seen: Option<&Snapshot>,
        cursor: Option<&Cursor>,
        limit: u32,
        alone: bool,
    ) -> Result<(Vec<PageRow>, Option<Snapshot>), sqlx::Error> {
        let plan = self.plan(query, seen, cursor, !query.sort.is_empty()).await?;
        self.found_by(Way { plan, alone, values: VALUES }, query, seen, cursor, limit).await
    }

    /// The same in a way that was chosen.
    pub(super) async fn found_by(
        &self,
        way: Way,
        query: &Query,
        seen: Option<&Snapshot>,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<(Vec<PageRow>, Option<Snapshot>), sqlx::Error> {
        let Way { plan, alone, values } = way;
        let telling = alone && cursor.is_none();
        if let Some(sql) = cursor.and_then(|cursor| compile::tail(self.dialect(), query, cursor, limit, plan)) {
            return self.page_rows(sql, query.sort.len(), false).await;
        }
        let steps = self.steps(query, seen, cursor, plan).await?;
        if steps.is_some_and(|rows| rows >= compile::BY_VALUE_FROM) && values > 1 && compile::goes_by_value(query) {
            let taken = if seen.is_none() { Some(self.snapshot().await?) } else { None };
            if let Some(seen) = seen.or(taken.as_ref())
                && let Some(found) = Box::pin(self.by_value(query, seen, cursor, limit, values)).await?
            {
                return Ok((found, taken));
            }
        }
        if let Some(steps) = steps.filter(|_| compile::is_walkable(query, cursor)) {
            let sql = compile::sorted(self.dialect(), query, seen, cursor, limit, steps);
            let found = self.page_rows(self.telling(sql, telling), query.sort.len(), telling).await?;
            if found.0.len() >= limit as usize {
                return Ok(found);
            }
        }
        let (sql, sorts) = compile::page(self.dialect(), query, seen, cursor, limit, Plan { walks: alone, ..plan });
        self.page_rows(self.telling(sql, telling), sorts, telling).await
    }

    /// How many rows of the sort's own index may be passed by, where the matches are so many that they had better not be sorted.
    async fn steps(&self, query: &Query, seen: Option<&Snapshot>, cursor: Option<&Cursor>, plan: Plan) -> Result<Option<i64>, sqlx::Error> {
        if !compile::is_walkable(query, cursor) && !compile::goes_by_value(query) {
            return Ok(None);
        }
        let counted = self.integers(compile::rows_up_to(self.dialect(), query, seen, plan)).await?;
        Ok(counted.first().copied().filter(|rows| *rows >= compile::WALK_FROM))
    }

    /// The first page says itself what it saw: what commits before or after another statement asks would be on two pages or on none,
    /// once a value that they are sorted by has changed.
    fn telling(&self, mut sql: Sql, telling: bool) -> Sql {
        if telling {
            let moment = match self {
                Store::Sqlite(_) => "CAST((SELECT txn FROM counter WHERE id = 1) AS TEXT)",
                Store::Postgres(_) => "pg_current_snapshot()::text",
            };
            sql.text = format!("SELECT first.*, {moment} AS moment FROM ({}) first", sql.text);
        }
        sql
    }

    /// How the search is carried out: one count of the filters' rows, and where that does not tell, a sample. `whole`: all matches are needed.
    pub(super) async fn plan(
        &self,
        query: &Query,
        snapshot: Option<&Snapshot>,
        cursor: Option<&Cursor>,
        whole: bool,
    ) -> Result<Plan, sqlx::Error> {
        let counts = match compile::row_counts(self.dialect(), query, snapshot) {
            Some(sql) => self.integers(sql).await?,
            None => Vec::new(),
        };
        self.chosen(query, &counts, cursor, whole).await
    }

    pub(super) async fn chosen(&self, query: &Query, counts: &[i64], cursor: Option<&Cursor>, whole: bool) -> Result<Plan, sqlx::Error> {
        match compile::choose(query, counts, whole) {
            Choice::Made(plan) => Ok(plan),
            Choice::Sampled(frequent, rare) => {
                let sampled = self.integers(compile::sample(self.dialect(), query, cursor, frequent)).await?;
                Ok(if compile::is_dense(&sampled) { frequent } else { rare })
            }
        }
    }

    /// How a search is carried out, for the operator: the filters in the order of the query with what their indexes give
    /// (counting stops at a limit), the filter that drives, the statement, and the database's own plan of it.
    pub async fn explain(&self, query: &Query, limit: u32) -> Result<Explanation, sqlx::Error> {
        let counts = match compile::row_counts(self.dialect(), query, None) {
            Some(sql) => self.integers(sql).await?,
            None => Vec::new(),
        };
        let plan = self.chosen(query, &counts, None, !query.sort.is_empty()).await?;
        let driver = plan.driver(query);
        let filters = (0..query.filters.len()).map(|place| compile::rows(&counts, place)).collect();
        let limit = limit.saturating_add(1);
        let sql = match self.steps(query, None, None, plan).await? {
            Some(steps) if compile::is_walkable(query, None) => compile::sorted(self.dialect(), query, None, None, limit, steps),
            _ => compile::page(self.dialect(), query, None, None, limit, Plan { walks: true, ..plan }).0,
        };
        let statement = sql.text.clone();
        let Sql { text, args, .. } = sql;
        let plan: Vec<String> = match self {
            Store::Sqlite(db) => {
                let text = format!("EXPLAIN QUERY PLAN {text}");
                let rows: Vec<(i64, i64, i64, String)> = bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&db.read).await?;
                rows.into_iter().map(|(.., detail)| detail).collect()
            }
            Store::Postgres(db) => {
                let text = format!("EXPLAIN {text}");
                bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_all(&db.pool).await?
            }
        };
        Ok(Explanation { filters, counted: compile::COUNTED, driver, statement, plan })
    }

    /// The rows of a page, and for a first one the moment that it saw, if it has any rows.
    pub(super) async fn page_rows(&self, sql: Sql, sorts: usize, first: bool) -> Result<(Vec<PageRow>, Option<Snapshot>), sqlx::Error> {
        macro_rules! read {
            ($pool:expr) => {{
                let Sql { text, args, .. } = sql;
                let rows = bind_all!(sqlx::query(AssertSqlSafe(text)), args).fetch_all($pool).await?;
                let moment: Option<String> = rows.first().filter(|_| first).map(|row| row.try_get("moment")).transpose()?;
                let rows = rows
                    .iter()
                    .map(|row| {
                        let values = (1..=sorts).map(|place| {
                            // A column's type is the parameter's kind, which the row itself tells.
                            Ok(if let Ok(value) = row.try_get::<Option<i64>, _>(place) {
                                value.map_or(SortValue::Missing, SortValue::Int)
                            } else if let Ok(value) = row.try_get::<Option<f64>, _>(place) {
                                value.map_or(SortValue::Missing, SortValue::Real)
                            } else {
                                row.try_get::<Option<String>, _>(place)?.map_or(SortValue::Missing, SortValue::Text)
                            })
                        });
                        Ok((row.try_get(0)?, values.collect::<Result<_, sqlx::Error>>()?))
                    })
                    .collect::<Result<_, sqlx::Error>>()?;
                Ok((rows, moment.map(|moment| self.snapshot_of(&moment))))
            }};
        }
        match self {
            Store::Sqlite(db) => read!(&db.read),
            Store::Postgres(db) => {
                let pool = db.searched_by(&sql);
                read!(pool)
            }
        }
    }
}

/// How the rows of a page are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub plan: Plan,
    /// They are no part of a merged page.
    pub alone: bool,
    /// Of how many values of its first sort key it may be put together.
    pub values: usize,
}

/// The key of a match and the values by which it is sorted.
pub(super) type PageRow = (ResourceKey, Vec<SortValue>);

/// The resources of a page, each once.
pub(super) fn keys_of(found: &[PageRow]) -> Vec<ResourceKey> {
    let mut seen = HashSet::new();
    found.iter().map(|(key, _)| *key).filter(|key| seen.insert(*key)).collect()
}

/// The page of these matches, whose resources are `rows`. A resource matches several times where what it contains is counted.
pub(super) fn page_of(sort: &[SortKey], found: &[PageRow], rows: Vec<Stored>, next: Option<Cursor>) -> Page {
    let Some(column) = sort.iter().position(|key| key.by == SortBy::Contained) else {
        return Page { rows, places: Vec::new(), next };
    };
    let by_key: HashMap<ResourceKey, Stored> = rows.into_iter().map(|row| (row.key, row)).collect();
    let place = |values: &[SortValue]| match values.get(column) {
        Some(SortValue::Int(place)) => u32::try_from(*place).unwrap_or(0),
        _ => 0,
    };
    let placed = found.iter().filter_map(|(key, values)| Some((by_key.get(key)?.clone(), place(values))));
    let (rows, places) = placed.unzip();
    Page { rows, places, next }
}
