//! SQLite: many readers, one writer task. The writer gathers the units that are waiting into one transaction and one `fsync`
//! (group commit, `synchronous=FULL`): an acknowledged write survives a power cut, and the cost of the cut is shared.

mod statements;

use super::audit::NewRow;
use super::audit::chain::{self, End};
use super::batch::{self, Batch, Place};
use super::covered::Narrowing;
use super::reads::Reads;
use super::rows::{self, Cell, Identity, IdentityRow, Name, Row};
use super::sql::{Dialect, Sql, bind_all};
use super::write::{Unit, WriteError, Written};
use super::{ResourceKey, TypeCode, closing, for_good, gate, inherit, is_unavailable, places, resting};
use crate::definitions;
use crate::fhir::time::{Micros, now};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Arguments as _, AssertSqlSafe, Connection as _, Row as _, SqlitePool};
use statements::{close, holds, insert_text, update};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Units that may wait for the writer; beyond it callers wait in turn.
const QUEUE: usize = 256;
/// Changes and events after which a group is committed although more is waiting: keeps a commit near 100 ms on slow disks.
const GROUP: usize = 4_000;
/// Rows per INSERT.
const CHUNK: usize = 100;
/// How long a statement waits for another process's write.
const PATIENCE: Duration = Duration::from_secs(10);
/// For so long after a write that was not taken nobody is told that others are.
const RECENTLY: Duration = Duration::from_secs(10);
/// Bytes of a write-ahead log that is cut; what SQLite keeps of itself is 4,000 pages of 8 KiB.
pub const LONG_LOG: u64 = 256 << 20;
/// The resource table's place among the texts of [`Writer::inserts`].
const RESOURCE: usize = usize::MAX;
/// Identities remembered between groups; forgotten all at once when full.
const REMEMBERED: usize = 400_000;

#[derive(Debug)]
pub struct Sqlite {
    /// Read-only connections.
    pub read: SqlitePool,
    /// One connection: whoever writes waits in turn for it.
    pub write: SqlitePool,
    queue: mpsc::Sender<Request>,
    path: PathBuf,
    /// Units since the last look of [`Sqlite::rest`], and whether it has done its work since.
    commits: AtomicU64,
    rested: AtomicBool,
    refused: Refused,
    /// Reads by id.
    pub reads: Reads,
    pub(super) closers: closing::Closers,
}

/// When the last group of writes met a database that takes none, such as one on a full disk; `None`: it was written.
type Refused = Arc<Mutex<Option<Instant>>>;

#[derive(Debug)]
struct Request {
    unit: Unit,
    reply: oneshot::Sender<Result<Vec<Written>, WriteError>>,
}

