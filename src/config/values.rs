//! Durations, sizes, counts and words.

use std::{ops::RangeInclusive, time::Duration};

use toml::de::DeValue;

use super::{
    file::Value,
    report::{Finding, nearest, shown},
};

/// 1 KiB in bytes.
pub(super) const KIB: usize = 1024;
/// 1 MiB in bytes.
pub(super) const MIB: usize = 1024 * KIB;
/// The longest duration of a timeout: what is meant to be longer is meant to be off.
const LONGEST: Duration = days(365);
/// Units of durations with their milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// Units of sizes with their bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What to do about a bound that is meant not to be.
pub(super) const OFF: &str = "\"off\" switches it off";

/// So many days.
pub(super) const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 60 * 60)
}

/// A duration above 0, or "off".
pub(super) fn timeout(value: Value<'_>) -> Result<Option<Duration>, Finding> {
    period_in(&(Duration::from_millis(1)..=LONGEST), value)
}

/// The same with a bound of its own.
pub(super) fn timeout_up_to(most: Duration) -> impl Fn(Value<'_>) -> Result<Option<Duration>, Finding> {
    move |value| period_in(&(Duration::from_millis(1)..=most), value)
}

/// A duration that may be 0, or "off".
pub(super) fn period(value: Value<'_>) -> Result<Option<Duration>, Finding> {
    period_in(&(Duration::ZERO..=LONGEST), value)
}

fn period_in(range: &RangeInclusive<Duration>, value: Value<'_>) -> Result<Option<Duration>, Finding> {
    let Some(duration) = off_or(value, duration)? else { return Ok(None) };
    match out_of_range(value, range, duration, show_duration) {
        None => Ok(Some(duration)),
        Some(finding) => Err(finding.help(OFF)),
    }
}

/// A duration within bounds; "off" is no value.
pub(super) fn duration_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(Value<'_>) -> Result<Duration, Finding> {
    move |value| {
        if is_off(value) {
            return Err(cannot_be_off(value).label("expected a duration such as \"5s\""));
        }
        let found = duration(value)?;
        out_of_range(value, &range, found, show_duration).map_or(Ok(found), Err)
    }
}

/// A duration as it stands.
pub(super) fn duration(value: Value<'_>) -> Result<Duration, Finding> {
    const EXPECTED: &str = "expected a duration such as \"500ms\", \"30s\", \"5m\" or \"1h\"";
    if let DeValue::Integer(number) = value.node.get_ref() {
        let help = format!("with its unit: `\"{}s\"` if seconds are meant", number.as_str());
        return Err(value.wrong_type("a duration in quotes").help(help));
    }
    let text = value.text()?;
    let (number, unit) = split(&text);
    let unit_ms = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ms)| *ms);
    let finding = || value.finding(format!("`{}` is not a duration", shown(&text))).label(EXPECTED);
    match (number.parse::<u64>(), unit_ms) {
        (Ok(number), Some(unit)) => Ok(number.checked_mul(unit).map_or(Duration::MAX, Duration::from_millis)),
        (Ok(_), None) if unit.is_empty() => {
            Err(finding().help(format!("with its unit: `\"{number}s\"` if seconds are meant")))
        }
        (Ok(_), None) if unit.starts_with('.') => {
            Err(finding().help("a whole number of a smaller unit: \"1500ms\" for one and a half seconds"))
        }
        _ => Err(finding().help("a whole number and one of the units ms, s, m, h, d")),
    }
}

/// A duration written as in the file, outside of it.
pub fn duration_of(text: &str) -> Option<Duration> {
    let (number, unit) = split(text);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*unit).map(Duration::from_millis)
}

/// Bytes that wsgate may have to hold in memory, so that "off" is no value.
pub(super) fn memory(range: RangeInclusive<usize>) -> impl Fn(Value<'_>) -> Result<usize, Finding> {
    move |value| {
        if is_off(value) {
            return Err(cannot_be_off(value)
                .label("this bounds what a client can make wsgate hold in memory")
                .help(format!("the most is \"{}\"", show_size(wide(*range.end())))));
        }
        let size = size(value)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        out_of_range(value, &range, size, |size| show_size(wide(size))).map_or(Ok(size), Err)
    }
}

/// Bytes, or "off".
pub(super) fn size_or_off(value: Value<'_>) -> Result<Option<u64>, Finding> {
    off_or(value, size)
}

/// Bytes above 0, or "off".
pub(super) fn size_limit(value: Value<'_>) -> Result<Option<u64>, Finding> {
    let Some(size) = off_or(value, size)? else { return Ok(None) };
    match out_of_range(value, &(1..=u64::MAX), size, show_size) {
        None => Ok(Some(size)),
        Some(finding) => Err(finding.help(OFF)),
    }
}

/// A number of bytes: an integer, or a string with its unit.
fn size(value: Value<'_>) -> Result<u64, Finding> {
    if matches!(value.node.get_ref(), DeValue::Integer(_)) {
        return integer(value);
    }
    if !value.node.get_ref().is_str() {
        return Err(value.wrong_type("a size such as \"16KiB\", or an integer of bytes"));
    }
    let text = value.text()?;
    let (number, unit) = split(&text);
    let bytes = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
    if let (Ok(number), Some(bytes)) = (number.parse::<u64>(), bytes) {
        return Ok(number.saturating_mul(bytes));
    }
    let meant = unit.chars().next().and_then(|letter| {
        SIZES.iter().find(|(name, _)| name.starts_with(letter.to_ascii_uppercase())).map(|(name, _)| *name)
    });
    let help = match meant {
        Some(unit) if !number.is_empty() => format!("did you mean \"{number}{unit}\"?"),
        _ => "a whole number and one of the units B, KiB, MiB, GiB".to_owned(),
    };
    Err(value
        .finding(format!("`{}` is not a size", shown(&text)))
        .label("expected a size such as \"16KiB\" or \"1MiB\"")
        .help(help))
}

