//! One wanted change held against what is there: who may make it, and what it comes to.

use super::{Action, Author, Condition, Done, Effect, PARAMETER, Wanted, Writer, holds_for_all};
use crate::access::{CONSENT_DESK, Caller, Interaction, Role};
use crate::definitions;
use crate::fhir::{Issue, IssueCode};
use crate::ingest::consent::{Beside, asks_for_itself};
use crate::ingest::ownership::{DIRECTORY, OPERATOR, check_source, is_for_patients, keeps_directory, may_change};
use crate::ingest::refusal::{Refusal, RefusalKind};
use crate::search::{extract, own};
use crate::store::gate::{self as store_gate, About, Traits};
use crate::store::write::Change;
use crate::store::{Mutation, Stored, TypeCode};

/// What a wanted change comes to.
pub(super) struct Step {
    pub(super) done: Done,
    pub(super) mutation: Option<Mutation>,
}

/// The same Consent with these rules: what it rests on, whom it covers and what those whom it names are called may be otherwise than when it was written.
fn reread(stored: &Stored, rules: store_gate::Rules) -> Mutation {
    Mutation {
        type_code: stored.type_code,
        id: stored.id.clone(),
        base_version: stored.version,
        change: Change::Reindex { entries: Vec::new(), old_entries: Vec::new() },
        owner: stored.owner,
        listed: true,
        about: About::Consent,
        traits: Traits::default(),
        rules: Some(rules),
    }
}

/// A delete of what is not there.
fn absent(type_code: TypeCode, id: &str) -> Step {
    Step { done: Done { type_code, id: id.into(), effect: Effect::Absent, version: 0, updated: 0, body: None }, mutation: None }
}

