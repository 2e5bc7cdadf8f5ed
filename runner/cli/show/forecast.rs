//! The time and the space that a plan takes, as text and as JSON.

use crate::show::duration::duration;
use crate::show::table::{bytes, count};
use crate::sweep::forecast::{Forecast, StreamForecast, StreamLength};
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::time::Duration;

/// A few lines for people, each with what it is about in front.
pub(crate) fn text(forecast: &Forecast) -> String {
    let lines = [
        ("training", Some(training(forecast))),
        ("time", Some(time(forecast))),
        ("", Some(format!("({})", forecast.speed.source))),
        ("disk", Some(disk(forecast))),
        ("", free(forecast)),
    ];
    let lines = lines
        .into_iter()
        .filter_map(|(what, text)| Some((what, text?)));
    lines.map(|(what, text)| wrapped(what, &text)).collect()
}

/// The same as an object.
pub(crate) fn as_json(forecast: &Forecast) -> Value {
    let known = forecast.in_all();
    json!({
        "streams": forecast.streams.iter().map(stream_json).collect::<Vec<_>>(),
        "tokenising_s": forecast.tokenising_s,
        "training_s": known.map(|known| known.training_s),
        "evaluation_s": known.map(|known| known.evaluation_s),
        "total_s": known.map(|known| total_s(forecast, known)),
        "s_per_million_tokens": forecast.per_million_s(),
        "speed": forecast.speed.source,
        "speed_is_measured": forecast.speed.is_measured,
        "saes_bytes": forecast.disk.saes_bytes,
        "states_bytes": forecast.disk.states_bytes,
        "tokens_bytes": forecast.tokens_bytes,
        "free_bytes": forecast.free_bytes,
    })
}

fn stream_json(stream: &StreamForecast) -> Value {
    stream.length.map_or(Value::Null, |stream| {
        json!({
            "n_steps": stream.n_updates,
            "n_tokens": stream.n_tokens,
            "n_eval_sequences": stream.n_eval_sequences,
            "is_exact": stream.is_exact,
            "training_s": stream.training_s,
            "evaluation_s": stream.evaluation_s,
        })
    })
}

/// Seconds in all.
pub(crate) fn total_s(forecast: &Forecast, known: StreamLength) -> f64 {
    forecast.tokenising_s + known.training_s + known.evaluation_s
}

fn training(forecast: &Forecast) -> String {
    let Some(known) = forecast.in_all() else {
        return "the number of tokens is not known: the data set is not available, and `max_examples` is not set"
            .to_owned();
    };
    let about = if known.is_exact { "" } else { "about " };
    let n_steps = count(known.n_updates as usize, "step");
    let eval = match known.n_eval_sequences {
        0 => String::new(),
        n => format!(", evaluation on {}", count(n as usize, "sequence")),
    };
    format!(
        "{about}{} tokens, {n_steps}{eval}",
        HumanCount(known.n_tokens)
    )
}

/// The time that a plan takes, with its parts.
pub(crate) fn time(forecast: &Forecast) -> String {
    let shown = |seconds: f64| match seconds {
        seconds if seconds < 1.0 => "less than 1 s".to_owned(),
        seconds => duration(Duration::from_secs_f64(seconds.min(1e9))),
    };
    let Some(known) = forecast.in_all() else {
        return format!("{} for a million tokens", shown(forecast.per_million_s()));
    };
    let parts = [
        ("tokenising", forecast.tokenising_s),
        ("training", known.training_s),
        ("evaluation", known.evaluation_s),
    ];
    let parts = parts.iter().filter(|(_, seconds)| *seconds >= 0.5);
    let parts: Vec<_> = parts
        .map(|(what, seconds)| format!("{what} {}", shown(*seconds)))
        .collect();
    let total = shown(total_s(forecast, known));
    match &parts[..] {
        _ if total_s(forecast, known) < 1.0 => total,
        [] | [_] => format!("about {total}"),
        parts => format!("about {total}: {}", parts.join(", ")),
    }
}

fn disk(forecast: &Forecast) -> String {
    let tokens = match forecast.tokens_bytes {
        0 => String::new(),
        n_bytes => format!(", {} for tokens in the cache", bytes(n_bytes)),
    };
    format!(
        "{} for SAEs, {} more while they are trained{tokens}",
        bytes(forecast.disk.saes_bytes),
        bytes(forecast.disk.states_bytes)
    )
}

fn free(forecast: &Forecast) -> Option<String> {
    let needed = forecast
        .disk
        .saes_bytes
        .saturating_add(forecast.disk.states_bytes);
    let free = forecast.free_bytes.filter(|&free| free < needed)?;
    Some(format!("only {} are free", bytes(free)))
}

/// At most 80 characters in a line.
fn wrapped(what: &str, text: &str) -> String {
    const INDENT: usize = 11;
    const WIDTH: usize = 80 - INDENT;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        let is_full = line.chars().count() + 1 + word.chars().count() > WIDTH;
        if line.is_empty() {
            line.push_str(word);
        } else if is_full {
            lines.push(word.to_owned());
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    let heads = std::iter::once(what).chain(std::iter::repeat(""));
    let lines = heads.zip(lines);
    lines
        .map(|(head, line)| format!("{head:<INDENT$}{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_longer_than_a_terminal() {
        let text = wrapped("time", &"word ".repeat(40));
        assert!(text.starts_with("time       word word"), "{text}");
        assert!(
            text.lines().nth(1).unwrap().starts_with("           word"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
