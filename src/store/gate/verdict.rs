//! What all rules of a patient that speak to one audience say together, where that is simple: everything is shown, or everything but what has
//! a fact of one clause ("all but what tells of HIV"), from one instant until another. Nearly all that patients say is of this kind.
//!
//! It stands in one narrow row, written with the rules, so that deciding on a row of a search is one probe of a small index where it was a walk through
//! the patient's rules. It says nothing that the rules do not say: where they are not simple (`unless` is -1) or the instant lies outside, they are asked.
//!
//! Why a simple row is right: of the rules that stand the lowest decides. A denial with a clause and no exceptions stands where the clause holds, and is the lowest
//! there is; where it does not hold, the permit is the lowest of this audience. What several audiences say together is the lowest again.

use super::condition::{Rows, default, one_of_audiences, trait_of};
use super::{CHUNK, Requester, function, inline, numbers};
use crate::fhir::time::Micros;
use crate::store::ResourceKey;
use crate::store::sql::{Dialect, Sql};

/// The statements that forget what was concluded of the rules that these patients have. Before any of these rules goes.
pub(in crate::store) fn forget(dialect: Dialect, patients: &[ResourceKey]) -> Vec<Sql> {
    of_each(
        dialect,
        patients,
        "DELETE FROM verdict WHERE (audience, patient) IN (SELECT r.audience, r.patient FROM rule r WHERE r.patient IN (",
        "))",
    )
}

/// The statements that conclude from the rules that these patients have now.
pub(in crate::store) fn conclude(dialect: Dialect, patients: &[ResourceKey]) -> Vec<Sql> {
    of_each(dialect, patients, CONCLUSION[0], CONCLUSION[1])
}

fn of_each(dialect: Dialect, patients: &[ResourceKey], before: &str, after: &str) -> Vec<Sql> {
    let statement = |chunk| {
        let mut sql = Sql::new(dialect);
        sql.push(before);
        numbers(&mut sql, chunk);
        sql.push(after);
        sql
    };
    patients.chunks(CHUNK).map(statement).collect()
}

/// The permit that lasts longest gives the interval; denials must hold all that time. `0090_verdict.sql` has the same of all patients.
const CONCLUSION: [&str; 2] = [
    "\
INSERT INTO verdict (audience, patient, low, high, unless) \
SELECT g.audience, g.patient, coalesce(g.low, 0), coalesce(g.high, 0), CASE WHEN g.high IS NULL THEN -1 WHEN g.denials = 0 THEN 0 \
    WHEN g.denials = g.plain AND g.least = g.most AND g.later <= g.low AND g.earlier >= g.high THEN g.least ELSE -1 END \
FROM ( \
    SELECT n.audience, n.patient, max(n.last) AS high, min(CASE WHEN n.permits = 1 AND n.high = n.last THEN n.low END) AS low, \
        count(n.denies) AS denials, count(n.clause) AS plain, min(n.clause) AS least, max(n.clause) AS most, \
        max(CASE WHEN n.denies = 1 THEN n.low END) AS later, min(CASE WHEN n.denies = 1 THEN n.high END) AS earlier \
    FROM ( \
        SELECT r.audience, r.patient, r.low, r.high, \
            CASE WHEN r.precedence IN (1, 3) AND r.parts = 0 THEN 1 END AS permits, \
            max(CASE WHEN r.precedence IN (1, 3) AND r.parts = 0 THEN r.high END) OVER (PARTITION BY r.audience, r.patient) AS last, \
            CASE WHEN r.precedence IN (0, 2) THEN 1 END AS denies, \
            CASE WHEN r.precedence = 0 AND r.parts = 1 AND r.children = 0 THEN (SELECT CASE WHEN count(*) = 1 AND min(k.kind) = 0 THEN min(k.value) END \
                FROM rule_part k WHERE k.consent = r.consent AND k.node = r.node) END AS clause \
        FROM rule r WHERE r.superseded = 0 AND r.audience <> -1 AND r.patient IN (",
    "\
    ) \
    ) n GROUP BY n.audience, n.patient \
) g",
];

/// Appends the condition that the rules show the row, or the default where none speaks of it.
pub(super) fn shows(sql: &mut Sql, alias: &str, rows: Rows, requester: &Requester, now: Micros) {
    let one_of = one_of_audiences(sql, requester);
    sql.push("CASE (SELECT min(CASE WHEN n.unless < 0 OR n.low > ").int(now);
    sql.push(" OR n.high <= ").int(now).push(" THEN -1 WHEN n.unless = 0 THEN 1 WHEN ");
    let (before, between, after) = if function::is_used(sql) {
        ("gate_has(", ", n.unless", ")")
    } else {
        ("EXISTS (SELECT 1 FROM class_fact y JOIN clause_fact z ON z.fact = y.fact AND z.clause = n.unless WHERE y.class = ", "", ")")
    };
    sql.push(before);
    trait_of(sql, "class", alias, rows);
    sql.push(between).push(after);
    sql.push(&format!(" THEN 0 ELSE 1 END) FROM verdict n WHERE n.patient = {alias}.patient AND n.audience {one_of}) WHEN 1 THEN TRUE WHEN 0 THEN FALSE WHEN -1 THEN "));
    match sql.dialect {
        Dialect::Sqlite => inline::asked(sql, alias, rows, requester, now),
        Dialect::Postgres => function::asked(sql, alias, rows, requester, now),
    }
    sql.push(" ELSE ");
    default(sql, alias, rows, requester);
    sql.push(" = 1 END");
}

