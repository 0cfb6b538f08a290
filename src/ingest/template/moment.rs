//! Dates and times as facilities write them, in the form that FHIR wants.

use crate::fhir::time::parse_interval;
use jiff::{Timestamp, civil, tz::TimeZone};

/// `yyyy-MM-dd` from a date, or from a time: the day that it falls on in `zone`.
pub(super) fn date(text: &str, zone: &TimeZone) -> Option<String> {
    let moment = date_time(text, zone)?;
    if moment.len() == 10 {
        return Some(moment);
    }
    if !text.ends_with(['Z', 'z']) && !has_offset(text) {
        return moment.get(..10).map(str::to_owned);
    }
    let stamp: Timestamp = moment.parse().ok()?;
    Some(stamp.to_zoned(zone.clone()).date().to_string())
}

/// A FHIR dateTime (<https://hl7.org/fhir/R4/datatypes.html#dateTime>) of day precision or finer from `yyyy-MM-dd`, optionally
/// followed by a space or `T`, `HH:mm[:ss[.f]]` and an offset; without an offset it is read in `zone`.
pub(super) fn date_time(text: &str, zone: &TimeZone) -> Option<String> {
    if !text.is_ascii() || text.len() > 40 {
        return None;
    }
    let (day, rest) = (text.get(..10)?, text.get(10..)?);
    let date: civil::Date = day.parse().ok()?;
    parse_interval(day, zone)?;
    if rest.is_empty() {
        return Some(day.to_owned());
    }
    let clock = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = match clock.find(['Z', 'z', '+', '-']) {
        Some(at) => (clock.get(..at)?, clock.get(at..)?),
        None => (clock, ""),
    };
    let clock = clock.trim_end();
    let seconds = if clock.len() == 5 { ":00" } else { "" };
    let offset = match offset.as_bytes() {
        [] => {
            let time: civil::Time = format!("{clock}{seconds}").parse().ok()?;
            let seconds = zone.to_ambiguous_zoned(date.to_datetime(time)).compatible().ok()?.offset().seconds();
            let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.unsigned_abs() / 60);
            format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
        }
        [b'Z' | b'z'] => "Z".to_owned(),
        [_, _, _, _, _] => format!("{}:{}", offset.get(..3)?, offset.get(3..)?),
        _ => offset.to_owned(),
    };
    let moment = format!("{day}T{clock}{seconds}{offset}");
    parse_interval(&moment, zone).map(|_| moment)
}

fn has_offset(text: &str) -> bool {
    text.get(10..).is_some_and(|rest| rest.contains(['+', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> TimeZone {
        TimeZone::fixed(jiff::tz::offset(3))
    }

    #[test]
    fn times_get_seconds_and_a_zone() {
        for (text, moment) in [
            ("2026-09-07", "2026-09-07"),
            ("2026-09-07 09:40:00", "2026-09-07T09:40:00+03:00"),
            ("2026-09-07T09:40", "2026-09-07T09:40:00+03:00"),
            ("2026-09-07T09:40:00.250Z", "2026-09-07T09:40:00.250Z"),
            ("2026-09-07T09:40:00+0100", "2026-09-07T09:40:00+01:00"),
        ] {
            assert_eq!(date_time(text, &zone()).as_deref(), Some(moment), "{text}");
        }
    }

    #[test]
    fn a_time_falls_on_the_day_of_the_deployments_zone() {
        assert_eq!(date("1994-03-21T21:00:00Z", &zone()).as_deref(), Some("1994-03-22"));
        assert_eq!(date("1994-03-22T00:00:00", &zone()).as_deref(), Some("1994-03-22"));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in ["24-08-07", "2026-02-30", "07/09/2026", "2026", "0000-01-01", "2026-09-07T25:00:00Z", "2026-09-07Tx", "２０２６-01-01"]
        {
            assert_eq!(date_time(bad, &zone()), None, "{bad}");
            assert_eq!(date(bad, &zone()), None, "{bad}");
        }
    }
}
