//! Whole compartments: `Patient/[id]/$everything` (<https://hl7.org/fhir/R4/operation-patient-everything.html>) and
//! `Patient/[id]/*` (<https://hl7.org/fhir/R4/http.html#search>), the latter of Encounters, Practitioners, RelatedPersons and Devices too.
//!
//! A page continues by a sealed link and sees what the first one saw. Of a golden Patient it is the records of all its sources that the
//! caller may see; which these are travels in the link.

use super::super::error::Failure;
use super::Call;
use super::answer::Answer;
use super::operation::parsed;
use super::search::cursor_failure;
use super::target::OperationTarget;
use crate::access::{Interaction, Reach, audit};
use crate::definitions;
use crate::fhir::time::{Micros, format_instant, now, parse_interval};
use crate::fhir::{Interval, Issue, IssueCode, outcome};
use crate::ingest::{Refusal, RefusalKind};
use crate::measure::run::named_values;
use crate::search::extract;
use crate::search::parse::CURSOR;
use crate::store::everything::{Everything, Supporting};
use crate::store::query::SortValue;
use crate::store::records::Records;
use crate::store::{Cursor, Stored, TypeCode};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// Resources of a page when the request does not say: most records are then one answer.
const DEFAULT: u32 = 100;
/// So many of what is only counted are told one by one, for the record.
const TOLD: u32 = 100;

/// `$everything` of one Patient.
pub async fn everything(call: &Call<'_>, operation: &OperationTarget, body: Option<Bytes>) -> Result<Answer, Failure> {
    let patient = definitions::r4().type_code("Patient").ok_or_else(Failure::unknown_operation)?;
    let sent = match body.filter(|body| !body.is_empty()) {
        Some(body) => named_values(&parsed(call, body).await?).map_err(|issues| Refusal::all(RefusalKind::Malformed, issues))?,
        None => Vec::new(),
    };
    let pairs: Vec<(String, String)> = sent.into_iter().chain(call.query.iter().cloned()).collect();
    // A person's app means the person.
    let Some(id) = operation.id.as_deref().or(call.caller.patient.as_deref()) else {
        let words = "Name the patient: Patient/ID/$everything. Of many patients, search type by type: those answers come in pages.";
        return Err(Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::NotSupported, words)));
    };
    let asked = Asked::read(call, &pairs, &["_since", "start", "end"], Interaction::Read, patient, format!("Patient/{id}/$everything"))?;
    call.require(patient, Interaction::Read)?;
    let resumed = asked.resumed(call)?;
    let (ids, view) = match &resumed {
        Some((cursor, _)) => (ids_of(cursor), None),
        None => named(call, patient, id).await?,
    };
    let view = view.filter(|view| asked.types.contains(&patient) && asked.since.is_none_or(|since| view.updated >= since));
    asked.answer(call, ids, view, resumed).await
}

/// Everything in the compartment of a resource.
pub async fn compartment(call: &Call<'_>, of: TypeCode, id: &str, pairs: &[(String, String)]) -> Result<Answer, Failure> {
    let path = format!("{}/{id}/*", definitions::r4().type_name(of));
    let asked = Asked::read(call, pairs, &[], Interaction::Search, of, path)?;
    let resumed = asked.resumed(call)?;
    let ids = match &resumed {
        Some((cursor, _)) => ids_of(cursor),
        // A golden Patient stands for its sources.
        None if definitions::r4().type_name(of) == "Patient" => {
            call.state.registry.sources_of(id).await.map_err(Refusal::internal)?.unwrap_or_else(|| vec![id.to_owned()])
        }
        None => vec![id.to_owned()],
    };
    asked.answer(call, ids, None, resumed).await
}

/// The Patients whose records are meant, and the golden Patient if it is one. Refused when the caller may see neither.
async fn named(call: &Call<'_>, patient: TypeCode, id: &str) -> Result<(Vec<String>, Option<Stored>), Failure> {
    let (registry, scope) = (&call.state.registry, &call.caller.scope);
    if let Some(sources) = registry.sources_of(id).await.map_err(Refusal::internal)? {
        let view = registry.golden_view(id, scope, |source| call.admits(source)).await.map_err(Refusal::internal)?;
        return Ok((sources, Some(call.readable(view)?)));
    }
    let stored = call.readable(call.state.store.read(patient, id, scope).await?)?;
    if stored.body.is_none() {
        return Err(Refusal::gone().into());
    }
    Ok((vec![id.to_owned()], None))
}

