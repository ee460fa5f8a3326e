//! Files that the configuration names: whoever renews a certificate need tell nobody.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use super::{ServerHandle, handle::Shared};
use crate::{config::Config, lifecycle::Drain};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What tells a file from what it was: also one that another has taken the place of, behind symlinks too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    /// Of the file at `path`, symlinks followed; `None` if there is none that can be seen.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), size: found.size(), modified })
    }
}

/// What all files were at one look.
type Look = Vec<(PathBuf, Option<Identity>)>;

fn look(paths: Vec<PathBuf>) -> Look {
    paths.into_iter().map(|path| (path.clone(), Identity::of(&path))).collect()
}

/// Tells when files have changed and are whole: two looks in a row found the same.
#[derive(Debug, Default)]
struct Watch {
    known: Look,
    changing: Option<Look>,
}

impl Watch {
    fn has_changed(&mut self, look: Look) -> bool {
        if look == self.known {
            self.changing = None;
            return false;
        }
        if self.changing.as_ref() == Some(&look) {
            self.changing = None;
            self.known = look;
            return true;
        }
        self.changing = Some(look);
        false
    }
}

impl ServerHandle {
    /// Watches the files of the configuration in force.
    pub(super) fn watch_files(&self) -> io::Result<()> {
        self.watch_files_of(&self.config())
    }

    /// Has the files watched, if `config` names some and they are not watched yet. What was changed since they were read is
    /// found as well, as the first look knows nothing.
    pub(super) fn watch_files_of(&self, config: &Config) -> io::Result<()> {
        if config.watched_files().is_empty() {
            return Ok(());
        }
        let (gate, drain) = (Arc::downgrade(&self.shared), self.shared.gate.drain.clone());
        self.shared.background.watch(move |runtime| runtime.block_on(watch(gate, drain)))
    }
}

/// Looks at the files until the drain begins, on a thread of its own that a slow disk may hold up.
async fn watch(gate: Weak<Shared>, drain: Drain) {
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            biased;
            () = drain.draining() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(shared) = gate.upgrade() else { return };
        let handle = ServerHandle { shared };
        if watch.has_changed(look(handle.config().watched_files())) {
            // It is logged there, and tried again when they change again.
            let _ = handle.refresh_files();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_only_when_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.crt");
        let mut watch = Watch::default();
        let mut told = || watch.has_changed(look(vec![path.clone()]));
        assert_eq!([told(), told(), told()], [false, true, false], "a file that is not there yet");
        fs::write(&path, "a").unwrap();
        assert!(!told());
        fs::write(&path, "ab").unwrap();
        assert_eq!([told(), told(), told()], [false, true, false]);
        fs::remove_file(&path).unwrap();
        assert_eq!([told(), told(), told()], [false, true, false]);
    }

    #[test]
    fn a_change_that_is_taken_back_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let [path, away] = ["server.crt", "away"].map(|name| folder.path().join(name));
        fs::write(&path, "a").unwrap();
        let mut watch = Watch::default();
        let mut told = || watch.has_changed(look(vec![path.clone()]));
        assert_eq!([told(), told()], [false, true]);
        fs::rename(&path, &away).unwrap();
        assert!(!told());
        fs::rename(&away, &path).unwrap();
        assert_eq!([told(), told(), told()], [false; 3]);
    }

    #[test]
    fn symlinks_that_lead_elsewhere_are_a_change_as_kubernetes_and_certbot_make_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("tls.crt"), "same size").unwrap();
        }
        let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, at(from)).unwrap();
        link("..1", "..data");
        link("..data/tls.crt", "tls.crt");
        let mut watch = Watch::default();
        let mut told = || watch.has_changed(look(vec![at("tls.crt")]));
        assert_eq!([told(), told(), told()], [false, true, false]);
        link("..2", "..new");
        fs::rename(at("..new"), at("..data")).unwrap();
        assert_eq!([told(), told(), told()], [false, true, false]);
    }
}
