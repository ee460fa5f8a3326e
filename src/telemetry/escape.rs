//! Lines that show what they hold and can't look like others, whatever a peer wrote (rule S10).

use std::fmt::Write as _;

/// Whether a character is seen as what it is: no control, nothing that steers the direction or the visibility of text.
pub(super) fn is_plain(character: char) -> bool {
    matches!(character, ' '..='~') || character.escape_debug().len() == 1
}

/// `\u001b`, as JSON has it.
pub(super) fn write_json_escape(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a String can't fail.
        let _ = write!(out, "\\u{unit:04x}");
    }
}

/// How a further line of a text begins, such as of a configuration's problems: never as an event does.
const FURTHER: &str = "\n    ";

/// An event with all that is not plain escaped, but for its lines' ends and for the `colours` of a terminal. Those begin with an
/// ESC, and the formatter has escaped the ones of values already.
pub(super) fn escape_line(line: &[u8], is_json: bool, colours: bool) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let is_seen = |byte: &u8| matches!(byte, b' '..=b'~') || (colours && *byte == 0x1b);
    if line.iter().all(is_seen) {
        return [line, b"\n"].concat();
    }
    let mut out = String::with_capacity(line.len() + 16);
    for character in String::from_utf8_lossy(line).chars() {
        if is_escape_free(character) || (colours && character == '\u{1b}') {
            out.push(character);
        } else if is_json {
            write_json_escape(&mut out, character);
        } else if character == '\n' {
            out.push_str(FURTHER);
        } else {
            out.extend(character.escape_default());
        }
    }
    out.push('\n');
    out.into_bytes()
}

/// In a line that is written already, quotes and backslashes have their meaning.
fn is_escape_free(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || is_plain(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(line: &str, is_json: bool, colours: bool) -> String {
        String::from_utf8(escape_line(line.as_bytes(), is_json, colours)).expect("UTF-8")
    }

    #[test]
    fn s10_an_event_shows_what_it_holds_and_no_line_of_it_looks_like_another() {
        let hostile = "a \"b\" \\ é\r\nWARN forged\t\u{7f}\u{9b}31m\u{202e}\u{1b}[31m\n";
        let text = "a \"b\" \\ é\\r\n    WARN forged\\t\\u{7f}\\u{9b}31m\\u{202e}\\u{1b}[31m\n";
        assert_eq!(escaped(hostile, false, false), text);
        let json = "a \"b\" \\ é\\u000d\\u000aWARN forged\\u0009\\u007f\\u009b31m\\u202e\\u001b[31m\n";
        assert_eq!(escaped(hostile, true, false), json);
        assert_eq!(escaped("\u{1b}[32mINFO\u{1b}[0m a\n", false, true), "\u{1b}[32mINFO\u{1b}[0m a\n");
        assert_eq!(escaped("no end", false, false), "no end\n");
    }
}
