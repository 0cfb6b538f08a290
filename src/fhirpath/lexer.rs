//! Text to tokens (<http://hl7.org/fhirpath/N1/grammar.html>).

use super::ParseError;

/// One token and the byte where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub kind: Kind,
    pub position: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Identifier(String),
    /// Between backticks: never a keyword.
    Delimited(String),
    String(String),
    /// Digits, with a fraction when there is a point in it.
    Number(String),
    /// What follows `@`: a date, dateTime or (with a leading `T`) time.
    Temporal(String),
    /// `%name`.
    Variable(String),
    /// `$this`, `$index`, `$total`: the word after the sign.
    Dollar(String),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 22] =
    ["!=", "!~", "<=", ">=", "(", ")", "[", "]", "{", "}", ".", ",", "+", "-", "*", "/", "&", "|", "=", "~", "<", ">"];

pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut list = Vec::new();
    loop {
        lexer.skip_space()?;
        let position = lexer.at;
        let kind = lexer.next()?;
        let end = kind == Kind::End;
        list.push(Token { kind, position });
        if end {
            return Ok(list);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let length = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or("")
    }

    fn error<T>(&self, message: &str) -> Result<T, ParseError> {
        Err(ParseError { message: message.to_owned(), position: self.at })
    }

    fn skip_space(&mut self) -> Result<(), ParseError> {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest().starts_with("//") {
                self.take_while(|c| c != '\n' && c != '\r');
            } else if self.rest().starts_with("/*") {
                match self.rest().find("*/") {
                    Some(length) => self.at += length + 2,
                    None => return self.error("a comment has no end; close it with */"),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn next(&mut self) -> Result<Kind, ParseError> {
        let Some(first) = self.peek() else { return Ok(Kind::End) };
        match first {
            'a'..='z' | 'A'..='Z' | '_' => Ok(Kind::Identifier(self.word().to_owned())),
            '0'..='9' => Ok(Kind::Number(self.number())),
            '\'' => Ok(Kind::String(self.quoted(first)?)),
            '`' => Ok(Kind::Delimited(self.quoted('`')?)),
            '@' => self.temporal(),
            '%' => {
                self.bump();
                match self.peek() {
                    Some(quote @ ('`' | '\'')) => Ok(Kind::Variable(self.quoted(quote)?)),
                    _ => match self.word() {
                        "" => self.error("% must be followed by a name"),
                        name => Ok(Kind::Variable(name.to_owned())),
                    },
                }
            }
            '$' => {
                self.bump();
                Ok(Kind::Dollar(self.word().to_owned()))
            }
            _ => match SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol)) {
                Some(symbol) => {
                    self.at += symbol.len();
                    Ok(Kind::Symbol(symbol))
                }
                None => self.error("a character that FHIRPath does not use here"),
            },
        }
    }

    fn word(&mut self) -> &'t str {
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn number(&mut self) -> String {
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit());
        self.fraction();
        self.text.get(start..self.at).unwrap_or("").to_owned()
    }

    /// A point belongs to the number only when a digit follows; else it is a step (`1.toString()`).
    fn fraction(&mut self) {
        let mut ahead = self.rest().chars();
        if ahead.next() == Some('.') && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
            self.bump();
            self.take_while(|c| c.is_ascii_digit());
        }
    }

    fn temporal(&mut self) -> Result<Kind, ParseError> {
        self.bump();
        let start = self.at;
        self.take_while(|c| c.is_ascii_digit() || c == '-');
        if self.peek() == Some('T') {
            self.bump();
            let clock = self.take_while(|c| c.is_ascii_digit() || c == ':');
            self.fraction();
            if !clock.is_empty() {
                match self.peek() {
                    Some('Z') => {
                        self.bump();
                    }
                    // A sign after a clock is a zone only when it looks like one: `@T10:00-1` does not.
                    Some('+' | '-') if self.zone_follows() => {
                        self.bump();
                        self.take_while(|c| c.is_ascii_digit() || c == ':');
                    }
                    _ => {}
                }
            }
        }
        Ok(Kind::Temporal(self.text.get(start..self.at).unwrap_or("").to_owned()))
    }

    fn zone_follows(&self) -> bool {
        let bytes = self.rest().as_bytes();
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        digit(1) && digit(2) && bytes.get(3) == Some(&b':') && digit(4) && digit(5)
    }

    fn quoted(&mut self, quote: char) -> Result<String, ParseError> {
        self.bump();
        let mut content = String::new();
        loop {
            match self.bump() {
                None => return self.error("a quoted text has no end"),
                Some(c) if c == quote => return Ok(content),
                Some('\\') => match self.bump() {
                    Some('r') => content.push('\r'),
                    Some('n') => content.push('\n'),
                    Some('t') => content.push('\t'),
                    Some('f') => content.push('\u{c}'),
                    Some(c @ ('\\' | '/' | '\'' | '"' | '`')) => content.push(c),
                    Some('u') => content.push(self.unicode()?),
                    _ => return self.error("an escape that FHIRPath does not know; write \\\\ for a backslash"),
                },
                Some(c) => content.push(c),
            }
        }
    }

    fn unicode(&mut self) -> Result<char, ParseError> {
        let high = self.hex4()?;
        let code = match high {
            // Characters beyond the first plane come as two escapes.
            0xD800..=0xDBFF if self.rest().starts_with("\\u") => {
                self.at += 2;
                let low = self.hex4()?;
                0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF)
            }
            other => other,
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.error("\\u must name a character"),
        }
    }

    fn hex4(&mut self) -> Result<u32, ParseError> {
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => self.error("\\u must be followed by four hexadecimal digits"),
        }
    }
}
