//! The functions that expressions may call, by name and arity; each family is a module.

mod boundary;
mod collection;
mod convert;
mod math;
mod text;

pub use collection::target_type;

use super::EvalError;
use super::ast::Expr;
use super::eval::{Evaluation, List, Scope};

macro_rules! functions {
    ($($variant:ident $name:literal $fewest:literal $most:literal,)*) => {
        /// A function of the language.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Function {
            /// `.$this` as some write it: the input itself.
            Itself,
            $($variant,)*
        }

        impl Function {
            pub fn lookup(name: &str) -> Option<Function> {
                match name {
                    $($name => Some(Function::$variant),)*
                    _ => None,
                }
            }

            /// The fewest and the most arguments.
            pub fn arity(self) -> (usize, usize) {
                match self {
                    Function::Itself => (0, 0),
                    $(Function::$variant => ($fewest, $most),)*
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    Function::Itself => "$this",
                    $(Function::$variant => $name,)*
                }
            }
        }
    };
}

functions! {
    Empty "empty" 0 0,
    Exists "exists" 0 1,
    All "all" 1 1,
    AllTrue "allTrue" 0 0,
    AnyTrue "anyTrue" 0 0,
    AllFalse "allFalse" 0 0,
    AnyFalse "anyFalse" 0 0,
    SubsetOf "subsetOf" 1 1,
    SupersetOf "supersetOf" 1 1,
    Count "count" 0 0,
    Distinct "distinct" 0 0,
    IsDistinct "isDistinct" 0 0,
    Not "not" 0 0,
    HasValue "hasValue" 0 0,
    GetValue "getValue" 0 0,
    Where "where" 1 1,
    Select "select" 1 1,
    Repeat "repeat" 1 1,
    RepeatAll "repeatAll" 1 1,
    Single "single" 0 0,
    First "first" 0 0,
    Last "last" 0 0,
    Tail "tail" 0 0,
    Skip "skip" 1 1,
    Take "take" 1 1,
    Intersect "intersect" 1 1,
    Exclude "exclude" 1 1,
    Union "union" 1 1,
    Combine "combine" 1 2,
    Coalesce "coalesce" 1 16,
    Iif "iif" 2 3,
    ToBoolean "toBoolean" 0 0,
    ConvertsToBoolean "convertsToBoolean" 0 0,
    ToInteger "toInteger" 0 0,
    ConvertsToInteger "convertsToInteger" 0 0,
    ToDecimal "toDecimal" 0 0,
    ConvertsToDecimal "convertsToDecimal" 0 0,
    ToString "toString" 0 0,
    ConvertsToString "convertsToString" 0 0,
    ToDate "toDate" 0 0,
    ConvertsToDate "convertsToDate" 0 0,
    ToDateTime "toDateTime" 0 0,
    ConvertsToDateTime "convertsToDateTime" 0 0,
    ToTime "toTime" 0 0,
    ConvertsToTime "convertsToTime" 0 0,
    ToQuantity "toQuantity" 0 1,
    ConvertsToQuantity "convertsToQuantity" 0 1,
    IndexOf "indexOf" 1 1,
    LastIndexOf "lastIndexOf" 1 1,
    Substring "substring" 1 2,
    StartsWith "startsWith" 1 1,
    EndsWith "endsWith" 1 1,
    Contains "contains" 1 1,
    Upper "upper" 0 0,
    Lower "lower" 0 0,
    Replace "replace" 2 2,
    Matches "matches" 1 2,
    MatchesFull "matchesFull" 1 2,
    ReplaceMatches "replaceMatches" 2 3,
    Length "length" 0 0,
    ToChars "toChars" 0 0,
    Trim "trim" 0 0,
    Split "split" 1 1,
    Join "join" 0 1,
    Encode "encode" 1 1,
    Decode "decode" 1 1,
    Escape "escape" 1 1,
    Unescape "unescape" 1 1,
    Abs "abs" 0 0,
    Ceiling "ceiling" 0 0,
    Exp "exp" 0 0,
    Floor "floor" 0 0,
    Ln "ln" 0 0,
    Log "log" 1 1,
    Power "power" 1 1,
    Round "round" 0 1,
    Sqrt "sqrt" 0 0,
    Truncate "truncate" 0 0,
    Sum "sum" 0 0,
    Min "min" 0 0,
    Max "max" 0 0,
    Avg "avg" 0 0,
    Children "children" 0 0,
    Descendants "descendants" 0 0,
    Trace "trace" 1 2,
    Now "now" 0 0,
    Today "today" 0 0,
    TimeOfDay "timeOfDay" 0 0,
    Aggregate "aggregate" 1 2,
    Sort "sort" 0 8,
    Type "type" 0 0,
    LowBoundary "lowBoundary" 0 1,
    HighBoundary "highBoundary" 0 1,
    Precision "precision" 0 0,
    Comparable "comparable" 1 1,
    YearOf "yearOf" 0 0,
    MonthOf "monthOf" 0 0,
    DayOf "dayOf" 0 0,
    HourOf "hourOf" 0 0,
    MinuteOf "minuteOf" 0 0,
    SecondOf "secondOf" 0 0,
    MillisecondOf "millisecondOf" 0 0,
    TimezoneOffsetOf "timezoneOffsetOf" 0 0,
    DateOf "dateOf" 0 0,
    TimeOf "timeOf" 0 0,
    Extension "extension" 1 1,
    Resolve "resolve" 0 0,
    MemberOf "memberOf" 1 1,
    ConformsTo "conformsTo" 1 1,
    HtmlChecks "htmlChecks" 0 0,
}

