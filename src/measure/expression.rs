//! The spellings of a Measure's expressions that can be lowered to index look-ups.
//!
//! Populations are `application/x-fhir-query`: a search by tokens, `Condition?category=encounter-diagnosis&encounter.class=AMB`,
//! chained one level, with `:not`, `:in` a value set, and lango's own `code:maps-to=SYSTEM|CODE`: the ConceptMap that the
//! Measure depends on gives this code. Values (of a stratifier, or the date that decides the period) are `text/fhirpath`:
//! a path of elements and `resolve()`, each element an indexed one, such as `subject.resolve().ofType(Patient).gender`; and
//! lango's own function `BIRTHDATE.ageAt(DATE)`, the age whose bands the component's value set lists.
//!
//! This file reads the spelling only; [`super::plan`] finds the search parameters.

/// A search, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FhirQuery {
    pub type_name: String,
    pub params: Vec<QueryParam>,
}

/// `chain.name:modifier=values`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryParam {
    /// The reference parameter that is followed, and the type that it is followed to when the query says so.
    pub chain: Option<(String, Option<String>)>,
    pub name: String,
    pub modifier: Option<String>,
    /// Alternatives.
    pub values: Vec<String>,
}

impl FhirQuery {
    /// Reads `Type?name=value&…`. The error says what cannot be read.
    pub fn parse(text: &str) -> Result<FhirQuery, String> {
        let (type_name, query) = text.trim().split_once('?').unwrap_or((text.trim(), ""));
        if !type_name.starts_with(|c: char| c.is_ascii_uppercase()) || !type_name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err("a query begins with a resource type, such as Condition?category=…".into());
        }
        let params =
            form_urlencoded::parse(query.as_bytes()).map(|(key, value)| QueryParam::parse(&key, &value)).collect::<Result<_, _>>()?;
        Ok(FhirQuery { type_name: type_name.to_owned(), params })
    }
}

impl QueryParam {
    fn parse(key: &str, value: &str) -> Result<QueryParam, String> {
        let (chain, last) = match key.split_once('.') {
            Some((reference, rest)) => {
                let (name, target) = split_modifier(reference);
                (Some((name.to_owned(), target.map(str::to_owned))), rest)
            }
            None => (None, key),
        };
        if last.contains('.') || last.is_empty() {
            return Err(format!("{key}: a measure's query can be chained one level"));
        }
        let (name, modifier) = split_modifier(last);
        let values = split_values(value);
        if values.iter().any(String::is_empty) {
            return Err(format!("{key} needs a value"));
        }
        Ok(QueryParam { chain, name: name.to_owned(), modifier: modifier.map(str::to_owned), values })
    }
}

fn split_modifier(name: &str) -> (&str, Option<&str>) {
    name.split_once(':').map_or((name, None), |(name, modifier)| (name, Some(modifier)))
}

/// Splits at commas; a backslash takes the next character as it is.
fn split_values(text: &str) -> Vec<String> {
    let mut values = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let value = match c {
            ',' => {
                values.push(String::new());
                continue;
            }
            '\\' => chars.next(),
            c => Some(c),
        };
        if let Some(last) = values.last_mut() {
            last.extend(value);
        }
    }
    values
}

/// What a `text/fhirpath` expression asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueExpression {
    Path(ElementPath),
    /// `birth.ageAt(at)`.
    AgeAt {
        birth: ElementPath,
        at: ElementPath,
    },
}

/// Elements that are reached by following references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementPath {
    /// The reference elements that are resolved, each with the type that `ofType(…)` names.
    pub hops: Vec<(String, Option<String>)>,
    /// The element whose value is wanted, without `.start`: an index holds where an interval begins.
    pub leaf: String,
}

impl ValueExpression {
    /// Reads an expression on a resource of type `base`. The error says what cannot be lowered.
    pub fn parse(text: &str, base: &str) -> Result<ValueExpression, String> {
        let text = text.trim();
        let text = text.strip_prefix(base).and_then(|rest| rest.strip_prefix('.')).unwrap_or(text);
        match text.strip_suffix(')').and_then(|text| text.split_once(".ageAt(")) {
            Some((birth, at)) => Ok(ValueExpression::AgeAt { birth: ElementPath::parse(birth)?, at: ElementPath::parse(at)? }),
            None => ElementPath::parse(text).map(ValueExpression::Path),
        }
    }
}

impl ElementPath {
    fn parse(text: &str) -> Result<ElementPath, String> {
        let mut hops = Vec::new();
        let mut elements: Vec<&str> = Vec::new();
        for step in text.split('.') {
            if step == "resolve()" {
                if elements.is_empty() {
                    return Err(format!("{text}: resolve() needs a reference before it"));
                }
                hops.push((elements.join("."), None));
                elements.clear();
            } else if let Some(target) = step.strip_prefix("ofType(").and_then(|rest| rest.strip_suffix(')')) {
                match hops.last_mut() {
                    Some((_, wanted)) if elements.is_empty() => *wanted = Some(target.to_owned()),
                    _ => return Err(format!("{text}: ofType() can stand after resolve() only")),
                }
            } else if !step.is_empty() && step.bytes().all(|b| b.is_ascii_alphanumeric()) {
                elements.push(step);
            } else {
                return Err(format!("{text}: a measure can read paths of elements, resolve(), ofType() and ageAt(); not {step}"));
            }
        }
        if elements.len() > 1 && elements.last() == Some(&"start") {
            elements.pop();
        }
        if elements.is_empty() {
            return Err(format!("{text}: the path ends without an element"));
        }
        Ok(ElementPath { hops, leaf: elements.join(".") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_taken_apart() {
        let query =
            FhirQuery::parse("Condition?category=encounter-diagnosis&subject:Patient.gender:not=male,a%5C,b&code:maps-to=urn:x|B50")
                .unwrap();
        assert_eq!(query.type_name, "Condition");
        let [category, gender, code] = query.params.as_slice() else { panic!("three parameters") };
        assert_eq!((category.chain.as_ref(), category.values.as_slice()), (None, &["encounter-diagnosis".to_owned()][..]));
        assert_eq!(gender.chain, Some(("subject".into(), Some("Patient".into()))));
        assert_eq!((gender.modifier.as_deref(), gender.values.as_slice()), (Some("not"), &["male".to_owned(), "a,b".to_owned()][..]));
        assert_eq!((code.modifier.as_deref(), code.values[0].as_str()), (Some("maps-to"), "urn:x|B50"));
    }

    #[test]
    fn what_cannot_be_lowered_is_said() {
        for bad in ["", "condition?code=x", "Condition?a.b.c=x", "Condition?code=", "Condition?=x", "/Condition"] {
            assert!(FhirQuery::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "resolve()", "subject.resolve()", "subject.where(a = b)", "name.first()", "ofType(Patient)", "a + b"] {
            assert!(ValueExpression::parse(bad, "Condition").is_err(), "{bad}");
        }
    }

    #[test]
    fn an_age_is_read_from_two_paths() {
        let parsed = ValueExpression::parse(
            "Condition.subject.resolve().ofType(Patient).birthDate.ageAt(encounter.resolve().period.start)",
            "Condition",
        );
        assert_eq!(
            parsed,
            Ok(ValueExpression::AgeAt {
                birth: ElementPath { hops: vec![("subject".into(), Some("Patient".into()))], leaf: "birthDate".into() },
                at: ElementPath { hops: vec![("encounter".into(), None)], leaf: "period".into() },
            })
        );
    }
}
