//! Secrets that must not reach a log (rule S7).

use std::borrow::Cow;

use crate::proto::query::secret_at;

/// What stands in a log for a secret.
const MASK: &str = "***";
/// A subprotocol longer than this is taken for a token. Registered names have at most 30 characters.
const LONGEST_SUBPROTOCOL: usize = 32;

/// `target` with the values of the query parameters in `redact` masked. Names are compared percent-decoded and without
/// regard to case, so that `%74oken` and `Token` are found too, and also behind a `;`, which some servers take for an
/// `&`. To others it is part of the value, so a mask always reaches to the next `&`.
pub fn mask_query<'a>(target: &'a str, redact: &[String]) -> Cow<'a, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    if !query.split('&').any(|piece| secret_at(piece, redact).is_some()) {
        return Cow::Borrowed(target);
    }
    let mut masked = String::with_capacity(target.len());
    masked.push_str(path);
    for (place, piece) in query.split('&').enumerate() {
        masked.push(if place == 0 { '?' } else { '&' });
        match secret_at(piece, redact) {
            Some(start) => {
                masked.push_str(&piece[..start]);
                masked.push_str(MASK);
            }
            None => masked.push_str(piece),
        }
    }
    Cow::Owned(masked)
}

/// A request target, or an Origin, as it may be logged: with [`mask_query`], and without the user and password that can stand
/// before a host, in an absolute form, in that of CONNECT, or in what is neither.
pub fn mask_target<'a>(target: &'a str, redact: &[String]) -> Cow<'a, str> {
    let masked = mask_query(target, redact);
    if masked.starts_with('/') {
        return masked;
    }
    let start = masked.find("://").map_or(0, |at| at + 3);
    let end = masked[start..].find(['/', '?', '#']).map_or(masked.len(), |at| start + at);
    match masked[start..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{}{MASK}{}", &masked[..start], &masked[start + at..])),
        None => masked,
    }
}

/// A subprotocol as it may be logged: some clients send their token in its place, so what is too long for a name, begins like
/// a JWT, or has more dots than a name has, is masked.
pub fn mask_subprotocol(name: &str) -> &str {
    let is_token = name.len() > LONGEST_SUBPROTOCOL || name.starts_with("eyJ") || name.split('.').count() > 5;
    if is_token { MASK } else { name }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn masked_target(target: &str) -> String {
        mask_target(target, &["token".to_owned()]).into_owned()
    }

    fn masked(target: &str) -> String {
        mask_query(target, &["token".to_owned(), "jwt".to_owned()]).into_owned()
    }

    #[test]
    fn s7_secret_query_values_are_masked_however_the_name_is_written() {
        assert_eq!(masked("/ws?token=abc&room=1"), "/ws?token=***&room=1");
        assert_eq!(masked("/ws?room=1&JWT=a.b.c"), "/ws?room=1&JWT=***");
        assert_eq!(masked("/ws?%74oken=abc"), "/ws?%74oken=***");
        assert_eq!(masked("/ws?tokens=abc&token"), "/ws?tokens=abc&token");
        assert_eq!(masked("/token=abc"), "/token=abc");
        assert_eq!(masked("/ws?a=%zz&token=x=y"), "/ws?a=%zz&token=***");
        assert_eq!(masked("/ws?a=1;token=x;y&b=2"), "/ws?a=1;token=***&b=2");
    }

    #[test]
    fn s7_a_user_and_password_in_the_target_are_masked() {
        let masked = |target| mask_target(target, &[]).into_owned();
        assert_eq!(masked("http://user:secret@a.example/x?y=z"), "http://***@a.example/x?y=z");
        assert_eq!(masked("http://a.example/x@y"), "http://a.example/x@y");
        assert_eq!(masked("/http://user:secret@a.example/"), "/http://user:secret@a.example/");
        assert_eq!(masked("user:secret@a.example:443"), "***@a.example:443");
        assert_eq!(masked("user:se@cret@a.example:443"), "***@a.example:443");
        assert_eq!(masked("http:user:secret@a.example/x@y"), "***@a.example/x@y");
        assert_eq!(masked("*"), "*");
    }

    #[test]
    fn s7_subprotocols_that_carry_tokens_are_masked() {
        assert_eq!(mask_subprotocol("graphql-transport-ws"), "graphql-transport-ws");
        assert_eq!(mask_subprotocol("v12.stomp"), "v12.stomp");
        assert_eq!(mask_subprotocol("base64url.bearer.authorization.k8s.io.c2VjcmV0"), "***");
        assert_eq!(mask_subprotocol("eyJhbGciOi.eyJzdWIi.c2ln"), "***");
        assert_eq!(mask_subprotocol(&"x".repeat(33)), "***");
    }

    proptest! {
        #[test]
        fn s7_no_value_of_a_secret_parameter_is_left_however_it_is_written(
            before in "(/[a-z@:]{0,6}|https?://(u:SECRET@)?[a-z.]{1,8}(:[0-9]{1,4})?/?|(u:SECRET@)?[a-z]{1,5}:443)",
            pairs in vec(("[a-z%=;]{0,4}", "[&;]?", any::<bool>(), "[a-z=%.?/@;]{0,5}"), 0..6),
        ) {
            let mut target = before + "?";
            for (noise, between, is_coded, around) in &pairs {
                let name: String = "Token".chars().map(|letter| {
                    if *is_coded { format!("%{:02X}", u32::from(letter)) } else { letter.to_string() }
                }).collect();
                // What stands right before the name must not make it another.
                let noise = if between.is_empty() { "" } else { noise };
                target.extend([noise, between, &name, "=", around, "SECRET&"]);
            }
            let shown = masked_target(&target);
            prop_assert!(!shown.contains("SECRET"), "{target} is shown as {shown}");
        }
    }
}
