//! What Consents allow, as rows: rules, the criteria on resources, whom they speak of, and what is in the value sets that they name.

use super::super::sql::{Dialect, Sql};
use super::super::{ResourceKey, TypeCode, system_key};
use super::{CHUNK, LEVELS, conclude, forget, insert, numbers, set_key, sorted};
use crate::fhir::Interval;
use crate::fhir::series::{Place, Replaced};
use std::collections::{BTreeMap, BTreeSet};

/// A Consent's rules, written with the Consent; they replace what an earlier version of it said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Ids of the Patients that it covers: what it denies holds for all of them.
    pub patients: Vec<Box<str>>,
    /// Those of them for whom what it permits holds too.
    pub permitted: BTreeSet<Box<str>>,
    pub succession: Succession,
    pub rules: Vec<Rule>,
    /// The versions that they were made by, of what is said of the Patients and of who is linked with whom: when one is not the present one, not deleted, any
    /// more, what rests on them is out of date ([`crate::store::Unit::unchanged`]).
    pub rests_on: Vec<(TypeCode, Box<str>, i64)>,
}

/// What becomes of a Consent's place among those that replace one another.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Succession {
    /// It was ended: where it stood, it stands, and what it replaced stays replaced.
    #[default]
    Keeps,
    /// It was entered in error: it never stood anywhere.
    Never,
    /// It stands here from now on, which may be nowhere ([`crate::fhir::series::after`]). Recorded at 0: when it is written.
    Takes(Place),
    /// These are all its places.
    Has(Vec<Place>),
}

impl Succession {
    pub(in crate::store) fn places(&self) -> &[Place] {
        match self {
            Succession::Keeps | Succession::Never => &[],
            Succession::Takes(place) => std::slice::from_ref(place),
            Succession::Has(places) => places,
        }
    }
}

impl Rules {
    /// The value sets that the rules name.
    pub fn sets(&self) -> impl Iterator<Item = &str> {
        let tests = self.rules.iter().flat_map(|rule| &rule.parts).flatten();
        tests.filter_map(|test| if let Test::InSet(members) = test { Some(&*members.url) } else { None })
    }

    /// The resources that the rules name (type, id).
    pub(in crate::store) fn targets(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.rules.iter().flat_map(|rule| &rule.parts).flatten().filter_map(Test::target);
        let subjects = self.succession.places().iter().filter_map(|place| place.subject.split_once('/'));
        self.patients.iter().map(|id| ("Patient", &**id)).chain(named).chain(subjects)
    }
}

/// Which of several effective rules decides: the lowest. Odd ones show a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Precedence {
    Deny = 0,
    Permit = 1,
    /// Of a Consent's own default, for what none of its patient's rules speaks of.
    DefaultDeny = 2,
    DefaultPermit = 3,
}

/// One provision.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its number in the Consent, 0 for the root.
    pub node: i64,
    /// The provision that it is an exception to.
    pub parent: Option<i64>,
    pub precedence: Precedence,
    /// Who must ask, and what for: every element must be met. Empty: anybody, for any purpose.
    pub audience: Vec<AudiencePart>,
    /// When it holds: `[low, high)`.
    pub period: Interval,
    /// What the resource must be: every element must be met, by any of its tests.
    pub parts: Vec<Vec<Test>>,
    pub has_exceptions: bool,
    /// It names whom it allows: they may read the Consent itself.
    pub names_actor: bool,
    /// It names emergencies: where it denies, it holds against break-glass.
    pub names_emergency: bool,
}

/// Any of the actors, and any of the purposes; an empty list means all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AudiencePart {
    /// In words, such as `organization|Organization/123`; the same words as in [`Requester::actors`].
    pub actors: Vec<String>,
    /// In words, such as `http://terminology.hl7.org/CodeSystem/v3-ActReason|TREAT`.
    pub purposes: Vec<String>,
}

/// A test on a resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// One of its facts is one of these, in the words of [`Traits::new`].
    Facts(Vec<String>),
    /// What happened lies in the interval as a whole; unknown times do not.
    Within(Interval),
    /// What happened touches the interval, or its time is unknown.
    Touches(Interval),
    /// It is this resource (type, id).
    Instance(Box<str>, Box<str>),
    /// It refers to this resource (type, id) by a search parameter. Other references are facts.
    Refers(Box<str>, Box<str>),
    /// This resource (type, id) refers to it by a search parameter, today.
    Around(Box<str>, Box<str>),
    /// A code in it is in the value set ([`Members`]), today.
    InSet(Members),
}

