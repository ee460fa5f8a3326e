//! Files that the configuration names.

use std::{fs, io, path::Path};

use super::{
    file::Value,
    report::{Finding, shown},
};

/// What a file should be.
pub(super) struct Kind {
    /// As a message names it.
    pub(super) name: &'static str,
    /// A file of more bytes is some other file.
    pub(super) most: u64,
    /// Help where there is none.
    pub(super) made_by: &'static str,
}

/// Reads a regular file of a bounded size, so that no device or pipe can hold the start up.
pub(super) fn read(value: Value<'_>, path: &Path, kind: &Kind) -> Result<Vec<u8>, Finding> {
    let name = kind.name;
    value.reader.note_file(path);
    let error = |reason: String| {
        value
            .finding(format!("cannot read the {name} file `{}`", shown(&value.text().unwrap_or_default())))
            .label(reason)
    };
    let unreadable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => error("there is no such file".to_owned())
            .help(kind.made_by)
            .help("a relative path starts at the folder of the configuration file"),
        io::ErrorKind::PermissionDenied => error("the user that wsgate runs as may not read it".to_owned()),
        _ => error(cause.to_string()),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(error("this is not a regular file".to_owned()));
    }
    if metadata.len() > kind.most {
        return Err(error(format!("this file is too large for a {name} file")));
    }
    fs::read(path).map_err(unreadable)
}
