//! Names and passwords of `Authorization: Basic` (RFC 7617) against the hashes of an htpasswd file.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::time::Instant;

use crate::{config, proto::head::Headers};

/// bcrypt looks at no byte behind these, so that a longer password would be as good as its beginning.
const PASSWORD_MAX: usize = 72;
/// As long as htpasswd takes a name, in bytes: what waits to be checked must not be large.
const USER_MAX: usize = 255;
/// How long a password that was proven is not proven again.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);

/// Why credentials let nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no Authorization, or another scheme's.
    Absent,
    /// Several Authorizations, no base64, no colon, or a control character.
    Malformed,
    /// A name over 255 bytes, or a password over 72.
    TooLong,
    /// No such user, or another password.
    Wrong,
    /// More passwords wait to be checked than can be: this says nothing of them.
    Busy,
}

impl Denied {
    /// The reason in words, for the log.
    pub fn why(self) -> &'static str {
        match self {
            Self::Absent => "no credentials",
            Self::Malformed => "malformed credentials",
            Self::TooLong => "name or password too long",
            Self::Wrong => "unknown user or wrong password",
            Self::Busy => "too many passwords to check",
        }
    }
}

/// What a client says who it is, not proven.
pub struct Credentials {
    /// `user:password`.
    text: Vec<u8>,
    colon: usize,
}

impl fmt::Debug for Credentials {
    /// Nothing of them: people type their password into the wrong field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads them off a request (RFC 7617 §2). Two Authorizations are refused: which of them the backend would believe is
    /// not known here.
    pub fn of(headers: &Headers) -> Result<Self, Denied> {
        let mut lines = headers.get_all("authorization");
        let value = lines.next().ok_or(Denied::Absent)?;
        if lines.next().is_some() {
            return Err(Denied::Malformed);
        }
        let (scheme, token) = value.split_at_checked(b"basic ".len()).ok_or(Denied::Absent)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return Err(Denied::Absent);
        }
        let text = STANDARD.decode(token.trim_ascii()).map_err(|_| Denied::Malformed)?;
        let colon = text.iter().position(|&byte| byte == b':').ok_or(Denied::Malformed)?;
        if text.iter().any(u8::is_ascii_control) {
            return Err(Denied::Malformed);
        }
        let credentials = Self { text, colon };
        let is_long = credentials.user().len() > USER_MAX || credentials.password().len() > PASSWORD_MAX;
        if is_long { Err(Denied::TooLong) } else { Ok(credentials) }
    }

    fn user(&self) -> &[u8] {
        &self.text[..self.colon]
    }

    fn password(&self) -> &[u8] {
        &self.text[self.colon + 1..]
    }
}

/// The users of an htpasswd file, and who of them has proven himself a short while ago.
pub struct Users {
    /// Known to this process alone, so that what is remembered can't be searched for passwords.
    key: hmac::Key,
    places: HashMap<String, usize>,
    all: Vec<User>,
}

struct User {
    name: Arc<str>,
    /// As the file has it.
    hash: String,
    proven: Mutex<Option<Proof>>,
}

