//! The pools that this room's few small queries run on.

use sqlx::{PgPool, SqlitePool};

/// A database, by dialect. The queries of this room are written so that both dialects take the same text.
#[derive(Clone, Debug)]
pub enum Db {
    /// SQLite has one writer.
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
    },
    Postgres(PgPool),
}

/// Runs one query expression on the pool for reading (`read`) or writing (`write`).
macro_rules! on {
    ($db:expr, $side:ident, $pool:ident => $query:expr) => {
        match $db {
            $crate::access::Db::Sqlite { $side: $pool, .. } => $query,
            $crate::access::Db::Postgres($pool) => $query,
        }
    };
}
pub(super) use on;
