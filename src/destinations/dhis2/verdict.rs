//! The import summary, in both dialects, bare and wrapped.

use super::mapping::{list, text};
use super::plan::Cell;
use serde::Serialize;
use serde_json::Value;

/// What became of the import as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    Success,
    /// Some values were refused; in both dialects the others were stored.
    Warning,
    /// Nothing was stored.
    Error,
}

/// DHIS2's word on one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub status: Status,
    pub http_status: u16,
    pub imported: u64,
    pub updated: u64,
    pub ignored: u64,
    pub deleted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub conflicts: Vec<Conflict>,
}

/// One reason for refusing one or more cells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conflict {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub property: Option<String>,
    pub kind: ConflictKind,
    /// What to do, in words for the operator.
    pub advice: &'static str,
    /// The cells that the conflict is about; empty when it is about the whole request or the server did not say.
    pub cells: Vec<Cell>,
}

/// What kind of trouble it is, which decides who must do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// The period is closed, approved or not open for this org unit.
    Locked,
    /// The period is not open yet.
    TooEarly,
    /// An identifier, combination or assignment does not fit.
    Mapping,
    /// The user may not.
    Access,
    /// The value itself is refused.
    Value,
    Other,
}

impl ConflictKind {
    /// By the error codes of DHIS2's `ErrorCode` (E76xx up to 2.42, E8xxx from 2.43).
    fn of(code: Option<&str>) -> ConflictKind {
        let number = code.and_then(|code| code.strip_prefix('E')).and_then(|digits| digits.parse::<u32>().ok());
        match number {
            Some(7641) => ConflictKind::TooEarly,
            Some(7640 | 7642..=7644 | 8030..=8033) => ConflictKind::Locked,
            Some(7601 | 7614 | 7616 | 7617 | 8010..=8012) => ConflictKind::Access,
            Some(7618..=7621 | 7637 | 8120..=8127) => ConflictKind::Value,
            Some(7600..=7615 | 7630..=7636 | 7638 | 7639 | 8002..=8005 | 8020..=8025 | 8100..=8111 | 8128) => ConflictKind::Mapping,
            _ => ConflictKind::Other,
        }
    }

    fn advice(self) -> &'static str {
        match self {
            ConflictKind::Locked => "The period is locked in DHIS2. Ask the data manager to unlock or unapprove it, then requeue the push.",
            ConflictKind::TooEarly => "The period is not open yet. Requeue the push when it is.",
            ConflictKind::Mapping => {
                "A mapping or an assignment does not fit. Correct the ConceptMap or the DHIS2 metadata, then requeue the push."
            }
            ConflictKind::Access => "The destination's user lacks a right. Give it in DHIS2, then requeue the push.",
            ConflictKind::Value => "DHIS2 refuses the value. Check the data element's value type.",
            ConflictKind::Other => "Read DHIS2's message.",
        }
    }
}

impl Verdict {
    /// Reads the answer to a POST of `cells`. `None` when the body is no import summary, whatever the HTTP status says.
    pub fn parse(http_status: u16, body: &[u8], cells: &[Cell]) -> Option<Verdict> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let summary = match body.get("response") {
            Some(response) if response.get("importCount").is_some() || response.get("conflicts").is_some() => response,
            Some(_) => return None,
            None => &body,
        };
        let status = match text(summary, "status")? {
            "SUCCESS" | "OK" => Status::Success,
            "WARNING" => Status::Warning,
            "ERROR" => Status::Error,
            _ => return None,
        };
        let counts = summary.get("importCount").or_else(|| summary.get("dataValueCount"))?;
        let count = |key: &str| counts.get(key).and_then(Value::as_u64).unwrap_or(0);
        let conflicts: Vec<Conflict> = list(summary, "conflicts").iter().map(|conflict| read_conflict(conflict, cells)).collect();
        // Some versions say SUCCESS beside conflicts: a refused cell is not a success.
        let status = if status == Status::Success && !conflicts.is_empty() { Status::Warning } else { status };
        Some(Verdict {
            status,
            http_status,
            imported: count("imported"),
            updated: count("updated"),
            ignored: count("ignored"),
            deleted: count("deleted"),
            description: text(summary, "description").map(bounded),
            conflicts,
        })
    }

    /// Everything was taken; values that were unchanged count as taken.
    pub fn is_success(&self) -> bool {
        self.status == Status::Success
    }

    /// In a line for logs and the operator's list.
    pub fn summary(&self) -> String {
        let Verdict { imported, updated, ignored, deleted, .. } = self;
        let codes: Vec<&str> = self.conflicts.iter().filter_map(|c| c.error_code.as_deref()).collect();
        let codes = if codes.is_empty() { String::new() } else { format!(" ({})", codes.join(", ")) };
        format!(
            "DHIS2 answered {:?}: {imported} imported, {updated} updated, {ignored} ignored, {deleted} deleted, {} conflicts{codes}",
            self.status,
            self.conflicts.len()
        )
    }
}

