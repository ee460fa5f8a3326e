//! From a file, or its text, to a [`Config`].

use std::{
    io,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::{
    Config, check,
    file::Reader,
    report::{Problem, Problems, conclude},
};

/// A configuration's text and what it is relative to.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file's name as problems show it.
    pub name: String,
    /// Its content.
    pub text: String,
    /// The folder where relative paths start.
    pub folder: PathBuf,
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// What is hardly meant so, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Why a file gives no configuration. Help follows in further lines of `Display`.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read the configuration {}{UNREADABLE_HELP}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not text.
    #[error("the configuration {} is not UTF-8 text: byte {at} is the first that is none", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// How many bytes before it are text.
        at: usize,
    },
    /// It can be read, and this is wrong with it.
    #[error(transparent)]
    Problems(#[from] Problems),
}

const UNREADABLE_HELP: &str = "
  = help: `-c FILE` names another file
  = help: `wsgate run --to 127.0.0.1:9000` needs no file: it puts TLS in front of that backend
  = help: `wsgate demo` shows wsgate at work with a backend of its own";

impl Config {
    /// Reads the file at `path` and everything that it names.
    pub fn load(path: &Path) -> Result<Loaded, LoadError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| LoadError::NotText {
            path: path.to_owned(),
            at: error.utf8_error().valid_up_to(),
        })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let source = Source { name: path.display().to_string(), text, folder };
        Ok(Self::parse(&source, &|name| std::env::var(name).ok())?)
    }

    /// Reads a configuration that is already in memory. `env` looks an environment variable up.
    pub fn parse(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
        Self::parse_at(source, env, OffsetDateTime::now_utc())
    }

    /// Puts in what was written, which two configurations are compared by.
    fn with_tables(mut self, text: &str) -> Self {
        self.tables = toml::from_str(text).unwrap_or_default();
        let of_list = |key: &str, place: usize| self.tables.get(key)?.get(place)?.as_table().cloned();
        for (place, listener) in self.listeners.iter_mut().enumerate() {
            listener.table = of_list("listener", place).unwrap_or_default();
        }
        for (place, route) in self.routes.iter_mut().enumerate() {
            route.table = of_list("route", place).unwrap_or_default();
        }
        for upstream in &mut self.upstreams {
            let table = || self.tables.get("upstream")?.get(&upstream.name)?.as_table().cloned();
            upstream.table = table().unwrap_or_default();
        }
        self
    }

    /// The same at a given time, by which certificates are judged.
    pub(super) fn parse_at(
        source: &Source,
        env: &dyn Fn(&str) -> Option<String>,
        now: OffsetDateTime,
    ) -> Result<Loaded, Problems> {
        let (table, syntax) = super::file::syntax(&source.text);
        let reader = Reader::new(source, env, now);
        let config = check::config(&reader, table.get_ref());
        let warnings = conclude(source, syntax, reader.into_findings())?;
        // `check` gives nothing only where it has recorded an error, and then `conclude` has returned it.
        let config = config.map(|config| Config::with_tables(config, &source.text));
        config.map(|config| Loaded { config, warnings }).ok_or_else(|| Problems::unexplained(source))
    }
}
