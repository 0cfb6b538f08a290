//! `_include` and `_revinclude`: which resources come along with the matches
//! (<https://hl7.org/fhir/R4/search.html#include>).

use super::extract::{self, Names};
use super::own::Own;
use super::parse::{Include, SearchRequest};
use super::respond::Admits;
use crate::definitions::{self, ParamKind, SearchParam};
use crate::fhir::json::parse_deep;
use crate::store::{ParamId, ResourceKey, Scope, Store, Stored, TypeCode};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Resources that one page may bring along.
pub const MAX_INCLUDED: usize = 1_000;
/// Statements that following the references of one page may take. `:iterate` goes on as long as something new comes along, so that a chain
/// of [`MAX_INCLUDED`] resources is as many rounds, of a statement for each type and way.
const MAX_STEPS: usize = 2_500;
/// Canonicals that one statement of the store may name.
const NAMES: usize = 100;
/// Keys that one statement of the store may name.
const CHUNK: usize = 500;

/// What came along.
#[derive(Debug, Default)]
pub struct Included {
    /// Each once, none of the matches among them.
    pub rows: Vec<Stored>,
    /// Why there may be more, if so.
    pub cut: Option<Cut>,
}

/// What kept the rest from coming along, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    #[error(
        "more than {MAX_INCLUDED} resources would be included; the rest was left out. Ask for a smaller page, or follow fewer references."
    )]
    Resources,
    #[error(
        "following these references takes more than {MAX_STEPS} steps; what is further away was left out. Name the parameters to follow and \
         the types, or ask again from the last that came."
    )]
    Steps,
}

/// Follows the request's includes from `matches`.
pub async fn collect(store: &Store, request: &SearchRequest, matches: &[Stored], admits: &dyn Admits) -> Result<Included, sqlx::Error> {
    let seen = matches.iter().map(|row| row.key).collect();
    let mut walk = Walk { store, own: &request.own, scope: &request.query.scope, admits, seen, steps: 0, included: Included::default() };
    let mut frontier: Vec<Stored> = matches.to_vec();
    let mut first = true;
    while !frontier.is_empty() && walk.included.cut.is_none() {
        let start = walk.included.rows.len();
        for include in request.includes.iter().filter(|include| first || include.iterate) {
            walk.forward(include, &frontier).await?;
        }
        for include in request.revincludes.iter().filter(|include| first || include.iterate) {
            walk.backward(include, &frontier).await?;
        }
        frontier = walk.included.rows.iter().skip(start).cloned().collect();
        first = false;
    }
    Ok(walk.included)
}

struct Walk<'a> {
    store: &'a Store,
    own: &'a Own,
    scope: &'a Scope,
    admits: &'a dyn Admits,
    seen: HashSet<ResourceKey>,
    /// Statements that were sent.
    steps: usize,
    included: Included,
}

