//! Layouts of data sets, with the files that `load_dataset` of Python's `datasets` 5.2.0 reads.

use super::choose_files;
use super::patterns::Pattern;
use crate::DatasetError;
use crate::find_files;
use fault::Remedy;
use plan::DatasetRequest;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// A data set of empty files.
struct Layout {
    folder: TempDir,
    names: Vec<String>,
    card: Option<String>,
}

impl Layout {
    fn of(names: &str) -> Self {
        let layout = Self {
            folder: tempfile::tempdir().unwrap(),
            names: names.split_whitespace().map(Into::into).collect(),
            card: None,
        };
        for name in &layout.names {
            layout.write(name, "");
        }
        layout
    }

    fn card(mut self, configs: &str) -> Self {
        let card = format!("---\nconfigs:\n{configs}\n---\n");
        self.write("README.md", &card);
        self.names.push("README.md".into());
        self.card = Some(card);
        self
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The names of the files, which are the same in the folder and as a listing of the Hub.
    fn read(&self, request: &DatasetRequest) -> Result<String, DatasetError> {
        let listing =
            choose_files("org/set", &self.names, self.card.as_deref(), request).map(|files| {
                files
                    .into_iter()
                    .map(|file| file.name)
                    .collect::<Vec<_>>()
                    .join(" ")
            });
        let here = in_folder(self.folder.path(), request);
        match (listing, here) {
            (Ok(listing), Ok(here)) => {
                assert_eq!(listing, here);
                Ok(here)
            }
            (Err(listing), Err(here)) => {
                assert_eq!(listing.hint(), here.hint());
                Err(listing)
            }
            (listing, here) => panic!("{listing:?} is not {here:?}"),
        }
    }

    fn split(&self, split: &str) -> String {
        self.read(&of_split(split)).unwrap()
    }

    fn train(&self) -> String {
        self.split("train")
    }

    fn data_files(&self, patterns: &str) -> Result<String, DatasetError> {
        self.read(&DatasetRequest {
            data_files: patterns.split_whitespace().map(Into::into).collect(),
            ..DatasetRequest::default()
        })
    }
}

fn of_split(split: &str) -> DatasetRequest {
    DatasetRequest {
        split: split.into(),
        ..DatasetRequest::default()
    }
}

fn of_config(config: &str, split: &str) -> DatasetRequest {
    DatasetRequest {
        config: Some(config.into()),
        ..of_split(split)
    }
}

fn of_dir(dir: &str) -> DatasetRequest {
    DatasetRequest {
        data_dir: Some(dir.into()),
        ..DatasetRequest::default()
    }
}

fn in_folder(root: &Path, request: &DatasetRequest) -> Result<String, DatasetError> {
    let files = find_files(root, request)?.files;
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    Ok(files
        .iter()
        .map(|file| name(&file.path))
        .collect::<Vec<_>>()
        .join(" "))
}

#[test]
fn all_files_are_train_by_code_point() {
    let layout = Layout::of(
        "b.jsonl a.jsonl part10.jsonl part2.jsonl Z.jsonl sub/x.jsonl sub-1/y.jsonl .hid.jsonl \
         .git/c.jsonl __pycache__/d.jsonl config.json dataset_infos.json LICENSE",
    );
    let expected = "Z.jsonl a.jsonl b.jsonl part10.jsonl part2.jsonl sub-1/y.jsonl sub/x.jsonl";
    assert_eq!(layout.train(), expected);
}

#[test]
fn shards_in_data_come_first() {
    let layout = Layout::of(
        "data/train-00001-of-00002.jsonl data/train-00000-of-00002.jsonl \
         data/test-00000-of-00001.jsonl data/extra.jsonl train.jsonl",
    );
    let expected = "data/train-00000-of-00002.jsonl data/train-00001-of-00002.jsonl";
    assert_eq!(layout.train(), expected);
    assert_eq!(layout.split("test"), "data/test-00000-of-00001.jsonl");
    let layout = Layout::of(
        "data/train-00000-of-00002-abc.jsonl data/train-00001-of-00002-def.jsonl \
         data/rare.v2-00000-of-00001.jsonl data/all-00000-of-00001.jsonl",
    );
    assert_eq!(layout.split("rare.v2"), "data/rare.v2-00000-of-00001.jsonl");
    let error = layout.read(&of_split("test")).unwrap_err();
    assert_eq!(error.to_string(), "data set `org/set` has no split `test`");
    assert_eq!(
        error.hint().unwrap(),
        "choose one of `train`, `all`, `rare.v2`"
    );
}

#[test]
fn folders_name_splits() {
    let layout = Layout::of(
        "train/b.jsonl train/a.jsonl test/c.jsonl other/d.jsonl x/train-1/e.jsonl \
         my_train/f.jsonl trainer/g.jsonl",
    );
    let expected = "train/a.jsonl train/b.jsonl x/train-1/e.jsonl my_train/f.jsonl";
    assert_eq!(layout.train(), expected);
    assert_eq!(layout.split("test"), "test/c.jsonl");
}

#[test]
fn files_name_splits() {
    let layout = Layout::of(
        "train.jsonl sub/train_0.jsonl my-train.jsonl training.jsonl test.jsonl other.jsonl \
         trainer.jsonl",
    );
    let expected = "sub/train_0.jsonl train.jsonl my-train.jsonl training.jsonl";
    assert_eq!(layout.train(), expected);
    let layout =
        Layout::of("dev.jsonl val.jsonl valid.jsonl train.jsonl eval.jsonl evaluation.jsonl");
    assert_eq!(
        layout.split("validation"),
        "valid.jsonl dev.jsonl val.jsonl"
    );
    assert_eq!(layout.split("test"), "eval.jsonl evaluation.jsonl");
}

#[test]
fn a_file_is_read_once_for_each_pattern() {
    let layout = Layout::of("train/train-1/a.jsonl train/b.jsonl");
    let expected = "train/b.jsonl train/train-1/a.jsonl train/train-1/a.jsonl";
    assert_eq!(layout.train(), expected);
    let layout = Layout::of("train-train.jsonl train.training.jsonl train.jsonl");
    let expected = "train-train.jsonl train.jsonl train.training.jsonl train-train.jsonl \
                    train.training.jsonl";
    assert_eq!(layout.train(), expected);
}

#[test]
fn the_most_common_format_is_kept() {
    assert_eq!(Layout::of("a.jsonl b.csv c.txt").train(), "a.jsonl");
    assert_eq!(
        Layout::of("a.jsonl b.csv c.csv d.txt").train(),
        "b.csv c.csv"
    );
    assert_eq!(Layout::of("a.jsonl b.parquet").train(), "b.parquet");
    assert_eq!(
        Layout::of("a.json b.jsonl c.csv d.csv").train(),
        "c.csv d.csv"
    );
    assert_eq!(
        Layout::of("a.jsonl LICENSE.md notes.txt b.py").train(),
        "a.jsonl"
    );
    assert_eq!(Layout::of("A.JSONL b.jsonl").train(), "b.jsonl");
    let layout = Layout::of("metadata.jsonl metadata.csv c.csv");
    assert_eq!(layout.train(), "c.csv metadata.csv");
    let layout = Layout::of("a.geoparquet b.parquet x.jsonl");
    assert_eq!(layout.train(), "a.geoparquet b.parquet");
}

#[test]
fn packed_and_numbered_files_have_the_format_within() {
    let layout = Layout::of("a.jsonl.gz b.jsonl c.json.gz");
    assert_eq!(layout.train(), "a.jsonl.gz b.jsonl c.json.gz");
    assert_eq!(Layout::of("a.txt b.txt.gz").train(), "a.txt b.txt.gz");
    assert_eq!(Layout::of("a.txt.00 a.txt.01").train(), "a.txt.00 a.txt.01");
}

#[test]
fn named_files_come_in_the_order_of_their_patterns() {
    let layout = Layout::of("a.jsonl b.jsonl sub/c.jsonl sub/deep/d.jsonl");
    let expected = "sub/c.jsonl b.jsonl a.jsonl b.jsonl";
    assert_eq!(
        layout.data_files("sub/*.jsonl b.jsonl *.jsonl").unwrap(),
        expected
    );
    let expected = "a.jsonl b.jsonl sub/c.jsonl sub/deep/d.jsonl";
    assert_eq!(layout.data_files("**/*.jsonl").unwrap(), expected);
    assert_eq!(
        layout.data_files("sub/**").unwrap(),
        "sub/c.jsonl sub/deep/d.jsonl"
    );
    assert_eq!(layout.data_files("a.jsonl no*.jsonl").unwrap(), "a.jsonl");
    let layout = Layout::of(".h.jsonl .d/a.jsonl __x/b.jsonl c.jsonl");
    let expected = ".h.jsonl .d/a.jsonl __x/b.jsonl .h.jsonl";
    assert_eq!(
        layout.data_files(".h.jsonl .d/* __*/* .*").unwrap(),
        expected
    );
    let layout = Layout::of("config.json b.jsonl");
    assert_eq!(
        layout.data_files("config.json *").unwrap(),
        "config.json b.jsonl"
    );
}

#[test]
fn named_files_that_are_not_there() {
    let layout = Layout::of("a.jsonl s/b.jsonl LICENSE");
    for patterns in ["a.jsonl no.jsonl", "s", "no*.jsonl", "LICENSE"] {
        let error = layout.data_files(patterns).unwrap_err();
        assert!(
            error.to_string().contains("has no data file"),
            "{patterns}: {error:?}"
        );
    }
    let error = layout.data_files("../a.jsonl").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not a name or pattern of files"),
        "{error:?}"
    );
}

