//! The same questions asked of the store itself, without HTTP: what remains is the decision.

use super::{ASKERS, ROUNDS, at};
use lango::access::consent::vocabulary::Coding;
use lango::access::consent::{Deployment, Requester};
use lango::access::gate;
use lango::definitions;
use lango::search::{self, ParseOptions, SearchRequest, Summary};
use lango::store::gate::Gate;
use lango::store::{Scope, Store};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// What a client of this facility may see, asking for treatment.
async fn scope(store: &Store, facility: &str) -> Scope {
    let now = jiff::Timestamp::now().as_microsecond();
    let names = [format!("urn:lango:facility|{facility}"), format!("Organization/{}", facility.to_lowercase())];
    let requester = Requester {
        organisations: names.into(),
        devices: [format!("urn:lango:client|{facility}")].into(),
        roles: [Coding::role("facility")].into(),
        purposes: BTreeSet::from([Coding::purpose("TREAT")]),
        ..Requester::unknown(now)
    };
    let owner = store.facility_key(facility).await.expect("a number");
    let requesters = gate::requesters(&requester, &Deployment::default());
    Scope::Gate(Arc::new(Gate { owners: vec![owner], requesters, break_glass: None, own: None, now, since: 0 }))
}

/// Prints times in milliseconds; with `explain`, the statement of the facility that everybody permits and its plan.
pub async fn measure(database: &str, url: &str, shapes: &[(&'static str, String)], explain: bool) {
    let store = Store::open(url).await.expect("the database opens");
    let mut scopes = vec![Scope::All];
    for (_, facility) in ASKERS {
        scopes.push(scope(&store, facility).await);
    }
    for (name, path) in shapes {
        let (type_name, query) = path.trim_start_matches("/fhir/").split_once('?').expect("a search");
        let type_code = definitions::r4().type_code(type_name).expect("a type");
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let options = ParseOptions::new("http://localhost/fhir", jiff::tz::TimeZone::UTC);
        let requests: Vec<SearchRequest> =
            scopes.iter().map(|scope| search::parse(type_code, &pairs, scope.clone(), &options).expect("a good search")).collect();
        if explain {
            let explained = store.explain(&requests[2].query, requests[2].count).await.expect("a plan");
            eprintln!("{name}\n{}\n{}\n", explained.statement, explained.plan.join("\n"));
        }
        let mut times = vec![Vec::with_capacity(ROUNDS); scopes.len()];
        let begun = Instant::now();
        for round in 0..ROUNDS {
            if begun.elapsed().as_secs() > 20 {
                break;
            }
            for turn in 0..requests.len() {
                let who = (round + turn) % requests.len();
                let request = &requests[who];
                let begun = Instant::now();
                if request.summary == Summary::Count {
                    store.count(&request.query, None).await.expect("a number");
                } else {
                    store.search(&request.query, request.count, None).await.expect("a page");
                }
                times[who].push(begun.elapsed());
            }
        }
        let cells = times.iter_mut().map(|times| {
            times.sort_unstable();
            format!("{:.3}, {:.3}", at(times, 0.5), at(times, 0.99))
        });
        println!("| {database}, store | {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    store.close().await;
}
