//! PostgreSQL: each unit is one transaction on one connection, in bulk statements over arrays. Row locks are taken in one
//! order, and what the server still has to break off (deadlock, serialisation failure) is tried again here, so a client
//! never sees it. Transactions are numbered by the server's own transaction ids.

use super::batch::{self, Batch, Place, ResourceRow};
use super::claims::Claims;
use super::covered::Narrowing;
use super::reads::Reads;
use super::rows::{self, Cell, ColumnType, Identity, IdentityRow, Name, Row, TABLES};
use super::sql::{Dialect, Sql, bind_all};
use super::write::{Precondition, Unit, WriteError, Written};
use super::{ResourceKey, TypeCode, closing, compile, gate, inherit, places, resting};
use crate::definitions;
use crate::fhir::time::now;
use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgPool};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Tries of one unit before the caller hears that the database failed.
const ATTEMPTS: u32 = 8;
/// A connection that was used so recently is taken to be alive.
const TRUSTED: Duration = Duration::from_secs(1);
/// A plan for all values takes a code that thousands of rows have for one that few have. Compiling a plan takes longer than any search, and
/// an index walk costs what the planner believes of a scan when the rows are in memory or on flash.
const SEARCHING: &[&str] = &["SET plan_cache_mode = force_custom_plan", "SET jit = off", "SET random_page_cost = 1.1"];
/// The same for what has one plan: planning a search under the gate takes longer than finding its page. That plan is by indexes, also when it is made while the
/// tables are nearly empty: it is kept until the server next looks at them.
const SEARCHING_BY_ONE_PLAN: &[&str] = &[
    "SET plan_cache_mode = force_generic_plan",
    "SET enable_seqscan = off",
    "SET enable_bitmapscan = off",
    "SET jit = off",
    "SET random_page_cost = 1.1",
];
/// Classes remembered; forgotten all at once when full.
const REMEMBERED: usize = 400_000;

#[derive(Clone, Debug)]
pub struct Postgres {
    /// For statements that are the same every time: the server plans them once.
    pub pool: PgPool,
    /// For searches, whose plan depends on the values: planned each time.
    pub read: PgPool,
    /// For searches that have one plan ([`Sql::is_planned_once`]): planned once a connection.
    pub planned: PgPool,
    /// Reads by id.
    pub reads: Reads,
    /// Added to the server's transaction ids; see `counter` in the migration.
    txn_base: i64,
    /// Classes whose facts this process has committed or found committed.
    classes: Arc<RwLock<HashSet<i64>>>,
    pub(super) closers: closing::Closers,
}

/// How long the first connection may take.
const REACHABLE: Duration = Duration::from_secs(10);

/// A pool's share of what one process may open.
fn connections() -> PgPoolOptions {
    super::for_good(PgPoolOptions::new())
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(30))
        // A round trip to ask whether the server is there costs as much as the statement, so only after a pause.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for < TRUSTED {
                    return Ok(true);
                }
                connection.ping().await.map(|()| true)
            })
        })
}

