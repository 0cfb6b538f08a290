//! Who a record is about: one client of a facility, however the record names it.
//!
//! A facility names its clients by numbers of its own (MRN), by identifiers that others gave them (NIDA), and by the visit that an
//! update belongs to. What was sent before says which of these mean the same person. Three kinds of rows hold that, beside
//! those of the visits' lists and like them ([`crate::store::visits`]): an identifier and the clients it was sent of, a visit's id
//! and the clients it was sent of, a client and what it looks like. They are written with the resources of the record that they
//! were learned from, so two submissions at once never make two clients of one: the slower one is stale and asks again.
//!
//! The rules are in `docs/hdu.md` ("Who a record is about"). Two people's records are never mixed: whatever contradicts
//! makes a client of its own, and so does a new number, unless next to everything says that it was corrected. What was once
//! decided stays decided: a number stays its client's, what a record was the first to say is remembered with its arrival, and
//! rows only grow. A replay of the same record finds the same client.

use super::template::Identity;
use crate::fhir::{Issue, IssueCode};
use crate::store::visits::Visit;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// Clients that one identifier or visit id is remembered of. One that more have tells nobody apart.
const MOST_CLIENTS: usize = 16;
/// So many of a client's names, birth date and sex differ when a client who is known by one identifier only is somebody else; fewer are a correction.
const STRANGER: usize = 2;
/// Facts of a visit that must be told twice, and alike, before two of the same id are taken for one in spite of another number: when it was, and one more.
const SAME_CARE: usize = 2;

/// When a record arrived: its submission, and its place in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Arrival(pub i64, pub usize);

/// The clients that an identifier, or a visit's id, was sent of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Clients {
    of: Vec<(String, Arrival)>,
    /// More than are remembered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    many: bool,
    /// Of a visit that is one client's: what tells it from other people's.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    care: Map<String, Value>,
}

impl Clients {
    fn first(&self) -> Option<&str> {
        self.of.first().map(|(client, _)| client.as_str())
    }

    /// Those that were known when the record arrived; when none was, those that came later: the record itself is late.
    fn at(&self, arrival: Arrival) -> BTreeSet<&str> {
        let before: BTreeSet<&str> = self.of.iter().filter(|(_, since)| *since <= arrival).map(|(client, _)| client.as_str()).collect();
        if !before.is_empty() {
            return before;
        }
        self.of.iter().map(|(client, _)| client.as_str()).collect()
    }

    fn has(&self, client: &str) -> bool {
        self.of.iter().any(|(known, _)| known == client)
    }

    /// Whom the record that arrived then was found to be about, when it was the first to say this of that client.
    fn decided(&self, arrival: Arrival) -> Option<&str> {
        self.of.iter().find(|(_, since)| *since == arrival).map(|(client, _)| client.as_str())
    }
}

/// What tells a client from others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Likeness {
    like: Map<String, Value>,
    /// Identifiers by type, as they were last sent.
    ids: BTreeMap<String, BTreeSet<String>>,
    /// The facility's own numbers of the client.
    #[serde(default)]
    numbers: BTreeSet<String>,
    #[serde(default)]
    contact: Map<String, Value>,
}

impl Likeness {
    /// How many of the things that both know are different.
    fn differences(&self, identity: &Identity) -> usize {
        identity.likeness.told.iter().filter(|(name, said)| self.like.get(*name).is_some_and(|known| known != *said)).count()
    }

    /// An identifier of the same type is another one.
    fn has_other_identifier(&self, identity: &Identity) -> bool {
        types(identity).iter().any(|(kind, said)| self.ids.get(kind).is_some_and(|known| known.is_disjoint(said)))
    }

    fn contradicts(&self, identity: &Identity) -> bool {
        self.differences(identity) > 0 || self.has_other_identifier(identity)
    }

    /// Everything that tells people apart is known of both and the same, and they are reached in the same way.
    fn is_same(&self, identity: &Identity) -> bool {
        identity.likeness.is_whole
            && identity.likeness.told == self.like
            && agreed(&self.contact, &identity.contact.told).is_some()
            && !self.has_other_identifier(identity)
    }
}

/// How many things both tell; `None` when they tell something differently.
fn agreed(known: &Map<String, Value>, said: &Map<String, Value>) -> Option<usize> {
    let both = said.iter().filter_map(|(name, said)| Some((known.get(name)?, said)));
    both.map(|(known, said)| (known == said).then_some(1)).sum()
}

