//! The format of a case, which tests/corpus/README.md describes.

/// What a client sends, what the backend answers, and what must come of it.
#[derive(Debug)]
pub struct Case {
    /// Its place in the configuration.
    pub listener: usize,
    pub answers: Vec<Answer>,
    pub then: Then,
    /// The requests that reach the backend whole, as `METHOD TARGET "BODY"`.
    pub requests: Vec<String>,
    /// Part of another request may reach it.
    pub part: bool,
    pub backend_sees: Vec<Vec<u8>>,
    pub backend_never_sees: Vec<Vec<u8>>,
    pub client_sees: Vec<Vec<u8>>,
    pub client_never_sees: Vec<Vec<u8>>,
    pub client: Script,
    /// `None` where the backend answers as is usual.
    pub backend: Option<Script>,
}

/// One answer of those that the client gets on its connection.
#[derive(Debug)]
pub struct Answer {
    /// `None` where a request gets none.
    pub status: Option<u16>,
    /// The ending in the access record.
    pub label: Option<String>,
}

/// What becomes of the client's connection after the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It ends, in order if anything was answered.
    Closed,
    /// It breaks off within the last answer.
    Cut,
    /// It serves another request.
    Open,
    /// It carries frames both ways.
    Tunnel,
    /// The gate ends the tunnel with a Close of this code.
    TunnelEnds(u16),
}

/// Bytes to send, and whether the stream is ended after them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Script {
    pub bytes: Vec<u8>,
    pub ends: bool,
}

impl Answer {
    fn parse(text: &str) -> Result<Self, String> {
        let (status, label) =
            text.split_once(' ').map_or((text, None), |(status, label)| (status, Some(label)));
        if label.is_some_and(|label| !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')) {
            return Err(format!("no label: {text}"));
        }
        let status = match status {
            "none" => None,
            digits => Some(digits.parse().map_err(|_| format!("neither a status nor `none`: {text}"))?),
        };
        Ok(Self { status, label: label.map(Into::into) })
    }

    /// Interim answers have none, nor has a client that went before it said anything.
    pub fn has_record(&self) -> bool {
        match self.status {
            Some(status) => status >= 200 || status == 101,
            None => self.label.is_some(),
        }
    }
}

impl Then {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "closed" => Self::Closed,
            "cut" => Self::Cut,
            "open" => Self::Open,
            "tunnel" => Self::Tunnel,
            _ => match text.strip_prefix("tunnel ends ").map(str::parse) {
                Some(Ok(code)) => Self::TunnelEnds(code),
                _ => return Err(format!("nothing that becomes of a connection: {text}")),
            },
        })
    }
}

impl Case {
    /// Reads a case; the error says what is wrong with the file.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with("# ") || !text.ends_with('\n') {
            return Err("it does not begin with a comment, or its last line does not end".into());
        }
        let mut case = Self::new();
        let mut then = None;
        let mut is_ruled = false;
        let mut lines = text.lines().skip_while(|line| line.starts_with('#')).peekable();
        while let Some(line) = lines.next_if(|line| !line.starts_with("== ")) {
            let Some((key, value)) = line.split_once(": ") else {
                if line.is_empty() {
                    continue;
                }
                return Err(format!("no field: {line}"));
            };
            match key {
                "rule" => is_ruled = value.split(", ").all(is_rule),
                "then" if then.is_none() => then = Some(Then::parse(value)?),
                _ => case.field(key, value)?,
            }
        }
        while let Some(title) = lines.next() {
            let mut bytes = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("== ")) {
                unescape(line, &mut bytes)?;
            }
            case.section(title, bytes)?;
        }
        case.then = then.ok_or("`then` is missing")?;
        if !is_ruled || case.answers.is_empty() || case.client.bytes.is_empty() {
            return Err("`rule`, `answer` or `== client` is missing".into());
        }
        Ok(case)
    }

    fn new() -> Self {
        Self {
            listener: 0,
            answers: Vec::new(),
            then: Then::Closed,
            requests: Vec::new(),
            part: false,
            backend_sees: Vec::new(),
            backend_never_sees: Vec::new(),
            client_sees: Vec::new(),
            client_never_sees: Vec::new(),
            client: Script { bytes: Vec::new(), ends: false },
            backend: None,
        }
    }

    fn field(&mut self, key: &str, value: &str) -> Result<(), String> {
        let texts = match key {
            "listener" if value == "underscores" => {
                self.listener = 1;
                return Ok(());
            }
            "answer" => {
                self.answers.push(Answer::parse(value)?);
                return Ok(());
            }
            "backend" => {
                match value {
                    "nothing" => {}
                    "part" => self.part = true,
                    request => self.requests.push(request.to_owned()),
                }
                return Ok(());
            }
            "backend sees" => &mut self.backend_sees,
            "backend never sees" => &mut self.backend_never_sees,
            "client sees" => &mut self.client_sees,
            "client never sees" => &mut self.client_never_sees,
            _ => return Err(format!("unknown field, or a second one: {key}: {value}")),
        };
        let mut bytes = Vec::new();
        unescape(value, &mut bytes)?;
        texts.push(bytes);
        Ok(())
    }

    fn section(&mut self, title: &str, bytes: Vec<u8>) -> Result<(), String> {
        let ends = title.ends_with(", then ends");
        let script = Script { bytes, ends };
        match title.trim_end_matches(", then ends") {
            "== client" if self.client.bytes.is_empty() => self.client = script,
            "== backend" if self.backend.is_none() => self.backend = Some(script),
            _ => return Err(format!("unknown section, or a second one: {title}")),
        }
        Ok(())
    }
}