impl Postgres {
    pub async fn open(url: &str) -> anyhow::Result<Postgres> {
        let options = PgConnectOptions::from_str(url)?.application_name("lango");
        // A pool would try again for half a minute and then say only that it took too long.
        let first = tokio::time::timeout(REACHABLE, PgConnection::connect_with(&options)).await;
        let first = first.map_err(|_| anyhow::anyhow!("PostgreSQL does not answer: check the address, and that the server runs"))?;
        first.context("PostgreSQL cannot be reached: check the address, the login, and that the server runs")?.close().await?;
        let pool = connections().connect_with(options.clone()).await?;
        super::migrations::migrator(Dialect::Postgres).run(&pool).await.map_err(super::migrations::explained)?;
        let mut transaction = pool.begin().await?;
        let base: i64 = sqlx::query_scalar("SELECT txn_base FROM counter WHERE id = 1 FOR UPDATE").fetch_one(&mut *transaction).await?;
        // After a restore into a younger server, stored numbers would lie in the future. The newest rows of each type tell, by an index.
        let newest: i64 = sqlx::query_scalar(
            "SELECT coalesce(max(n.txn), 0) FROM generate_series(0, $1::bigint) t, \
             LATERAL (SELECT r.txn FROM resource r WHERE r.type = t ORDER BY r.updated DESC LIMIT 20) n",
        )
        .bind(definitions::r4().resource_types().len() as i64)
        .fetch_one(&mut *transaction)
        .await?;
        let current: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint").fetch_one(&mut *transaction).await?;
        let txn_base = if base + current <= newest { newest - current + 1 } else { base };
        if txn_base != base {
            sqlx::query("UPDATE counter SET txn_base = $1 WHERE id = 1").bind(txn_base).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        let searching = |settings: &'static [&'static str]| {
            connections().after_connect(move |connection, _| {
                Box::pin(async move {
                    for setting in settings {
                        sqlx::query(*setting).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
        };
        let read = searching(SEARCHING).connect_with(options.clone()).await?;
        let planned = searching(SEARCHING_BY_ONE_PLAN).connect_with(options).await?;
        let reads = Reads::on_postgres(pool.clone());
        Ok(Postgres { pool, read, planned, reads, txn_base, classes: Arc::default(), closers: Arc::default() })
    }

    /// The number that [`Postgres::snapshot`] and every write add to the server's transaction ids.
    pub fn txn_base(&self) -> i64 {
        self.txn_base
    }

    /// The connections that this statement is for.
    pub(super) fn searched_by(&self, sql: &Sql) -> &PgPool {
        if sql.is_planned_once() { &self.planned } else { &self.read }
    }

    pub async fn commit(&self, unit: Unit) -> Result<Vec<Written>, WriteError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_commit(unit.clone()).await {
                Err(WriteError::Database(error)) if attempt < ATTEMPTS && is_transient(&error) => {
                    tokio::time::sleep(Duration::from_millis(rand::random_range(1..=10 * u64::from(attempt)))).await;
                }
                verdict => return verdict,
            }
        }
    }

    /// The moment that a page's first query sees: everything committed by now and nothing else.
    pub async fn snapshot(&self) -> Result<super::query::Snapshot, sqlx::Error> {
        let text: String = sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&self.pool).await?;
        Ok(self.snapshot_of(&text))
    }

    /// What `pg_current_snapshot` says, in the store's numbers.
    pub fn snapshot_of(&self, text: &str) -> super::query::Snapshot {
        let mut parts = text.split(':').skip(1);
        let number = |part: &str| part.parse::<i64>().ok().map(|id| id + self.txn_base);
        let below = parts.next().and_then(number).unwrap_or(i64::MAX);
        let except = parts.next().unwrap_or("").split(',').filter_map(number).collect();
        super::query::Snapshot { below, except }
    }

    async fn try_commit(&self, unit: Unit) -> Result<Vec<Written>, WriteError> {
        if unit.only_records() {
            let mut batch = Batch::default();
            batch.add_audit(unit.audit, &mut |_, _| None);
            if unit.bases.is_empty() {
                super::audit::chain::write_postgres(&mut *self.pool.acquire().await?, &batch.audit).await?;
                return Ok(Vec::new());
            }
            let mut transaction = self.pool.begin().await?;
            if !closing::hold_postgres(&mut transaction, &unit.bases).await? {
                return Err(WriteError::Stale);
            }
            super::audit::chain::write_postgres(&mut transaction, &batch.audit).await?;
            transaction.commit().await?;
            return Ok(Vec::new());
        }
        let mut transaction = self.pool.begin().await?;
        let connection: &mut PgConnection = &mut transaction;
        if unit.closes() {
            closing::in_turn(&mut *connection).await?;
        }
        inherit::medicines::in_turn(&mut *connection, &unit).await?;
        let claims = Claims::of(&unit);
        claims.take(&mut *connection).await?;
        for precondition in &unit.preconditions {
            if !holds(&mut *connection, precondition).await? {
                return Err(WriteError::Stale);
            }
        }
        if let Some(resting) = &unit.terminology
            && !resting::hold_postgres(&mut *connection, resting).await?
        {
            return Err(WriteError::Stale);
        }
        if !super::visits::write_postgres(&mut *connection, &unit.visits).await? {
            return Err(WriteError::Stale);
        }
        let txn: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint").fetch_one(&mut *connection).await?;
        let txn = txn + self.txn_base;
        let (identities, reserved) = locate(&mut *connection, &unit).await?;
        if unit.rests_on().next().is_some() {
            // Shared locks: many may rest on one resource at once, and nobody changes it until they are done. Never waited for, since those
            // above are held: whoever holds one changes it, so what rests on it is out of date, and two who waited for each other would stand.
            let mut names: Vec<_> = unit.rests_on().map(|(code, id, _)| (*code, &**id)).collect();
            names.sort_unstable();
            names.dedup();
            let unchanged = select(&mut *connection, &names, " ORDER BY r.key FOR SHARE OF r SKIP LOCKED").await?;
            for (type_code, id, version) in unit.rests_on() {
                let known = unchanged.get(&(*type_code, id.clone()) as &Name);
                if known.is_none_or(|identity| !identity.live || identity.version != *version) {
                    return Err(WriteError::Stale);
                }
            }
        }
        if let Some(narrowing) = &unit.narrowing
            && !narrowing.holds_postgres(&mut *connection).await?
        {
            return Err(WriteError::Stale);
        }
        // After the locks: whoever waited for another is later.
        let updated = now();
        let definitions = definitions::r4();
        let mut batch = Batch::default();
        let mut written = Vec::with_capacity(unit.mutations.len());
        let mut target = |type_name: &str, id: &str| -> Option<ResourceKey> {
            let name: Name = (definitions.type_code(type_name)?, id.into());
            identities.get(&name).map(|identity| identity.key).or_else(|| reserved.get(&name).copied())
        };
        for mutation in unit.mutations {
            let name: Name = (mutation.type_code, mutation.id.clone());
            let identity = identities.get(&name).copied();
            if identity.map_or(0, |identity| identity.version) != mutation.base_version {
                return Err(WriteError::Stale);
            }
            let Some(key) = identity.map(|identity| identity.key).or_else(|| reserved.get(&name).copied()) else {
                return Err(WriteError::Stale);
            };
            written.push(batch.add(mutation, &Place { key, identity }, txn, updated, &mut target).0);
            if unit.posted.contains(&name) {
                batch.mark_posted(key);
            }
            if unit.patched.contains(&name) {
                batch.mark_patched(key);
            }
        }
        batch.add_audit(unit.audit, &mut target);
        if let Some(resting) = unit.terminology {
            batch.add_resting(resting);
        }
        batch.add_narrowing(unit.narrowing);
        batch.jobs = unit.jobs;
        batch.published = unit.published;
        inherit::settle(&mut inherit::Connection::Postgres(&mut *connection), &mut batch).await?;
        if batch.closes() {
            closing::lock_postgres(&mut *connection).await?;
        }
        batch.sort();
        write(&mut *connection, &batch).await?;
        inherit::medicines::settle(&mut inherit::Connection::Postgres(&mut *connection), &mut batch).await?;
        let classes = self.write_gate(&mut *connection, &batch).await?;
        claims.leave(&mut *connection).await?;
        transaction.commit().await?;
        if !classes.is_empty() {
            let mut known = self.classes.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() > REMEMBERED {
                known.clear();
            }
            known.extend(classes);
        }
        Ok(written)
    }

    /// New classes of resources (which it answers), and what patients allow from now on.
    async fn write_gate(&self, connection: &mut PgConnection, batch: &Batch) -> Result<Vec<i64>, sqlx::Error> {
        let new: Vec<(&i64, &Vec<i64>)> = {
            let known = self.classes.read().unwrap_or_else(PoisonError::into_inner);
            batch.classes.iter().filter(|(class, _)| !known.contains(class)).collect()
        };
        let mut statements = gate::class_statements(Dialect::Postgres, new.iter().copied());
        statements.extend(gate::Membership::statements(Dialect::Postgres, &batch.sets));
        let mut closed: BTreeSet<ResourceKey> = batch.resets.then_some(closing::EVERYBODY).into_iter().collect();
        closed.extend(batch.narrowings.iter().flat_map(Narrowing::patients));
        statements.extend(batch.narrowings.iter().flat_map(|narrowing| narrowing.statements(Dialect::Postgres)));
        if !batch.consents.is_empty() {
            // Which Consent replaces which is decided among all of a patient's: who closes is the only one who does.
            let settled = places::settle(&mut inherit::Connection::Postgres(&mut *connection), batch).await?;
            let patients = settled.patients;
            closed.extend(batch.rules.denied());
            let Sql { text, args, .. } = gate::RuleRows::ruled(Dialect::Postgres, &patients);
            closed.extend(
                bind_all!(sqlx::query_scalar::<_, i64>(AssertSqlSafe(text)).persistent(false), args).fetch_all(&mut *connection).await?,
            );
            statements.extend(batch.rules.statements(Dialect::Postgres, &batch.consents, &patients, &settled.replaced));
        }
        statements.extend(closing::note(Dialect::Postgres, &closed));
        for Sql { text, args, .. } in statements {
            bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).execute(&mut *connection).await?;
        }
        Ok(new.into_iter().map(|(class, _)| *class).collect())
    }
}

/// Where the unit's resources stand (locked) and the targets of its references (made, where nobody sent them yet), and keys
/// for the resources that are new.
async fn locate(connection: &mut PgConnection, unit: &Unit) -> Result<(HashMap<Name, Identity>, HashMap<Name, ResourceKey>), sqlx::Error> {
    let definitions = definitions::r4();
    let own: HashSet<(TypeCode, &str)> = unit.mutations.iter().map(|m| (m.type_code, &*m.id)).collect();
    let mut others: HashSet<(TypeCode, &str)> = HashSet::new();
    for (type_name, id) in unit.mutations.iter().flat_map(batch::targets) {
        others.extend(definitions.type_code(type_name).map(|code| (code, id)).filter(|name| !own.contains(name)));
    }
    let mut others: Vec<_> = others.into_iter().collect();
    others.sort_unstable();
    let mut own: Vec<_> = own.into_iter().collect();
    own.sort_unstable();
    // Who names an Encounter, a medicine or a result waits for whoever labels it, and the other way round; these first, as those who label them do.
    let (containers, others_still): (Vec<_>, Vec<_>) = others.iter().partition(|(code, _)| inherit::is_named(*code));
    let mut identities = select(&mut *connection, &containers, " ORDER BY r.key FOR KEY SHARE OF r").await?;
    identities.extend(select(&mut *connection, &own, " ORDER BY r.key FOR UPDATE OF r").await?);
    identities.extend(select(&mut *connection, &others_still, "").await?);
    let missing: Vec<_> = others.into_iter().filter(|(code, id)| !identities.contains_key(&(*code, Box::from(*id)) as &Name)).collect();
    if !missing.is_empty() {
        let (types, ids) = columns(&missing);
        sqlx::query(
            "INSERT INTO resource (type, id, version, live, updated, created, txn, owner, patient) \
             SELECT t, i, 0, 0, 0, 0, 0, 0, 0 FROM unnest($1::bigint[], $2::text[]) AS u(t, i) ORDER BY 1, 2 ON CONFLICT (type, id) DO NOTHING",
        )
        .bind(&types)
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
        identities.extend(select(&mut *connection, &missing, " ORDER BY r.key FOR KEY SHARE OF r").await?);
    }
    let fresh: Vec<_> = own.into_iter().filter(|(code, id)| !identities.contains_key(&(*code, Box::from(*id)) as &Name)).collect();
    let mut reserved = HashMap::new();
    if !fresh.is_empty() {
        let keys: Vec<i64> = sqlx::query_scalar("SELECT nextval('resource_key') FROM generate_series(1, $1)")
            .bind(fresh.len() as i64)
            .fetch_all(&mut *connection)
            .await?;
        reserved = fresh.into_iter().map(|(code, id)| (code, Box::from(id))).zip(keys).collect();
    }
    Ok((identities, reserved))
}

fn columns(names: &[(TypeCode, &str)]) -> (Vec<i64>, Vec<String>) {
    names.iter().map(|(code, id)| (i64::from(*code), (*id).to_owned())).unzip()
}

async fn select(
    connection: &mut PgConnection,
    names: &[(TypeCode, &str)],
    tail: &'static str,
) -> Result<HashMap<Name, Identity>, sqlx::Error> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let (types, ids) = columns(names);
    let text = format!(
        "SELECT {} FROM resource r JOIN unnest($1::bigint[], $2::text[]) AS u(t, i) ON r.type = u.t AND r.id = u.i{tail}",
        rows::IDENTITY
    );
    let found: Vec<IdentityRow> = sqlx::query_as(AssertSqlSafe(text)).bind(&types).bind(&ids).fetch_all(connection).await?;
    Ok(found.into_iter().map(rows::identity).collect())
}

