//! The day that a study takes for today, and how `strftime_now` prints it.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl FromStr for Date {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || -> Option<Self> {
            let numbers = text.split('-').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()?;
            let &[year, month, day] = numbers.as_slice() else { return None };
            let date = Self { year, month, day };
            let fits =
                (1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=date.days_of_month()).contains(&day);
            (fits && text.len() == 10).then_some(date)
        };
        read().with_context(|| format!("\"{text}\" is no date; expected one such as \"2025-01-31\""))
    }
}

impl TryFrom<String> for Date {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.to_string()
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Date {
    fn is_leap_year(self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn days_of_month(self) -> u32 {
        match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if self.is_leap_year() => 29,
            2 => 28,
            _ => 31,
        }
    }

    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| Self { month, ..self }.days_of_month()).sum::<u32>() + self.day
    }

    /// From Sunday, which is 0 (Zeller's congruence, by the days since the year 0).
    fn day_of_week(self) -> usize {
        let before = self.year - 1;
        let days = before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year();
        days as usize % 7
    }

    /// As Python's `strftime` prints it at midnight, in English.
    pub fn format(self, format: &str) -> Result<String> {
        ensure!(format.len() <= 1000, "the format of a date has {} bytes", format.len());
        let (month, day) = (MONTHS[self.month as usize - 1], DAYS[self.day_of_week()]);
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let mut code = chars.next().context("a format of a date ends in %")?;
            let padded = code != '-';
            if !padded {
                code = chars.next().context("a format of a date ends in %-")?;
            }
            let number = |number: u32, width: usize| match padded {
                true => format!("{number:0width$}"),
                false => number.to_string(),
            };
            text.push_str(&match code {
                'Y' => self.year.to_string(),
                'y' => number(self.year % 100, 2),
                'm' => number(self.month, 2),
                'd' => number(self.day, 2),
                'e' if padded => format!("{:2}", self.day),
                'e' => self.day.to_string(),
                'j' => number(self.day_of_year(), 3),
                'B' => month.to_owned(),
                'b' | 'h' => month[..3].to_owned(),
                'A' => day.to_owned(),
                'a' => day[..3].to_owned(),
                'w' => self.day_of_week().to_string(),
                'u' => (if self.day_of_week() == 0 { 7 } else { self.day_of_week() }).to_string(),
                'F' => self.to_string(),
                'D' | 'x' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
                'H' | 'M' | 'S' => number(0, 2),
                'I' => number(12, 2),
                'p' => "AM".into(),
                'T' | 'X' => "00:00:00".into(),
                'R' => "00:00".into(),
                '%' => "%".into(),
                other => bail!("%{other} in the format of a date is not known to calipr"),
            });
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_python_prints_them() {
        let date: Date = "2024-07-26".parse().unwrap();
        assert_eq!(
            date.format("%d %b %Y, %A %-d %B %y, day %j, %H:%M").unwrap(),
            "26 Jul 2024, Friday 26 July 24, day 208, 00:00"
        );
        let date: Date = "2000-02-29".parse().unwrap();
        assert_eq!(date.format("%a %e %m %-m %u %w").unwrap(), "Tue 29 02 2 2 2");
        assert!(
            ["2023-02-29", "2024-7-26", "24-07-26", "today", "2024-13-01"]
                .iter()
                .all(|text| text.parse::<Date>().is_err())
        );
        assert!(date.format("%Q").is_err());
    }
}