/// A record's identifiers by type; its numbers are left out, since people have several.
fn types(identity: &Identity) -> BTreeMap<String, BTreeSet<String>> {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (kind, value) in identity.others.iter().filter_map(|other| other.split_once('|')) {
        types.entry(kind.to_owned()).or_default().insert(value.to_owned());
    }
    types
}

/// The answer for one record.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// `None`: the record names nobody who can be told, or needs nobody.
    pub client: Option<String>,
    /// Why nobody can be told, though somebody is named.
    pub error: Option<Issue>,
    /// Said of the visit's id.
    pub warning: Option<Issue>,
    /// Said of the number: that it is taken for another number of a client who is known.
    pub assumed: Option<Issue>,
    /// The client's identifiers as (type, value), for the reply.
    pub identifiers: Vec<(String, String)>,
}

/// What is known of a facility's clients, as far as some records ask for it.
#[derive(Debug)]
pub(super) struct Directory {
    /// And the template, when the clients are its own.
    facility: String,
    /// As stored.
    rows: HashMap<Box<str>, Visit>,
    clients: HashMap<Box<str>, Clients>,
    likenesses: HashMap<Box<str>, Likeness>,
    /// What was learned, by row, with the newest submission that taught it.
    changed: BTreeMap<Box<str>, i64>,
    /// The clients whom the submission names by a number: none of them is named by another too. Those of records before these,
    numbered_before: Arc<HashSet<String>>,
    /// and those of these.
    numbered: HashSet<String>,
    /// Learn from records only that describe their client: of the others it is not known whether they came to anything.
    pub careful: bool,
}

impl Directory {
    /// `space`: the template whose own clients these are; `None`: the facility's. `numbered`: the clients whom records of the same submission
    /// named by a number.
    pub fn new(facility: &str, space: Option<&str>, numbered: Arc<HashSet<String>>) -> Directory {
        Directory {
            facility: space.map_or_else(|| facility.to_owned(), |space| format!("{facility}\u{1f}{space}")),
            numbered_before: numbered,
            rows: HashMap::new(),
            clients: HashMap::new(),
            likenesses: HashMap::new(),
            changed: BTreeMap::new(),
            numbered: HashSet::new(),
            careful: false,
        }
    }

    fn key(&self, kind: &str, name: &str) -> Box<str> {
        let name = format!("{kind}\u{1f}{}\u{1f}{name}", self.facility);
        Uuid::new_v5(&super::template::NAMESPACE, name.as_bytes()).to_string().into()
    }

