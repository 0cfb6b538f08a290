//! Narrative (<https://hl7.org/fhir/R4/narrative.html>): one `<div>` of the harmless part of XHTML, because browsers will show it.

use crate::fhir::markup::{Event, Fault, Scanner};
use crate::fhir::narrative;

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

/// Whether `text` is one well-formed `<div>` of allowed elements and attributes. HTML's named entities and a namespace that is not
/// said pass: they are made right before the resource is stored ([`narrative::settle`]).
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be one well-formed <div> of XHTML";
    let mut scanner = Scanner::new(text.trim());
    let mut begun = false;
    while let Some(event) = scanner.step().map_err(words)? {
        match event {
            Event::Start { name, .. } => {
                if !begun && (name != "div" || !matches!(scanner.namespace(""), None | Some(narrative::XHTML))) {
                    return Err(FORM);
                }
                begun = true;
                // `xmlns=""` and other namespaces take an element out of XHTML, whatever it is called.
                let is_xhtml = matches!(scanner.namespace(""), None | Some(narrative::XHTML));
                if !is_xhtml || !ELEMENTS.contains(&name) {
                    return Err(ELEMENT);
                }
                scanner.attributes().iter().try_for_each(|(name, value)| attribute(name, value))?;
                if scanner.depth() > MAX_OPEN {
                    return Err("must not be nested so deeply");
                }
            }
            Event::Section(_) | Event::Instruction(_) => return Err(ELEMENT),
            Event::Comment(_) if scanner.depth() == 0 => return Err(FORM),
            Event::Comment(_) | Event::Text(_) | Event::End { .. } => {}
        }
    }
    Ok(())
}

const ELEMENT: &str = "must hold only the basic formatting elements of XHTML: no scripts, forms, frames, objects or document types";

/// What to do about it.
fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::Reference => "must be one well-formed <div> of XHTML: an & begins no entity there; write &amp;",
        Fault::LessThan => "must be one well-formed <div> of XHTML: a < stands in an attribute; write &lt;",
        Fault::SectionEnd => "must be one well-formed <div> of XHTML: write ]]&gt; for ]]>",
        Fault::Character => "must hold no control characters except tab, line feed and carriage return, and no noncharacters",
        Fault::Comment => "must be one well-formed <div> of XHTML: a comment has -- within it, or does not end",
        Fault::Twice => "must be one well-formed <div> of XHTML: an element has the same attribute twice",
        Fault::Prefix => "must be one well-formed <div> of XHTML: a prefix is not declared",
        Fault::Unquoted => "must have every attribute of its elements in quotes",
        Fault::TooMany => "must not have so many attributes on one element",
        Fault::Instruction | Fault::DocumentType => ELEMENT,
        Fault::Unfinished | Fault::WrongEnd | Fault::Outside | Fault::Tag => "must be one well-formed <div> of XHTML",
    }
}

fn attribute(name: &str, value: &str) -> Result<(), &'static str> {
    let name_is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b'_'));
    if !name_is_plain || name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("on")) {
        return Err("must have no event attributes on its elements");
    }
    if name.eq_ignore_ascii_case("href") || name.eq_ignore_ascii_case("src") {
        link(value)?;
    }
    Ok(())
}

/// Links go to the web, to parts of the page or resource, or carry an image; browsers skip spaces and control characters in schemes.
fn link(value: &str) -> Result<(), &'static str> {
    const WORDS: &str = "must link only to http, https, ftp, mailto, tel, # and images";
    let plain: String = value.chars().filter(|c| !c.is_whitespace() && !c.is_control()).take(16).collect::<String>().to_ascii_lowercase();
    let scheme = plain.split(['/', '?', '#']).next().unwrap_or_default();
    if scheme.contains('&') {
        // An entity could spell a scheme.
        return Err(WORDS);
    }
    let allowed = ["http:", "https:", "ftp:", "mailto:", "tel:", "urn:", "cid:", "data:image"];
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
            r##"<div><a href="#part">x</a><a href="Patient/1">y</a><a href="ftp://e.x/a">z</a></div>"##,
            "<div/>",
            "<div><p xmlns='http://www.w3.org/1999/xhtml'>x</p></div>",
            "<div>a&nbsp;b &amp; &#233;<p xml:lang='en' lang=\"en\">c\td\r\n</p></div>",
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
            "<div>salt & water</div>",
            "<div>&foo;</div>",
            "<div>&#0;</div>",
            "<div>a ]]> b</div>",
            "<div><p class='a' class='b'>x</p></div>",
            "<div><p title='a<b'>x</p></div>",
            "<div><!-- a -- b --></div>",
            "<div><p x:y='1'>x</p></div>",
            "<div>\u{1}</div>",
            "<div>\u{FFFF}</div>",
            "<div xmlns='urn:x'>x</div>",
            "<div><p xmlns=''>x</p></div>",
            "<div xmlns='http://www.w3.org/1999/xhtml'><p xmlns='urn:x'/></div>",
            "<div><?x y?></div>",
            "<!-- x --><div/>",
            "<div/><!-- x -->",
        ];
        for text in bad {
            assert!(check(text).is_err(), "{text}");
        }
        assert!(check(&"<div>".repeat(100_000)).is_err());
    }
}
