//! The inputs of an operation, whether they came as a Parameters resource or in a query string.

use super::TerminologyError;
use serde_json::Value;

/// `Coding` as far as terminology needs it. An empty code never occurs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    pub system: Option<String>,
    pub version: Option<String>,
    pub code: String,
    pub display: Option<String>,
}

/// The codings of a `CodeableConcept`; those without code are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeableConcept {
    pub coding: Vec<Coding>,
}

impl Coding {
    fn read(value: &Value) -> Option<Coding> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Coding { system: text("system"), version: text("version"), code: text("code")?, display: text("display") })
    }
}

/// Named inputs, in the order given; a name may repeat.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    list: Vec<(String, Value)>,
}

impl Arguments {
    /// The inputs in a Parameters resource (<https://hl7.org/fhir/R4/parameters.html>).
    pub fn from_parameters(resource: &Value) -> Result<Arguments, TerminologyError> {
        if resource.get("resourceType").and_then(Value::as_str) != Some("Parameters") {
            return Err(TerminologyError::Invalid { name: "body".into(), hint: "send a Parameters resource" });
        }
        let mut list = Vec::new();
        for parameter in resource.get("parameter").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = parameter.get("name").and_then(Value::as_str) else { continue };
            let holds = |key: &str| key.starts_with("value") || matches!(key, "resource" | "part");
            let value = parameter.as_object().into_iter().flatten().find(|(key, _)| holds(key));
            if let Some((_, value)) = value {
                list.push((name.to_owned(), value.clone()));
            }
        }
        Ok(Arguments { list })
    }

    /// The inputs in a query string, already decoded. A `coding` is written `system|code`.
    pub fn from_query<N: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Arguments {
        Arguments { list: pairs.into_iter().map(|(name, value)| (name.into(), Value::String(value.into()))).collect() }
    }

    /// The same inputs, and after them those of `other`: of two with one name the first counts.
    pub fn and(mut self, other: Arguments) -> Arguments {
        self.list.extend(other.list);
        self
    }

    /// The same inputs and one more: what the path of the request said.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Arguments {
        self.list.push((name.to_owned(), value.into()));
        self
    }

    /// The names given.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|(name, _)| &**name)
    }

    /// Whether a name has more than one value. The same said again, in the URL and in the body, is none.
    pub(super) fn contradict(&self, name: &str) -> bool {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut values = self.list.iter().filter(|(n, _)| n == name).map(|(_, value)| value);
        let first = values.next();
        values.any(|value| first.is_some_and(|first| first != value && text(first) != text(value)))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.list.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.list.iter().filter(move |(n, _)| n == name).filter_map(|(_, value)| value.as_str())
    }

    /// The `context` that stands for the value set, where neither `url` nor `valueSet` names one.
    pub fn context(&self) -> Option<String> {
        self.text("context").filter(|_| self.get("url").is_none() && self.get("valueSet").is_none())
    }

    /// A non-empty text of any string type.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, TerminologyError> {
        let invalid = || TerminologyError::Invalid { name: name.to_owned(), hint: "write true or false" };
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) => text.parse().map(Some).map_err(|_| invalid()),
            Some(_) => Err(invalid()),
        }
    }

    /// A whole number, zero or more, as FHIR has them: of 32 bits.
    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, TerminologyError> {
        let invalid = || TerminologyError::Invalid { name: name.to_owned(), hint: "write a whole number, zero or more" };
        let text = match self.get(name) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => return Err(invalid()),
        };
        let number: i32 = text.parse().map_err(|_| invalid())?;
        usize::try_from(number).map(Some).map_err(|_| invalid())
    }

    pub(super) fn coding(&self, name: &str) -> Result<Option<Coding>, TerminologyError> {
        let invalid = || TerminologyError::Invalid {
            name: name.to_owned(),
            hint: "a Coding needs a code, and in a query string is written system|code",
        };
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                let (system, code) = text.split_once('|').filter(|(_, code)| !code.is_empty()).ok_or_else(invalid)?;
                Ok(Some(Coding { system: Some(system.to_owned()).filter(|s| !s.is_empty()), code: code.to_owned(), ..Coding::default() }))
            }
            Some(value) => Coding::read(value).map(Some).ok_or_else(invalid),
        }
    }

    pub(super) fn concept(&self, name: &str) -> Result<Option<CodeableConcept>, TerminologyError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let coding: Vec<Coding> = value.get("coding").and_then(Value::as_array).into_iter().flatten().filter_map(Coding::read).collect();
        if coding.is_empty() {
            return Err(TerminologyError::Invalid { name: name.to_owned(), hint: "a CodeableConcept needs a coding with a code" });
        }
        Ok(Some(CodeableConcept { coding }))
    }

    pub(super) fn resource(&self, name: &str) -> Option<&Value> {
        self.get(name).filter(|value| value.is_object())
    }

    /// The `element` and `concept` of each `dependency`: a property, and the values that it has.
    pub(super) fn dependencies(&self) -> Result<Vec<(String, Vec<Coding>)>, TerminologyError> {
        let invalid = || TerminologyError::Invalid {
            name: "dependency".to_owned(),
            hint: "send the parts element (a uri) and concept (a CodeableConcept) in a Parameters resource",
        };
        let given = self.list.iter().filter(|(name, _)| name == "dependency");
        given
            .map(|(_, parts)| {
                let part = |name: &str| parts.as_array()?.iter().find(|part| part.get("name").and_then(Value::as_str) == Some(name));
                let element = part("element").and_then(|part| part.get("valueUri")?.as_str()).ok_or_else(invalid)?;
                let concept = part("concept").and_then(|part| part.get("valueCodeableConcept")).ok_or_else(invalid)?;
                let codings = concept.get("coding").and_then(Value::as_array).into_iter().flatten().filter_map(Coding::read);
                let text = concept.get("text").and_then(Value::as_str).filter(|text| !text.is_empty());
                // A text alone is a value without a system.
                let text = text.map(|text| Coding { code: text.to_owned(), ..Coding::default() });
                Ok((element.to_owned(), codings.chain(text).collect()))
            })
            .collect()
    }

    /// What is to be translated or validated: exactly one of `code` (with `system` under the given name), `coding` and `codeableConcept`.
    pub(super) fn codings(&self, system: &str, version: &str) -> Result<Vec<Coding>, TerminologyError> {
        let (code, coding, concept) = (self.text("code"), self.coding("coding")?, self.concept("codeableConcept")?);
        match (code, coding, concept) {
            (Some(code), None, None) => {
                Ok(vec![Coding { system: self.text(system), version: self.text(version), code, display: self.text("display") }])
            }
            (None, Some(coding), None) => Ok(vec![coding]),
            (None, None, Some(concept)) => Ok(concept.coding),
            (None, None, None) => {
                Err(TerminologyError::Missing { name: "code", hint: "give code with system, coding, or codeableConcept" })
            }
            _ => Err(TerminologyError::Ambiguous { names: "code, coding and codeableConcept" }),
        }
    }
}