impl Sqlite {
    pub async fn open(url: &str) -> anyhow::Result<Sqlite> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE)
            .page_size(8192)
            .pragma("cache_size", "-131072")
            .pragma("temp_store", "MEMORY")
            .pragma("wal_autocheckpoint", "4000");
        let path = options.get_filename().to_owned();
        let write = for_good(SqlitePoolOptions::new()).max_connections(1).test_before_acquire(false).before_acquire(|connection, _| {
            // A full disk ends a transaction by itself, and the ROLLBACK that follows fails for want of one: the library then believes
            // for ever that one is open, and begins no other on this connection. The next one may.
            Box::pin(std::future::ready(Ok(!connection.is_in_transaction())))
        });
        let write = write.connect_with(options.clone()).await?;
        super::migrations::migrator(Dialect::Sqlite).run(&write).await.map_err(super::migrations::explained)?;
        chain::seal_left_over(&write).await?;
        let reader = options.read_only(true).create_if_missing(false).pragma("cache_size", "-16384").row_buffer_size(1024);
        let readers = std::thread::available_parallelism().map_or(4, |cores| cores.get() as u32 * 2).clamp(4, 16);
        let read = for_good(SqlitePoolOptions::new())
            .max_connections(readers)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(reader)
            .await?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let refused = Refused::default();
        tokio::spawn(Writer::new(write.clone(), Arc::clone(&refused)).run(waiting));
        let reads = Reads::on_sqlite(read.clone());
        Ok(Sqlite {
            read,
            write,
            queue,
            path,
            commits: AtomicU64::new(0),
            rested: AtomicBool::new(false),
            refused,
            reads,
            closers: Default::default(),
        })
    }

    /// Whether the database takes writes; it is tried only after it took none. A full disk may have room for this one and for no other, so for a
    /// moment it is not believed.
    pub async fn takes_writes(&self) -> Result<(), sqlx::Error> {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refused {
            None => return Ok(()),
            Some(at) if at.elapsed() < RECENTLY => return Err(std::io::Error::other("the database took no write a moment ago").into()),
            Some(_) => {}
        }
        sqlx::query("UPDATE counter SET txn = txn WHERE id = 1").execute(&self.write).await.map(drop)
    }

    /// Gives the page caches back when nothing was written since the last call.
    pub async fn rest(&self) -> Result<(), sqlx::Error> {
        if self.commits.swap(0, Ordering::Relaxed) == 0 && !self.rested.swap(true, Ordering::Relaxed) {
            sqlx::query("PRAGMA shrink_memory").execute(&self.write).await?;
            // Readers live as long as the pool ([`super::for_good`]). Each goes to the end of the line, so that one after the other gives its cache back.
            for _ in 0..self.read.size() {
                let Some(mut reader) = self.read.try_acquire() else { break };
                sqlx::query("PRAGMA shrink_memory").execute(&mut *reader).await?;
            }
        }
        Ok(())
    }

    /// Moves what the write-ahead log holds into the database and empties it, when it has grown beyond `bytes`: as long as readers
    /// follow one another without a gap, SQLite itself never starts it over. Writers wait meanwhile, but not long for a slow reader.
    pub async fn cut_log(&self, bytes: u64) -> Result<(), sqlx::Error> {
        let log = format!("{}-wal", self.path.display());
        if tokio::fs::metadata(log).await.map_or(0, |file| file.len()) <= bytes {
            return Ok(());
        }
        let mut connection = self.write.acquire().await?;
        sqlx::query("PRAGMA busy_timeout = 1000").execute(&mut *connection).await?;
        let cut = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *connection).await;
        sqlx::query(AssertSqlSafe(format!("PRAGMA busy_timeout = {}", PATIENCE.as_millis()))).execute(&mut *connection).await?;
        cut.map(|_| ())
    }

    pub async fn commit(&self, unit: Unit) -> Result<Vec<Written>, WriteError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.rested.store(false, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.queue.send(Request { unit, reply }).await.map_err(|_| WriteError::Busy)?;
        answer.await.map_err(|_| WriteError::Busy)?
    }
}

/// The writer task's own state.
struct Writer {
    pool: SqlitePool,
    refused: Refused,
    /// The counter as this task left it; another process that wrote since has moved it.
    txn: i64,
    next_key: ResourceKey,
    /// `lastUpdated` of the newest unit.
    updated: Micros,
    /// Where resources stand, as of `txn`.
    identities: HashMap<Name, Identity>,
    /// Classes whose facts are written, as of `txn`.
    classes: HashSet<i64>,
    /// INSERT texts by table and number of rows.
    inserts: HashMap<(usize, usize), Arc<str>>,
    /// Where the audit's chain ends as this task left it, or as of the transaction under way; `None`: not known.
    end: Option<End>,
}

/// One unit's verdict inside a group.
enum Verdict {
    Applied(Vec<Written>),
    Stale,
}

impl Writer {
    fn new(pool: SqlitePool, refused: Refused) -> Self {
        Writer {
            pool,
            refused,
            txn: 0,
            next_key: 0,
            updated: 0,
            identities: HashMap::new(),
            classes: HashSet::new(),
            inserts: HashMap::new(),
            end: None,
        }
    }

