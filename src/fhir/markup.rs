//! XML, read piece by piece and strictly (<https://www.w3.org/TR/xml/>, <https://www.w3.org/TR/xml-names/>): what passes here every
//! other reader takes too. Document types are refused, and with them every entity that a document could define.
//!
//! Nothing is copied and nothing recurses: a [`Scanner`] keeps the names of the elements that are open and the prefixes that are bound.

use super::narrative;
use std::borrow::Cow;

/// What `xml:` means without being said.
const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// What `xmlns:` means.
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";

/// An element with more attributes, and a place with more prefixes bound, is refused: they are compared with one another.
const MAX_ATTRIBUTES: usize = 64;

/// Longer than the name or number of any reference.
const MAX_REFERENCE: usize = 32;

/// White space of XML.
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Why a text is not well formed; never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it ends before its elements do")]
    Unfinished,
    #[error("an element ends that did not begin, or not here")]
    WrongEnd,
    #[error("there is more than one root element, or text outside it")]
    Outside,
    #[error("a tag or a name is not written as XML wants it")]
    Tag,
    #[error("an attribute has no quotes around its value")]
    Unquoted,
    #[error("an element has the same attribute twice")]
    Twice,
    #[error("an element has too many attributes, or too many prefixes are declared")]
    TooMany,
    #[error("a prefix is not declared, or is not allowed")]
    Prefix,
    #[error("an & begins no reference that XML has; write &amp;")]
    Reference,
    #[error("a < stands in an attribute; write &lt;")]
    LessThan,
    #[error("]]> stands in a text; write ]]&gt;")]
    SectionEnd,
    #[error("it has a character that XML cannot say")]
    Character,
    #[error("a comment has -- within it, or does not end")]
    Comment,
    #[error("a processing instruction is not written as XML wants it")]
    Instruction,
    #[error("document types are not allowed")]
    DocumentType,
}

