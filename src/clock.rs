//! This machine's clock, and the calendar (Howard Hinnant's `days_from_civil`, and backwards: years begin in March, so that the
//! leap day is their last).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The day (UTC) of a time in seconds since 1970, such as `2026-11-26`.
pub fn day(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}

/// A date of HTTP, "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7), since 1970.
pub fn of_http(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.split_whitespace().collect();
    let &[_, day, month, year, time, "GMT"] = parts.as_slice() else { return None };
    let clock = time.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
    let &[hours, minutes, seconds] = clock.as_slice() else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let (day, year) =
        (day.parse::<u64>().ok()?, year.parse::<u64>().ok().filter(|year| (1970..10_000).contains(year))?);
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.checked_sub(1)?;
    let seconds = days.checked_sub(719_468)? * 86_400 + hours * 3600 + minutes * 60 + seconds;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        // By `date -u -d @N +%F`.
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (1_709_251_200, "2024-03-01"),
            (1_795_522_473, "2026-11-24"),
            (4_107_542_399, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day(seconds), expected);
        }
    }

    #[test]
    fn a_date_of_http_is_a_time() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
        ] {
            assert_eq!(of_http(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
