//! Which files of a data set make up a split, as `load_dataset` of Python's `datasets` 5.2 finds
//! them.
//!
//! The order is `datasets`' own: patterns one after the other, and the files of a pattern by the
//! code points of their names. A file that two patterns take is read twice, as there.

use super::card::{Card, CardConfig, Split};
use super::conventions::conventions;
use super::endings::{
    allows_packing_of, common_ending, endings, foreign_packing, format_of_ending, is_data,
    share_reader,
};
use super::listing::Listing;
use super::patterns::{Pattern, base_name, has_magic};
use crate::DatasetError;
use crate::error::{KNOWN_ENDINGS, no_config, no_split};
use fault::Fault;
use plan::Format;
use plan::{DatasetRequest, RowRange};

/// A file of a data set that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenFile {
    /// Its name, relative to the root of the data set, with `/`.
    pub name: String,
    /// How it holds its rows.
    pub format: Format,
    /// Number of the part that it is of, among those that the split names.
    pub part: usize,
}

/// The files of a data set, in the order in which they are read: at least one.
///
/// `dataset` is what messages call it, `listing` has the names of all its files, relative to its
/// root and with `/`, and `card` is the text of its README.md.
///
/// # Errors
/// The request names a split, configuration or file that is not there; or the files have no format
/// that is read, or several.
pub fn choose_files(
    dataset: &str,
    listing: &[String],
    card: Option<&str>,
    request: &DatasetRequest,
) -> Result<Vec<ChosenFile>, DatasetError> {
    let mut files = Vec::new();
    for (part, (request, _)) in parts_of(request)?.iter().enumerate() {
        let chosen = choose_among(dataset, &Listing::Names(listing), card, request)?;
        files.extend(chosen.into_iter().map(|file| ChosenFile { part, ..file }));
    }
    Ok(files)
}

/// [`choose_files`] of any listing, for a request that names one split.
pub(crate) fn choose_among(
    dataset: &str,
    listing: &Listing<'_>,
    card: Option<&str>,
    request: &DatasetRequest,
) -> Result<Vec<ChosenFile>, DatasetError> {
    let names_files = !request.data_files.is_empty() || request.data_dir.is_some();
    let text = card.filter(|_| !names_files || request.config.is_some());
    let card = Card::parse(dataset, text.unwrap_or_default())?;
    let config = asked_config(dataset, &card, request)?.filter(|_| !names_files);
    let chooser = Chooser { dataset, listing };
    let selection = chooser.select(config, request)?;
    let split = chooser.split(&selection, &request.split)?;
    let names = chooser.resolve(&selection, split)?;
    chooser.of_one_format(names, &selection, split)
}

/// [`DatasetRequest::parts`] of a request.
pub(crate) fn parts_of(
    request: &DatasetRequest,
) -> Result<Vec<(DatasetRequest, RowRange)>, DatasetError> {
    request.parts().map_err(|problem| {
        let message = format!("split `{}` cannot be read: {problem}", request.split);
        let hint = "write a name, rows of it such as `train[:1000]` or `train[10%:20%]`, or several of these with \
                    `+` between";
        Fault::input(message).with_hint(hint).into()
    })
}

/// The configuration that the request names, or else the default; `None`: the card has neither.
fn asked_config<'a>(
    dataset: &str,
    card: &'a Card,
    request: &DatasetRequest,
) -> Result<Option<&'a CardConfig>, DatasetError> {
    match &request.config {
        Some(name) if card.names().contains(name) => Ok(card.config(name)),
        Some(name) => Err(no_config(dataset, name, &card.names()).into()),
        None => card.default_config(dataset),
    }
}

/// The splits of a data set, and which of the files that they name are kept.
struct Selection {
    dir: String,
    splits: Vec<Split>,
    are_named: bool,
    keep: Keep,
}

/// What becomes of files whose names say that they are something else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Those of the most common format are kept.
    Common,
    /// Those are kept that might be data.
    Data,
    /// All are kept.
    All,
}

struct Chooser<'a> {
    dataset: &'a str,
    listing: &'a Listing<'a>,
}

