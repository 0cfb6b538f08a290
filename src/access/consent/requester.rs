//! Who asks for data, and for what.

use super::model::{Action, Actor, Effect, Name, Truth};
use super::vocabulary::{self, Coding};
use crate::fhir::time::Micros;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What may be any person: an alias of rules about a person, and of those who do not say who acts for them.
pub const SOMEBODY: &str = "somebody";

/// A name as only the operator's entry of the directory has it: what a permit means by an id that nobody had when it was written, so that nobody else comes
/// to be meant by taking it.
pub fn operators(name: &str) -> Name {
    format!("{name}#operator")
}

/// Who asks, for what, and when. Everything but `now` comes from the client's row and signed claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The facility that asks, and every organisation that it is a part of, by all their names (`Organization/id`, `system|code`).
    pub organisations: BTreeSet<Name>,
    /// The acting person: `Practitioner`, `PractitionerRole`, identifiers.
    pub people: BTreeSet<Name>,
    /// The client: `Device/id`, identifiers.
    pub devices: BTreeSet<Name>,
    /// Groups and care teams that hold any of them.
    pub groups: BTreeSet<Name>,
    pub roles: BTreeSet<Coding>,
    /// What it may be called besides: only what forbids means it by these. All that anybody's entries in the directory call it and what it belongs to, and
    /// [`SOMEBODY`] when it does not say who acts.
    pub aliases: BTreeSet<Name>,
    /// Roles that it has and did not claim, for what forbids.
    pub unclaimed: BTreeSet<Coding>,
    /// Purposes of use. What is decided for several is the strictest of what each alone would give; without one, no permit applies.
    pub purposes: BTreeSet<Coding>,
    pub action: Action,
    pub now: Micros,
    /// The end (exclusive) of a break-glass access that was granted to this person for this patient. It counts only for purposes that are emergencies.
    pub break_glass_until: Option<Micros>,
}

impl Requester {
    /// Somebody who reads, and of whom nothing else is known.
    pub fn unknown(now: Micros) -> Requester {
        Requester {
            organisations: BTreeSet::new(),
            people: BTreeSet::new(),
            devices: BTreeSet::new(),
            groups: BTreeSet::new(),
            roles: BTreeSet::new(),
            aliases: BTreeSet::new(),
            unclaimed: BTreeSet::new(),
            purposes: BTreeSet::new(),
            action: Action::Access,
            now,
            break_glass_until: None,
        }
    }

    pub fn is_called(&self, name: &str) -> bool {
        [&self.organisations, &self.people, &self.devices, &self.groups].iter().any(|names| names.contains(name))
    }

    /// Whether a rule about this actor is about it: perhaps, where only what it may be called besides tells so.
    pub(super) fn is_actor(&self, actor: &Actor) -> Truth {
        let called = |name: &Name| self.is_called(name);
        let perhaps = |name: &Name| called(name) || self.aliases.contains(name);
        let named = match actor {
            _ if actor.names.is_empty() || actor.names.iter().any(called) => Truth::Yes,
            _ if actor.names.iter().chain(&actor.aliases).any(perhaps) => Truth::Unknown,
            _ => Truth::No,
        };
        let role = match &actor.roles {
            roles if roles.is_empty() || !roles.is_disjoint(&self.roles) => Truth::Yes,
            // Who is a nurse nobody here can tell.
            roles if !roles.is_disjoint(&self.unclaimed) || actor.has_unknown_role() => Truth::Unknown,
            _ => Truth::No,
        };
        named.min(role)
    }

    /// Reading, using and disclosing lie so near to each other that a rule on one may be meant for another.
    pub(super) fn does(&self, action: Action) -> Truth {
        let near = |one| matches!(one, Action::Access | Action::Use | Action::Disclose);
        match action {
            _ if action == self.action => Truth::Yes,
            _ if near(action) && near(self.action) => Truth::Unknown,
            _ => Truth::No,
        }
    }

    /// Yes when every purpose is meant, no when none is.
    pub(super) fn asks_for(&self, named: impl Fn(&Coding) -> bool) -> Truth {
        match self.purposes.iter().filter(|purpose| named(purpose)).count() {
            _ if self.purposes.is_empty() => Truth::Unknown,
            0 => Truth::No,
            count if count == self.purposes.len() => Truth::Yes,
            _ => Truth::Unknown,
        }
    }

    /// Whether the glass is broken now: a grant that has not ended, for reading, and for nothing but an emergency.
    pub fn breaks_glass(&self) -> bool {
        self.break_glass_until.is_some_and(|until| self.now < until)
            && self.action == Action::Access
            && !self.purposes.is_empty()
            && self.purposes.iter().all(vocabulary::is_emergency)
    }
}

/// The criteria of a rule that concern who asks: for each set, any of it must match. Rules with equal audiences are matched once per request;
/// [`Audience::key`] is equal for equal audiences.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    pub effect: Effect,
    pub actors: BTreeSet<BTreeSet<Actor>>,
    pub actions: BTreeSet<BTreeSet<Action>>,
    pub purposes: BTreeSet<BTreeSet<Coding>>,
}

impl Audience {
    /// Everybody who says what for.
    pub fn everybody(effect: Effect) -> Audience {
        Audience { effect, actors: BTreeSet::new(), actions: BTreeSet::new(), purposes: BTreeSet::new() }
    }

    /// Whether a rule with this audience is about this requester.
    pub fn matches(&self, requester: &Requester) -> bool {
        let actors = self.actors.iter().map(|set| set.iter().map(|actor| requester.is_actor(actor)).max().unwrap_or(Truth::No));
        let actions = self.actions.iter().map(|set| set.iter().map(|one| requester.does(*one)).max().unwrap_or(Truth::No));
        let purposes =
            self.purposes.iter().map(|set| requester.asks_for(|asked| set.iter().any(|named| vocabulary::purpose_covers(named, asked))));
        let said = if requester.purposes.is_empty() { Truth::Unknown } else { Truth::Yes };
        actors.chain(actions).chain(purposes).fold(said, Truth::min).suffices(self.effect)
    }

    /// Canonical JSON: what the audience is kept and found by.
    pub fn key(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// An audience from its [`Audience::key`]; `None` when it is none.
    pub fn from_key(key: &str) -> Option<Audience> {
        serde_json::from_str(key).ok()
    }
}