/// A piece of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A tag that begins an element, its attributes in [`Scanner::attributes`]; `closed`: it ends it too.
    Start {
        name: &'a str,
        closed: bool,
        raw: &'a str,
    },
    End {
        name: &'a str,
    },
    /// With its references as they are written.
    Text(&'a str),
    /// Without its marks.
    Section(&'a str),
    Comment(&'a str),
    Instruction(&'a str),
}

/// Reads a document from its beginning to its end.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    open: Vec<&'a str>,
    attributes: Vec<(&'a str, &'a str)>,
    /// How deep the element stands that declares it, the prefix, what it means.
    bound: Vec<(usize, &'a str, &'a str)>,
    rooted: bool,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0, open: Vec::new(), attributes: Vec::new(), bound: Vec::new(), rooted: false }
    }

    /// How many elements are open.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Names and raw values of the attributes of the tag that was read last.
    pub fn attributes(&self) -> &[(&'a str, &'a str)] {
        &self.attributes
    }

    /// Where the name of the tag that was read last belongs, and what it is called there.
    pub fn expanded<'n>(&self, name: &'n str) -> (&'a str, &'n str) {
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        (self.namespace(prefix).unwrap_or_default(), local)
    }

    /// What a prefix means here; `""` is that of elements without one.
    pub fn namespace(&self, prefix: &str) -> Option<&'a str> {
        let declared = self.bound.iter().rev().find(|(_, bound, _)| *bound == prefix).map(|(_, _, meaning)| *meaning);
        declared.or((prefix == "xml").then_some(XML))
    }

    /// The next piece; `None` at the end of a whole document.
    pub fn step(&mut self) -> Result<Option<Event<'a>>, Fault> {
        let depth = self.open.len();
        while self.bound.pop_if(|(declared, _, _)| *declared > depth).is_some() {}
        let rest = self.text.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return if self.rooted && depth == 0 { Ok(None) } else { Err(Fault::Unfinished) };
        }
        let (event, length) = match rest.strip_prefix('<') {
            None => {
                let (text, _) = rest.split_at_checked(rest.find('<').unwrap_or(rest.len())).ok_or(Fault::Tag)?;
                if depth == 0 && !text.trim_matches(SPACE).is_empty() {
                    return Err(Fault::Outside);
                }
                check(text, Place::Text)?;
                (Event::Text(text), text.len())
            }
            Some(markup) => self.markup(markup)?,
        };
        self.at += length;
        Ok(Some(event))
    }

    /// What follows a `<`, and how long it is with that.
    fn markup(&mut self, markup: &'a str) -> Result<(Event<'a>, usize), Fault> {
        if let Some(rest) = markup.strip_prefix("!--") {
            let (comment, after) = rest.split_once("--").ok_or(Fault::Comment)?;
            check(comment, Place::Apart)?;
            return if after.starts_with('>') { Ok((Event::Comment(comment), comment.len() + 7)) } else { Err(Fault::Comment) };
        }
        if let Some(rest) = markup.strip_prefix("![CDATA[") {
            let (section, _) = rest.split_once("]]>").ok_or(Fault::Unfinished)?;
            check(section, Place::Apart)?;
            return if self.open.is_empty() { Err(Fault::Outside) } else { Ok((Event::Section(section), section.len() + 12)) };
        }
        if markup.starts_with('!') {
            return Err(Fault::DocumentType);
        }
        if let Some(rest) = markup.strip_prefix('?') {
            let (inside, _) = rest.split_once("?>").ok_or(Fault::Instruction)?;
            let target = inside.split(SPACE).next().unwrap_or_default();
            // The declaration stands at the very beginning or nowhere.
            if !is_name(target) || target.contains(':') || (target.eq_ignore_ascii_case("xml") && (self.at > 0 || target != "xml")) {
                return Err(Fault::Instruction);
            }
            check(inside, Place::Apart)?;
            return Ok((Event::Instruction(inside), inside.len() + 4));
        }
        if let Some(rest) = markup.strip_prefix('/') {
            let (inside, _) = rest.split_once('>').ok_or(Fault::Unfinished)?;
            let name = inside.trim_end_matches(SPACE);
            return if self.open.pop() == Some(name) { Ok((Event::End { name }, inside.len() + 3)) } else { Err(Fault::WrongEnd) };
        }
        self.start(markup)
    }

    /// A tag that begins an element, from its name on.
    fn start(&mut self, markup: &'a str) -> Result<(Event<'a>, usize), Fault> {
        if self.rooted && self.open.is_empty() {
            return Err(Fault::Outside);
        }
        let ends = |c: char| SPACE.contains(&c) || matches!(c, '/' | '>');
        let (name, mut rest) = markup.split_at_checked(markup.find(ends).ok_or(Fault::Unfinished)?).ok_or(Fault::Tag)?;
        if !is_qualified(name) {
            return Err(Fault::Tag);
        }
        self.attributes.clear();
        let (closed, after) = loop {
            let tag = rest.trim_start_matches(SPACE);
            if let Some(after) = tag.strip_prefix('>') {
                break (false, after);
            }
            if let Some(after) = tag.strip_prefix("/>") {
                break (true, after);
            }
            if tag.is_empty() {
                return Err(Fault::Unfinished);
            }
            let (key, said) = tag.split_once('=').ok_or(Fault::Tag)?;
            let key = key.trim_end_matches(SPACE);
            if tag.len() == rest.len() || !is_qualified(key) {
                return Err(Fault::Tag);
            }
            let said = said.trim_start_matches(SPACE);
            let quote = said.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(Fault::Unquoted)?;
            let (value, after) = said.get(1..).and_then(|said| said.split_once(quote)).ok_or(Fault::Unfinished)?;
            check(value, Place::Attribute)?;
            if self.attributes.iter().any(|(other, _)| *other == key) {
                return Err(Fault::Twice);
            }
            if self.attributes.len() >= MAX_ATTRIBUTES {
                return Err(Fault::TooMany);
            }
            self.attributes.push((key, value));
            rest = after;
        };
        self.declare(name)?;
        self.rooted = true;
        if !closed {
            self.open.push(name);
        }
        let length = markup.len() - after.len() + 1;
        let raw = self.text.get(self.at..self.at + length).unwrap_or_default();
        Ok((Event::Start { name, closed, raw }, length))
    }

    /// Takes note of the prefixes that the attributes declare, and holds the names of the tag against all that are declared.
    fn declare(&mut self, name: &'a str) -> Result<(), Fault> {
        let depth = self.open.len() + 1;
        for (key, meaning) in &self.attributes {
            let prefix = match key.strip_prefix("xmlns") {
                Some("") => "",
                Some(rest) if rest.starts_with(':') => rest.trim_start_matches(':'),
                _ => continue,
            };
            let right = match prefix {
                "" => !matches!(*meaning, XML | XMLNS),
                "xml" => *meaning == XML,
                "xmlns" => false,
                _ => !matches!(*meaning, "" | XML | XMLNS),
            };
            if !right {
                return Err(Fault::Prefix);
            }
            if self.bound.len() >= MAX_ATTRIBUTES {
                return Err(Fault::TooMany);
            }
            self.bound.push((depth, prefix, meaning));
        }
        let known = |name: &str| name.split_once(':').is_none_or(|(prefix, _)| self.namespace(prefix).is_some());
        if !known(name) || !self.attributes.iter().all(|(key, _)| key.starts_with("xmlns:") || known(key)) {
            return Err(Fault::Prefix);
        }
        // Two prefixes may mean the same.
        let mut prefixed = self.attributes.iter().filter(|(key, _)| key.contains(':') && !key.starts_with("xmlns:"));
        while let Some((key, _)) = prefixed.next() {
            if prefixed.clone().any(|(other, _)| self.expanded(other) == self.expanded(key)) {
                return Err(Fault::Twice);
            }
        }
        Ok(())
    }
}

