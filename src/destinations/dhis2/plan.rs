//! A MeasureReport as exact `dataValueSets` requests, or every reason why it cannot be one.

use super::mapping::{Mapping, Target, list, text};
use super::metadata::{CategoryCombo, DataElement, DataSet, Dialect, Metadata, OrgUnit};
use super::period::PeriodType;
use crate::fhir::{Issue, IssueCode};
use crate::measure::ReportPeriod;
use jiff::civil::Date;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};

/// One data value's place and number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    pub data_element: String,
    pub category_option_combo: String,
    pub org_unit: String,
    pub period: String,
    pub value: String,
}

/// One POST to `/api/dataValueSets`: one data set, org unit and period.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRequest {
    /// Query parameters, in order.
    pub query: Vec<(&'static str, &'static str)>,
    /// The body, exactly as it will be sent.
    pub body: Value,
    /// The cells, in the order of `body.dataValues`: what the indexes in the answer mean.
    pub cells: Vec<Cell>,
}

/// What a push would send.
#[derive(Clone, Debug, PartialEq)]
pub struct PushPlan {
    pub requests: Vec<PlannedRequest>,
    /// What the operator should know although it can be sent.
    pub warnings: Vec<Issue>,
}

/// Turns reports into requests, one for each. `attribute` is the attribute option combo where it is not the default one. `today` decides whether a period is open.
///
/// # Errors
/// Every problem found, each with its place in the report or the name of the thing in DHIS2, and what to do. Then nothing may be sent.
pub fn plan(
    reports: &[Value],
    metadata: &Metadata,
    mapping: &Mapping,
    attribute: Option<&str>,
    today: Date,
) -> Result<PushPlan, Vec<Issue>> {
    let mut planner = Planner { metadata, mapping, attribute, today, problems: Vec::new(), warnings: Vec::new() };
    let Some(data_set) = planner.check_server() else { return Err(planner.problems) };
    let requests = reports.iter().filter_map(|report| planner.request(report, data_set)).collect();
    match planner.problems.is_empty() {
        true => Ok(PushPlan { requests, warnings: planner.warnings }),
        false => Err(planner.problems),
    }
}

struct Planner<'a> {
    metadata: &'a Metadata,
    mapping: &'a Mapping,
    /// Uid of the attribute option combo; `None`: the default one.
    attribute: Option<&'a str>,
    today: Date,
    problems: Vec<Issue>,
    warnings: Vec<Issue>,
}

/// Cells in the making: (data element, category option combo) to its sum, in the order of first use.
#[derive(Default)]
struct Sums {
    order: Vec<((String, String), u64)>,
    places: HashMap<(String, String), usize>,
}

impl Sums {
    /// `false` when the sum is too large for a count.
    fn add(&mut self, element: &str, combo: &str, count: u64) -> bool {
        let key = (element.to_owned(), combo.to_owned());
        let place = *self.places.entry(key.clone()).or_insert_with(|| {
            self.order.push((key, 0));
            self.order.len() - 1
        });
        let Some((_, sum)) = self.order.get_mut(place) else { return false };
        match sum.checked_add(count) {
            Some(total) => {
                *sum = total;
                true
            }
            None => false,
        }
    }
}

impl<'a> Planner<'a> {
    fn problem(&mut self, code: IssueCode, words: String, path: &str) {
        push_once(&mut self.problems, Issue::error(code, words).at(path));
    }

    fn warn(&mut self, words: String) {
        push_once(&mut self.warnings, Issue::warning(IssueCode::BusinessRule, words));
    }

