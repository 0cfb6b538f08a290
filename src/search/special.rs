//! Parameters that are about no one element: `_filter`, `_list`, `_text`, `_content` and `near`.

use super::extract::values;
use super::filter::{Reader, Refusal, any, bad};
use super::{expression, lex, text};
use crate::definitions::SearchParam;
use crate::fhir::{IssueCode, reference};
use crate::store::query::{Filter, Test};
use crate::store::{ParamId, TypeCode};

/// Kilometres of the earth's mean radius.
const EARTH: f64 = 6_371.008_8;
/// What `near` means when it names no distance, in kilometres.
const NEAR: f64 = 10.0;

impl Reader<'_> {
    /// The filters of a special parameter; `None` when it is none.
    pub(super) fn special(
        &mut self,
        type_code: TypeCode,
        code: &str,
        modifier: Option<&str>,
        value: &str,
    ) -> Option<Result<Vec<Filter>, Refusal>> {
        let param = match code {
            "_filter" | "_list" => None,
            "_text" | "_content" | "near" => Some(self.options.param(type_code, code)?),
            _ => return None,
        };
        if modifier.is_some() {
            return Some(Err(bad(IssueCode::Invalid, format!("{code} takes no modifier"))));
        }
        Some(match (code, param) {
            ("_filter", _) => expression::read(self, type_code, value).map(|filter| vec![filter]),
            ("near", Some(param)) => near(param, value),
            (_, Some(_)) => self.words(type_code, code, value),
            (_, None) => self.list(type_code, value),
        })
    }

    /// What a List names (<https://hl7.org/fhir/R4/search.html#list>).
    fn list(&self, type_code: TypeCode, value: &str) -> Result<Vec<Filter>, Refusal> {
        let mut ids = Vec::new();
        for id in lex::split(value, ',') {
            if id.starts_with('$') {
                let words = "this server keeps no functional lists such as $current-problems; name a List by its id";
                return Err(bad(IssueCode::NotSupported, words));
            }
            let id = id.strip_prefix("List/").unwrap_or(id);
            if !reference::is_id(id) {
                return Err(bad(IssueCode::Value, "_list is the id of a List, or several with commas between them"));
            }
            ids.push(id.to_owned());
        }
        let list = self.definitions.type_code("List");
        let item = list.and_then(|list| Some((list, self.definitions.param(list, "item")?)));
        // A List may name anything, which a definition may write as no targets at all.
        Ok(match item.filter(|(_, item)| item.targets.is_empty() || item.targets.contains(&type_code)) {
            Some((source, item)) => vec![Filter::Has { source, param: item.id, filters: vec![Filter::Id(ids)] }],
            None => vec![Filter::Nothing],
        })
    }

    /// What an expression over words finds ([`text`]); `_content` looks at the narrative too.
    fn words(&self, type_code: TypeCode, code: &str, value: &str) -> Result<Vec<Filter>, Refusal> {
        if !self.options.full_text {
            let words = format!("{code} needs an index of all words; the operator turns it on with the setting search.full_text");
            return Err(bad(IssueCode::NotSupported, words));
        }
        let codes: &[&str] = if code == "_content" { &["_content", "_text"] } else { &["_text"] };
        let params: Vec<ParamId> = codes.iter().filter_map(|code| self.options.param(type_code, code)).map(|param| param.id).collect();
        let of_word = |test: Test| any(params.iter().map(|param| Filter::Param { param: *param, tests: vec![test.clone()] }).collect());
        let found = text::read(value, &of_word).map_err(|words| bad(IssueCode::Value, format!("{code} is broken: {words}")))?;
        Ok(match found {
            Filter::All(parts) => parts,
            one => vec![one],
        })
    }
}

/// `latitude|longitude[|distance[|units]]` (<https://hl7.org/fhir/R4/location.html#positional>).
fn near(param: &SearchParam, value: &str) -> Result<Vec<Filter>, Refusal> {
    const WORDS: &str = "near is latitude|longitude|distance|units, in degrees and in km, m or [mi_i], such as -6.8|39.28|11|km";
    let wrong = || bad(IssueCode::Value, WORDS);
    let mut tests = Vec::new();
    for place in lex::split(value, ',') {
        let parts = lex::split(place, '|');
        let number = |place: usize| parts.get(place).and_then(|part| part.parse::<f64>().ok()).filter(|number| number.is_finite());
        let distance = match parts.get(2) {
            None | Some(&"") => NEAR,
            Some(_) => number(2).filter(|distance| *distance >= 0.0).ok_or_else(wrong)?,
        };
        let unit = match parts.get(3) {
            None | Some(&("" | "km")) => 1.0,
            Some(&"m") => 0.001,
            Some(&"[mi_i]") => 1.609_344,
            Some(_) => return Err(wrong()),
        };
        if parts.len() > 4 {
            return Err(wrong());
        }
        let centre = number(0).zip(number(1)).and_then(|(latitude, longitude)| values::on_sphere(latitude, longitude));
        let angle = (distance * unit / EARTH).min(std::f64::consts::PI);
        tests.push(Test::Near { centre: centre.ok_or_else(wrong)?, chord: 2.0 * (angle / 2.0).sin() });
    }
    Ok(vec![Filter::Param { param: param.id, tests }])
}