fn is_rule(name: &str) -> bool {
    name.len() > 1 && name.starts_with(['W', 'T', 'H', 'S', 'B']) && name[1..].parse::<u8>().is_ok()
}

/// Adds the bytes that a line stands for.
fn unescape(line: &str, bytes: &mut Vec<u8>) -> Result<(), String> {
    let wrong = || format!("not printable ASCII, a white space at the end, or an unknown escape: {line:?}");
    if line.ends_with(' ') || !line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(wrong());
    }
    let mut rest = line;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest.as_bytes().get(at + 1).copied();
        rest = rest.get(at + 2..).ok_or_else(wrong)?;
        match escape {
            Some(b'r') => bytes.push(b'\r'),
            Some(b'n') => bytes.push(b'\n'),
            Some(b't') => bytes.push(b'\t'),
            Some(b'0') => bytes.push(0),
            Some(b'\\') => bytes.push(b'\\'),
            Some(b'x') => {
                let digits = rest.get(..2).ok_or_else(wrong)?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = &rest[2..];
            }
            // `\{N*TEXT}` is TEXT N times.
            Some(b'{') => {
                let (repeated, after) = rest.split_once('}').ok_or_else(wrong)?;
                let (times, text) = repeated.split_once('*').ok_or_else(wrong)?;
                let mut unit = Vec::new();
                unescape(text, &mut unit)?;
                bytes.extend(unit.repeat(times.parse().map_err(|_| wrong())?));
                rest = after;
            }
            _ => return Err(wrong()),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# A case.\nrule: H1, H2\nanswer: 400 bad_head\nthen: closed\nbackend: nothing\n\
        \n== client, then ends\nGET / HTTP/1.1\\r\\n\n\\x41\\{3*b\\n}\\\\c\\0\\t\\xfF\n\n== backend\nHTTP\n";

    #[test]
    fn a_case_is_read_as_it_is_written() {
        let case = Case::parse(GOOD).unwrap();
        assert_eq!(case.client.bytes, b"GET / HTTP/1.1\r\nAb\nb\nb\n\\c\0\t\xff");
        assert!(case.client.ends && case.then == Then::Closed && case.requests.is_empty() && !case.part);
        assert_eq!(case.backend, Some(Script { bytes: b"HTTP".to_vec(), ends: false }));
        assert_eq!((case.answers[0].status, case.answers[0].label.as_deref()), (Some(400), Some("bad_head")));
    }

    #[test]
    fn a_case_that_is_badly_written_is_an_error() {
        for (good, bad) in [
            ("# A case.\n", ""),
            ("rule: H1, H2", "rule: H1, 2"),
            ("rule: H1, H2\n", ""),
            ("answer: 400 bad_head\n", ""),
            ("answer: 400 bad_head", "answer: bad_head"),
            ("answer: 400 bad_head", "answer: 400 Bad Head"),
            ("then: closed\n", ""),
            ("then: closed", "then: gone"),
            ("then: closed", "then: closed\nthen: open"),
            ("backend: nothing", "backends: nothing"),
            ("backend: nothing", "backend:nothing"),
            ("== client, then ends", "== server"),
            ("== client, then ends", "== client, at once"),
            ("== backend", "== client"),
            ("== client, then ends", "== backend"),
            ("\\x41", "\\x4"),
            ("\\x41", "\\q"),
            ("\\x41", "\u{e4}"),
            ("\\{3*b\\n}", "\\{3b}"),
            ("\\{3*b\\n}", "\\{3*b"),
            ("HTTP\n", "HTTP \n"),
            ("HTTP\n", "HTTP\\\n"),
            ("HTTP\n", "HTTP"),
        ] {
            let text = GOOD.replacen(good, bad, 1);
            assert_ne!(text, GOOD, "{good}");
            assert!(Case::parse(&text).is_err(), "{bad:?} instead of {good:?}");
        }
    }
}
