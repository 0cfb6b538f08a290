//! Sorted pages of very many matches, value by value of their first key: what has its first value, sorted by the other keys, then what has the next,
//! until the page is full; at last what has none.
//!
//! Each value is a search of its own with one filter more and one key less, so it is carried out as that search is best: by whichever filter is
//! rarest, along the next key's own index, or again value by value, of fewer values. The values come from the index in their order, each by one
//! step along it. Where they do not fill a page, the matches are sorted after all: then they are few among many values.

use super::compile;
use super::query::{Snapshot, SortValue};
use super::search::{PageRow, Way};
use super::{Cursor, Query, Store};

/// Values that a page is put together of at most.
pub(super) const VALUES: usize = 40;
/// And each of its parts of so many times fewer.
const FEWER: usize = 8;

impl Store {
    /// The first `limit` matches after `cursor`, as `seen` saw them; `None`: not to be had this way.
    pub(super) async fn by_value(
        &self,
        query: &Query,
        seen: &Snapshot,
        cursor: Option<&Cursor>,
        limit: u32,
        most: usize,
    ) -> Result<Option<Vec<PageRow>>, sqlx::Error> {
        let from = cursor.and_then(|cursor| cursor.after.first());
        let mut values = match from {
            Some(SortValue::Missing) => Vec::new(),
            from => {
                let Some(sql) = compile::values(self.dialect(), query, Some(seen), from, most) else { return Ok(None) };
                self.page_rows(sql, 1, false).await?.0.into_iter().filter_map(|(_, values)| values.into_iter().next()).collect()
            }
        };
        let all = values.len() < most;
        if all {
            values.push(SortValue::Missing);
        }
        let mut found: Vec<PageRow> = Vec::new();
        for value in values {
            let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let Some(query) = compile::with_value(query, &value).filter(|_| left > 0) else { break };
            let inner = cursor.filter(|cursor| cursor.after.first() == Some(&value));
            let inner = inner.map(|cursor| Cursor { after: cursor.after.iter().skip(1).cloned().collect(), ..cursor.clone() });
            let plan = self.plan(&query, Some(seen), inner.as_ref(), !query.sort.is_empty()).await?;
            let way = Way { plan, alone: false, values: most / FEWER };
            let (rows, _) = self.found_by(way, &query, Some(seen), inner.as_ref(), left).await?;
            found.extend(rows.into_iter().map(|(key, rest)| (key, std::iter::once(value.clone()).chain(rest).collect())));
        }
        Ok((all || found.len() >= limit as usize).then_some(found))
    }
}
