//! Narrative (<https://hl7.org/fhir/R4/narrative.html>): one `<div>` of the harmless part of XHTML, because browsers will show it.

/// The elements of XHTML chapters 7 to 11 and 15 (without forms, scripts and objects), `a` and `img`.
const ELEMENTS: [&str; 60] = [
    "a",
    "abbr",
    "acronym",
    "address",
    "b",
    "bdo",
    "big",
    "blockquote",
    "br",
    "caption",
    "cite",
    "code",
    "col",
    "colgroup",
    "dd",
    "del",
    "dfn",
    "div",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "i",
    "img",
    "ins",
    "kbd",
    "li",
    "map",
    "ol",
    "p",
    "pre",
    "q",
    "samp",
    "small",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "tt",
    "ul",
    "var",
    "area",
    "strike",
    "u",
    "center",
    "s",
    "font",
];

/// Deeper nesting than any narrative has.
const MAX_OPEN: usize = 200;

/// Whether `text` is one well-formed `<div>` of allowed elements and attributes.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be one well-formed <div> of XHTML";
    let mut rest = text.trim();
    if !rest.starts_with("<div") {
        return Err(FORM);
    }
    let mut open: Vec<&str> = Vec::new();
    while let Some(start) = rest.find('<') {
        if open.is_empty() && start > 0 {
            return Err(FORM);
        }
        let tag = rest.get(start + 1..).unwrap_or_default();
        if let Some(comment) = tag.strip_prefix("!--") {
            rest = comment.split_once("-->").ok_or(FORM)?.1;
            continue;
        }
        let (tag, after) = split_tag(tag).ok_or(FORM)?;
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name.trim_end()) {
                return Err(FORM);
            }
        } else {
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let name = tag.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
            if !ELEMENTS.contains(&name) {
                return Err("must hold only the basic formatting elements of XHTML: no scripts, forms, frames, objects or document types");
            }
            attributes(tag.get(name.len()..).unwrap_or_default())?;
            if !closed {
                open.push(name);
            }
            if open.len() > MAX_OPEN {
                return Err("must not be nested so deeply");
            }
        }
        if open.is_empty() {
            break;
        }
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(()) } else { Err(FORM) }
}

/// A tag's inside and what follows its `>`, which may stand in a quoted attribute.
fn split_tag(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, b) in text.bytes().enumerate() {
        match (quote, b) {
            (Some(q), b) if q == b => quote = None,
            (None, b'"' | b'\'') => quote = Some(b),
            (None, b'>') => return Some((text.get(..at)?, text.get(at + 1..)?)),
            (None, b'<') => return None,
            _ => {}
        }
    }
    None
}

fn attributes(text: &str) -> Result<(), &'static str> {
    const FORM: &str = "must have every attribute of its elements in quotes";
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or(FORM)?;
        let name = name.trim();
        let value = value.trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(FORM)?;
        let (value, after) = value.get(1..).and_then(|value| value.split_once(quote)).ok_or(FORM)?;
        let name_is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b'_'));
        if !name_is_plain || name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("on")) {
            return Err("must have no event attributes on its elements");
        }
        if name.eq_ignore_ascii_case("href") || name.eq_ignore_ascii_case("src") {
            link(value)?;
        }
        rest = after.trim_start();
    }
    Ok(())
}

/// Links go to the web, to parts of the page or resource, or carry an image; browsers skip spaces and control characters in schemes.
fn link(value: &str) -> Result<(), &'static str> {
    const WORDS: &str = "must link only to http, https, mailto, tel, # and images";
    let plain: String = value.chars().filter(|c| !c.is_whitespace() && !c.is_control()).take(16).collect::<String>().to_ascii_lowercase();
    let scheme = plain.split(['/', '?', '#']).next().unwrap_or_default();
    if scheme.contains('&') {
        // An entity could spell a scheme.
        return Err(WORDS);
    }
    let allowed = ["http:", "https:", "mailto:", "tel:", "urn:", "cid:", "data:image"];
    match scheme.contains(':') && !allowed.iter().any(|start| scheme.starts_with(start)) {
        true => Err(WORDS),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn narrative_is_one_harmless_div() {
        let good = [
            r#"<div xmlns="http://www.w3.org/1999/xhtml">Generated by <a href="https://example.org">X</a>. Version : a > b</div>"#,
            r#" <div xmlns="http://www.w3.org/1999/xhtml"><!-- <script> --><p title='a>b'>x<br/><img src="data:image/png;base64,AA" alt="" /></p></div> "#,
            r##"<div><a href="#part">x</a><a href="Patient/1">y</a></div>"##,
            "<div/>",
        ];
        for text in good {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        let bad = [
            "text",
            "<p>x</p>",
            "<div>",
            "<div>x</p></div>",
            "<div></div><div></div>",
            "<div></div>tail",
            "<div><script>x</script></div>",
            "<div><SCRIPT>x</SCRIPT></div>",
            r#"<div onclick="x()">x</div>"#,
            r#"<div><img src="x" ONERROR="x"/></div>"#,
            "<div onclick=x>x</div>",
            r#"<div><a href="java
script:x">x</a></div>"#,
            r#"<div><a href="&#106;avascript:x">x</a></div>"#,
            r#"<div><a href="data:text/html,x">x</a></div>"#,
            "<!DOCTYPE x><div/>",
            "<div><![CDATA[x]]></div>",
            "<div",
            "<div><!-- </div>",
        ];
        for text in bad {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&"<div>".repeat(100_000)).is_err());
    }
}
