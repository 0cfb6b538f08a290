//! Labels of medicines: who names a Medication or a Substance that tells something is as sensitive, wherever and however it names it, by id or by
//! an identifier that one has; and a medicine tells what its ingredients tell.
//!
//! Who names what are index rows that no search asks for ([`MEDICINE`], [`MEDICINE_CALLED`]), so this is settled when a batch's rows are written, in
//! the same transaction: from the resources down to what they name, and from the medicines up to who names them. A medicine that is
//! deleted says nothing; by an identifier it is found no more.
//!
//! On PostgreSQL writers of medicines wait for each other and for those who name some: neither sees an identifier that the other is about to write.

use super::{Connection, Taken};
use crate::definitions;
use crate::store::batch::Batch;
use crate::store::index::{MEDICINE, MEDICINE_CALLED, VISIT};
use crate::store::sql::Sql;
use crate::store::write::{Change, Mutation, Unit};
use crate::store::{IndexEntry, ResourceKey, Store, TypeCode, system_key};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

/// From a prescription to a medicine, a medicine in that, a substance, and a substance in that.
pub const DEPTH: usize = 4;

/// The medicines' types, and the numbers of their identifiers.
static TYPES: LazyLock<Vec<(TypeCode, i64)>> = LazyLock::new(|| {
    let r4 = definitions::r4();
    let of = |name| {
        let type_code = r4.type_code(name)?;
        Some((type_code, i64::from(r4.param(type_code, "identifier")?.id)))
    };
    ["Medication", "Substance"].into_iter().filter_map(of).collect()
});

pub(in crate::store) fn is_medicine(type_code: TypeCode) -> bool {
    TYPES.iter().any(|(code, _)| *code == type_code)
}

/// What a mutation has to do with medicines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Part {
    None,
    /// It names some, or a visit where it is looked for with them.
    Takes,
    /// It is one, and what it tells may be another thing than before.
    Gives,
}

pub(in crate::store) fn part(mutation: &Mutation) -> Part {
    let names = |entries: &[IndexEntry]| entries.iter().any(|entry| matches!(entry.param, MEDICINE | MEDICINE_CALLED | VISIT));
    let tells = mutation.traits.hands.as_ref().is_some_and(|hands| !hands.is_empty());
    match (&mutation.change, is_medicine(mutation.type_code)) {
        (Change::Put { entries, .. }, true) if tells || names(entries) || mutation.base_version > 0 => Part::Gives,
        (Change::Reindex { entries, .. }, true) if tells || names(entries) => Part::Gives,
        (Change::Put { entries, .. } | Change::Reindex { entries, .. }, false) if names(entries) => Part::Takes,
        _ => Part::None,
    }
}

/// Waits for its turn, before anything else is locked.
pub(in crate::store) async fn in_turn(connection: &mut sqlx::PgConnection, unit: &Unit) -> Result<(), sqlx::Error> {
    // Any number that no other lock has.
    const LOCK: i64 = -0x6d65_6469_6369_6e65;
    let text = match unit.mutations.iter().map(part).max() {
        None | Some(Part::None) => return Ok(()),
        Some(Part::Takes) => "SELECT pg_advisory_xact_lock_shared($1)",
        Some(Part::Gives) => "SELECT pg_advisory_xact_lock($1)",
    };
    sqlx::query(text).bind(LOCK).execute(connection).await.map(drop)
}

/// Gives those that name medicines, in the batch or stored, the labels that they have with what these tell. After the batch's rows are written.
pub(in crate::store) async fn settle(connection: &mut Connection<'_>, batch: &mut Batch) -> Result<(), sqlx::Error> {
    if batch.takes.is_empty() && batch.gives.is_empty() {
        return Ok(());
    }
    let mut members: BTreeSet<ResourceKey> = batch.takes.iter().copied().collect();
    let mut seen: HashSet<ResourceKey> = batch.gives.iter().copied().collect();
    let mut at: Vec<ResourceKey> = seen.iter().copied().collect();
    for _ in 0..DEPTH {
        if at.is_empty() {
            break;
        }
        at = naming(connection, &at).await?;
        at.retain(|key| seen.insert(*key));
        members.extend(&at);
    }
    let members: Vec<ResourceKey> = members.into_iter().collect();
    super::recompute(connection, &mut batch.classes, &members).await
}

/// Adds what `members` take from the medicines that they name.
pub(super) async fn take(connection: &mut Connection<'_>, members: &[ResourceKey], taken: &mut Taken) -> Result<(), sqlx::Error> {
    let mut ways: Vec<(ResourceKey, ResourceKey)> = members.iter().map(|key| (*key, *key)).collect();
    let mut reached: HashSet<(ResourceKey, ResourceKey)> = HashSet::new();
    for _ in 0..DEPTH {
        let at: BTreeSet<ResourceKey> = ways.iter().map(|(_, at)| *at).collect();
        let mut next: HashMap<ResourceKey, Vec<ResourceKey>> = HashMap::new();
        for (from, to) in named(connection, &at.into_iter().collect::<Vec<_>>()).await? {
            next.entry(from).or_default().push(to);
        }
        if next.is_empty() {
            break;
        }
        let further = ways.iter().flat_map(|(member, at)| next.get(at).into_iter().flatten().map(|to| (*member, *to)));
        ways = further.filter(|way| reached.insert(*way)).collect();
    }
    let medicines: BTreeSet<ResourceKey> = reached.iter().map(|(_, medicine)| *medicine).collect();
    let mut handed: HashMap<ResourceKey, Vec<i64>> = HashMap::new();
    let medicines: Vec<ResourceKey> = medicines.into_iter().collect();
    let labels = connection.rows_of::<(i64, i64)>("SELECT container, label FROM handed WHERE container IN", &medicines, "").await?;
    for (medicine, label) in labels {
        handed.entry(medicine).or_default().push(label);
    }
    for (member, medicine) in &reached {
        if let Some(labels) = handed.get(medicine) {
            taken.entry(*member).or_default().extend(labels);
        }
    }
    Ok(())
}

