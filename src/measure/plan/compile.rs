//! From a Measure resource to a [`MeasurePlan`]: every part is looked at, so that all problems are told at once.

use super::columns::target_of;
use super::*;
use crate::definitions::{self, ParamKind};
use crate::fhir::IssueCode;
use crate::measure::age::AgeBand;
use crate::measure::expression::{FhirQuery, QueryParam, ValueExpression};
use crate::measure::fold::Dimension;
use crate::store::query::{Kind, SystemTest};
use crate::store::system_key;

/// The date by which a record belongs to a period: an expression, lango's own extension of Measure.
const PERIOD_BY: &str = "https://lango.health/fhir/StructureDefinition/measure-period-by";

/// More strata than any form has; a bound on what a report may weigh.
const MOST_STRATA: usize = 10_000;

pub(super) fn compile(measure: &Value, terms: &dyn Terms) -> Result<MeasurePlan, Vec<Issue>> {
    let mut compiler =
        Compiler { terms, measure, issues: Vec::new(), columns: Vec::new(), dimensions: Vec::new(), stratifiers: Vec::new() };
    match compiler.measure() {
        Some(plan) if compiler.issues.is_empty() => Ok(plan),
        _ => Err(compiler.issues),
    }
}

pub(super) struct Compiler<'a> {
    terms: &'a dyn Terms,
    measure: &'a Value,
    issues: Vec<Issue>,
    pub(super) columns: Vec<FactColumn>,
    dimensions: Vec<(Dimension, ComponentNames)>,
    stratifiers: Vec<(Vec<usize>, StratifierNames)>,
}

/// A group's query, and where it stands.
struct GroupQuery {
    params: Vec<QueryParam>,
    path: String,
}

