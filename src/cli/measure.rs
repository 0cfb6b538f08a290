//! `lango measure run`.

use super::Common;
use crate::app::App;
use crate::measure::ReportPeriod;
use crate::measure::run::Request;
use crate::store::Scope;
use serde_json::Value;
use std::process::ExitCode;

/// Evaluate measures
#[derive(Debug, clap::Subcommand)]
pub enum Measure {
    /// Count one measure for one period, for every facility in one pass
    Run(Run),
}

#[derive(Debug, clap::Args)]
pub struct Run {
    /// The id of the Measure, such as opd-diagnoses
    id: String,
    /// A day, month or year: 2026-09
    #[arg(long)]
    period: String,
    /// Only this facility
    #[arg(long, value_name = "CODE")]
    facility: Option<String>,
    /// Send the reports to this destination of lango.toml
    #[arg(long, value_name = "DESTINATION")]
    push: Option<String>,
    /// Keep and send nothing: print the reports, or with --push the exact requests
    #[arg(long)]
    dry_run: bool,
}

impl Measure {
    pub(super) async fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let Measure::Run(run) = self;
        let settings = common.settings_of_existing()?;
        let base = settings.public_url(settings.listen);
        let app = App::open(settings, &base).await?;
        let done = run.evaluate(&app).await;
        app.store.close().await;
        done
    }
}

impl Run {
    async fn evaluate(self, app: &App) -> anyhow::Result<ExitCode> {
        let period = ReportPeriod::parse(&self.period).map_err(|issue| anyhow::anyhow!(issue.diagnostics))?;
        let request = Request { period, facility: self.facility };
        let counted = match app.evaluate(&self.id, &request, &Scope::All, !self.dry_run).await {
            Ok(counted) => counted,
            Err(refusal) => {
                for issue in &refusal.issues {
                    eprintln!("{}", issue.diagnostics);
                }
                return Ok(ExitCode::from(1));
            }
        };
        let reports: Vec<Value> = counted.into_iter().map(|counted| counted.report).collect();
        match &self.push {
            None if self.dry_run => {
                for report in &reports {
                    say!("{report}");
                }
            }
            None => {
                for report in &reports {
                    say!("MeasureReport/{}  {}", text(report, "/id"), text(report, "/reporter/identifier/value"));
                }
            }
            Some(destination) => match app.plan_push(destination, &reports).await? {
                Err(problems) => {
                    for problem in &problems {
                        eprintln!("{}: {}", problem.expression, problem.diagnostics);
                    }
                    eprintln!("nothing was sent to {destination}");
                    return Ok(ExitCode::from(1));
                }
                Ok(plan) => {
                    for warning in &plan.warnings {
                        eprintln!("warning: {}", warning.diagnostics);
                    }
                    if self.dry_run {
                        for request in &plan.requests {
                            say!("{}", request.body);
                        }
                    } else {
                        let jobs = app.push(destination, &reports).await?;
                        say!("{jobs} reports are on their way to {destination}; a serving lango delivers them (lango outbox list)");
                    }
                }
            },
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text<'r>(report: &'r Value, pointer: &str) -> &'r str {
    report.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
