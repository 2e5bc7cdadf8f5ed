//! Hookpoint patterns: `fnmatch` over the names of a model's submodules.
//!
//! As in sparsify, `*` crosses dots: `layers.1*` matches `layers.10.mlp`.

use crate::{HookpointFacts, ModelFacts, PlanError, TrainConfig, nearest};
use std::collections::BTreeSet;

/// Whether `name` matches `pattern` as Python's `fnmatch.fnmatchcase` has it: `*`, `?`, `[seq]`
/// and `[!seq]`; an unclosed `[` matches itself.
pub fn fnmatch(name: &str, pattern: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    let (mut name, mut pattern) = (name.as_slice(), pattern.as_slice());
    // Only the last star needs another try: what the earlier ones took can stay as it is.
    let mut last_star = None;
    loop {
        if let Some((&'*', rest)) = pattern.split_first() {
            (last_star, pattern) = (Some((name, rest)), rest);
            continue;
        }
        let Some((&c, name_rest)) = name.split_first() else {
            return pattern.is_empty();
        };
        if let Some(rest) = behind(c, pattern) {
            (name, pattern) = (name_rest, rest);
        } else if let Some(([_, one_further @ ..], rest)) = last_star {
            last_star = Some((one_further, rest));
            (name, pattern) = (one_further, rest);
        } else {
            return false;
        }
    }
}

/// What is left of `pattern`, which does not begin with a star, after `c`; `None`: `c` does not match
/// its beginning.
fn behind(c: char, pattern: &[char]) -> Option<&[char]> {
    let (&first, rest) = pattern.split_first()?;
    match (first, parse_set(rest)) {
        ('?', _) => Some(rest),
        ('[', Some((set, rest))) => set.contains(c).then_some(rest),
        (literal, _) => (literal == c).then_some(rest),
    }
}

struct CharSet<'a> {
    negated: bool,
    members: &'a [char],
}

impl CharSet<'_> {
    fn contains(&self, c: char) -> bool {
        let mut members = self.members;
        let mut found = false;
        while let Some((&low, rest)) = members.split_first() {
            match rest {
                ['-', high, ..] => {
                    found |= low <= c && c <= *high;
                    members = &rest[2..];
                }
                _ => {
                    found |= low == c;
                    members = rest;
                }
            }
        }
        found != self.negated
    }
}

/// Splits `seq]rest`, the text after a `[`; a `]` that comes first is a member.
fn parse_set(text: &[char]) -> Option<(CharSet<'_>, &[char])> {
    let negated = text.first() == Some(&'!');
    let text = if negated { &text[1..] } else { text };
    let end = 1 + text.get(1..)?.iter().position(|&c| c == ']')?;
    Some((
        CharSet {
            negated,
            members: &text[..end],
        },
        &text[end + 1..],
    ))
}

/// The hookpoints of `model` that a job trains on, in natural order, after `layer_stride`.
///
/// # Errors
/// A pattern that matches nothing, or a layer that does not exist.
pub fn select_hookpoints<'a>(
    config: &TrainConfig,
    model: &str,
    facts: &'a ModelFacts,
) -> Result<Vec<&'a HookpointFacts>, PlanError> {
    let chosen = if config.hookpoints.is_empty() {
        let names = block_names(config, model, facts)?;
        hookpoints_where(facts, |name| names.contains(name))
    } else {
        match_hookpoints(model, facts, &config.hookpoints)?
    };
    Ok(chosen.into_iter().step_by(config.layer_stride).collect())
}

/// The hookpoints of `model` that match any of `patterns`, in natural order.
///
/// # Errors
/// A pattern that matches nothing.
pub fn match_hookpoints<'a>(
    model: &str,
    facts: &'a ModelFacts,
    patterns: &[String],
) -> Result<Vec<&'a HookpointFacts>, PlanError> {
    let names = || facts.hookpoints.iter().map(|h| h.name.as_str());
    for pattern in patterns {
        if !names().any(|name| fnmatch(name, pattern)) {
            return Err(no_hookpoint(pattern, model, &nearest(pattern, names(), 3)));
        }
    }
    let is_matched = |name: &str| patterns.iter().any(|pattern| fnmatch(name, pattern));
    Ok(hookpoints_where(facts, is_matched))
}