    /// What must hold whatever the report says.
    fn check_server(&mut self) -> Option<&'a DataSet> {
        let metadata = self.metadata;
        if metadata.dialect().is_none() {
            let words =
                "The server does not say which DHIS2 version it is (api/system/info). Check that the destination's url is a DHIS2 server.";
            self.problem(IssueCode::NotSupported, words.into(), "");
        }
        match metadata.calendar.as_deref() {
            Some("iso8601" | "gregorian") => {}
            Some(other) => {
                let words = format!(
                    "The server's calendar is {other}; lango pushes Gregorian periods only. Do not convert by hand: period identifiers would name other days."
                );
                self.problem(IssueCode::NotSupported, words, "");
            }
            None => {
                self.problem(
                    IssueCode::NotSupported,
                    "The server does not say which calendar it uses (api/system/info). Give the destination's user the right to read it."
                        .into(),
                    "",
                );
            }
        }
        let Some(data_set) = metadata.data_set.as_ref() else {
            self.problem(
                IssueCode::NotFound,
                "The data set of the destination does not exist on the server, or its user may not see it. Check data_set in lango.toml."
                    .into(),
                "",
            );
            return None;
        };
        if PeriodType::parse(&data_set.period_type).is_none() {
            let words = format!(
                "Data set {} reports by period type {}; lango pushes Daily, Weekly, Monthly, Quarterly and Yearly.",
                data_set.id, data_set.period_type
            );
            self.problem(IssueCode::NotSupported, words, "");
        }
        let combo = data_set.combo.as_deref().and_then(|id| metadata.combo(id));
        match self.attribute {
            None if combo.is_some_and(|combo| !combo.is_default) => {
                let words = format!(
                    "Data set {} asks for an attribute option combo. Name one as attribute_option_combo of the destination in lango.toml.",
                    data_set.id
                );
                self.problem(IssueCode::Required, words, "");
            }
            Some(uid) if combo.is_some_and(|combo| !combo.option_combos.iter().any(|one| one.id == uid)) => {
                let words = format!(
                    "Attribute option combo {uid} is none of data set {}. Correct attribute_option_combo of the destination in lango.toml.",
                    data_set.id
                );
                self.problem(IssueCode::CodeInvalid, words, "");
            }
            _ => {}
        }
        if data_set.has_approval {
            self.warn(format!(
                "Data set {} is under an approval workflow: a period that is already approved will be refused.",
                data_set.id
            ));
        }
        if data_set.has_input_periods {
            self.warn(format!("Data set {} has data input periods: outside them values will be refused.", data_set.id));
        }
        self.problems.is_empty().then_some(data_set)
    }

    fn request(&mut self, report: &Value, data_set: &DataSet) -> Option<PlannedRequest> {
        let before = self.problems.len();
        if text(report, "resourceType") != Some("MeasureReport") || text(report, "type") != Some("summary") {
            self.problem(IssueCode::Invalid, "Only a MeasureReport of type summary can be pushed.".into(), "MeasureReport.type");
            return None;
        }
        if text(report, "status") != Some("complete") {
            self.problem(IssueCode::BusinessRule, "The report is not complete; run the measure again.".into(), "MeasureReport.status");
        }
        let period = self.period(report, data_set);
        let org_unit = self.org_unit(report, data_set, period.as_ref().map(|(_, days)| *days));
        let mut sums = Sums::default();
        for (index, group) in list(report, "group").iter().enumerate() {
            self.group(group, &format!("MeasureReport.group[{index}]"), data_set, &mut sums);
        }
        self.check_coverage(data_set, &sums);
        if sums.order.is_empty() && self.problems.len() == before {
            self.problem(IssueCode::BusinessRule, "The report has no group that goes to DHIS2.".into(), "MeasureReport.group");
        }
        let ((period, _), (org_unit, scheme)) = (period?, org_unit?);
        if self.problems.len() > before {
            return None;
        }
        let cells: Vec<Cell> = sums
            .order
            .into_iter()
            .map(|((data_element, category_option_combo), sum)| Cell {
                data_element,
                category_option_combo,
                org_unit: org_unit.clone(),
                period: period.clone(),
                value: sum.to_string(),
            })
            .collect();
        let values: Vec<Value> = cells
            .iter()
            .map(|cell| json!({"dataElement": cell.data_element, "categoryOptionCombo": cell.category_option_combo, "value": cell.value}))
            .collect();
        let mut body = json!({"dataSet": data_set.id, "period": period, "orgUnit": org_unit, "dataValues": values});
        if let Some(attribute) = self.attribute {
            body["attributeOptionCombo"] = json!(attribute);
        }
        Some(PlannedRequest {
            query: vec![
                ("dataSetIdScheme", "UID"),
                ("dataElementIdScheme", "UID"),
                ("categoryOptionComboIdScheme", "UID"),
                ("orgUnitIdScheme", scheme),
                ("attributeOptionComboIdScheme", "UID"),
                ("importStrategy", "CREATE_AND_UPDATE"),
            ],
            body,
            cells,
        })
    }

    fn period(&mut self, report: &Value, data_set: &DataSet) -> Option<(String, ReportPeriod)> {
        let path = "MeasureReport.period";
        let part = |key: &str| report.pointer(&format!("/period/{key}")).and_then(Value::as_str).unwrap_or_default();
        let Ok(days) = ReportPeriod::between(part("start"), part("end")) else {
            self.problem(IssueCode::Invalid, "The report's period must have a start and an end that are dates.".into(), path);
            return None;
        };
        let kind = PeriodType::parse(&data_set.period_type)?;
        let Some(id) = kind.id(days) else {
            let words = format!(
                "The report's period is not exactly one {} period, which data set {} asks for. Run the measure for one such period.",
                data_set.period_type, data_set.id
            );
            self.problem(IssueCode::BusinessRule, words, path);
            return None;
        };
        // DHIS2: with n open future periods the running one is open for n = 1, none that has not ended for n = 0.
        let latest = kind.around(self.today).and_then(|now| kind.shift(now.first(), data_set.open_future_periods.saturating_sub(1)));
        if latest.is_some_and(|latest| days.first() > latest) {
            let words = format!(
                "Period {id} is not open yet: data set {} has openFuturePeriods {}. Push after the period's end, or ask for more open periods.",
                data_set.id, data_set.open_future_periods
            );
            self.problem(IssueCode::BusinessRule, words, path);
        }
        if data_set.expiry_days > 0 {
            let closes = days.last().checked_add(jiff::Span::new().days(data_set.expiry_days.min(100_000)));
            if closes.is_ok_and(|closes| closes < self.today) {
                self.warn(format!(
                    "Period {id} closed {} days after its end; values will be refused unless the server has a lock exception.",
                    data_set.expiry_days
                ));
            }
        }
        Some((id, days))
    }

    /// The org unit's name in the request and the scheme of that name.
    fn org_unit(&mut self, report: &Value, data_set: &DataSet, days: Option<ReportPeriod>) -> Option<(String, &'static str)> {
        let Some((path, system, facility)) = facility_of(report) else {
            self.problem(
                IssueCode::Required,
                "The report names no facility (subject.identifier or reporter.identifier).".into(),
                "MeasureReport.subject",
            );
            return None;
        };
        let name = self.mapping.org_unit(system, facility);
        if !self.metadata.knows_org_units() {
            self.warn("Org units were not checked: there was no server to ask.".into());
            return Some((name.to_owned(), "CODE"));
        }
        let Some(unit) = self.metadata.org_unit(name) else {
            let words = format!(
                "DHIS2 has no org unit named {name} for facility {facility}. Give the org unit this code in DHIS2, or name it in the org unit ConceptMap."
            );
            self.problem(IssueCode::CodeInvalid, words, path);
            return None;
        };
        self.check_org_unit(unit, data_set, days, path);
        Some((unit.id.clone(), "UID"))
    }

    fn check_org_unit(&mut self, unit: &OrgUnit, data_set: &DataSet, days: Option<ReportPeriod>, path: &str) {
        if data_set.org_units.as_ref().is_some_and(|assigned| !assigned.contains(&unit.id)) {
            let words =
                format!("Data set {} is not assigned to org unit {}. Assign it in DHIS2 (Maintenance, Data set).", data_set.id, unit.id);
            self.problem(IssueCode::BusinessRule, words, path);
        }
        let below = |root: &String| unit.path.as_deref().is_some_and(|path| path.split('/').any(|part| part == root));
        if self.metadata.capture.as_ref().is_some_and(|capture| unit.path.is_some() && !capture.iter().any(below)) {
            let words = format!(
                "The destination's user may not capture data for org unit {}. Add it, or one above it, to the user's data capture org units.",
                unit.id
            );
            self.problem(IssueCode::Forbidden, words, path);
        }
        let day = |date: &Option<String>| date.as_deref().and_then(|d| d.get(..10)).and_then(|d| d.parse::<Date>().ok());
        if let Some(days) = days {
            let late = day(&unit.opening_date).is_some_and(|opened| opened > days.last());
            let closed = day(&unit.closed_date).is_some_and(|closed| closed < days.first());
            if late || closed {
                self.problem(
                    IssueCode::BusinessRule,
                    format!("Org unit {} is not open in the report's period. Check its opening and closing dates.", unit.id),
                    path,
                );
            }
        }
    }

    fn group(&mut self, group: &Value, path: &str, data_set: &DataSet, sums: &mut Sums) {
        let code = group.get("code").unwrap_or(&Value::Null);
        let label = codings(code).next().map_or("without a code", |(_, code)| code);
        let mapping = self.mapping;
        let names = match mapping.data_element(codings(code)) {
            Target::To(names) => names,
            Target::LeftOut => return,
            Target::Unnamed => {
                let words = format!(
                    "The data element ConceptMap does not say where group {label} goes. Add an element for it, with target equivalence unmatched if it is not to be sent."
                );
                return self.problem(IssueCode::CodeInvalid, words, &format!("{path}.code"));
            }
        };
        for name in names {
            let Some(element) = data_set.element(name) else {
                let words = format!(
                    "Data set {} has no data element {name}, to which the ConceptMap sends group {label}. Correct the target, or add the element to the data set.",
                    data_set.id
                );
                self.problem(IssueCode::CodeInvalid, words, &format!("{path}.code"));
                continue;
            };
            if !matches!(element.value_type.as_str(), "INTEGER" | "INTEGER_ZERO_OR_POSITIVE" | "NUMBER") {
                let words = format!(
                    "Data element {} has value type {}; a count needs INTEGER_ZERO_OR_POSITIVE, INTEGER or NUMBER.",
                    element.id, element.value_type
                );
                self.problem(IssueCode::BusinessRule, words, &format!("{path}.code"));
            }
            let Some(combo) = self.metadata.combo(&element.combo) else {
                let words = format!(
                    "The category combination of data element {} cannot be read. Give the destination's user the right to see it.",
                    element.id
                );
                self.problem(IssueCode::Forbidden, words, &format!("{path}.code"));
                continue;
            };
            if combo.is_default {
                self.total(group, path, element, combo, sums);
            } else {
                self.strata(group, path, element, combo, sums);
            }
        }
    }

    /// An element without disaggregation receives the group's population.
    fn total(&mut self, group: &Value, path: &str, element: &DataElement, combo: &CategoryCombo, sums: &mut Sums) {
        let count = group.pointer("/population/0/count").and_then(Value::as_u64);
        let added = count.zip(combo.option_combos.first()).is_some_and(|(count, only)| sums.add(&element.id, &only.id, count));
        if !added {
            self.problem(
                IssueCode::Value,
                "The group's population needs a count, a whole number.".into(),
                &format!("{path}.population[0].count"),
            );
        }
    }

    /// A disaggregated element receives the strata of the stratifier whose values are its options.
    fn strata(&mut self, group: &Value, path: &str, element: &DataElement, combo: &CategoryCombo, sums: &mut Sums) {
        let stratifiers = list(group, "stratifier");
        let mut best: Option<Vec<Issue>> = None;
        for (index, stratifier) in stratifiers.iter().enumerate() {
            match self.resolve(stratifier, &format!("{path}.stratifier[{index}]"), element, combo) {
                Ok(cells) => {
                    for (option_combo, count) in cells {
                        if !sums.add(&element.id, &option_combo, count) {
                            self.problem(IssueCode::Value, "The counts are too large to be added.".into(), path);
                        }
                    }
                    return;
                }
                Err(issues) => {
                    if best.as_ref().is_none_or(|best| issues.len() < best.len()) {
                        best = Some(issues);
                    }
                }
            }
        }
        match best {
            Some(issues) => issues.into_iter().for_each(|issue| push_once(&mut self.problems, issue)),
            None => {
                let words = format!("Data element {} is disaggregated by {}, but the group has no stratifier.", element.id, combo.name);
                self.problem(IssueCode::BusinessRule, words, path);
            }
        }
    }

    /// Each stratum's category option combo and count.
    fn resolve(
        &self,
        stratifier: &Value,
        path: &str,
        element: &DataElement,
        combo: &CategoryCombo,
    ) -> Result<Vec<(String, u64)>, Vec<Issue>> {
        let mut cells = Vec::new();
        let mut issues = Vec::new();
        for (index, stratum) in list(stratifier, "stratum").iter().enumerate() {
            let path = format!("{path}.stratum[{index}]");
            match self.option_combo(stratum, &path, element, combo) {
                Ok(None) => {}
                Ok(Some(option_combo)) => match count_of(stratum) {
                    Some(count) => cells.push((option_combo.to_owned(), count)),
                    None => push_once(
                        &mut issues,
                        Issue::error(
                            IssueCode::Value,
                            "The stratum needs a measureScore that is a whole number, equal to its population's count.",
                        )
                        .at(path),
                    ),
                },
                Err(issue) => push_once(&mut issues, issue),
            }
        }
        if issues.is_empty() { Ok(cells) } else { Err(issues) }
    }

    /// The category option combo whose options are what the stratum's values are mapped to; `None`: left out on purpose.
    fn option_combo<'c>(
        &self,
        stratum: &Value,
        path: &str,
        element: &DataElement,
        combo: &'c CategoryCombo,
    ) -> Result<Option<&'c str>, Issue> {
        let mut options: BTreeSet<&str> = BTreeSet::new();
        for (index, component) in list(stratum, "component").iter().enumerate() {
            let value = component.get("value").unwrap_or(&Value::Null);
            let label = codings(value).next().map_or("without a code", |(_, code)| code);
            let path = format!("{path}.component[{index}].value");
            let problem = |words: String| Issue::error(IssueCode::CodeInvalid, words).at(path.clone());
            match self.mapping.category_option(codings(value)) {
                Target::LeftOut => return Ok(None),
                Target::Unnamed => {
                    return Err(problem(format!("The category option ConceptMap does not say what {label} is. Add an element for it.")));
                }
                // One value may have names for several combinations: the one that this combination has is meant.
                Target::To(names) => match names.iter().find_map(|name| combo.option(name)) {
                    Some(option) => options.insert(&option.id),
                    None => {
                        let names = names.join(", ");
                        return Err(problem(format!(
                            "Category combination {} of data element {} has no option {names}, which the ConceptMap gives for {label}. Correct the target, or use a data element with another combination.",
                            combo.name, element.id
                        )));
                    }
                },
            };
        }
        let found = combo.with_options(&options);
        match found.as_slice() {
            [only] => Ok(Some(&only.id)),
            [_, _, ..] => Err(Issue::error(
                IssueCode::MultipleMatches,
                format!("Category combination {} has several option combos with the same options. Ask the DHIS2 administrator to repair it (Data administration, Maintenance).", combo.name),
            )
            .at(path)),
            [] => {
                let names: Vec<&str> = options.into_iter().collect();
                Err(Issue::error(
                    IssueCode::CodeInvalid,
                    format!(
                        "Category combination {} of data element {} has no option combo with exactly the options {}. Map every component of the stratum, each to another category.",
                        combo.name,
                        element.id,
                        names.join(" and ")
                    ),
                )
                .at(path))
            }
        }
    }

    /// Zeros overwrite what was reported before only where the measure has a cell; and some servers drop zeros.
    fn check_coverage(&mut self, data_set: &DataSet, sums: &Sums) {
        let drops_zeros = self.metadata.dialect() == Some(Dialect::PerValue);
        for element in &data_set.elements {
            let sent = || sums.order.iter().filter(|((id, _), _)| *id == element.id);
            if sent().next().is_none() {
                continue;
            }
            if drops_zeros && !element.zero_is_significant {
                self.warn(format!("Data element {} does not store zeros: this server skips them, so a count that falls to 0 keeps its old value. Set zeroIsSignificant on the element.", element.id));
            }
            let combo = self.metadata.combo(&element.combo);
            let missed = combo.map_or(0, |combo| combo.option_combos.iter().filter(|c| !sent().any(|((_, id), _)| *id == c.id)).count());
            if missed > 0 {
                self.warn(format!("{missed} option combos of data element {} receive no value from this measure.", element.id));
            }
        }
    }
}

