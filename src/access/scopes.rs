//! SMART scopes, versions 1 and 2, granular ones too
//! (<https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>).

use crate::definitions::{self, ParamKind};
use std::fmt;

/// What a request does with resources of a type, as SMART counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interaction {
    Create,
    /// read, vread, history of an instance.
    Read,
    /// update, patch.
    Update,
    Delete,
    /// search, history of a type or of the system.
    Search,
}

impl Interaction {
    fn bit(self) -> u8 {
        match self {
            Interaction::Create => 1,
            Interaction::Read => 2,
            Interaction::Update => 4,
            Interaction::Delete => 8,
            Interaction::Search => 16,
        }
    }

    fn of_letter(letter: char) -> Option<Interaction> {
        Some(match letter {
            'c' => Interaction::Create,
            'r' => Interaction::Read,
            'u' => Interaction::Update,
            'd' => Interaction::Delete,
            's' => Interaction::Search,
            _ => return None,
        })
    }

    /// The letter of version 2.
    pub fn letter(self) -> char {
        match self {
            Interaction::Create => 'c',
            Interaction::Read => 'r',
            Interaction::Update => 'u',
            Interaction::Delete => 'd',
            Interaction::Search => 's',
        }
    }
}

impl fmt::Display for Interaction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Interaction::Create => "create",
            Interaction::Read => "read",
            Interaction::Update => "update",
            Interaction::Delete => "delete",
            Interaction::Search => "search",
        })
    }
}

/// Whose reach a scope speaks of (<https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// A program on its own.
    System,
    /// A person: what this person may see.
    User,
    /// A person who looks at one patient: what is in that patient's compartment.
    Patient,
}

/// Why a text is no list of scopes that lango knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no scope: write system/TYPE.LETTERS (or user/, patient/) with a resource type or *, and some of the letters cruds in \
     this order (or read, write, *); after the letters may stand ?PARAMETER=VALUE with plain search parameters, no chains; several \
     scopes are separated by one space"
)]
pub struct ScopeError(String);

/// What is no right to resources but may be registered and asked for beside scopes.
pub(super) const OFFLINE: &str = "offline_access";
pub(super) const LAUNCH_PATIENT: &str = "launch/patient";
pub(super) const ONLINE: &str = "online_access";
pub(super) const OPENID: &str = "openid";
pub(super) const FHIR_USER: &str = "fhirUser";
pub(super) const WORDS: [&str; 5] = [OFFLINE, ONLINE, LAUNCH_PATIENT, OPENID, FHIR_USER];

/// The words of one list; more only cost time at every request.
const MOST: usize = 200;
/// Parameters of one granular scope.
const MOST_PARAMS: usize = 8;

/// What a list of scopes allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    context: Context,
    /// `None`: every type.
    type_name: Option<String>,
    /// [`Interaction::bit`]s.
    interactions: u8,
    /// Search parameters that a resource must satisfy, all of them; sorted.
    params: Params,
}

/// `name=value` pairs of a granular scope, all of which must hold.
pub type Params = Vec<(String, String)>;

impl Scopes {
    /// Reads scopes separated by one space; each must be known.
    pub fn parse(text: &str) -> Result<Scopes, ScopeError> {
        let shown = |word: &str| ScopeError(word.chars().take(100).collect());
        let words: Vec<&str> = text.split(' ').collect();
        if words.len() > MOST {
            return Err(shown("a list of more than 200"));
        }
        let known = words.into_iter().filter(|word| !WORDS.contains(word));
        known.map(|word| Scope::parse(word).ok_or_else(|| shown(word))).collect::<Result<_, _>>().map(Scopes)
    }

    /// Reads scopes that were checked when they were registered; what is not understood gives no right.
    pub(super) fn of_registered(text: &str) -> Scopes {
        Scopes(text.split(' ').take(MOST).filter_map(Scope::parse).collect())
    }

    /// Whether any scope allows this, though perhaps not on every resource of the type.
    pub fn allows(&self, type_name: &str, interaction: Interaction) -> bool {
        self.0.iter().any(|scope| scope.covers(type_name, interaction))
    }

    /// Whether some scope speaks of this context.
    pub(super) fn has(&self, context: Context) -> bool {
        self.0.iter().any(|scope| scope.context == context)
    }

    /// Whether these are rights of a person rather than of a program.
    pub(super) fn is_for_people(&self) -> bool {
        self.has(Context::User) || self.has(Context::Patient)
    }

    /// The contexts and parameters of the scopes that allow this.
    pub(super) fn covering(&self, type_name: &str, interaction: Interaction) -> impl Iterator<Item = (Context, &Params)> {
        let covering = self.0.iter().filter(move |scope| scope.covers(type_name, interaction));
        covering.map(|scope| (scope.context, &scope.params))
    }