    async fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        while let Some(first) = waiting.recv().await {
            let mut size = first.unit.size();
            let mut group = vec![first];
            while size < GROUP {
                let Ok(next) = waiting.try_recv() else { break };
                size += next.unit.size();
                group.push(next);
            }
            let (units, replies): (Vec<Unit>, Vec<_>) = group.into_iter().map(|request| (request.unit, request.reply)).unzip();
            self.commit_group(units, replies).await;
        }
    }

    /// A unit that fails alone hears why. When a group fails, nobody knows whose fault it was: all hear that their unit is stale, make
    /// it again and meet in smaller groups, until the one at fault is alone.
    async fn commit_group(&mut self, units: Vec<Unit>, replies: Vec<oneshot::Sender<Result<Vec<Written>, WriteError>>>) {
        let applied = match self.append(&units).await {
            Ok(true) => Ok(units.iter().map(|_| Verdict::Applied(Vec::new())).collect()),
            Ok(false) => self.apply(units).await,
            Err(error) => Err(error),
        };
        let refused = applied.as_ref().is_err_and(is_unavailable).then(Instant::now);
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        if applied.is_err() {
            self.forget();
        }
        // A caller that went away does not undo the write.
        match (applied, replies) {
            (Ok(verdicts), replies) => {
                for (reply, verdict) in replies.into_iter().zip(verdicts) {
                    let _ = reply.send(match verdict {
                        Verdict::Applied(written) => Ok(written),
                        Verdict::Stale => Err(WriteError::Stale),
                    });
                }
            }
            (Err(error), mut replies) if replies.len() == 1 => {
                if let Some(reply) = replies.pop() {
                    let _ = reply.send(Err(WriteError::Database(error)));
                }
            }
            (Err(error), replies) => {
                tracing::warn!(%error, units = replies.len(), "a group of writes failed; its units are tried again");
                for reply in replies {
                    let _ = reply.send(Err(WriteError::Stale));
                }
            }
        }
    }

    /// What was learned in a transaction that did not commit may be untrue.
    fn forget(&mut self) {
        self.identities.clear();
        self.classes.clear();
        self.txn = 0;
        self.end = None;
    }

    /// Units that do nothing but record are one statement, unless something was closed that one of them may hinge on or another process moved
    /// the chain's end: then nothing is written, and it is `false`.
    async fn append(&mut self, units: &[Unit]) -> Result<bool, sqlx::Error> {
        if !units.iter().all(Unit::only_records) {
            return Ok(false);
        }
        let mut batch = Batch::default();
        for unit in units {
            batch.add_audit(unit.audit.clone(), &mut |_, _| None);
        }
        if batch.audit.is_empty() || batch.audit.len() > chain::MOST {
            return Ok(false);
        }
        let since = units.iter().flat_map(|unit| &unit.bases).map(|basis| basis.since).min();
        let mut end = match self.end.take() {
            Some(end) => end,
            None => End::read(&mut *self.pool.acquire().await?).await?,
        };
        let appended = chain::append(&self.pool, &mut end, batch.audit, since).await?;
        self.end = appended.then_some(end);
        Ok(appended)
    }

    /// Adds to the chain, within a transaction.
    async fn record(&mut self, connection: &mut SqliteConnection, rows: &[NewRow]) -> Result<(), sqlx::Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut end = match self.end.take() {
            Some(end) => end,
            None => End::read(&mut *connection).await?,
        };
        chain::extend(connection, &mut end, rows).await?;
        self.end = Some(end);
        Ok(())
    }

    async fn apply(&mut self, units: Vec<Unit>) -> Result<Vec<Verdict>, sqlx::Error> {
        let pool = self.pool.clone();
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        let connection: &mut SqliteConnection = &mut transaction;
        let counter = sqlx::query("SELECT txn, next_key FROM counter WHERE id = 1").fetch_one(&mut *connection).await?;
        let (txn, next_key): (i64, i64) = (counter.try_get(0)?, counter.try_get(1)?);
        if txn != self.txn || self.identities.len() > REMEMBERED {
            self.identities.clear();
        }
        (self.txn, self.next_key) = (txn, next_key);
        // Another process may have moved it.
        self.end = None;
        let mut batch = Batch::default();
        let mut pending = HashSet::new();
        let mut verdicts = Vec::with_capacity(units.len());
        for unit in units {
            verdicts.push(self.apply_unit(&mut *connection, unit, &mut batch, &mut pending).await?);
        }
        self.flush(&mut *connection, &mut batch, &mut pending).await?;
        if (self.txn, self.next_key) != (txn, next_key) {
            sqlx::query("UPDATE counter SET txn = ?, next_key = ? WHERE id = 1")
                .bind(self.txn)
                .bind(self.next_key)
                .execute(&mut *connection)
                .await?;
        }
        transaction.commit().await?;
        Ok(verdicts)
    }

    /// `pending`: keys whose rows are still in `batch`.
    async fn apply_unit(
        &mut self,
        connection: &mut SqliteConnection,
        unit: Unit,
        batch: &mut Batch,
        pending: &mut HashSet<ResourceKey>,
    ) -> Result<Verdict, sqlx::Error> {
        if unit.only_records() {
            if !unit.bases.is_empty() {
                if batch.closes() {
                    self.flush(&mut *connection, batch, pending).await?;
                }
                if !closing::hold_sqlite(&mut *connection, &unit.bases).await? {
                    return Ok(Verdict::Stale);
                }
            }
            batch.add_audit(unit.audit, &mut |_, _| None);
            return Ok(Verdict::Applied(Vec::new()));
        }
        if !unit.preconditions.is_empty() {
            self.flush(&mut *connection, batch, pending).await?;
            for precondition in &unit.preconditions {
                if !holds(&mut *connection, precondition).await? {
                    return Ok(Verdict::Stale);
                }
            }
        }
        if let Some(resting) = &unit.terminology {
            if batch.closes() {
                self.flush(&mut *connection, batch, pending).await?;
            }
            if !resting::hold_sqlite(&mut *connection, resting).await? {
                return Ok(Verdict::Stale);
            }
        }
        if let Some(narrowing) = &unit.narrowing {
            if batch.closes() {
                self.flush(&mut *connection, batch, pending).await?;
            }
            if !narrowing.holds_sqlite(&mut *connection).await? {
                return Ok(Verdict::Stale);
            }
        }
        if !super::visits::hold_sqlite(&mut *connection, &unit.visits).await? {
            return Ok(Verdict::Stale);
        }
        self.learn(&mut *connection, &unit).await?;
        for (type_code, id, version) in unit.rests_on() {
            let known = self.identities.get(&(*type_code, id.clone()) as &Name);
            if known.is_none_or(|identity| !identity.live || identity.version != *version) {
                return Ok(Verdict::Stale);
            }
        }
        for mutation in &unit.mutations {
            let known = self.identities.get(&(mutation.type_code, mutation.id.clone()) as &Name);
            if known.map_or(0, |identity| identity.version) != mutation.base_version {
                return Ok(Verdict::Stale);
            }
        }
        // What this unit changes twice, or changes although its row is not written yet, needs the row first.
        if unit.mutations.iter().any(|mutation| {
            self.identities.get(&(mutation.type_code, mutation.id.clone()) as &Name).is_some_and(|identity| pending.contains(&identity.key))
        }) {
            self.flush(&mut *connection, batch, pending).await?;
        }
        super::visits::write_sqlite(&mut *connection, &unit.visits).await?;
        self.txn += 1;
        let txn = self.txn;
        // Never backwards, whatever the clock does, and never the same twice: history and `_lastUpdated` keep the order of commits.
        self.updated = now().max(self.updated + 1);
        let updated = self.updated;
        let definitions = definitions::r4();
        let mut places = Vec::with_capacity(unit.mutations.len());
        let mut fresh: HashMap<Name, ResourceKey> = HashMap::new();
        for mutation in &unit.mutations {
            let name: Name = (mutation.type_code, mutation.id.clone());
            let identity = self.identities.get(&name).copied();
            let key = identity.map_or_else(
                || {
                    self.next_key += 1;
                    self.next_key - 1
                },
                |identity| identity.key,
            );
            if identity.is_none() {
                fresh.insert(name, key);
            }
            places.push(Place { key, identity });
        }
        let mut written = Vec::with_capacity(unit.mutations.len());
        let mut learned: Vec<(Name, Identity)> = Vec::with_capacity(unit.mutations.len());
        let mut placeholders: Vec<(Name, ResourceKey)> = Vec::new();
        {
            let Writer { identities, next_key, .. } = self;
            let mut target = |type_name: &str, id: &str| -> Option<ResourceKey> {
                let name: Name = (definitions.type_code(type_name)?, id.into());
                if let Some(key) = fresh.get(&name) {
                    return Some(*key);
                }
                if let Some(identity) = identities.get(&name) {
                    return Some(identity.key);
                }
                let key = *next_key;
                *next_key += 1;
                placeholders.push((name.clone(), key));
                fresh.insert(name, key);
                Some(key)
            };
            for (mutation, place) in unit.mutations.into_iter().zip(&places) {
                let name: Name = (mutation.type_code, mutation.id.clone());
                let (word, identity) = batch.add(mutation, place, txn, updated, &mut target);
                if unit.posted.contains(&name) {
                    batch.mark_posted(place.key);
                }
                if unit.patched.contains(&name) {
                    batch.mark_patched(place.key);
                }
                pending.insert(place.key);
                written.push(word);
                learned.push((name, identity));
            }
            batch.add_audit(unit.audit, &mut target);
        }
        for (name, key) in placeholders {
            batch.add_placeholder(key, &name);
            pending.insert(key);
            learned.push((name, Identity { key, version: 0, live: false, owner: 0, patient: 0 }));
        }
        self.identities.extend(learned);
        if let Some(resting) = unit.terminology {
            if resting.changes {
                resting::count_sqlite(&mut *connection).await?;
            }
            batch.add_resting(resting);
        }
        batch.add_narrowing(unit.narrowing);
        batch.jobs.extend(unit.jobs);
        batch.published = batch.published.max(unit.published);
        Ok(Verdict::Applied(written))
    }

    /// Reads where the unit's resources and the targets of its references stand, as far as not known.
    async fn learn(&mut self, connection: &mut SqliteConnection, unit: &Unit) -> Result<(), sqlx::Error> {
        let definitions = definitions::r4();
        let mut unknown: HashSet<(TypeCode, &str)> = unit.rests_on().map(|(code, id, _)| (*code, &**id)).collect();
        for mutation in &unit.mutations {
            unknown.insert((mutation.type_code, &mutation.id));
            for (type_name, id) in batch::targets(mutation) {
                unknown.extend(definitions.type_code(type_name).map(|code| (code, id)));
            }
        }
        let mut unknown: Vec<(TypeCode, &str)> =
            unknown.into_iter().filter(|(code, id)| !self.identities.contains_key(&(*code, Box::from(*id)) as &Name)).collect();
        unknown.sort_unstable();
        for chunk in unknown.chunks(CHUNK) {
            let mut sql = Sql::new(Dialect::Sqlite);
            sql.push("SELECT ").push(rows::IDENTITY).push(" FROM (VALUES ");
            sql.join(chunk, ", ", |sql, (code, id)| {
                sql.push("(").int(i64::from(*code)).push(", ").str(id).push(")");
            });
            sql.push(") v CROSS JOIN resource r ON r.type = v.column1 AND r.id = v.column2");
            let found: Vec<IdentityRow> = bind_all!(sqlx::query_as(AssertSqlSafe(sql.text)), sql.args).fetch_all(&mut *connection).await?;
            self.identities.extend(found.into_iter().map(rows::identity));
        }
        Ok(())
    }

    async fn flush(
        &mut self,
        connection: &mut SqliteConnection,
        batch: &mut Batch,
        pending: &mut HashSet<ResourceKey>,
    ) -> Result<(), sqlx::Error> {
        if batch.is_empty() {
            return Ok(());
        }
        inherit::settle(&mut inherit::Connection::Sqlite(&mut *connection), batch).await?;
        batch.sort();
        for chunk in batch.inserts.chunks_mut(CHUNK) {
            let text = self.inserts.entry((RESOURCE, chunk.len())).or_insert_with(|| {
                let rows = vec!["(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"; chunk.len()].join(",");
                let columns = "key, type, id, version, live, updated, created, txn, owner, patient, class, own, low, high, posted, body";
                Arc::from(format!("INSERT OR FAIL INTO resource ({columns}) VALUES {rows}"))
            });
            let mut query = sqlx::query(AssertSqlSafe(text.clone()));
            for row in chunk {
                query = query.bind(row.key).bind(i64::from(row.type_code)).bind(&*row.id).bind(row.version).bind(row.live);
                query = query
                    .bind(row.updated)
                    .bind(row.created.unwrap_or(0))
                    .bind(row.txn)
                    .bind(row.owner)
                    .bind(row.patient)
                    .bind(row.class)
                    .bind(row.own)
                    .bind(row.low)
                    .bind(row.high)
                    .bind(row.posted)
                    .bind(row.body.take());
            }
            query.execute(&mut *connection).await?;
        }
        for (key, txn) in &batch.superseded {
            sqlx::query(
                "INSERT INTO history (key, version, type, live, updated, txn, until, owner, patient, class, low, high, patched, body) \
                 SELECT key, version, type, live, updated, txn, ?, owner, patient, class, low, high, patched, body FROM resource WHERE key = ?",
            )
            .bind(txn)
            .bind(key)
            .execute(&mut *connection)
            .await?;
        }
        for chunk in batch.purged.chunks(CHUNK) {
            let Sql { text, args, .. } = batch::removal(Dialect::Sqlite, chunk);
            bind_all!(sqlx::query(AssertSqlSafe(text)), args).execute(&mut *connection).await?;
        }
        for row in &batch.updates {
            update(&mut *connection, row).await?;
        }
        for row in &batch.closings {
            close(&mut *connection, row).await?;
        }
        for of_table in batch.rows.chunk_by(|a, b| a.table == b.table) {
            for chunk in of_table.chunks(CHUNK) {
                self.insert_rows(&mut *connection, chunk).await?;
            }
        }
        inherit::medicines::settle(&mut inherit::Connection::Sqlite(&mut *connection), batch).await?;
        self.write_gate(&mut *connection, batch).await?;
        for job in &batch.jobs {
            super::jobs::enqueue_sqlite(&mut *connection, job).await?;
        }
        self.record(&mut *connection, &batch.audit).await?;
        if let Some(position) = batch.published {
            sqlx::query(chain::PUBLISHED).bind(position).execute(&mut *connection).await?;
        }
        *batch = Batch::default();
        pending.clear();
        Ok(())
    }

    /// New classes of resources, and what patients allow from now on.
    async fn write_gate(&mut self, connection: &mut SqliteConnection, batch: &Batch) -> Result<(), sqlx::Error> {
        if self.classes.len() > REMEMBERED {
            self.classes.clear();
        }
        let new: Vec<_> = batch.classes.iter().filter(|(class, _)| !self.classes.contains(class)).collect();
        let mut statements = gate::class_statements(Dialect::Sqlite, new.iter().copied());
        self.classes.extend(new.into_iter().map(|(class, _)| *class));
        statements.extend(gate::Membership::statements(Dialect::Sqlite, &batch.sets));
        let mut closed: BTreeSet<ResourceKey> = batch.resets.then_some(closing::EVERYBODY).into_iter().collect();
        closed.extend(batch.narrowings.iter().flat_map(Narrowing::patients));
        statements.extend(batch.narrowings.iter().flat_map(|narrowing| narrowing.statements(Dialect::Sqlite)));
        if !batch.consents.is_empty() {
            let settled = places::settle(&mut inherit::Connection::Sqlite(&mut *connection), batch).await?;
            let patients = settled.patients;
            closed.extend(batch.rules.denied());
            for chunk in patients.chunks(CHUNK) {
                let Sql { text, args, .. } = gate::RuleRows::ruled(Dialect::Sqlite, chunk);
                let ruled = bind_all!(sqlx::query_scalar::<_, ResourceKey>(AssertSqlSafe(text)), args);
                closed.extend(ruled.fetch_all(&mut *connection).await?);
            }
            statements.extend(batch.rules.statements(Dialect::Sqlite, &batch.consents, &patients, &settled.replaced));
        }
        statements.extend(closing::note(Dialect::Sqlite, &closed));
        for Sql { text, args, .. } in statements {
            bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// All of one table.
    async fn insert_rows(&mut self, connection: &mut SqliteConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
        let Some(table) = rows.first().map(|row| row.table) else { return Ok(()) };
        let text = self.inserts.entry((table, rows.len())).or_insert_with(|| insert_text(table, rows.len())).clone();
        let mut values = SqliteArguments::default();
        values.reserve(rows.len() * rows.first().map_or(0, |row| row.cells.len()), 0);
        for cell in rows.iter().flat_map(|row| &row.cells) {
            let added = match cell {
                Cell::Int(value) => values.add(*value),
                Cell::Real(value) => values.add(*value),
                Cell::Text(value) => values.add(Arc::clone(value)),
            };
            added.map_err(sqlx::Error::Encode)?;
        }
        sqlx::query_with(AssertSqlSafe(text), values).execute(connection).await?;
        Ok(())
    }
}
