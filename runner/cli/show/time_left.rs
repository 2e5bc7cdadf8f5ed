//! How long a sweep still takes: predicted before a stream begins, measured from then on.

use plan::{Event, EventKind};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Reports of speed that count: what was before says less of what comes.
const MOST_REPORTS: usize = 20;

/// What is predicted of a stream, in seconds by one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Predicted {
    /// For a token that is trained on.
    pub(crate) of_token_s: f64,
    /// Of all training; `None`: it is not known how many tokens there are.
    pub(crate) training_s: Option<f64>,
    pub(crate) evaluation_s: f64,
    /// Of its text, if that is still to be tokenised.
    pub(crate) tokenising_s: f64,
}

/// The streams of a sweep that are still to be trained.
#[derive(Debug, Default)]
pub(crate) struct TimeLeft {
    streams: BTreeMap<String, StreamTime>,
    /// Workers at the same time.
    n_lanes: usize,
}

/// A stream, and how far it is.
#[derive(Debug, Default)]
struct StreamTime {
    predicted: Predicted,
    /// Share of the text that is tokenised, and since when.
    tokenising: Work,
    /// Sequences that are evaluated.
    evaluating: Work,
    is_tokenised: bool,
    n_steps: u64,
    step: u64,
    tokens_per_step: u64,
    /// Updates and milliseconds of the last reports.
    reports: VecDeque<(u64, u64)>,
    has_ended: bool,
    /// When it reported last: from then on time passes.
    reported: Option<Instant>,
}

/// Work of which it is reported how much is done.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    /// The first report: what was done, and when.
    first: Option<(f64, i64)>,
    /// The last one, with the sum.
    last: Option<(f64, i64)>,
    n_all: f64,
}

impl Work {
    fn report(&mut self, n_done: f64, n_all: f64, time_ms: i64) {
        // Another round over the same sequences begins again.
        let begins_again = self.last.is_some_and(|(before, _)| n_done < before);
        if self.first.is_none() || begins_again {
            self.first = Some((n_done, time_ms));
        }
        self.last = Some((n_done, time_ms));
        self.n_all = n_all;
    }

    /// Seconds until it is done, at its speed so far.
    fn left_s(&self) -> Option<f64> {
        let ((n_first, begun_ms), (n_done, time_ms)) = (self.first?, self.last?);
        let seconds = (time_ms - begun_ms) as f64 / 1e3;
        let speed = (n_done - n_first) / seconds;
        (speed > 0.0 && speed.is_finite()).then(|| (self.n_all - n_done).max(0.0) / speed)
    }
}

impl TimeLeft {
    /// That of the streams `predicted`, by their ids, `n_lanes` at the same time.
    pub(crate) fn new(
        predicted: impl IntoIterator<Item = (String, Predicted)>,
        n_lanes: usize,
    ) -> Self {
        let stream = |(id, predicted)| {
            let stream = StreamTime {
                predicted,
                ..StreamTime::default()
            };
            (id, stream)
        };
        Self {
            streams: predicted.into_iter().map(stream).collect(),
            n_lanes: n_lanes.max(1),
        }
    }

    /// Takes in what a worker reports.
    pub(crate) fn see(&mut self, stream_id: &str, event: &Event) {
        let stream = self.streams.entry(stream_id.to_owned()).or_default();
        stream.see(event);
        stream.reported = Some(Instant::now());
    }

    /// A stream needs no more time.
    pub(crate) fn end(&mut self, stream_id: &str) {
        if let Some(stream) = self.streams.get_mut(stream_id) {
            stream.has_ended = true;
        }
    }

    /// Until a stream is trained and evaluated; `None`: not known.
    pub(crate) fn of(&self, stream_id: &str) -> Option<Duration> {
        let left = self.streams.get(stream_id)?.left_s(self.scale())?;
        Duration::try_from_secs_f64(left).ok()
    }

    /// Until all are; `None`: not known of all.
    pub(crate) fn in_all(&self) -> Option<Duration> {
        let scale = self.scale();
        let left = self.streams.values().map(|stream| stream.left_s(scale));
        let left = left.collect::<Option<Vec<f64>>>()?;
        let longest = left.iter().copied().fold(0.0, f64::max);
        let shared = left.iter().sum::<f64>() / self.n_lanes as f64;
        Duration::try_from_secs_f64(longest.max(shared)).ok()
    }

    /// By what predictions are multiplied: measured time over predicted time, of what was trained so far.
    fn scale(&self) -> f64 {
        let (mut measured, mut predicted) = (0.0, 0.0);
        for stream in self.streams.values() {
            let (n_updates, ms) = stream.reported();
            let n_tokens = (n_updates * stream.tokens_per_step) as f64;
            measured += ms as f64 / 1e3;
            predicted += n_tokens * stream.predicted.of_token_s;
        }
        if measured > 0.0 && predicted > 0.0 {
            measured / predicted
        } else {
            1.0
        }
    }
}

impl StreamTime {
    fn see(&mut self, event: &Event) {
        match event.kind {
            EventKind::Started { .. } => {
                // Another attempt.
                let predicted = self.predicted;
                *self = Self {
                    predicted,
                    ..Self::default()
                };
            }
            EventKind::Tokenising {
                n_bytes_read,
                n_bytes_total,
                ..
            } => self
                .tokenising
                .report(n_bytes_read as f64, n_bytes_total as f64, event.time_ms),
            EventKind::Ready {
                first_step,
                n_steps,
                tokens_per_step,
            } => {
                self.is_tokenised = true;
                (self.step, self.n_steps) = (first_step, n_steps);
                self.tokens_per_step = tokens_per_step;
            }
            EventKind::Progress {
                step, elapsed_ms, ..
            } => {
                let n_updates = step.saturating_sub(self.step);
                self.step = step;
                self.reports.push_back((n_updates, elapsed_ms));
                if self.reports.len() > MOST_REPORTS {
                    self.reports.pop_front();
                }
            }
            EventKind::Evaluating {
                n_done,
                n_sequences,
            } => {
                self.is_tokenised = true;
                self.step = self.n_steps;
                self.evaluating
                    .report(n_done as f64, n_sequences as f64, event.time_ms);
            }
            EventKind::Finished | EventKind::Failed { .. } => self.has_ended = true,
            _ => {}
        }
    }

