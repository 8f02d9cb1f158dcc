//! Numbers as people read them: as many digits as their interval carries, the same in sentences and in tables.

/// A number without an interval: three significant digits, and no exponent where there need be none.
pub fn number(x: f64) -> String {
    rounded(x, decimals(x, 3))
}

/// A number with as many decimals as its interval carries: two significant digits of half its width.
pub fn within(x: f64, low: Option<f64>, high: Option<f64>) -> String {
    rounded(x, of_interval(x, low, high))
}

/// An interval in brackets, with the decimals of [`within`]; nothing where there is none.
pub fn interval(x: f64, low: Option<f64>, high: Option<f64>) -> String {
    let Some((low, high)) = low.zip(high) else { return String::new() };
    let decimals = of_interval(x, Some(low), Some(high));
    format!("[{}, {}]", rounded(low, decimals), rounded(high, decimals))
}

/// A number, and its interval after a space where it has one.
pub fn with_interval(x: f64, low: Option<f64>, high: Option<f64>) -> String {
    format!("{} {}", within(x, low, high), interval(x, low, high)).trim_end().to_owned()
}

/// A difference: always with its sign, but for none at all.
pub fn signed(x: f64, low: Option<f64>, high: Option<f64>) -> String {
    let text = within(x, low, high);
    if x > 0.0 && text.chars().any(|c| ('1'..='9').contains(&c)) { format!("+{text}") } else { text }
}

/// A p-value: two significant digits, and no smaller than is worth telling apart.
pub fn p_value(p: f64) -> String {
    match p {
        p if p < 1e-4 => "<0.0001".into(),
        p if p < 0.1 => rounded(p, decimals(p, 2)),
        p => rounded(p, 2),
    }
}

/// `1 row`, `2 rows`.
pub fn counted(n: u64, unit: &str) -> String {
    format!("{} {}", grouped(n), if n == 1 { unit.trim_end_matches('s') } else { unit })
}

/// `134,515,008`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large number in short: `134.5 M`, `6.74 B`.
pub fn short(n: u64) -> String {
    let x = n as f64;
    match n {
        0..10_000 => grouped(n),
        10_000..1_000_000 => format!("{:.1} k", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", x / 1e6),
        _ => format!("{:.2} B", x / 1e9),
    }
}

/// A time: `0.8 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A sparsity as the recipe has it: a ratio, or N:M.
pub fn strength(pattern: &str, sparsity: f64) -> String {
    if pattern == "unstructured" { format!("{}", (sparsity * 1e4).round() / 1e4) } else { pattern.to_owned() }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// A sentence of what was a clause.
pub fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The decimals that show so many significant digits of a number, counted after rounding.
fn decimals(x: f64, digits: i32) -> usize {
    if x == 0.0 || !x.is_finite() {
        return 0;
    }
    // 0.0996 to two digits is 0.10, not 0.100.
    let magnitude = |x: f64| x.abs().log10().floor() as i32;
    let unit = 10f64.powi(magnitude(x) - digits + 1);
    let rounded = (x.abs() / unit).round() * unit * (1.0 + 1e-12);
    (digits - 1 - magnitude(rounded)).clamp(0, 12) as usize
}

/// The decimals of a number with an interval: two significant digits of half its width; of one without, three of itself.
fn of_interval(x: f64, low: Option<f64>, high: Option<f64>) -> usize {
    match low.zip(high).map(|(low, high)| (high - low) / 2.0) {
        Some(half) if half > 0.0 && half.is_finite() => decimals(half, 2),
        _ => decimals(x, 3),
    }
}

fn rounded(x: f64, decimals: usize) -> String {
    match x {
        x if x.is_nan() => "n/a".into(),
        x if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.into(),
        x if x.abs() >= 1e7 => format!("{x:.2e}"),
        x => {
            let text = format!("{x:.decimals$}");
            // What is rounded to nothing has no sign.
            let is_nothing = text.starts_with('-') && !text.chars().any(|c| ('1'..='9').contains(&c));
            if is_nothing { text[1..].to_owned() } else { text }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_digits_that_its_interval_carries() {
        let cases = [
            (0.41349, Some((0.3619, 0.4655)), "0.413 [0.362, 0.466]"),
            (27.2649, Some((24.61, 30.12)), "27.3 [24.6, 30.1]"),
            (1207.84, Some((903.2, 1615.0)), "1208 [903, 1615]"),
            (0.70, Some((0.4572, 0.8811)), "0.70 [0.46, 0.88]"),
            (0.0001234, Some((0.0001, 0.00014)), "0.000123 [0.000100, 0.000140]"),
            (529.72, None, "530"),
            (2.0, Some((2.0, 2.0)), "2.00 [2.00, 2.00]"),
            (f64::NAN, None, "n/a"),
            (f64::INFINITY, None, "inf"),
            (123_456_789.0, None, "1.23e8"),
        ];
        for (x, interval, expected) in cases {
            let (low, high) = interval.unzip();
            assert_eq!(with_interval(x, low, high), expected);
        }
    }

    #[test]
    fn a_difference_has_its_sign_and_none_has_none() {
        assert_eq!(signed(0.05, Some(0.0), Some(0.1)), "+0.050");
        assert_eq!(signed(-0.05, Some(-0.1), Some(0.0)), "-0.050");
        assert_eq!(signed(-0.0001, Some(-0.1), Some(0.1)), "0.00");
        assert_eq!(signed(0.0, None, None), "0");
    }

    #[test]
    fn p_values_are_short_and_never_zero() {
        assert_eq!([0.5, 0.049, 0.00123, 1e-9, 1.0].map(p_value), ["0.50", "0.049", "0.0012", "<0.0001", "1.00"]);
    }

    #[test]
    fn rounding_up_to_the_next_power_adds_no_digit() {
        assert_eq!(number(0.9996), "1.00");
        assert_eq!(number(99.96), "100");
        assert_eq!(within(1.0, Some(1.0 - 0.0996), Some(1.0996)), "1.00");
    }

    #[test]
    fn counts_and_times_are_said_as_people_say_them() {
        assert_eq!([counted(1, "rows"), counted(1200, "windows")], ["1 row", "1,200 windows"]);
        assert_eq!([short(134_515_008), short(6_738_415_616), short(960)], ["134.5 M", "6.74 B", "960"]);
        assert_eq!([0.84, 12.4, 200.0, 7500.0].map(duration), ["0.8 s", "12 s", "3 min 20 s", "2 h 5 min"]);
        assert_eq!([strength("unstructured", 0.6), strength("2:4", 0.5)], ["0.6", "2:4"]);
        let list = |n: usize| super::list(&["a", "b", "c"].map(String::from)[..n]);
        assert_eq!([list(0), list(1), list(2), list(3)], ["", "a", "a and b", "a, b and c"]);
    }
}
