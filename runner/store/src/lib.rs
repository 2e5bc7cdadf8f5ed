//! Runs, jobs, metrics and checkpoints in SQLite.
