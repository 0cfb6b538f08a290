//! One search over several types: each type's own search as of one moment, put into one order.
//!
//! The types share neither parameters nor indexes, so each is searched as if alone, with its own filter to drive; but by statements of
//! their own, since one that held them all would hold the scope's condition as many times, and planning that takes longer than finding.
//! Keys are of one sequence whatever the type, and sort values of one kind, so the pages of each are merged as they come.

use super::query::{Snapshot, SortValue};
use super::search::{PageRow, keys_of, page_of};
use super::sql::Sql;
use super::{Cursor, Filter, Page, Query, SortKey, Store, TypeCode};
use std::cmp::Ordering;

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
        let mut found = Vec::new();
        for query in self.occurring(queries).await? {
            found.extend(self.found(query, Some(&snapshot), cursor, limit.saturating_add(1), false).await?.0);
        }
        found.sort_by(|a, b| order(&first.sort, a, b));
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| more).map(|(key, values)| Cursor {
            snapshot: snapshot.clone(),
            after: values.clone(),
            after_key: *key,
        });
        let rows = self.fetch_as_of(&keys_of(&found), &snapshot).await?;
        Ok(page_of(&first.sort, &found, rows, next))
    }

    /// How many resources the queries find together.
    pub async fn count_any(&self, queries: &[&Query], snapshot: Option<&Snapshot>) -> Result<u64, sqlx::Error> {
        let taken = if snapshot.is_none() && queries.len() > 1 { Some(self.snapshot().await?) } else { None };
        let snapshot = snapshot.or(taken.as_ref());
        let mut total: u64 = 0;
        for query in self.occurring(queries).await? {
            total = total.saturating_add(self.count(query, snapshot).await?);
        }
        Ok(total)
    }

    /// Those on types that there are resources of: nobody has all of them.
    async fn occurring<'q>(&self, queries: &[&'q Query]) -> Result<Vec<&'q Query>, sqlx::Error> {
        if let [query] = queries {
            return Ok(vec![query]);
        }
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