    /// The rows that say whom these records mean; [`Directory::learn_clients`] takes them.
    pub fn asked<'i>(&self, records: impl Iterator<Item = (&'i Identity, Option<&'i str>)>) -> BTreeSet<Box<str>> {
        let mut keys = BTreeSet::new();
        for (identity, visit) in records.filter(|(identity, _)| !identity.is_absent) {
            keys.extend(identity.number.iter().chain(&identity.others).map(|name| self.key("known as", name)));
            keys.extend(visit.map(|visit| self.key("visit of", visit)));
        }
        keys
    }

    /// Takes stored rows of identifiers and visits; gives the rows of the clients that they name.
    pub fn learn_clients(&mut self, rows: HashMap<Box<str>, Visit>) -> BTreeSet<Box<str>> {
        let mut named = BTreeSet::new();
        for (id, row) in rows {
            let clients: Clients = serde_json::from_str(&row.lists).unwrap_or_default();
            named.extend(clients.of.iter().map(|(client, _)| self.key("looks like", client)));
            self.clients.insert(id.clone(), clients);
            self.rows.insert(id, row);
        }
        named
    }

    /// Takes stored rows of clients.
    pub fn learn_likenesses(&mut self, rows: HashMap<Box<str>, Visit>) {
        for (id, row) in rows {
            self.likenesses.insert(id.clone(), serde_json::from_str(&row.lists).unwrap_or_default());
            self.rows.insert(id, row);
        }
    }

    /// The rows that changed, to be written.
    pub fn changes(&self) -> Vec<Visit> {
        let mut changes = Vec::with_capacity(self.changed.len());
        for (id, submission) in &self.changed {
            let lists = match (self.clients.get(id), self.likenesses.get(id)) {
                (Some(clients), _) => serde_json::to_string(clients),
                (_, Some(likeness)) => serde_json::to_string(likeness),
                _ => continue,
            };
            let (revision, known) = self.rows.get(id).map_or((0, *submission), |row| (row.revision, row.submission));
            changes.extend(lists.ok().map(|lists| Visit { id: id.clone(), revision, submission: known.max(*submission), lists }));
        }
        changes
    }

    /// Takes note of records that are to come: whom their numbers mean is theirs alone.
    pub fn expect<'i>(&mut self, records: impl Iterator<Item = &'i Identity>) {
        let numbers = records.filter_map(|identity| identity.number.as_deref());
        let known = numbers.filter_map(|number| self.clients.get(&self.key("known as", number))?.first().map(str::to_owned));
        self.numbered.extend(known.collect::<Vec<_>>());
    }

    /// The clients whom these records name by a number.
    pub fn into_numbered(self) -> HashSet<String> {
        self.numbered
    }

    /// Whom a record is about. What it teaches is known to the records after it.
    pub fn find(&mut self, identity: &Identity, visit: Option<&str>, arrival: Arrival) -> Found {
        if identity.is_absent {
            return Found::default();
        }
        match self.client(identity, visit, arrival) {
            Ok(Some((client, basis))) => {
                // A template that takes clients as they come knows nothing of them.
                let learns = !identity.likeness.told.is_empty() || identity.needs.is_some() && !self.careful;
                let assumed = basis.warning(self.likeness(&client), identity);
                let foreign = learns && self.learn(&client, identity, visit, arrival);
                if identity.number.is_some() {
                    self.numbered.insert(client.clone());
                }
                Found { client: Some(client), warning: foreign.then(other_clients_visit), assumed, ..Found::default() }
            }
            Ok(None) => Found::default(),
            Err(issue) => Found { error: Some(issue), ..Found::default() },
        }
    }

    /// The identifiers that a client was last sent with, as (type, value).
    pub fn identifiers(&self, client: &str) -> Vec<(String, String)> {
        let known = self.likeness(client).into_iter().flat_map(|known| &known.ids);
        known.flat_map(|(kind, values)| values.iter().map(|value| (kind.clone(), value.clone()))).collect()
    }

    fn client(&self, identity: &Identity, visit: Option<&str>, arrival: Arrival) -> Result<Option<(String, Basis)>, Issue> {
        let row = |kind: &str, name: &str| self.clients.get(&self.key(kind, name));
        if let Some(client) = identity.number.as_deref().and_then(|number| row("known as", number)?.first()) {
            return Ok(Some((client.to_owned(), Basis::Known)));
        }
        let of_visit = visit.and_then(|visit| row("visit of", visit));
        let others: Vec<(&String, &Clients)> =
            identity.others.iter().filter_map(|other| Some((other, row("known as", other).filter(|clients| !clients.many)?))).collect();
        let rows = others.iter().map(|(_, clients)| *clients).chain(of_visit);
        if let Some(client) = rows.filter_map(|clients| clients.decided(arrival)).next() {
            return Ok(Some((client.to_owned(), Basis::Known)));
        }
        let visitors = of_visit.map(|clients| clients.at(arrival)).unwrap_or_default();
        let only_visitor = || match (visitors.len(), of_visit) {
            (1, Some(clients)) if !clients.many => visitors.first().map(|client| (*client, &clients.care)),
            _ => None,
        };
        let is_same = |(client, care): &(&str, &Map<String, Value>)| {
            identity.care.is_whole
                && agreed(care, &identity.care.told).is_some_and(|both| both >= SAME_CARE)
                && self.likeness(client).is_some_and(|known| known.is_same(identity))
                && !self.is_somebody_elses(client, identity)
        };
        let Some(own_key) = identity.own_key() else {
            // The follow-up of a visit. When it says whom it means, that must fit.
            let client = only_visitor().filter(|visitor| identity.likeness.told.is_empty() || is_same(visitor));
            return match client {
                Some((client, _)) => Ok(Some((client.to_owned(), Basis::Known))),
                None if visitors.is_empty() => Ok(None),
                None => Err(ambiguous(
                    "names no client, and this visit id was sent of another client, or of several: send the client's number too",
                )),
            };
        };
        let mut named: BTreeSet<&str> = BTreeSet::new();
        for (other, clients) in &others {
            // Only what is one person's own says that somebody has two numbers.
            let fits = |client: &&str| {
                let known = self.likeness(client);
                identity.number.is_none()
                    || known.is_none_or(|known| known.numbers.is_empty())
                    || identity.strong.contains(*other) && !self.is_somebody_elses(client, identity)
            };
            named.extend(clients.at(arrival).into_iter().filter(fits));
        }
        let agrees = |client: &&str| !self.likeness(client).is_some_and(|known| known.contradicts(identity));
        let here: Vec<&str> = named.intersection(&visitors).copied().collect();
        if let ([client], None) = (&*here, &identity.number) {
            // The same identifier and the same visit: what differs is corrected, unless it is clearly somebody else.
            if self.likeness(client).is_none_or(|known| known.differences(identity) < STRANGER) {
                return Ok(Some(((*client).to_owned(), Basis::Shared)));
            }
        }
        for some in [here, named.iter().copied().collect()] {
            let fit: Vec<&str> = some.into_iter().filter(|client| agrees(client)).collect();
            match &*fit {
                [] => {}
                [client] => return Ok(Some(((*client).to_owned(), Basis::Shared))),
                _ if identity.number.is_some() => {}
                _ => return Err(ambiguous("names a client by identifiers that several clients have: send the client's number too")),
            }
        }
        if let Some((client, _)) = only_visitor().filter(is_same) {
            return Ok(Some((client.to_owned(), Basis::Corrected)));
        }
        Ok(Some((self.new_client(own_key, identity), Basis::Known)))
    }

    /// The submission itself names the client by another number: two people, however alike.
    fn is_somebody_elses(&self, client: &str, identity: &Identity) -> bool {
        identity.number.is_some() && (self.numbered.contains(client) || self.numbered_before.contains(client))
    }

    /// What a client is called who was not known before. An identifier that somebody clearly else is called by already is not enough.
    fn new_client(&self, own_key: &str, identity: &Identity) -> String {
        let is_stranger = |name: &str| self.likeness(name).is_some_and(|known| known.differences(identity) >= STRANGER);
        if identity.number.is_some() || !is_stranger(own_key) {
            return own_key.to_owned();
        }
        let like: Vec<&str> = identity.likeness.told.values().filter_map(Value::as_str).collect();
        format!("{own_key}\u{1f}{}", like.join("\u{1f}"))
    }

    fn likeness(&self, client: &str) -> Option<&Likeness> {
        self.likenesses.get(&self.key("looks like", client))
    }

    /// Gives whether the visit's id is another client's already.
    fn learn(&mut self, client: &str, identity: &Identity, visit: Option<&str>, arrival: Arrival) -> bool {
        for name in identity.number.iter().chain(&identity.others) {
            self.remember(self.key("known as", name), client, arrival);
        }
        let mut foreign = false;
        if let Some(key) = visit.map(|visit| self.key("visit of", visit)) {
            foreign = self.clients.get(&key).is_some_and(|known| !known.of.is_empty() && !known.many && !known.has(client));
            self.remember(key.clone(), client, arrival);
            self.learn_care(key, identity, arrival);
        }
        let key = self.key("looks like", client);
        let is_late = self.rows.get(&key).is_some_and(|row| row.submission > arrival.0);
        let known = self.likenesses.entry(key.clone()).or_default();
        let before = known.clone();
        lay(&mut known.like, &identity.likeness.told, is_late);
        lay(&mut known.contact, &identity.contact.told, is_late);
        known.numbers.extend(identity.number.clone().filter(|_| known.numbers.len() < MOST_CLIENTS));
        for (kind, said) in types(identity) {
            if !is_late || !known.ids.contains_key(&kind) {
                known.ids.insert(kind, said);
            }
        }
        if *known != before {
            self.change(key, arrival);
        }
        foreign
    }

    /// What tells the visit apart is of use as long as it is one client's.
    fn learn_care(&mut self, key: Box<str>, identity: &Identity, arrival: Arrival) {
        let is_late = self.rows.get(&key).is_some_and(|row| row.submission > arrival.0);
        let Some(known) = self.clients.get_mut(&key) else { return };
        let before = std::mem::take(&mut known.care);
        if known.of.len() == 1 {
            known.care = before.clone();
            lay(&mut known.care, &identity.care.told, is_late);
        }
        if known.care != before {
            self.change(key, arrival);
        }
    }

    fn remember(&mut self, key: Box<str>, client: &str, arrival: Arrival) {
        let known = self.clients.entry(key.clone()).or_default();
        if known.many || known.has(client) {
            return;
        }
        if known.of.len() < MOST_CLIENTS {
            known.of.push((client.to_owned(), arrival));
        } else {
            known.many = true;
        }
        self.change(key, arrival);
    }

    fn change(&mut self, key: Box<str>, arrival: Arrival) {
        let submission = self.changed.entry(key).or_insert(arrival.0);
        *submission = arrival.0.max(*submission);
    }
}

