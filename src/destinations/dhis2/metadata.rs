//! The server's own metadata, as far as a push needs it.

use super::mapping::{list, text};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Which import the server runs; it changed with 2.43.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Up to 2.42: each value is judged by itself, good ones are kept beside bad ones, warnings come as HTTP 409.
    PerValue,
    /// From 2.43: a payload is judged against one data set, warnings come as HTTP 200.
    PerDataSet,
}

impl Dialect {
    /// From `system/info.version`, such as `2.41.3`, `2.43-SNAPSHOT`. `None` when no version can be read from it.
    pub fn of_version(version: &str) -> Option<Dialect> {
        let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
        let (first, second) = (numbers.next()??, numbers.next().flatten());
        // Majors before 2 never had this API; should the leading 2 ever be dropped, the first number says it.
        let minor = match first {
            2 => second?,
            3.. => first,
            _ => return None,
        };
        Some(if minor >= 43 { Dialect::PerDataSet } else { Dialect::PerValue })
    }
}

/// What a push needs to know of a server: read afresh for every push, or from a metadata package for a dry run without a server.
#[derive(Clone, Debug)]
pub struct Metadata {
    pub version: String,
    /// `keyCalendar`, such as `iso8601`.
    pub calendar: Option<String>,
    pub data_set: Option<DataSet>,
    combos: HashMap<String, CategoryCombo>,
    /// `None`: not known (a metadata package without org units).
    org_units: Option<Vec<OrgUnit>>,
    /// The org units below which the user may capture; `None`: not known.
    pub capture: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
pub struct DataSet {
    pub id: String,
    pub name: String,
    pub period_type: String,
    pub expiry_days: i64,
    pub open_future_periods: i32,
    pub has_input_periods: bool,
    pub has_approval: bool,
    /// The combination of the data set itself (attribute option combos).
    pub combo: Option<String>,
    pub elements: Vec<DataElement>,
    /// Uids of the org units that report it, when the server told.
    pub org_units: Option<BTreeSet<String>>,
}

#[derive(Clone, Debug)]
pub struct DataElement {
    pub id: String,
    pub code: Option<String>,
    pub name: String,
    pub value_type: String,
    pub zero_is_significant: bool,
    /// The data set's own combination for the element wins over the element's.
    pub combo: String,
}

#[derive(Clone, Debug)]
pub struct CategoryCombo {
    pub id: String,
    pub name: String,
    pub is_default: bool,
    pub option_combos: Vec<OptionCombo>,
}

#[derive(Clone, Debug)]
pub struct OptionCombo {
    pub id: String,
    pub name: String,
    pub options: Vec<CategoryOption>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CategoryOption {
    pub id: String,
    pub code: Option<String>,
}

#[derive(Clone, Debug)]
pub struct OrgUnit {
    pub id: String,
    pub code: Option<String>,
    /// `/root/…/id`.
    pub path: Option<String>,
    pub opening_date: Option<String>,
    pub closed_date: Option<String>,
}

/// Whether a name is the uid or the code of a thing.
fn is_named(name: &str, id: &str, code: Option<&str>) -> bool {
    id == name || code == Some(name)
}

impl Metadata {
    /// From the answers of the server: `system/info`, `dataSets/{id}`, `categoryCombos`, `organisationUnits`, `me`.
    pub fn from_server(info: &Value, data_set: Option<&Value>, combos: &Value, org_units: &Value, me: &Value) -> Metadata {
        Metadata {
            version: text(info, "version").unwrap_or_default().to_owned(),
            calendar: text(info, "calendar").map(str::to_owned),
            data_set: data_set.and_then(DataSet::read),
            combos: list(combos, "categoryCombos").iter().filter_map(CategoryCombo::read).map(|c| (c.id.clone(), c)).collect(),
            org_units: Some(list(org_units, "organisationUnits").iter().filter_map(OrgUnit::read).collect()),
            capture: me.get("organisationUnits").map(|_| ids(me, "organisationUnits")),
        }
    }