/// A value set as the rules of an effect see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub url: Box<str>,
    /// For a rule that denies: what cannot be told is in.
    pub denies: bool,
}

impl Members {
    fn clause(&self) -> i64 {
        system_key(&format!("{}|{}", if self.denies { "set denied" } else { "set" }, self.url))
    }
}

/// What is in a value set that rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub url: Box<str>,
    /// Codes as facts in words; `None`: it cannot be listed.
    pub facts: Option<Vec<String>>,
}

impl Membership {
    /// The clause and its facts for rules of either effect.
    fn clauses(&self) -> [(i64, Vec<i64>); 2] {
        [false, true].map(|denies| {
            let words: Vec<&str> = match &self.facts {
                Some(facts) => facts.iter().map(String::as_str).collect(),
                // Every resource has one of them.
                None if denies => LEVELS.to_vec(),
                None => Vec::new(),
            };
            let clause = Members { url: self.url.clone(), denies }.clause();
            (clause, sorted(words.into_iter().map(system_key)))
        })
    }

    /// The statements that put these in the place of what was known before.
    pub(in crate::store) fn statements(dialect: Dialect, sets: &[Membership]) -> Vec<Sql> {
        let mut statements = Vec::new();
        let clauses: Vec<(i64, Vec<i64>)> = sets.iter().flat_map(Membership::clauses).collect();
        for chunk in clauses.chunks(CHUNK) {
            let mut sql = Sql::new(dialect);
            sql.push("DELETE FROM clause_fact WHERE clause IN (");
            sql.join(chunk, ", ", |sql, (clause, _)| {
                sql.literal(*clause);
            });
            sql.push(")");
            statements.push(sql);
        }
        let rows: Vec<[i64; 2]> = clauses.iter().flat_map(|(clause, facts)| facts.iter().map(|fact| [*clause, *fact])).collect();
        insert(dialect, "clause_fact", &rows, &mut statements);
        for set in sets {
            let mut sql = Sql::new(dialect);
            sql.push("INSERT INTO rule_set (url) VALUES (").str(&set.url).push(") ON CONFLICT DO NOTHING");
            statements.push(sql);
        }
        statements
    }
}

impl Test {
    pub(super) const FACTS: i64 = 0;
    pub(super) const WITHIN: i64 = 1;
    pub(super) const TOUCHES: i64 = 2;
    pub(super) const INSTANCE: i64 = 3;
    pub(super) const REFERS: i64 = 4;
    pub(super) const AROUND: i64 = 5;

    /// The resource that it names.
    fn target(&self) -> Option<(&str, &str)> {
        match self {
            Test::Instance(type_name, id) | Test::Refers(type_name, id) | Test::Around(type_name, id) => Some((type_name, id)),
            _ => None,
        }
    }
}

/// Rows of the tables of `0003_consent.sql` (`rule`: `0052_rule.sql`), in the order of their columns.
#[derive(Debug, Default)]
pub struct RuleRows {
    pub rules: Vec<[i64; 13]>,
    pub parts: Vec<[i64; 7]>,
    pub audiences: Vec<[i64; 5]>,
    pub clauses: Vec<[i64; 2]>,
}

impl RuleRows {
    /// The rows of one Consent. `target` gives the key of a resource.
    pub fn add(&mut self, consent: ResourceKey, rules: &Rules, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) {
        let covered = rules.patients.iter().filter_map(|id| Some((target("Patient", id)?, rules.permitted.contains(id))));
        let covered: Vec<(ResourceKey, bool)> = covered.collect();
        for rule in &rules.rules {
            let denies = matches!(rule.precedence, Precedence::Deny | Precedence::DefaultDeny);
            let patients = || covered.iter().filter(|(_, permitted)| denies || *permitted).map(|(patient, _)| patient);
            // What never holds is kept for what it took the place of, where no question comes by.
            let audiences = if rule.period.low < rule.period.high { self.audiences(&rule.audience) } else { vec![NOBODY] };
            for (part, tests) in rule.parts.iter().enumerate() {
                for test in tests {
                    let (kind, value, low, high) = self.test(test, target);
                    self.parts.push([consent, rule.node, part as i64, kind, value, low, high]);
                }
            }
            for (patient, audience) in patients().flat_map(|patient| audiences.iter().map(move |audience| (*patient, *audience))) {
                self.rules.push([
                    patient,
                    consent,
                    rule.node,
                    rule.parent.unwrap_or(-1),
                    rule.precedence as i64,
                    audience,
                    rule.period.low,
                    rule.period.high,
                    rule.parts.len() as i64,
                    i64::from(rule.has_exceptions),
                    i64::from(rule.names_actor),
                    i64::from(rule.names_emergency),
                    0,
                ]);
            }
        }
    }

