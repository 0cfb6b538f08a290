//! Where problems are gathered, and the path to each, which is written down only when there is one to tell.

use crate::fhir::json::MAX_DEPTH;
use crate::fhir::{Issue, IssueCode, Severity};
use std::fmt::Write;

/// The most problems that are told of one resource; one more issue then says how many were left out.
pub const MAX_ISSUES: usize = 200;

/// A place in a resource: each step lives on the stack of the call that took it.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub(super) fn root(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Name(name), depth: 0 }
    }

    pub(super) fn member(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Name(name), depth: self.depth + 1 }
    }

    pub(super) fn item(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index), depth: self.depth + 1 }
    }

    /// Objects and lists that stand here are deeper within others than is stored.
    pub(super) fn too_deep(&self) -> bool {
        self.depth >= MAX_DEPTH
    }

    /// As FHIRPath: `Observation.component[0].code`.
    pub(super) fn text(&self) -> String {
        let mut steps = Vec::with_capacity(self.depth + 1);
        let mut at = Some(self);
        while let Some(path) = at {
            steps.push(path.step);
            at = path.parent;
        }
        let mut text = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Name(name) if text.is_empty() => text.push_str(name),
                Step::Name(name) => {
                    text.push('.');
                    text.push_str(name);
                }
                Step::Index(index) => _ = write!(text, "[{index}]"),
            }
        }
        text
    }
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Report {
    issues: Vec<Issue>,
    warnings: usize,
    left_out: usize,
    error_left_out: bool,
    /// Keeps no words: only whether there was an error is asked.
    quiet: bool,
    errors: bool,
}

impl Report {
    /// For a question whose answer is yes or no.
    pub(super) fn quiet() -> Report {
        Report { quiet: true, ..Report::default() }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors
    }

    pub(super) fn error(&mut self, code: IssueCode, path: &Path, words: impl FnOnce() -> String) {
        self.add(Severity::Error, code, path, words);
    }

    /// The words are made only when there is room for them: there may be millions of problems.
    pub(super) fn add(&mut self, severity: Severity, code: IssueCode, path: &Path, words: impl FnOnce() -> String) {
        self.errors |= severity.is_error();
        if self.quiet {
            return;
        }
        if self.issues.len() >= MAX_ISSUES {
            self.left_out += 1;
            if !severity.is_error() {
                return;
            }
            // What decides over acceptance must not be hidden by what does not.
            let Some(at) = (self.warnings > 0).then(|| self.issues.iter().rposition(|i| !i.severity.is_error())).flatten() else {
                self.error_left_out = true;
                return;
            };
            self.issues.remove(at);
            self.warnings -= 1;
        }
        self.warnings += usize::from(!severity.is_error());
        self.issues.push(Issue { severity, code, diagnostics: words(), expression: path.text() });
    }

    pub(super) fn finish(mut self) -> Vec<Issue> {
        if self.left_out > 0 {
            let severity = if self.error_left_out { Severity::Error } else { Severity::Warning };
            let diagnostics = format!("{} more problems were left out; mend these first and try again", self.left_out);
            self.issues.push(Issue { severity, code: IssueCode::TooCostly, diagnostics, expression: String::new() });
        }
        self.issues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_push_warnings_out_when_not_all_fit() {
        let (root, mut report) = (Path::root("Patient"), Report::default());
        for _ in 0..MAX_ISSUES {
            report.add(Severity::Warning, IssueCode::Value, &root, || "w".into());
        }
        report.error(IssueCode::Structure, &root, || "e".into());
        let issues = report.finish();
        assert_eq!(issues.len(), MAX_ISSUES + 1);
        assert_eq!(issues.iter().filter(|i| i.severity == Severity::Error).count(), 1);
        assert_eq!(issues.last().map(|i| (i.severity, i.diagnostics.starts_with("1 more"))), Some((Severity::Warning, true)));
    }

    #[test]
    fn an_error_left_out_still_makes_the_outcome_an_error() {
        let (root, mut report) = (Path::root("Patient"), Report::default());
        for _ in 0..MAX_ISSUES + 5 {
            report.error(IssueCode::Structure, &root, || "e".into());
        }
        let issues = report.finish();
        assert_eq!((issues.len(), issues.last().map(|i| i.severity)), (MAX_ISSUES + 1, Some(Severity::Error)));
    }

    #[test]
    fn a_path_reads_as_fhirpath() {
        let root = Path::root("Observation");
        let component = root.member("component");
        let first = component.item(0);
        assert_eq!(first.member("code").text(), "Observation.component[0].code");
    }
}
