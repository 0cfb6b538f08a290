//! What follows a request from its arrival to its answer.

mod denial;

use super::{Action, Agent, AuditError, Event, Recorder, Shown, owner_of};
use crate::access::Caller;
use crate::access::releases::Releases;
use crate::definitions;
use crate::fhir::time::now;
use crate::store::audit::{NOBODY, Placed};
use crate::store::closing::Basis;
use crate::store::gate::About;
use crate::store::sql::{Arg, Sql};
use crate::store::{AuditRow, FacilityKey, ResourceKey, Scope, Store, Stored, Subject, TypeCode};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a request that are kept.
const MOST_REQUEST: usize = 8 << 10;

tokio::task_local! {
    static CURRENT: Arc<Trail>;
}

/// The trail of the request that this task answers; `None`: nothing is recorded.
pub fn current() -> Option<Arc<Trail>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Makes a change that is none of a resource: of a client, say. It is recorded in its own transaction when a request or a command is followed; `false`: there was
/// nothing to change.
pub async fn administer<E: From<AuditError> + From<sqlx::Error>>(store: &Store, sql: Sql) -> Result<bool, E> {
    // PostgreSQL refuses texts with this character.
    if sql.args.iter().any(|arg| matches!(arg, Arg::Text(text) if text.contains('\0'))) {
        return Ok(false);
    }
    let trail = current();
    let told = |trail: &Arc<Trail>| trail.row(&trail.event(Action::Execute, "operation", 200), Subject::Nobody);
    let row = trail.as_ref().map(told).transpose()?;
    let changed = store.change_recorded(sql, row.as_slice()).await? > 0;
    if let Some(trail) = trail.filter(|_| changed) {
        trail.noted().settled = true;
    }
    Ok(changed)
}

/// A resource's name.
type Name = (TypeCode, Box<str>);

/// One request and what was noted on its way.
#[derive(Debug)]
pub struct Trail {
    recorder: Recorder,
    agent: Agent,
    scope: Scope,
    owner: FacilityKey,
    request: String,
    request_id: Option<String>,
    /// As of which closing the answer is decided; 0: no rule can open anything for this caller.
    since: AtomicI64,
    /// Bounds what leaves; `None`: nothing does.
    releases: Option<Arc<Releases>>,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// What this request changed, and recorded with the change.
    written: HashSet<Name>,
    /// What a handler said that it shows.
    shown: HashSet<Name>,
    /// Owner and patient of rows that were read for the answer.
    read: HashMap<Name, (FacilityKey, ResourceKey)>,
    /// Whose data it shows that is not in the store, such as what another holder answered.
    disclosed: BTreeMap<(ResourceKey, FacilityKey), Vec<String>>,
    /// Whom the answer is about, though it shows nothing of theirs.
    concerned: BTreeSet<ResourceKey>,
    /// By which name they were asked for, and are not denied.
    answered: HashSet<Name>,
    /// Parameters that came in the body.
    form: String,
    /// What was asked within a Bundle, as which interaction, and the status of each.
    inner: Vec<(String, &'static str, u16)>,
    /// Entries of a Bundle that were refused, by their path, with what each asked for.
    refused: HashMap<String, String>,
    /// What the request asked for by name.
    named: BTreeSet<Name>,
    /// The glass was broken for it.
    emergency: bool,
    settled: bool,
}

/// What a request asked for, in the audit's terms.
#[derive(Clone, Debug)]
pub struct Shape {
    pub action: Action,
    /// A code of `restful-interaction`.
    pub interaction: &'static str,
    /// The resource that the URL names.
    pub target: Option<(TypeCode, String)>,
    /// The answer may hold old versions.
    pub old_versions: bool,
}

impl Shape {
    /// A read is one event for each patient; a query is one event for itself and one more for each patient in its answer, all in one row.
    fn is_query(&self) -> bool {
        self.action == Action::Execute
    }
}

/// A change of a resource, for the transaction that makes it.
#[derive(Debug)]
pub struct Change<'a> {
    pub action: Action,
    pub type_code: TypeCode,
    pub id: &'a str,
    /// The new version.
    pub version: i64,
    pub subject: Subject,
}

