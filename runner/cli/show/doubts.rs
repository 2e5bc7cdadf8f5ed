//! What a reader of results has to know: numbers that say less than they seem to.

use crate::show::table::{count, first_of, note, note_with_hint};
use plan::{Evaluated, LEAST_ABLATION_COST};
use serde_json::Value;
use store::{QueryTable, ReportSae, SaeOutcome};

/// What a doubt may be about.
#[derive(Debug)]
pub(crate) struct Measured {
    /// The SAE, as a reader finds it.
    name: String,
    /// Whichever there is: of held-out sequences, or of training.
    fvu: Option<f64>,
    /// Whether the loss was measured, but no share of it can be given.
    pub(crate) is_without_share: bool,
}

impl Measured {
    pub(crate) fn of_evaluated(evaluated: &Evaluated) -> Self {
        let stats = &evaluated.stats;
        Self {
            name: evaluated.name.clone(),
            fvu: Some(stats.fvu()),
            is_without_share: stats.ce_recovered().is_none(),
        }
    }

    pub(crate) fn of_outcome(outcome: &SaeOutcome) -> Self {
        Self {
            name: format!("{} {}", outcome.job, outcome.sae),
            fvu: outcome.best_known_fvu(),
            is_without_share: outcome.ce_spliced.is_some() && outcome.ce_recovered.is_none(),
        }
    }

    pub(crate) fn of_report(sae: &ReportSae) -> Self {
        Self {
            name: format!("{} {}", sae.job, sae.sae),
            fvu: sae.fvu_eval.or(sae.fvu),
            is_without_share: sae.ce_spliced.is_some() && sae.ce_recovered.is_none(),
        }
    }

    /// Those of rows of the view `result`.
    pub(crate) fn of_table(found: &QueryTable) -> Vec<Self> {
        let index = |name: &str| found.columns.iter().position(|column| column == name);
        let row = |row: &Vec<Value>| {
            let value = |name: &str| index(name).and_then(|index| row.get(index));
            let number = |name: &str| value(name).and_then(Value::as_f64);
            let text = |name: &str| value(name).and_then(Value::as_str).unwrap_or_default();
            Self {
                name: format!("{} {}", text("job"), text("sae")),
                fvu: number("fvu_eval").or(number("fvu")),
                is_without_share: number("ce_spliced").is_some()
                    && number("ce_recovered").is_none(),
            }
        };
        found.rows.iter().map(row).collect()
    }

    /// Whether the mean would reconstruct as well.
    pub(crate) fn is_poor(&self) -> bool {
        self.fvu.is_some_and(|fvu| fvu > 1.0)
    }
}

/// A doubt about some SAEs, and what to do about it.
pub(crate) struct Doubt {
    pub(crate) message: String,
    pub(crate) hint: Option<&'static str>,
}

/// One for each reason.
pub(crate) fn doubts(measured: &[Measured]) -> Vec<Doubt> {
    let names = |is: &dyn Fn(&&Measured) -> bool| -> Vec<String> {
        measured
            .iter()
            .filter(is)
            .map(|own| own.name.clone())
            .collect()
    };
    let poor = names(&|own| own.is_poor());
    let open = names(&|own| own.is_without_share);
    let mut doubts = Vec::new();
    if !poor.is_empty() {
        doubts.push(Doubt {
            message: format!(
                "the FVU of {} is above 1, worse than predicting the mean: {}",
                count(poor.len(), "SAE"),
                first_of(&poor)
            ),
            hint: Some("lower `lr`, or train longer"),
        });
    }
    if !open.is_empty() {
        doubts.push(Doubt {
            message: format!(
                "no CE recovered for {}: without the hookpoint's output the model loses less than {LEAST_ABLATION_COST} nats per token, too little for a meaningful share: {}",
                count(open.len(), "SAE"),
                first_of(&open)
            ),
            hint: None,
        });
    }
    doubts
}

/// Says all doubts.
pub(crate) fn note_doubts(measured: &[Measured]) {
    for doubt in doubts(measured) {
        match doubt.hint {
            Some(hint) => note_with_hint(&doubt.message, hint),
            None => note(&doubt.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, fvu: Option<f64>, is_without_share: bool) -> Measured {
        Measured {
            name: name.into(),
            fvu,
            is_without_share,
        }
    }

    #[test]
    fn only_numbers_that_mislead_are_doubted() {
        let fine = [measured("a", Some(0.3), false), measured("b", None, false)];
        assert!(doubts(&fine).is_empty());
        let odd = [
            measured("a", Some(12.66), true),
            measured("b", Some(1.0), false),
            measured("c", Some(0.2), true),
        ];
        let messages: Vec<String> = doubts(&odd)
            .into_iter()
            .map(|doubt| doubt.message)
            .collect();
        assert!(
            messages[0].starts_with("the FVU of 1 SAE is above 1"),
            "{messages:?}"
        );
        assert!(messages[0].ends_with("the mean: `a`"), "{messages:?}");
        assert!(
            messages[1].ends_with("a meaningful share: `a`, `c`"),
            "{messages:?}"
        );
    }
}
