//! Tokens to a tree, by binding power. Depth is limited, so that neither parsing nor evaluating can exhaust the stack.

use super::ParseError;
use super::ast::{Expr, Operator, Step, TypeName};
use super::functions::Function;
use super::lexer::{Kind, Token, tokens};
use super::node::Node;
use super::quantity::{Quantity, Unit};
use super::temporal::{CalendarUnit, Temporal};

/// Levels of nesting, operators included, that an expression may have.
const MAX_DEPTH: usize = 100;
/// An expression longer than this is refused unread.
const MAX_LENGTH: usize = 100_000;

pub(crate) fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > MAX_LENGTH {
        return Err(ParseError { message: format!("an expression has at most {MAX_LENGTH} bytes"), position: MAX_LENGTH });
    }
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let (expression, _) = parser.expression(0, 0)?;
    match parser.peek() {
        Kind::End => Ok(expression),
        _ => parser.error("the expression should end here"),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

/// What an infix token does: how strongly it binds and what it makes.
enum Infix {
    Binary(Operator),
    Is,
    As,
}

fn infix(kind: &Kind) -> Option<(u8, Infix)> {
    use Operator::*;
    let (power, operator) = match kind {
        Kind::Identifier(word) => match word.as_str() {
            "implies" => (1, Implies),
            "or" => (2, Or),
            "xor" => (2, Xor),
            "and" => (3, And),
            "in" => (4, In),
            "contains" => (4, Contains),
            "is" => return Some((8, Infix::Is)),
            "as" => return Some((8, Infix::As)),
            "div" => (10, Div),
            "mod" => (10, Mod),
            _ => return None,
        },
        Kind::Symbol(symbol) => match *symbol {
            "=" => (5, Equal),
            "!=" => (5, NotEqual),
            "~" => (5, Equivalent),
            "!~" => (5, NotEquivalent),
            "<" => (6, Less),
            "<=" => (6, LessOrEqual),
            ">" => (6, Greater),
            ">=" => (6, GreaterOrEqual),
            "|" => (7, Union),
            "+" => (9, Add),
            "-" => (9, Subtract),
            "&" => (9, Concatenate),
            "*" => (10, Multiply),
            "/" => (10, Divide),
            _ => return None,
        },
        _ => return None,
    };
    Some((power, Infix::Binary(operator)))
}

/// An expression and the height of its tree.
type Tree = (Expr, usize);

impl Parser {
    fn peek(&self) -> &Kind {
        self.tokens.get(self.at).map_or(&Kind::End, |token| &token.kind)
    }

    fn next(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.at += 1;
        kind
    }

    fn error<T>(&self, message: &str) -> Result<T, ParseError> {
        let last = self.tokens.last().map_or(0, |token| token.position);
        let position = self.tokens.get(self.at).map_or(last, |token| token.position);
        Err(ParseError { message: message.to_owned(), position })
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Kind::Symbol(found) if *found == symbol)
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<(), ParseError> {
        if self.take_symbol(symbol) { Ok(()) } else { self.error(&format!("'{symbol}' is missing here")) }
    }

    fn checked(&self, tree: Expr, height: usize) -> Result<Tree, ParseError> {
        if height > MAX_DEPTH { self.error("the expression is nested too deeply") } else { Ok((tree, height)) }
    }

    fn expression(&mut self, power: u8, depth: usize) -> Result<Tree, ParseError> {
        if depth > MAX_DEPTH {
            return self.error("the expression is nested too deeply");
        }
        let mut left = self.prefix(depth)?;
        while let Some((binds, operation)) = infix(self.peek()) {
            if binds <= power {
                break;
            }
            self.at += 1;
            left = match operation {
                Infix::Is => {
                    let name = self.type_name()?;
                    self.checked(Expr::Is(Box::new(left.0), name), left.1 + 1)?
                }
                Infix::As => {
                    let name = self.type_name()?;
                    self.checked(Expr::As(Box::new(left.0), name), left.1 + 1)?
                }
                Infix::Binary(operator) => {
                    let right = self.expression(binds, depth + 1)?;
                    self.checked(Expr::Binary(operator, Box::new(left.0), Box::new(right.0)), left.1.max(right.1) + 1)?
                }
            };
        }
        Ok(left)
    }

    fn prefix(&mut self, depth: usize) -> Result<Tree, ParseError> {
        let negative = self.is_symbol("-");
        if negative || self.is_symbol("+") {
            self.at += 1;
            if depth >= MAX_DEPTH {
                return self.error("the expression is nested too deeply");
            }
            let (operand, height) = self.prefix(depth + 1)?;
            let signed = if negative { Expr::Negate(Box::new(operand)) } else { Expr::Plus(Box::new(operand)) };
            return self.checked(signed, height + 1);
        }
        self.path(depth)
    }

    fn path(&mut self, depth: usize) -> Result<Tree, ParseError> {
        let (base, mut height) = self.term(depth)?;
        let (base, mut steps) = match base {
            Expr::Path { base, steps } => (base, steps),
            other => (Some(Box::new(other)), Vec::new()),
        };
        loop {
            if self.take_symbol(".") {
                let (step, below) = self.step(depth)?;
                height = height.max(below + 1);
                steps.push(step);
            } else if self.take_symbol("[") {
                let (at, below) = self.expression(0, depth + 1)?;
                self.expect_symbol("]")?;
                height = height.max(below + 1);
                steps.push(Step::Indexer(at));
            } else {
                break;
            }
        }
        match base {
            Some(base) if steps.is_empty() => self.checked(*base, height),
            base => self.checked(Expr::Path { base, steps }, height + 1),
        }
    }

    fn term(&mut self, depth: usize) -> Result<Tree, ParseError> {
        let literal = |node: Node<'static>| Ok((Expr::Literal(node), 1));
        match self.peek().clone() {
            Kind::String(text) => {
                self.at += 1;
                literal(Node::String(text.into()))
            }
            Kind::Number(text) => {
                self.at += 1;
                self.number(&text)
            }
            Kind::Temporal(text) => match Temporal::parse_literal(&text) {
                Some(moment) => {
                    self.at += 1;
                    literal(Node::Temporal(moment))
                }
                None => self.error("this is no date, dateTime or time"),
            },
            Kind::Variable(name) => {
                self.at += 1;
                Ok((Expr::Variable(name.into()), 1))
            }
            Kind::Dollar(word) => {
                let expression = match word.as_str() {
                    "this" => Expr::This,
                    "index" => Expr::Index,
                    "total" => Expr::Total,
                    _ => return self.error("after $ comes this, index or total"),
                };
                self.at += 1;
                Ok((expression, 1))
            }
            Kind::Symbol("(") => {
                self.at += 1;
                let inner = self.expression(0, depth + 1)?;
                self.expect_symbol(")")?;
                // A path in parentheses is a base, so that what follows applies to all of it.
                match inner.0 {
                    Expr::Path { .. } => self.checked(Expr::Path { base: Some(Box::new(inner.0)), steps: Vec::new() }, inner.1 + 1),
                    other => Ok((other, inner.1)),
                }
            }
            Kind::Symbol("{") => {
                self.at += 1;
                self.expect_symbol("}")?;
                Ok((Expr::Empty, 1))
            }
            Kind::Identifier(word) if word == "true" || word == "false" => {
                self.at += 1;
                literal(Node::Boolean(word == "true"))
            }
            Kind::Identifier(_) | Kind::Delimited(_) => {
                let (step, height) = self.step(depth)?;
                Ok((Expr::Path { base: None, steps: vec![step] }, height + 1))
            }
            Kind::End => self.error("the expression ends too early"),
            Kind::Symbol(_) => self.error("a value, name or function should stand here"),
        }
    }

    fn number(&mut self, text: &str) -> Result<Tree, ParseError> {
        let Some(value) = super::value::read_decimal(text) else { return self.error("a number may have at most 28 digits") };
        let unit = match self.peek() {
            Kind::String(code) => Some(Unit::Ucum(code.as_str().into())),
            Kind::Identifier(word) => CalendarUnit::from_keyword(word).map(Unit::Calendar),
            _ => None,
        };
        if let Some(unit) = unit {
            self.at += 1;
            return Ok((Expr::Literal(Node::Quantity(Box::new(Quantity { value, unit }))), 1));
        }
        let node = match text.parse() {
            Ok(integer) => Node::integer(integer),
            Err(_) => None,
        };
        // What no Integer can be is a Decimal.
        let node = node.unwrap_or(Node::Decimal(value));
        Ok((Expr::Literal(node), 1))
    }

    /// A member or a function call.
    fn step(&mut self, depth: usize) -> Result<Taken, ParseError> {
        let name = match self.peek().clone() {
            Kind::Identifier(word) => word,
            Kind::Delimited(word) => {
                self.at += 1;
                return Ok((Step::Member(word.into()), 0));
            }
            Kind::Dollar(word) if word == "this" => {
                self.at += 1;
                return Ok((Step::Call(Function::Itself, Vec::new()), 0));
            }
            _ => return self.error("a name should stand here"),
        };
        self.at += 1;
        if !self.take_symbol("(") {
            return Ok((Step::Member(name.into()), 0));
        }
        match name.as_str() {
            "is" => return self.typed_call(Step::Is),
            "as" => return self.typed_call(Step::As),
            "ofType" => return self.typed_call(Step::OfType),
            _ => {}
        }
        let Some(function) = Function::lookup(&name) else {
            self.at -= 1;
            return self.error(&format!("FHIRPath has no function {name}()"));
        };
        let mut arguments = Vec::new();
        let mut height = 0;
        if !self.take_symbol(")") {
            loop {
                let (argument, below) = self.expression(0, depth + 1)?;
                height = height.max(below);
                arguments.push(argument);
                if self.take_symbol(")") {
                    break;
                }
                self.expect_symbol(",")?;
            }
        }
        let (fewest, most) = function.arity();
        if !(fewest..=most).contains(&arguments.len()) {
            return self.error(&format!("{name}() takes {fewest} to {most} arguments"));
        }
        Ok((Step::Call(function, arguments), height))
    }

    fn typed_call(&mut self, make: fn(TypeName) -> Step) -> Result<Taken, ParseError> {
        let name = self.type_name()?;
        self.expect_symbol(")")?;
        Ok((make(name), 0))
    }

    fn type_name(&mut self) -> Result<TypeName, ParseError> {
        let first = self.name()?;
        if self.take_symbol(".") {
            return Ok(TypeName { namespace: Some(first), name: self.name()? });
        }
        Ok(TypeName { namespace: None, name: first })
    }

    fn name(&mut self) -> Result<Box<str>, ParseError> {
        match self.next() {
            Kind::Identifier(word) | Kind::Delimited(word) => Ok(word.into()),
            _ => {
                self.at -= 1;
                self.error("the name of a type should stand here")
            }
        }
    }
}

/// A step and the height of the highest tree among its arguments.
type Taken = (Step, usize);