/// An integer within bounds; "off" is no value.
pub(super) fn count<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(Value<'_>) -> Result<T, Finding> {
    move |value| {
        if is_off(value) {
            let (least, most) = (show_count(*range.start()), show_count(*range.end()));
            return Err(cannot_be_off(value).label(format!("expected a number from {least} to {most}")));
        }
        let count = integer(value)?;
        let found = out_of_range(value, &range, count, show_count);
        found.map_or_else(|| T::try_from(count).map_err(|_| value.finding("this number is too large")), Err)
    }
}

/// An integer within bounds above 0, or "off".
pub(super) fn count_or_off<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(Value<'_>) -> Result<Option<T>, Finding> {
    let count = count(range);
    move |value| {
        let is_zero = integer(value).is_ok_and(|number| number == 0);
        off_or(value, &count).map_err(|finding| if is_zero { finding.help(OFF) } else { finding })
    }
}

/// An integer that is not negative.
pub(super) fn integer(value: Value<'_>) -> Result<u64, Finding> {
    let DeValue::Integer(number) = value.node.get_ref() else {
        let finding = value.wrong_type("an integer");
        let unquoted = value.node.get_ref().as_str().filter(|text| text.parse::<u64>().is_ok());
        return Err(finding.maybe_help(unquoted.map(|number| format!("write it without quotes: `{number}`"))));
    };
    let digits = number.as_str();
    if digits.starts_with('-') {
        return Err(value.finding(format!("`{}` cannot be negative", value.key)));
    }
    Ok(u64::from_str_radix(digits.trim_start_matches('+'), number.radix()).unwrap_or(u64::MAX))
}

/// A TCP port.
pub(super) fn port(value: Value<'_>) -> Result<u16, Finding> {
    count(1..=u64::from(u16::MAX))(value)
}

/// What `parse` reads, or `None` for "off".
pub(super) fn off_or<'r, T>(
    value: Value<'r>,
    parse: impl FnOnce(Value<'r>) -> Result<T, Finding>,
) -> Result<Option<T>, Finding> {
    if is_off(value) {
        return Ok(None);
    }
    if value.node.get_ref().as_bool() == Some(false) {
        return Err(value.finding(format!("`{}` cannot be `false`", value.key)).help("write `\"off\"`"));
    }
    parse(value).map(Some)
}

/// One of several words.
pub(super) fn choice<T: Copy>(words: &[(&str, T)]) -> impl Fn(Value<'_>) -> Result<T, Finding> {
    move |value| {
        let text = value.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        found.ok_or_else(|| unknown_word(value, &text, words.iter().map(|(word, _)| *word)))
    }
}

/// The error for a word that is none of the possible ones.
pub(super) fn unknown_word<'a>(
    value: Value<'_>,
    text: &str,
    words: impl Iterator<Item = &'a str> + Clone,
) -> Finding {
    unknown_word_of(value.key, text, words).at(value.span())
}

/// The same, of a key whose value stands in no file.
pub(super) fn unknown_word_of<'a>(
    key: &str,
    text: &str,
    words: impl Iterator<Item = &'a str> + Clone,
) -> Finding {
    let possible: Vec<_> = words.clone().map(|word| format!("\"{word}\"")).collect();
    let meant = nearest(text, words).map(|word| format!("did you mean \"{word}\"?"));
    let expected = match &possible[..] {
        [only] => format!("the only value is {only}"),
        _ => format!("possible values: {}", possible.join(", ")),
    };
    Finding::of_file(format!("unknown value `{}` of `{key}`", shown(text))).label(expected).maybe_help(meant)
}

/// The error for a value outside its bounds.
pub(super) fn out_of_range<T: PartialOrd + Copy>(
    value: Value<'_>,
    range: &RangeInclusive<T>,
    found: T,
    show: impl Fn(T) -> String,
) -> Option<Finding> {
    let (bound, side) = if found < *range.start() {
        (*range.start(), "too small: the least")
    } else if found > *range.end() {
        (*range.end(), "too large: the most")
    } else {
        return None;
    };
    Some(
        value
            .finding(format!("`{}` is out of bounds", value.key))
            .label(format!("{side} is {}", show(bound))),
    )
}

/// Whether this is "off", by its variables too. What is wrong with them is found when the value is parsed.
fn is_off(value: Value<'_>) -> bool {
    value.is_word("off")
}

fn cannot_be_off(value: Value<'_>) -> Finding {
    value.finding(format!("`{}` cannot be off", value.key))
}

/// Digits, which may be grouped by `_`, and what follows them.
pub(super) fn split(text: &str) -> (String, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number.replace('_', ""), unit)
}

/// A duration as it is written in the file.
pub(super) fn show_duration(duration: Duration) -> String {
    in_units(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &UNITS)
}

/// A size as it is written in the file.
pub(super) fn show_size(bytes: u64) -> String {
    in_units(bytes, &SIZES)
}

fn wide(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// An amount in its largest whole unit; the units begin with the largest.
fn in_units(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, unit): &&(&str, u64)| amount >= *unit && amount.is_multiple_of(*unit);
    match units.iter().find(fits).or(units.last()) {
        Some((name, unit)) => format!("{}{name}", amount / unit),
        None => amount.to_string(),
    }
}

/// A number with its thousands apart, as the file may have it.
pub(super) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('_');
        }
        shown.push(digit);
    }
    shown
}
