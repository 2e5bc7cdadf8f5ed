//! TensorBoard's events: protobuf messages `Event` with a `Summary`, as `tensorboard/compat/proto` defines them.

use super::protobuf::{Field, Fields, Message};
use plan::{TrackedPoint, TrackedRun, TrackedSoFar, is_of_evaluation};
use serde_json::Value;

/// What each file begins with.
const VERSION: &str = "brain.Event:2";

// Fields of `Event`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;

// Fields of `Summary` and `Summary.Value`.
const VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const TENSOR: u64 = 8;
const METADATA: u64 = 9;

/// The records that a file begins with: its version, the settings as a text, and again as what the page HPARAMS
/// compares.
pub(super) fn header(run: &TrackedRun) -> [Vec<u8>; 3] {
    let event = || Message::default().double(WALL_TIME, seconds(run.started_ms));
    let of_value = |value: &Message| {
        let summary = Message::default().message(VALUE, value);
        event().message(SUMMARY, &summary).finish()
    };
    [
        event().bytes(FILE_VERSION, VERSION).finish(),
        of_value(&settings_text(run)),
        of_value(&hyperparameters(run)),
    ]
}

/// The record of a point.
pub(super) fn of_point(point: &TrackedPoint) -> Vec<u8> {
    let value = |(tag, value): &(String, f64)| {
        Message::default()
            .bytes(TAG, tag)
            .float(SIMPLE_VALUE, *value as f32)
    };
    let values = point.values.iter().map(value);
    let summary = values.fold(Message::default(), |summary, value| {
        summary.message(VALUE, &value)
    });
    Message::default()
        .double(WALL_TIME, seconds(point.time_ms))
        .varint(STEP, point.step)
        .message(SUMMARY, &summary)
        .finish()
}

/// How much there is after the record of a point.
pub(super) fn so_far(before: TrackedSoFar, record: &[u8]) -> TrackedSoFar {
    let (mut step, mut is_evaluation) = (0, false);
    for (number, field) in Fields(record) {
        match (number, field) {
            (STEP, Field::Varint(value)) => step = value,
            (SUMMARY, Field::Bytes(summary)) => is_evaluation |= has_evaluation(summary),
            _ => {}
        }
    }
    before.with(&TrackedPoint {
        step,
        time_ms: 0,
        is_evaluation,
        values: Vec::new(),
    })
}

fn has_evaluation(summary: &[u8]) -> bool {
    let mut values = Fields(summary).filter(|(number, _)| *number == VALUE);
    values.any(|(_, value)| {
        let Field::Bytes(value) = value else {
            return false;
        };
        Fields(value).any(|(number, tag)| match tag {
            Field::Bytes(tag) if number == TAG => str::from_utf8(tag).is_ok_and(is_of_evaluation),
            _ => false,
        })
    })
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The settings for the page TEXT: a table in Markdown.
fn settings_text(run: &TrackedRun) -> Message {
    let rows = run.config.iter().map(|(key, value)| {
        let value = value.to_string().replace('|', "\\|");
        format!("| `{key}` | {value} |\n")
    });
    let rows: String = rows.collect();
    let (sweep, job, id) = (&run.sweep, &run.job, &run.job_id);
    let text = format!("`{job}` ({id}) of `{sweep}`\n\n| setting | value |\n|---|---|\n{rows}");
    // `DT_STRING`, and a shape of one dimension of size 1.
    let size = Message::default().varint(1, 1);
    let shape = Message::default().message(2, &size);
    let tensor = Message::default()
        .varint(1, 7)
        .message(2, &shape)
        .bytes(8, text);
    Message::default()
        .bytes(TAG, "settings/text_summary")
        .message(METADATA, &metadata("text", &[]))
        .message(TENSOR, &tensor)
}

/// The settings for the page HPARAMS, in a group for each job.
fn hyperparameters(run: &TrackedRun) -> Message {
    let mut session = Message::default();
    for (key, value) in &run.config {
        if let Some(value) = setting(value) {
            let entry = Message::default().bytes(1, key).message(2, &value);
            session = session.message(1, &entry);
        }
    }
    let session = session.bytes(4, &run.id).double(5, seconds(run.started_ms));
    let content = Message::default().message(3, &session).finish();
    // A value needs some content: an empty tensor of `DT_FLOAT`, with a dimension of size 0.
    let shape = Message::default().message(2, &Message::default());
    let tensor = Message::default().varint(1, 1).message(2, &shape);
    Message::default()
        .bytes(TAG, "_hparams_/session_start_info")
        .message(METADATA, &metadata("hparams", &content))
        .message(TENSOR, &tensor)
}

/// A `google.protobuf.Value`; the page knows numbers, texts and truth values only.
fn setting(value: &Value) -> Option<Message> {
    Some(match value {
        Value::Null => return None,
        Value::Number(number) => Message::default().double(2, number.as_f64()?),
        Value::String(text) => Message::default().bytes(3, text),
        Value::Bool(is_true) => Message::default().varint(4, u64::from(*is_true)),
        Value::Array(_) | Value::Object(_) => Message::default().bytes(3, value.to_string()),
    })
}

/// A `SummaryMetadata` for one of TensorBoard's pages.
fn metadata(plugin: &str, content: &[u8]) -> Message {
    let data = Message::default().bytes(1, plugin).bytes(2, content);
    Message::default().message(1, &data)
}