async fn holds(connection: &mut PgConnection, precondition: &Precondition) -> Result<bool, sqlx::Error> {
    let Sql { text, args, .. } = compile::first_ids(Dialect::Postgres, &precondition.query, precondition.tells());
    let found: Vec<String> = bind_all!(sqlx::query_scalar(AssertSqlSafe(text)), args).fetch_all(connection).await?;
    Ok(found == precondition.expected)
}

async fn write(connection: &mut PgConnection, batch: &Batch) -> Result<(), sqlx::Error> {
    if !batch.inserts.is_empty() {
        // A name that another transaction made meanwhile fails on the unique key; the unit is then tried again and finds it.
        let insert = "INSERT INTO resource (key, type, id, version, live, updated, created, txn, owner, patient, class, own, low, high, posted, patched, body) SELECT * FROM unnest(\
             $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], \
             $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bytea[])";
        bind_resources(sqlx::query(insert), &batch.inserts).execute(&mut *connection).await?;
    }
    if !batch.superseded.is_empty() {
        let (keys, txns): (Vec<i64>, Vec<i64>) = batch.superseded.iter().copied().unzip();
        sqlx::query(
            "INSERT INTO history (key, version, type, live, updated, txn, until, owner, patient, class, low, high, patched, body) \
             SELECT r.key, r.version, r.type, r.live, r.updated, r.txn, u.t, r.owner, r.patient, r.class, r.low, r.high, r.patched, r.body \
             FROM resource r JOIN unnest($1::bigint[], $2::bigint[]) AS u(k, t) ON r.key = u.k",
        )
        .bind(&keys)
        .bind(&txns)
        .execute(&mut *connection)
        .await?;
    }
    if !batch.purged.is_empty() {
        let Sql { text, args, .. } = batch::removal(Dialect::Postgres, &batch.purged);
        bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).execute(&mut *connection).await?;
    }
    if !batch.updates.is_empty() {
        let update = "UPDATE resource r SET version = u.v, live = u.l, updated = u.d, created = CASE WHEN u.c < 0 THEN r.created ELSE u.c END, \
             txn = u.x, owner = u.o, patient = u.p, class = u.s, own = u.w, low = u.f, high = u.g, patched = u.z, body = u.b FROM unnest(\
             $1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], \
             $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[], $17::bytea[]) \
             AS u(k, t, i, v, l, d, c, x, o, p, s, w, f, g, y, z, b) WHERE r.key = u.k";
        bind_resources(sqlx::query(update), &batch.updates).execute(&mut *connection).await?;
    }
    for of_table in batch.closings.chunk_by(|a, b| a.table == b.table) {
        let Some(table) = of_table.first().and_then(|row| TABLES.get(row.table)) else { continue };
        // The key without `since`, whose cell holds the transaction that ends the row.
        let width = table.columns.len() - super::rows::TRAILER;
        let names: Vec<String> = (0..=width).map(|n| format!("c{n}")).collect();
        let same: Vec<String> = table.columns.iter().take(width).enumerate().map(|(n, (name, _))| format!("x.{name} = u.c{n}")).collect();
        let text = format!(
            "UPDATE {} x SET until = u.c{width} FROM unnest({}) AS u({}) WHERE x.until = 0 AND {}",
            table.name,
            array_types(table.columns.get(..=width).unwrap_or_default()).join(", "),
            names.join(", "),
            same.join(" AND ")
        );
        bind_cells(sqlx::query(AssertSqlSafe(text)), of_table, width + 1, table.columns).execute(&mut *connection).await?;
    }
    for of_table in batch.rows.chunk_by(|a, b| a.table == b.table) {
        let Some(table) = of_table.first().and_then(|row| TABLES.get(row.table)) else { continue };
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let text =
            format!("INSERT INTO {} ({}) SELECT * FROM unnest({})", table.name, names.join(", "), array_types(table.columns).join(", "));
        bind_cells(sqlx::query(AssertSqlSafe(text)), of_table, names.len(), table.columns).execute(&mut *connection).await?;
    }
    for job in &batch.jobs {
        super::jobs::enqueue_postgres(&mut *connection, job).await?;
    }
    super::audit::chain::write_postgres(&mut *connection, &batch.audit).await?;
    if let Some(position) = batch.published {
        sqlx::query(super::audit::chain::PUBLISHED).bind(position).execute(&mut *connection).await?;
    }
    Ok(())
}

type PgQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn array_types(columns: &[(&str, ColumnType)]) -> Vec<String> {
    let name = |kind: &ColumnType| match kind {
        ColumnType::Int => "bigint",
        ColumnType::Real => "double precision",
        ColumnType::Text => "text",
    };
    columns.iter().enumerate().map(|(n, (_, kind))| format!("${}::{}[]", n + 1, name(kind))).collect()
}

/// One array per column.
fn bind_cells<'q>(mut query: PgQuery<'q>, rows: &[Row], width: usize, columns: &[(&str, ColumnType)]) -> PgQuery<'q> {
    for (place, (_, kind)) in columns.iter().enumerate().take(width) {
        let cells = rows.iter().map(|row| row.cells.get(place));
        query = match kind {
            ColumnType::Int => {
                query.bind(cells.map(|cell| if let Some(Cell::Int(value)) = cell { *value } else { 0 }).collect::<Vec<i64>>())
            }
            ColumnType::Real => {
                query.bind(cells.map(|cell| if let Some(Cell::Real(value)) = cell { *value } else { 0.0 }).collect::<Vec<f64>>())
            }
            ColumnType::Text => {
                query.bind(cells.map(|cell| if let Some(Cell::Text(value)) = cell { &**value } else { "" }).collect::<Vec<&str>>())
            }
        };
    }
    query
}

fn bind_resources<'q>(query: PgQuery<'q>, rows: &[ResourceRow]) -> PgQuery<'q> {
    let ints = |value: fn(&ResourceRow) -> i64| rows.iter().map(value).collect::<Vec<i64>>();
    query
        .bind(ints(|row| row.key))
        .bind(ints(|row| i64::from(row.type_code)))
        .bind(rows.iter().map(|row| &*row.id).collect::<Vec<&str>>())
        .bind(ints(|row| row.version))
        .bind(ints(|row| row.live))
        .bind(ints(|row| row.updated))
        .bind(ints(|row| row.created.unwrap_or(-1)))
        .bind(ints(|row| row.txn))
        .bind(ints(|row| row.owner))
        .bind(ints(|row| row.patient))
        .bind(ints(|row| row.class))
        .bind(ints(|row| row.own))
        .bind(ints(|row| row.low))
        .bind(ints(|row| row.high))
        .bind(ints(|row| row.posted))
        .bind(ints(|row| row.patched))
        .bind(rows.iter().map(|row| row.body.as_deref()).collect::<Vec<Option<&[u8]>>>())
}

/// Deadlock, serialisation failure, or a unique key that another transaction took first: worth another try.
fn is_transient(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01" | "23505"))
}
