//! The copy in Parquet that the Hub makes of a data set, on the branch `refs/convert/parquet`.

use super::ChosenFile;
use super::choose::parts_of;
use crate::DatasetError;
use crate::error::{many_configs, no_config, no_split};
use plan::DatasetRequest;
use plan::Format;
use std::collections::BTreeSet;

/// In front of the folder of a split of which the copy has the beginning only.
const PARTIAL: &str = "partial-";

/// The files of a split in the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetCopy {
    /// In the order in which they are read: at least one.
    pub files: Vec<ChosenFile>,
    /// Whether they are the beginning of the split only: the Hub copies some gigabytes.
    pub is_partial: bool,
}

/// The files of the copy of `dataset` that make up the split and the configuration of `request`. They
/// are in folders of exactly these names, `CONFIG/SPLIT/0000.parquet`.
///
/// `listing` has the names of all files of the branch.
///
/// # Errors
/// The copy does not have this split or configuration, or it has several and none is asked for.
pub fn choose_parquet_copy(
    dataset: &str,
    listing: &[String],
    request: &DatasetRequest,
) -> Result<ParquetCopy, DatasetError> {
    let mut copy = ParquetCopy {
        files: Vec::new(),
        is_partial: false,
    };
    for (part, (request, _)) in parts_of(request)?.iter().enumerate() {
        let of_split = copy_of_split(dataset, listing, request)?;
        copy.is_partial |= of_split.is_partial;
        let files = of_split.files.into_iter();
        copy.files
            .extend(files.map(|file| ChosenFile { part, ..file }));
    }
    Ok(copy)
}

/// [`choose_parquet_copy`] for a request that names one split.
fn copy_of_split(
    dataset: &str,
    listing: &[String],
    request: &DatasetRequest,
) -> Result<ParquetCopy, DatasetError> {
    let files: Vec<CopiedFile<'_>> = listing.iter().filter_map(|n| CopiedFile::of(n)).collect();
    let configs = files.iter().map(|file| file.config).collect();
    let config = chosen_config(dataset, configs, request)?;
    let of_config = files.iter().filter(|file| file.config == config);
    let of_split = of_config.clone().filter(|file| file.split == request.split);
    let mut chosen: Vec<_> = of_split.collect();
    if chosen.is_empty() {
        let splits: BTreeSet<_> = of_config.map(|file| file.split.to_owned()).collect();
        let splits: Vec<_> = splits.into_iter().collect();
        return Err(no_split(dataset, &request.split, &splits).into());
    }
    // A copy that was completed later may have left its beginning.
    let is_partial = chosen.iter().all(|file| file.is_partial);
    chosen.retain(|file| file.is_partial == is_partial);
    chosen.sort_unstable_by_key(|file| file.name);
    let files = chosen.into_iter().map(CopiedFile::to_chosen).collect();
    Ok(ParquetCopy { files, is_partial })
}

/// The configuration asked for, or the only one, or `default`.
fn chosen_config<'a>(
    dataset: &str,
    configs: BTreeSet<&'a str>,
    request: &DatasetRequest,
) -> Result<&'a str, DatasetError> {
    let wanted = request.config.as_deref();
    let found = || configs.iter().map(ToString::to_string).collect::<Vec<_>>();
    match (wanted, configs.iter().next()) {
        (None, Some(only)) if configs.len() == 1 => Ok(only),
        (_, None) => Err(DatasetError::no_files(dataset, &[], None)),
        _ => configs
            .get(wanted.unwrap_or("default"))
            .copied()
            .ok_or_else(|| match wanted {
                Some(config) => no_config(dataset, config, &found()).into(),
                None => many_configs(dataset, &found()).into(),
            }),
    }
}

struct CopiedFile<'a> {
    name: &'a str,
    config: &'a str,
    split: &'a str,
    is_partial: bool,
}

impl<'a> CopiedFile<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let (config, behind) = name.split_once('/')?;
        let (folder, file) = behind.split_once('/')?;
        let is_data = file.ends_with(".parquet") && !file.contains('/');
        let split = folder.strip_prefix(PARTIAL);
        is_data.then_some(Self {
            name,
            config,
            split: split.unwrap_or(folder),
            is_partial: split.is_some(),
        })
    }

    fn to_chosen(&self) -> ChosenFile {
        ChosenFile {
            name: self.name.into(),
            format: Format::Parquet,
            part: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault::Remedy;

    const LISTING: &str = ".gitattributes one/train/0001.parquet one/train/0000.parquet \
        one/train_sft/0000.parquet one/partial-test/0000.parquet two/train/0000.parquet \
        two/train/index.duckdb two/notes.parquet";

    fn choose(listing: &str, config: Option<&str>, split: &str) -> Result<String, DatasetError> {
        let listing: Vec<_> = listing.split_whitespace().map(Into::into).collect();
        let request = DatasetRequest {
            split: split.into(),
            config: config.map(Into::into),
            ..DatasetRequest::default()
        };
        let copy = choose_parquet_copy("org/set", &listing, &request)?;
        let names = copy.files.iter().map(|file| &*file.name);
        let mark = if copy.is_partial { "partial: " } else { "" };
        Ok(mark.to_owned() + &names.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn folders_are_splits_by_their_whole_name() {
        let one = |split| choose(LISTING, Some("one"), split);
        let expected = "one/train/0000.parquet one/train/0001.parquet";
        assert_eq!(one("train").unwrap(), expected);
        assert_eq!(one("train_sft").unwrap(), "one/train_sft/0000.parquet");
        let error = choose("one/train_sft/0000.parquet", None, "train").unwrap_err();
        assert!(error.to_string().contains("has no split"), "{error:?}");
        assert_eq!(error.hint().unwrap(), "choose one of `train_sft`");
    }

    #[test]
    fn the_beginning_of_a_split_is_told_from_the_whole() {
        let test = choose(LISTING, Some("one"), "test").unwrap();
        assert_eq!(test, "partial: one/partial-test/0000.parquet");
        let both = "c/partial-train/0000.parquet c/train/0000.parquet";
        assert_eq!(choose(both, None, "train").unwrap(), "c/train/0000.parquet");
    }

    #[test]
    fn configurations_are_folders() {
        let error = choose(LISTING, Some("three"), "train").unwrap_err();
        assert!(
            error.to_string().contains("has no configuration"),
            "{error:?}"
        );
        assert_eq!(error.hint().unwrap(), "choose one of `one`, `two`");
        let error = choose(LISTING, None, "train").unwrap_err();
        assert!(
            error.to_string().contains("has several configurations"),
            "{error:?}"
        );
        let default = LISTING.replace("one/", "default/");
        let expected = "default/train/0000.parquet default/train/0001.parquet";
        assert_eq!(choose(&default, None, "train").unwrap(), expected);
        let error = choose(".gitattributes", None, "train").unwrap_err();
        assert!(
            error.to_string().contains("has no file of a known format"),
            "{error:?}"
        );
        assert!(choose(LISTING, None, "train[:5]").is_err());
    }
}
