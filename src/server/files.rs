//! Files that the configuration names: whoever renews a certificate need tell nobody.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{ServerHandle, handle::Shared};
use crate::{config::Config, lifecycle::Drain};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The first pause before files that could not be used are tried again; it doubles to the longest.
const RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What tells a file from what it was: also one that another has taken the place of, behind symlinks too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Its mode and owner are a part of it: they decide whether it can be read.
    changed: (i64, i64),
}

impl Identity {
    /// Of the file at `path`, symlinks followed; `None` if there is none that can be seen.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        let modified = (found.mtime(), found.mtime_nsec());
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), size: found.size(), modified, changed })
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

    fn is_changing(&self) -> bool {
        self.changing.is_some()
    }
}

/// When files that cannot be used are tried again, though nothing about them seems to have changed: what keeps them from being
/// read may be elsewhere, such as the mode of a folder.
#[derive(Debug, Default)]
struct Retries {
    next: Option<(Instant, Duration)>,
}

impl Retries {
    fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|(at, _)| at <= now)
    }

    /// They were tried.
    fn tried(&mut self, is_unusable: bool, now: Instant) {
        let pause = self.next.map_or(RETRY, |(_, pause)| (2 * pause).min(LONGEST_RETRY));
        self.next = is_unusable.then(|| (now + pause, pause));
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
    let (mut watch, mut retries) = (Watch::default(), Retries::default());
    loop {
        tokio::select! {
            biased;
            () = drain.draining() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Some(shared) = gate.upgrade() else { return };
        let handle = ServerHandle { shared };
        let has_changed = watch.has_changed(look(handle.config().watched_files()));
        if has_changed {
            retries = Retries::default();
        }
        if has_changed || !watch.is_changing() && retries.is_due(Instant::now()) {
            // It is logged there.
            let _ = handle.refresh_files();
            retries.tried(handle.has_unusable_files(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        let [file, path, away] = ["file", "server.crt", "away"].map(|name| folder.path().join(name));
        fs::write(&file, "a").unwrap();
        std::os::unix::fs::symlink(&file, &path).unwrap();
        let mut watch = Watch::default();
        let mut told = || watch.has_changed(look(vec![path.clone()]));
        assert_eq!([told(), told()], [false, true]);
        fs::rename(&path, &away).unwrap();
        assert!(!told());
        fs::rename(&away, &path).unwrap();
        assert_eq!([told(), told(), told()], [false; 3]);
    }

    #[test]
    fn another_mode_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        fs::write(&path, "a").unwrap();
        let mut watch = Watch::default();
        let mut told = || watch.has_changed(look(vec![path.clone()]));
        assert_eq!([told(), told()], [false, true]);
        let before = Identity::of(&path);
        // The clock of a file system is a coarse one.
        while Identity::of(&path) == before {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        assert_eq!([told(), told(), told()], [false, true, false]);
    }

    #[test]
    fn what_could_not_be_used_is_tried_again_after_ten_seconds_and_then_less_often() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        assert!(!retries.is_due(now), "nothing was tried");
        for pause in [10, 20, 40, 60, 60].map(Duration::from_secs) {
            retries.tried(true, now);
            assert!(!retries.is_due(now + pause / 10 * 9));
            now += pause;
            assert!(retries.is_due(now));
        }
        retries.tried(false, now);
        assert!(!retries.is_due(now + LONGEST_RETRY));
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
