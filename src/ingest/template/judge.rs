//! One template at work: a payload's envelope opened, a record judged, a record translated.

use super::cut::Cut;
use super::expr::Scope;
use super::mapping::Part;
use super::produce::Run;
use super::schema::Walk;
use super::*;

impl Definition {
    /// The paths at which a payload may have its records.
    pub(super) fn lists(&self) -> impl Iterator<Item = &[String]> {
        std::iter::once(&*self.records).chain(self.flat.iter().map(|(path, _)| &**path))
    }

    pub(super) fn is_chosen_by(&self, payload: &Value) -> bool {
        let scope = Scope::of(payload);
        self.select
            .iter()
            .filter_map(|select| select.eval(&scope).ok())
            .flatten()
            .any(|value| value.as_str().is_some_and(|code| self.codes.iter().any(|known| known.eq_ignore_ascii_case(code.trim()))))
    }

    /// Where a payload names a template.
    pub(super) fn named_at(&self, payload: &Value) -> Option<String> {
        let scope = Scope::of(payload);
        let named = self.select.iter().find(|select| select.eval(&scope).is_ok_and(|found| !found.is_empty()))?;
        Some(named.member().unwrap_or_default())
    }

    pub(super) fn open(
        &self,
        mut envelope: Value,
        mut cut: Cut<'_>,
        options: &Options<'_>,
        translate: &dyn Translate,
    ) -> Result<Opened, EnvelopeError> {
        let list = self.take_list(&mut envelope)?;
        let block = self.flat.as_ref().filter(|(path, _)| &**path == list).map(|(_, block)| block.clone());
        let mut walk = Walk::of_envelope(&self.schema, options.zone, options.strict_blocks);
        let envelope = walk.value(self.schema.root(), envelope, true).unwrap_or_default();
        // The list was there, and was taken out.
        let list_at = self.records.join(".");
        let issues = walk.issues.into_iter().filter(|issue| issue.expression != list_at);
        let (errors, mut warnings): (Vec<_>, Vec<_>) = issues.partition(|issue| issue.severity.is_error());
        if !errors.is_empty() {
            return Err(EnvelopeError { issues: errors });
        }

        let mut run = Run::new(&self.schema, translate, options.stored, &envelope, "");
        let scope = Scope::of(&envelope);
        let payload = scope.var("payload", &envelope);
        let scope = scope.within(&payload);
        let said = run.one(&self.facility, &scope).unwrap_or_default();
        if said.get("code").and_then(Value::as_str).is_some_and(|code| code.len() > MAX_FACILITY_CODE) {
            return Err(refused(&self.facility_path(), IssueCode::TooLong, "names a facility by a code that is longer than 128 bytes"));
        }
        let reported = text(run.one(&self.reported, &scope));
        let facility = Facility {
            code: self.owner(&said, options, &mut warnings),
            name: text(said.get("name").cloned()),
            system: text(said.get("system").cloned()),
        };
        let facility_json = facility.to_json();
        let var = scope.var("facility", &facility_json);
        run.carry_out(&self.mapping.submission, &scope.within(&var));
        warnings.append(&mut run.faults);
        warnings.append(&mut run.told);
        let entries = cut.lists.remove(list).unwrap_or_default();
        let (template, list) = (self.name.clone(), list.last().cloned().unwrap_or_default());
        let visit_path = match &self.visit {
            Part::Expr(expr) => expr.member(),
            _ => None,
        };
        Ok(Opened { template, facility, reported, warnings, shared: run.produced, definition: 0, list, entries, block, visit_path })
    }

    /// Takes the emptied list of records out of the envelope. Gives its path.
    fn take_list(&self, envelope: &mut Value) -> Result<&[String], EnvelopeError> {
        if let Some((path, _)) = &self.flat
            && let Some((last, parents)) = path.split_last()
            && let Some(map) = parents.iter().try_fold(&mut *envelope, |place, step| place.get_mut(step)).and_then(Value::as_object_mut)
            && self.records.last().is_some_and(|list| !map.contains_key(list))
            && map.get(last).is_some_and(Value::is_array)
        {
            map.shift_remove(last);
            return Ok(path);
        }
        let (last, parents) = self.records.split_last().map_or(("", &[][..]), |(last, parents)| (last.as_str(), parents));
        let (mut place, mut path) = (envelope, String::new());
        for step in parents {
            if !place.is_object() {
                break;
            }
            path = if path.is_empty() { step.clone() } else { format!("{path}.{step}") };
            place = match place.get_mut(step) {
                Some(inner) => inner,
                None => return Err(refused(&path, IssueCode::Required, "is mandatory and is missing")),
            };
        }
        let Some(map) = place.as_object_mut() else { return Err(refused(&path, IssueCode::Structure, "must be a JSON object")) };
        let full = self.records.join(".");
        match map.shift_remove(last) {
            Some(Value::Array(_)) => Ok(&self.records),
            Some(Value::Null) | None => {
                Err(refused(&full, IssueCode::Required, "is mandatory and is missing; send an empty list when there is nothing to report"))
            }
            Some(_) => Err(refused(&full, IssueCode::Structure, "must be a list of records")),
        }
    }

