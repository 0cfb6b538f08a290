//! The period that a report covers: whole days in the deployment's time zone.

use crate::fhir::{Interval, Issue, IssueCode};
use jiff::{civil::Date, tz::TimeZone};

/// From the first day to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReportPeriod {
    first: Date,
    last: Date,
}

impl ReportPeriod {
    /// `None` when the last day is before the first.
    pub fn new(first: Date, last: Date) -> Option<ReportPeriod> {
        (first <= last).then_some(ReportPeriod { first, last })
    }

    /// Reads a year, month, day (`2026`, `2026-09`, `2026-09-07`) or quarter (`2026-Q3`), or `FIRST/LAST` of those.
    pub fn parse(text: &str) -> Result<ReportPeriod, Issue> {
        let whole = match text.split_once('/') {
            Some((first, last)) => named(first).zip(named(last)).and_then(|(first, last)| ReportPeriod::new(first.first, last.last)),
            None => named(text),
        };
        whole.ok_or_else(|| {
            Issue::error(
                IssueCode::Value,
                "The period is not one that can be read: write a month as 2026-09 (or 2026, 2026-Q3, 2026-09-07, FIRST/LAST).",
            )
        })
    }

    /// `periodStart` and `periodEnd` of `$evaluate-measure`: partial dates widen to the start and the end of what they name;
    /// a time of day is refused, because a report counts whole days.
    pub fn between(start: &str, end: &str) -> Result<ReportPeriod, Issue> {
        let part = |text: &str, name: &str| {
            named(text)
                .ok_or_else(|| Issue::error(IssueCode::Value, format!("{name} must be a date: YYYY, YYYY-MM or YYYY-MM-DD.")).at(name))
        };
        let (first, last) = (part(start, "periodStart")?.first, part(end, "periodEnd")?.last);
        ReportPeriod::new(first, last).ok_or_else(|| Issue::error(IssueCode::Value, "periodEnd is before periodStart.").at("periodEnd"))
    }

    pub fn first(&self) -> Date {
        self.first
    }

    /// The last day, which belongs to the period.
    pub fn last(&self) -> Date {
        self.last
    }

    pub fn contains(&self, day: Date) -> bool {
        self.first <= day && day <= self.last
    }

    /// From the first instant of the first day to the first instant after the last one.
    pub fn interval(&self, zone: &TimeZone) -> Option<Interval> {
        let day = |date: Date| crate::fhir::time::parse_interval(&date.to_string(), zone);
        Some(day(self.first)?.through(day(self.last)?))
    }
}

/// What a partial date or a quarter names.
fn named(text: &str) -> Option<ReportPeriod> {
    if text.len() > 10 || !text.is_ascii() {
        return None;
    }
    let mut parts = text.split('-');
    let number =
        |part: &str, width: usize| (part.len() == width && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<i16>().ok())?;
    let year = number(parts.next()?, 4).filter(|year| *year > 0)?;
    let (first, last) = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => (Date::new(year, 1, 1).ok()?, Date::new(year, 12, 31).ok()?),
        (Some(quarter), None, None) if quarter.starts_with('Q') => {
            let quarter = number(quarter.get(1..)?, 1).filter(|q| (1..=4).contains(q))?;
            let first = Date::new(year, i8::try_from(quarter * 3 - 2).ok()?, 1).ok()?;
            (first, Date::new(year, i8::try_from(quarter * 3).ok()?, 1).ok()?.last_of_month())
        }
        (Some(month), None, None) => {
            let first = Date::new(year, i8::try_from(number(month, 2)?).ok()?, 1).ok()?;
            (first, first.last_of_month())
        }
        (Some(month), Some(day), None) => {
            let day = Date::new(year, i8::try_from(number(month, 2)?).ok()?, i8::try_from(number(day, 2)?).ok()?).ok()?;
            (day, day)
        }
        _ => return None,
    };
    ReportPeriod::new(first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(text: &str) -> Option<(String, String)> {
        ReportPeriod::parse(text).ok().map(|p| (p.first().to_string(), p.last().to_string()))
    }

    #[test]
    fn partial_dates_name_whole_periods() {
        for (text, first, last) in [
            ("2026-09", "2026-09-01", "2026-09-30"),
            ("2024-02", "2024-02-01", "2024-02-29"),
            ("2026", "2026-01-01", "2026-12-31"),
            ("2026-Q3", "2026-07-01", "2026-09-30"),
            ("2026-09-07", "2026-09-07", "2026-09-07"),
            ("2026-01/2026-06", "2026-01-01", "2026-06-30"),
        ] {
            assert_eq!(days(text), Some((first.into(), last.into())), "{text}");
        }
    }

    #[test]
    fn what_is_no_period_is_refused() {
        for bad in ["", "0000", "2026-13", "2026-9", "2026-Q5", "2026-02-30", "2026-09/2026-08", "99999", "２０２６", "2026-01-01-01"] {
            assert_eq!(days(bad), None, "{bad}");
        }
        assert_eq!(ReportPeriod::between("2026-09", "2026-09").unwrap(), ReportPeriod::parse("2026-09").unwrap());
        assert_eq!(ReportPeriod::between("2026-09-01T00:00:00Z", "2026-09").unwrap_err().expression, "periodStart");
    }

    #[test]
    fn a_period_begins_at_midnight_where_the_deployment_is() {
        let zone = TimeZone::fixed(jiff::tz::offset(3));
        let interval = ReportPeriod::parse("2026-09").unwrap().interval(&zone).unwrap();
        assert_eq!(crate::fhir::time::format_instant(interval.low), "2026-08-31T21:00:00.000000Z");
        assert_eq!(crate::fhir::time::format_instant(interval.high), "2026-09-30T21:00:00.000000Z");
    }
}