impl Walk<'_> {
    /// What resources of `frontier` refer to.
    async fn forward(&mut self, include: &Include, frontier: &[Stored]) -> Result<(), sqlx::Error> {
        let mut types: Vec<TypeCode> = frontier.iter().map(|row| row.type_code).collect();
        types.sort_unstable();
        types.dedup();
        for type_code in types.into_iter().filter(|type_code| include.source.is_none_or(|source| source == *type_code)) {
            let rows: Vec<&Stored> = frontier.iter().filter(|row| row.type_code == type_code).collect();
            let keys: Vec<ResourceKey> = rows.iter().map(|row| row.key).collect();
            let params = reference_params(self.own, type_code, include.param, include.target);
            for param in params.iter().filter(|param| extract::names(type_code, param) != Names::Places) {
                self.named_by(&rows, param, include.target).await?;
            }
            let placed = params.iter().filter(|param| extract::names(type_code, param) != Names::Urls);
            let placed: Vec<ParamId> = placed.map(|param| param.id).collect();
            let pinned = pinned(&rows, &placed);
            for chunk in keys.chunks(CHUNK).filter(|_| !placed.is_empty()) {
                if !self.goes_on() {
                    return Ok(());
                }
                let found = self.store.referenced_by(chunk, &placed, include.target, self.scope, self.ask()).await?;
                let found = self.at_versions(found, &pinned).await?;
                self.keep(found);
            }
        }
        Ok(())
    }

    /// What refers to resources of `frontier`.
    async fn backward(&mut self, include: &Include, frontier: &[Stored]) -> Result<(), sqlx::Error> {
        let definitions = definitions::r4();
        let sources = match include.source {
            Some(source) => source..=source,
            None => 0..=TypeCode::try_from(definitions.resource_types().len().saturating_sub(1)).unwrap_or(TypeCode::MAX),
        };
        let named: Vec<(TypeCode, &SearchParam)> = sources
            .flat_map(|source| reference_params(self.own, source, include.param, None).into_iter().map(move |param| (source, param)))
            .collect();
        let mut types: Vec<TypeCode> = frontier.iter().map(|row| row.type_code).collect();
        types.sort_unstable();
        types.dedup();
        for type_code in types.into_iter().filter(|type_code| include.target.is_none_or(|target| target == *type_code)) {
            let rows: Vec<&Stored> = frontier.iter().filter(|row| row.type_code == type_code).collect();
            let mut placed: Vec<ParamId> = Vec::new();
            for (source, param) in named.iter().filter(|(_, param)| param.targets.contains(&type_code)) {
                let names = extract::names(*source, param);
                if names != Names::Places {
                    self.naming(&rows, param).await?;
                }
                if names != Names::Urls {
                    placed.push(param.id);
                }
            }
            let keys: Vec<ResourceKey> = rows.iter().map(|row| row.key).collect();
            for chunk in keys.chunks(CHUNK).filter(|_| !placed.is_empty()) {
                if !self.goes_on() {
                    return Ok(());
                }
                let found = self.store.referring_to(chunk, &placed, self.scope, self.ask()).await?;
                self.keep(found);
            }
        }
        Ok(())
    }

    /// The versions that are named, where one is; what is hidden or gone of these is left out, for the present one was not meant.
    async fn at_versions(&self, mut found: Vec<Stored>, pinned: &Pinned) -> Result<Vec<Stored>, sqlx::Error> {
        for row in &mut found {
            let Some(version) = pinned.get(&(row.type_code, row.id.clone())).filter(|version| **version != row.version) else { continue };
            match self.store.read_version(row.type_code, &row.id, *version, self.scope).await? {
                Some(old) => *row = old,
                None => row.body = None,
            }
        }
        found.retain(|row| row.body.is_some());
        Ok(found)
    }

    /// What `rows`, all of one type, name by canonicals in `param`.
    async fn named_by(&mut self, rows: &[&Stored], param: &SearchParam, target: Option<TypeCode>) -> Result<(), sqlx::Error> {
        let mut names = BTreeSet::new();
        for row in rows {
            let Some(resource) = body(row) else { continue };
            let texts = extract::canonicals(row.type_code, &resource, param.id, self.own);
            names.extend(texts.into_iter().map(|text| match text.split_once('|') {
                Some((url, version)) => (url.to_owned(), Some(version.to_owned())),
                None => (text.into_string(), None),
            }));
        }
        let names: Vec<(String, Option<String>)> = names.into_iter().collect();
        for target in param.targets.iter().filter(|of| target.is_none_or(|target| target == **of)) {
            for chunk in names.chunks(NAMES) {
                if !self.goes_on() {
                    return Ok(());
                }
                let found = self.store.with_canonicals(*target, chunk, self.scope, self.ask()).await?;
                self.keep(found);
            }
        }
        Ok(())
    }

    /// What names any of `rows` by a canonical in `param`.
    async fn naming(&mut self, rows: &[&Stored], param: &SearchParam) -> Result<(), sqlx::Error> {
        let mut texts = BTreeSet::new();
        for resource in rows.iter().filter_map(|row| body(row)) {
            let text = |name: &str| resource.get(name).and_then(Value::as_str);
            let Some(url) = text("url") else { continue };
            texts.extend(text("version").map(|version| format!("{url}|{version}")));
            texts.insert(url.to_owned());
        }
        let texts: Vec<String> = texts.into_iter().collect();
        for chunk in texts.chunks(CHUNK) {
            if !self.goes_on() {
                return Ok(());
            }
            let found = self.store.naming(chunk, param.id, self.scope, self.ask()).await?;
            self.keep(found);
        }
        Ok(())
    }

    /// Rows to ask for: those already here may come again, and one more tells that there is more.
    fn ask(&self) -> u32 {
        u32::try_from(MAX_INCLUDED + 1 + self.seen.len()).unwrap_or(u32::MAX)
    }

    /// Whether one more statement may be sent, which is then counted.
    fn goes_on(&mut self) -> bool {
        if self.steps >= MAX_STEPS {
            self.included.cut.get_or_insert(Cut::Steps);
        }
        self.steps += 1;
        self.included.cut.is_none()
    }

    fn keep(&mut self, found: Vec<Stored>) {
        for row in found {
            if !self.seen.insert(row.key) || !self.admits.admits(&row) {
                continue;
            }
            if self.included.rows.len() >= MAX_INCLUDED {
                self.included.cut = Some(Cut::Resources);
                return;
            }
            self.included.rows.push(row);
        }
    }
}

/// Versions by what they are of.
type Pinned = HashMap<(TypeCode, Box<str>), i64>;

/// Of what references of `params` in `rows` lead to, the version, where all of them name the same one.
fn pinned(rows: &[&Stored], params: &[ParamId]) -> Pinned {
    let mut pinned = Pinned::new();
    let texts = rows.iter().filter_map(|row| std::str::from_utf8(row.body.as_ref()?).ok());
    if !texts.into_iter().any(|text| text.contains("/_history/")) {
        return pinned;
    }
    let mut present = HashSet::new();
    for row in rows {
        let Some(resource) = body(row) else { continue };
        for (target, id, version) in params.iter().flat_map(|param| extract::versioned(row.type_code, &resource, *param)) {
            let name = (target, id);
            match version {
                Some(version) if pinned.get(&name).is_none_or(|known| *known == version) => _ = pinned.insert(name, version),
                _ => _ = present.insert(name),
            }
        }
    }
    pinned.retain(|name, _| !present.contains(name));
    pinned
}

fn body(row: &Stored) -> Option<Value> {
    parse_deep(row.body.as_ref()?).ok()
}

/// The parameter named, or every reference parameter of the type (that may refer to `target`).
fn reference_params(own: &Own, type_code: TypeCode, named: Option<ParamId>, target: Option<TypeCode>) -> Vec<&SearchParam> {
    let params = definitions::r4().params(type_code).iter().chain(own.ready(type_code).map(|own| &own.param));
    let wanted = |param: &&SearchParam| match named {
        Some(named) => param.id == named,
        None => !param.targets.is_empty() && target.is_none_or(|target| param.targets.contains(&target)),
    };
    params.filter(|param| param.kind == ParamKind::Reference).filter(wanted).collect()
}
