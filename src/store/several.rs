//! One search over several types: each type's own search as of one moment, put into one order.
//!
//! The types share neither parameters nor indexes, so each is searched as if alone, with its own filter to drive. First one statement counts what
//! their filters find: most types have nothing of what is asked for and are searched no further. What is left is asked for by one statement for
//! [`TOGETHER`] of them. Where consents decide, each has its own, since one that held them all would hold the decision as many times, and planning
//! that takes longer than finding; and so has what may be walked along a sort's own index.
//! Keys are of one sequence whatever the type, and sort values of one kind, so the pages of each are merged as they come.

use super::by_value::VALUES;
use super::compile;
use super::query::{Scope, Snapshot, SortValue};
use super::search::{PageRow, Way, keys_of, page_of};
use super::sql::Sql;
use super::{Cursor, Filter, Page, Query, SortKey, Store, TypeCode};
use std::cmp::Ordering;

/// Types that one statement asks.
const TOGETHER: usize = 16;
/// Filters that one statement counts.
const COUNTED_TOGETHER: usize = 200;

impl Store {
    /// One page of at most `limit` rows of what any of the queries finds; no two of them find the same, and all are sorted alike.
    pub async fn search_any(&self, queries: &[&Query], limit: u32, cursor: Option<&Cursor>) -> Result<Page, sqlx::Error> {
        let first = match queries {
            [] => return Ok(Page { rows: Vec::new(), places: Vec::new(), next: None }),
            [query] => return self.search(query, limit, cursor).await,
            [first, ..] => first,
        };
        let snapshot = match cursor {
            Some(cursor) => cursor.snapshot.clone(),
            None => self.snapshot().await?,
        };
        let mut found = self.found_of_each(queries, &snapshot, cursor, limit.saturating_add(1)).await?;
        found.sort_by(|a, b| order(&first.sort, a, b));
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| more).map(|(key, values)| Cursor {
            snapshot: snapshot.clone(),
            after: values.clone(),
            after_key: *key,
        });
        let rows = self.fetch_as_of(&keys_of(&found), &snapshot, &first.scope).await?;
        Ok(page_of(&first.sort, &found, rows, next))
    }

    /// The first `limit` matches of each.
    async fn found_of_each(
        &self,
        queries: &[&Query],
        snapshot: &Snapshot,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<PageRow>, sqlx::Error> {
        let seen = Some(snapshot);
        let (mut together, mut found) = (Vec::new(), Vec::new());
        for (query, counts) in self.counted(queries, seen).await? {
            let plan = self.chosen(query, &counts, cursor, !query.sort.is_empty()).await?;
            let counted = plan.driver(query).and_then(|place| compile::rows(&counts, place));
            let few = counted.is_some_and(|rows| rows < compile::COUNTED);
            if matches!(query.scope, Scope::Gate(_))
                || !few && (compile::is_walkable(query, cursor) || compile::goes_by_value(query) || is_tail(cursor))
            {
                found.extend(self.found_by(Way { plan, alone: false, values: VALUES }, query, seen, cursor, limit).await?.0);
            } else {
                together.push((query, plan));
            }
        }
        for queries in together.chunks(TOGETHER) {
            let sorts = queries.first().map_or(0, |(query, _)| query.sort.len());
            let sql = compile::pages(self.dialect(), queries, seen, cursor, limit);
            found.extend(self.page_rows(sql, sorts, false).await?.0);
        }
        Ok(found)
    }

    /// How many resources the queries find together.
    pub async fn count_any(&self, queries: &[&Query], snapshot: Option<&Snapshot>) -> Result<u64, sqlx::Error> {
        if let [query] = queries {
            return self.count(query, snapshot).await;
        }
        let taken = if snapshot.is_none() { Some(self.snapshot().await?) } else { None };
        let seen = snapshot.or(taken.as_ref());
        let mut planned = Vec::new();
        for (query, counts) in self.counted(queries, seen).await? {
            planned.push((query, self.chosen(query, &counts, None, true).await?));
        }
        let gated = planned.first().is_some_and(|(query, _)| matches!(query.scope, Scope::Gate(_)));
        let mut total: u64 = 0;
        for queries in planned.chunks(if gated { 1 } else { TOGETHER }) {
            let found = self.integers(compile::count_each(self.dialect(), queries, seen)).await?;
            total = found.into_iter().fold(total, |total, n| total.saturating_add(n.unsigned_abs()));
        }
        Ok(total)
    }

    /// Those that may find something, with what was counted of their filters.
    async fn counted<'q>(&self, queries: &[&'q Query], seen: Option<&Snapshot>) -> Result<Vec<(&'q Query, Vec<i64>)>, sqlx::Error> {
        let mut all = Vec::new();
        let filters = queries.iter().map(|query| query.filters.len()).max().unwrap_or(0);
        for queries in self.occurring(queries).await?.chunks((COUNTED_TOGETHER / filters.max(1)).max(1)) {
            let mut of_each: Vec<(&Query, Vec<i64>)> = queries.iter().map(|query| (*query, Vec::new())).collect();
            if let Some(sql) = compile::all_row_counts(self.dialect(), queries, seen) {
                for count in self.integers(sql).await? {
                    let number = usize::try_from(count / compile::COUNT_QUERY).unwrap_or(usize::MAX);
                    if let Some((_, counts)) = of_each.get_mut(number) {
                        counts.push(count % compile::COUNT_QUERY);
                    }
                }
            }
            all.extend(of_each.into_iter().filter(|(query, counts)| !compile::finds_nothing(query, counts)));
        }
        Ok(all)
    }

    /// Those on types that there are resources of: nobody has all of them.
    async fn occurring<'q>(&self, queries: &[&'q Query]) -> Result<Vec<&'q Query>, sqlx::Error> {
        let types = self.occurring_types().await?;
        // What contains one is of any type.
        let is_contained = |query: &Query| query.filters.iter().any(|filter| matches!(filter, Filter::Contained { .. }));
        Ok(queries.iter().filter(|query| types.contains(&query.type_code) || is_contained(query)).copied().collect())
    }

    /// The types that there are, or were, resources of.
    pub(super) async fn occurring_types(&self) -> Result<Vec<TypeCode>, sqlx::Error> {
        // One step along the index for each.
        let mut sql = Sql::new(self.dialect());
        sql.push(
            "WITH RECURSIVE t (type) AS (SELECT min(r.type) FROM resource r UNION ALL \
             SELECT (SELECT min(r.type) FROM resource r WHERE r.type > t.type) FROM t WHERE t.type IS NOT NULL) \
             SELECT type FROM t WHERE type IS NOT NULL",
        );
        Ok(self.integers(sql).await?.into_iter().filter_map(|code| TypeCode::try_from(code).ok()).collect())
    }
}

/// Whether the last page ended among what has no value to be sorted by.
fn is_tail(cursor: Option<&Cursor>) -> bool {
    cursor.is_some_and(|cursor| cursor.after == [SortValue::Missing])
}

/// The order of a page's rows: as the statement of one type has them, missing values last.
fn order(sort: &[SortKey], a: &PageRow, b: &PageRow) -> Ordering {
    let values = sort.iter().zip(a.1.iter().zip(&b.1)).map(|(key, (a, b))| {
        let order = match (a, b) {
            (SortValue::Missing, SortValue::Missing) => return Ordering::Equal,
            (SortValue::Missing, _) => return Ordering::Greater,
            (_, SortValue::Missing) => return Ordering::Less,
            (SortValue::Int(a), SortValue::Int(b)) => a.cmp(b),
            (SortValue::Real(a), SortValue::Real(b)) => a.total_cmp(b),
            (SortValue::Text(a), SortValue::Text(b)) => a.cmp(b),
            // Of one column, so of one kind.
            _ => Ordering::Equal,
        };
        if key.descending { order.reverse() } else { order }
    });
    values.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.0.cmp(&b.0))
}