/// The ids that a link carries behind the place of its page.
fn ids_of(cursor: &Cursor) -> Vec<String> {
    let texts = cursor.after.iter().skip(1).filter_map(|value| match value {
        SortValue::Text(id) => Some(id.clone()),
        _ => None,
    });
    texts.collect()
}

/// What is asked, understood.
struct Asked {
    of: TypeCode,
    /// After the base, for the links.
    path: String,
    /// Types of the compartment that are asked for and within the scopes.
    types: Vec<TypeCode>,
    /// The others that `_type` names; `None`: it names none.
    others: Option<Vec<TypeCode>>,
    /// What the scopes must allow: `$everything` reads, `*` searches.
    interaction: Interaction,
    count: u32,
    since: Option<Micros>,
    during: Option<Interval>,
    cursor: Option<String>,
    used: Vec<(String, String)>,
    warnings: Vec<Issue>,
}

impl Asked {
    /// `takes`: the parameters besides `_count` and `_type`.
    fn read(
        call: &Call<'_>,
        pairs: &[(String, String)],
        takes: &[&str],
        interaction: Interaction,
        of: TypeCode,
        path: String,
    ) -> Result<Asked, Failure> {
        let most = call.state.settings.limits.page_max.max(1);
        let mut asked = Asked {
            of,
            path,
            types: Vec::new(),
            others: None,
            interaction,
            count: DEFAULT.min(most),
            since: None,
            during: None,
            cursor: None,
            used: Vec::new(),
            warnings: Vec::new(),
        };
        let (mut start, mut end, mut named) = (None, None, None);
        for (name, value) in pairs {
            let time = || parse_interval(&value.replace(' ', "+"), &call.state.zone).ok_or_else(|| bad(name, "a date or an instant"));
            match name.as_str() {
                CURSOR => asked.cursor = Some(value.clone()),
                "_count" => {
                    asked.count = value.parse::<u32>().map_err(|_| bad(name, "a whole number"))?.min(most);
                    asked.used.push((name.clone(), asked.count.to_string()));
                    continue;
                }
                "_type" => named.get_or_insert_with(Vec::new).extend(types_in(value)?),
                name if !takes.contains(&name) => {
                    asked.pass_over(call, name, "This takes no such parameter.".to_owned())?;
                    continue;
                }
                "_since" => asked.since = Some(time()?.low),
                "start" => start = Some(time()?.low),
                _ => end = Some(time()?.high),
            }
            if name != CURSOR {
                asked.used.push((name.clone(), value.clone()));
            }
        }
        if start.is_some() || end.is_some() {
            asked.during = Some(Interval { low: start.unwrap_or(Micros::MIN), high: end.unwrap_or(Micros::MAX) });
        }
        asked.choose(call, named)?;
        Ok(asked)
    }

