//! Whatever a transaction asks for, what its criteria mean is one resource when it is done.
//!
//! Transactions are drawn over few Patients with few identifiers and held against a slow reading of the specification
//! (<https://hl7.org/fhir/R4/http.html#trules>): the entries one after the other, deletes first, then creates, then updates and patches, in every
//! order that this leaves. What comes to the same in all orders must be done so; what changes a resource twice in all orders must be refused; what
//! depends on the order may be refused. What is refused changed nothing, and of an identifier that a condition names there is one Patient at most.

use crate::search_oracle::Chance;
use crate::support::{TestServer, both_databases};
use base64::Engine as _;
use lango::config::AuthMode;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const WORLDS: usize = 30;
/// In each world.
const TRANSACTIONS: usize = 8;
const IDENTIFIERS: usize = 3;

type Identifiers = BTreeSet<usize>;
/// The live Patients. Ids that begin with `+` are not known yet: the server gives them.
type State = BTreeMap<String, Identifiers>;

/// How criteria that mean an identifier are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wording {
    Plain,
    Escaped,
    /// Means the same Patients, but says something else.
    WithoutSystem,
}

#[derive(Clone, Debug)]
enum Ask {
    Delete(String),
    DeleteWhere(usize),
    Post(Identifiers),
    PostUnless(usize, Wording, Identifiers),
    Put(String, Identifiers),
    PutWhere(usize, Wording, Identifiers),
    PatchWhere(usize, Wording, Identifiers),
}

impl Ask {
    /// Deletes, creates, updates.
    fn step(&self) -> usize {
        match self {
            Ask::Delete(_) | Ask::DeleteWhere(_) => 0,
            Ask::Post(_) | Ask::PostUnless(..) => 1,
            Ask::Put(..) | Ask::PutWhere(..) | Ask::PatchWhere(..) => 2,
        }
    }

    /// The identifier that is to mean one Patient.
    fn named(&self) -> Option<(usize, Wording, &Identifiers)> {
        match self {
            Ask::PostUnless(one, wording, new) | Ask::PutWhere(one, wording, new) | Ask::PatchWhere(one, wording, new) => {
                Some((*one, *wording, new))
            }
            _ => None,
        }
    }

    fn entry(&self, world: usize) -> Value {
        let value = |one: usize| format!("{world}-{one}");
        let resource = |id: Option<&str>, identifiers: &Identifiers| {
            let identifiers: Vec<Value> = identifiers.iter().map(|one| json!({ "system": "urn:twins", "value": value(*one) })).collect();
            let mut patient = json!({ "resourceType": "Patient", "identifier": identifiers });
            if let Some(id) = id {
                patient["id"] = json!(id);
            }
            patient
        };
        let criteria = |one: usize, wording: Wording| match wording {
            Wording::Plain => format!("identifier=urn:twins|{}", value(one)),
            Wording::Escaped => format!("identifier=urn%3Atwins%7C{}", value(one)),
            Wording::WithoutSystem => format!("identifier={}", value(one)),
        };
        let put = |url: String, resource: Value| json!({ "request": { "method": "PUT", "url": url }, "resource": resource });
        match self {
            Ask::Delete(id) => json!({ "request": { "method": "DELETE", "url": format!("Patient/{id}") } }),
            Ask::DeleteWhere(one) => {
                json!({ "request": { "method": "DELETE", "url": format!("Patient?{}", criteria(*one, Wording::Plain)) } })
            }
            Ask::Post(new) => json!({ "request": { "method": "POST", "url": "Patient" }, "resource": resource(None, new) }),
            Ask::PostUnless(one, wording, new) => json!({
                "request": { "method": "POST", "url": "Patient", "ifNoneExist": criteria(*one, *wording) }, "resource": resource(None, new),
            }),
            Ask::Put(id, new) => put(format!("Patient/{id}"), resource(Some(id), new)),
            Ask::PutWhere(one, wording, new) => put(format!("Patient?{}", criteria(*one, *wording)), resource(None, new)),
            Ask::PatchWhere(one, wording, new) => {
                let patch = json!({ "identifier": resource(None, new)["identifier"] }).to_string();
                let data = base64::engine::general_purpose::STANDARD.encode(patch);
                json!({
                    "request": { "method": "PATCH", "url": format!("Patient?{}", criteria(*one, *wording)) },
                    "resource": { "resourceType": "Binary", "contentType": "application/merge-patch+json", "data": data },
                })
            }
        }
    }
}

/// Why one order of the entries cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conflict {
    /// Two entries change the same resource.
    Overlap,
    Other,
}

fn having(state: &State, one: usize) -> Vec<String> {
    state.iter().filter(|(_, own)| own.contains(&one)).map(|(id, _)| id.clone()).collect()
}