    fn owner(&self, said: &Value, options: &Options<'_>, warnings: &mut Vec<Issue>) -> String {
        let claimed = said.get("code").and_then(Value::as_str);
        match (options.facility, claimed) {
            (Some(caller), Some(claimed)) if caller != claimed => {
                let words = "the payload names another facility than the one that is sending; it is taken as the sender's own";
                warnings.push(Issue::warning(IssueCode::Security, words).at(self.facility_path()));
                caller.to_owned()
            }
            (Some(caller), _) => caller.to_owned(),
            (None, Some(claimed)) => claimed.to_owned(),
            (None, None) => {
                let words = "the payload names no facility; it is taken as the operator's own";
                warnings.push(Issue::warning(IssueCode::Required, words).at(self.facility_path()));
                options.operator.to_owned()
            }
        }
    }

    /// Where a payload names its facility.
    fn facility_path(&self) -> String {
        match &self.facility {
            Part::Object { entries, .. } => entries.iter().find(|(key, _)| key == "code").and_then(|(_, part)| match part {
                Part::Expr(expr) => expr.member(),
                _ => None,
            }),
            _ => None,
        }
        .unwrap_or_default()
    }

    pub(super) fn judge(&self, opened: &Opened, index: usize, value: Value, options: &Options<'_>, translate: &dyn Translate) -> Judged {
        let path = format!("{}[{index}]", opened.list);
        let is_object = value.is_object();
        let mut walk = Walk::new(&self.schema, options.zone, options.strict_blocks, path.clone());
        let excess = schema::excess(&value);
        let is_walked = is_object && excess.is_none();
        let value = if is_walked { walk.value(self.record, value, true).unwrap_or_default() } else { Value::Null };
        let mut issues = walk.issues;
        if let Some(words) = excess {
            issues.push(Issue::error(IssueCode::TooLong, words).at(path.clone()));
        } else if !is_object {
            issues.push(Issue::error(IssueCode::Structure, "must be an object").at(path.clone()));
        } else if value.is_null() {
            issues.push(Issue::error(IssueCode::Structure, "is empty: it says nothing").at(path.clone()));
        }
        let facility = opened.facility.to_json();
        let scope = Scope::of(&value);
        let of_record = scope.var("record", &value);
        let scope = scope.within(&of_record);
        let of_facility = scope.var("facility", &facility);
        let scope = scope.within(&of_facility);
        for rule in self.rules.iter().filter(|_| is_walked) {
            issues.extend(rule.broken_by(&scope, &path, &issues));
        }
        let mut run = Run::new(&self.schema, translate, options.stored, &value, &path);
        let identity =
            self.client.as_ref().map_or(Identity { is_absent: true, ..Identity::default() }, |who| who.identity(&mut run, &scope));
        let label = text(run.one(&self.label, &scope)).unwrap_or_else(|| path.clone());
        let visit_id = text(run.one(&self.visit, &scope));
        let identifiers = match run.one(&self.identifiers, &scope) {
            Some(Value::Array(list)) => {
                list.iter().filter_map(|entry| Some((text(entry.get("type").cloned())?, text(entry.get("value").cloned())?))).collect()
            }
            _ => Vec::new(),
        };
        if !options.judged {
            for issue in issues.iter_mut().filter(|issue| matches!(issue.code, IssueCode::Required | IssueCode::BusinessRule)) {
                issue.severity = Severity::Warning;
            }
        }
        let (errors, mut warnings): (Vec<_>, Vec<_>) = issues.into_iter().partition(|issue| issue.severity.is_error());
        warnings.extend(run.faults.into_iter().map(|issue| issue.at(path.clone())));
        let record = Record { index, path, label, visit_id, identifiers, errors, warnings, ..Record::default() };
        Judged { identity, record, value, judged: options.judged }
    }

