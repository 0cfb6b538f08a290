//! Narratives as they come, and as they are kept (<https://hl7.org/fhir/R4/narrative.html>): a `div` of XHTML, which is XML.
//!
//! Many programs write a browser's HTML there: `&nbsp;` and its kin, which XML does not know, and no namespace. [`settle`] makes
//! that right before a resource is stored; whether the rest is well formed is for the validator to say.

use super::markup::{Event, Scanner, escape, is_character, reference};
use serde_json::Value;
use std::borrow::Cow;

/// The namespace of XHTML.
pub const XHTML: &str = "http://www.w3.org/1999/xhtml";

/// Makes the narratives of a resource, and of those inside it, what XML can say: characters instead of HTML's named entities,
/// the namespace said, line ends and outer white space as XML has them.
pub fn settle(resource: &mut Value) {
    let mut waiting = vec![resource];
    while let Some(value) = waiting.pop() {
        let Value::Object(members) = value else { continue };
        for (key, member) in members {
            match (key.as_str(), member) {
                ("text", Value::Object(narrative)) => {
                    let Some(Value::String(div)) = narrative.get_mut("div") else { continue };
                    let settled = settled(div);
                    if settled != *div {
                        *div = settled.into_owned();
                    }
                }
                ("contained" | "section" | "entry" | "parameter" | "part", Value::Array(items)) => waiting.extend(items),
                ("resource" | "response" | "outcome", inner) => waiting.push(inner),
                _ => {}
            }
        }
    }
}

/// A narrative as [`settle`] leaves it.
pub fn settled(div: &str) -> Cow<'_, str> {
    made_right(div, |byte| matches!(byte, b'&' | b'\r'), |_| None)
}

/// A narrative as XML, whatever it is: what is not well formed is made so, in the last resort by saying its source as text.
pub fn as_xml(div: &str) -> Cow<'_, str> {
    let settled = settled(div);
    if is_div(&settled) {
        return settled;
    }
    let hard = |byte| matches!(byte, ..0x20 | b'&' | b']' | 0xEF);
    let mended = made_right(div, hard, |rest| match rest.chars().next()? {
        '&' if reference(rest).is_none() => Some(("&amp;", 1)),
        ']' if rest.starts_with("]]>") => Some(("]]&gt;", 3)),
        c if !is_character(c) => Some(("\u{FFFD}", c.len_utf8())),
        _ => None,
    });
    if is_div(&mended) {
        return mended.into_owned().into();
    }
    let mut source = format!("<div xmlns=\"{XHTML}\">");
    escape(&mut source, div);
    source.push_str("</div>");
    source.into()
}

/// Whether HTML's named entities stand in it.
pub fn has_html_entities(div: &str) -> bool {
    div.match_indices('&').any(|(at, _)| div.get(at..).is_some_and(|rest| html_entity_at(rest).is_some()))
}

/// What a named entity of HTML means; not the five that XML has too.
pub fn html_entity(name: &str) -> Option<char> {
    let at = ENTITIES.binary_search_by(|(entity, _)| (*entity).cmp(name)).ok()?;
    ENTITIES.get(at).map(|(_, meant)| *meant)
}

/// What the entity at the beginning of the text means and how long it is, if it is one of HTML's.
fn html_entity_at(text: &str) -> Option<(char, usize)> {
    // By far the most are XML's own.
    if ["&amp;", "&lt;", "&gt;", "&quot;", "&#"].iter().any(|own| text.starts_with(own)) {
        return None;
    }
    let (meant, after) = reference(text)?;
    let length = text.len() - after.len();
    let name = text.get(1..length.checked_sub(1)?)?;
    html_entity(name).map(|_| (meant, length))
}

/// One well-formed `div` that says its namespace.
fn is_div(text: &str) -> bool {
    let mut scanner = Scanner::new(text);
    let first = scanner.step();
    let begins = matches!(first, Ok(Some(Event::Start { name: "div", .. }))) && scanner.namespace("") == Some(XHTML);
    begins && std::iter::from_fn(|| scanner.step().transpose()).all(|event| event.is_ok()) && text.ends_with('>')
}