impl Compiler<'_> {
    pub(super) fn issue(&mut self, code: IssueCode, words: impl Into<String>, path: &str) {
        self.issues.push(Issue::error(code, words).at(path));
    }

    fn measure(&mut self) -> Option<MeasurePlan> {
        let measure = self.measure;
        if text(measure, "resourceType") != Some("Measure") {
            self.issue(IssueCode::Invalid, "This is no Measure.", "Measure");
            return None;
        }
        let Some(url) = text(measure, "url") else {
            self.issue(IssueCode::Required, "A Measure needs a url: its reports name it.", "Measure.url");
            return None;
        };
        let canonical = text(measure, "version").map_or(url.to_owned(), |version| format!("{url}|{version}"));
        let scoring = measure.pointer("/scoring/coding/0/code").and_then(Value::as_str).unwrap_or("cohort");
        if scoring != "cohort" {
            self.issue(IssueCode::NotSupported, format!("Scoring {scoring} is not evaluated; cohort is."), "Measure.scoring");
        }
        let groups = list(measure, "group");
        if groups.is_empty() || groups.len() > usize::from(u16::MAX) {
            self.issue(IssueCode::Required, "A Measure needs groups.", "Measure.group");
            return None;
        }
        let mut queries = Vec::new();
        let mut names = Vec::new();
        let mut base: Option<String> = None;
        for (index, group) in groups.iter().enumerate() {
            let path = format!("Measure.group[{index}]");
            let Some((query, population)) = self.population(group, &path) else { continue };
            match &base {
                None => base = Some(query.type_name),
                Some(base) if *base == query.type_name => {}
                Some(base) => {
                    let words = format!("All groups of a Measure count the same type; this one does not count {base}.");
                    self.issue(IssueCode::NotSupported, words, &path);
                }
            }
            queries.push(GroupQuery { params: query.params, path });
            names.push(GroupNames { code: group.get("code").cloned().unwrap_or(Value::Null), population });
        }
        let base_name = base?;
        let Some(base) = definitions::r4().type_code(&base_name) else {
            self.issue(IssueCode::Invalid, format!("{base_name} is no resource type."), "Measure.group");
            return None;
        };
        let common: Vec<QueryParam> = match queries.split_first() {
            Some((first, rest)) => first.params.iter().filter(|p| rest.iter().all(|q| q.params.contains(p))).cloned().collect(),
            None => Vec::new(),
        };
        // What every group asks needs no look at the code; only a measure of one group has its code among these.
        let is_code_test = |param: &QueryParam| matches!(param.modifier.as_deref(), Some("maps-to" | "in"));
        let (own, shared): (Vec<QueryParam>, Vec<QueryParam>) = common.into_iter().partition(is_code_test);
        let filters: Vec<Filter> = shared.iter().filter_map(|param| self.filter(base, param)).collect();
        let mut plan = MeasurePlan {
            canonical,
            url: url.to_owned(),
            improvement: measure.get("improvementNotation").cloned(),
            groups: names,
            stratifiers: Vec::new(),
            tables: Tables::default(),
            base,
            filters,
            columns: Vec::new(),
            named: HashMap::new(),
            mapped: HashMap::new(),
            maps: Vec::new(),
            systems: HashMap::new(),
        };
        self.dependencies(&mut plan);
        let code_column = self.code_tests(base, &queries, &shared, !own.is_empty(), &mut plan);
        let period_column = self.period_column(base, &base_name)?;
        let mut group_stratifiers = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            let path = format!("Measure.group[{index}]");
            let stratifiers = list(group, "stratifier").iter().enumerate();
            group_stratifiers.push(
                stratifiers.filter_map(|(at, s)| self.stratifier(s, base, &base_name, &format!("{path}.stratifier[{at}]"))).collect(),
            );
        }
        plan.columns = std::mem::take(&mut self.columns);
        let (stratifiers, stratifier_names) = std::mem::take(&mut self.stratifiers).into_iter().unzip();
        plan.stratifiers = stratifier_names;
        plan.tables = Tables {
            period_column,
            code_column,
            dimensions: std::mem::take(&mut self.dimensions).into_iter().map(|(dimension, _)| dimension).collect(),
            stratifiers,
            groups: group_stratifiers,
        };
        Some(plan)
    }

    /// The query and the code of a group's one population.
    fn population(&mut self, group: &Value, path: &str) -> Option<(FhirQuery, Value)> {
        let [population] = list(group, "population") else {
            self.issue(IssueCode::NotSupported, "A group of a cohort Measure has exactly one population.", &format!("{path}.population"));
            return None;
        };
        let path = format!("{path}.population[0].criteria");
        match population.pointer("/criteria/language").and_then(Value::as_str) {
            Some("application/x-fhir-query") => {}
            other => {
                let words =
                    format!("A population's criteria must be application/x-fhir-query, not {}.", other.unwrap_or("without a language"));
                self.issue(IssueCode::NotSupported, words, &format!("{path}.language"));
                return None;
            }
        }
        let expression = population.pointer("/criteria/expression").and_then(Value::as_str).unwrap_or_default();
        match FhirQuery::parse(expression) {
            Ok(query) => Some((query, population.get("code").cloned().unwrap_or(Value::Null))),
            Err(words) => {
                self.issue(IssueCode::NotSupported, words, &format!("{path}.expression"));
                None
            }
        }
    }

    /// The ConceptMaps and code systems that the Measure depends on.
    fn dependencies(&mut self, plan: &mut MeasurePlan) {
        for artifact in list(self.measure, "relatedArtifact") {
            let Some(resource) = text(artifact, "resource").filter(|_| text(artifact, "type") == Some("depends-on")) else { continue };
            match text(artifact, "label") {
                Some("concept-map") => plan.maps.push(resource.to_owned()),
                Some("code-system") => {
                    plan.systems.insert(system_key(resource), resource.to_owned());
                }
                _ => {}
            }
        }
    }

    /// A query parameter that all groups share, for the store.
    fn filter(&mut self, base: TypeCode, param: &QueryParam) -> Option<Filter> {
        let path = "Measure.group.population.criteria.expression";
        let r4 = definitions::r4();
        let (of, hop) = match &param.chain {
            None => (base, None),
            Some((name, target)) => {
                let Some(reference) = r4.param(base, name).filter(|p| p.kind == ParamKind::Reference) else {
                    self.issue(IssueCode::NotSupported, format!("{name} is no reference parameter of {}.", r4.type_name(base)), path);
                    return None;
                };
                match target_of(reference, target.as_deref(), |t| r4.param(t, &param.name).is_some()) {
                    Some(target) => (target, Some(reference.id)),
                    None => {
                        self.issue(
                            IssueCode::NotSupported,
                            format!("{name} may lead to several types; write {name}:Type.{}.", param.name),
                            path,
                        );
                        return None;
                    }
                }
            }
        };
        let Some(found) = r4.param(of, &param.name).filter(|p| p.kind == ParamKind::Token) else {
            self.issue(
                IssueCode::NotSupported,
                format!("{} is no token parameter of {}; a measure's query asks by tokens.", param.name, r4.type_name(of)),
                path,
            );
            return None;
        };
        let tests = param.values.iter().map(|value| token(value)).collect();
        let filter = match param.modifier.as_deref() {
            None => Filter::Param { param: found.id, tests },
            Some("not") => Filter::NotParam { param: found.id, tests },
            Some(other) => {
                self.issue(IssueCode::NotSupported, format!("The modifier :{other} cannot be used here."), path);
                return None;
            }
        };
        Some(match hop {
            Some(hop) => Filter::Chain { param: hop, targets: vec![(of, vec![filter])] },
            None => filter,
        })
    }

    /// What tells the groups apart: tests on one token parameter. Answers its column.
    fn code_tests(
        &mut self,
        base: TypeCode,
        queries: &[GroupQuery],
        shared: &[QueryParam],
        forced: bool,
        plan: &mut MeasurePlan,
    ) -> Option<usize> {
        let own = |query: &GroupQuery| query.params.iter().filter(|p| !shared.contains(p)).cloned().collect::<Vec<_>>();
        if !forced && queries.iter().all(|query| own(query).is_empty()) {
            return None;
        }
        let mut column: Option<usize> = None;
        for (index, query) in queries.iter().enumerate() {
            let path = format!("{}.population[0].criteria.expression", query.path);
            let group = u16::try_from(index).unwrap_or(u16::MAX);
            let tests = own(query);
            let [test] = tests.as_slice() else {
                self.issue(IssueCode::NotSupported, "Beside what all groups ask, each group asks one parameter for its codes.", &path);
                continue;
            };
            let found = definitions::r4().param(base, &test.name).filter(|p| p.kind == ParamKind::Token && test.chain.is_none());
            let Some(param) = found else {
                self.issue(IssueCode::NotSupported, "Groups are told apart by a token parameter of the counted type.", &path);
                continue;
            };
            let this = self.column(FactColumn { hops: Vec::new(), leaf: param.id, kind: Kind::Token });
            if *column.get_or_insert(this) != this {
                self.issue(IssueCode::NotSupported, "All groups are told apart by the same parameter.", &path);
            }
            self.code_test(test, group, &path, plan);
        }
        column
    }

    fn code_test(&mut self, test: &QueryParam, group: u16, path: &str, plan: &mut MeasurePlan) {
        for value in &test.values {
            match test.modifier.as_deref() {
                None => {
                    let (system, code) = value.split_once('|').map_or((None, value.as_str()), |(system, code)| (Some(system), code));
                    let system = system.map(|system| if system.is_empty() { 0 } else { system_key(system) });
                    plan.named.entry((system, code.to_owned())).or_default().push(group);
                }
                Some("in") => match self.terms.members(value) {
                    Some(members) => {
                        for (system, code) in members.iter().filter_map(system_and_code) {
                            plan.named.entry((Some(system_key(system)), code.to_owned())).or_default().push(group);
                        }
                    }
                    None => self.issue(IssueCode::NotFound, format!("The value set {value} is not known or cannot be listed."), path),
                },
                Some("maps-to") => {
                    let Some((system, code)) = value.split_once('|').filter(|(system, code)| !system.is_empty() && !code.is_empty()) else {
                        self.issue(IssueCode::Value, "maps-to needs SYSTEM|CODE.", path);
                        continue;
                    };
                    if plan.maps.is_empty() || plan.systems.is_empty() {
                        let words = "maps-to needs the ConceptMap and the code systems that it translates: relatedArtifact of type depends-on with labels concept-map and code-system.";
                        self.issue(IssueCode::Required, words, "Measure.relatedArtifact");
                        return;
                    }
                    plan.systems.insert(system_key(system), system.to_owned());
                    if plan.mapped.insert((system.to_owned(), code.to_owned()), group).is_some() {
                        self.issue(IssueCode::Duplicate, "Two groups ask for the same mapped code.", path);
                    }
                }
                Some(other) => self.issue(IssueCode::NotSupported, format!("The modifier :{other} cannot tell groups apart."), path),
            }
        }
    }

    fn period_column(&mut self, base: TypeCode, base_name: &str) -> Option<usize> {
        let path = "Measure.extension";
        let extension = list(self.measure, "extension").iter().find(|e| text(e, "url") == Some(PERIOD_BY));
        let Some(expression) = extension.and_then(|e| e.pointer("/valueExpression/expression")).and_then(Value::as_str) else {
            let words = format!(
                "The Measure must say which date decides the period: extension {PERIOD_BY} with a valueExpression, such as encounter.resolve().period.start."
            );
            self.issue(IssueCode::Required, words, path);
            return None;
        };
        match ValueExpression::parse(expression, base_name) {
            Ok(ValueExpression::Path(element)) => self.element(&element, base, Kind::Date, path),
            Ok(ValueExpression::AgeAt { .. }) => {
                self.issue(IssueCode::Value, "An age decides no period; name a date.", path);
                None
            }
            Err(words) => {
                self.issue(IssueCode::NotSupported, words, path);
                None
            }
        }
    }

    /// Compiles a stratifier, or finds the equal one of an earlier group.
    fn stratifier(&mut self, stratifier: &Value, base: TypeCode, base_name: &str, path: &str) -> Option<usize> {
        let components = match list(stratifier, "component") {
            [] => vec![(stratifier, path.to_owned())],
            several => several.iter().enumerate().map(|(at, component)| (component, format!("{path}.component[{at}]"))).collect(),
        };
        let mut dimensions = Vec::new();
        for (component, path) in components {
            dimensions.push(self.dimension(component, base, base_name, &path)?);
        }
        let code = stratifier.get("code").cloned();
        if let Some(same) = self.stratifiers.iter().position(|(d, names)| *d == dimensions && names.code == code) {
            return Some(same);
        }
        let components: Vec<ComponentNames> =
            dimensions.iter().filter_map(|d| self.dimensions.get(*d)).map(|(_, names)| names.clone()).collect();
        let strata = components.iter().try_fold(1usize, |product, component| product.checked_mul(component.values.len()));
        if strata.is_none_or(|strata| strata > MOST_STRATA) {
            self.issue(IssueCode::TooCostly, format!("A stratifier may have {MOST_STRATA} strata."), path);
            return None;
        }
        self.stratifiers.push((dimensions, StratifierNames { code, components }));
        Some(self.stratifiers.len() - 1)
    }

    fn dimension(&mut self, component: &Value, base: TypeCode, base_name: &str, path: &str) -> Option<usize> {
        let code = component.get("code").cloned().unwrap_or(Value::Null);
        let Some(label) = code.pointer("/coding/0/code").and_then(Value::as_str) else {
            self.issue(
                IssueCode::Required,
                "A component needs a code: a relatedArtifact of this label names its value set.",
                &format!("{path}.code"),
            );
            return None;
        };
        let artifact =
            list(self.measure, "relatedArtifact").iter().find(|a| text(a, "label") == Some(label) && text(a, "type") == Some("depends-on"));
        let Some(values) = artifact.and_then(|a| text(a, "url").or(text(a, "resource"))).and_then(|url| self.terms.members(url)) else {
            let words = format!(
                "The values of component {label} are not known: a relatedArtifact with type depends-on and label {label} must name a value set that can be listed."
            );
            self.issue(IssueCode::NotFound, words, &format!("{path}.code"));
            return None;
        };
        let criteria = format!("{path}.criteria");
        if component.pointer("/criteria/language").and_then(Value::as_str) != Some("text/fhirpath") {
            self.issue(IssueCode::NotSupported, "A stratifier's criteria must be text/fhirpath.", &format!("{criteria}.language"));
            return None;
        }
        let expression = component.pointer("/criteria/expression").and_then(Value::as_str).unwrap_or_default();
        let expression = match ValueExpression::parse(expression, base_name) {
            Ok(expression) => expression,
            Err(words) => {
                self.issue(IssueCode::NotSupported, words, &format!("{criteria}.expression"));
                return None;
            }
        };
        let codes: Vec<String> = values.iter().filter_map(system_and_code).map(|(_, code)| code.to_owned()).collect();
        let dimension = match expression {
            ValueExpression::Path(element) => Dimension::Code { column: self.element(&element, base, Kind::Token, &criteria)?, codes },
            ValueExpression::AgeAt { birth, at } => {
                let Some(bands) = codes.iter().map(|code| AgeBand::parse(code)).collect::<Option<Vec<_>>>() else {
                    self.issue(
                        IssueCode::Value,
                        format!("The value set of component {label} must list age bands such as P5Y--P15Y."),
                        &criteria,
                    );
                    return None;
                };
                let birth = self.element(&birth, base, Kind::Date, &criteria)?;
                Dimension::Age { birth, at: self.element(&at, base, Kind::Date, &criteria)?, bands }
            }
        };
        let names = ComponentNames { code, values };
        if let Some(same) = self.dimensions.iter().position(|(d, n)| *d == dimension && *n == names) {
            return Some(same);
        }
        self.dimensions.push((dimension, names));
        Some(self.dimensions.len() - 1)
    }
}

fn token(value: &str) -> Test {
    match value.split_once('|') {
        None => Test::Token { system: SystemTest::Any, code: Some(value.to_owned()) },
        Some(("", code)) => Test::Token { system: SystemTest::Absent, code: Some(code.to_owned()) },
        Some((system, code)) => {
            Test::Token { system: SystemTest::Is(system.to_owned()), code: (!code.is_empty()).then(|| code.to_owned()) }
        }
    }
}

fn system_and_code(coding: &Value) -> Option<(&str, &str)> {
    Some((text(coding, "system").unwrap_or_default(), text(coding, "code")?))
}
