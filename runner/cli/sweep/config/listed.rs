//! Lists as one types them: `--set vary.k=8,16`.

use plan::{default_of, takes_texts};
use toml::Value;

/// The list that `text` is, for a key that takes one: values between commas, each as TOML or as text. Of a setting that is
/// itself a list of texts, `a+b` is one value of several to vary. `None`: it is no list.
pub(super) fn as_list(path: &[&str], text: &str) -> Option<Value> {
    let varies = path.first() == Some(&"vary");
    let is_of_texts = match path {
        ["vary", key] => takes_texts(&["train", key]),
        _ => takes_texts(path),
    };
    let is_list_by_default = || default_of(path).is_some_and(|value| value.starts_with('['));
    let is_list = is_of_texts || (varies && text.contains(',')) || is_list_by_default();
    if !is_list {
        return None;
    }
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let value = |item: &str| match (varies, is_of_texts) {
        (true, true) => item.split('+').map(Value::from).collect::<Vec<_>>().into(),
        (false, true) => Value::from(item),
        _ => parsed(item),
    };
    Some(Value::Array(items.map(value).collect()))
}

/// A value as TOML, else as text.
fn parsed(item: &str) -> Value {
    let table = toml::from_str::<toml::Table>(&format!("value = {item}\n"));
    let value = table.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::from(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_between_commas_are_a_list_where_one_is_wanted() {
        let list = |path: &[&str], text| as_list(path, text).map(|value| value.to_string());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(list(&["vary", "k"], "8,16"), some("[8, 16]"));
        assert_eq!(list(&["vary", "lr"], "1e-3, 2e-3"), some("[0.001, 0.002]"));
        assert_eq!(
            list(&["vary", "optimizer"], "adam,muon"),
            some(r#"["adam", "muon"]"#)
        );
        assert_eq!(
            list(&["vary", "hookpoints"], "layers.0,layers.1+layers.2"),
            some(r#"[["layers.0"], ["layers.1", "layers.2"]]"#)
        );
        assert_eq!(
            list(&["train", "hookpoints"], "layers.0,layers.1"),
            some(r#"["layers.0", "layers.1"]"#)
        );
        assert_eq!(
            list(&["train", "hookpoints"], "layers.0"),
            some(r#"["layers.0"]"#)
        );
        assert_eq!(
            list(&["launch", "log_to"], "tensorboard,wandb"),
            some(r#"["tensorboard", "wandb"]"#)
        );
        assert_eq!(list(&["vary", "optimizer"], "adam"), None);
        assert_eq!(list(&["train", "model"], "a,b"), None);
    }
}