/// The facility that a report is about: path, identifier system and value.
pub(super) fn facility_of(report: &Value) -> Option<(&'static str, &str, &str)> {
    [("MeasureReport.subject", "/subject/identifier"), ("MeasureReport.reporter", "/reporter/identifier")].into_iter().find_map(
        |(path, pointer)| {
            let identifier = report.pointer(pointer)?;
            Some((path, text(identifier, "system").unwrap_or_default(), text(identifier, "value")?))
        },
    )
}

/// The (system, code) pairs of a CodeableConcept.
fn codings(concept: &Value) -> impl Iterator<Item = (&str, &str)> {
    list(concept, "coding").iter().filter_map(|coding| Some((text(coding, "system").unwrap_or_default(), text(coding, "code")?)))
}

/// mADX reports the number in `measureScore`, core FHIR in `population.count`; where both stand they must agree.
fn count_of(stratum: &Value) -> Option<u64> {
    let whole = |value: &Value| value.as_u64().or_else(|| value.as_number()?.to_string().strip_suffix(".0")?.parse().ok());
    let score = stratum.pointer("/measureScore/value").map(whole);
    let count = stratum.pointer("/population/0/count").map(whole);
    match (score, count) {
        (Some(score), Some(count)) => score.filter(|_| score == count),
        (one, other) => one.or(other)?,
    }
}

/// One mistake in a map shows in many cells: it is said once, at the first.
fn push_once(issues: &mut Vec<Issue>, issue: Issue) {
    if !issues.iter().any(|said| said.diagnostics == issue.diagnostics) {
        issues.push(issue);
    }
}