/// Lays what is said over what is known; what is late only fills gaps.
fn lay(known: &mut Map<String, Value>, said: &Map<String, Value>, is_late: bool) {
    for (name, said) in said {
        if !is_late || !known.contains_key(name) {
            known.insert(name.clone(), said.clone());
        }
    }
}

/// Why a record is taken to be about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    /// It was told before, or nobody was there to be confused with.
    Known,
    /// By an identifier.
    Shared,
    /// By all else that it says.
    Corrected,
}

impl Basis {
    /// What the sender is told of a number that is taken for another one of a client who has one.
    fn warning(self, client: Option<&Likeness>, identity: &Identity) -> Option<Issue> {
        let is_second = identity.number.is_some() && client.is_some_and(|known| !known.numbers.is_empty());
        let words = match self {
            Basis::Shared if is_second => {
                "this facility sent the same person's identifier with another number, and names, birth date and sex agree: both are taken \
                 for numbers of one client"
            }
            Basis::Corrected => {
                "the client is taken for one whom this facility sent under another number or identifier, because the visit with its date and \
                 care, the names, birth date and sex are the same: if these are two people, give each visit an id of its own"
            }
            _ => return None,
        };
        Some(Issue::warning(IssueCode::Duplicate, words))
    }
}

fn ambiguous(words: &str) -> Issue {
    Issue::error(IssueCode::MultipleMatches, words)
}

