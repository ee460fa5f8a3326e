//! From a file, or its text, to a [`Config`].

use std::{
    io,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::{
    Admin, CertificateSource, Config, Identity, check,
    file::{Conclusion, Reader},
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

impl Source {
    /// Reads the file at `path`, and nothing yet of what it names.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| LoadError::NotText {
            path: path.to_owned(),
            at: error.utf8_error().valid_up_to(),
        })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { name: path.display().to_string(), text, folder })
    }
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the file says.
    pub config: Config,
    /// What is hardly meant so, in the order of the file.
    pub warnings: Vec<Problem>,
    /// The file, to read it again when only what it names has changed.
    pub source: Source,
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
        Ok(Self::parse(&Source::read(path)?, &|name| std::env::var(name).ok())?)
    }

    /// Reads `[admin]` of the file at `path`, for whoever speaks to the process that runs by it. Whatever else is wrong with the
    /// file is no matter.
    pub fn load_admin(path: &Path) -> Result<Option<Admin>, LoadError> {
        let source = Source::read(path)?;
        let (table, syntax) = super::file::syntax(&source.text);
        let env = |name: &str| std::env::var(name).ok();
        let reader = Reader::new(&source, &env, OffsetDateTime::now_utc());
        let admin = check::admin_alone(&reader, table.get_ref());
        // It may be missing for the reason that the text breaks off before it.
        let syntax = if admin.is_none() { syntax } else { Vec::new() };
        let Conclusion { findings, text, .. } = reader.conclude();
        conclude(&Source { text, ..source.clone() }, syntax, findings)?;
        Ok(admin)
    }

    /// Reads a configuration that is already in memory. `env` looks an environment variable up.
    pub fn parse(source: &Source, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Problems> {
        Self::parse_at(source, env, OffsetDateTime::now_utc())
    }

    /// Reads a configuration that is to replace the one that is running: what cannot change but at a start is a problem.
    pub fn reload(
        source: &Source,
        env: &dyn Fn(&str) -> Option<String>,
        running: &Self,
    ) -> Result<Loaded, Problems> {
        Self::reload_at(source, env, OffsetDateTime::now_utc(), running)
    }

    /// Reads the configuration that is running once more, as files that it names have changed. A certificate whose files can't
    /// be used stays as it is, so that it keeps no other one from being renewed: what is wrong with such is returned beside the
    /// configuration.
    pub fn refresh(
        source: &Source,
        env: &dyn Fn(&str) -> Option<String>,
        running: &Self,
    ) -> Result<(Loaded, Option<Problems>), Problems> {
        let mut reader = Reader::new(source, env, OffsetDateTime::now_utc());
        reader.keep(running.identities());
        Self::read(reader, source, Some(running))
    }

    /// All certificates that were loaded.
    fn identities(&self) -> impl Iterator<Item = &Identity> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let shown = listeners.flat_map(|tls| match &tls.source {
            CertificateSource::Files(identities) => identities.as_slice(),
            CertificateSource::SelfSigned { .. } => &[],
        });
        let upstreams = self.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
        shown.chain(upstreams.filter_map(|tls| tls.identity.as_ref()))
    }

    /// The same at a given time, by which certificates are judged.
    pub(super) fn parse_at(
        source: &Source,
        env: &dyn Fn(&str) -> Option<String>,
        now: OffsetDateTime,
    ) -> Result<Loaded, Problems> {
        Ok(Self::read(Reader::new(source, env, now), source, None)?.0)
    }

    /// The same to replace the configuration that is running.
    pub(super) fn reload_at(
        source: &Source,
        env: &dyn Fn(&str) -> Option<String>,
        now: OffsetDateTime,
        running: &Self,
    ) -> Result<Loaded, Problems> {
        Ok(Self::read(Reader::new(source, env, now), source, Some(running))?.0)
    }

    /// What is read, and what is wrong with certificates that stay as they were.
    fn read(
        reader: Reader<'_>,
        source: &Source,
        running: Option<&Self>,
    ) -> Result<(Loaded, Option<Problems>), Problems> {
        let (table, syntax) = super::file::syntax(&source.text);
        let config = check::config(&reader, table.get_ref(), running);
        let Conclusion { findings, kept, text } = reader.conclude();
        let shown = Source { text, ..source.clone() };
        let broken = conclude(&shown, Vec::new(), kept).err();
        let warnings = conclude(&shown, syntax, findings)?;
        // `check` gives nothing only where it has recorded an error, and then `conclude` has returned it.
        let config = config.ok_or_else(|| Problems::unexplained(source))?;
        Ok((Loaded { config, warnings, source: source.clone() }, broken))
    }
}