/// The last credentials that were right, as a keyed hash.
struct Proof {
    tag: hmac::Tag,
    until: Instant,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

impl Users {
    /// The users of this file. Nothing is remembered of any that were made before.
    pub fn new(file: &config::Htpasswd) -> Self {
        let user = |(name, hash): (&String, &String)| User {
            name: name.as_str().into(),
            hash: hash.clone(),
            proven: Mutex::default(),
        };
        let all: Vec<_> = file.users.iter().map(user).collect();
        let places = all.iter().enumerate().map(|(place, user)| (user.name.to_string(), place)).collect();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>()), places, all }
    }

    /// The user whom these credentials have proven within the last minutes. Takes no time to speak of.
    pub fn recall(&self, credentials: &Credentials, now: Instant) -> Option<Arc<str>> {
        let user = self.find(credentials.user())?;
        let mut proven = user.proven.lock().unwrap_or_else(PoisonError::into_inner);
        proven.take_if(|proof| proof.until <= now);
        // In constant time, whatever the guess.
        let is_same = hmac::verify(&self.key, &credentials.text, proven.as_ref()?.tag.as_ref()).is_ok();
        is_same.then(|| Arc::clone(&user.name))
    }

    /// The user whom these credentials prove. Takes as long as bcrypt does, which is no work for a worker.
    pub(super) fn prove(&self, credentials: &Credentials) -> Result<Arc<str>, Denied> {
        self.prove_by(credentials, |password, hash| bcrypt::verify(password, hash).unwrap_or(false))
    }

    fn prove_by(
        &self,
        credentials: &Credentials,
        verify: impl FnOnce(&[u8], &str) -> bool,
    ) -> Result<Arc<str>, Denied> {
        // Many requests of one user come at once, and the first has proven it for all of them.
        if let Some(user) = self.recall(credentials, Instant::now()) {
            return Ok(user);
        }
        let known = self.find(credentials.user());
        // A name that nobody has takes as long as one that somebody has.
        let user = known.or_else(|| self.stand_in(credentials.user())).ok_or(Denied::Wrong)?;
        let is_right = verify(credentials.password(), &user.hash);
        if !is_right || known.is_none() {
            return Err(Denied::Wrong);
        }
        let tag = hmac::sign(&self.key, &credentials.text);
        let proof = Proof { tag, until: Instant::now() + REMEMBERED };
        *user.proven.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
        Ok(Arc::clone(&user.name))
    }

    fn find(&self, name: &[u8]) -> Option<&User> {
        self.all.get(*self.places.get(std::str::from_utf8(name).ok()?)?)
    }

    /// Whose hash is computed in place of one that is not there: always the same for a name, as costs may differ.
    fn stand_in(&self, name: &[u8]) -> Option<&User> {
        // A name has no colon, so this is the tag of no credentials.
        let tag = hmac::sign(&self.key, name);
        let lot = tag.as_ref().iter().take(4).fold(0, |lot, &byte| lot << 8 | usize::from(byte));
        self.all.get(lot.checked_rem(self.all.len())?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `open sesame`, by another implementation.
    pub(in crate::auth) const SESAME: &str = "$2y$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy";
    /// 72 times `x`, likewise.
    const LONGEST: &str = "$2y$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i";
    /// `grün` in UTF-8, likewise.
    const GREEN: &str = "$2y$04$abcdefghijklmnopqrstuuQYEk91mE9jD3s0Fa6l8hqSxfClgS2VO";

    pub(in crate::auth) fn users(users: &[(&str, &str)]) -> Users {
        let users = users.iter().map(|&(name, hash)| (name.to_owned(), hash.to_owned())).collect();
        Users::new(&config::Htpasswd { path: "htpasswd".into(), users: Arc::new(users) })
    }

    fn read(lines: &[&[u8]]) -> Result<Credentials, Denied> {
        let mut headers = Headers::new();
        for line in lines {
            headers.append("Authorization", line).unwrap();
        }
        Credentials::of(&headers)
    }

    pub(in crate::auth) fn credentials(text: impl AsRef<[u8]>) -> Credentials {
        read(&[format!("Basic {}", STANDARD.encode(text)).as_bytes()]).unwrap()
    }

    fn denied(line: &str) -> Denied {
        read(&[line.as_bytes()]).unwrap_err()
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_has_them() {
        for line in ["Basic QWxhZGRpbjpvcGVuOnNlc2FtZQ==", "bAsIc   QWxhZGRpbjpvcGVuOnNlc2FtZQ=="] {
            let read = read(&[line.as_bytes()]).unwrap();
            assert_eq!((read.user(), read.password()), (&b"Aladdin"[..], &b"open:sesame"[..]), "{line}");
        }
        assert_eq!(read(&[]).unwrap_err(), Denied::Absent);
        for other in ["Bearer abc", "Basic", "", "Basicx QWxhZGRpbjpvcGVuOnNlc2FtZQ=="] {
            assert_eq!(denied(other), Denied::Absent, "{other}");
        }
        // No colon, a line feed, no base64, no padding, bits that say nothing.
        for bad in ["QWxhZGRpbg==", "YTpiCg==", "a:b", "YTpi=", "YTo", "YTp=", "YTpiYTpi YTpi", "YTq="] {
            assert_eq!(denied(&format!("Basic {bad}")), Denied::Malformed, "{bad}");
        }
        let twice = [b"Basic YTpi".as_slice(), b"Basic YTpi"];
        assert_eq!(read(&twice).unwrap_err(), Denied::Malformed);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read(user in "[^:\\p{Cc}]{0,60}", password in "\\P{Cc}{0,18}") {
            let read = credentials(format!("{user}:{password}"));
            prop_assert_eq!((read.user(), read.password()), (user.as_bytes(), password.as_bytes()));
        }

        #[test]
        fn no_value_panics(value in prop::collection::vec(any::<u8>(), 0..200), is_encoded: bool) {
            let value = if is_encoded { STANDARD.encode(value).into_bytes() } else { value };
            let mut headers = Headers::new();
            if headers.append("Authorization", &[b"Basic ", &value[..]].concat()).is_ok() {
                let _ = Credentials::of(&headers);
            }
        }
    }

    #[test]
    fn a_password_proves_its_own_user_alone() {
        let users = users(&[("ali", SESAME), ("green", GREEN)]);
        assert_eq!(users.prove(&credentials("ali:open sesame")).as_deref(), Ok("ali"));
        assert_eq!(users.prove(&credentials("green:grün")).as_deref(), Ok("green"));
        let wrong: [&[u8]; 8] = [
            b"ali:Open sesame",
            b"ali:",
            b"Ali:open sesame",
            b"green:open sesame",
            // A stand-in's hash proves nobody.
            b"nobody:open sesame",
            b":open sesame",
            b"\xff\xfe:open sesame",
            b"green:gr\xfcn",
        ];
        for text in wrong {
            assert_eq!(users.prove(&credentials(text)), Err(Denied::Wrong), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_name_that_nobody_has_costs_a_hash_as_one_that_somebody_has() {
        let users = users(&[("ali", SESAME)]);
        let hashes = |text| {
            let mut hashes = 0;
            let verdict = users.prove_by(&credentials(text), |_, hash| {
                assert_eq!(hash, SESAME);
                hashes += 1;
                text == "ali:open sesame"
            });
            (verdict.is_ok(), hashes)
        };
        assert_eq!(hashes("ali:open"), (false, 1));
        assert_eq!(hashes("nobody:open sesame"), (false, 1));
        assert_eq!(hashes("ali:open sesame"), (true, 1));
        assert_eq!(hashes("ali:open sesame"), (true, 0), "remembered");
    }

    #[test]
    fn every_name_has_a_stand_in_and_always_the_same() {
        let alone = users(&[("ali", SESAME)]);
        assert_eq!(&*alone.stand_in(b"nobody").unwrap().name, "ali");
        let two = users(&[("ali", SESAME), ("green", GREEN)]);
        for name in [&b""[..], b"nobody", b"\xff"] {
            let of = || two.stand_in(name).unwrap().name.clone();
            assert_eq!(of(), of());
        }
    }

    #[test]
    fn a_password_behind_what_bcrypt_looks_at_is_refused() {
        let users = users(&[("long", LONGEST)]);
        assert_eq!(users.prove(&credentials(format!("long:{}", "x".repeat(72)))).as_deref(), Ok("long"));
        assert_eq!(users.prove(&credentials(format!("long:{}", "x".repeat(71)))), Err(Denied::Wrong));
        let over = STANDARD.encode(format!("long:{}", "x".repeat(73)));
        assert_eq!(denied(&format!("Basic {over}")), Denied::TooLong);
    }

    #[test]
    fn s2_what_waits_to_be_checked_is_small() {
        let of = |length| format!("Basic {}", STANDARD.encode(format!("{}:x", "n".repeat(length))));
        assert!(read(&[of(255).as_bytes()]).is_ok());
        assert_eq!(denied(&of(256)), Denied::TooLong);
    }

    #[test]
    fn what_was_proven_is_remembered_for_a_while_and_nothing_else_is() {
        let users = users(&[("ali", SESAME), ("green", GREEN)]);
        let now = Instant::now();
        let right = credentials("ali:open sesame");
        assert_eq!(users.recall(&right, now), None);
        users.prove(&credentials("ali:open")).unwrap_err();
        assert_eq!(users.recall(&credentials("ali:open"), now), None, "a failure is not remembered");
        users.prove(&right).unwrap();
        assert_eq!(users.recall(&right, now).as_deref(), Some("ali"));
        for other in ["ali:open", "green:open sesame", "nobody:open sesame"] {
            assert_eq!(users.recall(&credentials(other), now), None, "{other}");
        }
        // A wrong guess does not make it forget.
        users.prove(&credentials("ali:open")).unwrap_err();
        assert_eq!(users.recall(&right, now + REMEMBERED / 2).as_deref(), Some("ali"));
        assert_eq!(users.recall(&right, now + REMEMBERED * 2), None);
        assert_eq!(users.recall(&right, now), None, "what has expired is gone");
    }

    #[test]
    fn s7_neither_credentials_nor_hashes_are_shown() {
        let shown = format!("{:?} {:?}", users(&[("ali", SESAME)]), credentials("ali:open sesame"));
        assert!(!shown.contains("ali") && !shown.contains("$2y$") && !shown.contains("sesame"), "{shown}");
    }
}