fn other_clients_visit() -> Issue {
    let words = "this visit id was sent of another client of this facility before: the two are kept apart as two visits. If they are one \
                 visit whose client was corrected, send the right client's identifiers, names, birth date and sex with it, or delete \
                 the wrong visit; if not, give each visit an id of its own";
    Issue::warning(IssueCode::Duplicate, words)
}

#[cfg(test)]
mod tests {
    use super::super::template::Traits;
    use super::*;
    use serde_json::json;

    fn traits(needed: usize, told: &[(&str, &str)]) -> Traits {
        let is_whole = told.len() >= needed;
        Traits { told: told.iter().map(|(name, said)| ((*name).to_owned(), json!(said))).collect(), is_whole }
    }

    /// `names` as "first last birth sex middle", or less.
    fn who(number: &str, others: &[&str], names: &str) -> Identity {
        let keys = ["firstName", "lastName", "birthDate", "sex", "middleName"];
        let others: Vec<String> = others.iter().map(|other| (*other).to_owned()).collect();
        let names: Vec<(&str, &str)> = keys.into_iter().zip(names.split_whitespace()).collect();
        Identity {
            is_absent: false,
            number: Some(number.to_owned()).filter(|number| !number.is_empty()),
            number_path: None,
            strong: others.iter().filter(|other| other.starts_with("NIDA")).cloned().collect(),
            others,
            placeholders: Vec::new(),
            likeness: traits(4, &names),
            contact: Traits::default(),
            care: if names.is_empty() { Traits::default() } else { traits(1, &[("visit", "2026-09-07"), ("diagnoses", "b54")]) },
            needs: Some("demographicDetails".to_owned()),
        }
    }

    struct Facility(Directory, i64);

    impl Facility {
        fn new() -> Facility {
            Facility(Directory::new("HF", None, Arc::default()), 0)
        }

        /// The client, or a word of why not; `!` when the visit id is another client's.
        fn sends(&mut self, number: &str, others: &[&str], names: &str, visit: &str) -> String {
            self.1 += 1;
            self.asks(number, others, names, visit, self.1)
        }

        fn asks(&mut self, number: &str, others: &[&str], names: &str, visit: &str, at: i64) -> String {
            self.takes(&who(number, others, names), visit, Arrival(at, 0))
        }

        /// The same; `~` when the number is taken for another one of the client.
        fn takes(&mut self, identity: &Identity, visit: &str, at: Arrival) -> String {
            if at.1 == 0 {
                self.0.numbered.clear();
            }
            let found = self.0.find(identity, Some(visit), at);
            let assumed = if found.assumed.is_some() { "~" } else { "" };
            let client = found.client.or(found.error.map(|_| "?".to_owned())).unwrap_or_else(|| "-".to_owned());
            format!("{client}{}{assumed}", if found.warning.is_some() { "!" } else { "" })
        }
    }