    /// The words of `requested` that are within these scopes and of one of the `contexts`; what is unknown or goes beyond is left out.
    pub(super) fn within(&self, requested: &str, contexts: &[Context]) -> String {
        let covered = |word: &&str| Scope::parse(word).is_some_and(|wanted| contexts.contains(&wanted.context) && self.covers_all(&wanted));
        requested.split(' ').take(MOST).filter(covered).collect::<Vec<_>>().join(" ")
    }

    /// Several scopes together may cover one: `system/*.r` and `system/*.s` cover `system/Patient.rs`.
    fn covers_all(&self, wanted: &Scope) -> bool {
        let covering = self.0.iter().filter(|scope| {
            let type_fits = scope.type_name.is_none() || scope.type_name == wanted.type_name;
            // More parameters are a narrower wish.
            scope.context == wanted.context && type_fits && scope.params.iter().all(|param| wanted.params.contains(param))
        });
        let interactions = covering.fold(0, |bits, scope| bits | scope.interactions);
        wanted.interactions & !interactions == 0
    }
}

impl Scope {
    /// `None` also for what lango does not know.
    fn parse(word: &str) -> Option<Scope> {
        let (right, query) = match word.split_once('?') {
            Some((right, query)) => (right, Some(query)),
            None => (word, None),
        };
        let (context, right) = right.split_once('/')?;
        let context = match context {
            "system" => Context::System,
            "user" => Context::User,
            "patient" => Context::Patient,
            _ => return None,
        };
        let (type_name, letters) = right.split_once('.')?;
        let type_name = match type_name {
            "*" => None,
            name => {
                definitions::r4().type_code(name)?;
                Some(name.to_owned())
            }
        };
        let interactions = match letters {
            // Version 1 knows no parameters.
            "read" | "write" | "*" if query.is_some() => return None,
            "read" => bits("rs")?,
            "write" => bits("cud")?,
            "*" => bits("cruds")?,
            letters => bits(letters)?,
        };
        let params = query.map_or(Some(Vec::new()), |query| params(type_name.as_deref(), query))?;
        Some(Scope { context, type_name, interactions, params })
    }

    fn covers(&self, type_name: &str, interaction: Interaction) -> bool {
        self.type_name.as_deref().is_none_or(|name| name == type_name) && self.interactions & interaction.bit() != 0
    }
}

/// The parameters of a granular scope: plain ones of kinds that can be judged on one resource, since a write is judged before it
/// can be searched for. Chains, `_has`, includes and parameters about the answer are refused.
fn params(type_name: Option<&str>, query: &str) -> Option<Params> {
    const ON_EVERY_TYPE: [&str; 4] = ["_security", "_tag", "_profile", "_id"];
    if query.chars().any(char::is_whitespace) {
        return None;
    }
    let mut params: Params = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let known = |name: &str| match type_name {
        _ if ON_EVERY_TYPE.contains(&name) => true,
        Some(type_name) => {
            let definitions = definitions::r4();
            let param = definitions.type_code(type_name).and_then(|type_code| definitions.param(type_code, name));
            param.is_some_and(|param| {
                let judged =
                    matches!(param.kind, ParamKind::Token | ParamKind::Reference | ParamKind::Uri | ParamKind::String | ParamKind::Date);
                judged && !name.starts_with('_')
            })
        }
        None => false,
    };
    let fits = |(name, value): &(String, String)| {
        let plain = name.strip_suffix(":not").unwrap_or(name);
        known(plain) && !value.is_empty() && !value.chars().any(char::is_control)
    };
    if params.is_empty() || params.len() > MOST_PARAMS || !params.iter().all(fits) {
        return None;
    }
    params.sort();
    params.dedup();
    Some(params)
}

