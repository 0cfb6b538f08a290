//! What the double knows: metadata, its user, data values, locks, approvals and tasks.

use jiff::{Span, civil::Date};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

pub const DEFAULT_COMBO: &str = "bjDvmb4bfuf";
pub const DEFAULT_OPTION_COMBO: &str = "HllvX50cXC0";

/// What a test starts a double with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Such as `2.41.3`.
    pub version: &'static str,
    pub calendar: &'static str,
    pub today: Date,
    /// A metadata package.
    pub package: Value,
    /// Uid, code and path; every data set is assigned to them all.
    pub org_units: Vec<(&'static str, &'static str, &'static str)>,
    pub user: User,
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct User {
    pub name: &'static str,
    pub password: &'static str,
    pub token: &'static str,
    /// Has F_DATAVALUE_ADD.
    pub may_import: bool,
    /// May write to data sets.
    pub may_write: bool,
    /// The org units below which the user captures.
    pub capture: Vec<&'static str>,
}

impl User {
    pub fn is_known_by(&self, authorization: &str) -> bool {
        use base64::Engine;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", self.name, self.password));
        authorization == format!("Basic {basic}") || authorization == format!("ApiToken {}", self.token)
    }
}

impl Setup {
    /// DHIS2's end-to-end metadata, on 15 October 2026, for a user of the whole country.
    pub fn new(version: &'static str) -> Setup {
        Setup {
            version,
            calendar: "iso8601",
            today: jiff::civil::date(2026, 10, 15),
            package: serde_json::from_str(include_str!("../../data/dhis2/e2e-metadata.json")).unwrap(),
            org_units: vec![
                ("ImspTQPwCqd", "COUNTRY", "/ImspTQPwCqd"),
                ("O6uvpzGd5pu", "100000-0", "/ImspTQPwCqd/O6uvpzGd5pu"),
                ("g8upMTyEZGZ", "100371-1", "/ImspTQPwCqd/g8upMTyEZGZ"),
            ],
            user: User {
                name: "lango",
                password: "district",
                token: "d2pat_5xVA12xyUbWNedQxy4ohH77WlxRGVvZZ1151814092",
                may_import: true,
                may_write: true,
                capture: vec!["ImspTQPwCqd"],
            },
        }
    }
}

/// What a value is stored under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub element: String,
    pub period: String,
    pub org_unit: String,
    pub option_combo: String,
    pub attribute_combo: String,
}

pub struct Server {
    pub version: &'static str,
    pub calendar: &'static str,
    pub today: Date,
    pub package: Value,
    pub user: User,
    pub values: BTreeMap<Key, String>,
    /// Data set, period, org unit.
    pub approved: BTreeSet<(String, String, String)>,
    pub lock_exceptions: BTreeSet<(String, String, String)>,
    /// Data set, period, org unit to the date.
    pub completed: BTreeMap<(String, String, String), String>,
    tasks: HashMap<String, Task>,
}

/// An import that runs by itself: seen running once, then completed, its summary a moment later.
struct Task {
    summary: Value,
    polls: u32,
    asked: u32,
}

impl Server {
    pub fn new(setup: Setup) -> Server {
        let mut package = setup.package;
        let units: Vec<Value> = setup
            .org_units
            .iter()
            .map(|(id, code, path)| json!({"id": id, "code": code, "name": code, "path": path, "openingDate": "2000-01-01T00:00:00.000"}))
            .collect();
        let assigned: Vec<Value> = setup.org_units.iter().map(|(id, ..)| json!({ "id": id })).collect();
        for set in package["dataSets"].as_array_mut().unwrap() {
            set["organisationUnits"] = json!(assigned);
        }
        package["organisationUnits"] = json!(units);
        let mut add = |key: &str, value: Value| package[key].as_array_mut().unwrap().push(value);
        add(
            "categoryCombos",
            json!({"id": DEFAULT_COMBO, "name": "default", "code": "default", "isDefault": true, "categories": [{"id": "GLevLNI9wkl"}]}),
        );
        add("categories", json!({"id": "GLevLNI9wkl", "name": "default", "categoryOptions": [{"id": "xYerKDKCefk"}]}));
        add("categoryOptions", json!({"id": "xYerKDKCefk", "name": "default", "code": "default"}));
        add(
            "categoryOptionCombos",
            json!({"id": DEFAULT_OPTION_COMBO, "name": "default", "code": "default", "categoryCombo": {"id": DEFAULT_COMBO}, "categoryOptions": [{"id": "xYerKDKCefk"}]}),
        );
        Server {
            version: setup.version,
            calendar: setup.calendar,
            today: setup.today,
            package,
            user: setup.user,
            values: BTreeMap::new(),
            approved: BTreeSet::new(),
            lock_exceptions: BTreeSet::new(),
            completed: BTreeMap::new(),
            tasks: HashMap::new(),
        }
    }