    const ANNA: &str = "anna juma 1990-01-01 f";

    #[test]
    fn a_client_is_found_by_each_of_its_identifiers_and_by_its_visit() {
        let mut hf = Facility::new();
        assert_eq!(hf.sends("m1", &["NIDA|1"], ANNA, "V1"), "m1");
        assert_eq!(hf.sends("", &["NIDA|1"], ANNA, "V1"), "m1");
        assert_eq!(hf.sends("m1b", &[], ANNA, "V1"), "m1~", "a corrected number");
        assert_eq!(hf.sends("m1b", &[], "", "V2"), "m1", "and it stays known");
        assert_eq!(hf.sends("", &["NIDA|1"], "", "V2"), "m1");
        assert_eq!(hf.sends("", &[], "", "V1"), "m1", "an update that names the visit only");
        assert_eq!(hf.sends("", &[], "", "V9"), "-");
        assert_eq!(hf.sends("m2", &["NIDA|1"], ANNA, "V3"), "m1~", "a second number of the same person");
        // The other way round: the identifier first.
        assert_eq!(hf.sends("", &["NIDA|2"], "asha juma 1991-01-01 f", "V4"), "NIDA|2");
        assert_eq!(hf.sends("m4", &["NIDA|2"], "asha juma 1991-01-01 f", "V4"), "NIDA|2");
        assert_eq!(hf.sends("m4", &[], "", "V4"), "NIDA|2");
    }

    #[test]
    fn two_people_stay_two() {
        let mut hf = Facility::new();
        assert_eq!(hf.sends("m1", &["NIDA|1"], ANNA, "V1"), "m1");
        assert_eq!(hf.sends("m2", &[], "asha juma 1990-01-01 f", "V1"), "m2!", "another name: her visit has the same id");
        assert_eq!(hf.sends("m2", &[], "asha juma 1990-01-01 f", "V1"), "m2", "told once");
        assert_eq!(hf.sends("", &[], "", "V1"), "?", "whose?");
        assert_eq!(hf.sends("m3", &["NIDA|1"], "zawadi juma 2026-01-01 f", "V3"), "m3", "a child under its mother's identifier");
        assert_eq!(hf.sends("", &["NIDA|1"], "", "V3"), "m3", "the visit tells which");
        assert_eq!(hf.sends("", &["NIDA|1"], "", "V7"), "?");
        assert_eq!(hf.sends("m5", &["NIDA|5"], ANNA, "V6"), "m5", "the same name and birth date, another visit");
        assert_eq!(hf.sends("m6", &["NIDA|6"], ANNA, "V6"), "m6!", "and another identifier");
        // Nothing but the mother's identifier.
        assert_eq!(hf.sends("", &["NIDA|8"], ANNA, "V8"), "NIDA|8");
        let child = hf.sends("", &["NIDA|8"], "zawadi juma 2026-01-01 f", "V10");
        assert!(child.starts_with("NIDA|8\u{1f}"), "{child}");
        assert_eq!(hf.sends("", &["NIDA|8"], "zawadi juma 2026-01-01 f", "V11"), child);
        assert_eq!(hf.sends("", &["NIDA|8"], "anna juma 1990-01-02 f", "V12"), "NIDA|8", "a corrected birth date");
    }

    #[test]
    fn a_number_is_corrected_only_when_next_to_everything_agrees() {
        let other = |change: &dyn Fn(&mut Identity)| {
            let mut hf = Facility::new();
            let mut first = who("m1", &["CARD|7"], ANNA);
            first.contact = traits(0, &[("phones", "1")]);
            assert_eq!(hf.takes(&first, "1", Arrival(1, 0)), "m1");
            let mut second = Identity { number: Some("m2".to_owned()), ..first };
            change(&mut second);
            hf.takes(&second, "1", Arrival(2, 0))
        };
        let say = |traits: &mut Traits, name: &str, said: &str| drop(traits.told.insert(name.to_owned(), json!(said)));
        assert_eq!(other(&|_| {}), "m1~");
        assert_eq!(other(&|second| second.contact = Traits::default()), "m1~", "what stays away says nothing");
        assert_eq!(other(&|second| say(&mut second.likeness, "middleName", "zawadi")), "m2!");
        assert_eq!(other(&|second| say(&mut second.likeness, "birthDate", "1990-01-02")), "m2!");
        assert_eq!(other(&|second| say(&mut second.contact, "phones", "2")), "m2!");
        assert_eq!(other(&|second| say(&mut second.care, "visit", "2026-09-20")), "m2!", "an EMR that numbers the visits of each client");
        assert_eq!(other(&|second| say(&mut second.care, "diagnoses", "j06.9")), "m2!");
        assert_eq!(other(&|second| second.care = Traits::default()), "m2!", "nothing of the visit");
        assert_eq!(other(&|second| drop(second.care.told.shift_remove("diagnoses"))), "m2!", "a date is not enough");
    }

