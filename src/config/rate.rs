//! So many in a period.

use std::{fmt, num::NonZeroU32, time::Duration};

use super::{
    file::Value,
    report::{Finding, shown},
    values,
};

/// Periods with their seconds.
const PERIODS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];
/// What people write for them.
const OTHER_WORDS: [(&str, &str); 9] = [
    ("sec", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("min", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("hr", "h"),
    ("hour", "h"),
    ("hours", "h"),
];

/// A rate such as `100/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how long: a second, a minute or an hour.
    pub period: Duration,
}

impl fmt::Display for Rate {
    /// As it is written in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = PERIODS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == self.period);
        match known {
            Some((period, _)) => write!(f, "{}/{period}", self.count),
            None => write!(f, "{}/{}", self.count, values::show_duration(self.period)),
        }
    }
}

/// A rate, or "off".
pub(super) fn rate_or_off(value: Value<'_>) -> Result<Option<Rate>, Finding> {
    values::off_or(value, rate)
}

fn rate(value: Value<'_>) -> Result<Rate, Finding> {
    if !value.node.get_ref().is_str() {
        let number = values::integer(value).ok().filter(|number| *number > 0);
        let help = number.map_or_else(|| "\"off\" sets no limit".to_owned(), with_period);
        return Err(value.wrong_type("a rate in quotes, such as \"100/s\"").help(help));
    }
    let text = value.text()?;
    let (number, period) = text.split_once('/').unwrap_or((&text, ""));
    let (digits, rest) = values::split(number);
    let seconds = PERIODS.iter().find(|(name, _)| *name == period).map(|(_, seconds)| *seconds);
    match seconds {
        Some(seconds) if rest.is_empty() && !digits.is_empty() => {
            let count = count(value, digits.parse().unwrap_or(u64::MAX), period)?;
            Ok(Rate { count, period: Duration::from_secs(seconds) })
        }
        _ => Err(value
            .finding(format!("`{}` is not a rate", shown(&text)))
            .label("expected a rate such as \"100/s\", \"600/m\" or \"10_000/h\"")
            .help(meant(&digits, rest.trim(), period.trim()))),
    }
}

fn count(value: Value<'_>, number: u64, period: &str) -> Result<NonZeroU32, Finding> {
    let range = 1..=u64::from(u32::MAX);
    let show = |number| format!("{}/{period}", values::show_count(number));
    if let Some(finding) = values::out_of_range(value, &range, number, show) {
        return Err(finding.help(values::OFF));
    }
    let count = u32::try_from(number).ok().and_then(NonZeroU32::new);
    count.ok_or_else(|| value.finding("this rate is out of bounds"))
}

fn with_period(number: impl fmt::Display) -> String {
    format!("with its period: `\"{number}/s\"` if a second is meant")
}

/// The help for a text of these parts that is no rate.
fn meant(digits: &str, rest: &str, period: &str) -> String {
    let period = period.to_lowercase();
    let known = PERIODS.iter().map(|(name, _)| (*name, *name)).chain(OTHER_WORDS);
    let known = known.into_iter().find(|(word, _)| *word == period).map(|(_, name)| name);
    match known {
        _ if digits.is_empty() || !(rest.is_empty() || rest.starts_with('.')) => {
            "a whole number, a `/` and one of the periods s, m, h".to_owned()
        }
        _ if rest.starts_with('.') => {
            "a whole number in a longer period: \"30/m\" for one in two seconds".to_owned()
        }
        Some(name) => format!("did you mean \"{digits}/{name}\"?"),
        None if period.is_empty() => with_period(digits),
        None => "the periods are s, m and h, for a second, a minute and an hour".to_owned(),
    }
}
