//! Labels that resources take from what they came in: a labelled Encounter hands its labels on to what names it, a labelled Composition
//! or document to what it lists; and from what tells of them: a medicine to what names it ([`medicines`]), a result to its report.
//!
//! What a container hands on and whom it lists are rows (`handed`, `part`); who names an Encounter or a result the index of references knows. What a
//! resource has inherited is part of its class on its own row, which is all that a query asks ([`super::gate`]). Both are settled in the
//! transaction that writes the one or the other, so it makes no difference what arrives first, and a container that is labelled
//! differently relabels what is stored. Only a container's own labels are handed on, one step. What a deleted container handed on
//! stays: a delete says nothing about how sensitive the rest is.
//!
//! Two writers on PostgreSQL wait for each other: who names an Encounter holds a shared lock on its row, who lists a resource its row.

pub(super) mod medicines;

use super::batch::{Batch, ResourceRow};
use super::gate::{Traits, inherited};
use super::index::VISIT;
use super::sql::{Dialect, Sql, bind_all};
use super::{FacilityKey, ParamId, ResourceKey, TypeCode};
use crate::definitions::{self, ParamKind};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, FromRow};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

/// Keys of one statement.
const CHUNK: usize = 200;

/// The types whose labels go to what names them by these search parameters (all that can).
const NAMED: [(&str, Option<&[&str]>); 2] = [("Encounter", None), ("Observation", Some(&["result"]))];

/// The same in numbers.
pub(super) static NAMES: LazyLock<BTreeMap<TypeCode, BTreeSet<ParamId>>> = LazyLock::new(|| {
    let r4 = definitions::r4();
    let params_to = |target: TypeCode, codes: Option<&'static [&'static str]>| {
        let types = r4.resource_types().iter().filter_map(|name| r4.type_code(name));
        let params = types.flat_map(|type_code| r4.params(type_code)).filter(move |param| {
            param.kind == ParamKind::Reference && param.targets.contains(&target) && codes.is_none_or(|codes| codes.contains(&&*param.code))
        });
        params.map(|param| param.id).collect()
    };
    let mut names: BTreeMap<TypeCode, BTreeSet<ParamId>> =
        NAMED.into_iter().filter_map(|(name, codes)| r4.type_code(name).map(|code| (code, params_to(code, codes)))).collect();
    if let Some(params) = r4.type_code("Encounter").and_then(|code| names.get_mut(&code)) {
        params.insert(VISIT);
    }
    names
});

/// Whether resources of this type may hand labels on to what names them.
pub(super) fn is_named(type_code: TypeCode) -> bool {
    NAMES.contains_key(&type_code) || medicines::is_medicine(type_code)
}

/// Whether who names a resource of this type by this parameter takes its labels.
pub(super) fn takes(type_name: &str, param: ParamId) -> bool {
    definitions::r4().type_code(type_name).and_then(|code| NAMES.get(&code)).is_some_and(|params| params.contains(&param))
}

/// Appends the condition that the reference `x` to the container `c` hands labels on.
pub(super) fn hands_on(sql: &mut Sql) {
    sql.push("(1 = 0");
    for (type_code, params) in NAMES.iter().filter(|(_, params)| !params.is_empty()) {
        sql.push(" OR (c.type = ").literal(i64::from(*type_code)).push(" AND x.param IN (");
        sql.join(params, ", ", |sql, param| {
            sql.literal(i64::from(*param));
        });
        sql.push("))");
    }
    sql.push(")");
}

/// An Encounter, a Composition, a document, a medicine or a result as a batch writes it.
#[derive(Debug)]
pub struct Container {
    pub key: ResourceKey,
    pub owner: FacilityKey,
    /// Labels in numbers.
    pub labels: Vec<i64>,
    /// What it lists.
    pub lists: Vec<ResourceKey>,
    /// It was never there before.
    pub is_new: bool,
}

/// The connection of a transaction on either database.
pub(super) enum Connection<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