    #[test]
    fn two_numbers_of_one_submission_are_two_people() {
        for others in [&["NIDA|1"][..], &[]] {
            let mut hf = Facility::new();
            assert_eq!(hf.takes(&who("m1", others, ANNA), "1", Arrival(1, 0)), "m1");
            assert_eq!(hf.takes(&who("m2", others, ANNA), "1", Arrival(1, 1)), "m2!", "twins");
            // The other number comes later, and is known.
            hf = Facility::new();
            assert_eq!(hf.takes(&who("m1", others, ANNA), "1", Arrival(1, 0)), "m1");
            hf.0.numbered.clear();
            hf.0.expect([who("m2", others, ANNA), who("m1", others, ANNA)].iter());
            assert_eq!(hf.takes(&who("m2", others, ANNA), "1", Arrival(2, 1)), "m2!");
            assert_eq!(hf.takes(&who("m1", others, ANNA), "1", Arrival(2, 2)), "m1");
        }
    }

    #[test]
    fn only_one_persons_own_identifier_links_two_numbers() {
        let mut hf = Facility::new();
        assert_eq!(hf.sends("m1", &["NIDA|1", "CARD|7"], ANNA, "V1"), "m1");
        assert_eq!(hf.sends("m2", &["CARD|7"], ANNA, "V2"), "m2", "a family's card");
        assert_eq!(hf.sends("m3", &["NIDA|1"], "anna juma 1990-01-01 f asha", "V3"), "m1~");
        assert_eq!(hf.sends("m4", &["NIDA|1"], "anna juma 1990-01-01 f neema", "V4"), "m4", "another middle name");
        assert_eq!(hf.sends("", &[], "eva juma 1990-01-01 f", "V4"), "?", "named by nothing, and of another name");
    }

    #[test]
    fn what_was_decided_stays_decided() {
        let mut hf = Facility::new();
        let records = [
            ("m1", &["NIDA|1"][..], ANNA, "V1"),
            ("", &["NIDA|1"], "", "V1"),
            ("", &[], "", "V1"),
            ("m2", &["NIDA|1"], "zawadi juma 2026-01-01 m", "V1"),
            ("", &["NIDA|1"], "", "V1"),
            ("", &[], "", "V1"),
            ("m3", &[], ANNA, "V1"),
            ("", &["NIDA|2"], ANNA, "V2"),
            ("m4", &["NIDA|2"], ANNA, "V3"),
            ("m2", &["NIDA|2"], "zawadi mussa 2026-01-01 m", "V2"),
            ("", &["NIDA|2"], "zawadi mussa 2026-01-01 m", "V4"),
        ];
        let first: Vec<String> = records.iter().map(|(number, others, names, visit)| hf.sends(number, others, names, visit)).collect();
        let again = records.iter().zip(1..).map(|((number, others, names, visit), at)| hf.asks(number, others, names, visit, at));
        let without = |said: &String| said.trim_end_matches(['!', '~']).to_owned();
        assert_eq!(again.map(|said| without(&said)).collect::<Vec<_>>(), first.iter().map(without).collect::<Vec<_>>());
    }

    #[test]
    fn an_identifier_of_very_many_tells_nobody_apart() {
        let mut hf = Facility::new();
        for n in 0..40 {
            let client = hf.sends(&format!("m{n}"), &["NIDA|none"], &format!("name{n} juma 1990-01-01 f"), &format!("V{n}"));
            assert_eq!(client, format!("m{n}"));
        }
        assert_eq!(hf.sends("m99", &["NIDA|none"], "name3 juma 1990-01-01 f", "V99"), "m99");
        assert!(hf.0.changes().iter().all(|row| row.lists.len() < 2_000));
    }
}