impl Chooser<'_> {
    fn select(
        &self,
        config: Option<&CardConfig>,
        request: &DatasetRequest,
    ) -> Result<Selection, DatasetError> {
        let config_dir = config.and_then(|config| config.data_dir.as_ref());
        let dir = request
            .data_dir
            .as_ref()
            .or(config_dir)
            .cloned()
            .unwrap_or_default();
        let named = match config {
            _ if !request.data_files.is_empty() => {
                Some(vec![Split::train(request.data_files.clone())])
            }
            Some(config) => config.splits(),
            None => None,
        };
        let keep = match config {
            Some(_) => Keep::Data,
            None if named.is_some() && request.data_dir.is_none() => Keep::All,
            None => Keep::Common,
        };
        Ok(Selection {
            are_named: named.is_some(),
            splits: named.map_or_else(|| conventions(self.listing, &dir), Ok)?,
            dir,
            keep,
        })
    }

    fn split<'s>(&self, selection: &'s Selection, name: &str) -> Result<&'s Split, DatasetError> {
        let splits = &selection.splits;
        if splits.is_empty() {
            return Err(self.nothing(selection, &[])?);
        }
        splits
            .iter()
            .find(|split| split.name == name)
            .ok_or_else(|| {
                let found: Vec<_> = splits.iter().map(|split| split.name.clone()).collect();
                no_split(self.dataset, name, &found).into()
            })
    }

    fn resolve(&self, selection: &Selection, split: &Split) -> Result<Vec<String>, DatasetError> {
        let mut names = Vec::new();
        for pattern in &split.patterns {
            let matching = self
                .listing
                .matching(&Pattern::new(&selection.dir, pattern)?)?;
            if !has_magic(pattern) && !matching.iter().any(|name| is_data(name)) {
                return Err(self.no_match(pattern));
            }
            names.extend(matching);
        }
        if selection.keep != Keep::All {
            names.retain(|name| is_data(name));
        }
        Ok(names)
    }

    fn of_one_format(
        &self,
        mut names: Vec<String>,
        selection: &Selection,
        split: &Split,
    ) -> Result<Vec<ChosenFile>, DatasetError> {
        let data = names
            .iter()
            .map(String::as_str)
            .filter(|name| is_data(name));
        let Some(common) = common_ending(data) else {
            return Err(self.nothing(selection, &split.patterns)?);
        };
        let Some(format) = format_of_ending(&common) else {
            return Err(self.not_read(&format!(".{common}")));
        };
        if selection.keep == Keep::Common {
            names.retain(|name| may_be(name, format));
        }
        names
            .into_iter()
            .map(|name| self.chosen(name, format))
            .collect()
    }

    fn chosen(&self, name: String, format: Format) -> Result<ChosenFile, DatasetError> {
        if let Some(ending) = foreign_packing(&name) {
            return Err(self.not_read(&format!(".{ending}")));
        }
        if !endings(&name).any(|ending| format_of_ending(ending) == Some(format)) {
            let dataset = self.dataset;
            let message = format!(
                "`{name}` of data set `{dataset}` is not {format} by its name, as other files are"
            );
            let hint = "name files of one format by `data_files`, such as `*.jsonl`";
            return Err(Fault::input(message).with_hint(hint).into());
        }
        if !allows_packing_of(format, &name) {
            return Err(self.not_read(&format!("packed {format}")));
        }
        Ok(ChosenFile {
            name,
            format,
            part: 0,
        })
    }

    fn no_match(&self, pattern: &str) -> DatasetError {
        let message = format!("data set `{}` has no data file `{pattern}`", self.dataset);
        let hint = "names begin at the root of the data set; all of a folder is `folder/**`";
        Fault::input(message).with_hint(hint).into()
    }

    fn not_read(&self, format: &str) -> DatasetError {
        let dataset = self.dataset;
        let message = format!("data set `{dataset}` has {format} files, which are not read");
        DatasetError::NoFiles(Fault::input(message).with_hint(KNOWN_ENDINGS))
    }

    /// Why `patterns` gave no data file.
    fn nothing(
        &self,
        selection: &Selection,
        patterns: &[String],
    ) -> Result<DatasetError, DatasetError> {
        if selection.are_named {
            return Ok(self.no_match(&patterns.join("`, `")));
        }
        let below = Pattern::new(&selection.dir, "**")?;
        let mut found = self.listing.matching(&below)?;
        if found.is_empty() && !selection.dir.is_empty() {
            return Ok(self.no_match(&selection.dir));
        }
        let script = format!("{}.py", base_name(self.dataset.trim_end_matches('/')));
        let script = found.contains(&script).then_some(script);
        found.truncate(3);
        Ok(DatasetError::no_files(self.dataset, &found, script))
    }
}

/// Whether `datasets` gives the file to the reader of `format`.
fn may_be(name: &str, format: Format) -> bool {
    endings(name).any(|ending| {
        let of_ending = format_of_ending(ending);
        ending == "zip" || of_ending.is_some_and(|of_ending| share_reader(of_ending, format))
    })
}