/// The entries one after the other, in this order.
fn carried_out(before: &State, asked: &[Ask], order: &[usize]) -> Result<State, Conflict> {
    let (mut state, mut touched) = (before.clone(), BTreeSet::new());
    // By the place of an entry with criteria: the resource that they are to mean.
    let mut meant: BTreeMap<usize, String> = BTreeMap::new();
    let mut touch = |id: &str| if touched.insert(id.to_owned()) { Ok(()) } else { Err(Conflict::Overlap) };
    for place in order {
        let made = format!("+{place}");
        match &asked[*place] {
            Ask::Delete(id) => {
                touch(id)?;
                state.remove(id);
            }
            Ask::DeleteWhere(one) => match having(before, *one).as_slice() {
                [] => {}
                [id] => {
                    touch(id)?;
                    state.remove(id);
                }
                _ => return Err(Conflict::Other),
            },
            Ask::Post(new) => _ = state.insert(made, new.clone()),
            Ask::PostUnless(one, _, new) => match having(&state, *one).as_slice() {
                [] => {
                    meant.insert(*place, made.clone());
                    state.insert(made, new.clone());
                }
                [id] => {
                    // Made by another entry, which must have asked for the same.
                    let maker = id.strip_prefix('+').map(|maker| &asked[maker.parse::<usize>().unwrap()]);
                    if maker.is_some_and(|maker| !matches!(maker, Ask::PostUnless(its, ..) if its == one)) {
                        return Err(Conflict::Other);
                    }
                    meant.insert(*place, id.clone());
                }
                _ => return Err(Conflict::Other),
            },
            Ask::Put(id, new) => {
                touch(id)?;
                state.insert(id.clone(), new.clone());
            }
            Ask::PutWhere(one, _, new) | Ask::PatchWhere(one, _, new) => {
                let (stood, now) = (having(before, *one), having(&state, *one));
                match now.as_slice() {
                    // What it means is deleted: to update and to make another are told apart by nothing.
                    [] if stood.iter().any(|id| !state.contains_key(id)) => return Err(Conflict::Other),
                    [] if matches!(&asked[*place], Ask::PatchWhere(..)) => return Err(Conflict::Other),
                    [] => {
                        meant.insert(*place, made.clone());
                        state.insert(made, new.clone());
                    }
                    // Made by an entry before this one.
                    [id] if id.starts_with('+') => return Err(Conflict::Overlap),
                    [id] => {
                        touch(id)?;
                        meant.insert(*place, id.clone());
                        state.insert(id.clone(), new.clone());
                    }
                    _ => return Err(Conflict::Other),
                }
            }
        }
    }
    for (place, id) in &meant {
        let ask = &asked[*place];
        let others = ask.named().is_some_and(|(one, ..)| having(&state, one).iter().any(|other| other != id));
        if others || (ask.step() == 1 && touched.contains(id)) {
            return Err(Conflict::Other);
        }
    }
    Ok(state)
}

/// Every order of these places.
fn orders(places: &[usize]) -> Vec<Vec<usize>> {
    if places.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in places.iter().enumerate() {
        let mut rest = places.to_vec();
        rest.remove(at);
        all.extend(orders(&rest).into_iter().map(|order| std::iter::once(*first).chain(order).collect()));
    }
    all
}

/// What a state is to somebody who does not know the ids that the server gives.
fn seen(state: &State) -> Vec<(String, Identifiers)> {
    let mut seen: Vec<(String, Identifiers)> =
        state.iter().map(|(id, own)| (if id.starts_with('+') { "+".to_owned() } else { id.clone() }, own.clone())).collect();
    seen.sort();
    seen
}

enum Verdict {
    Done(Vec<(String, Identifiers)>),
    Refused,
    Either,
}

fn verdict(before: &State, asked: &[Ask]) -> Verdict {
    let of_step = |step: usize| -> Vec<usize> { (0..asked.len()).filter(|place| asked[*place].step() == step).collect() };
    let mut outcomes = Vec::new();
    for deletes in orders(&of_step(0)) {
        for posts in orders(&of_step(1)) {
            for puts in orders(&of_step(2)) {
                let order: Vec<usize> = deletes.iter().chain(&posts).chain(&puts).copied().collect();
                outcomes.push(carried_out(before, asked, &order).map(|state| seen(&state)));
            }
        }
    }
    // Two entries of the same criteria whose resources do not match them: one meaning, and nothing that shows it.
    let named: Vec<(&Ask, (usize, Wording, &Identifiers))> = asked.iter().filter_map(|ask| Some((ask, ask.named()?))).collect();
    for (at, (ask, (one, wording, new))) in named.iter().enumerate() {
        for (other, (its, other_wording, others)) in named.iter().skip(at + 1).filter(|(_, (its, ..))| its == one) {
            let creates = matches!((ask, other), (Ask::PostUnless(..), Ask::PostUnless(..)));
            let without = |wording: Wording| wording == Wording::WithoutSystem;
            let same = creates && new == others && new.contains(its) && without(*wording) == without(*other_wording);
            let found = having(before, *one).len() == 1 && creates && asked.iter().all(|ask| ask.step() > 0);
            if !same && !found {
                outcomes.push(Err(Conflict::Other));
            }
        }
    }
    match outcomes.first() {
        Some(first) if outcomes.iter().all(|outcome| outcome == first) => match first {
            Ok(state) => Verdict::Done(state.clone()),
            Err(Conflict::Overlap) => Verdict::Refused,
            Err(Conflict::Other) => Verdict::Either,
        },
        _ => Verdict::Either,
    }
}