    pub fn minor(&self) -> u32 {
        self.version.split(['.', '-']).nth(1).unwrap().parse().unwrap()
    }

    /// The object of a list with this id (or other property).
    pub fn find(&self, list: &str, property: &str, name: &str) -> Option<&Value> {
        self.package[list].as_array()?.iter().find(|object| object[property] == name)
    }

    /// Changes an object of the package, found by uid.
    pub fn edit(&mut self, list: &str, id: &str, change: impl FnOnce(&mut Value)) {
        change(self.package[list].as_array_mut().unwrap().iter_mut().find(|object| object["id"] == id).unwrap());
    }

    /// A value as stored, under the default attribute option combo.
    pub fn value(&self, element: &str, option_combo: &str, org_unit: &str, period: &str) -> Option<&str> {
        let key = Key {
            element: element.into(),
            period: period.into(),
            org_unit: org_unit.into(),
            option_combo: option_combo.into(),
            attribute_combo: DEFAULT_OPTION_COMBO.into(),
        };
        self.values.get(&key).map(String::as_str)
    }

    /// The combination of an element: the data set's own for it, or else the element's.
    pub fn combo_of(&self, data_set: Option<&Value>, element: &Value) -> String {
        let member = data_set.and_then(|set| set["dataSetElements"].as_array()?.iter().find(|m| m["dataElement"]["id"] == element["id"]));
        let id = member.and_then(|m| m["categoryCombo"]["id"].as_str()).or(element["categoryCombo"]["id"].as_str());
        id.unwrap_or(DEFAULT_COMBO).to_owned()
    }

    /// The data sets that an element is in.
    pub fn data_sets_of(&self, element: &str) -> Vec<&Value> {
        let sets = self.package["dataSets"].as_array().unwrap();
        sets.iter().filter(|set| has_element(set, element)).collect()
    }

    pub fn below_user(&self, org_unit: &Value) -> bool {
        let path = org_unit["path"].as_str().unwrap_or_default();
        self.user.capture.iter().any(|root| path.split('/').any(|part| part == *root))
    }

    pub fn start_task(&mut self, summary: Summary) -> String {
        let id = format!("task{:07}", self.tasks.len());
        self.tasks.insert(id.clone(), Task { summary: summary.to_json(), polls: 0, asked: 0 });
        id
    }

    /// The notifications of a task, newest first.
    pub fn poll(&mut self, id: &str) -> Option<Value> {
        let task = self.tasks.get_mut(id)?;
        task.polls += 1;
        let note = |words: &str, completed: bool| json!({"uid": words.len().to_string(), "level": "INFO", "category": "DATAVALUE_IMPORT", "time": "2026-10-15T10:00:00.000", "message": words, "completed": completed});
        Some(if task.polls == 1 {
            json!([note("Importing data values", false)])
        } else {
            json!([note("Import done", true), note("Importing data values", false)])
        })
    }

    /// The bare summary, from the second question on after the task was seen completed.
    pub fn task_summary(&mut self, id: &str) -> Option<Value> {
        let task = self.tasks.get_mut(id).filter(|task| task.polls > 1)?;
        task.asked += 1;
        (task.asked > 1).then(|| task.summary.clone())
    }
}

pub fn has_element(data_set: &Value, element: &str) -> bool {
    data_set["dataSetElements"].as_array().is_some_and(|members| members.iter().any(|m| m["dataElement"]["id"] == element))
}

/// What an import was asked to do besides its values.
pub struct Options {
    pub dry_run: bool,
    pub is_async: bool,
    pub strategy: String,
    pub atomic: bool,
    schemes: HashMap<&'static str, String>,
    flags: BTreeSet<String>,
}

impl Options {
    pub fn read(query: &HashMap<&str, &str>, payload: &Value) -> Options {
        let flag = |name: &str| query.get(name).is_some_and(|v| *v == "true");
        let mut schemes = HashMap::new();
        // What the payload says wins over the address, the specific scheme over the general one.
        for name in
            ["dataSetIdScheme", "dataElementIdScheme", "orgUnitIdScheme", "categoryOptionComboIdScheme", "attributeOptionComboIdScheme"]
        {
            let said = [payload[name].as_str(), query.get(name).copied(), payload["idScheme"].as_str(), query.get("idScheme").copied()];
            schemes.insert(name, said.into_iter().flatten().next().unwrap_or("UID").to_lowercase());
        }
        Options {
            dry_run: flag("dryRun"),
            is_async: flag("async"),
            strategy: query.get("importStrategy").unwrap_or(&"CREATE_AND_UPDATE").to_string(),
            atomic: flag("atomic"),
            schemes,
            flags: query.iter().filter(|(_, v)| **v == "true").map(|(k, _)| k.to_string()).collect(),
        }
    }