    /// Updates and milliseconds of the last reports.
    fn reported(&self) -> (u64, u64) {
        let add = |(a, b): (u64, u64), (c, d): &(u64, u64)| (a + c, b + d);
        self.reports.iter().fold((0, 0), add)
    }

    fn left_s(&self, scale: f64) -> Option<f64> {
        if self.has_ended {
            return Some(0.0);
        }
        let left = self.tokenising_s() + self.training_s(scale)? + self.evaluation_s(scale);
        let since = self
            .reported
            .map_or(0.0, |reported| reported.elapsed().as_secs_f64());
        Some((left - since).max(0.0))
    }

    fn tokenising_s(&self) -> f64 {
        if self.is_tokenised {
            return 0.0;
        }
        self.tokenising
            .left_s()
            .unwrap_or(self.predicted.tokenising_s)
    }

    fn training_s(&self, scale: f64) -> Option<f64> {
        if self.n_steps == 0 {
            // Not begun; or it is trained, and is evaluated alone.
            let predicted = self.predicted.training_s.map(|seconds| seconds * scale);
            return predicted.or(self.is_tokenised.then_some(0.0));
        }
        let n_left = self.n_steps.saturating_sub(self.step) as f64;
        let of_update = match self.reported() {
            (0, _) => self.predicted.of_token_s * self.tokens_per_step as f64 * scale,
            (n_updates, ms) => ms as f64 / 1e3 / n_updates as f64,
        };
        Some(n_left * of_update)
    }

    fn evaluation_s(&self, scale: f64) -> f64 {
        let predicted = self.predicted.evaluation_s * scale;
        self.evaluating.left_s().unwrap_or(predicted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_s: i64, kind: EventKind) -> Event {
        Event {
            seq: 1,
            time_ms: time_s * 1000,
            attempt: 1,
            kind,
        }
    }

    fn two() -> TimeLeft {
        let predicted = Predicted {
            of_token_s: 0.001,
            training_s: Some(100.0),
            evaluation_s: 40.0,
            tokenising_s: 10.0,
        };
        TimeLeft::new(["a", "b"].map(|id| (id.to_owned(), predicted)), 1)
    }

    fn seconds(left: Option<Duration>) -> u64 {
        left.unwrap().as_secs_f64().round() as u64
    }

    fn ready() -> EventKind {
        EventKind::Ready {
            first_step: 0,
            n_steps: 100,
            tokens_per_step: 1000,
        }
    }

    fn step(step: u64) -> EventKind {
        EventKind::Progress {
            step,
            n_tokens: 1000,
            elapsed_ms: 3000,
        }
    }

    #[test]
    fn what_was_measured_corrects_what_is_predicted_of_the_rest() {
        let mut left = two();
        assert_eq!(seconds(left.in_all()), 300);
        assert_eq!(seconds(left.of("a")), 150);
        left.see("a", &event(0, ready()));
        assert_eq!(seconds(left.of("a")), 140, "tokenised");
        left.see("a", &event(3, step(1)));
        // An update takes three times as long as predicted, and so will everything.
        assert_eq!(seconds(left.of("a")), 99 * 3 + 120);
        assert_eq!(seconds(left.of("b")), 10 + 300 + 120);
        left.end("a");
        assert_eq!(seconds(left.in_all()), 430);
        left.end("b");
        assert_eq!(seconds(left.in_all()), 0);
    }

    #[test]
    fn text_and_sequences_are_measured_by_themselves() {
        let mut left = two();
        let read = |n_bytes_read| EventKind::Tokenising {
            n_tokens: 1,
            n_bytes_read,
            n_bytes_total: 100,
        };
        left.see("a", &event(0, read(0)));
        assert_eq!(seconds(left.of("a")), 150);
        left.see("a", &event(5, read(10)));
        assert_eq!(seconds(left.of("a")), 45 + 140);
        left.see("a", &event(9, ready()));
        let evaluated = |n_done| EventKind::Evaluating {
            n_done,
            n_sequences: 20,
        };
        left.see("a", &event(100, evaluated(0)));
        assert_eq!(seconds(left.of("a")), 40);
        left.see("a", &event(104, evaluated(2)));
        assert_eq!(seconds(left.of("a")), 36);
        // The next round over them.
        left.see("a", &event(120, evaluated(0)));
        left.see("a", &event(121, evaluated(5)));
        assert_eq!(seconds(left.of("a")), 3);
        left.see("a", &event(130, EventKind::Finished));
        assert_eq!(seconds(left.of("a")), 0);
    }

    #[test]
    fn streams_side_by_side_share_the_time_and_an_unknown_length_is_not_guessed() {
        let mut left = TimeLeft {
            n_lanes: 2,
            ..two()
        };
        assert_eq!(seconds(left.in_all()), 150);
        left.streams.get_mut("b").unwrap().predicted.training_s = None;
        assert_eq!(left.in_all(), None);
        left.see("b", &event(0, ready()));
        assert!(left.in_all().is_some(), "a worker has counted the tokens");
    }
}