fn some(chance: &mut Chance) -> Identifiers {
    let mut own = BTreeSet::from([chance.below(IDENTIFIERS)]);
    if chance.below(3) == 0 {
        own.insert(chance.below(IDENTIFIERS));
    }
    own
}

fn draw(chance: &mut Chance, state: &State, world: usize) -> Ask {
    let id = match (chance.below(4), state.len()) {
        (0, _) | (_, 0) => format!("w{world}-{}", chance.below(2)),
        (_, live) => state.keys().nth(chance.below(live)).unwrap().clone(),
    };
    let one = chance.below(IDENTIFIERS);
    let wording = [Wording::Plain, Wording::Plain, Wording::Escaped, Wording::WithoutSystem][chance.below(4)];
    let mut new = some(chance);
    if chance.below(6) > 0 {
        new.insert(one);
    }
    match chance.below(12) {
        0 => Ask::Delete(id),
        1 => Ask::DeleteWhere(one),
        2 => Ask::Post(some(chance)),
        3 => Ask::Put(id, some(chance)),
        4..=7 => Ask::PostUnless(one, wording, new),
        8..=10 => Ask::PutWhere(one, wording, new),
        _ => Ask::PatchWhere(one, wording, new),
    }
}

async fn stored(server: &TestServer, world: usize) -> State {
    let (status, bundle) = server.get("/fhir/Patient?identifier=urn:twins|&_count=1000").await;
    assert_eq!(status, 200, "{bundle}");
    let mut state = State::new();
    for entry in bundle["entry"].as_array().into_iter().flatten() {
        let resource = &entry["resource"];
        let values = resource["identifier"].as_array().unwrap().iter().map(|one| one["value"].as_str().unwrap().split_once('-').unwrap());
        let own: Identifiers = values.filter(|(of, _)| *of == world.to_string()).map(|(_, one)| one.parse().unwrap()).collect();
        if !own.is_empty() {
            state.insert(resource["id"].as_str().unwrap().to_owned(), own);
        }
    }
    state
}

both_databases!(
    async fn what_criteria_mean_is_one_resource_whatever_a_transaction_asks_for(db: &TestDb) {
        let server = TestServer::start(db, |settings| {
            settings.auth = AuthMode::Open;
            settings.limits.page_max = 1000;
        })
        .await;
        let mut chance = Chance::new(7);
        let (mut done, mut refused) = (0, 0);
        for world in 0..WORLDS {
            let mut before = State::new();
            for _ in 0..TRANSACTIONS {
                let asked: Vec<Ask> = (0..2 + chance.below(3)).map(|_| draw(&mut chance, &before, world)).collect();
                let entries: Vec<Value> = asked.iter().map(|ask| ask.entry(world)).collect();
                let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
                let (status, answer) = server.post("/fhir", &bundle).await;
                let after = stored(&server, world).await;
                let told = format!("{before:?}\n{asked:#?}\n{status} {answer}\n{after:?}");
                let given: BTreeSet<&String> = before
                    .keys()
                    .chain(asked.iter().filter_map(|ask| match ask {
                        Ask::Put(id, _) => Some(id),
                        _ => None,
                    }))
                    .collect();
                let known =
                    |(id, own): (&String, &Identifiers)| (if given.contains(id) { id.clone() } else { format!("+{id}") }, own.clone());
                let seen_after = seen(&after.iter().map(known).collect());
                match verdict(&before, &asked) {
                    Verdict::Done(expected) => {
                        assert_eq!(status, 200, "{told}");
                        assert_eq!(seen_after, expected, "{told}");
                    }
                    Verdict::Refused => assert_ne!(status, 200, "{told}"),
                    Verdict::Either => {}
                }
                match status {
                    200 => {
                        done += 1;
                        for (one, ..) in asked.iter().filter_map(Ask::named) {
                            assert!(having(&after, one).len() < 2, "twins: {told}");
                        }
                    }
                    400 | 404 | 412 => {
                        refused += 1;
                        assert_eq!(after, before, "{told}");
                    }
                    _ => panic!("{told}"),
                }
                before = after;
            }
        }
        assert!(done > WORLDS && refused > WORLDS, "{done} {refused}");
        server.stop().await;
    }
);