/// Letters must stand in the order of `cruds`, each once, at least one.
fn bits(letters: &str) -> Option<u8> {
    let mut all = 0;
    for letter in letters.chars() {
        let bit = Interaction::of_letter(letter)?.bit();
        if bit <= all {
            return None; // `all` below the highest bit so far means the order is kept
        }
        all |= bit;
    }
    (all != 0).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Interaction::*;

    const ALL: [Interaction; 5] = [Create, Read, Update, Delete, Search];

    fn allowed(text: &str, type_name: &str) -> String {
        let scopes = Scopes::parse(text).unwrap();
        ALL.iter().filter(|interaction| scopes.allows(type_name, **interaction)).map(|interaction| interaction.letter()).collect()
    }

    #[test]
    fn versions_one_and_two_mean_the_same_rights() {
        assert_eq!(allowed("system/Patient.rs", "Patient"), "rs");
        assert_eq!(allowed("system/Patient.read", "Patient"), "rs");
        assert_eq!(allowed("system/*.write", "Patient"), "cud");
        assert_eq!(allowed("system/*.*", "Patient"), "cruds");
        assert_eq!(allowed("system/*.cruds", "Observation"), "cruds");
        assert_eq!(allowed("system/Patient.cruds", "Observation"), "");
        assert_eq!(allowed("system/Patient.c system/*.s", "Patient"), "cs");
    }

    #[test]
    fn every_subset_of_letters_in_order_is_read_and_no_other_order() {
        for set in 1u8..32 {
            let letters: String =
                ALL.iter().filter(|interaction| set & interaction.bit() != 0).map(|interaction| interaction.letter()).collect();
            assert_eq!(allowed(&format!("system/Patient.{letters}"), "Patient"), letters);
            let reversed: String = letters.chars().rev().collect();
            assert_eq!(Scopes::parse(&format!("system/Patient.{reversed}")).is_ok(), reversed == letters);
        }
    }

    #[test]
    fn what_is_not_known_is_no_scope() {
        for bad in [
            "",
            "person/*.rs",
            "launch",
            "profile",
            "system/*.rs?code=x",
            "system/Observation.rs?",
            "system/Observation.rs?code",
            "system/Observation.rs?code=",
            "system/Observation.read?code=x",
            "system/Observation.rs?x",
            "system/Observation.rs?colour=red",
            "system/Observation.rs?subject:Patient.name=x",
            "system/Observation.rs?patient.name=x",
            "system/Observation.rs?_has:Provenance:target:agent=x",
            "system/Observation.rs?_include=Observation:subject",
            "system/Observation.rs?_revinclude=Provenance:target",
            "system/Observation.rs?_sort=date",
            "system/Observation.rs?code:in=http://x",
            "system/Observation.rs?code:text=x",
            "system/Observation.rs?value-quantity=gt5",
            "system/Observation.rs?code=x%00",
            "system/Patient.rr",
            "system/Patient.",
            "system/.rs",
            "system/patient.rs",
            "system/Nothing.rs",
            "system/Resource.rs",
            "system/DomainResource.rs",
            "system/Patient/1.rs",
            "system/Patient.READ",
            "SYSTEM/*.*",
            "system/*.rs\tsystem/*.c",
            "system/*.rs  system/*.c",
            " system/*.rs",
            "system/*.rs\n",
        ] {
            assert!(Scopes::parse(bad).is_err(), "{bad:?}");
        }
    }

    fn within(scopes: &Scopes, requested: &str) -> String {
        scopes.within(requested, &[Context::System, Context::User, Context::Patient])
    }

    #[test]
    fn contexts_do_not_stand_for_each_other() {
        let registered = Scopes::parse("system/*.rs patient/Observation.rs launch/patient").unwrap();
        assert_eq!(within(&registered, "user/*.rs patient/Observation.r patient/*.rs system/*.r"), "patient/Observation.r system/*.r");
        assert_eq!(registered.within("patient/Observation.r system/*.r", &[Context::System]), "system/*.r");
        assert!(registered.has(Context::Patient) && !registered.has(Context::User));
    }

    #[test]
    fn parameters_make_a_scope_narrower() {
        let laboratory = "system/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|laboratory";
        let registered = Scopes::parse(&format!("{laboratory} system/Patient.rs")).unwrap();
        assert_eq!(within(&registered, laboratory), laboratory);
        let narrower = format!("{laboratory}&code=http://loinc.org|718-7");
        assert_eq!(within(&registered, &narrower), narrower);
        assert_eq!(within(&registered, "system/Observation.rs system/Observation.rs?code=x"), "");
        assert_eq!(within(&registered, "system/Patient.rs?gender=female"), "system/Patient.rs?gender=female");
        assert!(Scopes::parse("system/*.rs?_security:not=http://x|R").is_ok());
    }

    #[test]
    fn a_request_gets_no_more_than_is_registered() {
        let registered = Scopes::parse("system/Patient.rs system/Observation.c system/Observation.r").unwrap();
        assert_eq!(within(&registered, "system/Patient.rs system/Observation.cr"), "system/Patient.rs system/Observation.cr");
        assert_eq!(within(&registered, "system/*.rs"), "");
        assert_eq!(within(&registered, "system/Patient.cruds system/Patient.r"), "system/Patient.r");
        assert_eq!(within(&registered, "system/Encounter.r user/Patient.r"), "");
        assert_eq!(within(&Scopes::parse("system/*.*").unwrap(), "system/*.rs system/Patient.*"), "system/*.rs system/Patient.*");
    }
}