/// System (empty: whatever it is of) and value of an identifier.
pub type Called = (String, String);

impl Store {
    /// What the medicines tell that are stored under these identifiers, what they are made of too: labels in numbers, none of a harmless one. An identifier that
    /// no medicine has is left out. For lango's own work: no scope.
    pub async fn medicines_called(&self, called: &BTreeSet<Called>) -> Result<BTreeMap<Called, BTreeSet<i64>>, sqlx::Error> {
        match self {
            _ if called.is_empty() => Ok(BTreeMap::new()),
            Store::Sqlite(db) => tell(&mut Connection::Sqlite(&mut *db.read.acquire().await?), called).await,
            Store::Postgres(db) => tell(&mut Connection::Postgres(&mut *db.read.acquire().await?), called).await,
        }
    }
}

async fn tell(connection: &mut Connection<'_>, called: &BTreeSet<Called>) -> Result<BTreeMap<Called, BTreeSet<i64>>, sqlx::Error> {
    let values: BTreeSet<&str> = called.iter().map(|(_, value)| value.as_str()).collect();
    let values: Vec<&str> = values.into_iter().collect();
    let mut having: HashMap<String, Vec<(i64, ResourceKey)>> = HashMap::new();
    for chunk in values.chunks(super::CHUNK) {
        let mut sql = Sql::new(connection.dialect());
        sql.push("SELECT t.code, t.system, t.key FROM token t WHERE t.until = 0 AND ").push(&is_identifier("t")).push(" AND t.code IN (");
        sql.join(chunk, ", ", |sql, value| {
            sql.str(value);
        });
        sql.push(")");
        for (value, system, key) in connection.rows::<(String, i64, i64)>(sql).await? {
            having.entry(value).or_default().push((system, key));
        }
    }
    let keys: BTreeSet<ResourceKey> = having.values().flatten().map(|(_, key)| *key).collect();
    let keys: Vec<ResourceKey> = keys.into_iter().collect();
    let mut told = Taken::new();
    take(connection, &keys, &mut told).await?;
    for (key, label) in connection.rows_of::<(i64, i64)>("SELECT container, label FROM handed WHERE container IN", &keys, "").await? {
        told.entry(key).or_default().insert(label);
    }
    let of = |(system, value): &Called| {
        let is_of = |(of, _): &&(i64, ResourceKey)| system.is_empty() || *of == system_key(system);
        let mut found = having.get(value)?.iter().filter(is_of).map(|(_, key)| told.get(key)).peekable();
        found.peek()?;
        Some(found.flatten().flatten().copied().collect())
    };
    Ok(called.iter().filter_map(|one| Some((one.clone(), of(one)?))).collect())
}

/// The medicines that these name: (who, which).
async fn named(connection: &mut Connection<'_>, keys: &[ResourceKey]) -> Result<Vec<(ResourceKey, ResourceKey)>, sqlx::Error> {
    let by_id = format!("SELECT x.key, x.target FROM reference x WHERE x.until = 0 AND x.param = {MEDICINE} AND x.key IN");
    let mut found: Vec<(i64, i64)> = connection.rows_of(&by_id, keys, "").await?;
    let by_identifier = format!(
        "SELECT c.key, t.key FROM token c JOIN token t ON t.code = c.code AND {} AND t.until = 0 AND (t.system = c.system OR c.system = 0) \
         WHERE c.until = 0 AND c.param = {MEDICINE_CALLED} AND c.key IN",
        is_identifier("t")
    );
    found.extend(connection.rows_of::<(i64, i64)>(&by_identifier, keys, "").await?);
    Ok(found)
}

/// Who names these medicines, by an identifier that one had a moment ago too.
async fn naming(connection: &mut Connection<'_>, keys: &[ResourceKey]) -> Result<Vec<ResourceKey>, sqlx::Error> {
    let by_id = format!("SELECT x.key FROM reference x WHERE x.until = 0 AND x.param = {MEDICINE} AND x.target IN");
    let mut found: Vec<(i64,)> = connection.rows_of(&by_id, keys, "").await?;
    let by_identifier = format!(
        "SELECT c.key FROM token t JOIN token c ON c.code = t.code AND c.param = {MEDICINE_CALLED} AND c.until = 0 \
         AND (c.system = t.system OR c.system = 0) WHERE {} AND t.key IN",
        is_identifier("t")
    );
    found.extend(connection.rows_of::<(i64,)>(&by_identifier, keys, "").await?);
    Ok(found.into_iter().map(|(key,)| key).collect())
}

/// The condition that a row of `token` is a medicine's identifier.
fn is_identifier(alias: &str) -> String {
    let params: Vec<String> = TYPES.iter().map(|(_, param)| param.to_string()).collect();
    format!("{alias}.param IN ({})", params.join(", "))
}
