//! Reading and writing the folder's files.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{CertError, Pair};

/// Makes the folder if it is missing, and keeps other processes out of it until the lock is dropped.
pub(super) fn lock(folder: &Path) -> Result<File, CertError> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed("make", folder))?;
    let lock = File::open(folder).map_err(failed("open", folder))?;
    // Some network file systems cannot lock a folder; two starts in one instant are rare enough there.
    let _ = rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
    Ok(lock)
}

/// Writes a pair, over what is there. The key comes first: a crash between the two is told apart from a whole
/// pair when it is read again.
pub(super) fn write_pair(pair: &Pair, key: &str, cert: &str) -> Result<(), CertError> {
    write(&pair.key, key, 0o600)?;
    write(&pair.cert, cert, 0o644)
}

/// Puts `contents` at `path`, whole or not at all, and never with wider permissions than `mode`.
fn write(path: &Path, contents: &str, mode: u32) -> Result<(), CertError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    let written = write_draft(draft, contents, mode).and_then(|()| std::fs::rename(draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(draft);
    }
    written.map_err(failed("write", path))
}

fn write_draft(draft: &Path, contents: &str, mode: u32) -> io::Result<()> {
    // What a crash left behind may be readable by others.
    match std::fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)?;
    file.write_all(contents.as_bytes())?;
    file.sync_all()
}

/// The pair's certificate and the text of its key; `None` if neither is there.
pub(super) fn read_pair(pair: &Pair) -> Result<Option<(CertificateDer<'static>, String)>, CertError> {
    let half =
        |there: &Path, missing: &Path| CertError::Half { there: there.into(), missing: missing.into() };
    match (read(&pair.cert)?, read(&pair.key)?) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(half(&pair.cert, &pair.key)),
        (None, Some(_)) => Err(half(&pair.key, &pair.cert)),
        (Some(cert), Some(key)) => {
            let unreadable =
                |_| CertError::Unreadable { path: pair.cert.clone(), expected: "a certificate in PEM" };
            Ok(Some((CertificateDer::from_pem_slice(cert.as_bytes()).map_err(unreadable)?, key)))
        }
    }
}

/// Whether others than the owner can read a file (rule S7).
pub(super) fn is_exposed(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0)
}

fn read(path: &Path) -> Result<Option<String>, CertError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CertError {
    move |source| CertError::Io { doing, path: path.into(), source }
}
