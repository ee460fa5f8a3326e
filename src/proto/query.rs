//! The parameters of a target's query, as forms write them.

/// The value of the first parameter with this name, with `+` and percent signs decoded, so that it is the same however a
/// client writes it. `name` is compared in the decoded form too.
pub fn value(query: &str, name: &str) -> Option<Vec<u8>> {
    query.split('&').find_map(|pair| {
        let (its_name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(its_name) == name.as_bytes()).then(|| decode(value))
    })
}

/// Where in a piece of a query, which `&` separates, the first value begins of which the name is in `secrets`. Names are
/// compared decoded and without regard to case, so that `%74oken` and `Token` are found too, and also behind a `;`, which some
/// servers take for an `&`. To others it is part of the value, so what is secret always reaches to the end of the piece.
pub fn secret_at(piece: &str, secrets: &[String]) -> Option<usize> {
    let mut start = 0;
    for pair in piece.split(';') {
        if let Some((name, _)) = pair.split_once('=')
            && is_among(secrets, name)
        {
            return Some(start + name.len() + 1);
        }
        start += pair.len() + 1;
    }
    None
}

fn is_among(secrets: &[String], name: &str) -> bool {
    if !name.contains('%') {
        return secrets.iter().any(|secret| secret.eq_ignore_ascii_case(name));
    }
    let name = decode(name);
    secrets.iter().any(|secret| secret.as_bytes().eq_ignore_ascii_case(&name))
}

/// A percent sign without two digits after it stands for itself.
fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        decoded.push(match first {
            b'+' => b' ',
            b'%' => escaped(after).map_or(first, |byte| {
                rest = &after[2..];
                byte
            }),
            _ => first,
        });
    }
    decoded
}

fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| digits.get(at).and_then(|&digit| char::from(digit).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(query: &str, name: &str) -> Option<String> {
        value(query, name).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    #[test]
    fn the_first_of_a_name_counts() {
        assert_eq!(text("a=1&room=x&room=y", "room").as_deref(), Some("x"));
        assert_eq!(text("a=1&rooms=x", "room"), None);
        assert_eq!(text("", "room"), None);
        assert_eq!(text("room", "room").as_deref(), Some(""));
        assert_eq!(text("room=&a", "room").as_deref(), Some(""));
        assert_eq!(text("room=a=b", "room").as_deref(), Some("a=b"));
    }

    #[test]
    fn one_value_has_many_spellings() {
        for query in ["room=a%20b", "room=a+b", "r%6Fom=%61%20b", "&&room=a+%62"] {
            assert_eq!(text(query, "room").as_deref(), Some("a b"), "{query}");
        }
    }

    #[test]
    fn what_is_no_escape_stands_for_itself() {
        assert_eq!(text("room=100%&x", "room").as_deref(), Some("100%"));
        assert_eq!(text("room=%zz%4", "room").as_deref(), Some("%zz%4"));
        assert_eq!(value("room=%ff%00", "room"), Some(vec![0xff, 0]));
    }

    proptest! {
        #[test]
        fn any_bytes_escaped_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..30)) {
            let mut query = "a=b&k=".to_owned();
            for byte in &bytes {
                query.extend(["%", &format!("{byte:02X}")]);
            }
            prop_assert_eq!(value(&query, "k"), Some(bytes));
        }

        #[test]
        fn no_query_panics(query in ".{0,40}") {
            let _ = value(&query, "k");
        }
    }
}
