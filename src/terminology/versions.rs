//! Which version of a code system a value set is read with: `system-version`, `check-system-version` and `force-system-version`
//! (<https://hl7.org/fhir/R4/valueset-operation-expand.html>).

use super::{Arguments, TerminologyError};

/// What a request says about versions.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    rules: Vec<Rule>,
}

/// Of one code system.
#[derive(Clone, Debug)]
struct Rule {
    kind: Kind,
    system: String,
    version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Where the value set names none.
    Default,
    /// The value set must not name another.
    Check,
    /// Whatever the value set names.
    Force,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Force, Kind::Check, Kind::Default];

    fn parameter(self) -> &'static str {
        match self {
            Kind::Default => "system-version",
            Kind::Check => "check-system-version",
            Kind::Force => "force-system-version",
        }
    }
}

impl Versions {
    pub(super) fn read(arguments: &Arguments) -> Result<Versions, TerminologyError> {
        let mut rules = Vec::new();
        for kind in Kind::ALL {
            for canonical in arguments.all(kind.parameter()) {
                let invalid = || TerminologyError::Invalid { name: kind.parameter().to_owned(), hint: "write [system]|[version]" };
                let (system, version) = canonical.split_once('|').filter(|(_, version)| !version.is_empty()).ok_or_else(invalid)?;
                rules.push(Rule { kind, system: system.to_owned(), version: version.to_owned() });
            }
        }
        Ok(Versions { rules })
    }

    /// A code comes with the version of its system: the value set must not name another.
    pub(super) fn check(system: &str, version: &str) -> Versions {
        Versions { rules: vec![Rule { kind: Kind::Check, system: system.to_owned(), version: version.to_owned() }] }
    }

    /// The version to read `system` in where a value set names `stated`, and whether the request says so.
    pub(super) fn pick<'v>(&'v self, system: &str, stated: Option<&'v str>) -> Result<(Option<&'v str>, bool), TerminologyError> {
        let rule = |kind: Kind| self.rules.iter().find(|rule| rule.kind == kind && rule.system == system);
        if let Some(forced) = rule(Kind::Force) {
            return Ok((Some(&forced.version), true));
        }
        if let Some(checked) = rule(Kind::Check) {
            if let Some(stated) = stated.filter(|stated| *stated != checked.version) {
                return Err(TerminologyError::OtherVersion { system: system.to_owned(), stated: stated.to_owned() });
            }
            return Ok((Some(&checked.version), true));
        }
        Ok(match (stated, rule(Kind::Default)) {
            (None, Some(default)) => (Some(&default.version), true),
            (stated, _) => (stated, false),
        })
    }

    /// Name and value of each parameter, for the answer to repeat.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.rules.iter().map(|rule| (rule.kind.parameter(), format!("{}|{}", rule.system, rule.version)))
    }
}