/// Where characters stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    Attribute,
    /// In a comment, a section or an instruction, where nothing is a reference.
    Apart,
}

/// Whether these characters may stand there as they are.
fn check(text: &str, place: Place) -> Result<(), Fault> {
    let plain = |b: u8| ((b >= 0x20) | (b == b'\n')) & (b != b'&') & (b != b'<') & (b != b']') & (b != 0xEF);
    if text.bytes().fold(true, |all, byte| all & plain(byte)) {
        return Ok(());
    }
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'&' if place != Place::Apart => _ = reference(text.get(at..).unwrap_or_default()).ok_or(Fault::Reference)?,
            b'<' if place == Place::Attribute => return Err(Fault::LessThan),
            b']' if place == Place::Text && text.get(at..).is_some_and(|rest| rest.starts_with("]]>")) => return Err(Fault::SectionEnd),
            b'\t' | b'\n' | b'\r' => {}
            ..=0x1F => return Err(Fault::Character),
            0xEF if text.get(at..).and_then(|rest| rest.chars().next()).is_some_and(|c| !is_character(c)) => return Err(Fault::Character),
            _ => {}
        }
    }
    Ok(())
}

/// What the reference at the beginning of the text means, and what follows it: numbers, the five names of XML, and those of HTML,
/// which narratives are full of ([`narrative`]).
pub fn reference(text: &str) -> Option<(char, &str)> {
    let rest = text.strip_prefix('&')?;
    let end = rest.bytes().take(MAX_REFERENCE).position(|byte| byte == b';')?;
    let (name, after) = (rest.get(..end)?, rest.get(end + 1..)?);
    let digits = |digits: &str, radix: u32| {
        let number = digits.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(digits, radix).ok())??;
        char::from_u32(number).filter(|c| is_character(*c))
    };
    let meant = match (name, name.strip_prefix('#')) {
        (_, Some(number)) => number.strip_prefix('x').map_or_else(|| digits(number, 10), |number| digits(number, 16))?,
        ("amp", _) => '&',
        ("lt", _) => '<',
        ("gt", _) => '>',
        ("quot", _) => '"',
        ("apos", _) => '\'',
        (name, _) => narrative::html_entity(name)?,
    };
    Some((meant, after))
}

/// What an attribute's raw value says: white space that stands there as it is means a space
/// (<https://www.w3.org/TR/xml/#AVNormalize>).
pub fn value(raw: &str) -> Cow<'_, str> {
    if !raw.contains(['&', '\t', '\n', '\r']) {
        return Cow::Borrowed(raw);
    }
    let mut said = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let (c, after) = match reference(rest) {
            Some(meant) => meant,
            None if matches!(c, '\t' | '\n' | '\r') => (' ', rest.get(1..).unwrap_or_default()),
            None => (c, rest.get(c.len_utf8()..).unwrap_or_default()),
        };
        said.push(c);
        rest = after;
    }
    said.into()
}

/// Writes a text so that it reads as it is, in a text or within double quotes. What XML has no way to say becomes U+FFFD.
pub fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            c if is_character(c) => out.push(c),
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
}

/// Whether XML has this character (<https://www.w3.org/TR/xml/#NT-Char>).
pub fn is_character(c: char) -> bool {
    !matches!(c, '\0'..='\x08' | '\x0B' | '\x0C' | '\x0E'..='\x1F' | '\u{FFFE}' | '\u{FFFF}')
}

/// A name with at most one prefix.
fn is_qualified(name: &str) -> bool {
    match name.split_once(':') {
        Some((prefix, local)) => is_name(prefix) && is_name(local),
        None => is_name(name),
    }
}

