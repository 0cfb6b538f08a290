//! The databases that the command line names: `sqlite`, `postgres` (new ones, gone afterwards), or URLs (filled once and kept).

use super::postgres::{Cluster, Durability};

/// Databases of one kind.
pub enum Databases {
    Folder(tempfile::TempDir),
    Cluster(Box<Cluster>),
    /// A URL; `{}` in it stands for the name of one database.
    Kept(String),
}

impl Databases {
    /// As a table says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Databases::Folder(_) => "SQLite",
            Databases::Kept(url) if url.starts_with("sqlite") => "SQLite",
            _ => "PostgreSQL",
        }
    }

    /// The URL of the database `name`, which is new unless it is kept.
    pub async fn url(&self, name: &str) -> String {
        match self {
            Databases::Folder(folder) => format!("sqlite:{}", folder.path().join(format!("{name}.db")).display()),
            Databases::Cluster(cluster) => cluster.new_database().await,
            Databases::Kept(url) => url.replace("{}", name),
        }
    }
}

fn names_one(word: &str) -> bool {
    word.starts_with("sqlite") || word.starts_with("postgres")
}

/// Those that the words name, one after the other; both kinds if they name none.
pub fn wanted(words: &[String]) -> impl Iterator<Item = Databases> {
    let mut named: Vec<String> = words.iter().filter(|word| names_one(word)).cloned().collect();
    if named.is_empty() {
        named = vec!["sqlite".to_owned(), "postgres".to_owned()];
    }
    named.into_iter().map(|word| match word.as_str() {
        "sqlite" => Databases::Folder(tempfile::tempdir().expect("a folder for the databases")),
        "postgres" => Databases::Cluster(Box::new(Cluster::start(Durability::Durable))),
        _ => Databases::Kept(word),
    })
}

/// The other words: which parts are wanted.
pub fn parts(words: &[String]) -> Vec<String> {
    words.iter().filter(|word| !names_one(word)).cloned().collect()
}