#[cfg(test)]
mod tests {
    use super::super::{AudiencePart, Default, Precedence, Rule, RuleRows, Rules, Test, Traits, class_statements};
    use super::*;
    use crate::fhir::Interval;
    use crate::fhir::series::Replaced;
    use crate::store::{Store, system_key};
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    const FACTS: [&str; 3] = ["a", "b", "c"];
    const ACTORS: [&str; 3] = ["one", "two", "three"];

    /// A rule that permits or denies an actor (or anybody) something simple, or not so simple.
    fn rule(node: i64, random: &mut StdRng) -> Rule {
        let precedences = [Precedence::Deny, Precedence::Permit, Precedence::Permit, Precedence::DefaultDeny, Precedence::DefaultPermit];
        let actors = match random.random_range(0..4) {
            0 => Vec::new(),
            n => vec![ACTORS[n - 1].to_owned()],
        };
        let facts = |random: &mut StdRng| Test::Facts(vec![FACTS[random.random_range(0..2)].to_owned()]);
        let tests = |random: &mut StdRng| match random.random_range(0..6) {
            0 => vec![Test::Within(Interval { low: 0, high: 5 })],
            1 => vec![facts(random), Test::Touches(Interval { low: 3, high: 9 })],
            _ => vec![facts(random)],
        };
        Rule {
            node,
            parent: (node > 0 && random.random_bool(0.5)).then(|| random.random_range(0..node)),
            precedence: precedences[random.random_range(0..precedences.len())],
            audience: vec![AudiencePart { actors, purposes: Vec::new() }],
            period: Interval { low: random.random_range(0..3) * 10, high: random.random_range(1..5) * 10 },
            parts: (0..[0, 0, 1, 1, 2][random.random_range(0..5)]).map(|_| tests(random)).collect(),
            has_exceptions: false,
            names_actor: true,
            names_emergency: false,
        }
    }

    fn rules(random: &mut StdRng) -> Rules {
        let mut rules: Vec<Rule> = (0..random.random_range(0..4)).map(|node| rule(node, random)).collect();
        let parents: Vec<i64> = rules.iter().filter_map(|rule| rule.parent).collect();
        for rule in &mut rules {
            rule.has_exceptions = parents.contains(&rule.node);
        }
        Rules { patients: vec!["p".into()], permitted: ["p".into()].into(), rules, ..Rules::default() }
    }

    #[tokio::test]
    async fn a_verdict_says_what_the_rules_say() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("sqlite:{}", folder.path().join("lango.db").display())).await.unwrap();
        // Resources of all classes, which happened at different times.
        for (class, facts) in [&[][..], &["a"], &["b", "c"]].into_iter().enumerate() {
            let traits = Traits::new(facts, None);
            for statement in class_statements(Dialect::Sqlite, [(&traits.class(), &traits.facts().to_vec())].into_iter()) {
                store.execute(statement).await.unwrap();
            }
            for (time, [low, high]) in [[0, 0], [1, 2], [4, 8]].into_iter().enumerate() {
                let mut sql = Sql::new(Dialect::Sqlite);
                sql.push(
                    "INSERT INTO resource (key, type, id, version, live, updated, created, txn, owner, patient, class, low, high) VALUES (",
                );
                let key = 10 + 3 * class + time;
                sql.push(&format!("{key}, 1, '{key}', 1, 1, 1, 1, 1, 7, 1, {}, {low}, {high})", traits.class()));
                store.execute(sql).await.unwrap();
            }
        }
        let mut random = StdRng::seed_from_u64(1);
        let (mut simple, mut answered) = (0, 0);
        for consent in (100..103).cycle().take(300) {
            let mut rows = RuleRows::default();
            rows.add(consent, &rules(&mut random), &mut |_, _| Some(1));
            // Most stand: of what was replaced there is nothing to conclude.
            let extents = [Replaced::Permits, Replaced::Everything];
            let replaced =
                (100..103).map(|consent| (consent, *extents.get(random.random_range(0..10)).unwrap_or(&Replaced::Nothing))).collect();
            for statement in rows.statements(Dialect::Sqlite, &[consent], &[1], &replaced) {
                store.execute(statement).await.unwrap();
            }
            let actors: Vec<&str> = ACTORS[..random.random_range(1..3)].to_vec();
            let default = if random.random_bool(0.5) {
                Default::Hidden
            } else {
                Default::ShownIf(super::super::sorted([system_key("b")].into_iter()))
            };
            let requester = Requester::new(actors, vec!["x"], default);
            for (now, kind) in (0..5).flat_map(|tens| [(tens * 10, Rows::Index), (tens * 10 + 9, Rows::Version)]) {
                let mut sql = Sql::new(Dialect::Sqlite);
                sql.push("SELECT CAST(2 * (");
                shows(&mut sql, "r", kind, &requester, now);
                sql.push(") + (");
                inline::asked(&mut sql, "r", kind, &requester, now);
                sql.push(") AS INTEGER) FROM resource r WHERE r.patient = 1");
                let agreed = store.integers(sql).await.unwrap();
                assert_eq!(agreed.len(), 9);
                assert!(agreed.iter().all(|both| [0, 3].contains(both)), "{consent} at {now}: {agreed:?}");
                answered += agreed.iter().filter(|both| **both == 3).count();
            }
            let mut sql = Sql::new(Dialect::Sqlite);
            sql.push("SELECT unless FROM verdict");
            simple += store.integers(sql).await.unwrap().into_iter().filter(|unless| *unless >= 0).count();
        }
        assert!(simple > 100 && answered > 1000, "{simple} {answered}");
    }
}
