//! What a gate exposes, read as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// The type of each metric, by the name that its `# TYPE` line has.
    pub types: BTreeMap<String, String>,
    /// Those that have a `# HELP` line.
    pub helped: BTreeSet<String>,
    pub samples: Vec<Sample>,
}

/// A line of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Reads `OpenMetrics` text, whose lines must all be legal, and of which no series may stand there twice.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        let (body, end) = text.split_at(text.len() - "# EOF\n".len());
        assert_eq!(end, "# EOF\n");
        let mut series = BTreeSet::new();
        for line in body.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!help.is_empty() && help.ends_with('.'), "{line}");
                    assert!(metrics.helped.insert(name.to_owned()), "{name} twice");
                }
                ["#", "TYPE", name, kind] => {
                    assert!(metrics.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
                }
                ["#", "UNIT", name, unit] => assert!(name.ends_with(&format!("_{unit}")), "{line}"),
                _ => {
                    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                    assert!(series.insert(name.to_owned()), "{name} twice");
                    metrics.samples.push(sample(name, value));
                }
            }
        }
        metrics
    }

    /// The sum of all series of `name` that have these labels; 0 if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|own| own == value))
        };
        self.samples.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// The metric that a sample belongs to: counters and histograms add to its name.
    pub fn metric_of(&self, sample: &str) -> String {
        let suffixes = ["", "_total", "_bucket", "_sum", "_count"];
        let bare = suffixes.iter().filter_map(|suffix| sample.strip_suffix(suffix));
        let known = bare.into_iter().find(|name| self.types.contains_key(*name));
        known.unwrap_or_else(|| panic!("{sample} has no type")).to_owned()
    }
}

#[track_caller]
fn sample(series: &str, value: &str) -> Sample {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let mut rest = labels;
    let mut found = BTreeMap::new();
    while rest != "}" {
        let (key, quoted) =
            rest.trim_start_matches(',').split_once("=\"").unwrap_or_else(|| panic!("{series}"));
        // No label of these tests has a quote in it.
        let (value, after) = quoted.split_once('"').unwrap_or_else(|| panic!("{series}"));
        assert!(found.insert(key.to_owned(), value.to_owned()).is_none(), "{series}");
        rest = after;
    }
    let value = value.parse().unwrap_or_else(|_| panic!("{series} {value}"));
    Sample { name: name.to_owned(), labels: found, value }
}
