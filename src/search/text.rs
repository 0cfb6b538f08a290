//! The expressions of `_text` and `_content` (<https://hl7.org/fhir/R4/search.html#content>), such as `(bone OR liver) and metastases`.
//!
//! `and`, `or` and `not` in small letters or capitals; `and` may be left out, and binds more closely than `or`, which a comma is too. A word
//! with a `*` at its end is the beginning of one. What stands in quotes are words and no operators; all of them must be there, in any order,
//! since the index does not know where a word stood. Other marks separate words, as they do where words are indexed.

use super::extract::words;
use crate::fhir::text::fold;
use crate::store::query::{Filter, SystemTest, Test};

/// Words of one expression.
const MAX_WORDS: usize = 100;
/// Parentheses within parentheses.
const MAX_DEPTH: usize = 16;

#[derive(Debug, PartialEq)]
enum Token {
    And,
    Or,
    Not,
    Open,
    Close,
    /// All of these words and beginnings of words.
    Words(Vec<Test>),
}

/// Reads one expression; `of_word` makes the filter of one word's test. The error says what is wrong without quoting it.
pub(super) fn read(text: &str, of_word: &dyn Fn(Test) -> Filter) -> Result<Filter, String> {
    let mut tokens = tokens(text)?;
    let count = |token: &Token| match token {
        Token::Words(words) => words.len(),
        _ => 1,
    };
    if tokens.iter().map(count).sum::<usize>() > 4 * MAX_WORDS {
        return Err(format!("it has {MAX_WORDS} words at most"));
    }
    tokens.reverse();
    let mut parser = Parser { tokens, of_word, words: 0 };
    let filter = parser.either(0)?;
    match parser.tokens.is_empty() {
        true => Ok(filter),
        false => Err("a parenthesis closes that was not opened".into()),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        let token = match first {
            '(' => (Some(Token::Open), after),
            ')' => (Some(Token::Close), after),
            ',' => (Some(Token::Or), after),
            '"' => {
                let (quoted, after) = after.split_once('"').ok_or("a quote does not end")?;
                (Some(Token::Words(whole_words(quoted)?)), after)
            }
            // A comma that is none, and other escapes.
            '\\' => (None, after.strip_prefix([',', '|', '$', '\\']).unwrap_or(after)),
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '"' | ',' | '\\')).unwrap_or(rest.len());
                let (word, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
                (word_token(word)?, after)
            }
        };
        tokens.extend(token.0);
        rest = token.1.trim_start();
    }
    Ok(tokens)
}

/// `None` for marks alone.
fn word_token(word: &str) -> Result<Option<Token>, String> {
    for (operator, token) in [("and", Token::And), ("or", Token::Or), ("not", Token::Not)] {
        if word.eq_ignore_ascii_case(operator) {
            return Ok(Some(token));
        }
    }
    let beginning = word.trim_end_matches('*');
    let mut words = whole_words(beginning)?;
    if beginning.contains('*') || beginning.len() < word.len() && !fold(beginning).ends_with(char::is_alphanumeric) {
        return Err("a * stands at the end of a word, as in metast*, and nowhere else".into());
    }
    if beginning.len() < word.len()
        && let Some(Test::Token { code: Some(last), .. }) = words.pop()
    {
        words.push(Test::TokenStarts(last));
    }
    Ok((!words.is_empty()).then_some(Token::Words(words)))
}

fn whole_words(text: &str) -> Result<Vec<Test>, String> {
    let words = words::split(text);
    if words.iter().any(|word| word.len() > words::LONGEST) {
        return Err(format!("a word has {} bytes at most; nothing is found by a longer one", words::LONGEST));
    }
    Ok(words.into_iter().map(|word| Test::Token { system: SystemTest::Absent, code: Some(word) }).collect())
}

struct Parser<'a> {
    /// The next one is the last.
    tokens: Vec<Token>,
    of_word: &'a dyn Fn(Test) -> Filter,
    words: usize,
}