    /// Whom a rule speaks of: any of these audiences. Each pair of an actor and a purpose is one of its own, shared by all rules that name
    /// it, so that however differently patients put their lists together, a requester is found under few numbers.
    fn audiences(&mut self, parts: &[AudiencePart]) -> Vec<i64> {
        let keys = |words: &[String]| if words.is_empty() { vec![0] } else { sorted(words.iter().map(|word| system_key(word))) };
        let mut sets: Vec<(Vec<i64>, Vec<i64>)> = parts.iter().map(|part| (keys(&part.actors), keys(&part.purposes))).collect();
        sets.retain(|set| *set != (vec![0], vec![0]));
        join_purposes(&mut sets);
        sets.sort();
        sets.dedup();
        match sets.as_slice() {
            [] => vec![self.audience(&[(vec![0], vec![0])])],
            [(actors, purposes)] if actors.len().saturating_mul(purposes.len()) <= PAIRS => {
                let pairs = actors.iter().flat_map(|actor| purposes.iter().map(move |purpose| (vec![*actor], vec![*purpose])));
                pairs.map(|pair| self.audience(&[pair])).collect()
            }
            sets => vec![self.audience(sets)],
        }
    }

    /// One that is met by meeting each of the sets of actors and purposes.
    fn audience(&mut self, sets: &[(Vec<i64>, Vec<i64>)]) -> i64 {
        let numbers: Vec<i64> =
            sets.iter().flat_map(|(actors, purposes)| actors.iter().chain(&[-1]).chain(purposes).chain(&[-2])).copied().collect();
        let audience = set_key(&numbers);
        let count = sets.len() as i64;
        for (part, (actors, purposes)) in sets.iter().enumerate() {
            for actor in actors {
                self.audiences.extend(purposes.iter().map(|purpose| [*actor, *purpose, audience, part as i64, count]));
            }
        }
        audience
    }

    fn test(&mut self, test: &Test, target: &mut dyn FnMut(&str, &str) -> Option<ResourceKey>) -> (i64, i64, i64, i64) {
        let mut named = |kind, (type_name, id): (&str, &str)| (kind, target(type_name, id).unwrap_or(0), 0, 0);
        match test {
            Test::Facts(words) => {
                let facts = sorted(words.iter().map(|word| system_key(word)));
                let clause = set_key(&facts);
                self.clauses.extend(facts.iter().map(|fact| [clause, *fact]));
                (Test::FACTS, clause, 0, 0)
            }
            Test::Within(interval) => (Test::WITHIN, 0, interval.low, interval.high),
            Test::Touches(interval) => (Test::TOUCHES, 0, interval.low, interval.high),
            Test::Instance(type_name, id) => named(Test::INSTANCE, (type_name, id)),
            Test::Refers(type_name, id) => named(Test::REFERS, (type_name, id)),
            Test::Around(type_name, id) => named(Test::AROUND, (type_name, id)),
            Test::InSet(members) => (Test::FACTS, members.clause(), 0, 0),
        }
    }
}

impl RuleRows {
    /// The patients whose rules these are.
    pub fn patients(&self) -> impl Iterator<Item = ResourceKey> {
        self.rules.iter().map(|rule| rule[0])
    }

    /// The patients of whom these rules deny something.
    pub fn denied(&self) -> impl Iterator<Item = ResourceKey> {
        const DENIES: [i64; 2] = [Precedence::Deny as i64, Precedence::DefaultDeny as i64];
        self.rules.iter().filter(|rule| DENIES.contains(&rule[4])).map(|rule| rule[0])
    }

    /// The rules that there are of `patients`: whoever has none before loses nothing by a permit.
    pub(in crate::store) fn ruled(dialect: Dialect, patients: &[ResourceKey]) -> Sql {
        let mut sql = Sql::new(dialect);
        sql.push("SELECT DISTINCT patient FROM rule WHERE patient IN (");
        numbers(&mut sql, patients);
        sql.push(")");
        sql
    }

