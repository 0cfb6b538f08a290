//! Instants are microseconds since 1970-01-01T00:00:00Z; a partial date is the half-open interval that it names
//! (<https://hl7.org/fhir/R4/search.html#date>). Times are never compared as text.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Microseconds since the Unix epoch, UTC.
pub type Micros = i64;

/// `low <= t < high`, both in microseconds. An open end of a Period is [`Interval::MIN`] or [`Interval::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    pub low: Micros,
    pub high: Micros,
}

impl Interval {
    /// Before every FHIR date (year 0001 is the earliest).
    pub const MIN: Micros = -62_200_000_000_000_000;
    /// After every FHIR date (year 9999 is the latest).
    pub const MAX: Micros = 253_500_000_000_000_000;

    /// The interval from `self.low` to `end.high`: what a Period of two partial dates covers.
    pub fn through(self, end: Interval) -> Interval {
        Interval { low: self.low, high: end.high }
    }
}

/// Now, in microseconds.
pub fn now() -> Micros {
    Timestamp::now().as_microsecond()
}

/// The instant as FHIR writes it in `meta.lastUpdated`: always 27 bytes, UTC, six decimals.
pub fn format_instant(micros: Micros) -> String {
    let stamp = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH);
    stamp.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Reads a FHIR `date`, `dateTime`, `instant` (or a search value in those forms): `YYYY`, `YYYY-MM`, `YYYY-MM-DD`, or with
/// time `Thh:mm[:ss[.f]]` and zone `Z|±hh:mm`. What has no zone is read in `zone`. `None` when it is not a date.
pub fn parse_interval(text: &str, zone: &TimeZone) -> Option<Interval> {
    let bytes = text.as_bytes();
    if !text.is_ascii() || bytes.len() < 4 || bytes.len() > 40 {
        return None;
    }
    let year: i16 = digits(text.get(0..4)?)?.try_into().ok()?;
    if year == 0 {
        return None;
    }
    if bytes.len() == 4 {
        return between(day_start(civil::Date::new(year, 1, 1).ok()?, zone)?, next_year_start(year, zone)?);
    }
    let month: i8 = (bytes[4] == b'-').then(|| digits(text.get(5..7)?))??.try_into().ok()?;
    let first = civil::Date::new(year, month, 1).ok()?;
    if bytes.len() == 7 {
        let high = if month == 12 { next_year_start(year, zone)? } else { day_start(civil::Date::new(year, month + 1, 1).ok()?, zone)? };
        return between(day_start(first, zone)?, high);
    }
    let day: i8 = (bytes.get(7) == Some(&b'-')).then(|| digits(text.get(8..10)?))??.try_into().ok()?;
    let date = civil::Date::new(year, month, day).ok()?;
    if bytes.len() == 10 {
        let high = if month == 12 && day == 31 { next_year_start(year, zone)? } else { day_start(date.tomorrow().ok()?, zone)? };
        return between(day_start(date, zone)?, high);
    }
    (bytes[10] == b'T').then_some(())?;
    time_interval(date, text.get(11..)?, zone)
}

fn time_interval(date: civil::Date, rest: &str, zone: &TimeZone) -> Option<Interval> {
    let (clock, offset) = match rest.find(['Z', '+', '-']) {
        Some(at) => (&rest[..at], Some(&rest[at..])),
        None => (rest, None),
    };
    let hour: i8 = digits(clock.get(0..2)?)?.try_into().ok()?;
    let minute: i8 = (clock.get(2..3)? == ":").then(|| digits(clock.get(3..5)?))??.try_into().ok()?;
    let (mut second, mut micros, mut width): (i8, i64, i64) = (0, 0, 60_000_000);
    if clock.len() > 5 {
        second = (clock.get(5..6)? == ":").then(|| digits(clock.get(6..8)?))??.try_into().ok()?;
        width = 1_000_000;
        // A leap second is the last instant of its minute.
        second = if second == 60 { 59 } else { second };
        if clock.len() > 8 {
            let fraction = (clock.get(8..9)? == ".").then(|| clock.get(9..))??;
            if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            for place in 0..6 {
                let digit = fraction.as_bytes().get(place).map_or(0, |b| i64::from(b - b'0'));
                micros = micros * 10 + digit;
            }
            width = 10i64.pow(6u32.saturating_sub(fraction.len() as u32));
        }
    }
    let time = civil::Time::new(hour, minute, second, 0).ok()?;
    let civil = date.to_datetime(time);
    let low = match offset {
        Some("Z") => utc(civil)?,
        Some(text) => utc(civil)? - offset_micros(text)?,
        None => zone.to_ambiguous_timestamp(civil).compatible().ok()?.as_microsecond(),
    } + micros;
    between(low, low + width)
}