impl Connection<'_> {
    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Connection::Sqlite(_) => Dialect::Sqlite,
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    async fn rows<R>(&mut self, sql: Sql) -> Result<Vec<R>, sqlx::Error>
    where
        R: Send + Unpin + for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + for<'r> FromRow<'r, sqlx::postgres::PgRow>,
    {
        let Sql { text, args, .. } = sql;
        match self {
            Connection::Sqlite(connection) => {
                bind_all!(sqlx::query_as(AssertSqlSafe(text)).persistent(false), args).fetch_all(&mut **connection).await
            }
            Connection::Postgres(connection) => {
                bind_all!(sqlx::query_as(AssertSqlSafe(text)).persistent(false), args).fetch_all(&mut **connection).await
            }
        }
    }

    /// Rows of `before`, a list of `keys` in brackets, `after`.
    pub(super) async fn rows_of<R>(&mut self, before: &str, keys: &[i64], after: &str) -> Result<Vec<R>, sqlx::Error>
    where
        R: Send + Unpin + for<'r> FromRow<'r, sqlx::sqlite::SqliteRow> + for<'r> FromRow<'r, sqlx::postgres::PgRow>,
    {
        let mut found = Vec::new();
        for chunk in keys.chunks(CHUNK) {
            let mut sql = Sql::new(self.dialect());
            sql.push(before).push(" (");
            numbers(&mut sql, chunk.iter());
            sql.push(")").push(after);
            found.extend(self.rows(sql).await?);
        }
        Ok(found)
    }

    pub(super) async fn execute(&mut self, sql: Sql) -> Result<(), sqlx::Error> {
        let Sql { text, args, .. } = sql;
        match self {
            Connection::Sqlite(connection) => {
                bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).execute(&mut **connection).await.map(drop)
            }
            Connection::Postgres(connection) => {
                bind_all!(sqlx::query(AssertSqlSafe(text)).persistent(false), args).execute(&mut **connection).await.map(drop)
            }
        }
    }
}

fn numbers<'n>(sql: &mut Sql, numbers: impl Iterator<Item = &'n i64>) {
    sql.join(numbers, ", ", |sql, number| {
        sql.literal(*number);
    });
}

/// Labels by the resource that takes them.
type Taken = HashMap<ResourceKey, BTreeSet<i64>>;

/// Gives the rows of `batch` the classes that they have with what they inherit, and relabels what is stored and inherits otherwise from
/// now on. Before the batch's resources are written.
pub(super) async fn settle(connection: &mut Connection<'_>, batch: &mut Batch) -> Result<(), sqlx::Error> {
    let (changed, unlisted) = write_containers(connection, &batch.containers).await?;
    take(connection, batch).await?;
    if !changed.is_empty() {
        relabel(connection, batch, &changed, unlisted).await?;
    }
    Ok(())
}

/// Writes what containers hand on. Answers those that hand on something else than before, and what they listed before.
async fn write_containers(
    connection: &mut Connection<'_>,
    containers: &[Container],
) -> Result<(Vec<ResourceKey>, Vec<ResourceKey>), sqlx::Error> {
    let known: Vec<i64> = containers.iter().filter(|container| !container.is_new).map(|container| container.key).collect();
    let mut before: HashMap<ResourceKey, BTreeSet<i64>> = HashMap::new();
    for (container, label) in connection.rows_of::<(i64, i64)>("SELECT container, label FROM handed WHERE container IN", &known, "").await?
    {
        before.entry(container).or_default().insert(label);
    }
    // An unlabelled container lists nobody: nothing would come of it.
    let same = |container: &&Container| before.get(&container.key).is_some_and(|labels| labels.iter().eq(&container.labels));
    let labelled = |container: &&Container| before.contains_key(&container.key) || !container.labels.is_empty();
    let touched: Vec<&Container> = containers.iter().filter(labelled).filter(|one| !(same(one) && one.lists.is_empty())).collect();
    let keys: Vec<i64> = touched.iter().map(|container| container.key).collect();
    if keys.is_empty() {
        return Ok((keys, Vec::new()));
    }
    let unlisted = connection.rows_of::<(i64,)>("SELECT member FROM part WHERE container IN", &keys, "").await?;
    for table in ["handed", "part"] {
        for chunk in keys.chunks(CHUNK) {
            let mut sql = Sql::new(connection.dialect());
            sql.push("DELETE FROM ").push(table).push(" WHERE container IN (");
            numbers(&mut sql, chunk.iter());
            connection
                .execute({
                    sql.push(")");
                    sql
                })
                .await?;
        }
    }
    let labels: Vec<[i64; 2]> = touched.iter().flat_map(|one| one.labels.iter().map(|label| [one.key, *label])).collect();
    let lists = touched.iter().filter(|one| !one.labels.is_empty());
    let parts: Vec<[i64; 3]> = lists.flat_map(|one| one.lists.iter().map(|member| [*member, one.key, one.owner])).collect();
    let mut statements = Vec::new();
    super::gate::insert(connection.dialect(), "handed", &labels, &mut statements);
    super::gate::insert(connection.dialect(), "part", &parts, &mut statements);
    for sql in statements {
        connection.execute(sql).await?;
    }
    Ok((keys, unlisted.into_iter().map(|(member,)| member).collect()))
}