    /// The statements that put these rows in the place of the rules of `consents`. `patients`: all whose rules change, sorted; `replaced`: what others have
    /// taken the place of, of each Consent of which that may change.
    pub fn statements(
        &self,
        dialect: Dialect,
        consents: &[ResourceKey],
        patients: &[ResourceKey],
        replaced: &BTreeMap<ResourceKey, Replaced>,
    ) -> Vec<Sql> {
        let mut statements = forget(dialect, patients);
        for chunk in consents.chunks(CHUNK) {
            for table in ["rule", "rule_part"] {
                let mut sql = Sql::new(dialect);
                sql.push("DELETE FROM ").push(table).push(" WHERE consent IN (");
                numbers(&mut sql, chunk);
                sql.push(")");
                statements.push(sql);
            }
        }
        insert(dialect, "clause_fact", &self.clauses, &mut statements);
        insert(dialect, "audience_part", &self.audiences, &mut statements);
        insert(dialect, "rule_part", &self.parts, &mut statements);
        insert(dialect, "rule", &self.rules, &mut statements);
        for (extent, superseded) in
            [(Replaced::Nothing, "0"), (Replaced::Permits, "CASE WHEN precedence IN (1, 3) THEN 1 ELSE 0 END"), (Replaced::Everything, "1")]
        {
            let consents: Vec<ResourceKey> = replaced.iter().filter(|(_, of)| **of == extent).map(|(consent, _)| *consent).collect();
            for chunk in consents.chunks(CHUNK) {
                let mut sql = Sql::new(dialect);
                sql.push("UPDATE rule SET superseded = ").push(superseded).push(" WHERE superseded <> ").push(superseded);
                sql.push(" AND consent IN (");
                numbers(&mut sql, chunk);
                sql.push(")");
                statements.push(sql);
            }
        }
        statements.extend(conclude(dialect, patients));
        statements
    }
}

/// An audience that nobody is in.
const NOBODY: i64 = -1;
/// Most pairs of an actor and a purpose that a rule is written for one by one.
const PAIRS: usize = 16;
/// Most rows that an actor part and a purpose part are joined to.
const JOINED: usize = 256;

/// Parts that only say what for are joined to one that says who. So the rows of an audience are found by its actors: the purposes alone
/// are nearly everybody's.
fn join_purposes(sets: &mut Vec<(Vec<i64>, Vec<i64>)>) {
    let (mut whom, why): (Vec<_>, Vec<_>) = sets.drain(..).partition(|(actors, _)| *actors != [0]);
    for (any, purposes) in why {
        let fits = |actors: &Vec<i64>| actors.len().saturating_mul(purposes.len()) <= JOINED;
        match whom.iter_mut().find(|(actors, whatever)| *whatever == [0] && fits(actors)) {
            Some((_, whatever)) => *whatever = purposes,
            None => match whom.iter().find(|(actors, _)| fits(actors)) {
                Some((actors, _)) => whom.push((actors.clone(), purposes)),
                None => whom.push((any, purposes)),
            },
        }
    }
    *sets = whom;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(actors: &[&str], purposes: &[&str], period: Interval) -> RuleRows {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let rule = Rule {
            node: 0,
            parent: None,
            precedence: Precedence::Permit,
            audience: vec![AudiencePart { actors: words(actors), purposes: words(purposes) }],
            period,
            parts: Vec::new(),
            has_exceptions: false,
            names_actor: true,
            names_emergency: false,
        };
        let mut rows = RuleRows::default();
        let rules = Rules { patients: vec!["p".into()], permitted: ["p".into()].into(), rules: vec![rule], ..Rules::default() };
        rows.add(7, &rules, &mut |_, _| Some(1));
        rows
    }

    fn audiences(rows: &RuleRows) -> Vec<i64> {
        rows.rules.iter().map(|rule| rule[5]).collect()
    }

    #[test]
    fn a_requester_is_found_under_the_same_number_however_patients_put_their_lists_together() {
        let always = Interval { low: 0, high: 1 };
        let one = audiences(&rows(&["a"], &["TREAT"], always));
        let several = rows(&["c", "a"], &["HPAYMT", "TREAT"], always);
        assert_eq!(several.rules.len(), 4);
        assert!(one.iter().all(|audience| audiences(&several).contains(audience)));
        let many: Vec<String> = (0..PAIRS + 1).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(rows(&many, &["TREAT"], always).rules.len(), 1, "a long list is one audience");
    }

    #[test]
    fn what_never_holds_is_nobodys() {
        let never = rows(&["a"], &["TREAT"], Interval { low: 0, high: 0 });
        assert_eq!(audiences(&never), [NOBODY]);
        assert!(never.audiences.is_empty());
    }
}