fn offset_micros(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    if text.len() != 6 || text.get(3..4)? != ":" {
        return None;
    }
    let (hours, minutes) = (digits(text.get(1..3)?)?, digits(text.get(4..6)?)?);
    (hours <= 14 && minutes < 60).then(|| sign * i64::from(hours * 60 + minutes) * 60_000_000)
}

fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn utc(civil: civil::DateTime) -> Option<Micros> {
    let days = civil.date().duration_since(civil::date(1970, 1, 1)).as_secs();
    let time = civil.time();
    Some((days + i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second())) * 1_000_000)
}

fn day_start(date: civil::Date, zone: &TimeZone) -> Option<Micros> {
    if *zone == TimeZone::UTC {
        return utc(date.to_datetime(civil::Time::midnight()));
    }
    Some(zone.to_ambiguous_timestamp(date.to_datetime(civil::Time::midnight())).compatible().ok()?.as_microsecond())
}

fn next_year_start(year: i16, zone: &TimeZone) -> Option<Micros> {
    match year {
        9999 => Some(Interval::MAX),
        _ => day_start(civil::Date::new(year + 1, 1, 1).ok()?, zone),
    }
}

fn between(low: Micros, high: Micros) -> Option<Interval> {
    (Interval::MIN <= low && low < high && high <= Interval::MAX).then_some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc_interval(text: &str) -> Option<(String, String)> {
        parse_interval(text, &TimeZone::UTC).map(|i| (format_instant(i.low), format_instant(i.high)))
    }

    #[test]
    fn partial_dates_cover_what_they_name() {
        let cases = [
            ("2026", "2026-01-01T00:00:00.000000Z", "2027-01-01T00:00:00.000000Z"),
            ("2026-12", "2026-12-01T00:00:00.000000Z", "2027-01-01T00:00:00.000000Z"),
            ("2024-02-29", "2024-02-29T00:00:00.000000Z", "2024-03-01T00:00:00.000000Z"),
            ("2026-11-21T04:05", "2026-11-21T04:05:00.000000Z", "2026-11-21T04:06:00.000000Z"),
            ("2026-11-21T04:05:06+03:00", "2026-11-21T01:05:06.000000Z", "2026-11-21T01:05:07.000000Z"),
            ("2026-11-21T04:05:06.25Z", "2026-11-21T04:05:06.250000Z", "2026-11-21T04:05:06.260000Z"),
        ];
        for (text, low, high) in cases {
            assert_eq!(utc_interval(text), Some((low.into(), high.into())), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for bad in [
            "0000",
            "99999",
            "26",
            "2026-13",
            "2026-02-30",
            "2026-1-1",
            "2026-11-21T",
            "2026-11-21T25:00Z",
            "2026-11-21T10:00:00.Z",
            "2026-11-21T10:00:00+15:00",
            "24-08-07",
            "２０２６",
        ] {
            assert_eq!(utc_interval(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_date_without_a_zone_is_read_in_the_deployments_zone() {
        let zone = TimeZone::get("Africa/Dar_es_Salaam").unwrap_or(TimeZone::fixed(jiff::tz::offset(3)));
        let day = parse_interval("2026-09-07", &zone).unwrap();
        assert_eq!(format_instant(day.low), "2026-09-06T21:00:00.000000Z");
    }
}