impl Trail {
    /// `caller`: `None` while nobody is known. `request`: method, path and parameters as they came.
    pub fn new(recorder: Recorder, caller: Option<&Caller>, request: &str, request_id: Option<&str>, address: Option<String>) -> Trail {
        let agent = caller.map(Agent::of).unwrap_or_default();
        Trail {
            owner: agent.client.as_deref().map_or(NOBODY, owner_of),
            agent: Agent { address, ..agent },
            scope: caller.map_or(Scope::Owners(Vec::new()), |caller| caller.scope.clone()),
            recorder,
            request: cut(request),
            request_id: request_id.map(cut),
            since: AtomicI64::new(caller.map_or(0, |caller| since(&caller.scope))),
            releases: None,
            noted: Mutex::default(),
        }
    }

    /// The same, bounded in what leaves.
    pub fn bounded(self, releases: Arc<Releases>) -> Trail {
        Trail { releases: Some(releases), ..self }
    }

    /// Of lango's own work, such as a command of the operator's: what it changes is recorded.
    pub fn of_lango(recorder: Recorder, command: &str) -> Trail {
        let mut trail = Trail::new(recorder, None, command, None, None);
        trail.agent.lango = true;
        trail
    }

    /// Runs `work` with this trail.
    pub async fn follow<F: Future>(self: &Arc<Self>, work: F) -> F::Output {
        CURRENT.scope(Arc::clone(self), work).await
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer will show these resources in a form that is not FHIR's.
    pub fn shows(&self, names: impl IntoIterator<Item = (TypeCode, Box<str>)>) {
        self.noted().shown.extend(names);
    }

    /// These current versions were read for the answer, which saves looking up again whose they are. What the answer holds says the answer.
    pub fn read<'a>(&self, rows: impl IntoIterator<Item = &'a Stored>) {
        let place = |row: &Stored| ((row.type_code, row.id.clone()), (row.owner, row.patient));
        // What was made of several has no version.
        self.noted().read.extend(rows.into_iter().filter(|row| row.version > 0).map(place));
    }

    /// The answer will show data of this Patient that is not in the store under these names, such as what another holder, `owner`, answered.
    pub fn discloses(&self, patient: ResourceKey, owner: FacilityKey, what: Vec<String>) {
        self.noted().disclosed.entry((patient, owner)).or_default().extend(what);
    }

    /// The answer is about these Patients, asked for by this name, and shows no resource of theirs: who saw them, say.
    pub fn concerns(&self, name: Name, patients: impl IntoIterator<Item = ResourceKey>) {
        let mut noted = self.noted();
        noted.answered.insert(name);
        noted.concerned.extend(patients);
    }

    /// The request's parameters stood in its body.
    pub fn came_with(&self, form: &[u8]) {
        self.noted().form = cut(&String::from_utf8_lossy(form));
    }

    /// A query within a Bundle, or another entry that changed nothing, was answered. `interaction`: a code of `restful-interaction`.
    pub fn asked_within(&self, request: &str, interaction: &'static str, status: u16) {
        self.noted().inner.push((cut(request), interaction, status));
    }

    /// Whether [`Trail::settle`] was called.
    pub fn is_settled(&self) -> bool {
        self.noted().settled
    }

    /// The answer is decided again, for the same caller as of now.
    pub fn begins_again(&self, caller: &Caller) {
        self.since.store(since(&caller.scope), Ordering::SeqCst);
    }

    /// Whether the request changed something.
    pub fn has_written(&self) -> bool {
        !self.noted().written.is_empty()
    }

    fn event(&self, action: Action, interaction: &str, status: u16) -> Event {
        let (form, emergency) = {
            let noted = self.noted();
            (noted.form.clone(), noted.emergency)
        };
        let request = if form.is_empty() { self.request.clone() } else { format!("{}\n\n{form}", self.request) };
        Event {
            action,
            interaction: interaction.to_owned(),
            status,
            agent: self.agent.clone(),
            request,
            request_id: self.request_id.clone(),
            what: Vec::new(),
            more: 0,
            consents: Vec::new(),
            emergency,
            patients: Vec::new(),
        }
    }

    /// The glass was broken for this request.
    pub fn breaks_glass(&self) {
        self.noted().emergency = true;
    }

    fn row(&self, event: &Event, subject: Subject) -> Result<AuditRow, AuditError> {
        Ok(AuditRow { at: now(), owner: self.owner, subject, event: serde_json::to_string(event)? })
    }