/// The narrative with HTML's entities, line ends and outer white space as XML has them, and the namespace; `other` says
/// what to put in the place of what stands at the beginning of the rest, and how long that is. Looked at is only what
/// begins with a `hard` byte.
fn made_right(div: &str, hard: impl Fn(u8) -> bool, other: impl Fn(&str) -> Option<(&'static str, usize)>) -> Cow<'_, str> {
    let trimmed = div.trim();
    let mut made = String::new();
    let mut copied = 0;
    if trimmed.starts_with("<div") && !says_namespace(trimmed) {
        made.push_str(&format!("<div xmlns=\"{XHTML}\""));
        copied = "<div".len();
    }
    let mut at = copied;
    while let Some(found) = trimmed.get(at..).and_then(|rest| rest.bytes().position(&hard)) {
        at += found;
        let rest = trimmed.get(at..).unwrap_or_default();
        let c = rest.chars().next().unwrap_or_default();
        let mut letter = [0; 4];
        let instead: Option<(&str, usize)> = match (c, html_entity_at(rest)) {
            (_, Some((meant, length))) => Some((meant.encode_utf8(&mut letter), length)),
            ('\r', _) => Some(("\n", if rest.starts_with("\r\n") { 2 } else { 1 })),
            _ => other(rest),
        };
        match instead {
            Some((instead, length)) => {
                made.push_str(trimmed.get(copied..at).unwrap_or_default());
                made.push_str(instead);
                at += length;
                copied = at;
            }
            None => at += c.len_utf8(),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(trimmed);
    }
    made.push_str(trimmed.get(copied..).unwrap_or_default());
    made.into()
}

/// Whether the first tag declares what names without a prefix mean.
fn says_namespace(div: &str) -> bool {
    let mut scanner = Scanner::new(div);
    match scanner.step() {
        Ok(_) => scanner.attributes().iter().any(|(key, _)| *key == "xmlns"),
        Err(_) => div.split('>').next().is_some_and(|tag| tag.contains("xmlns")),
    }
}

/// The named entities of HTML 4 (<https://www.w3.org/TR/html401/sgml/entities.html>) without XML's own, sorted.
#[rustfmt::skip]
const ENTITIES: [(&str, char); 248] = [
    ("AElig", '\u{C6}'), ("Aacute", '\u{C1}'), ("Acirc", '\u{C2}'), ("Agrave", '\u{C0}'), ("Alpha", '\u{391}'), ("Aring", '\u{C5}'),
    ("Atilde", '\u{C3}'), ("Auml", '\u{C4}'), ("Beta", '\u{392}'), ("Ccedil", '\u{C7}'), ("Chi", '\u{3A7}'), ("Dagger", '\u{2021}'),
    ("Delta", '\u{394}'), ("ETH", '\u{D0}'), ("Eacute", '\u{C9}'), ("Ecirc", '\u{CA}'), ("Egrave", '\u{C8}'),
    ("Epsilon", '\u{395}'), ("Eta", '\u{397}'), ("Euml", '\u{CB}'), ("Gamma", '\u{393}'), ("Iacute", '\u{CD}'), ("Icirc", '\u{CE}'),
    ("Igrave", '\u{CC}'), ("Iota", '\u{399}'), ("Iuml", '\u{CF}'), ("Kappa", '\u{39A}'), ("Lambda", '\u{39B}'), ("Mu", '\u{39C}'),
    ("Ntilde", '\u{D1}'), ("Nu", '\u{39D}'), ("OElig", '\u{152}'), ("Oacute", '\u{D3}'), ("Ocirc", '\u{D4}'), ("Ograve", '\u{D2}'),
    ("Omega", '\u{3A9}'), ("Omicron", '\u{39F}'), ("Oslash", '\u{D8}'), ("Otilde", '\u{D5}'), ("Ouml", '\u{D6}'),
    ("Phi", '\u{3A6}'), ("Pi", '\u{3A0}'), ("Prime", '\u{2033}'), ("Psi", '\u{3A8}'), ("Rho", '\u{3A1}'), ("Scaron", '\u{160}'),
    ("Sigma", '\u{3A3}'), ("THORN", '\u{DE}'), ("Tau", '\u{3A4}'), ("Theta", '\u{398}'), ("Uacute", '\u{DA}'), ("Ucirc", '\u{DB}'),
    ("Ugrave", '\u{D9}'), ("Upsilon", '\u{3A5}'), ("Uuml", '\u{DC}'), ("Xi", '\u{39E}'), ("Yacute", '\u{DD}'), ("Yuml", '\u{178}'),
    ("Zeta", '\u{396}'), ("aacute", '\u{E1}'), ("acirc", '\u{E2}'), ("acute", '\u{B4}'), ("aelig", '\u{E6}'), ("agrave", '\u{E0}'),
    ("alefsym", '\u{2135}'), ("alpha", '\u{3B1}'), ("and", '\u{2227}'), ("ang", '\u{2220}'), ("aring", '\u{E5}'),
    ("asymp", '\u{2248}'), ("atilde", '\u{E3}'), ("auml", '\u{E4}'), ("bdquo", '\u{201E}'), ("beta", '\u{3B2}'),
    ("brvbar", '\u{A6}'), ("bull", '\u{2022}'), ("cap", '\u{2229}'), ("ccedil", '\u{E7}'), ("cedil", '\u{B8}'), ("cent", '\u{A2}'),
    ("chi", '\u{3C7}'), ("circ", '\u{2C6}'), ("clubs", '\u{2663}'), ("cong", '\u{2245}'), ("copy", '\u{A9}'), ("crarr", '\u{21B5}'),
    ("cup", '\u{222A}'), ("curren", '\u{A4}'), ("dArr", '\u{21D3}'), ("dagger", '\u{2020}'), ("darr", '\u{2193}'),
    ("deg", '\u{B0}'), ("delta", '\u{3B4}'), ("diams", '\u{2666}'), ("divide", '\u{F7}'), ("eacute", '\u{E9}'), ("ecirc", '\u{EA}'),
    ("egrave", '\u{E8}'), ("empty", '\u{2205}'), ("emsp", '\u{2003}'), ("ensp", '\u{2002}'), ("epsilon", '\u{3B5}'),
    ("equiv", '\u{2261}'), ("eta", '\u{3B7}'), ("eth", '\u{F0}'), ("euml", '\u{EB}'), ("euro", '\u{20AC}'), ("exist", '\u{2203}'),
    ("fnof", '\u{192}'), ("forall", '\u{2200}'), ("frac12", '\u{BD}'), ("frac14", '\u{BC}'), ("frac34", '\u{BE}'),
    ("frasl", '\u{2044}'), ("gamma", '\u{3B3}'), ("ge", '\u{2265}'), ("hArr", '\u{21D4}'), ("harr", '\u{2194}'),
    ("hearts", '\u{2665}'), ("hellip", '\u{2026}'), ("iacute", '\u{ED}'), ("icirc", '\u{EE}'), ("iexcl", '\u{A1}'),
    ("igrave", '\u{EC}'), ("image", '\u{2111}'), ("infin", '\u{221E}'), ("int", '\u{222B}'), ("iota", '\u{3B9}'),
    ("iquest", '\u{BF}'), ("isin", '\u{2208}'), ("iuml", '\u{EF}'), ("kappa", '\u{3BA}'), ("lArr", '\u{21D0}'),
    ("lambda", '\u{3BB}'), ("lang", '\u{2329}'), ("laquo", '\u{AB}'), ("larr", '\u{2190}'), ("lceil", '\u{2308}'),
    ("ldquo", '\u{201C}'), ("le", '\u{2264}'), ("lfloor", '\u{230A}'), ("lowast", '\u{2217}'), ("loz", '\u{25CA}'),
    ("lrm", '\u{200E}'), ("lsaquo", '\u{2039}'), ("lsquo", '\u{2018}'), ("macr", '\u{AF}'), ("mdash", '\u{2014}'),
    ("micro", '\u{B5}'), ("middot", '\u{B7}'), ("minus", '\u{2212}'), ("mu", '\u{3BC}'), ("nabla", '\u{2207}'), ("nbsp", '\u{A0}'),
    ("ndash", '\u{2013}'), ("ne", '\u{2260}'), ("ni", '\u{220B}'), ("not", '\u{AC}'), ("notin", '\u{2209}'), ("nsub", '\u{2284}'),
    ("ntilde", '\u{F1}'), ("nu", '\u{3BD}'), ("oacute", '\u{F3}'), ("ocirc", '\u{F4}'), ("oelig", '\u{153}'), ("ograve", '\u{F2}'),
    ("oline", '\u{203E}'), ("omega", '\u{3C9}'), ("omicron", '\u{3BF}'), ("oplus", '\u{2295}'), ("or", '\u{2228}'),
    ("ordf", '\u{AA}'), ("ordm", '\u{BA}'), ("oslash", '\u{F8}'), ("otilde", '\u{F5}'), ("otimes", '\u{2297}'), ("ouml", '\u{F6}'),
    ("para", '\u{B6}'), ("part", '\u{2202}'), ("permil", '\u{2030}'), ("perp", '\u{22A5}'), ("phi", '\u{3C6}'), ("pi", '\u{3C0}'),
    ("piv", '\u{3D6}'), ("plusmn", '\u{B1}'), ("pound", '\u{A3}'), ("prime", '\u{2032}'), ("prod", '\u{220F}'),
    ("prop", '\u{221D}'), ("psi", '\u{3C8}'), ("rArr", '\u{21D2}'), ("radic", '\u{221A}'), ("rang", '\u{232A}'),
    ("raquo", '\u{BB}'), ("rarr", '\u{2192}'), ("rceil", '\u{2309}'), ("rdquo", '\u{201D}'), ("real", '\u{211C}'),
    ("reg", '\u{AE}'), ("rfloor", '\u{230B}'), ("rho", '\u{3C1}'), ("rlm", '\u{200F}'), ("rsaquo", '\u{203A}'),
    ("rsquo", '\u{2019}'), ("sbquo", '\u{201A}'), ("scaron", '\u{161}'), ("sdot", '\u{22C5}'), ("sect", '\u{A7}'),
    ("shy", '\u{AD}'), ("sigma", '\u{3C3}'), ("sigmaf", '\u{3C2}'), ("sim", '\u{223C}'), ("spades", '\u{2660}'),
    ("sub", '\u{2282}'), ("sube", '\u{2286}'), ("sum", '\u{2211}'), ("sup", '\u{2283}'), ("sup1", '\u{B9}'), ("sup2", '\u{B2}'),
    ("sup3", '\u{B3}'), ("supe", '\u{2287}'), ("szlig", '\u{DF}'), ("tau", '\u{3C4}'), ("there4", '\u{2234}'), ("theta", '\u{3B8}'),
    ("thetasym", '\u{3D1}'), ("thinsp", '\u{2009}'), ("thorn", '\u{FE}'), ("tilde", '\u{2DC}'), ("times", '\u{D7}'),
    ("trade", '\u{2122}'), ("uArr", '\u{21D1}'), ("uacute", '\u{FA}'), ("uarr", '\u{2191}'), ("ucirc", '\u{FB}'),
    ("ugrave", '\u{F9}'), ("uml", '\u{A8}'), ("upsih", '\u{3D2}'), ("upsilon", '\u{3C5}'), ("uuml", '\u{FC}'),
    ("weierp", '\u{2118}'), ("xi", '\u{3BE}'), ("yacute", '\u{FD}'), ("yen", '\u{A5}'), ("yuml", '\u{FF}'), ("zeta", '\u{3B6}'),
    ("zwj", '\u{200D}'), ("zwnj", '\u{200C}'),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn div(inside: &str) -> String {
        format!("<div xmlns=\"{XHTML}\">{inside}</div>")
    }

    #[test]
    fn what_html_says_is_said_as_xml() {
        assert!(ENTITIES.is_sorted());
        for (came, kept) in [
            (div("a&nbsp;b &eacute;&Eacute; &hellip;"), div("a\u{A0}b éÉ …")),
            (div("&amp;nbsp; &lt;&apos;&#160;"), div("&amp;nbsp; &lt;&apos;&#160;")),
            (div("salt & water &foo; &nbsp"), div("salt & water &foo; &nbsp")),
            ("<div>x</div>".to_owned(), div("x")),
            ("<div/>".to_owned(), format!("<div xmlns=\"{XHTML}\"/>")),
            ("<div class='a>b'>&copy;</div>".to_owned(), format!("<div xmlns=\"{XHTML}\" class='a>b'>©</div>")),
            (format!("\n {} ", div("a\r\nb\rc")), div("a\nb\nc")),
        ] {
            assert_eq!(settled(&came), kept);
            assert!(matches!(settled(&kept), Cow::Borrowed(same) if same == kept));
        }
    }

    #[test]
    fn every_narrative_of_a_resource_is_settled() {
        let text = |inside: &str| json!({ "status": "generated", "div": div(inside) });
        let resource = |inside: &str| {
            json!({ "resourceType": "Bundle", "entry": [{ "resource": {
                "resourceType": "Composition", "text": text(inside), "title": "&nbsp;", "contained": [{ "text": text(inside) }],
                "section": [{ "text": text(inside), "section": [{ "text": text(inside), "code": { "text": "&nbsp;" } }] }],
            }, "response": { "outcome": { "text": text(inside) } } }] })
        };
        let mut came = resource("&nbsp;");
        settle(&mut came);
        assert_eq!(came, resource("\u{A0}"));
    }

    #[test]
    fn whatever_was_stored_is_told_as_xml() {
        for (stored, told) in [
            (div("a&nbsp;b"), div("a\u{A0}b")),
            (div("salt & water &foo; ]]> \u{1}\u{FFFE}"), div("salt &amp; water &amp;foo; ]]&gt; \u{FFFD}\u{FFFD}")),
            (
                div("<p class='a' class='b'>x</p>"),
                div(&format!("&lt;div xmlns=&quot;{XHTML}&quot;&gt;&lt;p class='a' class='b'&gt;x&lt;/p&gt;&lt;/div&gt;")),
            ),
            ("x".to_owned(), div("x")),
            ("<div></div><div></div>".to_owned(), div("&lt;div&gt;&lt;/div&gt;&lt;div&gt;&lt;/div&gt;")),
            ("<div xmlns='urn:x'/>".to_owned(), div("&lt;div xmlns='urn:x'/&gt;")),
            (String::new(), div("")),
        ] {
            assert_eq!(as_xml(&stored), told);
        }
    }
}