impl<'a> Evaluation<'_, 'a> {
    /// Calls `function` on `input`; `scope` is where the call stands.
    pub(crate) fn call(
        &self,
        function: Function,
        arguments: &[Expr],
        input: List<'a>,
        scope: Scope<'_, 'a>,
    ) -> Result<List<'a>, EvalError> {
        let call = Call { evaluation: self, function, arguments, scope };
        use Function::*;
        match function {
            ToBoolean | ConvertsToBoolean | ToInteger | ConvertsToInteger | ToDecimal | ConvertsToDecimal | ToString | ConvertsToString
            | ToDate | ConvertsToDate | ToDateTime | ConvertsToDateTime | ToTime | ConvertsToTime | ToQuantity | ConvertsToQuantity => {
                convert::call(&call, input)
            }
            IndexOf | LastIndexOf | Substring | StartsWith | EndsWith | Contains | Upper | Lower | Replace | Matches | MatchesFull
            | ReplaceMatches | Length | ToChars | Trim | Split | Join | Encode | Decode | Escape | Unescape => text::call(&call, input),
            Abs | Ceiling | Exp | Floor | Ln | Log | Power | Round | Sqrt | Truncate | Sum | Min | Max | Avg => math::call(&call, input),
            LowBoundary | HighBoundary | Precision | Comparable | YearOf | MonthOf | DayOf | HourOf | MinuteOf | SecondOf
            | MillisecondOf | TimezoneOffsetOf | DateOf | TimeOf => boundary::call(&call, input),
            _ => collection::call(&call, input),
        }
    }
}

/// What `toString()` gives.
pub(crate) fn text_of(node: &super::Node) -> Option<String> {
    convert::to_text(&node.to_system())
}

/// One call of a function.
pub(super) struct Call<'c, 'e, 'a> {
    evaluation: &'c Evaluation<'e, 'a>,
    function: Function,
    arguments: &'c [Expr],
    scope: Scope<'c, 'a>,
}

impl<'a> Call<'_, '_, 'a> {
    /// The value of argument `at`, seen from where the call stands; empty when it is not given.
    fn argument(&self, at: usize) -> Result<List<'a>, EvalError> {
        self.arguments.get(at).map_or(Ok(Vec::new()), |argument| self.evaluation.eval(argument, self.scope))
    }

    fn error<T>(&self, problem: &'static str) -> Result<T, EvalError> {
        Err(EvalError::Function { function: self.function.name(), problem })
    }

    /// The only item of `list`, as a System value; `None` when there is none.
    fn single(&self, list: List<'a>) -> Result<Option<super::Node<'a>>, EvalError> {
        if list.len() > 1 {
            return self.error("needs a single item");
        }
        Ok(list.into_iter().next().map(|node| node.to_system()))
    }

    fn text_argument(&self, at: usize) -> Result<Option<String>, EvalError> {
        match self.single(self.argument(at)?)? {
            None => Ok(None),
            Some(super::Node::String(text)) => Ok(Some(text.into_owned())),
            Some(_) => self.error("takes a string"),
        }
    }

    fn integer_argument(&self, at: usize) -> Result<Option<i64>, EvalError> {
        match self.single(self.argument(at)?)? {
            None => Ok(None),
            Some(super::Node::Integer(value)) => Ok(Some(value)),
            Some(_) => self.error("takes an integer"),
        }
    }
}