impl Parser<'_> {
    fn either(&mut self, depth: usize) -> Result<Filter, String> {
        let mut choices = vec![self.both(depth)?];
        while self.tokens.pop_if(|token| *token == Token::Or).is_some() {
            choices.push(self.both(depth)?);
        }
        Ok(super::filter::any(choices))
    }

    fn both(&mut self, depth: usize) -> Result<Filter, String> {
        let mut parts = Vec::new();
        self.term(depth, &mut parts)?;
        while !matches!(self.tokens.last(), None | Some(Token::Or | Token::Close)) {
            self.tokens.pop_if(|token| *token == Token::And);
            self.term(depth, &mut parts)?;
        }
        Ok(match (parts.len(), parts.pop()) {
            (1, Some(only)) => only,
            (_, last) => {
                parts.extend(last);
                Filter::All(parts)
            }
        })
    }

    fn term(&mut self, depth: usize, parts: &mut Vec<Filter>) -> Result<(), String> {
        let mut negated = false;
        while self.tokens.pop_if(|token| *token == Token::Not).is_some() {
            negated = !negated;
        }
        let mut found = match self.tokens.pop() {
            Some(Token::Words(words)) if words.is_empty() => return Err("a quote holds no word".into()),
            Some(Token::Words(words)) => words.into_iter().map(|word| self.word(word)).collect::<Result<Vec<Filter>, String>>()?,
            Some(Token::Open) if depth < MAX_DEPTH => {
                let inner = self.either(depth + 1)?;
                if self.tokens.pop() != Some(Token::Close) {
                    return Err("a parenthesis is not closed".into());
                }
                match inner {
                    Filter::All(parts) => parts,
                    one => vec![one],
                }
            }
            Some(Token::Open) => return Err(format!("it has {MAX_DEPTH} parentheses within each other at most")),
            Some(Token::And | Token::Or | Token::Not | Token::Close) | None => return Err("a word or a parenthesis is missing".into()),
        };
        if negated {
            let inner = if found.len() == 1 { found.remove(0) } else { Filter::All(found) };
            found = vec![Filter::Not(Box::new(inner))];
        }
        parts.extend(found);
        Ok(())
    }

    fn word(&mut self, test: Test) -> Result<Filter, String> {
        self.words += 1;
        if self.words > MAX_WORDS {
            return Err(format!("it has {MAX_WORDS} words at most"));
        }
        Ok((self.of_word)(test))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expression with all its parentheses.
    fn shown(text: &str) -> String {
        let of_word = |test: Test| match test {
            Test::Token { code: Some(code), .. } => Filter::Id(vec![code]),
            Test::TokenStarts(code) => Filter::Id(vec![format!("{code}*")]),
            other => panic!("{other:?}"),
        };
        fn write(filter: &Filter) -> String {
            let list = |filters: &[Filter], mark| format!("({})", filters.iter().map(write).collect::<Vec<_>>().join(mark));
            match filter {
                Filter::Id(ids) => ids.concat(),
                Filter::All(filters) => list(filters, "&"),
                Filter::Any(filters) => list(filters, "|"),
                Filter::Not(filter) => format!("!{}", write(filter)),
                other => panic!("{other:?}"),
            }
        }
        read(text, &of_word).map_or_else(|words| words, |filter| write(&filter))
    }

    #[test]
    fn expressions_are_read_as_they_are_meant() {
        for (text, meant) in [
            ("Bone", "bone"),
            ("bone metastases", "(bone&metastases)"),
            ("(bone OR liver) and metastases", "((bone|liver)&metastases)"),
            ("bone or liver metastases", "(bone|(liver&metastases))"),
            ("not (a b) and NOT not c", "(!(a&b)&c)"),
            ("day-3 & typh*", "(day&3&typh*)"),
            ("\"not or\" or \"x y\"", "((not&or)|(x&y))"),
            ("((a))", "a"),
            ("a b, c", "((a&b)|c)"),
            ("not (a,b) \"c, d\"", "(!(a|b)&c&d)"),
            (r"a\,b or x", "((a&b)|x)"),
            ("not day-3*", "!(day&3*)"),
            ("m**", "m*"),
        ] {
            assert_eq!(shown(text), meant, "{text}");
        }
    }

    #[test]
    fn broken_ones_are_refused() {
        let deep = format!("{}a{}", "(".repeat(17), ")".repeat(17));
        let (many, long) = ("a ".repeat(101), "a".repeat(65));
        let starred = ["me*s", "*ses", "*", "a -*", "a or *b"];
        for text in ["", "&", "(a", "a)", "a or", "or a", "and", "not", "\"a", "\"\"", "()", "a (or b)", "a,", ",", "(a,)", &deep, &many] {
            assert!(shown(text).contains(' '), "{text}");
        }
        for text in starred {
            assert!(shown(text).contains("end of a word"), "{text}: {}", shown(text));
        }
        assert!(shown(&format!("a {long}")).contains("64 bytes") && shown(&format!("\"a {long}\"")).contains("64 bytes"));
    }
}
