//! The trainer: optimizer, step, stream, checkpoints and the worker process.
