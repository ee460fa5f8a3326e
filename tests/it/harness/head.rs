//! Heads as the other side sees them, read without the code under test.

/// The head of a request or of a response.
#[derive(Debug, Clone)]
pub struct Head {
    /// The start line.
    pub start: String,
    /// Names and values in their order; bytes that are no UTF-8 are shown as U+FFFD.
    pub lines: Vec<(String, String)>,
}

/// A head with its whole body, chunks put together.
#[derive(Debug, Clone)]
pub struct Response {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Head {
    /// Reads a head that ends with its empty line.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line");
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let lines = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no header: {line:?}"));
            (name.to_owned(), value.to_owned())
        });
        Self { start, lines: lines.collect() }
    }

    /// The status of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let mut words = self.start.split(' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "{}", self.start);
        words.next().and_then(|status| status.parse().ok()).expect("a status")
    }

    /// The target of a request.
    #[track_caller]
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).expect("a target")
    }

    /// Every value of this name, in any case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let of_name = self.lines.iter().filter(|(its, _)| its.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of this name; `None` where there is none.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} more than once: {self:?}");
        all.first().copied()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether a list of tokens has this one.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|its| its.trim().eq_ignore_ascii_case(token))
    }

    /// Whether a line stands there as it is written here, its case included.
    pub fn has_line(&self, name: &str, value: &str) -> bool {
        self.lines.iter().any(|(its_name, its_value)| its_name == name && its_value == value)
    }
}

impl Response {
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }
}