    /// From a metadata package (what `/api/metadata` exports and imports): flat lists that refer to each other by uid.
    /// `version` is the version to plan for.
    pub fn from_package(package: &Value, data_set: &str, version: &str) -> Metadata {
        let by_id =
            |key: &'static str| -> HashMap<&str, &Value> { list(package, key).iter().filter_map(|v| Some((text(v, "id")?, v))).collect() };
        let (options, elements) = (by_id("categoryOptions"), by_id("dataElements"));
        let mut combos: HashMap<String, CategoryCombo> =
            list(package, "categoryCombos").iter().filter_map(CategoryCombo::read).map(|c| (c.id.clone(), c)).collect();
        for combo in combos.values_mut() {
            let own = list(package, "categoryOptionCombos")
                .iter()
                .filter(|c| c.pointer("/categoryCombo/id").and_then(Value::as_str) == Some(&combo.id));
            combo.option_combos = own.filter_map(|c| OptionCombo::read(c, &options)).collect();
        }
        let found =
            list(package, "dataSets").iter().find(|set| text(set, "id") == Some(data_set)).and_then(DataSet::read).map(|mut set| {
                for element in &mut set.elements {
                    if let Some(full) = elements.get(element.id.as_str()) {
                        element.complete(full);
                    }
                }
                set.org_units = None;
                set
            });
        Metadata {
            version: version.to_owned(),
            calendar: Some("iso8601".into()),
            data_set: found,
            combos,
            org_units: package
                .get("organisationUnits")
                .map(|_| list(package, "organisationUnits").iter().filter_map(OrgUnit::read).collect()),
            capture: None,
        }
    }

    pub fn dialect(&self) -> Option<Dialect> {
        Dialect::of_version(&self.version)
    }

    pub fn combo(&self, id: &str) -> Option<&CategoryCombo> {
        self.combos.get(id)
    }

    /// Whether org units can be checked.
    pub fn knows_org_units(&self) -> bool {
        self.org_units.is_some()
    }

    /// The org unit with this code, or this uid.
    pub fn org_unit(&self, name: &str) -> Option<&OrgUnit> {
        self.org_units.as_ref()?.iter().find(|unit| is_named(name, &unit.id, unit.code.as_deref()))
    }

    /// The combos that the data set's elements and the data set itself use.
    pub fn combo_ids(data_set: &DataSet) -> BTreeSet<&str> {
        data_set.elements.iter().map(|e| e.combo.as_str()).chain(data_set.combo.as_deref()).filter(|id| !id.is_empty()).collect()
    }
}

impl DataSet {
    pub(super) fn read(value: &Value) -> Option<DataSet> {
        let number = |key: &str| value.get(key).and_then(Value::as_i64).unwrap_or(0);
        Some(DataSet {
            id: text(value, "id")?.to_owned(),
            name: text(value, "name").unwrap_or_default().to_owned(),
            period_type: text(value, "periodType").unwrap_or_default().to_owned(),
            expiry_days: number("expiryDays"),
            open_future_periods: i32::try_from(number("openFuturePeriods")).unwrap_or(0),
            has_input_periods: !list(value, "dataInputPeriods").is_empty(),
            has_approval: value.get("workflow").is_some_and(|workflow| !workflow.is_null()),
            combo: value.pointer("/categoryCombo/id").and_then(Value::as_str).map(str::to_owned),
            elements: list(value, "dataSetElements").iter().filter_map(DataElement::read).collect(),
            org_units: value.get("organisationUnits").map(|_| ids(value, "organisationUnits").into_iter().collect()),
        })
    }