    pub(super) fn translate(
        &self,
        opened: &Opened,
        judged: &Judged,
        client: Option<&str>,
        stored: &Known,
        translate: &dyn Translate,
    ) -> Record {
        let Judged { identity, record: Record { index, path, label, visit_id, identifiers, errors, warnings, .. }, value, .. } = judged;
        let mut record = Record {
            index: *index,
            path: path.clone(),
            label: label.clone(),
            visit_id: visit_id.clone(),
            identifiers: identifiers.clone(),
            errors: errors.clone(),
            warnings: warnings.clone(),
            ..Record::default()
        };
        if !errors.is_empty() {
            return record;
        }
        if let (None, false, Some(needs)) = (client, identity.is_absent, &identity.needs) {
            let words = "is mandatory: the record names its client in no other way. An update needs the client's number, an identifier or the id of a visit that was sent of one client";
            record.errors.push(Issue::error(IssueCode::Required, words).at(format!("{path}.{needs}")));
            return record;
        }
        let (facility, client) = (opened.facility.to_json(), client.map_or(Value::Array(Vec::new()), Value::from));
        let scope = Scope::of(value);
        let of_record = scope.var("record", value);
        let scope = scope.within(&of_record);
        let of_facility = scope.var("facility", &facility);
        let scope = scope.within(&of_facility);
        let of_client = scope.var("client", &client);
        let scope = scope.within(&of_client);
        let mut run = Run::new(&self.schema, translate, stored, value, path);
        record.visit_key = self.visit_key.as_ref().and_then(|parts| run.key(&self.name, parts, &scope));
        run.carry_out(&self.mapping.record, &scope);
        record.warnings.append(&mut run.told);
        record.wanted = std::mem::take(&mut run.wanted);
        let faults = std::mem::take(&mut run.faults).into_iter().map(|issue| issue.at(path.clone()));
        // A record that no rule has judged may lack what its resources are known by: then nothing of it is stored.
        if judged.judged {
            record.warnings.extend(faults)
        } else {
            record.errors.extend(faults.map(|issue| Issue { severity: Severity::Error, ..issue }))
        }
        if record.errors.is_empty() {
            let (shared, resources) = run.produced.into_iter().partition(|produced| produced.shared);
            (record.shared, record.verdict) = (shared, Verdict::Accepted { resources });
            (record.lists, record.unmapped) = (run.lists, run.unmapped);
        }
        record
    }
}

impl definition::Rule {
    /// What is wrong when `record` breaks the rule; nothing when that was said of the same place already.
    fn broken_by(&self, record: &Scope<'_>, path: &str, said: &[Issue]) -> Option<Issue> {
        let at = format!("{path}.{}", self.path);
        let issue = match self.expression.truth(record) {
            Ok(Some(false)) if said.iter().any(|issue| issue.severity.is_error() && issue.expression == at) => return None,
            Ok(Some(false)) if self.error => Issue::error(IssueCode::BusinessRule, &*self.message),
            Ok(Some(false)) => Issue::warning(IssueCode::BusinessRule, &*self.message),
            Ok(_) => return None,
            Err(error) => Issue::warning(IssueCode::Processing, format!("the rule cannot be applied here: {error}")),
        };
        Some(issue.at(at))
    }
}

impl definition::Who {
    fn identity(&self, run: &mut Run<'_>, record: &Scope<'_>) -> Identity {
        let number = text(run.one(&self.number, record));
        let mut others: Vec<String> = Vec::new();
        for other in run.one(&self.identifiers, record).as_ref().and_then(Value::as_array).into_iter().flatten() {
            if let Some(other) = text(Some(other.clone()))
                && number.as_ref() != Some(&other)
                && !others.contains(&other)
            {
                others.push(other);
            }
        }
        let likeness = self.likeness.iter().filter_map(|(name, part)| {
            let said = text(run.one(part, record))?;
            Some((name.clone(), Value::String(crate::fhir::text::fold(&said))))
        });
        let likeness: Map<String, Value> = likeness.collect();
        Identity { is_absent: false, number, others, likeness, likeness_size: self.likeness.len(), needs: self.needs.clone() }
    }
}
