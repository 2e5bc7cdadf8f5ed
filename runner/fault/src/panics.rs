//! Libraries that panic on input which they do not expect.

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `call` gives, or the message of its panic. What it works on is not used again after one.
pub fn without_panic<T>(call: impl FnOnce() -> T) -> Result<T, Box<dyn Error + Send + Sync>> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| message(panic.as_ref()).into())
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it failed without a message").to_owned()
}
