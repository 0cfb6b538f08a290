//! That a code means one search parameter of a type, also where several are written at once.
//!
//! Whom a code belongs to is asked of the store, since another process may have defined it a moment ago, and of the other changes of the plan:
//! a transaction may move a code from one definition to another, but not give it to two. What the store said must still hold when the
//! plan is committed.

use super::{Action, PARAMETER, Wanted, Writer};
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::search::{self, own::Definition};
use crate::store::{Precondition, Scope, Stored, TypeCode};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// Definitions of one code that are looked at.
const MOST_OF_A_CODE: u32 = 100;

/// What the codes of a plan's search parameters come to.
#[derive(Debug, Default)]
pub(super) struct Codes {
    /// Places of changes whose code another definition has, with the type for which it does.
    taken: HashMap<usize, TypeCode>,
    pub(super) rests_on: Vec<Precondition>,
}

impl Codes {
    /// That the change at this place may have its code.
    pub(super) fn check(&self, place: usize) -> Result<(), Refusal> {
        let Some(taken) = self.taken.get(&place) else { return Ok(()) };
        let type_name = definitions::r4().type_name(*taken);
        let words = format!("{type_name} has another search parameter with this code: change that one, or choose another code.");
        let issue = Issue::error(IssueCode::Duplicate, words).at(format!("{PARAMETER}.code"));
        Err(Refusal::new(RefusalKind::Invalid, issue))
    }
}

impl Writer {
    pub(super) async fn codes_of(&self, changes: &[Wanted]) -> Result<Codes, Refusal> {
        let is_parameter = |wanted: &&Wanted| definitions::r4().type_name(wanted.target().0) == PARAMETER;
        let named: HashSet<&str> = changes.iter().filter(is_parameter).map(|wanted| wanted.target().1).collect();
        let mut codes = Codes::default();
        let mut written: Vec<Definition> = Vec::new();
        for (place, wanted) in changes.iter().enumerate().filter(|(_, wanted)| is_parameter(wanted)) {
            let Action::Put(draft) = &wanted.action else { continue };
            let resource: Value = serde_json::from_slice(&draft.body(1).0).map_err(Refusal::internal)?;
            // What cannot be used is told where it is stored.
            let Ok(Some(definition)) = Definition::read(&resource) else { continue };
            let options = self.criteria_options();
            let (query, _) = search::conditional(draft.type_code, &format!("code={}", definition.code()), Scope::All, &options)
                .map_err(|issues| Refusal::all(RefusalKind::Invalid, issues))?;
            let stored = self.store.matches(&query, MOST_OF_A_CODE).await?;
            let read = |stored: &Stored| Definition::read(&serde_json::from_slice(stored.body.as_ref()?).ok()?).ok()?;
            let others: Vec<Definition> = stored.iter().filter(|stored| !named.contains(&*stored.id)).filter_map(read).collect();
            if let Some(taken) = others.iter().chain(&written).find_map(|other| definition.shares_code(other)) {
                codes.taken.insert(place, taken);
            }
            codes.rests_on.push(Precondition { query, expected: stored.iter().map(|stored| stored.id.to_string()).collect() });
            written.push(definition);
        }
        Ok(codes)
    }
}
