//! The single statements of SQLite's writer.
//!
//! Its transaction is given up when one of them fails, so SQLite need not be able to take back a statement alone (`OR FAIL`): for that it copies
//! each page that a statement of several rows changes, which was two fifths of what bulk inserts cost.

use super::super::batch::{self, ResourceRow};
use super::super::compile;
use super::super::rows::{Cell, Row, TABLES};
use super::super::sql::{Arg, Dialect, Sql, bind_all};
use super::super::write::Precondition;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use std::sync::Arc;

/// Inserts that many rows of an index.
pub fn insert_text(table: usize, rows: usize) -> Arc<str> {
    let Some(table) = TABLES.get(table) else { return Arc::from("") };
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let row = format!("({})", vec!["?"; names.len()].join(","));
    Arc::from(format!("INSERT OR FAIL INTO {} ({}) VALUES {}", table.name, names.join(", "), vec![row; rows].join(",")))
}

pub async fn holds(connection: &mut SqliteConnection, precondition: &Precondition) -> Result<bool, sqlx::Error> {
    let Sql { text, args, .. } = compile::first_ids(Dialect::Sqlite, &precondition.query, precondition.tells());
    let found: Vec<String> = bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_all(connection).await?;
    Ok(found == precondition.expected)
}

pub async fn update(connection: &mut SqliteConnection, row: &ResourceRow) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE resource SET version = ?, live = ?, updated = ?, created = coalesce(?, created), txn = ?, owner = ?, patient = ?, \
         class = ?, own = ?, low = ?, high = ?, patched = ?, body = ? WHERE key = ?",
    )
    .bind(row.version)
    .bind(row.live)
    .bind(row.updated)
    .bind(row.created)
    .bind(row.txn)
    .bind(row.owner)
    .bind(row.patient)
    .bind(row.class)
    .bind(row.own)
    .bind(row.low)
    .bind(row.high)
    .bind(row.patched)
    .bind(row.body.as_deref())
    .bind(row.key)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn close(connection: &mut SqliteConnection, row: &Row) -> Result<(), sqlx::Error> {
    let Some(table) = TABLES.get(row.table) else { return Ok(()) };
    let key = batch::closing_key(row);
    let mut sql = Sql::new(Dialect::Sqlite);
    let ends = row.cells.get(key.len()).cloned();
    let Some(Cell::Int(txn)) = ends else { return Ok(()) };
    sql.push("UPDATE OR FAIL ").push(table.name).push(" SET until = ").int(txn).push(" WHERE until = 0");
    for ((name, _), cell) in table.columns.iter().zip(key) {
        sql.push(" AND ").push(name).push(" = ");
        sql.bind(match cell {
            Cell::Int(value) => Arg::Int(*value),
            Cell::Real(value) => Arg::Real(*value),
            Cell::Text(value) => Arg::Text(value.to_string()),
        });
    }
    bind_all!(sqlx::query(AssertSqlSafe(sql.text)), sql.args).execute(connection).await?;
    Ok(())
}