impl Writer {
    pub(super) async fn step(&self, wanted: Wanted, stored: Option<&Stored>, author: &Author, beside: &Beside) -> Result<Step, Refusal> {
        let live = stored.filter(|stored| stored.body.is_some());
        let type_name = definitions::r4().type_name(wanted.target().0);
        // Codes mean the same for everybody: one facility must not change how another's are translated, found, or what they must meet.
        let codes = holds_for_all(wanted.target().0) || type_name == PARAMETER;
        let for_all = codes || (keeps_directory(author) && DIRECTORY.contains(&type_name));
        if codes && !may_change(author, type_name, OPERATOR) {
            let words = "ConceptMap, CodeSystem, ValueSet, StructureDefinition and SearchParameter hold for all facilities: only the operator can change them.";
            return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)));
        }
        let is_request = stored.is_none() && self.is_request(&wanted.action, author);
        if type_name == "Consent" && !is_request && author.caller.as_ref().is_some_and(|caller| !caller.has_role(Role::ConsentRecorder)) {
            let words = "Only a client with the role consent-recorder writes Consents. A facility can ask for one: a new Consent with status proposed, whose provision permits, \
                         without exceptions, to no other actor than the facility itself, named by its identifier.";
            return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)));
        }
        if stored.is_some_and(|stored| stored.owner < 0 && stored.owner != CONSENT_DESK) {
            return self.step_on_record(&wanted, stored, author).await;
        }
        if let Some(foreign) = stored.filter(|stored| !may_change(author, type_name, stored.owner)) {
            return self.step_on_foreign(&wanted, foreign, author).await;
        }
        if let Some(caller) = &author.caller {
            // What the scopes do not reach is, for a delete, as if it never was.
            if let (Action::Delete { type_code, id }, Some(live)) = (&wanted.action, live)
                && !caller.admits(live, &[Interaction::Delete], &self.options)
            {
                return if wanted.condition.admits(None) { Ok(absent(*type_code, id)) } else { Err(Refusal::other_version()) };
            }
            self.check_reach(&wanted.action, live, caller)?;
            check_source(&wanted.action, live, caller)?;
        }
        match (wanted.condition, live) {
            (condition, live) if !condition.admits(live.map(|live| live.version)) => return Err(Refusal::other_version()),
            (Condition::Absent, Some(_)) => {
                return Err(Refusal::failed_precondition("If-None-Match: * demands that the resource does not exist, and it does."));
            }
            (Condition::Free, Some(_)) => {
                let words = "Nothing matches the criteria, and another resource has the id that this one says: leave the id out, or mend the criteria.";
                return Err(Refusal::new(RefusalKind::Conflict, Issue::error(IssueCode::Conflict, words)));
            }
            (Condition::Known, _) if stored.is_none() => return Err(Refusal::no_update_as_create()),
            _ => {}
        }
        let base_version = stored.map_or(0, |stored| stored.version);
        let (type_code, id) = wanted.target();
        let done = |effect| Done {
            type_code,
            id: id.into(),
            effect,
            version: base_version,
            updated: stored.map_or(0, |stored| stored.updated),
            body: None,
        };
        match (&wanted.action, live) {
            (Action::Delete { .. }, None) => return Ok(Step { done: done(Effect::Absent), mutation: None }),
            (Action::Put(draft), Some(live)) if draft.says_what(live) => {
                let done = Done { body: live.body.clone(), ..done(Effect::Unchanged) };
                let mutation = match &draft.consent {
                    Some(resource) => Some(reread(live, self.consent_rules(resource, beside).await?)),
                    None => None,
                };
                return Ok(Step { done, mutation });
            }
            _ => {}
        }
        let done = done(match (&wanted.action, live) {
            (Action::Delete { .. }, _) => Effect::Deleted,
            (Action::Put(_), Some(_)) => Effect::Updated,
            (Action::Put(_), None) => Effect::Created,
        });
        let old_entries =
            live.and_then(|live| live.body.as_ref()).map(|body| self.entries_of(type_code, body)).transpose()?.unwrap_or_default();
        if let (Action::Put(draft), Some(_)) = (&wanted.action, &author.caller)
            && extract::tells_of_broken_glass(type_name, &draft.entries)
            && !extract::tells_of_broken_glass(type_name, &old_entries)
        {
            let words = "Only lango itself tells that somebody broke the glass: a resource of this tag, or a Task of this code, is not made by others.";
            return Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)));
        }
        if let (Condition::SamePatient, Action::Put(draft), Some(body)) =
            (wanted.condition, &wanted.action, live.and_then(|live| live.body.as_ref()))
            && let (Some(new), Some(old)) = (draft.about.patient(), self.about(type_code, body, &old_entries)?.patient())
            && new != old
        {
            return Err(Refusal::other_patient(type_name));
        }
        let owner = if for_all {
            OPERATOR
        } else if is_request || type_name == "Consent" && stored.is_none() && is_for_patients(author) {
            CONSENT_DESK
        } else {
            stored.map_or(author.owner, |stored| stored.owner)
        };
        let id = Box::from(id);
        let (about, traits, rules, change) = match wanted.action {
            Action::Put(draft) => {
                let (body, stamp_at) = draft.body(base_version + 1);
                if type_name == PARAMETER {
                    let definition = serde_json::from_slice(&body).map_err(Refusal::internal)?;
                    own::Definition::written(&definition).map_err(|error| {
                        let path = format!("{PARAMETER}.{}", error.element);
                        Refusal::new(RefusalKind::Invalid, Issue::error(error.code, error.words).at(path))
                    })?;
                }
                let rules = match &draft.consent {
                    Some(resource) => Some(self.consent_rules(resource, beside).await?),
                    None => None,
                };
                (draft.about, draft.traits, rules, Change::Put { body, stamp_at, entries: draft.entries, old_entries })
            }
            Action::Delete { .. } => {
                let about = live.and_then(|live| live.body.as_ref()).map(|body| self.about(type_code, body, &old_entries));
                let rules = (definitions::r4().type_name(type_code) == "Consent").then(store_gate::Rules::default);
                (about.transpose()?.unwrap_or(About::Unknown), Traits::default(), rules, Change::Delete { old_entries })
            }
        };
        let mutation = Mutation { type_code, id, base_version, change, owner, listed: true, about, traits, rules };
        Ok(Step { done, mutation: Some(mutation) })
    }

    /// A facility that asks for consent, which is for those who record consents to answer.
    fn is_request(&self, action: &Action, author: &Author) -> bool {
        let Some(caller) = author.caller.as_ref().filter(|caller| !caller.has_role(Role::ConsentRecorder)) else { return false };
        let (Action::Put(draft), Some(code)) = (action, &caller.facility_code) else { return false };
        draft.consent.as_ref().is_some_and(|consent| asks_for_itself(consent, &self.facility_system, code))
    }

    /// Granular scopes reach the resource as it is and as it will be.
    fn check_reach(&self, action: &Action, live: Option<&Stored>, caller: &Caller) -> Result<(), Refusal> {
        let Action::Put(draft) = action else { return Ok(()) };
        // A put that creates was asked for, and allowed, as an update.
        let interactions = if live.is_none() { &[Interaction::Create, Interaction::Update][..] } else { &[Interaction::Update] };
        let before = live.is_none_or(|live| caller.admits(live, interactions, &self.options));
        if before && caller.admits_entries(draft.type_code, &draft.id, &draft.entries, interactions, &self.options) {
            return Ok(());
        }
        let words = format!(
            "The scopes of this client do not reach this {}: they allow {} only with certain values, or of one patient.",
            definitions::r4().type_name(draft.type_code),
            if live.is_none() { Interaction::Create } else { Interaction::Update }
        );
        Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)))
    }

    /// What lango recorded nobody changes, not even who may see it.
    async fn step_on_record(&self, wanted: &Wanted, stored: Option<&Stored>, author: &Author) -> Result<Step, Refusal> {
        let Some(stored) = stored else { return Err(Refusal::not_found()) };
        match self.store.read(stored.type_code, &stored.id, &author.scope).await? {
            Some(_) => {
                let words = "The server itself recorded this: nobody changes or removes it.";
                Err(Refusal::new(RefusalKind::Forbidden, Issue::error(IssueCode::Forbidden, words)))
            }
            None => self.step_on_foreign(wanted, stored, author).await,
        }
    }

    /// What another facility contributed stays as it is. Its id cannot look free (the put would have to succeed), so the
    /// refusal says that the id is taken and nothing else; a delete of what the caller cannot see does nothing, as if it were not there.
    async fn step_on_foreign(&self, wanted: &Wanted, stored: &Stored, author: &Author) -> Result<Step, Refusal> {
        let reaches = |caller: &Caller| caller.admits(stored, &[Interaction::Read], &self.options);
        let visible = stored.body.is_some()
            && author.caller.as_deref().is_none_or(reaches)
            && self.store.read(stored.type_code, &stored.id, &author.scope).await?.is_some();
        match &wanted.action {
            _ if visible => Err(Refusal::foreign()),
            // What is refused where nothing is, is refused in the same words here.
            _ if matches!(wanted.condition, Condition::Version(_)) => Err(Refusal::other_version()),
            Action::Put(_) if wanted.condition == Condition::Known => Err(Refusal::no_update_as_create()),
            Action::Put(_) => Err(Refusal::new(
                RefusalKind::Conflict,
                Issue::error(
                    IssueCode::Conflict,
                    "This id cannot be used: take another, or POST the resource and let the server choose one.",
                ),
            )),
            Action::Delete { type_code, id } => Ok(absent(*type_code, id)),
        }
    }
}
