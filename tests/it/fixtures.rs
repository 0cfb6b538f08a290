//! The fixtures themselves: each test has a database of its own.

use crate::support::{TestDb, both_databases};
use sqlx::{Connection, Row};

both_databases!(
    async fn a_test_gets_an_empty_database_of_its_own(db: &TestDb) {
        let statements = ["CREATE TABLE mine (a INTEGER)", "INSERT INTO mine VALUES (7)", "SELECT CAST(sum(a) AS BIGINT) FROM mine"];
        let sum: i64 = if db.is_sqlite() {
            let options: sqlx::sqlite::SqliteConnectOptions = db.url.parse().unwrap();
            let mut connection = sqlx::SqliteConnection::connect_with(&options.create_if_missing(true)).await.unwrap();
            for statement in &statements[..2] {
                sqlx::query(*statement).execute(&mut connection).await.unwrap();
            }
            sqlx::query(statements[2]).fetch_one(&mut connection).await.unwrap().get(0)
        } else {
            let mut connection = sqlx::PgConnection::connect(&db.url).await.unwrap();
            for statement in &statements[..2] {
                sqlx::query(*statement).execute(&mut connection).await.unwrap();
            }
            sqlx::query(statements[2]).fetch_one(&mut connection).await.unwrap().get(0)
        };
        assert_eq!(sum, 7);
    }
);

#[tokio::test]
async fn two_databases_share_nothing() {
    let (first, second) = (TestDb::postgres().await, TestDb::postgres().await);
    assert_ne!(first.url, second.url);
    let mut connection = sqlx::PgConnection::connect(&first.url).await.unwrap();
    sqlx::query("CREATE TABLE only_here (a INTEGER)").execute(&mut connection).await.unwrap();
    let mut connection = sqlx::PgConnection::connect(&second.url).await.unwrap();
    assert!(sqlx::query("SELECT a FROM only_here").fetch_all(&mut connection).await.is_err());
}
