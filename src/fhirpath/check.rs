//! What is wrong with an expression before it meets any input: members that a type does not have, paths that start at
//! another type. Evaluation takes these for empty, so that a slip of the pen in a profile would never be noticed.

use super::Expression;
use super::ast::{Expr, Operator, Step, TypeName};
use super::functions::Function;
use super::model::{self, Type};

/// The types that something may have; `None` when it is not known.
type Types = Option<Vec<Type>>;

impl Expression {
    /// Checks the expression as one that is evaluated on elements of type `start` (`Patient`, `Timing.repeat`). The error
    /// says in words what can never be right; what depends on the input is not judged.
    pub fn check(&self, start: &str) -> Result<(), String> {
        let start = Type::named(start);
        let root = start.is_known().then(|| vec![start]);
        Check { root: root.clone(), others: &[], follows: true }.infer(&self.tree, &root).map(|_| ())
    }

    /// The types of what the expression may find on `start`, checked likewise; `None` when that is not known. A search parameter joins paths
    /// for several types in one expression: those that start at one of `others` find nothing here. Nor is
    /// anything found in another resource, since one is indexed by itself.
    pub fn finds(&self, start: &str, others: &[&str]) -> Result<Option<Vec<&'static str>>, String> {
        let start = Type::named(start);
        let root = start.is_known().then(|| vec![start]);
        let types = Check { root: root.clone(), others, follows: false }.infer(&self.tree, &root)?;
        Ok(types.and_then(|types| types.into_iter().map(Type::name).collect()))
    }
}

struct Check<'o> {
    root: Types,
    /// Other types that a path may start at.
    others: &'o [&'o str],
    /// Other resources are at hand; else `resolve()` tells a type and nothing more.
    follows: bool,
}

impl Check<'_> {
    fn infer(&self, expr: &Expr, this: &Types) -> Result<Types, String> {
        match expr {
            Expr::Empty | Expr::Literal(_) | Expr::Index | Expr::Total => Ok(None),
            Expr::This => Ok(this.clone()),
            Expr::Variable(name) => Ok(if &**name == "context" { self.root.clone() } else { None }),
            Expr::Negate(operand) | Expr::Plus(operand) | Expr::Is(operand, _) => self.infer(operand, this).map(|_| None),
            Expr::As(operand, name) => Ok(narrowed(self.infer(operand, this)?, name)),
            Expr::Binary(operator, left, right) => {
                let (left, right) = (self.infer(left, this)?, self.infer(right, this)?);
                Ok(if *operator == Operator::Union { joined(left, right) } else { None })
            }
            Expr::Path { base, steps } => self.path(base.as_deref(), steps, this),
        }
    }

    fn path(&self, base: Option<&Expr>, steps: &[Step], this: &Types) -> Result<Types, String> {
        let mut types = match base {
            Some(base) => self.infer(base, this)?,
            None => this.clone(),
        };
        let mut rest = steps.iter().peekable();
        if let (None, Some(Step::Member(name)), Some(known)) = (base, steps.first(), this)
            && name.starts_with(|c: char| c.is_ascii_uppercase())
        {
            if !known.iter().any(|ty| ty.name().is_some_and(|actual| model::derives_from(actual, name))) {
                if self.others.contains(&&**name) {
                    return Ok(Some(Vec::new()));
                }
                return Err(format!("the path starts at {name} but is evaluated on {}", names(known)));
            }
            rest.next();
        }
        let mut resolved = false;
        while let Some(step) = rest.next() {
            if let (false, true, Step::Member(name)) = (self.follows, resolved, step) {
                return Err(format!("{name} is in another resource, to which resolve() does not lead here: it tells the type"));
            }
            resolved |= matches!(step, Step::Call(Function::Resolve, _));
            let unordered = matches!(step, Step::Call(Function::Children | Function::Descendants, _));
            types = self.step(step, types, this)?;
            if unordered && rest.peek().is_some_and(|next| needs_order(next)) {
                return Err("the order of children() and descendants() is not defined, so no one of them can be picked".to_owned());
            }
        }
        Ok(types)
    }

    fn step(&self, step: &Step, input: Types, this: &Types) -> Result<Types, String> {
        match step {
            Step::Member(name) => member(&input, name),
            Step::Indexer(at) => self.infer(at, this).map(|_| input),
            Step::As(name) | Step::OfType(name) => Ok(narrowed(input, name)),
            Step::Is(_) => Ok(None),
            Step::Call(function, arguments) => self.call(*function, arguments, input, this),
        }
    }

    fn call(&self, function: Function, arguments: &[Expr], input: Types, this: &Types) -> Result<Types, String> {
        use Function::*;
        // What a repeated projection meets is more than its input.
        if matches!(function, Repeat | RepeatAll | Aggregate) {
            return Ok(None);
        }
        let inside = matches!(function, Where | Select | Exists | All | Iif | Sort | Trace);
        let scope = if inside { &input } else { this };
        let mut found = Vec::new();
        for argument in arguments {
            found.push(self.infer(argument, scope)?);
        }
        Ok(match function {
            Itself | Where | First | Last | Tail | Skip | Take | Single | Distinct | Trace | Intersect | Exclude | Sort => input,
            Select => found.pop().flatten(),
            Union | Combine => joined(input, found.into_iter().next().flatten()),
            Extension => Some(vec![model::beside_primitive("extension")]),
            _ => None,
        })
    }
}

fn needs_order(step: &Step) -> bool {
    use Function::*;
    matches!(step, Step::Indexer(_) | Step::Call(First | Last | Tail | Skip | Take, _))
}

fn member(input: &Types, name: &str) -> Result<Types, String> {
    let Some(types) = input else { return Ok(None) };
    let mut found = Vec::new();
    for ty in types {
        match ty {
            Type::Structure(structure) => {
                for kind in structure.element(name).into_iter().flat_map(|element| &element.types) {
                    found.push(Type::of_element(kind));
                }
            }
            Type::Primitive(_) if matches!(name, "id" | "extension") => found.push(model::beside_primitive(name)),
            Type::Primitive(_) => {}
            Type::Unknown => return Ok(None),
        }
    }
    if found.is_empty() && !types.is_empty() {
        return Err(format!("{} has no element {name}", names(types)));
    }
    // A whole resource may be of any type.
    Ok(found.iter().all(|ty| ty.is_known()).then_some(found))
}

/// Those of the types that fit; unknown when none does, for then it is empty and not wrong.
fn narrowed(input: Types, name: &TypeName) -> Types {
    let types = input?.into_iter().filter(|ty| ty.name().is_some_and(|actual| model::derives_from(actual, &name.name)));
    let types: Vec<Type> = types.collect();
    (!types.is_empty()).then_some(types)
}

fn joined(left: Types, right: Types) -> Types {
    let mut types = left?;
    types.extend(right?);
    Some(types)
}

fn names(types: &[Type]) -> String {
    types.iter().filter_map(|ty| ty.name()).collect::<Vec<_>>().join(" or ")
}