/// A name without a colon (<https://www.w3.org/TR/xml-names/#NT-NCName>).
fn is_name(name: &str) -> bool {
    let first = |c: char| {
        matches!(c, 'A'..='Z' | 'a'..='z' | '_' | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}'
            | '\u{37F}'..='\u{1FFF}' | '\u{200C}' | '\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
            | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
    };
    let later = |c: char| first(c) || matches!(c, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}' | '\u{2040}');
    name.starts_with(first) && name.chars().all(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, Fault> {
        let (mut scanner, mut events) = (Scanner::new(text), 0);
        while scanner.step()?.is_some() {
            events += 1;
        }
        Ok(events)
    }

    #[test]
    fn what_is_well_formed_is_read() {
        for (text, events) in [
            ("<?xml version=\"1.0\"?>\n<a/>\n", 4),
            ("<a  b = 'x>y' c=\"'\"\n>t &amp; &#x41;&nbsp;] ]&gt;<!-- < & - --><![CDATA[<&]]></a >", 5),
            ("<p:a xmlns:p='u'><b p:c='1' c='2' xml:lang='en' xmlns='v'/></p:a>", 3),
            ("<é·-.1/><?p?>", 2),
        ] {
            assert_eq!(read(text), Ok(events), "{text}");
        }
        let mut scanner = Scanner::new("<p:a xmlns:p='u'><b xmlns='v'/><c/></p:a>");
        let mut names = Vec::new();
        while let Some(event) = scanner.step().unwrap() {
            if let Event::Start { name, .. } = event {
                names.push(scanner.expanded(name));
            }
        }
        assert_eq!(names, [("u", "a"), ("v", "b"), ("", "c")]);
        assert_eq!(value("a\n&lt;&#10;&nbsp;é\t"), "a <\n\u{A0}é ");
    }

    #[test]
    fn what_is_not_is_refused() {
        use Fault::*;
        for (text, fault) in [
            ("", Unfinished),
            ("<", Unfinished),
            ("<a", Unfinished),
            ("<a>", Unfinished),
            ("<a b='1", Unfinished),
            ("</a>", WrongEnd),
            ("<a></b>", WrongEnd),
            ("<a/><a/>", Outside),
            ("<a/>x", Outside),
            ("x<a/>", Outside),
            ("<a/>&#32;", Outside),
            ("<![CDATA[]]><a/>", Outside),
            ("< a/>", Tag),
            ("<1a/>", Tag),
            ("<a:b:c xmlns:a='u'/>", Tag),
            ("<a b='1'c='2'/>", Tag),
            ("<a b/>", Tag),
            ("<a b c='1'/>", Tag),
            ("<a =''/>", Tag),
            ("<a b=c/>", Unquoted),
            ("<a b='1' b='2'/>", Twice),
            ("<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>", Twice),
            ("<p:a/>", Prefix),
            ("<a p:b='1'/>", Prefix),
            ("<a xmlns:p=''/>", Prefix),
            ("<a xmlns:xmlns='u'/>", Prefix),
            ("<a><b xmlns:p='u'/><p:c/></a>", Prefix),
            ("<a>&</a>", Reference),
            ("<a>&b;</a>", Reference),
            ("<a>&amp</a>", Reference),
            ("<a>&#0;</a>", Reference),
            ("<a>&#xD800;</a>", Reference),
            ("<a>&#+65;</a>", Reference),
            ("<a>&#;</a>", Reference),
            ("<a>&#xFFFE;</a>", Reference),
            ("<a b='&'/>", Reference),
            ("<a b='<'/>", LessThan),
            ("<a>]]></a>", SectionEnd),
            ("<a>\u{1}</a>", Character),
            ("<a>\u{FFFF}</a>", Character),
            ("<a><!--\u{FFFE}--></a>", Character),
            ("<a><!-- -- --></a>", Comment),
            ("<a><!-- </a>", Comment),
            ("<a><!----->", Comment),
            (" <?xml version='1.0'?><a/>", Instruction),
            ("<?XML?><a/>", Instruction),
            ("<a><??></a>", Instruction),
            ("<!DOCTYPE a><a/>", DocumentType),
        ] {
            assert_eq!(read(text), Err(fault), "{text}");
        }
        let many: String = (0..100).map(|n| format!(" a{n}=''")).collect();
        assert_eq!(read(&format!("<a{many}/>")), Err(TooMany));
    }
}