/// Gives the batch's own rows what they inherit.
async fn take(connection: &mut Connection<'_>, batch: &mut Batch) -> Result<(), sqlx::Error> {
    let mut handed: HashMap<ResourceKey, Vec<i64>> = batch.containers.iter().map(|one| (one.key, one.labels.clone())).collect();
    let elsewhere: BTreeSet<i64> =
        batch.members.iter().flat_map(|(_, named)| named).filter(|key| !handed.contains_key(*key)).copied().collect();
    let elsewhere: Vec<i64> = elsewhere.into_iter().collect();
    for (container, label) in
        connection.rows_of::<(i64, i64)>("SELECT container, label FROM handed WHERE container IN", &elsewhere, "").await?
    {
        handed.entry(container).or_default().push(label);
    }
    let mut taken = Taken::new();
    for (member, named) in &batch.members {
        let labels = named.iter().filter_map(|encounter| handed.get(encounter)).flatten();
        taken.entry(*member).or_default().extend(labels);
    }
    // What is new can only be listed by what is written with it.
    let with_it: HashSet<ResourceKey> = batch.containers.iter().flat_map(|container| &container.lists).copied().collect();
    let new: HashSet<ResourceKey> = batch.inserts.iter().map(|row| row.key).filter(|key| !with_it.contains(key)).collect();
    let listed: Vec<i64> = batch.members.iter().map(|(key, _)| *key).filter(|key| !new.contains(key)).collect();
    let owners: HashMap<ResourceKey, FacilityKey> = batch.inserts.iter().chain(&batch.updates).map(|row| (row.key, row.owner)).collect();
    for (member, owner, label) in listed_by(connection, &listed).await? {
        if owners.get(&member) == Some(&owner) {
            taken.entry(member).or_default().insert(label);
        }
    }
    taken.retain(|_, labels| !labels.is_empty());
    let Batch { inserts, updates, classes, .. } = batch;
    for row in inserts.iter_mut().chain(updates) {
        if let Some(labels) = taken.get(&row.key) {
            put_on(row, labels, classes);
        }
    }
    Ok(())
}

fn put_on(row: &mut ResourceRow, labels: &BTreeSet<i64>, classes: &mut BTreeMap<i64, Vec<i64>>) {
    let Some(facts) = classes.get(&row.class).and_then(|own| inherited(own, labels)) else { return };
    row.own = row.class;
    row.class = Traits::class_of(&facts);
    classes.insert(row.class, facts);
}

/// (member, owner of what lists it, label)
async fn listed_by(connection: &mut Connection<'_>, members: &[i64]) -> Result<Vec<(i64, i64, i64)>, sqlx::Error> {
    let before = "SELECT p.member, p.owner, h.label FROM part p JOIN handed h ON h.container = p.container WHERE p.member IN";
    connection.rows_of(before, members, "").await
}

