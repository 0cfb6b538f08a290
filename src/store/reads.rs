//! Reads by id, gathered: what waits at the same moment is one statement.
//!
//! A statement's fixed cost (a thread or a server to wake, a plan to start) is several times that of finding one row, so under load
//! it is shared, as the writer shares one `fsync`. Nothing waits for company: a read that comes alone goes at once. Every
//! read is a query made after the request came, under the caller's own scope: nothing is cached, so nothing can be stale.
//!
//! Only reads under the same scope share a statement. A [`Scope::Gate`] holds the instant of its request, so no two are the same: such a read
//! is made by itself, on a connection of its own.

use super::api::{Stored, VERSION_OF_R, VersionRow, stored};
use super::query::Scope;
use super::sql::{Dialect, Sql, bind_all};
use super::{TypeCode, compile};
use sqlx::AssertSqlSafe;
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};

/// Reads that may wait for a turn; beyond it callers wait to join the queue.
const QUEUE: usize = 1024;
/// Reads of one statement: by then the fixed cost no longer shows, and there are few texts of statements to keep.
const GROUP: usize = 16;

/// The way to the task that reads.
#[derive(Clone, Debug)]
pub struct Reads {
    queue: mpsc::Sender<Wanted>,
}

/// A read that waits.
#[derive(Debug)]
struct Wanted {
    type_code: TypeCode,
    id: Box<str>,
    scope: Scope,
    reply: oneshot::Sender<Option<Stored>>,
}

/// The statement failed or its task has ended. Whose read was at fault is not known: ask for one's own.
#[derive(Debug)]
pub struct Ungathered;

impl Reads {
    pub fn on_sqlite(pool: sqlx::SqlitePool) -> Reads {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(sqlite(pool, waiting));
        Reads { queue }
    }

    pub fn on_postgres(pool: sqlx::PgPool) -> Reads {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(postgres(pool, waiting));
        Reads { queue }
    }

    /// The current version, a delete included. `None`: never existed, or hidden by `scope`.
    pub async fn read(&self, type_code: TypeCode, id: &str, scope: &Scope) -> Result<Option<Stored>, Ungathered> {
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted { type_code, id: id.into(), scope: scope.clone(), reply };
        self.queue.send(wanted).await.map_err(|_| Ungathered)?;
        answer.await.map_err(|_| Ungathered)
    }
}

/// The loop of either database. One connection is kept as long as reads wait for it.
macro_rules! gather {
    ($name:ident, $pool:ty, $dialect:expr) => {
        async fn $name(pool: $pool, mut waiting: mpsc::Receiver<Wanted>) {
            let mut group = Vec::with_capacity(GROUP);
            let mut held = None;
            loop {
                let closed = pool.close_event();
                // It tells of a close that comes after it began to listen, and not of one just before.
                if pool.is_closed() {
                    return;
                }
                let received = tokio::select! {
                    received = waiting.recv_many(&mut group, GROUP) => received,
                    () = closed => 0,
                };
                if received == 0 {
                    return;
                }
                let mut connection = match held.take() {
                    Some(connection) => connection,
                    // Those who wait hear it from their own statements.
                    None => match pool.acquire().await {
                        Ok(connection) => connection,
                        Err(_) => {
                            group.clear();
                            continue;
                        }
                    },
                };
                let mut whole = true;
                while let Some(first) = group.first() {
                    let scope = first.scope.clone();
                    let (same, others): (Vec<Wanted>, Vec<Wanted>) = group.drain(..).partition(|wanted| wanted.scope == scope);
                    group = others;
                    let Sql { text, args, .. } = statement($dialect, &same, &scope);
                    let rows: Result<Vec<VersionRow>, _> =
                        bind_all!(sqlx::query_as(AssertSqlSafe(text)), args).fetch_all(&mut *connection).await;
                    match rows.and_then(|rows| rows.into_iter().map(stored).collect()) {
                        Ok(rows) => answer(same, rows),
                        Err(_) => whole = false,
                    }
                }
                held = whole.then_some(connection);
            }
        }
    };
}

gather!(sqlite, sqlx::SqlitePool, Dialect::Sqlite);
gather!(postgres, sqlx::PgPool, Dialect::Postgres);

fn statement(dialect: Dialect, wanted: &[Wanted], scope: &Scope) -> Sql {
    let mut sql = Sql::new(dialect);
    sql.push("SELECT ").push(VERSION_OF_R).push(" FROM (VALUES ");
    sql.join(wanted, ", ", |sql, wanted| {
        sql.push("(").int(i64::from(wanted.type_code)).push(", ").str(&wanted.id).push(")");
    });
    sql.push(") v CROSS JOIN resource r WHERE r.type = v.column1 AND r.id = v.column2 AND r.version > 0");
    compile::named_condition(&mut sql, "r", scope);
    sql
}

fn answer(wanted: Vec<Wanted>, rows: Vec<Stored>) {
    let mut found: HashMap<(TypeCode, Box<str>), Stored> =
        rows.into_iter().map(|stored| ((stored.type_code, stored.id.clone()), stored)).collect();
    let mut wanted = wanted.into_iter().peekable();
    while let Some(Wanted { type_code, id, reply, .. }) = wanted.next() {
        let name = (type_code, id);
        let row = if wanted.peek().is_some() { found.get(&name).cloned() } else { found.remove(&name) };
        // A caller that went away misses nothing.
        let _ = reply.send(row);
    }
}