#[test]
fn a_folder_is_a_data_set_by_itself() {
    let layout = Layout::of("a.jsonl sub/train.jsonl sub/test.jsonl sub/o.jsonl");
    assert_eq!(layout.read(&of_dir("sub")).unwrap(), "sub/train.jsonl");
    assert_eq!(layout.read(&of_dir("./sub/")).unwrap(), "sub/train.jsonl");
    let request = DatasetRequest {
        data_files: vec!["o*".into()],
        ..of_dir("sub")
    };
    assert_eq!(layout.read(&request).unwrap(), "sub/o.jsonl");
    let error = layout.read(&of_dir("none")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data set `org/set` has no data file `none`"
    );
    let layout = Layout::of(".s/a.jsonl __t/b.jsonl");
    assert_eq!(layout.read(&of_dir(".s")).unwrap(), ".s/a.jsonl");
}

const CONFIGS: &str = "\
- config_name: one
  data_files: a.jsonl
- config_name: two
  default: true
  data_files:
  - sub/*.jsonl
  - b.jsonl
- config_name: three
  data_files:
  - split: train
    path:
    - b.jsonl
    - a*.jsonl
  - split: heldout
    path: sub/*";

#[test]
fn a_card_names_configurations() {
    let layout = Layout::of("a.jsonl b.jsonl sub/y.jsonl sub/x.jsonl").card(CONFIGS);
    assert_eq!(layout.train(), "sub/x.jsonl sub/y.jsonl b.jsonl");
    let read = |config, split| layout.read(&of_config(config, split));
    assert_eq!(read("one", "train").unwrap(), "a.jsonl");
    assert_eq!(read("three", "train").unwrap(), "b.jsonl a.jsonl");
    assert_eq!(read("three", "heldout").unwrap(), "sub/x.jsonl sub/y.jsonl");
    assert_eq!(layout.data_files("a.jsonl").unwrap(), "a.jsonl");
    assert_eq!(
        layout.read(&of_dir("sub")).unwrap(),
        "sub/x.jsonl sub/y.jsonl"
    );
    let error = read("four", "train").unwrap_err();
    assert_eq!(
        error.to_string(),
        "data set `org/set` has no configuration `four`"
    );
    assert_eq!(error.hint().unwrap(), "choose one of `one`, `two`, `three`");
    let error = read("three", "test").unwrap_err();
    assert_eq!(error.hint().unwrap(), "choose one of `train`, `heldout`");
}

#[test]
fn a_configuration_may_be_a_folder() {
    let configs = "- config_name: one\n  data_dir: sub\n- config_name: two\n  data_dir: oth";
    let layout = Layout::of("sub/b.jsonl sub/a.jsonl oth/train.jsonl oth/test.jsonl").card(configs);
    let read = |config| layout.read(&of_config(config, "train")).unwrap();
    assert_eq!(read("one"), "sub/a.jsonl sub/b.jsonl");
    assert_eq!(read("two"), "oth/train.jsonl");
    let configs = "- config_name: one\n  data_files: '*.jsonl'\n- config_name: two\n  \
                   data_dir: oth\n  data_files: '*.jsonl'";
    let layout = Layout::of("r.jsonl oth/b.jsonl oth/a.jsonl").card(configs);
    let read = |config| layout.read(&of_config(config, "train")).unwrap();
    assert_eq!(read("two"), "oth/a.jsonl oth/b.jsonl");
}

#[test]
fn the_default_configuration() {
    let layout = Layout::of("r.jsonl b.jsonl");
    let layout = layout.card("- config_name: foo\n  data_files: '[a-c]*'");
    assert_eq!(layout.train(), "b.jsonl");
    let configs = "- config_name: one\n  data_files: a.jsonl\n- config_name: two\n  \
                   data_files: b.jsonl";
    let layout = Layout::of("a.jsonl b.jsonl").card(configs);
    let error = layout.read(&DatasetRequest::default()).unwrap_err();
    assert!(
        error.to_string().contains("has several configurations"),
        "{error:?}"
    );
    assert_eq!(layout.data_files("b.jsonl").unwrap(), "b.jsonl");
    let layout = Layout::of("a.jsonl");
    assert_eq!(
        layout.read(&of_config("default", "train")).unwrap(),
        "a.jsonl"
    );
    let error = layout.read(&of_config("foo", "train")).unwrap_err();
    assert_eq!(error.hint().unwrap(), "choose one of `default`");
}

#[test]
fn a_broken_card_is_no_hindrance_where_files_are_named() {
    let layout = Layout::of("a.jsonl").card("- [a");
    let error = layout.read(&DatasetRequest::default()).unwrap_err();
    assert!(
        error.to_string().contains("cannot use the front matter"),
        "{error:?}"
    );
    assert_eq!(layout.data_files("a.jsonl").unwrap(), "a.jsonl");
}

#[test]
fn links_to_folders_are_followed_where_they_are_named() {
    let layout = Layout::of("real/a.jsonl");
    let root = layout.folder.path();
    symlink("real", root.join("link")).unwrap();
    symlink("real/a.jsonl", root.join("f.jsonl")).unwrap();
    symlink("nothing.jsonl", root.join("gone.jsonl")).unwrap();
    let read = |request| in_folder(root, &request).unwrap();
    assert_eq!(read(DatasetRequest::default()), "f.jsonl real/a.jsonl");
    assert_eq!(read(of_dir("link")), "link/a.jsonl");
    let data_files = ["link/*.jsonl", "link/a.jsonl", "l*/*.jsonl", "**/*.jsonl"];
    let request = DatasetRequest {
        data_files: data_files.map(Into::into).into(),
        ..DatasetRequest::default()
    };
    assert_eq!(
        read(request),
        "link/a.jsonl link/a.jsonl f.jsonl real/a.jsonl"
    );
    fs::rename(
        root.join("real/a.jsonl"),
        root.join("real/train-00000-of-00001.jsonl"),
    )
    .unwrap();
    symlink("real", root.join("data")).unwrap();
    assert_eq!(
        read(DatasetRequest::default()),
        "data/train-00000-of-00001.jsonl"
    );
}

#[test]
fn formats_that_are_not_read_are_named() {
    let foreign = |names: &str| {
        Layout::of(names)
            .read(&DatasetRequest::default())
            .unwrap_err()
    };
    let error = foreign("a.png b.PNG c.jsonl");
    assert_eq!(
        error.to_string(),
        "data set `org/set` has .png files, which are not read"
    );
    assert!(error.hint().unwrap().contains(".jsonl"));
    assert!(foreign("a.zip b.zip c.jsonl").to_string().contains(".zip"));
    assert!(foreign("a.csv b.csv.zip").to_string().contains(".zip"));
    assert!(foreign("a.jsonl b.jsonl.lz4").to_string().contains(".lz4"));
    assert!(
        foreign("a.parquet.gz")
            .to_string()
            .contains("packed Parquet")
    );
    let error = Layout::of("a.eval").read(&of_split("logs")).unwrap_err();
    assert!(error.to_string().contains(".eval"), "{error}");
}

#[test]
fn files_are_never_read_as_something_else() {
    let mixed = |layout: &Layout, patterns| {
        let error = match patterns {
            "" => layout.read(&DatasetRequest::default()).unwrap_err(),
            patterns => layout.data_files(patterns).unwrap_err(),
        };
        error.to_string()
    };
    let message = |name, format| {
        format!("`{name}` of data set `org/set` is not {format} by its name, as other files are")
    };
    let layout = Layout::of("a.csv b.tsv c.csv");
    assert_eq!(mixed(&layout, ""), message("b.tsv", "CSV"));
    let layout = Layout::of("a.txt b.jsonl c.txt");
    assert_eq!(mixed(&layout, "*"), message("b.jsonl", "text"));
    let layout = Layout::of("a.txt LICENSE");
    assert_eq!(mixed(&layout, "*"), message("LICENSE", "text"));
    let layout = Layout::of("a.jsonl CHANGES.md").card("- config_name: default");
    assert_eq!(mixed(&layout, ""), message("CHANGES.md", "JSON"));
}

#[test]
fn a_data_set_without_data_shows_what_it_has() {
    let read = |names| {
        Layout::of(names)
            .read(&DatasetRequest::default())
            .unwrap_err()
    };
    let error = read("a.foo LICENSE b.foo c.foo .hidden");
    let expected =
        "data set `org/set` has no file of a known format, but has `LICENSE`, `a.foo`, `b.foo`";
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        read("").to_string(),
        "data set `org/set` has no file of a known format"
    );
    let error = choose_files(
        "org/set",
        &["set.py".into()],
        None,
        &DatasetRequest::default(),
    );
    let hint = error.unwrap_err().hint().unwrap();
    assert!(hint.starts_with("`set.py` is a loading script"), "{hint}");
}

#[test]
fn splits_are_joined_and_sliced() {
    let layout = Layout::of("train.jsonl test-1.jsonl test-2.jsonl");
    for (split, expected) in [
        ("train[:10%]", "train.jsonl"),
        ("train+test", "train.jsonl test-1.jsonl test-2.jsonl"),
        ("test[3:] + train", "test-1.jsonl test-2.jsonl train.jsonl"),
        ("train[:1]+train[-1:]", "train.jsonl train.jsonl"),
    ] {
        assert_eq!(layout.split(split), expected);
    }
    let parts = |split| {
        let found = find_files(layout.folder.path(), &of_split(split)).unwrap();
        let parts = found.files.iter().map(|file| file.part);
        (parts.collect::<Vec<_>>(), found.parts.len())
    };
    assert_eq!(parts("test[3:]+train"), (vec![0, 0, 1], 2));
    assert_eq!(parts("test+train"), (vec![0, 0, 1], 0));
    for split in ["train[", "", "train+"] {
        let error = layout.read(&of_split(split)).unwrap_err();
        assert!(error.to_string().contains("cannot be read: "), "{error:?}");
    }
    let error = layout.read(&of_split("train+all")).unwrap_err();
    assert_eq!(error.to_string(), "data set `org/set` has no split `all`");
}

#[test]
fn one_rule_tells_the_format_of_a_file() {
    for name in [
        "a.jsonl.txt",
        "a.txt.jsonl",
        "a.csv.bak",
        "a.tsv.txt",
        "a.txt.2024.gz",
    ] {
        let layout = Layout::of(name);
        let format = |path: &Path| {
            let found = find_files(path, &DatasetRequest::default()).unwrap();
            found.files[0].format
        };
        let folder = layout.folder.path();
        assert_eq!(format(folder), format(&folder.join(name)), "{name}");
    }
}

#[test]
fn patterns_of_brackets() {
    let layout = Layout::of("a1.jsonl a2.jsonl a3.jsonl ab.jsonl é.jsonl");
    let expected = "a3.jsonl ab.jsonl a1.jsonl a2.jsonl é.jsonl";
    let patterns = "a[!1-2].jsonl a[12].jsonl ?.jsonl";
    assert_eq!(layout.data_files(patterns).unwrap(), expected);
    let layout = Layout::of("a[.jsonl ab.jsonl a^.jsonl {x}.jsonl");
    let expected = "a[.jsonl a^.jsonl ab.jsonl {x}.jsonl";
    assert_eq!(
        layout.data_files("a[.jsonl a[^b].jsonl {x}.jsonl").unwrap(),
        expected
    );
    assert!(Pattern::new("", "**.jsonl").is_err());
}