/// Relabels what is stored and named or listed by the containers `changed`, or was (`unlisted`).
async fn relabel(
    connection: &mut Connection<'_>,
    batch: &mut Batch,
    changed: &[ResourceKey],
    unlisted: Vec<ResourceKey>,
) -> Result<(), sqlx::Error> {
    // What nobody named before this has no row yet, and nobody to relabel.
    let of_types = connection.rows_of::<(i64, i64)>("SELECT key, type FROM resource WHERE key IN", changed, "").await?;
    let mut naming: Vec<(i64,)> = Vec::new();
    for (type_code, params) in NAMES.iter().filter(|(_, params)| !params.is_empty()) {
        let keys: Vec<i64> = of_types.iter().filter(|(_, of)| *of == i64::from(*type_code)).map(|(key, _)| *key).collect();
        let mut sql = Sql::new(connection.dialect());
        sql.push("SELECT key FROM reference WHERE until = 0 AND param IN (");
        sql.join(params, ", ", |sql, param| {
            sql.literal(i64::from(*param));
        });
        sql.push(") AND target IN");
        naming.extend(connection.rows_of::<(i64,)>(&sql.text, &keys, "").await?);
    }
    let listed = connection.rows_of::<(i64,)>("SELECT member FROM part WHERE container IN", changed, "").await?;
    let mut members: BTreeSet<i64> = naming.into_iter().chain(listed).map(|(key,)| key).chain(unlisted).collect();
    for row in batch.inserts.iter().chain(&batch.updates) {
        members.remove(&row.key);
    }
    recompute(connection, &mut batch.classes, &members.into_iter().collect::<Vec<_>>()).await
}

/// Gives stored resources the classes that they have by themselves and with all that they take.
async fn recompute(
    connection: &mut Connection<'_>,
    known: &mut BTreeMap<i64, Vec<i64>>,
    members: &[ResourceKey],
) -> Result<(), sqlx::Error> {
    let lock = if connection.dialect() == Dialect::Postgres { " AND class <> 0 ORDER BY key FOR UPDATE" } else { " AND class <> 0" };
    let patients = definitions::r4().type_code("Patient").map_or(-1, i64::from);
    let mut named = Sql::new(connection.dialect());
    named.push("SELECT x.key, h.label FROM reference x JOIN handed h ON h.container = x.target JOIN resource c ON c.key = x.target WHERE x.until = 0 AND ");
    hands_on(&mut named);
    named.push(" AND x.key IN");
    for chunk in members.chunks(CHUNK) {
        let before = format!("SELECT key, owner, class, own FROM resource WHERE type <> {patients} AND key IN");
        let rows: Vec<(i64, i64, i64, i64)> = connection.rows_of(&before, chunk, lock).await?;
        let owners: HashMap<i64, i64> = rows.iter().map(|(key, owner, ..)| (*key, *owner)).collect();
        let mut taken = Taken::new();
        for (key, label) in connection.rows_of::<(i64, i64)>(&named.text, chunk, "").await? {
            taken.entry(key).or_default().insert(label);
        }
        for (key, owner, label) in listed_by(connection, chunk).await? {
            if owners.get(&key) == Some(&owner) {
                taken.entry(key).or_default().insert(label);
            }
        }
        medicines::take(connection, chunk, &mut taken).await?;
        let own_class = |class: i64, own: i64| if own == 0 { class } else { own };
        let classes: BTreeSet<i64> = rows.iter().map(|(_, _, class, own)| own_class(*class, *own)).collect();
        let classes: Vec<i64> = classes.into_iter().collect();
        let mut facts: HashMap<i64, Vec<i64>> = HashMap::new();
        for (class, fact) in connection.rows_of::<(i64, i64)>("SELECT class, fact FROM class_fact WHERE class IN", &classes, "").await? {
            facts.entry(class).or_default().push(fact);
        }
        // Some are not written yet.
        facts.extend(classes.iter().filter_map(|class| Some((*class, known.get(class)?.clone()))));
        // Those that become of the same class are written at once.
        let mut become_of: BTreeMap<(i64, i64), Vec<i64>> = BTreeMap::new();
        let none = BTreeSet::new();
        for (key, _, class, own) in rows {
            let by_itself = own_class(class, own);
            let labels = taken.get(&key).unwrap_or(&none);
            let with = facts.get(&by_itself).and_then(|facts| inherited(facts, labels));
            let (new, new_own) = match with {
                Some(facts) => {
                    let new = Traits::class_of(&facts);
                    known.insert(new, facts);
                    (new, by_itself)
                }
                None => (by_itself, 0),
            };
            if (new, new_own) != (class, own) {
                become_of.entry((new, new_own)).or_default().push(key);
            }
        }
        for ((class, own), keys) in become_of {
            let mut sql = Sql::new(connection.dialect());
            sql.push("UPDATE resource SET class = ").int(class).push(", own = ").int(own).push(" WHERE key IN (");
            numbers(&mut sql, keys.iter());
            sql.push(")");
            connection.execute(sql).await?;
        }
    }
    Ok(())
}