fn read_conflict(conflict: &Value, cells: &[Cell]) -> Conflict {
    let error_code = text(conflict, "errorCode").map(bounded);
    let indexed = list(conflict, "indexes").iter().filter_map(Value::as_u64).filter_map(|index| cells.get(usize::try_from(index).ok()?));
    let mut concerned: Vec<Cell> = indexed.cloned().collect();
    // Before 2.37 a conflict names an object only: the cells that have it in one of their coordinates are meant.
    if concerned.is_empty()
        && conflict.get("indexes").is_none()
        && let Some(object) = text(conflict, "object")
    {
        let has = |cell: &&Cell| [&cell.data_element, &cell.category_option_combo].iter().any(|part| *part == object);
        concerned = cells.iter().filter(has).cloned().collect();
    }
    let kind = ConflictKind::of(error_code.as_deref());
    Conflict {
        message: bounded(text(conflict, "value").unwrap_or("(no message)")),
        property: text(conflict, "property").map(bounded),
        kind,
        advice: kind.advice(),
        cells: concerned,
        error_code,
    }
}

/// A foreign system's words, kept short.
fn bounded(words: &str) -> String {
    words.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells() -> Vec<Cell> {
        let cell = |element: &str, value: &str| Cell {
            data_element: element.into(),
            category_option_combo: "t5FrQ0GTvGf".into(),
            org_unit: "ou000000001".into(),
            period: "202609".into(),
            value: value.into(),
        };
        vec![cell("de000000001", "5"), cell("de000000002", "0"), cell("de000000003", "7")]
    }

    fn parse(http: u16, body: Value) -> Option<Verdict> {
        Verdict::parse(http, body.to_string().as_bytes(), &cells())
    }

    #[test]
    fn a_wrapped_summary_and_a_bare_one_say_the_same() {
        let bare = json!({"responseType": "ImportSummary", "status": "SUCCESS", "importCount": {"imported": 1, "updated": 2, "ignored": 3, "deleted": 0}, "conflicts": []});
        let wrapped = json!({"httpStatus": "OK", "httpStatusCode": 200, "status": "OK", "response": bare.clone()});
        let (a, b) = (parse(200, bare).unwrap(), parse(200, wrapped).unwrap());
        assert_eq!(a, b);
        assert!(a.is_success(), "ignored values alone are no failure: they were unchanged");
    }

    #[test]
    fn a_409_with_a_summary_is_a_verdict_with_its_cells() {
        let verdict = parse(409, json!({"status": "WARNING", "response": {"status": "WARNING", "importCount": {"imported": 1, "updated": 0, "ignored": 2, "deleted": 0},
            "conflicts": [{"object": "202609", "objects": {"period": "202609"}, "value": "locked", "errorCode": "E7640", "property": "period", "indexes": [0, 2, 99]}]}}))
        .unwrap();
        let conflict = &verdict.conflicts[0];
        assert_eq!((verdict.status, conflict.kind), (Status::Warning, ConflictKind::Locked));
        assert_eq!(conflict.cells, [cells()[0].clone(), cells()[2].clone()]);
    }

    #[test]
    fn the_newer_dialects_conflicts_and_its_abort_are_read() {
        let verdict = parse(409, json!({"status": "ERROR", "response": {"status": "ERROR", "importCount": {"imported": 0, "updated": 0, "ignored": 3, "deleted": 0},
            "conflicts": [{"objects": {"args": "x"}, "value": "no such element", "errorCode": "E8103", "indexes": [-1]}]}}))
        .unwrap();
        assert_eq!((verdict.conflicts[0].kind, verdict.conflicts[0].cells.len()), (ConflictKind::Mapping, 0));
    }

    #[test]
    fn conflicts_of_old_servers_are_joined_to_cells_by_their_object() {
        let verdict = parse(
            200,
            json!({"status": "WARNING", "importCount": {"imported": 2, "updated": 0, "ignored": 1, "deleted": 0},
            "conflicts": [{"object": "de000000002", "value": "Data element not found"}]}),
        )
        .unwrap();
        assert_eq!(verdict.conflicts[0].cells, [cells()[1].clone()]);
    }

    #[test]
    fn success_beside_conflicts_is_not_a_success() {
        let body = json!({"status": "SUCCESS", "importCount": {"imported": 2}, "conflicts": [{"value": "x"}]});
        assert_eq!(parse(200, body).unwrap().status, Status::Warning);
    }

    #[test]
    fn what_is_no_summary_is_no_verdict() {
        for body in [
            json!({"httpStatus": "Conflict", "httpStatusCode": 409, "status": "ERROR", "message": "Unexpected character"}),
            json!([]),
            json!({"status": "OK", "response": {"id": "x"}}),
        ] {
            assert_eq!(parse(409, body), None);
        }
        assert_eq!(Verdict::parse(502, b"<html>", &cells()), None);
    }
}
