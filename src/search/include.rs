//! `_include` and `_revinclude`: which resources come along with the matches
//! (<https://hl7.org/fhir/R4/search.html#include>).

use super::own::Own;
use super::parse::{Include, SearchRequest};
use super::respond::Admits;
use crate::definitions::{self, ParamKind, SearchParam};
use crate::store::{ParamId, ResourceKey, Scope, Store, Stored, TypeCode};
use std::collections::HashSet;

/// Resources that one page may bring along.
pub const MAX_INCLUDED: usize = 1_000;
/// Rounds of `:iterate`.
const MAX_ROUNDS: usize = 8;
/// Keys that one statement of the store may name.
const CHUNK: usize = 500;

/// What came along.
#[derive(Debug, Default)]
pub struct Included {
    /// Each once, none of the matches among them.
    pub rows: Vec<Stored>,
    /// There was more than a page may bring along.
    pub cut: bool,
}

/// Follows the request's includes from `matches`.
pub async fn collect(store: &Store, request: &SearchRequest, matches: &[Stored], admits: &dyn Admits) -> Result<Included, sqlx::Error> {
    let seen = matches.iter().map(|row| row.key).collect();
    let mut walk = Walk { store, own: &request.own, scope: &request.query.scope, admits, seen, included: Included::default() };
    let mut frontier: Vec<(ResourceKey, TypeCode)> = matches.iter().map(|row| (row.key, row.type_code)).collect();
    for round in 0..=MAX_ROUNDS {
        let first = round == 0;
        let start = walk.included.rows.len();
        for include in request.includes.iter().filter(|include| first || include.iterate) {
            walk.forward(include, &frontier).await?;
        }
        for include in request.revincludes.iter().filter(|include| first || include.iterate) {
            walk.backward(include, &frontier).await?;
        }
        frontier = walk.included.rows.iter().skip(start).map(|row| (row.key, row.type_code)).collect();
        if frontier.is_empty() || walk.included.cut {
            break;
        }
        if round == MAX_ROUNDS {
            walk.included.cut = request.includes.iter().chain(&request.revincludes).any(|include| include.iterate);
        }
    }
    Ok(walk.included)
}

struct Walk<'a> {
    store: &'a Store,
    own: &'a Own,
    scope: &'a Scope,
    admits: &'a dyn Admits,
    seen: HashSet<ResourceKey>,
    included: Included,
}

impl Walk<'_> {
    /// What resources of `frontier` refer to.
    async fn forward(&mut self, include: &Include, frontier: &[(ResourceKey, TypeCode)]) -> Result<(), sqlx::Error> {
        let mut types: Vec<TypeCode> = frontier.iter().map(|(_, type_code)| *type_code).collect();
        types.sort_unstable();
        types.dedup();
        for type_code in types.into_iter().filter(|type_code| include.source.is_none_or(|source| source == *type_code)) {
            let keys: Vec<ResourceKey> = frontier.iter().filter(|(_, of)| *of == type_code).map(|(key, _)| *key).collect();
            for (param, _) in reference_params(self.own, type_code, include.param, include.target) {
                for chunk in keys.chunks(CHUNK) {
                    if self.full() {
                        return Ok(());
                    }
                    let found = self.store.referenced_by(chunk, param, include.target, self.scope, self.ask()).await?;
                    self.keep(found);
                }
            }
        }
        Ok(())
    }

    /// What refers to resources of `frontier`.
    async fn backward(&mut self, include: &Include, frontier: &[(ResourceKey, TypeCode)]) -> Result<(), sqlx::Error> {
        let definitions = definitions::r4();
        let sources = match include.source {
            Some(source) => source..=source,
            None => 0..=TypeCode::try_from(definitions.resource_types().len().saturating_sub(1)).unwrap_or(TypeCode::MAX),
        };
        for source in sources {
            for (param, targets) in reference_params(self.own, source, include.param, None) {
                let keys: Vec<ResourceKey> = frontier
                    .iter()
                    .filter(|(_, of)| targets.contains(of) && include.target.is_none_or(|target| target == *of))
                    .map(|(key, _)| *key)
                    .collect();
                for chunk in keys.chunks(CHUNK) {
                    if self.full() {
                        return Ok(());
                    }
                    let found = self.store.referring_to(chunk, param, self.scope, self.ask()).await?;
                    self.keep(found);
                }
            }
        }
        Ok(())
    }

    /// Rows to ask for: those already here may come again, and one more tells that there is more.
    fn ask(&self) -> u32 {
        u32::try_from(MAX_INCLUDED + 1 + self.seen.len()).unwrap_or(u32::MAX)
    }

    fn full(&self) -> bool {
        self.included.cut
    }

    fn keep(&mut self, found: Vec<Stored>) {
        for row in found {
            if !self.seen.insert(row.key) || !self.admits.admits(&row) {
                continue;
            }
            if self.included.rows.len() >= MAX_INCLUDED {
                self.included.cut = true;
                return;
            }
            self.included.rows.push(row);
        }
    }
}

/// The parameter named, or every reference parameter of the type (that may refer to `target`), each with the types that it may refer to.
fn reference_params(own: &Own, type_code: TypeCode, named: Option<ParamId>, target: Option<TypeCode>) -> Vec<(ParamId, &[TypeCode])> {
    let params = definitions::r4().params(type_code).iter().chain(own.ready(type_code).map(|own| &own.param));
    let wanted = |param: &&SearchParam| match named {
        Some(named) => param.id == named,
        None => !param.targets.is_empty() && target.is_none_or(|target| param.targets.contains(&target)),
    };
    params.filter(|param| param.kind == ParamKind::Reference).filter(wanted).map(|param| (param.id, &*param.targets)).collect()
}
