//! SMART scopes of the system context, versions 1 and 2
//! (<https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html>).

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

/// Why a text is no list of scopes that lango knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no scope: write system/TYPE.LETTERS with a resource type or *, and some of the letters cruds in this order \
     (or read, write, *), several scopes separated by one space"
)]
pub struct ScopeError(String);

/// What a list of scopes allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    /// `None`: every type.
    type_name: Option<String>,
    /// [`Interaction::bit`]s.
    interactions: u8,
}

impl Scopes {
    /// Reads scopes separated by one space; each must be known.
    pub fn parse(text: &str) -> Result<Scopes, ScopeError> {
        text.split(' ')
            .map(|word| Scope::parse(word).ok_or_else(|| ScopeError(word.chars().take(100).collect())))
            .collect::<Result<_, _>>()
            .map(Scopes)
    }

    /// Reads scopes that were checked when they were registered; what is not understood gives no right.
    pub(super) fn of_registered(text: &str) -> Scopes {
        Scopes(text.split(' ').filter_map(Scope::parse).collect())
    }

    pub fn allows(&self, type_name: &str, interaction: Interaction) -> bool {
        self.0.iter().any(|scope| scope.covers(Some(type_name), interaction.bit()))
    }

    /// The words of `requested` that are within these scopes; what is unknown or goes beyond is left out.
    pub(super) fn within(&self, requested: &str) -> String {
        let covered = |word: &&str| Scope::parse(word).is_some_and(|wanted| self.covers_all(&wanted));
        requested.split(' ').filter(covered).collect::<Vec<_>>().join(" ")
    }

    /// Several scopes together may cover one: `system/*.r` and `system/*.s` cover `system/Patient.rs`.
    fn covers_all(&self, wanted: &Scope) -> bool {
        let covering = self.0.iter().filter(|scope| scope.covers(wanted.type_name.as_deref(), 0));
        let interactions = covering.fold(0, |bits, scope| bits | scope.interactions);
        wanted.interactions & !interactions == 0
    }
}

impl Scope {
    /// `None` also for what lango does not know: `user/`, `patient/`, granular parameters, `openid`.
    fn parse(word: &str) -> Option<Scope> {
        let (type_name, letters) = word.strip_prefix("system/")?.split_once('.')?;
        let type_name = match type_name {
            "*" => None,
            name if name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(|c| c.is_ascii_alphabetic()) => {
                Some(name.to_owned())
            }
            _ => return None,
        };
        let interactions = match letters {
            "read" => bits("rs")?,
            "write" => bits("cud")?,
            "*" => bits("cruds")?,
            letters => bits(letters)?,
        };
        Some(Scope { type_name, interactions })
    }

    /// Whether this scope speaks of the type (`None`: of every type) and allows all of `interactions` on it.
    fn covers(&self, type_name: Option<&str>, interactions: u8) -> bool {
        let type_fits = self.type_name.is_none() || self.type_name.as_deref() == type_name;
        type_fits && interactions & !self.interactions == 0
    }
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
            "openid",
            "user/*.rs",
            "patient/*.rs",
            "system/*.rs?code=x",
            "system/Patient.rr",
            "system/Patient.",
            "system/.rs",
            "system/patient.rs",
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

    #[test]
    fn a_request_gets_no_more_than_is_registered() {
        let registered = Scopes::parse("system/Patient.rs system/Observation.c system/Observation.r").unwrap();
        assert_eq!(registered.within("system/Patient.rs system/Observation.cr"), "system/Patient.rs system/Observation.cr");
        assert_eq!(registered.within("system/*.rs"), "");
        assert_eq!(registered.within("system/Patient.cruds system/Patient.r"), "system/Patient.r");
        assert_eq!(registered.within("system/Encounter.r user/Patient.r"), "");
        assert_eq!(Scopes::parse("system/*.*").unwrap().within("system/*.rs system/Patient.*"), "system/*.rs system/Patient.*");
    }
}