    /// What is asked for in vain is ignored with a warning, or refused.
    fn pass_over(&mut self, call: &Call<'_>, name: &str, words: String) -> Result<(), Failure> {
        if call.prefer.strict {
            return Err(Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::NotSupported, words).at(shown(name))));
        }
        self.warnings.push(Issue::warning(IssueCode::NotSupported, format!("{words} It was ignored.")).at(shown(name)));
        Ok(())
    }

    /// Sorts out the types. Those that are named must be within the scopes, of the others what is not is left out. Who looked at a
    /// record is part of it only for whoever names AuditEvent.
    fn choose(&mut self, call: &Call<'_>, named: Option<Vec<TypeCode>>) -> Result<(), Failure> {
        let r4 = definitions::r4();
        if let Some(named) = named {
            for type_code in &named {
                call.require(*type_code, self.interaction)?;
            }
            let (members, others): (Vec<_>, Vec<_>) =
                named.into_iter().partition(|type_code| r4.compartment(self.of, *type_code).is_some());
            let supports = |name: &&str| self.interaction == Interaction::Read && extract::is_about_nobody(name);
            let strange: Vec<&str> = others.iter().map(|code| r4.type_name(*code)).filter(|name| !supports(name)).collect();
            if !strange.is_empty() {
                self.pass_over(call, "_type", format!("This answer has no resources of type {}.", strange.join(", ")))?;
            }
            (self.types, self.others) = (members, Some(others));
            return Ok(());
        }
        self.types =
            members(self.of).filter(|code| r4.type_name(*code) != "AuditEvent" && self.reach(call, *code) != Reach::Nothing).collect();
        if self.types.is_empty() {
            call.require(self.of, self.interaction)?;
        }
        Ok(())
    }

    fn reach(&self, call: &Call<'_>, type_code: TypeCode) -> Reach {
        call.caller.reach(definitions::r4().type_name(type_code), self.interaction)
    }

    /// What a link of this question is bound to.
    fn binding(&self, call: &Call<'_>) -> String {
        let reach: Vec<Reach> = self.types.iter().map(|code| self.reach(call, *code)).collect();
        format!("{}\n{:?}\n{:?} {reach:?}\n{}", self.path, self.used, self.types, call.caller.scope.binding())
    }

    fn resumed(&self, call: &Call<'_>) -> Result<Option<(Cursor, Micros)>, Failure> {
        let open = |token: &String| call.state.cursor_key.open(token, &self.binding(call), now());
        self.cursor.as_ref().map(open).transpose().map_err(cursor_failure)
    }

    /// What the store is asked of the resources with these numbers.
    fn everything(&self, call: &Call<'_>, ids: &[String], of: Vec<i64>) -> Everything {
        let own = |types: &[TypeCode]| (types.contains(&self.of) && definitions::r4().is_in_own_compartment(self.of)).then_some(self.of);
        let records = |types: &[TypeCode]| Records {
            of: of.clone(),
            params: params(self.of, types),
            own: own(types),
            owners: None,
            since: self.since,
            during: self.during,
            scope: call.caller.scope.clone(),
        };
        let supports = self.interaction == Interaction::Read;
        let supporting = supports.then(|| {
            let r4 = definitions::r4();
            let open = r4.resource_types().iter().filter(|name| extract::is_about_nobody(name)).filter_map(|name| r4.type_code(name));
            let through: Vec<TypeCode> = open.filter(|code| self.reaches_whole(call, *code, ids)).collect();
            let wanted = through.iter().filter(|code| self.others.as_ref().is_none_or(|others| others.contains(code)));
            // A reference in what the scopes do not reach tells nothing.
            let around: Vec<TypeCode> = members(self.of).filter(|code| self.reaches_whole(call, *code, ids)).collect();
            Supporting { members: Records { since: None, ..records(&around) }, wanted: wanted.copied().collect(), through }
        });
        Everything { records: records(&self.types), supporting }
    }

    /// Whether the scopes reach all resources of the type that can be in the answer.
    fn reaches_whole(&self, call: &Call<'_>, type_code: TypeCode, ids: &[String]) -> bool {
        let about_nobody = extract::is_about_nobody(definitions::r4().type_name(type_code));
        match self.reach(call, type_code) {
            Reach::Everything => true,
            Reach::Nothing => false,
            Reach::Within(bounds) => bounds.iter().any(|bound| {
                let own = |patients: &[String]| about_nobody || ids.iter().all(|id| patients.contains(id));
                bound.params.is_empty() && bound.patients.as_deref().is_none_or(own)
            }),
        }
    }

    async fn answer(
        &self,
        call: &Call<'_>,
        ids: Vec<String>,
        view: Option<Stored>,
        resumed: Option<(Cursor, Micros)>,
    ) -> Result<Answer, Failure> {
        let (store, options) = (&call.state.store, call.state.writer.options());
        let keys = store.keys_of(self.of, &ids).await?;
        if self.count == 0 {
            return self.counted(call, &ids, keys, view.is_some()).await;
        }
        let from = resumed.as_ref().map(|(cursor, _)| cursor);
        let mut part = store.everything(&self.everything(call, &ids, keys), self.count, from).await?;
        let admitted = |row: &Stored| call.caller.admits(row, &[self.interaction], options);
        part.members.retain(admitted);
        part.supporting.retain(admitted);
        let began = resumed.as_ref().map_or_else(now, |(_, began)| *began);
        let next = part.next.map(|mut next| {
            next.after.extend(ids.into_iter().map(SortValue::Text));
            call.state.cursor_key.seal(&next, began, &self.binding(call))
        });
        let members: Vec<Stored> = view.into_iter().chain(part.members).collect();
        let total = (resumed.is_none() && next.is_none()).then_some(members.len() as i64);
        let head = self.head(call, began, total, next.as_deref());
        Ok(Answer::ok(self.bundle(call, &head, &members, &part.supporting)))
    }

    /// With `_count=0`, as in a search: how many there are, where the scopes let that be told without a look at each.
    async fn counted(&self, call: &Call<'_>, ids: &[String], keys: Vec<i64>, view: bool) -> Result<Answer, Failure> {
        let whole = self.types.iter().all(|type_code| self.reaches_whole(call, *type_code, ids));
        let total = match whole {
            true => {
                let everything = self.everything(call, ids, keys);
                let owners = call.state.store.record_owners(&everything.records).await?;
                // Whoever counts somebody's records is told of them.
                if audit::current().is_some() && !owners.is_empty() {
                    super::audit::tells_of(&call.state.store.everything(&everything, TOLD, None).await?.members);
                }
                Some(owners.iter().map(|(_, count)| *count).sum::<i64>().saturating_add(i64::from(view)))
            }
            false => None,
        };
        Ok(Answer::ok(self.bundle(call, &self.head(call, now(), total, None), &[], &[])))
    }

    /// The answer without its entries.
    fn head(&self, call: &Call<'_>, began: Micros, total: Option<i64>, next: Option<&str>) -> Value {
        let mut links = vec![json!({ "relation": "self", "url": self.link(call, self.cursor.as_deref()) })];
        links.extend(next.map(|next| json!({ "relation": "next", "url": self.link(call, Some(next)) })));
        let mut head = json!({
            "resourceType": "Bundle",
            "id": uuid::Uuid::new_v4().to_string(),
            "meta": { "lastUpdated": format_instant(began) },
            "type": "searchset",
        });
        if let Some(total) = total {
            head["total"] = json!(total);
        }
        head["link"] = Value::Array(links);
        head
    }

    fn bundle(&self, call: &Call<'_>, head: &Value, members: &[Stored], supporting: &[Stored]) -> Vec<u8> {
        let mut out = head.to_string().into_bytes();
        out.pop();
        let mut before: &[u8] = b",\"entry\":[";
        for (rows, mode) in [(members, "match"), (supporting, "include")] {
            for row in rows {
                let Some(body) = &row.body else { continue };
                let name = definitions::r4().type_name(row.type_code);
                out.extend_from_slice(before);
                before = b",";
                out.extend_from_slice(format!(r#"{{"fullUrl":"{}/{name}/{}","resource":"#, call.state.base_url(), row.id).as_bytes());
                out.extend_from_slice(body);
                out.extend_from_slice(format!(r#","search":{{"mode":"{mode}"}}}}"#).as_bytes());
            }
        }
        if !self.warnings.is_empty() {
            out.extend_from_slice(before);
            before = b",";
            let outcome = outcome::operation_outcome(&self.warnings);
            out.extend_from_slice(format!(r#"{{"resource":{outcome},"search":{{"mode":"outcome"}}}}"#).as_bytes());
        }
        out.extend_from_slice(if before == b"," { b"]}" } else { b"}" });
        out
    }

    fn link(&self, call: &Call<'_>, cursor: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.used).extend_pairs(call.said_of_form());
        if let Some(cursor) = cursor {
            query.append_pair(CURSOR, cursor);
        }
        let query = query.finish();
        format!("{}/{}{}{query}", call.state.base_url(), self.path, if query.is_empty() { "" } else { "?" })
    }
}

/// The types that resources of the compartment can be of.
fn members(of: TypeCode) -> impl Iterator<Item = TypeCode> {
    let r4 = definitions::r4();
    r4.resource_types().iter().filter_map(|name| r4.type_code(name)).filter(move |code| r4.compartment(of, *code).is_some())
}

/// The parameters by which resources of these types name what the compartment is of: a Patient by its `link`, too.
fn params(of: TypeCode, types: &[TypeCode]) -> Vec<u32> {
    let r4 = definitions::r4();
    let params = |code: &TypeCode| {
        let (code, named) = (*code, r4.compartment(of, *code).unwrap_or_default());
        named.iter().filter_map(move |param| Some(r4.param(code, param)?.id))
    };
    types.iter().flat_map(params).collect()
}

fn types_in(value: &str) -> Result<Vec<TypeCode>, Failure> {
    let r4 = definitions::r4();
    value.split(',').map(|name| r4.type_code(name.trim()).ok_or_else(|| bad("_type", "resource types, separated by commas"))).collect()
}

fn bad(name: &str, what: &str) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, Issue::error(IssueCode::Value, format!("The parameter's value must be {what}.")).at(shown(name)))
}

/// A parameter's name as it may be told.
fn shown(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.')).take(60).collect()
}