    pub fn is(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// The object that `name` means by the scheme in force.
    pub fn find<'s>(&self, server: &'s Server, scheme: &str, list: &str, name: &str) -> Option<&'s Value> {
        let property = match self.schemes[scheme].as_str() {
            "code" => "code",
            "name" => "name",
            _ => "id",
        };
        server.find(list, property, name)
    }
}

/// An import summary in the making.
#[derive(Default)]
pub struct Summary {
    pub status: &'static str,
    pub description: String,
    pub imported: u64,
    pub updated: u64,
    pub ignored: u64,
    pub deleted: u64,
    pub conflicts: Vec<Value>,
    pub rejected: Vec<i64>,
    pub complete: Option<String>,
}

impl Summary {
    pub fn error(description: &str) -> Summary {
        Summary { status: "ERROR", description: description.into(), ..Summary::default() }
    }

    pub fn to_json(&self) -> Value {
        json!({"responseType": "ImportSummary", "status": self.status, "importOptions": {"dryRun": false}, "description": self.description,
            "importCount": {"imported": self.imported, "updated": self.updated, "ignored": self.ignored, "deleted": self.deleted},
            "conflicts": self.conflicts, "rejectedIndexes": self.rejected, "dataSetComplete": self.complete.as_deref().unwrap_or("false")})
    }
}

/// A period in the Gregorian calendar: its type and its first and last day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Period {
    pub kind: &'static str,
    pub first: Date,
    pub last: Date,
}

impl Period {
    pub fn parse(id: &str) -> Option<Period> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i16>().ok())?;
        let year = digits(id.get(..4)?)?;
        let rest = id.get(4..)?;
        let first_of = |month: i8| Date::new(year, month, 1).ok();
        let months = |kind, month: i8, count: i32| {
            let first = first_of(month)?;
            Some(Period { kind, first, last: first.checked_add(Span::new().months(count)).ok()?.yesterday().ok()? })
        };
        match rest {
            "" => months("Yearly", 1, 12),
            _ if rest.starts_with('Q') => {
                let quarter = digits(&rest[1..]).filter(|q| (1..=4).contains(q))? as i8;
                months("Quarterly", quarter * 3 - 2, 3)
            }
            _ if rest.starts_with('W') => {
                let week = digits(&rest[1..])? as i8;
                let first = jiff::civil::ISOWeekDate::new(year, week, jiff::civil::Weekday::Monday).ok()?.date();
                Some(Period { kind: "Weekly", first, last: first.checked_add(Span::new().days(6)).ok()? })
            }
            _ if rest.len() == 2 => months("Monthly", digits(rest)? as i8, 1),
            _ if rest.len() == 4 => {
                let day = Date::new(year, digits(&rest[..2])? as i8, digits(&rest[2..])? as i8).ok()?;
                Some(Period { kind: "Daily", first: day, last: day })
            }
            _ => None,
        }
    }

    /// The first day of the latest period of this type that is open on `today` with `open` future periods.
    pub fn latest_open(&self, today: Date, open: i64) -> Date {
        let (start, span) = match self.kind {
            "Yearly" => (today.first_of_year(), Span::new().years(open - 1)),
            "Quarterly" => (Date::new(today.year(), (today.month() - 1) / 3 * 3 + 1, 1).unwrap(), Span::new().months(3 * (open - 1))),
            "Monthly" => (today.first_of_month(), Span::new().months(open - 1)),
            "Weekly" => {
                let monday = today.checked_sub(Span::new().days(i64::from(today.weekday().to_monday_zero_offset()))).unwrap();
                (monday, Span::new().weeks(open - 1))
            }
            _ => (today, Span::new().days(open - 1)),
        };
        start.checked_add(span).unwrap()
    }
}

/// Whether a value fits its element's value type.
pub fn fits(value: &str, value_type: &str) -> bool {
    let whole = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    match value_type {
        "INTEGER_ZERO_OR_POSITIVE" => whole(value),
        "INTEGER_POSITIVE" => whole(value) && value != "0",
        "INTEGER" => whole(value.strip_prefix('-').unwrap_or(value)),
        "NUMBER" => value.parse::<f64>().is_ok(),
        "BOOLEAN" => matches!(value, "true" | "false"),
        _ => true,
    }
}
