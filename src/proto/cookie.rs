//! The cookies of a request (RFC 6265 §4.2, read as tolerantly as §5.4 lets clients write).

use super::head::Headers;

/// The values of the cookies with this name, over all Cookie lines and in their order: a client that has several with one
/// name sends the one with the longest path first. Quotes around a value are taken off.
pub fn values<'h, 'n>(headers: &'h Headers, name: &'n str) -> impl Iterator<Item = &'h [u8]> + use<'h, 'n> {
    let pairs = headers.get_all("cookie").flat_map(|line| line.split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (its_name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        (its_name == name.as_bytes()).then(|| unquoted(value))
    })
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(lines: &[&str], name: &str) -> Vec<String> {
        let mut headers = Headers::new();
        for line in lines {
            headers.append("Cookie", line.as_bytes()).unwrap();
        }
        values(&headers, name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_name() {
        assert_eq!(found(&["a=1; srv=x; b=2"], "srv"), ["x"]);
        assert_eq!(found(&["srv=x"], "srv"), ["x"]);
        assert!(found(&["xsrv=1; srvx=2; SRV=3; a=srv=4"], "srv").is_empty());
        assert!(found(&[], "srv").is_empty());
    }

    #[test]
    fn several_lines_and_several_of_one_name_come_in_their_order() {
        assert_eq!(found(&["a=1; srv=x", "srv=y;b=2", "srv=z"], "srv"), ["x", "y", "z"]);
    }

    #[test]
    fn odd_spacing_and_quotes() {
        assert_eq!(found(&["a=1;srv=x"], "srv"), ["x"]);
        assert_eq!(found(&["a=1 ;\t srv = x \t; b"], "srv"), ["x"]);
        assert_eq!(found(&["srv=\"x y\""], "srv"), ["x y"]);
        assert_eq!(found(&["srv=\"x", "srv=\"", "srv=\"\"", "srv="], "srv"), ["\"x", "\"", "", ""]);
    }

    #[test]
    fn what_is_no_pair_is_passed_over() {
        assert_eq!(found(&[";; srv; =x; ;srv=y;"], "srv"), ["y"]);
    }

    #[test]
    fn a_value_may_contain_what_pairs_are_made_of() {
        assert_eq!(found(&["srv=a=b==; c=d"], "srv"), ["a=b=="]);
    }

    proptest! {
        #[test]
        fn whatever_stands_around_it_a_cookie_is_found(before in "[ -:<-~]{0,20}", after in "[ -~]{0,20}") {
            prop_assume!(!before.trim_start().starts_with("srv"));
            let line = format!("{before}; srv=value; {after}");
            prop_assert_eq!(&found(&[line.trim()], "srv")[0], "value");
        }
    }
}
