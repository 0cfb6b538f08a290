//! The schema's history. An applied file is never edited: a change is a new pair of files, and a line here.

use super::sql::Dialect;
use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

/// (version, what for, SQLite, PostgreSQL)
const ALL: &[(i64, &str, &str, &str)] = &[
    (1, "store", include_str!("../../migrations/sqlite/0001_store.sql"), include_str!("../../migrations/postgres/0001_store.sql")),
    (2, "access", include_str!("../../migrations/sqlite/0002_access.sql"), include_str!("../../migrations/postgres/0002_access.sql")),
    (3, "consent", include_str!("../../migrations/sqlite/0003_consent.sql"), include_str!("../../migrations/postgres/0003_consent.sql")),
    (4, "visits", include_str!("../../migrations/sqlite/0004_visits.sql"), include_str!("../../migrations/postgres/0004_visits.sql")),
    (5, "audit", include_str!("../../migrations/sqlite/0005_audit.sql"), include_str!("../../migrations/postgres/0005_audit.sql")),
    (6, "golden", include_str!("../../migrations/sqlite/0006_golden.sql"), include_str!("../../migrations/postgres/0006_golden.sql")),
    (9, "upkeep", include_str!("../../migrations/sqlite/0009_upkeep.sql"), include_str!("../../migrations/postgres/0009_upkeep.sql")),
    (10, "people", include_str!("../../migrations/sqlite/0010_people.sql"), include_str!("../../migrations/postgres/0010_people.sql")),
    (11, "history", include_str!("../../migrations/sqlite/0011_history.sql"), include_str!("../../migrations/postgres/0011_history.sql")),
    (21, "launch", include_str!("../../migrations/sqlite/0021_launch.sql"), include_str!("../../migrations/postgres/0021_launch.sql")),
    (30, "search", include_str!("../../migrations/sqlite/0030_search.sql"), include_str!("../../migrations/postgres/0030_search.sql")),
    (41, "labels", include_str!("../../migrations/sqlite/0041_labels.sql"), include_str!("../../migrations/postgres/0041_labels.sql")),
    (42, "closing", include_str!("../../migrations/sqlite/0042_closing.sql"), include_str!("../../migrations/postgres/0042_closing.sql")),
    (
        43,
        "value_sets",
        include_str!("../../migrations/sqlite/0043_value_sets.sql"),
        include_str!("../../migrations/postgres/0043_value_sets.sql"),
    ),
    (44, "relabel", include_str!("../../migrations/sqlite/0044_relabel.sql"), include_str!("../../migrations/postgres/0044_relabel.sql")),
    (45, "posted", include_str!("../../migrations/sqlite/0045_posted.sql"), include_str!("../../migrations/postgres/0045_posted.sql")),
    (
        51,
        "audience",
        include_str!("../../migrations/sqlite/0051_audience.sql"),
        include_str!("../../migrations/postgres/0051_audience.sql"),
    ),
    (52, "rule", include_str!("../../migrations/sqlite/0052_rule.sql"), include_str!("../../migrations/postgres/0052_rule.sql")),
    (
        60,
        "contained",
        include_str!("../../migrations/sqlite/0060_contained.sql"),
        include_str!("../../migrations/postgres/0060_contained.sql"),
    ),
    (61, "patched", include_str!("../../migrations/sqlite/0061_patched.sql"), include_str!("../../migrations/postgres/0061_patched.sql")),
    (62, "picked", include_str!("../../migrations/sqlite/0062_picked.sql"), include_str!("../../migrations/postgres/0062_picked.sql")),
    (70, "about", include_str!("../../migrations/sqlite/0070_about.sql"), include_str!("../../migrations/postgres/0070_about.sql")),
    (
        80,
        "by_resource",
        include_str!("../../migrations/sqlite/0080_by_resource.sql"),
        include_str!("../../migrations/postgres/0080_by_resource.sql"),
    ),
    (81, "far", include_str!("../../migrations/sqlite/0081_far.sql"), include_str!("../../migrations/postgres/0081_far.sql")),
    (90, "verdict", include_str!("../../migrations/sqlite/0090_verdict.sql"), include_str!("../../migrations/postgres/0090_verdict.sql")),
    (
        91,
        "authored",
        include_str!("../../migrations/sqlite/0091_authored.sql"),
        include_str!("../../migrations/postgres/0091_authored.sql"),
    ),
    (
        110,
        "spellings",
        include_str!("../../migrations/sqlite/0110_spellings.sql"),
        include_str!("../../migrations/postgres/0110_spellings.sql"),
    ),
    (
        140,
        "shut_out",
        include_str!("../../migrations/sqlite/0140_shut_out.sql"),
        include_str!("../../migrations/postgres/0140_shut_out.sql"),
    ),
    (170, "place", include_str!("../../migrations/sqlite/0170_place.sql"), include_str!("../../migrations/postgres/0170_place.sql")),
    (
        180,
        "medicines",
        include_str!("../../migrations/sqlite/0180_medicines.sql"),
        include_str!("../../migrations/postgres/0180_medicines.sql"),
    ),
    (190, "renewed", include_str!("../../migrations/sqlite/0190_renewed.sql"), include_str!("../../migrations/postgres/0190_renewed.sql")),
    (
        203,
        "named_visits",
        include_str!("../../migrations/sqlite/0203_named_visits.sql"),
        include_str!("../../migrations/postgres/0203_named_visits.sql"),
    ),
    (
        230,
        "generation",
        include_str!("../../migrations/sqlite/0230_generation.sql"),
        include_str!("../../migrations/postgres/0230_generation.sql"),
    ),
    (
        290,
        "punctuation",
        include_str!("../../migrations/sqlite/0290_punctuation.sql"),
        include_str!("../../migrations/postgres/0290_punctuation.sql"),
    ),
];

pub fn migrator(dialect: Dialect) -> Migrator {
    let migration = |(version, title, sqlite, postgres): &(i64, &'static str, &'static str, &'static str)| {
        let text = if dialect == Dialect::Sqlite { *sqlite } else { *postgres };
        Migration::new(*version, (*title).into(), MigrationType::Simple, text.into_sql_str(), false)
    };
    Migrator::with_migrations(ALL.iter().map(migration).collect())
}

/// Why the tables are not this program's, with what to do where that can be said.
pub fn explained(error: MigrateError) -> anyhow::Error {
    match error {
        MigrateError::VersionMissing(version) => anyhow::anyhow!(
            "a newer lango has worked on it (its migration {version} is not known here): start that one; only a backup leads back"
        ),
        error => error.into(),
    }
}

/// The versions that a database of this program has, in order.
pub fn versions() -> Vec<i64> {
    ALL.iter().map(|(version, ..)| *version).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_is_listed_and_both_databases_have_the_same_ones() {
        let names = |folder: &str| -> BTreeSet<String> {
            let path = format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
        };
        let listed: BTreeSet<String> = ALL.iter().map(|(version, title, ..)| format!("{version:04}_{title}.sql")).collect();
        assert_eq!(names("sqlite"), listed);
        assert_eq!(names("postgres"), listed);
    }
}