fn no_hookpoint(pattern: &str, model: &str, nearest: &[String]) -> PlanError {
    let names: Vec<_> = nearest.iter().map(|name| format!("`{name}`")).collect();
    let hint = if names.is_empty() {
        "names are those of Hugging Face's `base_model.named_modules()`".into()
    } else {
        format!("the nearest are {}", names.join(", "))
    };
    let message = format!("hookpoint pattern `{pattern}` matches no module of `{model}`");
    PlanError::about("hookpoints", message).with_hint(hint)
}

fn hookpoints_where(facts: &ModelFacts, is_wanted: impl Fn(&str) -> bool) -> Vec<&HookpointFacts> {
    let wanted = facts.hookpoints.iter().filter(|h| is_wanted(&h.name));
    let mut wanted: Vec<_> = wanted.collect();
    wanted.sort_by(|a, b| natord::compare(&a.name, &b.name));
    wanted
}

fn block_names(
    config: &TrainConfig,
    model: &str,
    facts: &ModelFacts,
) -> Result<BTreeSet<String>, PlanError> {
    let n_layers = facts.n_layers;
    if let Some(&layer) = config.layers.iter().find(|&&layer| layer >= n_layers) {
        let message = format!(
            "layer {layer} does not exist: `{model}` has {n_layers} layers, numbered from 0"
        );
        let hint = format!("the last layer is {}", n_layers.saturating_sub(1));
        return Err(PlanError::about("layers", message).with_hint(hint));
    }
    let all: Vec<usize> = (0..n_layers).collect();
    let layers = if config.layers.is_empty() {
        &all
    } else {
        &config.layers
    };
    Ok(layers
        .iter()
        .map(|layer| format!("{}.{layer}", facts.layers_name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    #[test]
    fn fnmatch_agrees_with_python() {
        // Each line was answered by Python's fnmatch.fnmatchcase.
        let cases = [
            ("layers.10.mlp", "layers.1*", true),
            ("layers.2", "layers.1*", false),
            ("layers.1", "layers.?", true),
            ("layers.12", "layers.?", false),
            ("layers.5.mlp", "layers.[3-5].mlp", true),
            ("layers.6.mlp", "layers.[!3-5].mlp", true),
            ("layers.4.mlp", "layers.[!3-5].mlp", false),
            ("a[", "a[", true),
            ("a]", "a[]]", true),
            ("ab", "a[]b]", true),
            ("a-", "a[b-]", true),
            ("", "*", true),
            ("layers.10.self_attn.q_proj", "*a*t*r*y*q*p*z", false),
            ("layers.3.mlp", "layers.*********************x", false),
            ("ababac", "*abac", true),
            ("", "?", false),
            ("layers.3.mlp.act_fn", "*.act_fn", true),
            ("Layers.3", "layers.3", false),
        ];
        for (name, pattern, expected) in cases {
            assert_eq!(
                fnmatch(name, pattern),
                expected,
                "{name:?} against {pattern:?}"
            );
        }
    }

    #[test]
    fn selection_is_natural_and_strided() {
        let facts = crate::model::tests::facts(12);
        let config = TrainConfig {
            hookpoints: vec!["layers.*".into()],
            layer_stride: 5,
            ..TrainConfig::default()
        };
        let names: Vec<_> = select_hookpoints(&config, "m", &facts).unwrap();
        let names: Vec<_> = names.iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["layers.0", "layers.5", "layers.10"]);
    }

    #[test]
    fn a_pattern_without_match_names_the_nearest() {
        let facts = crate::model::tests::facts(3);
        let config = TrainConfig {
            hookpoints: vec!["layer.1".into()],
            ..TrainConfig::default()
        };
        let error = select_hookpoints(&config, "m", &facts).unwrap_err();
        assert!(error.hint().unwrap().contains("`layers.1`"), "{error:?}");
    }

    #[test]
    fn a_missing_layer_is_an_error() {
        let facts = crate::model::tests::facts(3);
        let config = TrainConfig {
            layers: vec![3],
            ..TrainConfig::default()
        };
        let error = select_hookpoints(&config, "m", &facts).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("layer 3 does not exist"), "{message}");
        assert!(message.contains("has 3 layers"), "{message}");
        assert_eq!(error.hint().unwrap(), "the last layer is 2");
    }
}