    /// The element with this uid, or else this code.
    pub fn element(&self, name: &str) -> Option<&DataElement> {
        let by_id = self.elements.iter().find(|element| element.id == name);
        by_id.or_else(|| self.elements.iter().find(|element| element.code.as_deref() == Some(name)))
    }
}

impl DataElement {
    fn read(member: &Value) -> Option<DataElement> {
        let element = member.get("dataElement")?;
        let mut read = DataElement {
            id: text(element, "id")?.to_owned(),
            code: None,
            name: String::new(),
            value_type: String::new(),
            zero_is_significant: false,
            combo: member.pointer("/categoryCombo/id").and_then(Value::as_str).unwrap_or_default().to_owned(),
        };
        read.complete(element);
        Some(read)
    }

    fn complete(&mut self, element: &Value) {
        self.code = text(element, "code").map(str::to_owned);
        self.name = text(element, "name").unwrap_or_default().to_owned();
        self.value_type = text(element, "valueType").unwrap_or_default().to_owned();
        self.zero_is_significant = element.get("zeroIsSignificant").and_then(Value::as_bool).unwrap_or(false);
        if self.combo.is_empty() {
            self.combo = element.pointer("/categoryCombo/id").and_then(Value::as_str).unwrap_or_default().to_owned();
        }
    }
}

impl CategoryCombo {
    fn read(value: &Value) -> Option<CategoryCombo> {
        let name = text(value, "name").unwrap_or_default();
        let is_default = value.get("isDefault").and_then(Value::as_bool).unwrap_or(false) || name == "default";
        let none = HashMap::new();
        let option_combos = list(value, "categoryOptionCombos").iter().filter_map(|c| OptionCombo::read(c, &none)).collect();
        Some(CategoryCombo { id: text(value, "id")?.to_owned(), name: name.to_owned(), is_default, option_combos })
    }

    /// The option of this combination with this uid, or else this code.
    pub fn option(&self, name: &str) -> Option<&CategoryOption> {
        let options = || self.option_combos.iter().flat_map(|combo| &combo.options);
        options().find(|option| option.id == name).or_else(|| options().find(|option| option.code.as_deref() == Some(name)))
    }

    /// The option combos whose set of options is exactly `options` (uids); one, unless the server's data are damaged.
    pub fn with_options(&self, options: &BTreeSet<&str>) -> Vec<&OptionCombo> {
        let is_it = |combo: &&OptionCombo| combo.options.iter().map(|o| o.id.as_str()).collect::<BTreeSet<_>>() == *options;
        self.option_combos.iter().filter(is_it).collect()
    }
}

impl OptionCombo {
    fn read(value: &Value, options: &HashMap<&str, &Value>) -> Option<OptionCombo> {
        let option = |v: &Value| {
            let id = text(v, "id")?;
            let code = text(options.get(id).copied().unwrap_or(v), "code");
            Some(CategoryOption { id: id.to_owned(), code: code.map(str::to_owned) })
        };
        Some(OptionCombo {
            id: text(value, "id")?.to_owned(),
            name: text(value, "name").unwrap_or_default().to_owned(),
            options: list(value, "categoryOptions").iter().filter_map(option).collect(),
        })
    }
}

impl OrgUnit {
    fn read(value: &Value) -> Option<OrgUnit> {
        let optional = |key: &str| text(value, key).map(str::to_owned);
        Some(OrgUnit {
            id: text(value, "id")?.to_owned(),
            code: optional("code"),
            path: optional("path"),
            opening_date: optional("openingDate"),
            closed_date: optional("closedDate"),
        })
    }
}

fn ids(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().filter_map(|v| text(v, "id")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_import_changed_with_version_2_43() {
        for (version, dialect) in [
            ("2.36", Some(Dialect::PerValue)),
            ("2.42.1", Some(Dialect::PerValue)),
            ("2.43-SNAPSHOT", Some(Dialect::PerDataSet)),
            ("2.44.0", Some(Dialect::PerDataSet)),
            ("43.0", Some(Dialect::PerDataSet)),
            ("", None),
            ("two", None),
            ("2.x", None),
            ("0.43", None),
        ] {
            assert_eq!(Dialect::of_version(version), dialect, "{version}");
        }
    }
}