    /// The rows for the transaction of these changes: one for each kind of change and each patient. Call [`Trail::wrote`] when it is
    /// committed.
    pub fn changes(&self, changes: &[Change<'_>]) -> Result<Vec<AuditRow>, AuditError> {
        let mut groups: BTreeMap<(Action, &Subject), Vec<String>> = BTreeMap::new();
        for change in changes {
            let what = format!("{}/{}/_history/{}", definitions::r4().type_name(change.type_code), change.id, change.version);
            groups.entry((change.action, &change.subject)).or_default().push(what);
        }
        let mut rows = Vec::with_capacity(groups.len());
        for ((action, subject), what) in groups {
            let (interaction, status) = match action {
                Action::Create => ("create", 201),
                Action::Delete => ("delete", 204),
                _ => ("update", 200),
            };
            for part in what.chunks(Event::MOST_WHAT) {
                rows.push(self.row(&self.event(action, interaction, status).about(part.to_vec()), subject.clone())?);
            }
        }
        Ok(rows)
    }

    /// These changes are committed.
    pub fn wrote(&self, names: impl IntoIterator<Item = (TypeCode, Box<str>)>) {
        self.noted().written.extend(names);
    }

    /// Records the request and everybody whose data the answer holds; the answer may leave when this has succeeded. `held`: the
    /// resources in the answer.
    pub async fn settle(&self, store: &Store, shape: &Shape, status: u16, held: HashSet<Name>) -> Result<(), AuditError> {
        let (names, mut read, inner, has_written, disclosed, asked, concerned) = {
            let mut noted = self.noted();
            let mut names = held;
            names.extend(std::mem::take(&mut noted.shown));
            names.retain(|name| !noted.written.contains(name));
            let mut asked = std::mem::take(&mut noted.named);
            asked.extend(shape.target.as_ref().map(|(code, id)| (*code, id.as_str().into())));
            let hides = |name: &Name| !(names.contains(name) || noted.written.contains(name) || noted.answered.contains(name));
            asked.retain(|name| denial::may_hide(status) && hides(name));
            (
                names,
                std::mem::take(&mut noted.read),
                std::mem::take(&mut noted.inner),
                !noted.written.is_empty(),
                std::mem::take(&mut noted.disclosed),
                asked.into_iter().collect::<Vec<Name>>(),
                std::mem::take(&mut noted.concerned),
            )
        };
        let mut rows = Vec::new();
        let mut by_patient: BTreeMap<ResourceKey, Vec<String>> = concerned.into_iter().map(|patient| (patient, Vec::new())).collect();
        // What others contributed of it.
        let mut others: BTreeMap<ResourceKey, BTreeMap<FacilityKey, Vec<String>>> = BTreeMap::new();
        for ((patient, owner), what) in disclosed {
            by_patient.entry(patient).or_default().extend(what.iter().cloned());
            others.entry(patient).or_default().insert(owner, what);
        }
        let mut is_made_for_caller = false;
        if !names.is_empty() {
            let mut names: Vec<Name> = names.into_iter().collect();
            names.sort_unstable();
            let (mut known, mut unknown) = (Vec::new(), Vec::new());
            for name in names {
                match read.remove(&name).filter(|_| !shape.old_versions) {
                    Some((owner, patient)) => known.push(Placed { type_code: name.0, id: name.1.into(), owner, patient }),
                    None => unknown.push(name),
                }
            }
            if !unknown.is_empty() {
                known.extend(store.placed(&unknown, shape.old_versions).await?);
            }
            for placed in known {
                let what = format!("{}/{}", definitions::r4().type_name(placed.type_code), placed.id);
                let is_foreign = matches!(self.scope, Scope::Gate(_)) && !self.scope.owners().contains(&placed.owner);
                if placed.patient <= 0 {
                    // Such as a golden Patient, which is made of what the caller may see of many, or a Consent.
                    is_made_for_caller |= is_foreign && placed.patient < 0;
                    continue;
                }
                if is_foreign {
                    others.entry(placed.patient).or_default().entry(placed.owner).or_default().push(what.clone());
                }
                by_patient.entry(placed.patient).or_default().push(what);
            }
        }
        let foreign: Vec<ResourceKey> = others.keys().copied().collect();
        let seen: BTreeSet<ResourceKey> = by_patient.keys().copied().collect();
        if let (Some(releases), Some(client)) = (&self.releases, &self.agent.client) {
            releases.admit(client, &foreign).map_err(|seconds| AuditError::TooMuch { seconds })?;
        }
        let behind = if foreign.is_empty() { BTreeMap::new() } else { store.consents_behind(&self.scope, &foreign).await? };
        let consents = |patient: &ResourceKey| -> Vec<String> {
            let list = behind.get(patient).map_or(&[][..], Vec::as_slice);
            list.iter().map(|(id, version)| format!("Consent/{id}/_history/{version}")).collect()
        };
        let is_read = !shape.is_query() && shape.action == Action::Read && status < 400;
        // What was changed tells of itself, in the transaction that changed it; a Bundle is an event of its own beside that.
        let told_already = has_written && !matches!(shape.action, Action::Read | Action::Execute) && status < 400;
        let own = (!(told_already || is_read && !by_patient.is_empty())).then(|| {
            let target = shape.target.as_ref().filter(|_| status < 400 && !shape.is_query());
            let what = target.map(|(code, id)| format!("{}/{id}", definitions::r4().type_name(*code)));
            self.event(shape.action, shape.interaction, status).about(what.into_iter().collect())
        });
        let shown: Vec<Shown> = by_patient.into_iter().map(|(patient, what)| Shown::new(patient, what, consents(&patient))).collect();
        let permitted = others.into_iter().map(|(patient, parts)| Shown::held(patient, parts, consents(&patient)));
        let permitted: Vec<Shown> = permitted.collect();
        match own {
            // One row, whomever the answer shows.
            Some(own) if shape.is_query() => rows.push(self.row(&Event { patients: shown, ..own }, Subject::Nobody)?),
            own => {
                let own = own.map(|own| self.row(&own, Subject::Nobody)).transpose()?;
                rows.extend(own);
                // Whatever was asked for, what goes out beside a change was looked for and found.
                let (action, interaction) = match shape.action {
                    Action::Read => (Action::Read, shape.interaction),
                    _ => (Action::Execute, "operation"),
                };
                for Shown { patient, what, more, consents, .. } in shown {
                    let event = Event { what, more, consents, ..self.event(action, interaction, status) };
                    rows.push(self.row(&event, Subject::Key(patient))?);
                }
            }
        }
        for (request, interaction, status) in inner {
            let event = self.event(Action::Execute, interaction, status);
            rows.push(self.row(&Event { request, ..event }, Subject::Nobody)?);
        }
        if !permitted.is_empty() {
            let decision = Event { patients: permitted, ..self.event(Action::Execute, Event::DECISION, 200) };
            // It names Consents, which are not the caller's to see.
            rows.push(AuditRow { owner: NOBODY, ..self.row(&decision, Subject::Nobody)? });
        }
        rows.extend(self.denials(store, &asked, &seen).await?);
        // Of what a Bundle wrote and then read, those are asked whose data it shows. What shows one's own only hinges on nobody.
        let is_told = !is_made_for_caller && (has_written || !shape.is_query());
        let hinges = status < 400 && !(is_told && foreign.is_empty());
        let gated = matches!(&self.scope, Scope::Gate(gate) if !gate.requesters.is_empty());
        let basis = (hinges && gated)
            .then(|| Basis { since: self.since.load(Ordering::SeqCst), patients: is_told.then(|| foreign.iter().copied().collect()) });
        self.recorder.record(rows, basis).await?;
        self.noted().settled = true;
        Ok(())
    }
}

/// Whose data a change is about.
impl From<&About> for Subject {
    fn from(about: &About) -> Subject {
        match about {
            About::Patient(id) => Subject::Id(id.clone()),
            About::Nobody | About::Unknown | About::Consent | About::Audit => Subject::Nobody,
        }
    }
}

fn since(scope: &Scope) -> i64 {
    match scope {
        Scope::Gate(gate) => gate.since,
        Scope::All | Scope::Owners(_) => 0,
    }
}

/// As much of it as is kept; of what is longer, that it was and the BLAKE3 of all of it, by which a copy elsewhere can be known.
fn cut(text: &str) -> String {
    if text.len() <= MOST_REQUEST {
        return text.to_owned();
    }
    let end = (0..=MOST_REQUEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{} … cut: {} bytes, BLAKE3 {}", text.get(..end).unwrap_or_default(), text.len(), blake3::hash(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_to_be_kept_is_told_by_its_length_and_digest() {
        let short = "é".repeat(MOST_REQUEST / 2);
        assert_eq!(cut(&short), short);
        let long = format!("x{short}&subject=Patient/q1");
        let kept = cut(&long);
        assert!(kept.len() < MOST_REQUEST + 200 && kept.starts_with("xé") && !kept.contains("q1"));
        assert!(kept.ends_with(&format!("cut: {} bytes, BLAKE3 {}", long.len(), blake3::hash(long.as_bytes()))), "{kept}");
    }
}
